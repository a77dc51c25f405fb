"""Several hubs on one PostgreSQL store: who serves whom, what happens when one goes or is lost, and that every node answers for all."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import Iterator, Optional

import fleet as fleets
import pytest
from conftest import Behaviour, Hub, Loop, Request, Sink, acknowledge, add_partner, event, wait_for
from fleet import PARTNERS, RETRY, Fleet, Loss, check_order, is_acked, number_of, publish, shares, start
from postgres import Server

#: How often a node is killed.
KILLS = int(os.environ.get("HMS_ESS_TEST_KILLS", "2"))
#: Partners that hold their answer back, and partners whose message takes long to make.
HELD = 6
SLOW = 6
#: A script that takes seconds, and little memory.
ADAPTER = "{'sum': $sum($map([1..3000], function($v) { $sum($map([1..1000], function($w) { $w * $v })) }))}"


@pytest.fixture
def fleet(tmp_path: Path, binary: Path, loop: Loop) -> Iterator[Fleet]:
    yield from fleets.running(binary, tmp_path, loop)


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


def test_nodes_that_start_at_once_make_the_tables_once_and_share_the_partners(
    tmp_path: Path, binary: Path, server: Server, fleet: Fleet
) -> None:
    url, key = server.url("hub"), secrets.token_bytes(32)
    started: dict[str, Hub] = {}

    def begin(name: str) -> None:
        started[name] = start(binary, tmp_path, url, name)

    threads = []
    for name in "abcd":
        (tmp_path / name).mkdir()
        (tmp_path / name / "seal.key").write_bytes(key)
        (tmp_path / name / "seal.key").chmod(0o600)
        threads.append(threading.Thread(target=begin, args=(name,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)
    fleet.names = sorted(started)
    fleet.hubs = [started[name] for name in fleet.names]
    assert fleet.names == list("abcd"), "all four started"
    assert len({str(hub.client().get("/v1/keys")) for hub in fleet.hubs}) == 1, "they sign with one key"
    for hub in fleet.hubs:
        # What others make at this moment takes no token away that this one made.
        assert {one["name"] for one in hub.client().get("/v1/nodes")["items"]} <= set("abcd")
    fleet.add_partners()
    # Eight partners do not reach each of four nodes for certain: the shares are looked at by their sum.
    wait_for("all to be served", lambda: sum(shares(fleet.hubs[3].client()).values()) == PARTNERS)
    fleet.load(count=4)
    assert not fleet.end(), "nothing failed"
    assert {one.hub for one in fleet.answers() if one.status == 202} == {0, 1, 2, 3}


def test_partners_of_a_killed_node_are_taken_over_in_time(server: Server, fleet: Fleet) -> None:
    url = server.url("hub")
    fleet.start_all(url, url)
    fleet.load()
    dice = random.Random(int(os.environ.get("HMS_ESS_TEST_SEED", "7")))
    losses, took = [], []
    for kill in range(KILLS):
        at = (kill + 1) % 2 if kill < 2 else dice.randrange(2)
        name, client = fleet.names[at], fleet.hubs[1 - at].client()
        # At whichever moment: after any number of arrivals, and whatever the node is doing then.
        mark = fleet.arrived() + dice.randrange(200)
        wait_for("the moment of the kill", lambda: fleet.arrived() >= mark)
        share = shares(client)[name]
        lost = time.monotonic()
        fleet.hubs[at].kill()
        losses.append(Loss(lost, fleet.on_its_way(client, lost)))
        fleet.wait_until_shared(fleet.names[1 - at])
        fleet.go_on("after the take-over")
        took.append(fleet.check_take_over(lost, share, other=1 - at))
        fleet.restart(at)
        fleet.wait_until_shared()
        fleet.go_on("at both")
    repeats = fleet.end()
    assert not (found := fleets.unexplained(repeats, losses)), f"only what was on its way comes twice: {found}"
    asked = [len(loss.on_its_way) for loss in losses if loss.on_its_way is not None]
    fleet.say(fault="node killed", take_over_seconds=took, twice=len(repeats), on_its_way=asked)


class Gate:
    """Partners that hold their first answer back until it is opened, and then refuse; what they get again they acknowledge."""

    def __init__(self, loop: Loop, count: int) -> None:
        self.loop = loop
        self.opened = asyncio.Event()
        self.sinks: list[Sink] = []
        for number in range(count):
            self.sinks.append(Sink(loop, self._behaviour(number)))

    def _behaviour(self, number: int) -> Behaviour:
        async def answer(request: Request) -> Optional[tuple[int, bytes]]:
            if len(self.sinks[number].arrivals) > 1:
                return await acknowledge(request)
            await self.opened.wait()
            return 503, b"not now"

        return answer

    def open(self) -> None:
        self.loop.loop.call_soon_threadsafe(self.opened.set)

    def count(self) -> list[int]:
        return [len(sink.arrivals) for sink in self.sinks]


def script_seconds(hub: Hub) -> float:
    """Processor time of its scripts' processes."""
    ticks = 0
    for pid in hub.children():
        ticks += int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    return ticks / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("how", ["killed", "stalled"])
