"""A partner on RabbitMQ through the whole hub: its file as the docs print it, the queue, the receipt, and what no queue takes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pika
import pytest
from conftest import ROOT, Client, Hub, event, wait_for
from postgres import free_port

PROGRAM = "/usr/lib/rabbitmq/bin/rabbitmq-server"


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def connect(port: int) -> Any:
    login = pika.PlainCredentials("hub", "s3cret")
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, "/", login))


def lets_in(port: int) -> bool:
    try:
        connect(port).close()
        return True
    except (OSError, pika.exceptions.AMQPError):
        return False


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[int]:
    """RabbitMQ with a name server and directories of its own; gives its port."""
    folder = tmp_path / "rabbit"
    folder.mkdir()
    port, names_port, dist_port = free_port(), free_port(), free_port()
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\ndefault_user = hub\ndefault_pass = s3cret\n"
    )
    for name in ("env.conf", "plugins"):
        (folder / name).touch()
    names = subprocess.Popen(["epmd", "-port", str(names_port), "-address", "127.0.0.1"], stderr=subprocess.DEVNULL)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(names_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
        "RABBITMQ_NODENAME": f"ess{port}@localhost",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_DIST_PORT": str(dist_port),
    }
    wait_for("epmd", lambda: listens(names_port))
    node = subprocess.Popen(
        [PROGRAM], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for("RabbitMQ", lambda: lets_in(port), 120)
        yield port
    finally:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()
        names.kill()
        names.wait()


def publish(client: Client, id: str, **more: Any) -> None:
    answer = client.ask("POST", "/v1/events", {**event(id, id[:-3]), **more})
    assert answer.status == 202, answer


def state(client: Client, id: str) -> Any:
    return client.get(f"/v1/events/{id}/status").get("COURT-CALENDAR")


def test_the_partner_of_the_page_gets_its_events_in_the_queue(
    start_hub: Callable[..., Hub], rabbit: int, tmp_path: Path
) -> None:
    hub = start_hub(AMQP_PASSWORD="s3cret")
    client = hub.client()
    text = (ROOT / "docs" / "channels" / "amqp.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert "127.0.0.1:5672" in text
    file = tmp_path / "partner.yaml"
    file.write_text(text.replace("127.0.0.1:5672", f"127.0.0.1:{rabbit}"))
    added = hub.run("partner", "add", str(file))
    assert added.returncode == 0, added.stdout + added.stderr

    # Before the partner has bound a queue a message is not dropped in silence, and goes out when it is redriven.
    publish(client, "RULE-A-V1")
    wait_for("the dead letter", lambda: state(client, "RULE-A-V1") == "dead")
    dead = client.get("/v1/dead-letters")["items"][0]
    assert "no queue takes" in str(dead), dead
    connection = connect(rabbit)
    channel = connection.channel()
    channel.queue_declare("court", durable=True)
    channel.queue_bind("court", "amq.topic", "rules.#")
    redriven = hub.run("dead-letters", "redrive", "--partner", "COURT-CALENDAR")
    assert redriven.returncode == 0, redriven.stdout + redriven.stderr
    wait_for("the ACK", lambda: state(client, "RULE-A-V1") == "ack")
    publish(client, "RULE-B-V1")
    wait_for("the other ACK", lambda: state(client, "RULE-B-V1") == "ack")
    publish(client, "RULE-C-V1", test=True)

    taken: list[Any] = []

    def take() -> bool:
        method, properties, body = channel.basic_get("court", auto_ack=True)
        if method is not None:
            taken.append((method.routing_key, properties, body))
        return len(taken) == 3

    wait_for("all messages", take)
    connection.close()
    assert [key for key, _, _ in taken] == ["rules.RULE-A", "rules.RULE-B", "rules.RULE-C"]
    _, properties, body = taken[0]
    assert b'"RULE-A-V1"' in body and properties.delivery_mode == 2 and properties.app_id == "hms-ess"
    assert properties.message_id == properties.headers["webhook-id"]
    assert properties.headers["webhook-signature"].startswith("v1,") and "x-hms-test" not in properties.headers
    assert taken[2][1].headers["x-hms-test"] == "true"
    entries = [(entry["event_id"], entry["word"], entry["evidence"]) for entry in client.pages("/v1/ledger")]
    assert ("RULE-A-V1", "ack", "status") in entries
