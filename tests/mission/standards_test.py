"""What leaves and enters the hub, judged by other people's packages: standardwebhooks, cryptography, cloudevents."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from datetime import datetime, timezone
from typing import Any, Optional

import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from conftest import Partner, Received, RunningHub, wait_for
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from hms_ess import BadSignature, ChangeEvent, Conflict, NotFound, Unauthorized, publish, status, verify


def ask(hub: RunningHub, method: str, path: str, body: Optional[bytes] = None, **headers: str) -> Any:
    """A request of Python's own client, so that nothing of ours judges ours."""
    sent = {"Authorization": f"Bearer {hub.profile['token']}", **headers}
    request = urllib.request.Request(hub.url + path, data=body, headers=sent, method=method)
    context = ssl.create_default_context(cafile=hub.profile["ca"])
    with urllib.request.urlopen(request, context=context, timeout=30) as answer:
        return json.load(answer)


def add(hub: RunningHub, partner: Partner) -> str:
    document = json.dumps({"id": "COURT-CAL", "url": partner.url, "channel": "webhook"}).encode()
    answer = ask(hub, "POST", "/v1/partners", document, **{"Content-Type": "application/json"})
    return str(answer["secret"])


def delivered(hub: RunningHub, partner: Partner) -> Received:
    publish(ChangeEvent("RULE-COURT-DEADLINE-V3", 3, {"deadline": "16:00", "n": 9007199254740993}))
    received: Received = wait_for("a delivery", lambda: partner.received)[0]
    return received


def test_a_delivery_is_signed_as_the_public_package_checks_it(hub: RunningHub, partner: Partner) -> None:
    secret = add(hub, partner)
    received = delivered(hub, partner)
    # It knows v1 alone and steps over v1a.
    Webhook(secret).verify(received.body.decode(), received.headers)
    assert verify(received.body, received.headers, secret)
    with pytest.raises(BadSignature):
        verify(received.body + b" ", received.headers, secret)
    assert b"9007199254740993" in received.body


def test_a_delivery_is_signed_with_ed25519_too(hub: RunningHub, partner: Partner) -> None:
    add(hub, partner)
    received = delivered(hub, partner)
    public = ask(hub, "GET", "/v1/keys")["keys"][0]
    assert public.startswith("whpk_")
    words = received.headers["webhook-signature"].split(" ")
    signature = next(word[4:] for word in words if word.startswith("v1a,"))
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(public[5:]))
    key.verify(base64.b64decode(signature), signed)
    assert verify(received.body, received.headers, public)


def test_both_secrets_sign_while_one_is_exchanged(hub: RunningHub, partner: Partner) -> None:
    old = add(hub, partner)
    overlap = json.dumps({"overlap": "1h"}).encode()
    rotated = ask(
        hub, "POST", "/v1/partners/COURT-CAL/rotate-secret", overlap, **{"Content-Type": "application/json"}
    )
    new = str(rotated["secret"])
    assert new != old
    received = delivered(hub, partner)
    for secret in (old, new):
        Webhook(secret).verify(received.body.decode(), received.headers)
    # Without an overlap the older ones end at once.
    none = json.dumps({"overlap": "0s"}).encode()
    last = ask(hub, "POST", "/v1/partners/COURT-CAL/rotate-secret", none, **{"Content-Type": "application/json"})
    publish(ChangeEvent("RULE-COURT-DEADLINE-V4", 3, {}))
    received = wait_for("the next delivery", lambda: partner.received[1:])[0]
    Webhook(str(last["secret"])).verify(received.body.decode(), received.headers)
    for secret in (old, new):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(received.body.decode(), received.headers)


def cloud_event(id: str) -> CloudEvent:
    attributes = {
        "id": id,
        "source": "https://gov.example/rules",
        "type": "gov.rule.changed",
        "specversion": "1.0",
        "subject": "RULE-COURT-DEADLINE",
        "time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        "datacontenttype": "application/json",
        "hmsversion": 3,
    }
    return CloudEvent(attributes=attributes, data={"deadline": "16:00"})


@pytest.mark.parametrize("write", [to_structured_event, to_binary_event])
def test_a_cloud_event_of_the_public_package_is_published(hub: RunningHub, partner: Partner, write: Any) -> None:
    add(hub, partner)
    message: HTTPMessage = write(cloud_event("RULE-COURT-DEADLINE-V3"))
    headers = {str(name): str(value) for name, value in message.headers.items()}
    receipt = ask(hub, "POST", "/v1/events", bytes(message.body), **headers)
    assert receipt["id"] == "RULE-COURT-DEADLINE-V3" and receipt["subject"] == "RULE-COURT-DEADLINE"
    assert status("RULE-COURT-DEADLINE-V3", wait=20) == {"COURT-CAL": "ack"}
    event = partner.received[0].event
    assert event["version"] == 3 and event["payload"] == {"deadline": "16:00"}


def test_the_sdk_meets_the_real_hubs_refusals(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    first = publish(ChangeEvent("E-V1", 1, {"a": 1}))
    again = publish(ChangeEvent("E-V1", 1, {"a": 1}))
    assert again["duplicate"] is True and again["sequence"] == first["sequence"]
    with pytest.raises(Conflict) as conflict:
        publish(ChangeEvent("E-V1", 1, {"a": 2}))
    assert conflict.value.code == "event_conflict" and conflict.value.request_id
    with pytest.raises(NotFound):
        status("NEVER-V1")
    monkeypatch.setenv("HMS_ESS_TOKEN", "hms_nobody")
    with pytest.raises(Unauthorized) as refused:
        publish(ChangeEvent("E-V2", 1, {}))
    assert refused.value.status == 401
