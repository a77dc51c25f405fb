"""SIGKILL under load, again and again on one data directory: what was promised before a kill holds after it.

Promised are a 202 (the event is durable), an "ack" that the API has shown, order within a subject, and at-least-once.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import threading
import time
from typing import Any, Callable, NamedTuple, Optional

from conftest import Client, Hub, Loop, Request, Sink, acknowledge, add_partner, any_store, event, wait_for

pytestmark = any_store

ROUNDS = 20
SEED = 20_261_123
PUBLISHERS = 3
SUBJECTS = 12
#: A round's load lasts this long before the kill, at most.
LOAD_SECONDS_MAX = 0.9
#: A publisher rests after each event, so that partners can keep up over the whole test.
REST_SECONDS = 0.004
RETRY = {"first": "100ms", "factor": 1, "max": "150ms", "jitter": 0.2, "give_up_after": "24h"}
OPTIONS: dict[str, Any] = {"retry": RETRY, "timeout": "5s", "ack": {"by": "body", "within": "5s", "resend": 100}}
GONE = (OSError, http.client.HTTPException)


class Shown(NamedTuple):
    """An "ack" that the API has shown, and when it had been read."""

    at: float
    event_id: str
    partner: str


class World:
    """What outlives a kill: the partners, and what everybody was promised."""

    def __init__(self, loop: Loop) -> None:
        self.dice = random.Random(SEED)
        self.is_down = False
        self.receipts: dict[str, Any] = {}
        self.sent: list[str] = []
        self.shown: dict[tuple[str, str], Shown] = {}
        self.lives: list[float] = []
        self.sinks = {
            "FAST": Sink(loop),
            "OTHER": Sink(loop),
            "SLOW": Sink(loop, self._slow),
            "SHAKY": Sink(loop, self._shaky),
        }

    async def _slow(self, request: Request) -> Optional[tuple[int, bytes]]:
        await asyncio.sleep(0.03)
        return await acknowledge(request)

    async def _shaky(self, request: Request) -> Optional[tuple[int, bytes]]:
        return (503, b"down") if self.is_down else await acknowledge(request)

    def life_of(self, at: float) -> int:
        """In which of the hub's lives this was."""
        return sum(1 for began in self.lives if began <= at)


class Load:
    """Publishers and a poller of receipts, until the hub is gone."""

    def __init__(self, hub: Hub, world: World, life: int) -> None:
        self.world = world
        self.stop = threading.Event()
        self.errors: list[str] = []
        self.threads = [
            threading.Thread(target=self._guard, args=(self._publish, hub.client(seconds=10), life, number))
            for number in range(PUBLISHERS)
        ]
        self.threads.append(threading.Thread(target=self._guard, args=(self._poll, hub.client(seconds=10))))
        for thread in self.threads:
            thread.start()

    def _guard(self, work: Callable[..., None], client: Client, *rest: int) -> None:
        try:
            work(client, *rest)
        except GONE:
            pass
        except Exception as error:
            self.errors.append(f"{work.__name__}: {error!r}")
        finally:
            client.close()

    def _publish(self, client: Client, life: int, publisher: int) -> None:
        number = 0
        while not self.stop.is_set():
            # Each publisher has subjects of its own, so that its order is the subject's order.
            subject = f"S-{publisher}-{number % (SUBJECTS // PUBLISHERS)}"
            id = f"K-{life}-{publisher}-{number}"
            number += 1
            self.world.sent.append(id)
            answer = client.ask("POST", "/v1/events", event(id, subject))
            assert answer.status == 202, answer
            self.world.receipts[id] = answer.json
            self.stop.wait(REST_SECONDS)

    def _poll(self, client: Client) -> None:
        dice = random.Random(SEED)
        while not self.stop.is_set():
            known = list(self.world.receipts)
            if not known:
                self.stop.wait(REST_SECONDS)
                continue
            # Mostly what was just published: whose receipt is about to be written.
            id = known[-1 - min(len(known) - 1, int(dice.expovariate(0.1)))]
            status = client.get(f"/v1/events/{id}/status")
            at = time.monotonic()
            for partner, state in status.items():
                if state == "ack":
                    self.world.shown.setdefault((id, partner), Shown(at, id, partner))

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(timeout=20)
            assert not thread.is_alive(), "a client hangs after the kill"
        assert not self.errors, self.errors


def statuses(client: Client, ids: list[str]) -> dict[str, dict[str, str]]:
    return {id: client.get(f"/v1/events/{id}/status") for id in ids}


def check_shown(client: Client, world: World, shown: list[Shown]) -> None:
    by_event = statuses(client, sorted({one.event_id for one in shown}))
    lost = [one for one in shown if by_event[one.event_id].get(one.partner) != "ack"]
    assert not lost, f"receipts that were shown are lost: {lost[:5]}"


