"""Two hubs on one PostgreSQL store, and a database that fails them: restarted, lost and replaced by its standby, cut off from one of
them, or away for long. No hub is started anew, nothing that was taken is lost, and each partner gets each subject in its order."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import Hub, Loop, Sink, add_partner, event, wait_for
from nodes_test import LEASE_SECONDS, RETRY, Publisher, check_order, is_acked, shares, start
from postgres import PROGRAMS, Server, as_its_user, free_port

PARTNERS = 8
#: How long the database is away; the issue's ten minutes are 600.
AWAY_SECONDS = float(os.environ.get("HMS_ESS_TEST_AWAY_SECONDS", "15"))


class Way:
    """A TCP way to a server that can be closed: what is under way hangs, as in a network that is cut in two."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_open = threading.Event()
        self.is_open.set()
        self.ended = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        far = None
        try:
            while not self.is_open.wait(0.1):
                if self.ended.is_set():
                    return
            far = socket.create_connection(("127.0.0.1", self.port))
            pairs = {near: far, far: near}
            while not self.ended.is_set():
                if not self.is_open.wait(0.1):
                    continue
                for source in select.select(list(pairs), [], [], 0.1)[0]:
                    moved = source.recv(65536)
                    if not moved:
                        return
                    if not self.is_open.is_set():
                        # It was on its way when the way was closed, and arrives when it is open again.
                        self.is_open.wait()
                    pairs[source].sendall(moved)
        except OSError:
            pass
        finally:
            near.close()
            if far is not None:
                far.close()

    def close(self) -> None:
        self.ended.set()
        self.is_open.set()
        self.listener.close()


class Pair:
    """A server and its standby, which has every commit before it is answered."""

    def __init__(self) -> None:
        self.first = Server(" -c wal_level=replica -c max_wal_senders=4 -c hot_standby=on")
        self.port = free_port()
        made = subprocess.run(as_its_user("mktemp", "-d"), cwd="/", capture_output=True, text=True, check=True)
        self.directory = Path(made.stdout.strip())
        self.first.url("hub")
        self.data = str(self.directory / "data")
        place = ["-h", "127.0.0.1", "-p", str(self.first.port), "-U", "ess"]
        self._run(str(PROGRAMS / "pg_basebackup"), "-D", self.data, "-R", "-X", "stream", "-c", "fast", *place)
        self._run("chmod", "700", self.data)
        self._control("-l", str(self.directory / "log"), "-o", self._settings(), "start")
        self.first.ask("alter system set synchronous_standby_names = '*'")
        self.first.ask("select pg_reload_conf()")
        is_in_step = "select count(*) from pg_stat_replication where sync_state = 'sync'"
        wait_for("the standby to be in step", lambda: self.first.ask(is_in_step) == "1")

    def _settings(self) -> str:
        return f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"

    def _run(self, *words: str) -> None:
        subprocess.run(as_its_user(*words), cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=60)

    def _control(self, *words: str) -> None:
        command = as_its_user(str(PROGRAMS / "pg_ctl"), "-w", "-D", self.data, *words)
        with open(os.devnull, "r+b") as nothing:
            subprocess.run(command, cwd="/", stdin=nothing, stdout=nothing, check=True, timeout=60)

    def url(self) -> str:
        hosts = f"127.0.0.1:{self.first.port},127.0.0.1:{self.port}"
        return f"postgres://ess@{hosts}/{self.first.databases['hub']}?target_session_attrs=read-write"

    def fail_over(self) -> None:
        """The first is lost as by a crash, and the standby takes its place."""
        self.first.stop("immediate")
        self._control("promote")
        # It has no standby of its own.
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "ess", "-d", "postgres", "-v", "ON_ERROR_STOP=1"]
        for sql in ("alter system reset synchronous_standby_names", "select pg_reload_conf()"):
            self._run("psql", "-XAtq", *place, "-c", sql)

    def close(self) -> None:
        subprocess.run(
            as_its_user(str(PROGRAMS / "pg_ctl"), "-m", "immediate", "-D", self.data, "stop"), cwd="/", check=False
        )
        subprocess.run(as_its_user("rm", "-rf", str(self.directory)), cwd="/", check=False)
        self.first.close()


