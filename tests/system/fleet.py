"""Hubs on one database under load, and what is looked at after something has failed: nothing that was answered 202 is missing, every
subject is in its order at every partner, and what came twice can be told with the times of its arrivals.

Nothing here knows the hub's insides.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional

from conftest import Behaviour, Client, Hub, Loop, Request, Sink, acknowledge, add_partner, event, wait_for

RETRY = {"first": "200ms", "factor": 1, "max": "200ms", "jitter": 0}
#: The nodes' lease: shorter than the default of 5 s, so that a take-over takes no longer than it must.
LEASE_SECONDS = float(os.environ.get("HMS_ESS_TEST_LEASE_SECONDS", "2"))
LEASE = f"{round(LEASE_SECONDS * 1000)}ms"
#: Twice the lease is what is promised; a loaded machine may be slow beside.
TAKE_OVER_SECONDS_MAX = 2 * LEASE_SECONDS + 2
PARTNERS = 8
#: A partner answers after this, so that something is always on its way.
ANSWER_SECONDS = 0.02
#: A publisher rests after each event: partners keep up, on a slow machine too.
REST_SECONDS = 0.02
#: What was sent so long ago is recorded.
RECORDED_SECONDS = 2.0
#: What a publish may break off with.
GONE = (OSError, http.client.HTTPException)

#: When something arrived that came more than once, by partner and event.
Repeats = dict[tuple[str, str], list[float]]


def start(binary: Path, folder: Path, url: str, name: str, **settings: str) -> Hub:
    """A node; all have the key of the first, or the one that lies there already."""
    data = folder / name
    known = next(iter(sorted(folder.glob("*/seal.key"))), None)
    if known is not None and not (data / "seal.key").exists():
        data.mkdir(parents=True, exist_ok=True)
        shutil.copy(known, data / "seal.key")
    own = {"HMS_ESS_STORE": url, "HMS_ESS_NODE_NAME": name, "HMS_ESS_NODE_LEASE": LEASE}
    return Hub(binary, data, folder / f"home-{name}", {**own, **settings})


def nodes(client: Client) -> list[dict[str, Any]]:
    """All nodes, as one of them sees them."""
    items: list[dict[str, Any]] = client.get("/v1/nodes")["items"]
    return items


def shares(client: Client) -> dict[str, int]:
    """Partners by node, of those that live."""
    return {node["name"]: node["partners"] for node in nodes(client) if node["state"] == "live"}


def number_of(client: Client, name: str) -> str:
    """Under which number a node is there now; none when it is not."""
    return next((str(node["id"]) for node in nodes(client) if node["name"] == name), "")


def wait_until_shared(client: Client, names: set[str], partners: int, seconds: float = 60) -> None:
    """Until these nodes and no others serve all partners, and two or more of them some."""

    def is_shared() -> bool:
        found = shares(client)
        serving = sum(count > 0 for count in found.values())
        return set(found) == names and serving >= min(2, len(names)) and sum(found.values()) == partners

    wait_for(f"{sorted(names)} to serve all", is_shared, seconds)


def publish(client: Client, ids: list[str]) -> None:
    """Each is taken."""
    for id in ids:
        answer = client.ask("POST", "/v1/events", event(id, id.split("-")[0]))
        assert answer.status == 202, answer


def is_acked(client: Client, ids: list[str]) -> bool:
    """Whether all partners have acknowledged all of them."""
    return all(set(client.get(f"/v1/events/{id}/status").values()) == {"ack"} for id in ids)


def arrivals_by_event(sink: Sink) -> dict[str, list[float]]:
    """When each event arrived, in the order of its first arrival."""
    times: dict[str, list[float]] = {}
    for arrival in sink.arrivals:
        times.setdefault(arrival.event_id, []).append(arrival.at)
    return times


def check_order(sinks: list[Sink], ids: list[str]) -> int:
    """Every sink has all of them, each subject in its order when repeats are left out; how many came twice."""
    twice = 0
    for sink in sinks:
        seen = arrivals_by_event(sink)
        twice += len(sink.arrivals) - len(seen)
        assert set(ids) <= set(seen), f"missing {set(ids) - set(seen)}"
        by_subject: dict[str, list[int]] = {}
        for id in seen:
            subject, number = id.split("-")
            by_subject.setdefault(subject, []).append(int(number))
        for subject, numbers in by_subject.items():
            assert numbers == sorted(numbers), f"{subject}: {numbers}"
    return twice


class Answered(NamedTuple):
    """A publish that got an answer, or none: 0."""

    status: int
    began: float
    ended: float
    #: Which of the publisher's hubs.
    hub: int


class Publisher:
    """Publishes one after the other until it is stopped, at whichever node answers; the same id again after a refusal.

    The list of hubs stays the caller's: one that was replaced there is asked next time.
    """

    def __init__(self, hubs: list[Hub], subject: str, patience: float = 3) -> None:
        self.hubs, self.subject, self.patience = hubs, subject, patience
        self.taken: list[str] = []
        self.refused = 0
        self.answers: list[Answered] = []
        #: The event that it is about.
        self.trying = ""
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        number, at = 0, int(self.subject[1:])
        client = self.hubs[at % len(self.hubs)].client(seconds=self.patience)
        while not self.stopped.is_set():
            self.trying = f"{self.subject}-{number}"
            began = time.monotonic()
            try:
                status = client.ask("POST", "/v1/events", event(self.trying, self.subject)).status
            except GONE:
                status = 0
            self.answers.append(Answered(status, began, time.monotonic(), at % len(self.hubs)))
            if status in (200, 202):
                self.taken.append(self.trying)
                number += 1
            else:
                self.refused += 1
                at += 1
                client.close()
                client = self.hubs[at % len(self.hubs)].client(seconds=self.patience)
            # As a publisher would: not at once.
            self.stopped.wait(REST_SECONDS)
        client.close()

    def stop(self) -> list[str]:
        """Everything that was taken."""
        self.stopped.set()
        self.thread.join(timeout=30)
        assert not self.thread.is_alive(), "a publisher did not end"
        return self.taken


def slowly(then: Behaviour = acknowledge) -> Behaviour:
    """As a partner does that has something to do first."""

    async def answer(request: Request) -> Optional[tuple[int, bytes]]:
        await asyncio.sleep(ANSWER_SECONDS)
        return await then(request)

    return answer


class Loss(NamedTuple):
    """A node that was killed or stopped, and what was on its way then, as far as the machine was fast enough to ask."""

    at: float
    on_its_way: Optional[set[tuple[str, str]]]
    #: When it went on: so does what was stopped on its way to the network, after another node has sent it.
    woke: float = 0.0

    def explains(self, key: tuple[str, str], times: list[float]) -> bool:
        """Whether it is why this came again."""
        if self.on_its_way is not None:
            return key in self.on_its_way
        return self.at - RECORDED_SECONDS <= times[0] <= self.at + 1 or self.woke <= times[1] <= self.woke + 1


class Fleet:
    """Nodes on one database, some partners, and publishers that go on until they are told to stop."""

    def __init__(self, binary: Path, folder: Path, loop: Loop) -> None:
        self.binary, self.folder, self.loop = binary, folder, loop
        #: Publishers know all of them, as they would behind a balancer.
        self.hubs: list[Hub] = []
        self.names: list[str] = []
        self.urls: list[str] = []
        self.settings: dict[str, str] = {}
        self.sinks: dict[str, Sink] = {}
        self.publishers: list[Publisher] = []
        #: Of partners that the tests add themselves.
        self.more_receipts = 0

    def start_all(self, *urls: str, **settings: str) -> None:
        """A node for each way to the database, called a, b, c, and the partners."""
        self.settings = settings
        for name, url in zip("abcdefgh", urls):
            self.hubs.append(start(self.binary, self.folder, url, name, **settings))
            self.names.append(name)
            self.urls.append(url)
        self.add_partners()
        self.wait_until_shared()

    def add_partners(self) -> None:
        client = self.hubs[0].client()
        for number in range(PARTNERS):
            self.sinks[f"P{number}"] = sink = Sink(self.loop, slowly())
            add_partner(client, f"P{number}", sink.url, retry=RETRY)

    def wait_until_shared(self, *names: str, more: int = 0) -> None:
        """Until these nodes serve all partners, or all nodes; asked of one of them."""
        among = names or tuple(self.names)
        asked = self.hubs[self.names.index(among[0])]
        wait_until_shared(asked.client(), set(among), len(self.sinks) + more)

    def load(self, count: int = 3, patience: float = 3) -> None:
        """Publishers begin."""
        self.publishers = [Publisher(self.hubs, f"S{number}", patience) for number in range(count)]
        self.go_on("a start")

    def go_on(self, what: str, count: int = 15, seconds: float = 60) -> None:
        """Until every publisher had so many more taken, and every partner was served since: also one that has just changed hands."""
        goals = [(publisher, len(publisher.taken) + count) for publisher in self.publishers]
        wait_for(f"publishes {what}", lambda: all(len(one.taken) >= goal for one, goal in goals), seconds)
        taken = time.monotonic()
        served = lambda: all(sink.arrivals and sink.arrivals[-1].at > taken for sink in self.sinks.values())
        wait_for(f"every partner to be served {what}", served, seconds)

    def restart(self, at: int) -> None:
        """A node that was killed comes back, with what it had."""
        self.hubs[at] = start(self.binary, self.folder, self.urls[at], self.names[at], **self.settings)

    def answers(self, since: float = 0) -> list[Answered]:
        """What publishes that began since then were answered."""
        return [one for publisher in self.publishers for one in list(publisher.answers) if one.began >= since]

    def latest(self, count: int = 25) -> list[str]:
        """The events that arrived last at each partner, which may be behind, and those that publishers are about."""
        found = [publisher.trying for publisher in self.publishers]
        for sink in self.sinks.values():
            found += [arrival.event_id for arrival in sink.arrivals[-count:]]
        for publisher in self.publishers:
            found += publisher.taken[-count:]
        return [id for id in dict.fromkeys(found) if id]

    def arrived(self) -> int:
        """Everything that arrived."""
        return sum(len(sink.arrivals) for sink in self.sinks.values())

    def last_at(self) -> float:
        """When something arrived last."""
        return max((sink.arrivals[-1].at for sink in self.sinks.values() if sink.arrivals), default=0.0)

    def on_its_way(self, client: Client, lost: float) -> Optional[set[tuple[str, str]]]:
        """Of which deliveries there is no receipt, right after a node was lost: what was on its way, and what is still to go.

        Nobody but the lost one could record its own, until its lease has run out; none when the machine was too slow to ask until then.
        """
        found: set[tuple[str, str]] = set()
        for id in self.latest():
            answer = client.ask("GET", f"/v1/events/{id}/status")
            if answer.status == 404:
                # Whether it was recorded was open when it was asked for.
                found.update((partner, id) for partner in self.sinks)
                continue
            assert answer.status == 200, answer
            found.update((partner, id) for partner, state in answer.json.items() if state != "ack")
        return found if time.monotonic() - lost < 1.25 * LEASE_SECONDS else None

    def check_take_over(self, lost: float, share: int, other: int) -> float:
        """The lost node's partners had their next delivery in time, the others' went on, and so did publishing at the other node."""
        gaps = []
        for sink in self.sinks.values():
            times = [arrival.at for arrival in list(sink.arrivals)]
            # A little later than the loss as well: what was on its way then may still arrive.
            pairs = [(one, next) for one, next in zip(times, times[1:]) if one < lost + 1 and next > lost]
            gaps.append(max(pairs, key=lambda pair: pair[1] - pair[0]))
        gaps.sort(key=lambda gap: gap[1] - gap[0], reverse=True)
        went_on = max((ended - began for began, ended in gaps[share:]), default=0)
        assert went_on < 1.25 * LEASE_SECONDS, "partners of the other node are served on, sooner than a take-over comes"
        taken_over = max(ended for _, ended in gaps[:share])
        assert taken_over - lost <= TAKE_OVER_SECONDS_MAX, f"taken over after {taken_over - lost:.1f} s"
        meanwhile = [one for one in self.answers(since=lost) if one.hub == other and one.ended < taken_over]
        refused = [one for one in meanwhile if one.status not in (200, 202)]
        assert meanwhile and not refused, f"the other node answers publishes meanwhile: {refused} of {len(meanwhile)}"
        return round(taken_over - lost, 1)

    def end(self, asked: int = 0) -> Repeats:
        """Stops publishing and looks at everything, as one of the nodes tells it; answers what came twice, and when."""
        ids = [id for publisher in self.publishers for id in publisher.stop()]
        client = self.hubs[asked].client()
        end = time.monotonic() + 120
        for id in ids:
            # Each is asked for until it is, and then never again.
            wait_for(f"every receipt of {id}", lambda: is_acked(client, [id]), max(1, end - time.monotonic()))
        events = client.pages("/v1/events")
        assert [one["sequence"] for one in events] == list(range(1, len(events) + 1)), "the log has no gap"
        recorded = [one["id"] for one in events]
        assert len(recorded) == len(set(recorded)), "each event is recorded once"
        lost = set(ids) - set(recorded)
        assert not lost, f"answered 202 and not there: {sorted(lost)}"
        check_order(list(self.sinks.values()), ids)
        verified = client.ask("POST", "/v1/ledger/verify")
        assert verified.status == 200, verified
        receipts = len(self.sinks) * len(recorded) + self.more_receipts
        assert verified.json["size"] == receipts, "a receipt for each delivery, once"
        repeats: Repeats = {}
        for partner, sink in self.sinks.items():
            repeats.update({(partner, id): at for id, at in arrivals_by_event(sink).items() if len(at) > 1})
        for hub, name in zip(self.hubs, self.names):
            assert hub.process.poll() is None, f"{name} ended by itself: {''.join(hub.log[-20:])}"
            assert hub.terminate() == 0, f"{name}: {''.join(hub.log[-20:])}"
        return repeats

    def say(self, **figures: Any) -> None:
        """A line of figures for whoever looks, and for the file that HMS_ESS_TEST_FIGURES names."""
        events = sum(len(publisher.taken) for publisher in self.publishers)
        line = json.dumps({**figures, "hubs": len(self.hubs), "events": events, "lease_seconds": LEASE_SECONDS})
        print(line)
        if named := os.environ.get("HMS_ESS_TEST_FIGURES"):
            with open(named, "a") as file:
                file.write(line + "\n")

    def close(self) -> None:
        """Kills whatever still runs; a test that failed shows what each said last."""
        for publisher in self.publishers:
            publisher.stopped.set()
        for hub, name in zip(self.hubs, self.names):
            print(f"{name}, exit code {hub.process.poll()}: {''.join(hub.log[-30:])}")
            if hub.process.poll() is None:
                hub.process.send_signal(signal.SIGCONT)
                hub.kill()


def running(binary: Path, folder: Path, loop: Loop) -> Iterator[Fleet]:
    """For fixtures: whatever it started is gone at the end."""
    fleet = Fleet(binary, folder, loop)
    yield fleet
    fleet.close()


def unexplained(repeats: Repeats, losses: list[Loss]) -> Repeats:
    """What came twice and was not on its way when a node was lost."""
    return {key: times for key, times in repeats.items() if not any(loss.explains(key, times) for loss in losses)}


def late(repeats: Repeats, *faults: tuple[float, float]) -> dict[tuple[str, str], list[float]]:
    """Of what came twice, what was sent at first so long before each fault, or after it, that it must have been recorded."""

    def is_near(times: list[float]) -> bool:
        return any(began - RECORDED_SECONDS <= times[0] <= ended for began, ended in faults)

    first = min((began for began, _ in faults), default=0)
    return {key: [round(at - first, 2) for at in times] for key, times in repeats.items() if not is_near(times)}
