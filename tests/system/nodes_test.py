"""Several hubs on one PostgreSQL store: who serves whom, what happens when one goes or is lost, and that every node answers for all."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import Client, Hub, Loop, Sink, add_partner, event, wait_for
from postgres import Server

RETRY = {"first": "200ms", "factor": 1, "max": "200ms", "jitter": 0}
LEASE_SECONDS = 2


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def start(binary: Path, folder: Path, url: str, name: str) -> Hub:
    """A node; all have the key of the first."""
    data = folder / name
    first = folder / "a" / "seal.key"
    if first.exists() and not (data / "seal.key").exists():
        data.mkdir(parents=True)
        shutil.copy(first, data / "seal.key")
    settings = {"HMS_ESS_STORE": url, "HMS_ESS_NODE_NAME": name, "HMS_ESS_NODE_LEASE": f"{LEASE_SECONDS}s"}
    return Hub(binary, data, folder / f"home-{name}", settings)


def shares(client: Client) -> dict[str, int]:
    """Partners by node, of those that live."""
    return {node["name"]: node["partners"] for node in client.get("/v1/nodes")["items"] if node["state"] == "live"}


def publish(client: Client, ids: list[str]) -> None:
    for id in ids:
        answer = client.ask("POST", "/v1/events", event(id, id.split("-")[0]))
        assert answer.status == 202, answer


def is_acked(client: Client, ids: list[str]) -> bool:
    return all(set(client.get(f"/v1/events/{id}/status").values()) == {"ack"} for id in ids)


def check_order(sinks: list[Sink], ids: list[str]) -> int:
    """Every sink has all of them, each subject in its order when repeats are left out; how many came twice."""
    twice = 0
    for sink in sinks:
        seen: dict[str, None] = {}
        for arrival in sink.arrivals:
            twice += arrival.event_id in seen
            seen.setdefault(arrival.event_id)
        assert set(ids) <= set(seen), f"missing {set(ids) - set(seen)}"
        by_subject: dict[str, list[int]] = {}
        for id in seen:
            subject, number = id.split("-")
            by_subject.setdefault(subject, []).append(int(number))
        for subject, numbers in by_subject.items():
            assert numbers == sorted(numbers), f"{subject}: {numbers}"
    return twice


class Publisher:
    """Publishes one after the other until it is stopped, at whichever node answers; the same id again after a refusal.

    The list of hubs stays the caller's: one that was replaced there is asked next time.
    """

    def __init__(self, hubs: list[Hub], subject: str) -> None:
        self.hubs, self.subject = hubs, subject
        self.taken: list[str] = []
        self.refused = 0
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        number, at = 0, int(self.subject[1:])
        client = self.hubs[at % len(self.hubs)].client(seconds=3)
        while not self.stopped.is_set():
            id = f"{self.subject}-{number}"
            try:
                status = client.ask("POST", "/v1/events", event(id, self.subject)).status
            except Exception:
                status = 0
            if status in (200, 202):
                self.taken.append(id)
                number += 1
            else:
                self.refused += 1
                at += 1
                client = self.hubs[at % len(self.hubs)].client(seconds=3)
                # As a publisher would: not at once.
                self.stopped.wait(0.05)

    def stop(self) -> list[str]:
        self.stopped.set()
        self.thread.join(timeout=30)
        return self.taken


def test_two_nodes_share_the_partners_and_each_answers_for_all(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    a = start(binary, tmp_path, server.url("hub"), "a")
    sinks = [Sink(loop) for _ in range(12)]
    client = a.client()
    for number, sink in enumerate(sinks):
        add_partner(client, f"P{number}", sink.url, retry=RETRY)
    b = start(binary, tmp_path, server.url("hub"), "b")
    other = b.client()
    spread = wait_for("both to serve some", lambda: len(found := shares(other)) == 2 and min(found.values()) > 0 and found)
    assert sum(spread.values()) == 12

    ids = [f"S{number % 3}-{number}" for number in range(30)]
    for number, id in enumerate(ids):
        publish((client, other)[number % 2], [id])
    wait_for("every receipt", lambda: is_acked(client, ids))
    assert is_acked(other, ids)
    assert check_order(sinks, ids) == 0
    # A partner that one node takes in gets what the other records right after.
    late = Sink(loop)
    add_partner(client, "LATE", late.url, retry=RETRY)
    publish(other, ["S0-100"])
    wait_for("the late one's receipt", lambda: is_acked(client, ["S0-100"]))
    assert [arrival.event_id for arrival in late.arrivals] == ["S0-100"]
    # Acts by whichever node is asked.
    for at in (client, other):
        for number in range(12):
            tested = at.ask("POST", f"/v1/partners/P{number}/test", {})
            assert tested.status == 200 and tested.json["acked"], tested
        replayed = at.ask("POST", "/v1/events/S0-100/replay", {})
        assert replayed.status == 202 and len(replayed.json["replayed"]) == 13, replayed
    wait_for("the replays", lambda: sum(len(sink.arrivals) for sink in [*sinks, late]) == 12 * 31 + 1 + 2 * 12 + 2 * 13)
    assert other.ask("POST", "/v1/partners/P3/pause", {}).status == 200
    wait_for("the pause at the other node", lambda: client.get("/v1/partners/P3").get("paused_since"))
    publish(client, ["S1-100"])
    wait_for("all but the paused one", lambda: list(client.get("/v1/events/S1-100/status").values()).count("ack") == 12)
    assert client.ask("POST", "/v1/partners/P3/resume", {}).status == 200
    wait_for("the paused one too", lambda: is_acked(other, ["S1-100"]))
    for at in (client, other):
        verified = at.ask("POST", "/v1/ledger/verify")
        assert verified.status == 200, verified
        assert at.ask("POST", "/v1/ledger/checkpoint", {}).status == 200
        lanes = wait_for("all lanes", lambda: len(at.get("/v1/lanes")["items"]) == 13)
        assert lanes
    # One goes in order: its partners are served on, and nothing comes twice.
    before = sum(len(sink.arrivals) for sink in sinks)
    assert a.terminate() == 0
    wait_for("the other to serve all", lambda: shares(other) == {"b": 13})
    publish(other, ["S2-100"])
    wait_for("what was published since", lambda: is_acked(other, ["S2-100"]))
    assert sum(len(sink.arrivals) for sink in sinks) == before + 12
    assert b.terminate() == 0


@pytest.mark.parametrize("how", ["killed", "stalled"])
def test_a_node_that_is_lost_is_replaced_and_records_nothing_more(
    tmp_path: Path, binary: Path, loop: Loop, server: Server, how: str
) -> None:
    a = start(binary, tmp_path, server.url("hub"), "a")
    sinks = [Sink(loop) for _ in range(10)]
    for number, sink in enumerate(sinks):
        add_partner(a.client(), f"P{number}", sink.url, retry=RETRY)
    b = start(binary, tmp_path, server.url("hub"), "b")
    other = b.client()
    wait_for("both to serve some", lambda: len(found := shares(other)) == 2 and min(found.values()) > 0)
    publishers = [Publisher([a, b], f"S{number}") for number in range(3)]
    wait_for("a start", lambda: all(len(publisher.taken) > 20 for publisher in publishers))
    lost_at = time.monotonic()
    if how == "killed":
        a.kill()
    else:
        a.process.send_signal(signal.SIGSTOP)
    wait_for("the other to serve all", lambda: shares(other) == {"b": 10}, seconds=LEASE_SECONDS * 2 + 1)
    took = time.monotonic() - lost_at
    marks = [len(publisher.taken) for publisher in publishers]
    wait_for(
        "publishers to go on at the other node",
        lambda: all(len(publisher.taken) > mark + 20 for publisher, mark in zip(publishers, marks)),
    )
    if how == "stalled":
        a.process.send_signal(signal.SIGCONT)
        wait_for("the woken node to come back under another number", lambda: len(shares(other)) == 2, seconds=15)
        wait_for("it to serve again", lambda: shares(other).get("a", 0) > 0, seconds=15)
    ids = [id for publisher in publishers for id in publisher.stop()]
    wait_for("every receipt", lambda: is_acked(other, ids), seconds=60)
    twice = check_order(sinks, ids)
    assert twice <= 200, "only what was under way comes twice"
    head = other.ask("POST", "/v1/ledger/verify")
    assert head.status == 200, head
    assert head.json["size"] >= 10 * len(ids)
    print(f"{how}: taken over after {took:.1f} s, {len(ids)} events, {twice} came twice")
    if how == "stalled":
        assert a.terminate() == 0
    assert b.terminate() == 0