class Round:
    """Two hubs, some partners, and publishers that go on until they are told to stop."""

    def __init__(self, binary: Path, folder: Path, loop: Loop, urls: tuple[str, str]) -> None:
        self.a = start(binary, folder, urls[0], "a")
        self.sinks = [Sink(loop) for _ in range(PARTNERS)]
        for number, sink in enumerate(self.sinks):
            add_partner(self.a.client(), f"P{number}", sink.url, retry=RETRY)
        self.b = start(binary, folder, urls[1], "b")
        self.other = self.b.client()
        wait_for("both to serve some", lambda: len(found := shares(self.other)) == 2 and min(found.values()) > 0)
        self.publishers = [Publisher([self.a, self.b], f"S{number}") for number in range(3)]
        self.go_on("a start")

    def go_on(self, what: str) -> None:
        goals = [(publisher, len(publisher.taken) + 15) for publisher in self.publishers]
        wait_for(what, lambda: all(len(publisher.taken) > goal for publisher, goal in goals), seconds=60)

    def end(self) -> tuple[int, int]:
        ids = [id for publisher in self.publishers for id in publisher.stop()]
        # The connection of before was idle for too long, perhaps.
        self.other = self.b.client()
        wait_for("every receipt", lambda: is_acked(self.other, ids), seconds=90)
        twice = check_order(self.sinks, ids)
        verified = self.other.ask("POST", "/v1/ledger/verify")
        assert verified.status == 200, verified
        assert verified.json["size"] >= PARTNERS * len(ids)
        events = self.other.pages("/v1/events")
        assert [one["sequence"] for one in events] == list(range(1, len(events) + 1)), "the log has no gap"
        for hub in (self.a, self.b):
            assert hub.process.poll() is None, "no hub was started anew"
            assert hub.terminate() == 0
        return len(ids), twice


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_the_database_is_restarted_under_load(
    tmp_path: Path, binary: Path, loop: Loop, server: Server, mode: str
) -> None:
    url = server.url("hub")
    round = Round(binary, tmp_path, loop, (url, url))
    server.stop(mode)
    server.start()
    round.go_on("publishers to go on")
    count, twice = round.end()
    print(f"{mode}: {count} events, {twice} came twice")


def test_the_standby_takes_the_databases_place(tmp_path: Path, binary: Path, loop: Loop) -> None:
    pair = Pair()
    try:
        round = Round(binary, tmp_path, loop, (pair.url(), pair.url()))
        pair.fail_over()
        round.go_on("publishers to go on at the new database")
        count, twice = round.end()
        print(f"failover: {count} events, {twice} came twice")
    finally:
        pair.close()


def test_a_node_that_is_cut_off_from_the_database_sends_nothing_more(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    way = Way(server.port)
    try:
        url = server.url("hub")
        near = url.replace(str(server.port), str(way.address[1]))
        round = Round(binary, tmp_path, loop, (near, url))
        cut_at = time.monotonic()
        way.is_open.clear()
        wait_for("the other to serve all", lambda: shares(round.other) == {"b": PARTNERS}, seconds=LEASE_SECONDS * 2 + 1)
        took = time.monotonic() - cut_at
        round.go_on("publishers to go on at the other node")
        refused = round.a.client(seconds=60).ask("POST", "/v1/events", event("CUT-1", "CUT"))
        assert refused.status == 503, refused
        way.is_open.set()
        wait_for("it to serve again", lambda: shares(round.other).get("a", 0) > 0, seconds=60)
        round.go_on("publishers to go on")
        count, twice = round.end()
        print(f"cut off: taken over after {took:.1f} s, {count} events, {twice} came twice")
    finally:
        way.close()


def test_the_database_is_away_for_long(tmp_path: Path, binary: Path, loop: Loop, server: Server) -> None:
    url = server.url("hub")
    round = Round(binary, tmp_path, loop, (url, url))
    server.stop("immediate")
    back_at = time.monotonic() + AWAY_SECONDS
    refused: list[Any] = []
    asked_at = [0.0]

    def is_time() -> bool:
        if time.monotonic() < asked_at[-1] + 0.5:
            return False
        asked_at.append(time.monotonic())
        refused.append(round.a.client().ask("POST", "/v1/events", event("AWAY-1", "AWAY")).status)
        return time.monotonic() > back_at

    wait_for("the time to be over", is_time, seconds=AWAY_SECONDS + 60)
    assert set(refused) == {503}
    server.start()
    round.go_on("publishers to go on")
    count, twice = round.end()
    print(f"away for {AWAY_SECONDS:.0f} s: {count} events, {twice} came twice")


def test_nodes_that_start_at_once_make_the_tables_once(tmp_path: Path, binary: Path, server: Server) -> None:
    url = server.url("hub")
    key = os.urandom(32)
    hubs: list[Hub] = []

    def begin(name: str) -> None:
        data = tmp_path / name
        data.mkdir()
        (data / "seal.key").write_bytes(key)
        (data / "seal.key").chmod(0o600)
        hubs.append(start(binary, tmp_path, url, name))

    threads = [threading.Thread(target=begin, args=(name,)) for name in ("w", "x", "y", "z")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(hubs) == 4
    client = hubs[0].client()
    wait_for("all four", lambda: set(shares(client)) == {"w", "x", "y", "z"})
    keys = {str(hub.client().get("/v1/keys")) for hub in hubs}
    assert len(keys) == 1, "they sign with one key"
    for hub in hubs:
        assert hub.terminate() == 0
