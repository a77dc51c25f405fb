"""A partner on Kafka through the whole hub: its file as the docs print it, the topic, the receipt, and a topic that is not there."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Callable

from conftest import ROOT, Client, Hub, event, wait_for
from kafka_cluster import Cluster


def publish(client: Client, id: str, **more: Any) -> None:
    answer = client.ask("POST", "/v1/events", {**event(id, id[:-3]), **more})
    assert answer.status == 202, answer


def state(client: Client, id: str) -> Any:
    return client.get(f"/v1/events/{id}/status").get("COURT-STREAM")


def test_the_partner_of_the_page_gets_its_events_in_the_topic(start_hub: Callable[..., Hub], tmp_path: Path) -> None:
    cluster = Cluster(2)
    hub = start_hub()
    client = hub.client()
    text = (ROOT / "docs" / "channels" / "kafka.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert "127.0.0.1:9092" in text
    file = tmp_path / "partner.yaml"
    file.write_text(text.replace("127.0.0.1:9092", cluster.addresses[0]) + "retry: {first: 200ms, max: 200ms}\n")
    added = hub.run("partner", "add", str(file))
    assert added.returncode == 0, added.stdout + added.stderr

    # Before the partner has created the topic nothing is lost, and it goes out by itself afterwards.
    publish(client, "RULE-A-V1")
    wait_for("a failure", lambda: state(client, "RULE-A-V1") == "retrying")
    [delivery] = client.get("/v1/events/RULE-A-V1/deliveries")["items"]
    assert "topic rules.COURT-STREAM is not there" in str(delivery), delivery
    cluster.make("rules.COURT-STREAM", 3)
    wait_for("the ACK", lambda: state(client, "RULE-A-V1") == "ack")

    # A broker goes and takes its partitions' leaders along.
    for partition in range(3):
        cluster.lead("rules.COURT-STREAM", partition, 1)
    publish(client, "RULE-A-V2")
    wait_for("the second ACK", lambda: state(client, "RULE-A-V2") == "ack")
    cluster.down(1)
    publish(client, "RULE-A-V3")
    wait_for("a failure", lambda: state(client, "RULE-A-V3") == "retrying")
    for partition in range(3):
        cluster.lead("rules.COURT-STREAM", partition, 2)
    wait_for("the third ACK", lambda: state(client, "RULE-A-V3") == "ack")
    cluster.up(1)
    publish(client, "RULE-B-V1", test=True)
    wait_for("the dry run", lambda: len(cluster.messages("rules.COURT-STREAM")) == 4)

    messages = cluster.messages("rules.COURT-STREAM")
    real = [message for message in messages if message["key"] == "RULE-A"]
    assert len({message["partition"] for message in real}) == 1
    bodies = [base64.b64decode(message["body"]).decode() for message in real]
    assert ['"RULE-A-V1"' in bodies[0], '"RULE-A-V2"' in bodies[1], '"RULE-A-V3"' in bodies[2]] == [True] * 3
    headers = real[0]["headers"]
    assert headers["webhook-id"].startswith("msg_") and headers["webhook-signature"].startswith("v1,")
    assert headers["content-type"] == "application/json" and "x-hms-test" not in headers
    [dry_run] = [message for message in messages if message["key"] == "RULE-B"]
    assert dry_run["headers"]["x-hms-test"] == "true"
    entries = [(entry["event_id"], entry["word"], entry["evidence"]) for entry in client.pages("/v1/ledger")]
    assert ("RULE-A-V1", "ack", "status") in entries
