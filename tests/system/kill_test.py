"""SIGKILL at random moments under load: what was promised holds.

The word of the hub is the 202 for a publish and the ``ack`` that its API shows. Neither may be lost. A partner may see a message
twice only if the first came shortly before a kill: what a crash can repeat is bounded by the outcome window, not by luck.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any, Callable

from harness import Client, Gone, Hub, Partners, acknowledge, partner_document, stumble, wait_for

ROUNDS = 20
PUBLISHERS = 4
# An outcome that waits longer than this to be durable is more than a group commit.
UNRECORDED_SECONDS_MAX = 2.0
# A partner of ours may read what the hub sent before it was killed a little after that.
LATE_READ_SECONDS_MAX = 0.5
# What still waits at the end of all rounds.
DRAIN_SECONDS_MAX = 120.0


class Story:
    """What publishers and an onlooker were told, over all rounds."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.accepted: list[str] = []
        self.unknown: list[str] = []
        self.shown: dict[tuple[str, str], float] = {}
        self.kills: list[float] = []
        self.complaints: list[str] = []

    def complain(self, what: str) -> None:
        with self.guard:
            self.complaints.append(what)


def publish_until(stop: threading.Event, hub: Hub, story: Story, name: str) -> None:
    """Publishes until it is told to stop or the hub is gone; what got no answer is published again in the next round."""
    client = hub.client()
    number = 0
    with story.guard:
        again, story.unknown = story.unknown, []
    while not stop.is_set():
        id = again.pop() if again else f"EVT-{name}-{number}"
        number += 1
        # A third of the events shares subjects with others, so that order matters somewhere.
        subject = f"SHARED-{sum(id.encode()) % 24}" if sum(id.encode()) % 24 < 8 else id
        try:
            answer = client.ask("POST", "/v1/events", {"id": id, "version": 1, "subject": subject, "payload": {"of": id}})
        except Gone:
            with story.guard:
                story.unknown += [id, *again]
            return
        if answer.status == 202 or (answer.status == 200 and answer.json().get("duplicate")):
            with story.guard:
                story.accepted.append(id)
        else:
            story.complain(f"publish of {id}: {answer.status} {answer.body!r}")
    client.close()
    with story.guard:
        story.unknown += again


def look_on(stop: threading.Event, hub: Hub, story: Story) -> None:
    """Asks for the status of recent events, and remembers what was said when."""
    client = hub.client()
    while not stop.is_set():
        with story.guard:
            recent = story.accepted[-40:]
        for id in random.sample(recent, min(8, len(recent))):
            try:
                answer = client.ask("GET", f"/v1/events/{id}/status")
            except Gone:
                return
            at = time.monotonic()
            if answer.status != 200:
                story.complain(f"status of {id}: {answer.status} {answer.body!r}")
                continue
            for partner, word in answer.json().items():
                if word == "ack":
                    story.shown.setdefault((id, partner), at)
    client.close()


def one_round(hub: Hub, story: Story, number: int, dice: random.Random) -> None:
    hub.start()
    stop = threading.Event()
    before = len(story.accepted)
    loads = [
        threading.Thread(target=publish_until, args=(stop, hub, story, f"{number}-{publisher}"))
        for publisher in range(PUBLISHERS)
    ]
    loads.append(threading.Thread(target=look_on, args=(stop, hub, story)))
    for load in loads:
        load.start()
    wait_for("the first publish of the round", lambda: len(story.accepted) > before or not loads[0].is_alive())
    # The moment is the experiment, not a guess at when something is done.
    stop.wait(dice.uniform(0.0, 0.5))
    hub.kill()
    story.kills.append(time.monotonic())
    stop.set()
    for load in loads:
        load.join(60)
        assert not load.is_alive(), "a publisher hangs though the hub is gone"


def check_log(client: Client, story: Story) -> list[Any]:
    log = client.pages("/v1/events")
    sequences = [event["sequence"] for event in log]
    assert sequences == list(range(1, len(log) + 1)), "the log has gaps"
    missing = set(story.accepted) - {event["id"] for event in log}
    assert not missing, f"{len(missing)} events were answered 202 and are not in the log: {sorted(missing)[:5]}"
    return log


