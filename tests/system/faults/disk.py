"""The disk under a hub: fails on demand, and forgets at a power cut what was not synced.

`fault.c` is preloaded into the hub and writes a log of every change and every sync beneath its directory. This is the other side:
it sets the control block, and plays a power cut on the directory of a hub that was killed.

What a power cut leaves, as a file system promises no more: of each sector of 512 bytes that was written after its file's last sync,
any of the contents that it had since; of a file's length, any since; of new, renamed and removed names, those up to some point after
the directory's last sync. After a sync that failed the kernel takes the pages for clean: they are not on the disk, and no later sync
brings them there, unless they are written again.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Iterator, NamedTuple

WRITE, SYNC, TRUNCATE, CREATE, RENAME, UNLINK, LINK, MKDIR = (1 << bit for bit in range(8))
ANY_CHANGE = WRITE | TRUNCATE | CREATE | RENAME | UNLINK | LINK | MKDIR
FOREVER = 0xFFFF_FFFF
SECTOR = 512
PAGE = 4096
CONTROL = struct.Struct("=IIIiIIIIII64s")
LINE = struct.Struct("=IIIIQQQ")
SOURCE = Path(__file__).with_name("fault.c")


def build(folder: Path) -> Path:
    """Compiles what is preloaded."""
    library = folder / "fault.so"
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return library


class Change(NamedTuple):
    """A line of the log."""

    kind: str
    is_dir: bool
    file: int
    offset: int
    size: int
    first: bytes
    second: bytes


class Disk:
    """The disk of one data directory; `state` holds what the two sides tell each other."""

    def __init__(self, data: Path, state: Path, library: Path) -> None:
        self.data = data.resolve()
        self.state = state
        self.library = library
        state.mkdir(parents=True)
        (state / "graves").mkdir()
        (state / "control").write_bytes(bytes(CONTROL.size))
        with (state / "control").open("r+b") as file:
            self.control = mmap.mmap(file.fileno(), CONTROL.size)

    def settings(self) -> dict[str, str]:
        """The environment of a hub on this disk."""
        return {
            "LD_PRELOAD": str(self.library),
            "ESS_FAULT_DIR": str(self.data),
            "ESS_FAULT_STATE": str(self.state),
        }

    def fail(
        self, ops: int, error: int, files: str = "", skip: int = 0, count: int = FOREVER, torn: bool = False
    ) -> None:
        """From now on these calls fail, after `skip` that pass; `files` are endings of names."""
        kept = self._read()
        self.control[:] = CONTROL.pack(ops, skip, count, error, torn, *kept[5:6], 0, 0, *kept[8:10], files.encode())

    def mend(self) -> None:
        """No call fails any more."""
        self.fail(0, 0)

    def lie(self) -> None:
        """Syncs do nothing from now on, and say that they did."""
        kept = self._read()
        self.control[:] = CONTROL.pack(*kept[:5], 1, *kept[6:])

    def die_in(self, steps: int) -> None:
        """At this step from now, a change or a sync, the hub is killed; 0 takes that back."""
        kept = self._read()
        self.control[:] = CONTROL.pack(*kept[:8], steps, *kept[9:])

    @property
    def steps(self) -> int:
        """Changes and syncs so far."""
        return self._read()[9]

    @property
    def failed(self) -> int:
        """Calls that failed since `fail`."""
        return self._read()[6]

    def _read(self) -> tuple[int, int, int, int, int, int, int, int, int, int, bytes]:
        return CONTROL.unpack(self.control[:])

    def changes(self) -> Iterator[Change]:
        """The log of this disk."""
        with (self.state / "log").open("rb") as file:
            while head := file.read(LINE.size):
                if len(head) < LINE.size:
                    return
                kind, first, second, is_dir, inode, offset, size = LINE.unpack(head)
                bodies = file.read(first + second)
                if len(bodies) < first + second:
                    return  # The kill fell into the line: the change was not made yet.
                yield Change(chr(kind), bool(is_dir), inode, offset, size, bodies[:first], bodies[first:])

    def cut(self, dice: random.Random, keep: float) -> "Cut":
        """Plays a power cut on the directory of a hub that was killed: each unsynced sector stays by this chance."""
        cut = Cut(self.state / "graves")
        for change in self.changes():
            cut.take(change)
        cut.play(self.data, dice, keep)
        # What is there now is what the disk holds.
        (self.state / "log").write_bytes(b"")
        shutil.rmtree(self.state / "graves")
        (self.state / "graves").mkdir()
        return cut


class Cut:
    """What of a log was not on the disk, and its loss."""

    def __init__(self, graves: Path) -> None:
        self.graves = graves
        #: By file and sector: what was synced last, then all contents since.
        self.sectors: dict[int, dict[int, list[bytes]]] = {}
        #: Sectors that the kernel takes for clean although their sync failed.
        self.lost: dict[int, set[int]] = {}
        self.sizes: dict[int, list[int]] = {}
        self.names: list[Change] = []
        self.dropped = 0
        self.undone = 0

    def take(self, change: Change) -> None:
        """Adds the next line of the log."""
        if change.kind == "W":
            self._write(change)
        elif change.kind == "T":
            start = change.offset // SECTOR * SECTOR
            kept = change.first[: change.offset - start]
            for at in range(0, len(change.first), SECTOR):
                old, new = (part[at : at + SECTOR].ljust(SECTOR, b"\0") for part in (change.first, kept))
                self._version(change.file, (start + at) // SECTOR, old, new)
            self.sizes.setdefault(change.file, [change.size]).append(change.offset)
        elif change.kind == "S" and change.is_dir:
            folder = change.first.decode()
            self.names = [one for one in self.names if os.path.dirname(one.first.decode()) != folder]
        elif change.kind == "S":
            lost = self.lost.get(change.file, set())
            known = self.sectors.get(change.file, {})
            self.sectors[change.file] = {sector: versions for sector, versions in known.items() if sector in lost}
            self.sizes.pop(change.file, None)
        elif change.kind == "F":
            if not change.is_dir:
                self.lost.setdefault(change.file, set()).update(self.sectors.get(change.file, {}))
        else:
            self.names.append(change)

    def _write(self, change: Change) -> None:
        start = change.offset // SECTOR * SECTOR
        into = change.offset - start
        new = bytearray(change.first)
        new[into : into + len(change.second)] = change.second
        for at in range(0, len(new), SECTOR):
            old = change.first[at : at + SECTOR]
            self._version(change.file, (start + at) // SECTOR, old, bytes(new[at : at + SECTOR]))
        end = change.offset + len(change.second)
        if end > change.size:
            self.sizes.setdefault(change.file, [change.size]).append(end)
        # A page that is written to is dirty as a whole, also what was taken for clean in it.
        if lost := self.lost.get(change.file):
            first, last = change.offset // PAGE, (end - 1) // PAGE
            lost -= {sector for sector in lost if first <= sector * SECTOR // PAGE <= last}

    def _version(self, file: int, sector: int, old: bytes, new: bytes) -> None:
        versions = self.sectors.setdefault(file, {}).setdefault(sector, [old])
        if versions[-1] != new:
            versions.append(new)

    def play(self, data: Path, dice: random.Random, keep: float) -> None:
        """Takes back what the dice say."""
        paths = {path.stat().st_ino: path for path in data.rglob("*") if path.is_file()}
        paths.update({path.stat().st_ino: path for path in self.graves.iterdir()})
        for file, path in sorted(paths.items()):
            self._play_file(file, path, dice, keep)
        kept = sum(1 for _ in range(len(self.names)) if dice.random() < keep) if keep < 1 else len(self.names)
        for change in reversed(self.names[kept:]):
            self._undo(change)
        for shared in data.glob("*-shm"):
            shared.unlink()

    def _play_file(self, file: int, path: Path, dice: random.Random, keep: float) -> None:
        sizes = self.sizes.get(file, [])
        with path.open("r+b") as opened:
            for sector, versions in sorted(self.sectors.get(file, {}).items()):
                is_lost = sector in self.lost.get(file, set())
                if dice.random() < keep and not is_lost:
                    continue
                # Mostly what was synced; now and then what was written back in between.
                chosen = versions[0] if is_lost or dice.random() < 0.8 else dice.choice(versions)
                if chosen != versions[-1]:
                    self.dropped += 1
                opened.seek(sector * SECTOR)
                opened.write(chosen)
            if sizes:
                opened.truncate(sizes[-1] if dice.random() < keep else dice.choice(sizes))

    def _undo(self, change: Change) -> None:
        self.undone += 1
        first, second = change.first.decode(), change.second.decode()
        grave = self.graves / f"{change.size}-{change.offset}"
        if change.kind == "C":
            os.unlink(first)
        elif change.kind == "M":
            shutil.rmtree(first)
        elif change.kind == "R":
            os.rename(second, first)
            if change.offset:
                os.link(grave, second)
        elif change.kind == "U":
            os.link(grave, first)
