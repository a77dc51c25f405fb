"""Several addresses: the next one takes over when nothing is lost by it, and only then."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from client_test import EVENT, dead_url, write_profile
from conftest import RECEIPT, Answer, Hub

from hms_ess import ChangeEvent, Conflict, HubUnreachable, NotConfigured, Unavailable, _http, inbox, publish, status
from hms_ess._profile import Address
from hms_ess._route import KNOWN_MAX, REST_FIRST, REST_MAX, _known, note_answer, note_failure, order

A, B, C = (Address(f"https://{name}.gov", None, None) for name in "abc")


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections, and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that hangs is given up at once while there is another one."""
    monkeypatch.setattr(_http, "CONNECT_SECONDS", 0.1)
    monkeypatch.setattr(_http, "ANSWER_SECONDS", 0.1)


def ids(hub: Hub) -> list[str]:
    return [asked.json["id"] for asked in hub.asked if asked.method == "POST"]


def test_a_list_is_what_commas_are(hub: Hub, monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    dead = dead_url()
    assert publish(EVENT, [dead, hub.url]) == RECEIPT
    assert publish(EVENT, (f"{dead}/", f" {hub.url}/ ")) == RECEIPT
    monkeypatch.setenv("HMS_ESS_HUB", f"{dead},{hub.url}")
    assert publish(EVENT) == RECEIPT
    assert len(hub.asked) == 3 and not pauses


def test_the_address_that_answered_last_is_asked_first(make_hub: Callable[..., Hub], pauses: list[float]) -> None:
    first, second = make_hub(), make_hub()
    both = [first.url, second.url]
    first.answers = [Answer(503)]
    for number in range(1, 4):
        publish(ChangeEvent(f"E-V{number}", 1, {}), both)
    assert ids(first) == ["E-V1"] and ids(second) == ["E-V1", "E-V2", "E-V3"] and not pauses
    second.otherwise = Answer(503)
    publish(ChangeEvent("E-V4", 1, {}), both)
    publish(ChangeEvent("E-V5", 1, {}), both)
    # The order of one publisher's events is the order of its calls, wherever each went.
    assert ids(first) == ["E-V1", "E-V4", "E-V5"] and ids(second)[3:] == ["E-V4"]


@pytest.mark.parametrize("code", [502, 503, 504])
def test_a_hub_that_cannot_is_passed_over_at_once(make_hub: Callable[..., Hub], pauses: list[float], code: int) -> None:
    busy, good = make_hub(), make_hub()
    busy.otherwise = Answer(code, headers={"retry-after": "9"})
    publish(EVENT, [busy.url, good.url])
    assert len(busy.asked) == 1 and len(good.asked) == 1 and not pauses


def test_a_connection_that_breaks_off_repeats_the_publish_elsewhere(
    make_hub: Callable[..., Hub], pauses: list[float]
) -> None:
    broken, good = make_hub(), make_hub()
    broken.otherwise = Answer(drops=True)
    assert publish(EVENT, [broken.url, good.url]) == RECEIPT
    assert broken.asked[0].body == good.asked[0].body and not pauses


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_hub_that_hangs_is_passed_over(hub: Hub, silent: str, hurry: None, pauses: list[float], scheme: str) -> None:
    assert publish(EVENT, [f"{scheme}://{silent}", hub.url]) == RECEIPT
    assert not pauses


def test_a_hub_that_hangs_has_all_the_time_when_it_is_the_last(
    make_hub: Callable[..., Hub], silent: str, hurry: None, pauses: list[float]
) -> None:
    # A status that is waited for may take that long at any address.
    hub = make_hub()
    hub.otherwise = Answer(200, {"COURT-CAL": "ack"})
    assert status("E-V1", [dead_url(), hub.url], wait=1) == {"COURT-CAL": "ack"}
    with pytest.raises(HubUnreachable, match="timed out"):
        publish(EVENT, f"http://{silent}", timeout=0.05)


def test_an_address_that_is_no_tls_is_passed_over(make_hub: Callable[..., Hub], pauses: list[float]) -> None:
    plain, good = make_hub(), make_hub()
    publish(EVENT, [plain.url.replace("http://", "https://"), good.url])
    assert len(good.asked) == 1 and not pauses


@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 413, 422])
def test_a_refusal_is_the_hubs_word_and_no_other_is_asked(make_hub: Callable[..., Hub], code: int) -> None:
    first, second = make_hub(), make_hub()
    first.otherwise = Answer(code, {"code": "event_conflict", "detail": "no"})
    with pytest.raises(Conflict if code == 409 else Exception, match="no"):
        publish(EVENT, [first.url, second.url])
    assert len(first.asked) == 1 and not second.asked


def test_whoever_asks_too_often_waits_and_asks_the_same_address(
    make_hub: Callable[..., Hub], pauses: list[float]
) -> None:
    first, second = make_hub(), make_hub()
    first.answers = [Answer(429, headers={"retry-after": "4"})]
    publish(EVENT, [first.url, second.url])
    assert len(first.asked) == 2 and not second.asked and pauses == [4.0]


