"""Power cuts: what was written and not synced is gone, in any part; what was answered by 202 is there.

Each cut kills the hub at a chosen step (a write, a sync, a renaming) under load, plays the loss of the page cache on its directory,
and starts it again. `POWER_CUTS` sets how many, `POWER_SEED` which; a failure prints the command that repeats it.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from conftest import Client, Hub, Loop, Request, Sink, acknowledge, add_partner, embedded_only, event, wait_for
from faults.disk import SYNC, Disk
from kill_test import GONE

pytestmark = embedded_only

CUTS = int(os.environ.get("POWER_CUTS", "32"))
SEED = int(os.environ.get("POWER_SEED", "20261126"))
PUBLISHERS = 3
#: Steps of one life, in the middle: a publish takes some five, a checkpoint as many as it has pages.
STEPS_MEAN = 250
#: In this part of the lives a sync fails on the way.
FAULTY = 0.3
LIFE_SECONDS_MAX = 3
FIRST_STARTS = 24
SYNC_FAILURES = 2
RETRY = {"first": "100ms", "factor": 1, "max": "150ms", "jitter": 0.2, "give_up_after": "24h"}
OPTIONS: dict[str, Any] = {"retry": RETRY, "timeout": "5s", "ack": {"by": "body", "within": "5s", "resend": 100}}
BIG = "x" * 150_000


class World:
    """What outlives a cut: the partners, and what everybody was promised."""

    def __init__(self, loop: Loop, seed: int) -> None:
        self.dice = random.Random(seed)
        self.is_faulty = False
        self.big_share = 0.1
        self.receipts: dict[str, Any] = {}
        self.sent: set[str] = set()
        self.shown: set[tuple[str, str]] = set()
        self.sinks = {"FAST": Sink(loop), "SHAKY": Sink(loop, self._shaky)}

    async def _shaky(self, request: Request) -> Optional[tuple[int, bytes]]:
        return (503, b"down") if self.dice.random() < 0.2 else await acknowledge(request)


class Load:
    """Publishers and a reader of receipts, until the hub is gone or they are told to stop."""

    def __init__(self, hub: Hub, world: World, life: int) -> None:
        self.world = world
        self.stop = threading.Event()
        self.errors: list[str] = []
        clients = [hub.client(seconds=10) for _ in range(PUBLISHERS + 1)]
        works: list[Callable[[Client], None]] = [
            partial(self._publish, life=life, publisher=number) for number in range(PUBLISHERS)
        ]
        works.append(self._look)
        self.threads = [threading.Thread(target=self._guard, args=pair) for pair in zip(works, clients)]
        for thread in self.threads:
            thread.start()

    def _guard(self, work: Callable[[Client], None], client: Client) -> None:
        try:
            work(client)
        except GONE:
            pass
        except Exception as error:
            self.errors.append(repr(error))
        finally:
            client.close()

    def _publish(self, client: Client, life: int, publisher: int) -> None:
        dice = random.Random(f"{SEED}/{life}/{publisher}")
        number = 0
        while not self.stop.is_set():
            id = f"P-{life}-{publisher}-{number}"
            number += 1
            self.world.sent.add(id)
            payload = BIG if dice.random() < self.world.big_share else {"n": number}
            answer = client.ask("POST", "/v1/events", event(id, f"S-{publisher}-{number % 4}", payload))
            if answer.status == 503 and self.world.is_faulty:
                self.stop.wait(0.01)
                continue
            assert answer.status == 202, answer
            self.world.receipts[id] = answer.json

    def _look(self, client: Client) -> None:
        while not self.stop.is_set():
            for id in list(self.world.receipts)[-20:]:
                for partner, state in client.get(f"/v1/events/{id}/status").items():
                    if state == "ack":
                        self.world.shown.add((id, partner))

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=30)
            assert not thread.is_alive(), "a client hangs after the cut"
        assert not self.errors, self.errors


def live(hub: Hub, disk: Disk, world: World, life: int, steps: int) -> None:
    """Load until the hub dies at this step; a life without so many steps ends by itself."""
    disk.die_in(steps)
    load = Load(hub, world, life)
    try:
        hub.process.wait(timeout=LIFE_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        hub.kill()
    disk.die_in(0)
    load.end()


def check(client: Client, world: World) -> list[Any]:
    """What was promised is there, each once."""
    log = client.pages("/v1/events")
    assert [one["sequence"] for one in log] == list(range(1, len(log) + 1)), "the log has a gap"
    by_id = {one["id"]: one for one in log}
    assert len(by_id) == len(log)
    lost = [id for id, receipt in world.receipts.items() if by_id.get(id, {}).get("sequence") != receipt["sequence"]]
    assert not lost, f"{len(lost)} events were answered by 202 and are not in the log as receipted: {lost[:5]}"
    assert set(by_id) <= world.sent
    ledger = Counter((entry["event_id"], entry["partner"]) for entry in client.pages("/v1/ledger"))
    assert not [key for key, count in ledger.items() if count != 1], "a receipt is in the ledger twice"
    forgotten = world.shown - set(ledger)
    assert not forgotten, f"{len(forgotten)} receipts that were shown are lost: {sorted(forgotten)[:5]}"
    assert client.ask("POST", "/v1/ledger/verify").json["ok"] is True
    return log


def settle(client: Client) -> None:
    def is_idle() -> bool:
        return not any(view["backlog"] + view["in_flight"] for view in client.get("/v1/partners")["items"])

    wait_for("empty lanes", is_idle, seconds=60)


def check_order(world: World, log: list[Any]) -> None:
    """Each partner acknowledged everything, and saw no newer event of a subject before an older one."""
    subject_of = {one["id"]: one["subject"] for one in log}
    for name, sink in world.sinks.items():
        acked = {arrival.event_id for _, arrival in sink.acked}
        assert not set(subject_of) - acked, f"{name} never acknowledged {sorted(set(subject_of) - acked)[:5]}"
        seen: set[str] = set()
        newest: dict[str, int] = {}
        for arrival in sink.arrivals:
            subject = subject_of.get(arrival.event_id)
            # Not in the log: it was sent by a hub whose commit was cut, which must not be.
            assert subject is not None, f"{name} got {arrival.event_id}, which is not in the log"
            if arrival.event_id not in seen:
                assert newest.get(subject, 0) < arrival.sequence, f"{name} got {arrival.event_id} after a newer event"
                newest[subject] = arrival.sequence
            seen.add(arrival.event_id)


def repeat(test: str, seed: int, cuts: int) -> str:
    return f"repeat by: POWER_SEED={seed} POWER_CUTS={cuts} python -m pytest tests/system/power_loss_test.py -k {test}"


def make_faulty(disk: Disk, world: World) -> None:
    """Now and then a sync fails, of the log or of the database, once or a few times."""
    world.is_faulty = world.dice.random() < FAULTY
    if world.is_faulty:
        file = world.dice.choice(["ess.db", "ess.db-wal"])
        disk.fail(SYNC, errno.EIO, file, skip=world.dice.randrange(20), count=world.dice.choice([1, 2, 5]))


def test_what_was_answered_is_there_after_a_power_cut_at_any_step(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk
) -> None:
    world = World(loop, SEED)
    hub = start_hub(disk.data, **disk.settings())
    for name, sink in world.sinks.items():
        add_partner(hub.client(), name, sink.url, **OPTIONS)
    totals: Counter[str] = Counter()
    for life in range(CUTS):
        print(repeat("at_any_step", SEED, life + 1))
        make_faulty(disk, world)
        live(hub, disk, world, life, 1 + int(world.dice.expovariate(1 / STEPS_MEAN)))
        totals["failed_syncs"] += disk.failed
        disk.mend()
        cut = disk.cut(world.dice, world.dice.choice([0.0, 0.1, 0.5, 0.9]))
        totals.update(sectors=cut.dropped, names=cut.undone)
        hub = start_hub(disk.data, **disk.settings())
        check(hub.client(), world)
    client = hub.client()
    settle(client)
    check_order(world, check(client, world))
    print(json.dumps({"cuts": CUTS, "receipts": len(world.receipts), "shown": len(world.shown), **totals}))
    assert len(world.receipts) > CUTS * 5 and totals["sectors"] > CUTS, "too little load to prove anything"


def test_a_disk_that_lies_about_its_syncs_is_caught_by_the_same_check(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk
) -> None:
    # The test of the test: what was answered is not there, and the check says so.
    world = World(loop, SEED)
    hub = start_hub(disk.data, **disk.settings())
    disk.lie()
    live(hub, disk, world, 0, 200)
    assert world.receipts
    disk.cut(world.dice, keep=0)
    with pytest.raises(AssertionError, match="answered by 202"):
        check(start_hub(disk.data).client(), world)


def publish(client: Client, world: World, count: int, payload: Any = None) -> None:
    """So many events, each of which is tried until it is taken."""
    for _ in range(count):
        id = f"P-{len(world.sent)}"
        world.sent.add(id)

        def is_taken() -> bool:
            answer = client.ask("POST", "/v1/events", event(id, f"S-{len(world.sent) % 4}", payload))
            if answer.status in (200, 202):
                world.receipts[id] = answer.json
            return answer.status in (200, 202)

        wait_for("the store to take it", is_taken, seconds=10)


def test_a_failed_sync_of_the_log_is_not_trusted_by_the_next_life(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk
) -> None:
    world = World(loop, SEED)
    hub = start_hub(disk.data, **disk.settings())
    publish(hub.client(), world, 5)
    disk.fail(SYNC, errno.EIO, "ess.db-wal")
    world.sent.add("DOOMED")
    answer = hub.client().ask("POST", "/v1/events", event("DOOMED", "S", BIG))
    assert answer.status == 503, answer
    # The kernel takes the pages of the failed sync for clean: the next life reads them, and they are not on the disk.
    hub.kill()
    disk.mend()
    hub = start_hub(disk.data, **disk.settings())
    publish(hub.client(), world, 5)
    hub.kill()
    disk.cut(world.dice, keep=0)
    check(start_hub(disk.data).client(), world)


def test_a_failed_sync_of_the_database_is_made_good_before_the_log_is_begun_anew(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk
) -> None:
    # Under load the log is moved in parts, and only the last part is followed by a sync: when that fails, all parts are lost.
    world = World(loop, SEED)
    world.is_faulty, world.big_share = True, 1.0
    hub = start_hub(disk.data, **disk.settings())
    load = Load(hub, world, 0)
    for _ in range(SYNC_FAILURES):
        disk.fail(SYNC, errno.EIO, "ess.db", count=1)
        wait_for("a sync that fails", lambda: disk.failed, seconds=60)
        disk.mend()
        # Through another checkpoint or two, so that the log is begun anew.
        enough = len(world.receipts) + 70
        wait_for("more events", lambda: len(world.receipts) >= enough, seconds=60)
    hub.kill()
    load.end()
    disk.cut(world.dice, keep=0)
    client = start_hub(disk.data).client()
    check(client, world)
    for id in world.receipts:
        assert client.get(f"/v1/events/{id}")["payload"] == BIG


def start_once(hub_binary: Path, disk: Disk, home: Path) -> str:
    """A hub with TLS and everything that its first start makes; answers what it printed until it was ready, or its end."""
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "HOME": str(home), "HMS_ESS_PROFILE": str(home / "profile.json"), **disk.settings()}
    command = [str(hub_binary), "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--data", str(disk.data)]
    process = subprocess.Popen(
        command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "listening on https://" in line:
            break
    process.kill()
    process.wait(timeout=30)
    return "".join(lines)


def test_a_power_cut_in_a_first_start_never_keeps_the_hub_from_the_next(
    binary: Path, fault_library: Path, tmp_path: Path
) -> None:
    whole = Disk(made(tmp_path / "whole/data"), tmp_path / "whole/disk", fault_library)
    assert "listening" in start_once(binary, whole, tmp_path / "home")
    dice = random.Random(SEED)
    steps = sorted(dice.sample(range(1, whole.steps + 1), min(FIRST_STARTS, whole.steps)))
    for step in steps:
        print(repeat("first_start", SEED, CUTS), f"(step {step} of {whole.steps})")
        place = tmp_path / str(step)
        disk = Disk(made(place / "data"), place / "disk", fault_library)
        disk.die_in(step)
        start_once(binary, disk, tmp_path / "home")
        disk.die_in(0)
        disk.cut(dice, dice.choice([0.0, 0.5]))
        said = start_once(binary, disk, tmp_path / "home")
        assert "listening" in said, f"after a cut at step {step}: {said}"


def test_what_a_first_start_made_known_is_there_after_a_power_cut(
    binary: Path, fault_library: Path, tmp_path: Path
) -> None:
    disk = Disk(made(tmp_path / "data"), tmp_path / "disk", fault_library)
    assert "listening" in start_once(binary, disk, tmp_path / "home")
    files = ["admin.token", "seal.key", "tls/ca.pem", "tls/ca.key", "tls/hub.pem"]
    before = [(disk.data / file).read_bytes() for file in files]
    disk.cut(random.Random(SEED), keep=0)
    assert "listening" in start_once(binary, disk, tmp_path / "home")
    # Clients trust this CA and hold this token: another one would shut them out.
    assert [(disk.data / file).read_bytes() for file in files] == before


def test_a_back_up_that_was_answered_is_whole_after_a_power_cut(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk
) -> None:
    world = World(loop, SEED)
    hub = start_hub(disk.data, **disk.settings())
    publish(hub.client(), world, 10, BIG)
    answer = hub.client().ask("POST", "/v1/backup", {"file": str(disk.data / "copy.db")})
    assert answer.status == 200, answer
    hub.kill()
    disk.cut(world.dice, keep=0)
    (disk.data / "copy.db").rename(made(tmp := disk.state / "restored") / "ess.db")
    shutil.copy(disk.data / "seal.key", tmp)
    shutil.copy(disk.data / "admin.token", tmp)
    check(start_hub(tmp).client(), world)


def test_a_checkpoint_that_was_exported_is_whole_after_a_power_cut(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk
) -> None:
    world = World(loop, SEED)
    folder = disk.data / "elsewhere"
    hub = start_hub(disk.data, **disk.settings(), HMS_ESS_CHECKPOINT_DIR=str(folder))
    client = hub.client()
    add_partner(client, "FAST", world.sinks["FAST"].url)
    publish(client, world, 3)
    wait_for("the receipts", lambda: len(client.pages("/v1/ledger")) == 3)
    note = client.ask("POST", "/v1/ledger/checkpoint").json["note"]
    # What the hub says a place took is there for good.
    wait_for("the folder", lambda: [place.get("size") for place in elsewhere(client)] == [3])
    hub.kill()
    disk.cut(world.dice, keep=0)
    assert note in [file.read_text() for file in folder.iterdir()]


def elsewhere(client: Client) -> list[dict[str, Any]]:
    places: list[dict[str, Any]] = client.get("/v1/ledger/checkpoint")["elsewhere"]
    return places


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
