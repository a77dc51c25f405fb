"""Partners in trouble, from outside: given up and back, redriven and discarded, retracted, reached another way."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any, Callable, Optional

from standardwebhooks.webhooks import Webhook
from conftest import Client, Hub, Loop, Request, Sink, acknowledge, add_partner, any_store, event, wait_for

pytestmark = any_store

QUICK = {"first": "50ms", "factor": 1, "max": "100ms", "jitter": 0, "give_up_after": "600ms"}
PATIENT = {"first": "50ms", "factor": 1, "max": "100ms", "jitter": 0}


def closed_port() -> int:
    """A port that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Switch:
    """A partner that fails until it is switched on; remembers what it acknowledged, in order."""

    def __init__(self) -> None:
        self.is_on = False
        self.got: list[str] = []

    async def __call__(self, request: Request) -> Optional[tuple[int, bytes]]:
        if not self.is_on:
            return 503, b"down for maintenance"
        self.got.append(request.arrival.event_id)
        return await acknowledge(request)


def publish(client: Client, id: str, subject: str, **more: Any) -> Any:
    answer = client.ask("POST", "/v1/events", {**event(id, subject), **more})
    assert answer.status == 202, answer
    return answer.json


def words(client: Client, id: str) -> dict[str, str]:
    found: dict[str, str] = client.get(f"/v1/events/{id}/status")
    return found


def test_a_partner_that_is_given_up_gets_everything_in_order_when_it_is_back(
    start_hub: Callable[..., Hub], loop: Loop
) -> None:
    hub = start_hub()
    client = hub.client()
    switch = Switch()
    sink = Sink(loop, switch)
    add_partner(client, "DARK", sink.url, retry=QUICK)
    ids = [f"E-{number}" for number in range(40)]
    for number, id in enumerate(ids):
        publish(client, id, f"S-{number % 3}")
    wait_for("the dead letters", lambda: words(client, "E-0") == {"DARK": "dead"})
    letters = client.pages("/v1/dead-letters?partner=DARK", limit=7)
    assert [letter["event_id"] for letter in letters] == ids
    assert all("offline since" in letter["reason"] for letter in letters)
    # What is published now is one at once, too; and a restart changes nothing.
    publish(client, "LATE", "S-0")
    assert words(client, "LATE") == {"DARK": "dead"}
    assert hub.terminate() == 0
    hub = start_hub(hub.data)
    client = hub.client()
    assert words(client, "LATE") == {"DARK": "dead"}
    assert len(client.pages("/v1/dead-letters?partner=DARK")) == 41
    switch.is_on = True
    wait_for("everything", lambda: len(switch.got) == 41)
    assert sorted(switch.got) == sorted([*ids, "LATE"]), "nothing is missed, nothing comes twice"
    for subject in range(3):
        of_subject = [id for id in switch.got if id != "LATE" and int(id[2:]) % 3 == subject]
        assert of_subject == sorted(of_subject, key=lambda id: int(id[2:]))
    wait_for("the words", lambda: words(client, "LATE") == {"DARK": "ack"})
    assert client.pages("/v1/dead-letters") == []


def test_by_hand_dead_letters_stay_until_an_operator_redrives_them_by_reason(
    start_hub: Callable[..., Hub], loop: Loop
) -> None:
    hub = start_hub()
    client = hub.client()
    switch = Switch()
    add_partner(client, "DARK", Sink(loop, switch).url, retry={**QUICK, "redrive": "manual"})
    refuse = Sink(loop, lambda request: refused(request))
    add_partner(client, "PICKY", refuse.url)
    for number in range(5):
        publish(client, f"E-{number}", "S")
    wait_for("the dead letters", lambda: len(client.pages("/v1/dead-letters")) == 10)
    switch.is_on = True
    publish(client, "E-5", "S")
    wait_for("a probe", lambda: words(client, "E-5").get("DARK") == "ack")
    assert words(client, "E-0")["DARK"] == "dead", "only an operator opens them again"
    listed = hub.run("dead-letters", "list", "--matching", "status 422", "--json")
    assert {item["partner"] for item in json.loads(listed.stdout)["items"]} == {"PICKY"}, listed
    done = hub.run("dead-letters", "redrive", "--matching", "offline since", "--reason", "they are back")
    assert done.stdout.strip() == "5 redriven", done
    wait_for("them", lambda: switch.got == ["E-5", *[f"E-{number}" for number in range(5)]])
    done = hub.run("dead-letters", "discard", "--partner", "PICKY", "--reason", "agreed by phone")
    assert done.stdout.strip() == "6 discarded", done
    assert words(client, "E-3") == {"DARK": "ack", "PICKY": "cancelled"}
    assert client.pages("/v1/dead-letters") == []
    trail = client.pages("/v1/audit")
    acts = [(line["act"], line["reason"]) for line in trail if line["act"].startswith("dead_letters")]
    assert acts == [("dead_letters.redrive", "they are back"), ("dead_letters.discard", "agreed by phone")]


async def refused(request: Request) -> Optional[tuple[int, bytes]]:
    return 422, b"no such county"


