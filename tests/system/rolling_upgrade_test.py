"""Hubs on one PostgreSQL store, replaced one after the other by another build while publishers go on, and put back again.

The other build is the one that HMS_ESS_TEST_BEFORE names (a program of an earlier commit); without it the same program stands for
both, which shows the replacing and not what two builds make of each other.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Hub, Loop, Sink, add_partner, event, wait_for
from fleet import RETRY, Publisher, check_order, is_acked, shares, start
from postgres import Server

PARTNERS = 12
NODES = ("a", "b", "c")


@pytest.fixture
def before(binary: Path) -> Path:
    """The build that runs first."""
    named = os.environ.get("HMS_ESS_TEST_BEFORE")
    return Path(named).resolve() if named else binary


class Upgrade:
    """Three nodes that are replaced one by one. Publishers know all addresses that ever were, as they would behind a balancer."""

    def __init__(self, folder: Path, url: str, loop: Loop, build: Path) -> None:
        self.folder, self.url = folder, url
        self.hubs = {"a": start(build, folder, url, "a")}
        self.sinks = [Sink(loop) for _ in range(PARTNERS)]
        for number, sink in enumerate(self.sinks):
            add_partner(self.hubs["a"].client(), f"P{number}", sink.url, retry=RETRY)
        for name in NODES[1:]:
            self.hubs[name] = start(build, folder, url, name)
        self.wait_for_shares()
        # The publishers' list too.
        self.known: list[Hub] = list(self.hubs.values())
        self.publishers = [Publisher(self.known, f"S{number}") for number in range(3)]

    def wait_for_shares(self) -> None:
        def is_spread() -> bool:
            asked = next(iter(self.hubs.values())).client()
            found = shares(asked)
            return set(found) == set(NODES) and min(found.values()) > 0 and sum(found.values()) == PARTNERS

        wait_for("each node to serve some", is_spread, seconds=60)

    def go_on(self, what: str) -> None:
        goals = [(publisher, len(publisher.taken) + 10) for publisher in self.publishers]
        wait_for(what, lambda: all(len(publisher.taken) > goal for publisher, goal in goals), seconds=60)

    def replace(self, name: str, build: Path) -> None:
        """As an operator would: it is told to stop, and the other build starts with what it had."""
        place = self.known.index(self.hubs[name])
        assert self.hubs[name].terminate() == 0
        self.go_on(f"publishers to go on without {name}")
        del self.hubs[name]
        self.hubs[name] = start(build, self.folder, self.url, name)
        self.known[place] = self.hubs[name]
        self.wait_for_shares()
        self.go_on(f"publishers to go on with {name}")
        # Whichever build is asked, and whichever serves the partner: they understand each other's letters.
        for hub in self.hubs.values():
            for number in range(PARTNERS):
                tested = hub.client().ask("POST", f"/v1/partners/P{number}/test", {})
                assert tested.status == 200 and tested.json["acked"], tested


def test_hubs_are_replaced_one_by_one_and_put_back(
    tmp_path: Path, binary: Path, before: Path, loop: Loop, server: Server
) -> None:
    fleet = Upgrade(tmp_path, server.url("hub"), loop, before)
    fleet.go_on("a start")
    for name in NODES:
        fleet.replace(name, binary)
    # The upgrade is taken back, as far as the build of before says that it gets along with the newer tables.
    try:
        for name in NODES:
            fleet.replace(name, before)
    except AssertionError as error:
        assert before != binary and "start a newer hub" in str(error), error
        fleet.hubs["a"] = start(binary, tmp_path, fleet.url, "a")
        fleet.wait_for_shares()
    ids = [id for publisher in fleet.publishers for id in publisher.stop()]
    client = fleet.hubs["a"].client()
    wait_for("every receipt", lambda: is_acked(client, ids), seconds=60)
    for sink in fleet.sinks:
        sink.arrivals = [arrival for arrival in sink.arrivals if not arrival.is_test]
    twice = check_order(fleet.sinks, ids)
    assert twice == 0, "who stops in order hands over without repeats"
    verified = client.ask("POST", "/v1/ledger/verify")
    assert verified.status == 200, verified
    assert verified.json["size"] >= PARTNERS * len(ids)
    last = client.ask("POST", "/v1/events", event("END-1", "END"))
    assert last.status == 202, last
    wait_for("the last one's receipts", lambda: is_acked(client, ["END-1"]))
    print(f"{len(ids)} events, {twice} came twice, {sum(one.refused for one in fleet.publishers)} asked again")
    for hub in fleet.hubs.values():
        assert hub.terminate() == 0
