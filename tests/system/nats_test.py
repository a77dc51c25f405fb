"""A partner on NATS through the whole hub: its file as the docs print it, the stream, the receipt, a server that restarts."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import nats
import pytest
from conftest import ROOT, Client, Hub, event, wait_for


class NatsServer:
    """nats-server with JetStream on a free port, and what its stream holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        users = 'authorization { users: [{ user: hub, password: "s3cret" }] }'
        store = self.folder / "store"
        config = self.folder / "server.conf"
        config.write_text(f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{store}" }}\n{users}\n')
        self.process = subprocess.Popen(["nats-server", "-c", str(config)], stderr=subprocess.DEVNULL)
        wait_for("nats-server", self._listens)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        except OSError:
            return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """Runs it with a JetStream context of NATS's own Python client."""

        async def run() -> Any:
            connection = await nats.connect(f"nats://127.0.0.1:{self.port}", user="hub", password="s3cret")
            try:
                return await question(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(run())

    def make_stream(self) -> None:
        self.ask(lambda stream: stream.add_stream(name="RULES", subjects=["rules.>"]))

    def messages(self) -> list[Any]:
        async def read(stream: Any) -> list[Any]:
            info = await stream.stream_info("RULES")
            return [await stream.get_msg("RULES", seq) for seq in range(1, info.state.last_seq + 1)]

        return list(self.ask(read))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    folder = tmp_path / "nats"
    folder.mkdir()
    server = NatsServer(folder)
    try:
        yield server
    finally:
        server.stop()


def partner_file(page: str, tmp_path: Path, **changes: str) -> Path:
    """The partner that the docs page prints, with these words in place of others."""
    text = (ROOT / "docs" / "channels" / page).read_text().split("```yaml\n")[1].split("```")[0]
    for old, new in changes.items():
        assert old in text, f"the page has no {old}"
        text = text.replace(old, new)
    path = tmp_path / "partner.yaml"
    path.write_text(text)
    return path


def publish(client: Client, *ids: str, **more: Any) -> None:
    for id in ids:
        answer = client.ask("POST", "/v1/events", {**event(id, id[:-3]), **more})
        assert answer.status == 202, answer


def state(client: Client, id: str) -> Any:
    return client.get(f"/v1/events/{id}/status").get("COURT-CALENDAR")


def test_the_partner_of_the_page_gets_its_events_in_the_stream(
    start_hub: Callable[..., Hub], server: NatsServer, tmp_path: Path
) -> None:
    server.make_stream()
    hub = start_hub(NATS_PASSWORD="s3cret")
    client = hub.client()
    file = partner_file("nats.md", tmp_path, **{"127.0.0.1:4222": f"127.0.0.1:{server.port}"})
    added = hub.run("partner", "add", str(file))
    assert added.returncode == 0, added.stdout + added.stderr
    publish(client, "RULE-A-V1", "RULE-B-V1")
    publish(client, "RULE-C-V1", test=True)
    wait_for("the ACKs", lambda: [state(client, f"RULE-{one}-V1") for one in "AB"] == ["ack"] * 2)
    wait_for("the dry run", lambda: len(server.messages()) == 3)
    found = {message.subject: message for message in server.messages()}
    assert sorted(found) == ["rules.RULE-A", "rules.RULE-B", "rules.RULE-C"]
    assert b'"RULE-A-V1"' in found["rules.RULE-A"].data
    headers = found["rules.RULE-A"].headers
    assert headers["webhook-id"] == headers["Nats-Msg-Id"] and headers["webhook-signature"].startswith("v1,")
    assert "x-hms-test" not in headers and found["rules.RULE-C"].headers["x-hms-test"] == "true"
    entries = [(entry["event_id"], entry["word"], entry["evidence"]) for entry in client.pages("/v1/ledger")]
    assert ("RULE-A-V1", "ack", "status") in entries and ("RULE-B-V1", "ack", "status") in entries


def test_a_server_that_was_away_gets_all_events_once_and_in_order(
    start_hub: Callable[..., Hub], server: NatsServer, tmp_path: Path
) -> None:
    server.make_stream()
    client = start_hub().client()
    partner = {
        "id": "COURT-CALENDAR",
        "channel": "nats",
        "url": f"nats://127.0.0.1:{server.port}/rules.all",
        "auth": {"user": "hub", "password": "s3cret"},
        "retry": {"first": "100ms", "max": "500ms"},
    }
    assert client.ask("POST", "/v1/partners", partner).status == 201
    ids = [f"RULE-X-V{number}" for number in range(1, 9)]
    publish(client, *ids[:3])
    wait_for("the first ACKs", lambda: all(state(client, id) == "ack" for id in ids[:3]))
    server.stop()
    publish(client, *ids[3:])
    wait_for("a failed attempt", lambda: state(client, ids[3]) == "retrying")
    server.start()
    wait_for("all ACKs", lambda: all(state(client, id) == "ack" for id in ids))
    assert [message.headers["x-hms-event-id"] for message in server.messages()] == ids


def test_a_partner_that_says_so_itself_is_heard_after_the_stream_has_the_event(
    start_hub: Callable[..., Hub], server: NatsServer
) -> None:
    server.make_stream()
    client = start_hub().client()
    partner = {
        "id": "COURT-CALENDAR",
        "channel": "nats",
        "url": f"nats://127.0.0.1:{server.port}/rules.{{subject}}",
        "auth": {"user": "hub", "password": "s3cret"},
        "ack": {"by": "callback"},
    }
    assert client.ask("POST", "/v1/partners", partner).status == 201
    publish(client, "RULE-A-V1")
    wait_for("the delivery", lambda: state(client, "RULE-A-V1") == "awaiting_ack")
    assert [message.subject for message in server.messages()] == ["rules.RULE-A"]
    said = client.ask("POST", "/v1/acks", {"ack": "RULE-A-V1", "partner": "COURT-CALENDAR"})
    assert said.status in (200, 202), said
    wait_for("the ACK", lambda: state(client, "RULE-A-V1") == "ack")