def check_shown(client: Client, story: Story, already: set[tuple[str, str]]) -> None:
    """What the API has shown before the kill, it shows right after it."""
    fresh = set(story.shown) - already
    for id in sorted({id for id, _ in fresh}):
        words = client.ask("GET", f"/v1/events/{id}/status").json()
        for partner in sorted(partner for shown, partner in fresh if shown == id):
            if words.get(partner) != "ack":
                story.complain(f"{id} at {partner} was shown as ack before a kill, and is {words.get(partner)} after it")
    already |= fresh


def check_repeats(partners: Partners, story: Story) -> None:
    arrivals: dict[tuple[str, str], list[float]] = {}
    for arrival in partners.arrivals:
        arrivals.setdefault((arrival.event, arrival.partner), []).append(arrival.at)
    for key, times in arrivals.items():
        for first, second in zip(times, times[1:]):
            kills = [kill for kill in story.kills if first - LATE_READ_SECONDS_MAX <= kill <= second]
            if not kills:
                story.complain(f"{key} came twice, {second - first:.3f} s apart, and no kill in between")
                continue
            if kills[0] - first > UNRECORDED_SECONDS_MAX:
                story.complain(f"{key} came {kills[0] - first:.3f} s before the kill, and again after it")
            shown = story.shown.get(key)
            if shown is not None and shown < second and shown < kills[0]:
                story.complain(f"{key} was shown as ack before the kill and was sent again after it")


def test_a_kill_at_any_moment_loses_nothing_that_was_promised(
    make_hub: Callable[..., Hub], partners: Partners, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    hub = make_hub().start()
    client = hub.client()
    ports = {"P1": partners.listen(acknowledge), "P2": partners.listen(acknowledge), "P3": partners.listen(stumble)}
    for id, port in ports.items():
        document = partner_document(id, port, retry={"first": "200ms", "max": "1s"})
        assert client.ask("POST", "/v1/partners", document).status == 201
    client.close()
    hub.stop()

    story = Story()
    checked: set[tuple[str, str]] = set()
    for number in range(ROUNDS):
        one_round(hub, story, number, dice)
        # A start of its own, to see what the store kept before the next load begins.
        hub.start()
        check_shown(hub.client(), story, checked)
        hub.kill()
        story.kills.append(time.monotonic())

    hub.start()
    client = hub.client()
    assert story.accepted, "nothing was published"
    log = check_log(client, story)
    open_events = {event["id"] for event in log}

    def all_ended() -> bool:
        for id in sorted(open_events):
            words = client.ask("GET", f"/v1/events/{id}/status").json()
            if set(words) != set(ports) or set(words.values()) != {"ack"}:
                return False
            open_events.discard(id)
        return True

    try:
        wait_for("every delivery to be acknowledged", all_ended, DRAIN_SECONDS_MAX)
    except AssertionError as error:
        stuck = {id: client.ask("GET", f"/v1/events/{id}/status").json() for id in sorted(open_events)[:3]}
        raise AssertionError(f"{error}: {len(open_events)} of {len(log)} events are open, such as {stuck}") from None
    for event in log:
        deliveries = client.ask("GET", f"/v1/events/{event['id']}/deliveries").json()["items"]
        names = sorted(delivery["partner"] for delivery in deliveries)
        if names != sorted(ports):
            story.complain(f"{event['id']} has deliveries for {names}")
    verified = client.ask("POST", "/v1/ledger/verify", {})
    assert verified.status == 200 and verified.json()["ok"], verified
    check_repeats(partners, story)
    assert not story.complaints, f"seed {seed}: {len(story.complaints)} complaints:\n" + "\n".join(story.complaints[:20])
    print(f"{len(story.accepted)} publishes answered, {len(story.shown)} receipts shown, {len(partners.arrivals)} arrivals")