def settle(client: Client, world: World) -> None:
    """Until no partner has an open delivery."""

    def backlogs() -> dict[str, int]:
        return {view["id"]: view["backlog"] + view["in_flight"] for view in client.get("/v1/partners")["items"]}

    wait_for("empty lanes", lambda: not any(backlogs().values()), seconds=60)


def check_log(client: Client, world: World) -> list[Any]:
    log = client.pages("/v1/events")
    assert [one["sequence"] for one in log] == list(range(1, len(log) + 1)), "the log has a gap"
    by_id = {one["id"]: one for one in log}
    assert len(by_id) == len(log)
    missing = [id for id, receipt in world.receipts.items() if by_id.get(id, {}).get("sequence") != receipt["sequence"]]
    assert not missing, f"answered by 202 and not in the log as receipted: {missing[:5]}"
    # What was under way at a kill may be there or not, but nothing else is.
    assert set(by_id) <= set(world.sent)
    return log


def check_deliveries(client: Client, world: World, log: list[Any]) -> None:
    wrong = {}
    for id, status in statuses(client, [one["id"] for one in log]).items():
        if status != dict.fromkeys(world.sinks, "ack"):
            wrong[id] = status
    assert not wrong, f"{len(wrong)} events without every ACK: {list(wrong.items())[:5]}"
    for name, sink in world.sinks.items():
        acked = {arrival.event_id for _, arrival in sink.acked}
        never = [one["id"] for one in log if one["id"] not in acked]
        assert not never, f"{name} is said to have acknowledged, and never did: {never[:5]}"
    entries = [(entry["event_id"], entry["partner"]) for entry in client.pages("/v1/ledger")]
    assert len(entries) == len(set(entries)) == len(log) * len(world.sinks)
    assert client.ask("POST", "/v1/ledger/verify").json["ok"] is True


def check_order(world: World, log: list[Any]) -> None:
    subject_of = {one["id"]: one["subject"] for one in log}
    for name, sink in world.sinks.items():
        seen: set[str] = set()
        newest: dict[str, int] = {}
        for arrival in sink.arrivals:
            if arrival.event_id in seen:
                continue
            seen.add(arrival.event_id)
            subject = subject_of[arrival.event_id]
            assert newest.get(subject, 0) < arrival.sequence, f"{name} got {arrival.event_id} after a newer event"
            newest[subject] = arrival.sequence


def check_repeats(world: World) -> int:
    """A second arrival of what was acknowledged needs a kill in between that came before the receipt was shown."""
    repeats = 0
    for name, sink in world.sinks.items():
        first: dict[str, float] = {}
        for answered_at, arrival in sink.acked:
            id = arrival.event_id
            shown = world.shown.get((id, name))
            late = shown is not None and arrival.at > shown.at
            assert not late, f"{name} got {id} again after its receipt had been shown"
            if id in first:
                repeats += 1
                same_life = world.life_of(first[id]) == world.life_of(arrival.at)
                assert not same_life, f"{name} got {id} twice from one running hub"
            first[id] = answered_at
    return repeats


def test_what_was_promised_before_a_kill_holds_after_it(start_hub: Callable[..., Hub], loop: Loop) -> None:
    world = World(loop)
    hub = start_hub()
    world.lives.append(time.monotonic())
    for name, sink in world.sinks.items():
        add_partner(hub.client(), name, sink.url, **OPTIONS)
    for life in range(ROUNDS):
        world.is_down = life % 2 == 1
        before = set(world.shown)
        load = Load(hub, world, life)
        # The kill falls anywhere in the load: this wait is the thing under test, not a wait for something.
        load.stop.wait(world.dice.uniform(0.05, LOAD_SECONDS_MAX))
        hub.kill()
        killed_at = time.monotonic()
        load.end()
        # Requests that the dead hub had sent may still be read by a partner: they are of its life.
        wait_for("quiet partners", lambda: all(quiet(sink, killed_at) for sink in world.sinks.values()))
        world.lives.append(time.monotonic())
        hub = start_hub()
        news = [shown for key, shown in world.shown.items() if key not in before]
        check_shown(hub.client(), world, news)
    world.is_down = False
    client = hub.client()
    settle(client, world)
    log = check_log(client, world)
    check_shown(client, world, list(world.shown.values()))
    check_deliveries(client, world, log)
    check_order(world, log)
    repeats = check_repeats(world)
    counts = {"events": len(log), "receipts": len(world.receipts), "shown": len(world.shown), "twice": repeats}
    print(json.dumps(counts))
    assert len(world.receipts) > ROUNDS * 10 and len(world.shown) > ROUNDS * 10, "too little load to prove anything"


def quiet(sink: Sink, since: float) -> bool:
    """Nothing arrived for long enough that nothing of a dead hub is still under way."""
    last = max((arrival.at for arrival in sink.arrivals[-1:]), default=since)
    return time.monotonic() - max(last, since) > 0.15
