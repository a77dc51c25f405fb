"""A PostgreSQL server of the tests' own: a fresh directory, loopback, a free port; stopped at the end. Nothing here knows the hub."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from typing import Optional

#: Where Debian has it.
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
SECONDS_MAX = 60


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


class Server:
    """Commits reach the disk, unless the tests say that they need not: a server that is killed loses nothing either way."""

    def __init__(self, more: str = "") -> None:
        #: Further settings of the server, each after a blank.
        self.more = more
        made = subprocess.run(as_its_user("mktemp", "-d"), cwd="/", capture_output=True, text=True, check=True)
        self.directory = Path(made.stdout.strip())
        self.port = free_port()
        words = ["-U", "ess", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run(str(PROGRAMS / "initdb"), "-D", str(self.directory / "data"), *words)
        self.databases: dict[str, str] = {}
        self.start()

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
