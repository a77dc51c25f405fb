"""A hub that stops in order, starts again, is copied while it runs, and has its data directory for itself."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from conftest import (
    Client,
    Hub,
    Loop,
    Request,
    Sink,
    acknowledge,
    add_partner,
    any_store,
    embedded_only,
    event,
    wait_for,
)

pytestmark = any_store

RETRY = {"first": "200ms", "factor": 1, "max": "200ms", "jitter": 0}
STOP_SECONDS = 2
#: For closing the store and the script workers.
SLACK_SECONDS = 1.5


def publish(client: Client, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        answer = client.ask("POST", "/v1/events", event(f"R-{number}", f"SUBJECT-{number % 5}"))
        assert answer.status == 202, answer


def all_acked(client: Client, ids: list[str]) -> bool:
    return all(set(client.get(f"/v1/events/{id}/status").values()) == {"ack"} for id in ids)


def log_of(client: Client) -> list[Any]:
    """The whole log, with what every delivery came to."""
    events = client.pages("/v1/events")
    deliveries = [client.get(f"/v1/events/{one['id']}/deliveries")["items"] for one in events]
    # A start signs a checkpoint of what is there.
    head = client.get("/v1/ledger/checkpoint")
    return [events, deliveries, client.pages("/v1/ledger"), head["size"], head["chain"]]


async def never(request: Request) -> Optional[tuple[int, bytes]]:
    await asyncio.sleep(3600)
    return None


def hold_an_attempt(client: Client, loop: Loop) -> None:
    """An attempt that would go on for a minute."""
    silent = Sink(loop, never)
    add_partner(client, "SILENT", silent.url, timeout="60s", ack={"by": "body", "within": "60s"})
    publish(client, 1)
    wait_for("an attempt under way", lambda: silent.arrivals)


def follow(hub: Hub) -> socket.socket:
    """A listener of the hub's own lifecycle."""
    stream = hub.socket()
    stream.sendall(f"GET /v1/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {hub.token}\r\n\r\n".encode())
    assert stream.recv(64).startswith(b"HTTP/1.1 200")
    return stream


@pytest.mark.parametrize("held_by", ["idle connections", "an attempt", "a stream", "an attempt and a stream"])
def test_sigterm_stops_within_the_bound_with_exit_code_0(
    start_hub: Callable[..., Hub], loop: Loop, held_by: str
) -> None:
    hub = start_hub(HMS_ESS_STOP_WITHIN=f"{STOP_SECONDS}s")
    client = hub.client()
    add_partner(client, "HEALTHY", Sink(loop).url)
    idle = [hub.socket() for _ in range(20)]
    if "attempt" in held_by:
        hold_an_attempt(client, loop)
    if "stream" in held_by:
        idle.append(follow(hub))
    began = time.monotonic()
    code = hub.terminate(seconds=STOP_SECONDS * 2 + 10)
    took = time.monotonic() - began
    for connection in idle:
        connection.close()
    said = "".join(hub.log)
    assert code == 0, f"stopped with exit code {code} after {took:.1f} s:\n{said}"
    assert took < STOP_SECONDS + SLACK_SECONDS, f"{took:.1f} s:\n{said}"


def test_an_open_delivery_goes_on_with_its_attempt_count(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub()
    client = hub.client()
    is_up = False

    async def down_at_first(request: Request) -> Optional[tuple[int, bytes]]:
        return await acknowledge(request) if is_up else (503, b"")

    partner = Sink(loop, down_at_first)
    add_partner(client, "DOWN", partner.url, retry=RETRY)
    publish(client, 1)
    deliveries = "/v1/events/R-0/deliveries"
    wait_for("some recorded attempts", lambda: client.get(deliveries)["items"][0]["attempts_made"] >= 3)
    assert hub.terminate() == 0
    before = [arrival.attempt for arrival in partner.arrivals]
    assert before == list(range(1, len(before) + 1))

    client = start_hub().client()
    wait_for("another attempt", lambda: len(partner.arrivals) > len(before))
    is_up = True
    wait_for("the ACK", lambda: all_acked(client, ["R-0"]))
    attempts = [arrival.attempt for arrival in partner.arrivals]
    assert attempts == list(range(1, len(attempts) + 1)), "the count goes on over the restart"
    [delivery] = client.get(deliveries)["items"]
    assert (delivery["state"], delivery["attempts_made"]) == ("ack", len(attempts))
    assert len({arrival.headers["webhook-id"] for arrival in partner.arrivals}) == 1


@embedded_only
def test_a_backup_of_a_running_hub_serves_the_same_log(
    start_hub: Callable[..., Hub], loop: Loop, tmp_path: Path
) -> None:
    hub = start_hub()
    client = hub.client()
    partner = Sink(loop)
    add_partner(client, "HEALTHY", partner.url)
    publish(client, 40)
    wait_for("the ACKs", lambda: all_acked(client, [f"R-{number}" for number in range(40)]))
    copy = tmp_path / "copy.db"
    before = log_of(client)
    answer = client.ask("POST", "/v1/backup", {"file": str(copy)})
    assert answer.status == 200 and answer.json == {"bytes": copy.stat().st_size}
    # A second one never overwrites the first, and the hub goes on.
    assert client.ask("POST", "/v1/backup", {"file": str(copy)}).status == 409
    publish(client, 5, first=100)

    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copy(copy, restored / "ess.db")
    for private in ("seal.key", "admin.token"):
        shutil.copy(hub.data / private, restored / private)
    assert hub.terminate() == 0
    client = start_hub(restored).client()
    assert log_of(client) == before
    assert client.ask("POST", "/v1/ledger/verify").json["ok"] is True
    # It is a whole hub: it goes on counting where the copy ends, and signs by the secret that was sealed.
    known = len(partner.arrivals)
    publish(client, 1, first=200)
    assert client.get("/v1/events/R-200")["sequence"] == 41
    wait_for("a delivery by the restored hub", lambda: len(partner.arrivals) > known)
    wait_for("its ACK", lambda: all_acked(client, ["R-200"]))
    # Nothing that was acknowledged goes out again.
    assert [arrival.event_id for arrival in partner.arrivals[known:]] == ["R-200"]


@embedded_only
def test_a_second_hub_on_the_same_data_directory_is_refused(start_hub: Callable[..., Hub], tmp_path: Path) -> None:
    hub = start_hub()
    other = {**hub.environment, "HMS_ESS_PROFILE": str(tmp_path / "other.json")}
    second = subprocess.run(hub.command(), env=other, capture_output=True, text=True, timeout=30)
    assert second.returncode == 1 and second.stdout == ""
    assert "another hub has this data directory open" in second.stderr and "hint:" in second.stderr
    assert hub.stranger().ask("GET", "/healthz").status == 200
    assert hub.client().ask("POST", "/v1/events", event("R-1", "S")).status == 202