def test_retry_after_is_heeded_once_every_address_asked_for_it(
    make_hub: Callable[..., Hub], pauses: list[float]
) -> None:
    first, second = make_hub(), make_hub()
    first.answers = [Answer(503, headers={"retry-after": "8"})]
    second.answers = [Answer(503, headers={"retry-after": "6"})]
    publish(EVENT, [first.url, second.url])
    assert pauses == [6.0]
    pauses.clear()
    _known.clear()
    second.answers = [Answer(503, headers={"retry-after": "6"})] * 2
    publish(EVENT, [dead_url(), second.url])
    assert len(pauses) == 2 and max(pauses) < 1.0


def test_the_end_names_every_address_and_why(make_hub: Callable[..., Hub], pauses: list[float]) -> None:
    dead, other = dead_url(), dead_url()
    with pytest.raises(HubUnreachable) as found:
        publish(EVENT, [dead, other])
    assert all(f"{url}: [Errno 111] Connection refused" in str(found.value) for url in (dead, other))
    assert "hms-ess serve" in str(found.value) and len(pauses) == 5
    busy = make_hub()
    busy.otherwise = Answer(503, {"code": "unavailable", "detail": "the disk is full"})
    with pytest.raises(Unavailable) as said:
        publish(EVENT, [busy.url, dead])
    assert said.value.code == "unavailable" and dead in str(said.value)
    assert f"{busy.url}: 503 unavailable: the disk is full" in str(said.value)


def test_the_inbox_follows_to_the_next_address(make_hub: Callable[..., Hub], pauses: list[float]) -> None:
    first, second = make_hub(), make_hub()
    item = {"message_id": "m", "envelope": {"id": "E-V1"}, "lease_ms": 30_000}
    first.answers = [Answer(200, {"items": [item]}), Answer(503), Answer(503)]
    second.answers = [Answer(200, {"ok": True}), Answer(200, {"items": []})]
    for message in inbox("COURT-CAL", [first.url, second.url], wait=1, forever=False):
        message.ack()
    assert [asked.method for asked in first.asked] == ["GET", "POST"]
    assert [asked.method for asked in second.asked] == ["POST", "GET"] and second.asked[0].json == {"ack": "E-V1"}


def test_a_token_goes_to_the_hubs_of_its_profile_and_to_no_other(
    make_hub: Callable[..., Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    own, stranger = make_hub(), make_hub()
    write_profile(tmp_path / "p.json", monkeypatch, hub=f"{dead_url()},{own.url}", token="hms_profile")
    publish(EVENT)
    publish(EVENT, [dead_url(), stranger.url])
    assert own.asked[0].headers["authorization"] == "Bearer hms_profile"
    assert "authorization" not in stranger.asked[0].headers


@pytest.mark.parametrize("hub", [["https://a.gov", "b.gov"], "https://a.gov,ftp://b", [7]])
def test_one_address_that_is_none_is_refused_before_anything_is_sent(hub: Any) -> None:
    with pytest.raises(NotConfigured, match="not an address"):
        publish(EVENT, hub)


def test_one_that_failed_rests_and_each_time_twice_as_long() -> None:
    assert order([A, B, C], 100.0) == [A, B, C]
    note_answer(C, 100.0)
    note_failure(A, 100.0, 0.0)
    assert order([A, B, C], 100.5) == [C, B, A]
    assert order([A, B, C], 100.0 + REST_FIRST) == [C, A, B]
    note_failure(A, 102.0, 0.0)
    assert order([A, B], 103.9) == [B, A] and order([A, B], 104.0) == [A, B]
    for _ in range(40):
        note_failure(A, 200.0, 0.0)
    assert order([A, B], 199.9 + REST_MAX) == [B, A] and order([A, B], 200.0 + REST_MAX) == [A, B]
    # Its own word counts when it is longer; an answer ends it.
    note_failure(B, 300.0, 20.0)
    assert order([B, C], 319.0) == [C, B]
    note_answer(B, 319.0)
    assert order([B, C], 319.0) == [B, C]


def test_of_those_that_rest_the_soonest_to_end_is_asked_first() -> None:
    note_failure(A, 100.0, 9.0)
    note_failure(B, 100.0, 3.0)
    assert order([A, B], 101.0) == [B, A]


def test_what_is_known_of_addresses_is_bounded() -> None:
    for number in range(3 * KNOWN_MAX):
        note_failure(Address(f"https://{number}.gov", None, None), 1.0, 0.0)
    assert len(_known) <= KNOWN_MAX


def test_an_untrusted_certificate_is_passed_over_and_nothing_was_sent(
    make_hub: Callable[..., Hub], certificate: Any, pauses: list[float]
) -> None:
    stranger, good = make_hub(certificate[1]), make_hub()
    assert publish(EVENT, [stranger.url, good.url]) == RECEIPT
    assert not stranger.asked and not pauses
    with pytest.raises(HubUnreachable, match="certificate is not trusted") as found:
        publish(EVENT, [stranger.url, dead_url()])
    assert "Connection refused" in str(found.value)