def test_a_node_that_is_lost_records_nothing_more_of_what_it_had_under_way(
    loop: Loop, server: Server, fleet: Fleet, how: str
) -> None:
    url = server.url("hub")
    fleet.start_all(url, url, HMS_ESS_SCRIPT_TIME="30s")
    a, b = fleet.hubs
    client = b.client()
    gate, slow = Gate(loop, HELD), [Sink(loop) for _ in range(SLOW)]
    for number, sink in enumerate(gate.sinks):
        add_partner(client, f"H{number}", sink.url, subscribe=["HELD"], retry=RETRY, timeout="60s")
    for number, sink in enumerate(slow):
        add_partner(client, f"L{number}", sink.url, subscribe=["SLOW"], retry=RETRY, adapter=ADAPTER)
    fleet.more_receipts = HELD + SLOW
    fleet.wait_until_shared(more=HELD + SLOW)
    fleet.load()
    publish(client, ["HELD-0"])
    wait_for("the first attempt at all that hold it", lambda: gate.count() == [1] * HELD)
    before, idle = number_of(client, "a"), script_seconds(a)
    publish_slow = threading.Thread(target=lambda: publish(b.client(), ["SLOW-0"]))
    publish_slow.start()
    wait_for("it to make a message", lambda: script_seconds(a) > idle + 0.1)
    lost = time.monotonic()
    if how == "killed":
        a.kill()
    else:
        a.process.send_signal(signal.SIGSTOP)
    on_its_way = fleet.on_its_way(client, lost)
    publish_slow.join(timeout=30)
    fleet.wait_until_shared("b", more=HELD + SLOW)
    wait_for("what takes long at all", lambda: all(sink.arrivals for sink in slow), seconds=60)
    # Refusals: one node hears of them at once, the other when it wakes, or never.
    gate.open()
    wait_for("the second attempt at all that held it", lambda: gate.count() == [2] * HELD)
    fleet.go_on("after the take-over")
    woke = 0.0
    if how == "killed":
        fleet.restart(0)
    else:
        woke = time.monotonic()
        a.process.send_signal(signal.SIGCONT)
    wait_for("it to come back as another", lambda: number_of(client, "a") not in ("", before))
    fleet.wait_until_shared(more=HELD + SLOW)
    fleet.go_on("after it is back")
    made = {one["partner"]: one["attempts_made"] for one in client.get("/v1/events/HELD-0/deliveries")["items"]}
    repeats = fleet.end()
    attempts = [made[f"H{number}"] for number in range(HELD)]
    # Both attempts are on record where one node made them; the refusal that the lost one heard of is not.
    assert set(attempts) == {1, 2}, f"attempts on record: {attempts}"
    assert gate.count() == [2] * HELD, "the lost one sends nothing of what it had"
    assert [len(sink.arrivals) for sink in slow] == [1] * SLOW, "nor what it was making"
    loss = Loss(lost, on_its_way, woke)
    assert not (found := fleets.unexplained(repeats, [loss])), f"only what was on its way comes twice: {found}"
    fleet.say(fault=f"node {how}", twice=len(repeats), attempts=attempts)
