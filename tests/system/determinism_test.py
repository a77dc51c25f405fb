"""The same bytes next year: what scripts made of an event once, they make again, whatever the clock says by then."""

from __future__ import annotations

import json
from typing import Any, Callable

import pytest
from conftest import Arrival, Client, Hub, Loop, Sink, add_partner, any_store, event, wait_for

pytestmark = any_store

#: All that a script can ask of its surroundings; thirty items fall into the same order twice by chance in no lifetime.
BRIDGE = """{
  "written": $now(),
  "millis": $millis(),
  "order": $shuffle([1..30]),
  "opens": $toZone(opens, "America/Chicago")
}"""
ADAPTER = """{
  "id": id,
  "made": $now("[Y]-[M01]-[D01] [H01]:[m01]:[s01].[f001] [z]"),
  "millis": $millis(),
  "order": $shuffle([1..30]),
  "again": $shuffle([1..30]),
  "here": $toZone($now(), $partner.zone),
  "bridged": payload
}"""
#: A shape for each of some formats; what a format adds by itself must be the same as well.
SHAPES = {"json": ADAPTER, "xml": f'{{"event": {ADAPTER}}}', "cloudevents": ADAPTER, "text": f"$string({ADAPTER})"}
EVENT = "R-1"


def check_replay(first: Arrival, second: Arrival) -> None:
    """Another message of the same event, marked where no adapter can strip it."""
    assert first.event_id == second.event_id == EVENT
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert "x-hms-replay" not in first.headers and second.headers["x-hms-replay"] == "true"
    assert first.headers["content-type"] == second.headers["content-type"]


def add(client: Client, partners: dict[str, Sink]) -> None:
    bridge = {"subject": "*", "from": 2, "to": 1, "script": BRIDGE}
    assert client.ask("POST", "/v1/bridges", bridge).status == 201
    for name, partner in partners.items():
        shape = {} if name == "PLAIN" else {"format": name, "adapter": SHAPES[name]}
        add_partner(client, name, partner.url, accepts_version=1, zone="Europe/Berlin", **shape)


def test_a_replay_after_a_restart_has_the_same_bytes(start_hub: Callable[..., Hub], loop: Loop) -> None:
    partners = {name: Sink(loop) for name in [*SHAPES, "PLAIN"]}
    hub = start_hub(TZ="America/New_York")
    client = hub.client()
    add(client, partners)
    document: dict[str, Any] = {**event(EVENT, "S", {"opens": "2026-07-01T11:00:00-05:00"}), "version": 2}
    assert client.ask("POST", "/v1/events", document).status == 202
    wait_for("the deliveries", lambda: all(partner.acked for partner in partners.values()))
    wait_for("their receipts", lambda: set(client.get(f"/v1/events/{EVENT}/status").values()) == {"ack"})
    recorded_at = client.get(f"/v1/events/{EVENT}")["recorded_at"]
    assert hub.terminate() == 0

    # A later clock, in another zone, and nothing in memory.
    hub = start_hub(TZ="Asia/Tokyo")
    client = hub.client()
    for name in partners:
        said = hub.run("replay", EVENT, "--to", name)
        assert said.returncode == 0, said
    wait_for("the replays", lambda: all(len(partner.arrivals) == 2 for partner in partners.values()))
    for name, partner in partners.items():
        first, second = partner.arrivals
        check_replay(first, second)
        if name != "PLAIN":
            assert first.body == second.body, name

    made = json.loads(partners["json"].arrivals[1].body)
    # To the millisecond, as scripts count.
    assert made["bridged"]["written"] == f"{recorded_at[:23]}Z"
    assert made["millis"] == made["bridged"]["millis"]
    for order in (made["order"], made["again"], made["bridged"]["order"]):
        assert sorted(order) == list(range(1, 31)) != order
    assert made["order"] != made["again"], "the dice roll on within a script"
    assert made["bridged"]["opens"] == "2026-07-01T11:00:00-05:00"
    assert made["here"].startswith(recorded_at[:4]) and made["here"][-6:] in ("+01:00", "+02:00")
    # Without an adapter the envelope is the body, and has the one mark of a replay.
    first, second = (json.loads(arrival.body) for arrival in partners["PLAIN"].arrivals)
    assert second.pop("replay") is True and first == second


@pytest.mark.parametrize("dice", ["$random()", "[1..3].$random()", "$eval('$random()')"])
def test_dice_that_would_fall_otherwise_next_time_block_the_delivery(
    dice: str, start_hub: Callable[..., Hub], loop: Loop
) -> None:
    client = start_hub().client()
    partner = Sink(loop)
    add_partner(client, "GAMBLER", partner.url, adapter=f'{{"number": {dice}}}')
    assert client.ask("POST", "/v1/events", event(EVENT, "S")).status == 202
    deliveries = f"/v1/events/{EVENT}/deliveries"
    wait_for("the block", lambda: client.get(deliveries)["items"][0]["state"] == "blocked")
    assert "E_RANDOM" in client.get(deliveries)["items"][0]["reason"] and not partner.arrivals
