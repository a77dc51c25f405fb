"""Receipts are plain dicts; a signature is believed only when it fits, judged by two public packages."""

from __future__ import annotations

import base64
from datetime import datetime, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flask import Flask, request
from standardwebhooks.webhooks import Webhook

from hms_ess import BadSignature, InvalidEvent, ack, is_test, nack, verify

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(32)).decode()
BODY = '{"id":"E-V1","payload":{"deadline":"16:00","word":"Fr\u00fchling"}}'
NOW = 1_800_000_000


def signed(secret: str = SECRET, body: str = BODY) -> dict[str, str]:
    stamp = datetime.fromtimestamp(NOW, tz=timezone.utc)
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(NOW),
        "webhook-signature": Webhook(secret).sign("msg_1", stamp, body),
    }


def ed25519() -> tuple[str, dict[str, str]]:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    signature = key.sign(f"msg_1.{NOW}.{BODY}".encode())
    headers = signed()
    headers["webhook-signature"] = "v1a," + base64.b64encode(signature).decode()
    return "whpk_" + base64.b64encode(public).decode(), headers


def test_ack_and_nack_are_what_flask_can_return() -> None:
    app = Flask("partner")
    app.add_url_rule("/ack", "ack", lambda: ack("E-V1"))
    app.add_url_rule("/nack", "nack", lambda: nack("E-V1", "unknown county"))
    client = app.test_client()
    assert client.get("/ack").get_json() == {"ack": "E-V1"}
    assert client.get("/nack").get_json() == {"nack": "E-V1", "reason": "unknown county", "retryable": False}
    assert type(ack("E-V1")) is dict
    with pytest.raises(InvalidEvent):
        ack("")


def test_a_body_signed_by_the_public_package_is_verified() -> None:
    assert verify(BODY, signed(), SECRET, now=NOW)
    assert verify(BODY.encode(), signed(), SECRET, now=NOW + 299)


def test_during_rotation_either_side_may_know_two_secrets() -> None:
    both = signed()
    both["webhook-signature"] = signed(OTHER)["webhook-signature"] + " v2,abc " + both["webhook-signature"]
    assert verify(BODY, both, SECRET, now=NOW)
    assert verify(BODY, signed(), [OTHER, SECRET], now=NOW)


def test_flask_headers_are_understood_whatever_their_case() -> None:
    app = Flask("partner")
    headers = {name.upper(): value for name, value in signed().items()}
    with app.test_request_context("/", method="POST", data=BODY.encode(), headers=headers):
        assert verify(request.get_data(), request.headers, SECRET, now=NOW)
    assert verify(BODY, {k.encode(): v.encode() for k, v in headers.items()}, SECRET, now=NOW)


def test_an_ed25519_signature_is_verified_by_the_hubs_public_key() -> None:
    public, headers = ed25519()
    assert verify(BODY, headers, public, now=NOW)
    assert verify(BODY, headers, [SECRET, public], now=NOW)
    with pytest.raises(BadSignature):
        verify(BODY + " ", headers, public, now=NOW)


@pytest.mark.parametrize("place", [0, 31, 32, 63])
def test_an_ed25519_signature_with_one_bit_changed_is_refused(place: int) -> None:
    public, headers = ed25519()
    raw = bytearray(base64.b64decode(headers["webhook-signature"][4:]))
    raw[place] ^= 1
    headers["webhook-signature"] = "v1a," + base64.b64encode(bytes(raw)).decode()
    with pytest.raises(BadSignature):
        verify(BODY, headers, public, now=NOW)


def test_ed25519_answers_the_vectors_of_rfc_8032() -> None:
    from hms_ess import _ed25519

    vectors = [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
            "d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
            "387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ]
    for public, message, signature in vectors:
        parts = [bytes.fromhex(part) for part in (public, message, signature)]
        assert _ed25519.verify(*parts)
        assert not _ed25519.verify(parts[0], parts[1] + b"x", parts[2])
        malleable = int.from_bytes(parts[2][32:], "little") + _ed25519.L
        assert not _ed25519.verify(parts[0], parts[1], parts[2][:32] + malleable.to_bytes(32, "little"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"webhook-timestamp": str(NOW - 301)}, "old"),
        ({"webhook-timestamp": str(NOW + 301)}, "ahead"),
        ({"webhook-timestamp": "soon"}, "number"),
        ({"webhook-timestamp": "-1"}, "number"),
        ({"webhook-timestamp": "\u0661"}, "number"),
        ({"webhook-id": "msg_2"}, "no signature"),
        ({"webhook-id": ""}, "has no webhook-id"),
        ({"webhook-signature": "v1,%%%"}, "no signature"),
        ({"webhook-signature": "v1"}, "no signature"),
        ({"webhook-signature": "v1a," + "A" * 88}, "no signature"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, str], says: str) -> None:
    with pytest.raises(BadSignature, match=says):
        verify(BODY, {**signed(), **changes}, SECRET, now=NOW)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%%", "whpk_AAAA", "hms_token"])
def test_a_secret_that_is_none_is_refused(secret: str) -> None:
    with pytest.raises(BadSignature):
        verify(BODY, signed(), secret, now=NOW)


@pytest.mark.parametrize(
    ("headers", "event", "expected"),
    [
        ({"X-HMS-Test": "true"}, {}, True),
        ({"x-hms-test": "true"}, None, True),
        ({}, {"test": True}, True),
        ({}, {"test": False}, False),
        ({"X-HMS-Test": "false"}, {"id": "E"}, False),
        (None, None, False),
    ],
)
def test_a_dry_run_is_known_by_header_or_envelope(headers: Any, event: Any, expected: bool) -> None:
    assert is_test(headers, event) is expected
