"""A PostgreSQL server of the tests' own: a fresh directory, loopback, a free port; stopped at the end. Nothing here knows the hub."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Optional

#: Where Debian has it.
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
SECONDS_MAX = 60
#: What a streaming replica calls itself.
STANDBY = "standby"


def as_its_user(*words: str) -> list[str]:
    """The server does not run as root; a root's server runs as Debian's user for it."""
    return ["runuser", "-u", "postgres", "--", *words] if os.geteuid() == 0 else list(words)


def to_its_user(path: str) -> list[str]:
    """Gives a file to the server's user."""
    return ["chown", "postgres", path] if os.geteuid() == 0 else ["true"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def children(pid: int) -> list[int]:
    """The processes that it started."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if f"PPid:\t{pid}\n" in status.read_text():
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """Commits reach the disk, unless the tests say that they need not: a server that is killed loses nothing either way."""

    def __init__(self, more: str = "", primary: Optional[Server] = None) -> None:
        #: Further settings of the server, each after a blank.
        self.more = more
        made = subprocess.run(as_its_user("mktemp", "-d"), cwd="/", capture_output=True, text=True, check=True)
        self.directory = Path(made.stdout.strip())
        self.port = free_port()
        self.databases: dict[str, str] = {}
        self.is_frozen = False
        if primary is None:
            words = ["-U", "ess", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
            self._run(str(PROGRAMS / "initdb"), "-D", str(self.directory / "data"), *words)
        else:
            self._copy(primary)
        self.start()

    def _copy(self, primary: Server) -> None:
        """Becomes a streaming replica of the primary."""
        self.databases = primary.databases
        place = f"host=127.0.0.1 port={primary.port} user=ess application_name={STANDBY}"
        words = ["-d", place, "-D", str(self.directory / "data"), "-R", "-X", "stream", "-c", "fast", "--no-sync"]
        self._run(str(PROGRAMS / "pg_basebackup"), *words)

    def standby(self) -> Server:
        """A streaming replica, without which nothing is committed from now on: what was answered is on both."""
        standby = Server(self.more, primary=self)
        self.set("synchronous_standby_names", STANDBY)
        end = time.monotonic() + SECONDS_MAX
        while self.ask("select count(*) from pg_stat_replication where sync_state = 'sync'") != "1":
            assert time.monotonic() < end, "the standby does not follow"
            time.sleep(0.05)
        return standby

    def set(self, name: str, value: str) -> None:
        """Sets it for the server that runs, and for whoever is copied from it."""
        self.ask(f"alter system set {name} = '{value}'")
        self.ask("select pg_reload_conf()")

    def promote(self) -> None:
        """A standby becomes the primary; nobody follows it yet."""
        self._control("promote")
        if self.ask("show synchronous_standby_names"):
            self.set("synchronous_standby_names", "")

    def restart(self, mode: str) -> None:
        """`fast`: connections are ended. `immediate`: as after a crash."""
        self.stop(mode)
        self.start()

    def _signal(self, number: signal.Signals) -> list[int]:
        """To all its processes, the first one first, so that it starts no more; answers them."""
        first = int((self.directory / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(first, number)
        family = [first, *children(first)]
        for pid in family[1:]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        return family

    def freeze(self) -> None:
        """SIGSTOP: it takes connections, as the kernel does that for it, and says nothing."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """It goes on, with what it was asked meanwhile."""
        self._signal(signal.SIGCONT)
        self.is_frozen = False

    def kill(self) -> None:
        """SIGKILL for all its processes."""
        family = self._signal(signal.SIGKILL)
        end = time.monotonic() + SECONDS_MAX
        while any(is_alive(pid) for pid in family):
            assert time.monotonic() < end, "killed processes stay"
            time.sleep(0.02)
        (self.directory / "data" / "postmaster.pid").unlink()

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            as_its_user(*words), cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS_MAX
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def _control(self, *words: str) -> None:
        data = ["-D", str(self.directory / "data")]
        # Its output goes to a file: a server that inherits a pipe would keep it open.
        command = as_its_user(str(PROGRAMS / "pg_ctl"), "-w", *data, *words)
        with open(os.devnull, "r+b") as nothing:
            code = subprocess.run(command, cwd="/", stdin=nothing, stdout=nothing, timeout=SECONDS_MAX).returncode
        assert code == 0, f"pg_ctl {words}"

    def start(self) -> None:
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off{self.more}"
        self._control("-l", str(self.directory / "log"), "-o", settings, "start")

    def stop(self, mode: str = "immediate") -> None:
        """`immediate`: as a crash of it would."""
        self._control("-m", mode, "stop")

    def is_running(self) -> bool:
        return (self.directory / "data" / "postmaster.pid").exists()

    def ask(self, sql: str, database: str = "postgres") -> str:
        """What `psql` answers, bare."""
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "ess", "-d", database]
        return self._run("psql", "-XAtq", *place, "-v", "ON_ERROR_STOP=1", "-c", sql).strip()

    def change(self, name: str, sql: str) -> int:
        """Changes the database of this name; how many rows."""
        counted = f"with changed as ({sql} returning 1) select count(*) from changed"
        return int(self.ask(counted, self.databases[name]))

    def url(self, name: str) -> str:
        """The database of this name for whoever asks, made when it is not there."""
        if name not in self.databases:
            database = f"ess_{len(self.databases)}"
            self.ask(f"create database {database}")
            self.databases[name] = database
        return f"postgres://ess@127.0.0.1:{self.port}/{self.databases[name]}"

    def close(self) -> None:
        if self.is_frozen:
            self.thaw()
        if self.is_running():
            self.stop()
        subprocess.run(as_its_user("rm", "-rf", str(self.directory)), cwd="/", check=False)


_shared: Optional[Server] = None


def shared() -> Server:
    """The one that hubs share which are not about it."""
    global _shared
    if _shared is None:
        _shared = Server()
    return _shared


def close_shared() -> None:
    global _shared
    if _shared is not None:
        _shared.close()
        _shared = None
