"""The partner of docs/channels/mqtt.md by a real Mosquitto, with paho as the kiosks' gateway."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import paho.mqtt.client as paho
import pytest
from certificates import Authority
from conftest import ROOT, Hub, event, wait_for

PARTNER = "COUNTY-KIOSKS"


class Broker:
    """Mosquitto with TLS and a password, on a free port."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.authority = Authority(folder / "ca")
        certificate, key = self.authority.issue("partner")
        for user in ("hms-ess", "gateway"):
            new = [] if (folder / "passwords").exists() else ["-c"]
            subprocess.run(["mosquitto_passwd", "-b", *new, str(folder / "passwords"), user, "secret"], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nuser root\nallow_anonymous false\npassword_file {folder}/passwords\n"
            f"certfile {certificate}\nkeyfile {key}\n"
        )
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.start()

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen([program, "-c", str(self.config)], stdout=quiet, stderr=quiet)

        def is_there() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for("the broker", is_there)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=20)
            self.process = None


class Gateway:
    """Acknowledges what it gets, by what `answer` says of it."""

    def __init__(self, broker: Broker, answer: Callable[[Any], Optional[bytes]]) -> None:
        self.answer = answer
        self.messages: list[Any] = []
        self.is_subscribed = False
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, "gateway", protocol=paho.MQTTv5)
        self.client.username_pw_set("gateway", "secret")
        self.client.tls_set(str(broker.authority.path))
        self.client.reconnect_delay_set(1, 1)
        self.client.on_connect = lambda client, *_: client.subscribe("rules/#", qos=1)
        self.client.on_subscribe = self._subscribed
        self.client.on_message = self._take
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        wait_for("the subscription", lambda: self.is_subscribed)

    def _subscribed(self, *_: Any) -> None:
        self.is_subscribed = True

    def _take(self, client: Any, _: Any, message: Any) -> None:
        self.messages.append(message)
        answer = self.answer(message)
        if answer is not None:
            properties = paho.Properties(paho.PacketTypes.PUBLISH)
            properties.CorrelationData = message.properties.CorrelationData
            client.publish(message.properties.ResponseTopic, answer, qos=1, properties=properties)

    def ids(self) -> list[str]:
        return [dict(message.properties.UserProperty)["x-hms-event-id"] for message in self.messages]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    running = Broker(tmp_path / "broker")
    yield running
    running.kill()


def start(start_hub: Callable[..., Hub], broker: Broker, tmp_path: Path, more: str = "") -> Hub:
    """A hub with the partner of the page."""
    page = (ROOT / "docs" / "channels" / "mqtt.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    partner = blocks[0].replace("broker.county.example:8883", f"127.0.0.1:{broker.port}") + more
    path = tmp_path / "partner.yaml"
    path.write_text(partner)
    hub = start_hub(HMS_ESS_PARTNER_CA=str(broker.authority.path), KIOSK_BROKER_PASSWORD="secret")
    added = hub.run("partner", "add", str(path))
    assert added.returncode == 0, added.stderr
    return hub


def publish(hub: Hub, id: str, **more: Any) -> None:
    answer = hub.client().ask("POST", "/v1/events", {**event(id, "RULE-A"), **more})
    assert answer.status == 202, answer


def state(hub: Hub, id: str) -> str:
    found = hub.client().get(f"/v1/events/{id}/deliveries")["items"]
    return str(found[0]["state"]) if found else ""


def test_the_pages_partner_is_reached_and_its_receipt_counts(
    start_hub: Callable[..., Hub], broker: Broker, tmp_path: Path
) -> None:
    refusing = {"E-2": b'{"nack": "E-2", "reason": "no such county"}'}
    gateway = Gateway(broker, lambda message: refusing.get(message.properties.CorrelationData.decode(), b""))
    hub = start(start_hub, broker, tmp_path)
    publish(hub, "E-1")
    wait_for("the receipt", lambda: state(hub, "E-1") == "ack")
    publish(hub, "E-2")
    wait_for("the refusal", lambda: state(hub, "E-2") in ("nack", "dead"))
    tested = hub.run("partner", "test", PARTNER)
    assert tested.returncode == 0 and "acknowledged" in tested.stdout, (tested.stdout, tested.stderr)
    wait_for("the dry run", lambda: len(gateway.messages) == 3)

    first = gateway.messages[0]
    properties = dict(first.properties.UserProperty)
    assert first.topic == "rules/RULE-A/v1"
    assert first.properties.ContentType == "application/json"
    assert properties["x-agency"] == "AOC" and properties["webhook-signature"].startswith("v1,")
    assert "x-hms-test" not in properties
    marks = [dict(message.properties.UserProperty).get("x-hms-test") for message in gateway.messages]
    assert marks == [None, None, "true"]
    ledger = hub.client().get("/v1/events/E-1/deliveries")["items"][0]
    assert "topic" in str(ledger), ledger
    assert "secret" not in "".join(hub.log) and "secret" not in str(hub.client().get(f"/v1/partners/{PARTNER}"))
    gateway.close()


def test_a_broker_that_restarts_gets_the_rest_in_order_and_doubles_only_what_was_in_flight(
    start_hub: Callable[..., Hub], broker: Broker, tmp_path: Path
) -> None:
    gateway = Gateway(broker, lambda message: b"")
    retry = "retry: {first: 50ms, factor: 1, max: 200ms, jitter: 0}\n"
    hub = start(start_hub, broker, tmp_path, retry)
    ids = [f"E-{number}" for number in range(40)]
    for id in ids[:20]:
        publish(hub, id)
    wait_for("some messages", lambda: len(gateway.messages) >= 5)
    broker.kill()
    for id in ids[20:]:
        publish(hub, id)
    gateway.is_subscribed = False
    broker.start()
    wait_for("the gateway", lambda: gateway.is_subscribed)
    wait_for("the last receipt", lambda: state(hub, ids[-1]) == "ack", 90)
    assert all(state(hub, id) == "ack" for id in ids)
    seen = gateway.ids()
    firsts = [id for at, id in enumerate(seen) if id not in seen[:at]]
    assert firsts == ids, "in order, and none lost"
    # One subject, so one was in flight.
    assert len(seen) - len(firsts) <= 2, seen
    gateway.close()


def test_a_partner_that_does_not_answer_the_test_is_told_from_one_that_does(
    start_hub: Callable[..., Hub], broker: Broker, tmp_path: Path
) -> None:
    hub = start(start_hub, broker, tmp_path, "timeout: 2s\n")
    silent = hub.run("partner", "test", PARTNER)
    wanted = f"delivered; the ACK comes on the topic acks/{PARTNER}, and none came within 2s"
    assert silent.returncode == 1 and wanted in silent.stdout, (silent.stdout, silent.stderr)

    def refuse(message: Any) -> bytes:
        id = message.properties.CorrelationData.decode()
        return json.dumps({"nack": id.removesuffix(";test"), "reason": "no such county"}).encode()

    gateway = Gateway(broker, refuse)
    refused = hub.run("partner", "test", PARTNER)
    assert refused.returncode == 1 and "no such county" in refused.stdout, (refused.stdout, refused.stderr)
    gateway.close()
