"""The client asks what the wire page says, keeps its connection, and retries only what is safe."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import RECEIPT, Answer, Hub

from hms_ess import (
    ChangeEvent,
    Conflict,
    HmsEssError,
    HubUnreachable,
    InvalidEvent,
    NotConfigured,
    NotFound,
    Refused,
    Unauthorized,
    Unavailable,
    inbox,
    publish,
    status,
)

EVENT = ChangeEvent("E-V1", 1, {"deadline": "16:00"})


def write_profile(path: Path, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    path.write_text(json.dumps(fields))
    monkeypatch.setenv("HMS_ESS_PROFILE", str(path))


def dead_url() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_publish_posts_the_event_and_returns_the_receipt(hub: Hub) -> None:
    receipt = publish(EVENT, hub.url)
    assert receipt == RECEIPT and receipt["sequence"] == 1
    asked = hub.asked[0]
    assert (asked.method, asked.path, asked.json) == ("POST", "/v1/events", EVENT.to_dict())
    assert asked.headers["content-type"] == "application/json"
    assert "x-hms-test" not in asked.headers


def test_a_dry_run_is_marked_in_the_request(hub: Hub) -> None:
    publish(EVENT, hub.url, dry_run=True)
    assert hub.asked[0].headers["x-hms-test"] == "true"


def test_trace_headers_travel_with_the_event(hub: Hub) -> None:
    publish(EVENT, hub.url, headers={"x-hms-docket-id": "D-1"})
    assert hub.asked[0].headers["x-hms-docket-id"] == "D-1"


def test_only_an_event_is_published(hub: Hub) -> None:
    with pytest.raises(InvalidEvent, match="dict"):
        publish({"id": "E-V1"}, hub.url)  # type: ignore[arg-type]
    assert not hub.asked


def test_status_prints_as_the_mission_prints_it(hub: Hub) -> None:
    hub.otherwise = Answer(200, {"COURT-CAL": "ack", "LAW-FIRM-SYS": "pending"})
    assert str(status("E:V1", hub.url)) == "{'COURT-CAL': 'ack', 'LAW-FIRM-SYS': 'pending'}"
    status("E-V1", hub.url, test=True, wait=5)
    assert [asked.path for asked in hub.asked] == ["/v1/events/E%3AV1/status", "/v1/events/E-V1/status?test=true&wait=5s"]


def test_one_connection_serves_many_requests(hub: Hub) -> None:
    for _ in range(5):
        publish(EVENT, hub.url)
    assert len({asked.port for asked in hub.asked}) == 1


def test_each_thread_has_its_own_connection(hub: Hub) -> None:
    threads = [threading.Thread(target=publish, args=(EVENT, hub.url)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({asked.port for asked in hub.asked}) == 3


def test_a_kept_connection_that_was_closed_is_made_anew_without_waiting(hub: Hub, pauses: list[float]) -> None:
    publish(EVENT, hub.url)
    hub.answers = [Answer(drops=True)]
    publish(EVENT, hub.url)
    assert len(hub.asked) == 3 and not pauses


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_a_busy_hub_is_asked_again(hub: Hub, pauses: list[float], code: int) -> None:
    hub.answers = [Answer(code), Answer(code)]
    assert publish(EVENT, hub.url) == RECEIPT
    assert len(hub.asked) == 3 and len(pauses) == 2 and pauses[0] < pauses[1] * 2


def test_retry_after_is_honoured_within_a_bound(hub: Hub, pauses: list[float]) -> None:
    hub.answers = [Answer(503, headers={"retry-after": "7"}), Answer(503, headers={"retry-after": "99999"})]
    publish(EVENT, hub.url)
    assert pauses == [7.0, 30.0]


def test_retries_end_and_say_so(hub: Hub, pauses: list[float]) -> None:
    hub.otherwise = Answer(503, {"code": "unavailable", "detail": "the disk is full"})
    with pytest.raises(Unavailable, match="the disk is full"):
        publish(EVENT, hub.url)
    assert len(hub.asked) == 6 and len(pauses) == 5


def test_a_hub_that_is_not_there_is_named(pauses: list[float]) -> None:
    url = dead_url()
    with pytest.raises(HubUnreachable, match=url) as found:
        publish(EVENT, url)
    assert "hms-ess serve" in str(found.value)
    assert isinstance(found.value, ConnectionError) and len(pauses) == 5


@pytest.mark.parametrize(
    ("code", "kind"),
    [(400, Refused), (401, Unauthorized), (403, Unauthorized), (404, NotFound), (409, Conflict), (422, Refused)],
)
def test_a_refusal_is_typed_and_not_retried(hub: Hub, code: int, kind: type[Refused]) -> None:
    problem = {"code": "a_word", "detail": "no", "hint": "do this", "field": "payload.x", "request_id": "r1"}
    hub.otherwise = Answer(code, problem)
    with pytest.raises(kind) as found:
        publish(EVENT, hub.url)
    error = found.value
    assert type(error) is kind and isinstance(error, HmsEssError)
    assert (error.status, error.code, error.field, error.request_id) == (code, "a_word", "payload.x", "r1")
    assert str(error) == f"{code} a_word: no (field payload.x)\nhint: do this"
    assert len(hub.asked) == 1


def test_an_answer_that_is_no_problem_is_still_a_refusal(hub: Hub) -> None:
    hub.otherwise = Answer(418, ["teapot"])
    with pytest.raises(Refused, match="418 unknown"):
        publish(EVENT, hub.url)


def test_the_next_hub_takes_over(make_hub: Callable[..., Hub], pauses: list[float]) -> None:
    busy, good = make_hub(), make_hub()
    busy.otherwise = Answer(503)
    publish(EVENT, f"{dead_url()}, {busy.url}/ ,{good.url}")
    assert len(busy.asked) == 1 and len(good.asked) == 1 and not pauses


def test_no_hub_says_how_to_name_one() -> None:
    with pytest.raises(NotConfigured, match="HMS_ESS_HUB"):
        publish(EVENT)


@pytest.mark.parametrize("url", ["hub.sandbox.gov", "ftp://hub", "https://", "https://user@hub", "https://hub/v1", "https://h:99999"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(NotConfigured, match="not an address"):
        publish(EVENT, url)


def test_the_environment_names_the_hub_and_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMS_ESS_HUB", hub.url)
    monkeypatch.setenv("HMS_ESS_TOKEN", "hms_env")
    publish(EVENT)
    assert hub.asked[0].headers["authorization"] == "Bearer hms_env"


def test_the_profile_maps_the_sandbox_to_the_local_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aliases = {"https://hub.sandbox.gov": hub.url}
    write_profile(tmp_path / "p.json", monkeypatch, hub=hub.url, token="hms_profile", aliases=aliases)
    publish(EVENT, hub="https://hub.sandbox.gov/")
    publish(EVENT)
    assert [asked.headers["authorization"] for asked in hub.asked] == ["Bearer hms_profile"] * 2


def test_the_profiles_token_is_shown_to_no_other_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_profile(tmp_path / "p.json", monkeypatch, hub="https://127.0.0.1:1", token="hms_profile")
    publish(EVENT, hub.url)
    assert "authorization" not in hub.asked[0].headers


def test_a_broken_profile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.json"
    path.write_text("{")
    monkeypatch.setenv("HMS_ESS_PROFILE", str(path))
    with pytest.raises(NotConfigured, match="p.json is not JSON"):
        publish(EVENT)


def test_the_inbox_yields_events_and_answers_them(hub: Hub) -> None:
    first = {"id": "E-V1", "version": 1, "payload": 1}
    second = {"id": "E-V2", "version": 1, "payload": 2, "test": True}
    items = {"items": [{"message_id": "m1", "envelope": first}, {"message_id": "m2", "envelope": second}]}
    hub.answers = [Answer(200, items), Answer(200, {"ok": True}), Answer(200, {"ok": True}), Answer(200, {"items": []})]
    seen = []
    for message in inbox("COURT-CAL", hub.url, wait=1, forever=False):
        seen.append(dict(message))
        if message["id"] == "E-V1":
            message.ack()
        else:
            message.nack("unknown county")
    assert seen == [first, second]
    assert hub.asked[0].path == "/v1/partners/COURT-CAL/inbox?wait=1s"
    assert [asked.json for asked in hub.asked[1:3]] == [
        {"ack": "E-V1"},
        {"nack": "E-V2", "reason": "unknown county", "retryable": False, "test": True},
    ]


def test_a_message_knows_its_headers_and_one_whose_lease_is_over_is_left_alone(hub: Hub) -> None:
    headers = {"x-hms-partner-seq": "7", "x-hms-test": "true"}
    shaped = {"event_id": "E-V1", "test": True, "headers": headers, "lease_ms": 30_000, "envelope": {"cutoff": "16:00"}}
    lines = {"event_id": "E-V2", "headers": {}, "lease_ms": 30_000, "text": "a,b"}
    late = {"event_id": "E-V3", "headers": {}, "lease_ms": 0, "envelope": {"id": "E-V3"}}
    hub.answers = [Answer(200, {"items": [shaped, lines, late]}), Answer(200, {"ok": True}), Answer(200, {"ok": True})]
    hub.otherwise = Answer(200, {"items": []})
    seen = []
    for message in inbox("COURT-CAL", hub.url, wait=1, forever=False):
        seen.append((message.get("cutoff"), message.get("text"), message.headers.get("x-hms-partner-seq")))
        message.ack()
    assert seen == [("16:00", None, "7"), (None, "a,b", None)]
    assert [asked.json for asked in hub.asked if asked.method == "POST"] == [
        {"ack": "E-V1", "test": True},
        {"ack": "E-V2"},
    ]
