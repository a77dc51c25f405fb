"""The event is checked where it is made, and written as it was given."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from hms_ess import ChangeEvent, InvalidEvent


def make(**changes: Any) -> ChangeEvent:
    fields: dict[str, Any] = {"id": "RULE-COURT-DEADLINE-V3", "version": 3, "payload": {"deadline": "16:00"}}
    return ChangeEvent(**{**fields, **changes})


def test_three_fields_are_enough() -> None:
    assert json.loads(make().to_json()) == {
        "id": "RULE-COURT-DEADLINE-V3",
        "version": 3,
        "payload": {"deadline": "16:00"},
    }


def test_every_option_is_written() -> None:
    central = timezone(timedelta(hours=-6))
    event = make(
        subject="RULE-COURT",
        source="HMS-GOV",
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=central),
        effective="2026-02-01T00:00:00Z",
        expires="2027-02-01T00:00:00+00:00",
        priority="urgent",
        references=["RULE-COURT-DEADLINE-V2"],
        kind="correction",
    )
    assert event.to_dict() == {
        "id": "RULE-COURT-DEADLINE-V3",
        "version": 3,
        "subject": "RULE-COURT",
        "source": "HMS-GOV",
        "time": "2026-01-02T03:04:05-06:00",
        "effective": "2026-02-01T00:00:00Z",
        "expires": "2027-02-01T00:00:00+00:00",
        "priority": "urgent",
        "references": ["RULE-COURT-DEADLINE-V2"],
        "kind": "correction",
        "payload": {"deadline": "16:00"},
    }


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        make().id = "OTHER"  # type: ignore[misc]


@pytest.mark.parametrize("payload", [None, False, 0, "", [], {}, "text", 1.5])
def test_any_json_value_is_a_payload(payload: Any) -> None:
    assert json.loads(make(payload=payload).to_json())["payload"] == payload


def test_numbers_are_written_digit_for_digit() -> None:
    body = make(payload={"big": 9007199254740993, "fine": Decimal("0.1000000000000000055"), "text": "1"}).to_json()
    assert b'{"big":9007199254740993,"fine":0.1000000000000000055,"text":"1"}' in body


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("id", {"id": ""}),
        ("id", {"id": "a b"}),
        ("id", {"id": "x" * 129}),
        ("id", {"id": "RULE\n"}),
        ("id", {"id": 7}),
        ("version", {"version": 0}),
        ("version", {"version": "3"}),
        ("version", {"version": True}),
        ("version", {"version": 3.0}),
        ("payload", {"payload": {"at": datetime(2026, 1, 1)}}),
        ("payload", {"payload": float("nan")}),
        ("payload", {"payload": Decimal("Infinity")}),
        ("payload", {"payload": "\ud800"}),
        ("payload", {"payload": "x" * (1 << 20)}),
        ("subject", {"subject": " padded "}),
        ("subject", {"subject": "two\nlines"}),
        ("subject", {"subject": "x" * 257}),
        ("time", {"time": "yesterday"}),
        ("time", {"time": datetime(2026, 1, 1)}),
        ("priority", {"priority": "high"}),
        ("kind", {"kind": "removal"}),
        ("references", {"references": "RULE-V1"}),
        ("references", {"references": ["a b"]}),
    ],
)
def test_a_mistake_names_its_field_and_says_how_to_mend_it(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent) as found:
        make(**changes)
    assert found.value.field == field
    assert found.value.hint
    assert "hint: " in str(found.value)


def test_a_payload_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(InvalidEvent):
        make(payload=loop)
