"""What a partner needs: say that an event arrived, or why not, and know that it came from the hub."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Any, Mapping, Optional, Protocol, Union

from . import _ed25519
from ._errors import BadSignature
from ._event import check_id


class Headers(Protocol):
    """Any framework's headers, or a plain dict."""

    def items(self) -> Any:
        """Names and values."""


def ack(id: str) -> dict[str, str]:
    """The body that acknowledges the event: ``{"ack": id}``. Answer it with a 2xx."""
    return {"ack": check_id(id)}


def nack(id: str, reason: str, retryable: bool = False) -> dict[str, Any]:
    """The body that refuses the event. ``retryable=True`` asks the hub to try again later."""
    return {"nack": check_id(id), "reason": str(reason), "retryable": bool(retryable)}


def is_test(headers: Optional[Headers] = None, event: Optional[Mapping[str, Any]] = None) -> bool:
    """Whether this is a dry run: by the header that no adapter can strip, or by the envelope's mark."""
    if headers is not None and _lower(headers).get("x-hms-test", "").strip().lower() == "true":
        return True
    return isinstance(event, Mapping) and event.get("test") is True


def verify(
    body: Union[bytes, str],
    headers: Headers,
    secret: Union[str, Sequence[str]],
    *,
    tolerance: float = 300,
    now: Optional[float] = None,
) -> bool:
    """Returns True when the body is the hub's, and raises ``BadSignature`` when it is not (Standard Webhooks).

    ``body`` is the request's raw bytes, before any parsing. ``secret`` is the partner's ``whsec_...``, a public key
    ``whpk_...`` of the hub, or several of either while one is being rotated. ``tolerance`` is in seconds.
    """
    sent = _lower(headers)
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    missing = [name for name in names if not sent.get(name)]
    if missing:
        raise BadSignature(f"the request has no {', '.join(missing)}", hint="only the hub's own requests are signed")
    message_id, stamp, signatures = (sent[name] for name in names)
    _check_age(stamp, tolerance, time.time() if now is None else now)
    raw = body.encode("utf-8") if isinstance(body, str) else bytes(body)
    signed = b".".join((message_id.encode("utf-8"), stamp.encode("ascii"), raw))
    keys = [_key(item) for item in ([secret] if isinstance(secret, str) else secret)]
    # A bound on what a stranger may make us compute: rotation needs two of each.
    for word in signatures.split(" ")[:8]:
        scheme, _, encoded = word.partition(",")
        if any(_matches(scheme, encoded, key, signed) for key in keys):
            return True
    raise BadSignature(
        "no signature of the request fits the secret",
        hint="pass the raw body, unparsed, and the secret that `hms-ess partner add` printed",
    )


def _matches(scheme: str, encoded: str, key: tuple[str, bytes], signed: bytes) -> bool:
    kind, raw = key
    try:
        signature = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    if scheme == "v1" and kind == "whsec":
        return hmac.compare_digest(hmac.new(raw, signed, hashlib.sha256).digest(), signature)
    return scheme == "v1a" and kind == "whpk" and _ed25519.verify(raw, signed, signature)


def _key(secret: str) -> tuple[str, bytes]:
    kind, rest = ("whpk", secret[5:]) if secret.startswith("whpk_") else ("whsec", secret)
    if rest.startswith("whsec_"):
        rest = rest[6:]
    try:
        raw = base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if not raw or (kind == "whpk" and len(raw) != 32):
        raise BadSignature(
            "the secret is not one of the hub's", hint="whsec_... or whpk_... exactly as the hub printed it"
        )
    return kind, raw


def _check_age(stamp: str, tolerance: float, now: float) -> None:
    # Digits only: int() would also take "+1", "1_0" and other scripts' digits.
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise BadSignature("webhook-timestamp is not a number of seconds")
    age = now - int(stamp)
    if abs(age) > tolerance:
        side = "old" if age > 0 else "ahead of this machine's clock"
        raise BadSignature(
            f"the request is {abs(age):.0f} s {side}; {tolerance:.0f} s are tolerated",
            hint="check both clocks; a request replayed by a stranger is refused by this",
        )


def _lower(headers: Headers) -> dict[str, str]:
    lowered: dict[str, str] = {}
    for name, value in headers.items():
        lowered[_text(name).lower()] = _text(value)
    return lowered


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
