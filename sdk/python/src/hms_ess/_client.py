"""What a publisher, and a partner behind a firewall, ask of the hub."""

from __future__ import annotations

import json
import time
from typing import Any, Iterator, Mapping, Optional, TypedDict, cast
from urllib.parse import quote

from ._errors import InvalidEvent
from ._event import ChangeEvent, check_id
from ._http import call
from ._profile import Hub
from ._receive import ack, nack


class Blocked(TypedDict):
    """A partner that cannot get the event yet, why, and the command that mends it."""

    partner: str
    reason: str
    mend: str


class _Receipt(TypedDict):
    id: str
    sequence: int
    subject: str
    recorded_at: str
    test: bool
    partners: int
    blocked: list[Blocked]


class Receipt(_Receipt, total=False):
    """The hub's word that the event is durable. ``duplicate`` is there when it already was."""

    duplicate: bool


def publish(
    event: ChangeEvent,
    hub: Hub = None,
    dry_run: bool = False,
    *,
    headers: Optional[Mapping[str, str]] = None,
    timeout: float = 30.0,
) -> Receipt:
    """Publishes the event and returns when the hub has it durably. Calling it again with the same event is safe.

    ``hub`` is its address, or several (a list, or parted by commas): the one that answered last is asked first, and
    the next when it cannot be reached, hangs or is not ready.
    ``dry_run`` sends it marked as a test: partners must not act on it, and the real id stays free. ``headers`` are
    carried to every partner (``traceparent``, ``x-hms-trace-id``, ``x-hms-docket-id``).
    """
    if not isinstance(event, ChangeEvent):
        raise InvalidEvent(
            f"publish() takes a ChangeEvent, not {type(event).__name__}",
            field="event",
            hint="ChangeEvent(id=..., version=..., payload=...)",
        )
    sent = dict(headers or {})
    if dry_run:
        sent["X-HMS-Test"] = "true"
    answer = call("POST", "/v1/events", hub, body=event.to_json(), headers=sent, timeout=timeout)
    return cast(Receipt, answer)


def status(
    id: str,
    hub: Hub = None,
    *,
    test: bool = False,
    wait: Optional[int] = None,
    timeout: float = 30.0,
) -> dict[str, str]:
    """Where each partner stands: ``{'COURT-CAL': 'ack', 'LAW-FIRM-SYS': 'pending'}``.

    ``test`` asks for the dry run of that id; ``wait`` (seconds, at most 60) answers when all deliveries have ended.
    """
    query = [part for part in ("test=true" if test else "", f"wait={int(wait)}s" if wait else "") if part]
    path = f"/v1/events/{quote(check_id(id), safe='')}/status" + ("?" + "&".join(query) if query else "")
    answer = call("GET", path, hub, timeout=timeout, wait=float(wait or 0))
    return {str(partner): str(word) for partner, word in dict(answer or {}).items()}


class InboxMessage(dict[str, Any]):
    """An event from the inbox: the envelope as a dict (an adapter's own object, or nothing but ``text`` or ``base64``
    where it is no JSON), the header fields of a webhook, and the two words to answer it with."""

    def __init__(self, item: Mapping[str, Any], hub: Hub) -> None:
        envelope = item.get("envelope", item)
        super().__init__(envelope if isinstance(envelope, dict) else {"payload": envelope})
        self.headers: dict[str, str] = dict(item.get("headers", {}))
        self._id = str(item.get("event_id") or self["id"])
        self._test = item.get("test", self.get("test")) is True
        self._hub = hub

    def ack(self) -> None:
        """Tells the hub that the event was applied."""
        self._answer(ack(self._id))

    def nack(self, reason: str, retryable: bool = False) -> None:
        """Tells the hub that the event was refused, and why."""
        self._answer(nack(self._id, reason, retryable))

    def _answer(self, word: Mapping[str, Any]) -> None:
        body = {**word, "test": True} if self._test else word
        call("POST", "/v1/acks", self._hub, body=json.dumps(body).encode("utf-8"))


def inbox(partner: str, hub: Hub = None, *, wait: int = 30, forever: bool = True) -> Iterator[InboxMessage]:
    """Yields the partner's events as they come (long poll), for partners that no webhook can reach.

    Answer each with ``message.ack()`` or ``message.nack(reason)`` before taking the next; what is not answered comes
    again. The token must be the partner's own. ``forever=False`` ends when the inbox is empty.
    """
    path = f"/v1/partners/{quote(check_id(partner, 'partner'), safe='')}/inbox?wait={int(wait)}s"
    while True:
        answer = call("GET", path, hub, wait=float(wait))
        fetched = time.monotonic()
        items = answer.get("items", []) if isinstance(answer, dict) else []
        for item in items:
            # What lay here for too long is offered again, to whoever asks first.
            if (time.monotonic() - fetched) * 1000 >= float(item.get("lease_ms", "inf")):
                break
            yield InboxMessage(item, hub)
        if not items and not forever:
            return
