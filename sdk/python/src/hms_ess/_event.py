"""What a publisher sends: checked here first, so that a mistake is told where it was made."""

from __future__ import annotations

import json
import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Iterable, Optional, Union

from ._errors import InvalidEvent

ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
BODY_BYTES_MAX = 1 << 20
# RFC 3339; the hub reads it once more.
TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
PRIORITIES = ("urgent", "routine")
KINDS = ("change", "correction", "retraction")

Time = Union[str, datetime]


@dataclass(frozen=True, init=False)
class ChangeEvent:
    """A change that partners must learn of: three required fields, everything else has a default.

    ``version`` is the schema version of the payload, not the revision of the rule. ``payload`` is any JSON value; a
    ``decimal.Decimal`` in it is written digit for digit. Times are ``datetime`` with a zone or RFC 3339 text.
    """

    id: str
    version: int
    payload: Any
    subject: Optional[str]
    source: Optional[str]
    time: Optional[str]
    effective: Optional[str]
    expires: Optional[str]
    priority: Optional[str]
    references: tuple[str, ...]
    kind: Optional[str]

    def __init__(
        self,
        id: str,
        version: int,
        payload: Any,
        *,
        subject: Optional[str] = None,
        source: Optional[str] = None,
        time: Optional[Time] = None,
        effective: Optional[Time] = None,
        expires: Optional[Time] = None,
        priority: Optional[str] = None,
        references: Iterable[str] = (),
        kind: Optional[str] = None,
    ) -> None:
        if isinstance(references, str):
            raise InvalidEvent(
                "references is one text, not a list of event ids",
                field="references",
                hint=f"write references=[{references!r}]",
            )
        values: dict[str, Any] = {
            "id": check_id(id),
            "version": _version(version),
            "payload": payload,
            "subject": _subject(subject),
            "source": source,
            "time": _time("time", time),
            "effective": _time("effective", effective),
            "expires": _time("expires", expires),
            "priority": _one_of("priority", priority, PRIORITIES),
            "references": tuple(check_id(reference, "references") for reference in references),
            "kind": _one_of("kind", kind, KINDS),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.to_json()

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as the hub takes them."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["references"] = list(self.references)
        optional = {k: v for k, v in fields.items() if k != "payload" and v not in (None, [])}
        return {**optional, "payload": self.payload}

    def to_json(self) -> bytes:
        """The body of the publish, checked against the limit."""
        body = _dump(self.to_dict())
        if len(body) > BODY_BYTES_MAX:
            raise InvalidEvent(
                f"the event has {len(body)} bytes; the limit is {BODY_BYTES_MAX}",
                field="payload",
                hint="keep payloads atomic: one logical change an event, large documents by reference",
            )
        return body


def check_id(value: object, field: str = "id") -> str:
    """An event's id, as it may be written."""
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise InvalidEvent(
            f"{field} {value!r} is not an id",
            field=field,
            hint="1 to 128 of A-Z a-z 0-9 . _ : - such as RULE-COURT-DEADLINE-V3",
        )
    return value


def _subject(value: Optional[str]) -> Optional[str]:
    if value is None:
        return None
    plain = isinstance(value, str) and value.strip() == value and not any(unicodedata.category(c) == "Cc" for c in value)
    if not plain or not 1 <= len(value.encode("utf-8", "surrogatepass")) <= 256:
        raise InvalidEvent(
            f"subject {value!r} is not a subject",
            field="subject",
            hint="1 to 256 visible characters such as RULE-COURT-DEADLINE; left out, it is the id less its version",
        )
    return value


def _version(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**32:
        raise InvalidEvent(
            f"version {value!r} is not a schema version",
            field="version",
            hint="a whole number from 1: the schema version of the payload, such as version=3",
        )
    return value


def _one_of(field: str, value: Optional[str], allowed: tuple[str, ...]) -> Optional[str]:
    if value is not None and value not in allowed:
        raise InvalidEvent(f"{field} {value!r} is unknown", field=field, hint=f"one of {', '.join(allowed)}")
    return value


def _time(field: str, value: Optional[Time]) -> Optional[str]:
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidEvent(
                f"{field} has no time zone",
                field=field,
                hint="give the datetime one, such as datetime.now(timezone.utc)",
            )
        return value.isoformat()
    if not isinstance(value, str) or not TIME.fullmatch(value):
        raise InvalidEvent(f"{field} {value!r} is not RFC 3339", field=field, hint="such as 2026-01-31T16:00:00Z")
    return value


def _dump(value: Any) -> bytes:
    """JSON with each Decimal written digit for digit: the json module knows only doubles, so a mark stands in."""
    mark = secrets.token_hex(8)
    numbers: list[str] = []

    def stand_in(item: Any) -> str:
        if isinstance(item, Decimal) and item.is_finite():
            numbers.append(str(item))
            return f"{mark}:{len(numbers) - 1}"
        raise TypeError(f"{type(item).__name__} is not a JSON value")

    try:
        text = json.dumps(value, default=stand_in, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text = re.sub(f'"{mark}:(\\d+)"', lambda found: numbers[int(found[1])], text) if numbers else text
        return text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidEvent(
            f"the payload is not JSON: {error}",
            field="payload",
            hint="dicts with text keys, lists, text, finite numbers, True, False, None",
        ) from error