def test_what_waits_for_a_given_up_partner_can_be_discarded(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub()
    client = hub.client()
    switch = Switch()
    add_partner(client, "DARK", Sink(loop, switch).url, retry=QUICK)
    for number in range(4):
        publish(client, f"E-{number}", "S")
    wait_for("the dead letters", lambda: len(client.pages("/v1/dead-letters")) == 4)
    done = hub.run("dead-letters", "discard", "--event", "E-1", "--reason", "superseded by hand")
    assert done.stdout.strip() == "1 discarded", done
    assert words(client, "E-1") == {"DARK": "cancelled"}
    switch.is_on = True
    wait_for("the others", lambda: switch.got == ["E-0", "E-2", "E-3"])
    assert words(client, "E-1") == {"DARK": "cancelled"}


def test_a_retraction_reaches_exactly_those_who_may_have_the_event(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub()
    client = hub.client()
    well, slow = Sink(loop), Sink(loop, never_answers)
    add_partner(client, "WELL", well.url)
    add_partner(client, "SLOW", slow.url, timeout="700ms", retry=PATIENT)
    add_partner(client, "GONE", f"http://127.0.0.1:{closed_port()}/", retry=PATIENT)
    publish(client, "RULE-V1", "RULE")
    wait_for("an ACK", lambda: words(client, "RULE-V1")["WELL"] == "ack")
    wait_for("an attempt", lambda: slow.arrivals)
    wait_for("a failure", lambda: words(client, "RULE-V1")["GONE"] == "retrying")
    done = hub.run("retract", "RULE-V1")
    assert done.returncode == 0, done
    id = "RULE-V1.retraction"
    wait_for("the end", lambda: words(client, id) == {"GONE": "cancelled", "SLOW": "retrying", "WELL": "ack"})
    # Who may have got it hears of the retraction; who was never reached hears of neither; nothing is tried again.
    assert words(client, "RULE-V1") == {"GONE": "cancelled", "SLOW": "cancelled", "WELL": "ack"}
    assert [arrival.event_id for arrival in well.arrivals] == ["RULE-V1", id]
    told = json.loads(well.arrivals[1].body)
    assert (told["kind"], told["references"], told["version"]) == ("retraction", ["RULE-V1"], 1)
    assert [arrival.event_id for arrival in slow.arrivals].count("RULE-V1") == 1


def test_a_retraction_comes_in_the_version_that_the_partner_pinned(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub()
    client = hub.client()
    sink = Sink(loop)
    add_partner(client, "OLD", sink.url, accepts_version=1)
    bridge = {"subject": "RULE", "from": 3, "to": 1, "script": '{"cutoff": deadline}'}
    answer = client.ask("POST", "/v1/bridges", bridge)
    assert answer.status == 201, answer
    publish(client, "RULE-V3", "RULE", version=3, payload={"deadline": "16:00"})
    wait_for("an ACK", lambda: words(client, "RULE-V3") == {"OLD": "ack"})
    assert hub.run("retract", "RULE-V3").returncode == 0
    wait_for("its ACK", lambda: words(client, "RULE-V3.retraction") == {"OLD": "ack"})
    told = json.loads(sink.arrivals[1].body)
    assert (told["kind"], told["version"], told["payload"]) == ("retraction", 1, {"cutoff": "16:00"})


async def never_answers(request: Request) -> Optional[tuple[int, bytes]]:
    await asyncio.sleep(3600)
    return None


def test_the_fallback_is_tried_after_its_time_and_its_ack_counts(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub()
    client = hub.client()
    other = Sink(loop)
    fallback = {"channel": "webhook", "url": other.url, "after": "300ms"}
    add_partner(client, "DARK", f"http://127.0.0.1:{closed_port()}/", retry=PATIENT, fallback=fallback)
    for number in range(3):
        publish(client, f"E-{number}", "S")
    wait_for("the ACKs", lambda: words(client, "E-2") == {"DARK": "ack"})
    assert [arrival.event_id for arrival in other.arrivals] == ["E-0", "E-1", "E-2"]
    ids = {arrival.headers["webhook-id"] for arrival in other.arrivals}
    assert len(ids) == 3
    delivery = client.get("/v1/events/E-0/deliveries")["items"][0]
    assert delivery["evidence"] == "body"


def test_an_urgent_event_overtakes_a_backlog_of_other_subjects(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub()
    client = hub.client()
    sink = Sink(loop)
    add_partner(client, "BUSY", sink.url, limits={"in_flight": 1, "per_second": 200})
    lines = b"".join(json.dumps(event(f"R-{number}", f"S-{number}")).encode() + b"\n" for number in range(3000))
    answer = client.ask("POST", "/v1/events", lines, {"content-type": "application/x-ndjson"})
    assert answer.status in (200, 202, 207), answer
    publish(client, "STORM", "WARNING", priority="urgent")
    wait_for("it", lambda: words(client, "STORM") == {"BUSY": "ack"})
    before = [arrival.event_id for arrival in sink.arrivals].index("STORM")
    assert before < 1500, f"{before} routine events went before it"
    arrival = sink.arrivals[before]
    assert arrival.headers["x-hms-partner-seq"] == "3001"


def test_a_partner_that_wants_heartbeats_learns_of_a_gap_although_nothing_follows(
    start_hub: Callable[..., Hub], loop: Loop
) -> None:
    hub = start_hub()
    client = hub.client()
    sink = Sink(loop)
    secret = add_partner(client, "QUIET", sink.url, heartbeat="1s", limits={"in_flight": 1})["secret"]
    for number in range(3):
        publish(client, f"E-{number}", f"S-{number}")
    wait_for("a heartbeat", lambda: "x-hms-heartbeat" in sink.arrivals[-1].headers if sink.arrivals else False)
    beat = sink.arrivals[-1]
    said = json.loads(beat.body)
    assert (said["heartbeat"], said["partner"], said["partner_seq"], said["sequence"]) == (True, "QUIET", 3, 3)
    assert beat.headers["x-hms-partner-seq"] == "3"
    Webhook(secret).verify(beat.body, beat.headers)
    missed = client.get("/v1/partners/QUIET/events?from=2&to=3")
    assert [item["partner_seq"] for item in missed["items"]] == [2, 3]
