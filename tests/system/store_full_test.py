"""A store that is full: publishing is refused as a whole, nothing is half-done, and room mends it without a restart."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from conftest import Answer, Client, Hub, Loop, Sink, add_partner, embedded_only, event, wait_for

pytestmark = embedded_only

PAYLOAD = "x" * 4_000
EVENTS_MAX = 5_000
TMPFS_BYTES = 6 * 1024 * 1024


def publish_until_refused(client: Client, first: int = 0) -> tuple[list[Any], str, Answer]:
    """Publishes until the hub says no; answers the receipts, the refused id and the refusal."""
    receipts: list[Any] = []
    for number in range(first, first + EVENTS_MAX):
        id = f"F-{number}"
        answer = client.ask("POST", "/v1/events", event(id, f"S-{number % 5}", PAYLOAD))
        if answer.status != 202:
            return receipts, id, answer
        receipts.append(answer.json)
    raise AssertionError(f"{EVENTS_MAX} events of {len(PAYLOAD)} bytes, and the store is not full")


def check_refusal(answer: Answer) -> None:
    assert answer.status == 503, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    problem = answer.json
    assert problem["code"] == "unavailable" and problem["status"] == 503 and problem["detail"], problem


def check_nothing_half_done(client: Client, receipts: list[Any], refused: str) -> None:
    """The log is exactly what was receipted."""
    log = [(one["id"], one["sequence"]) for one in client.pages("/v1/events")]
    assert log == [(one["id"], one["sequence"]) for one in receipts]
    assert [sequence for _, sequence in log] == list(range(1, len(log) + 1))
    for path in ("", "/status", "/deliveries"):
        answer = client.ask("GET", f"/v1/events/{refused}{path}")
        assert answer.status == 404, f"{refused}{path}: {answer}"


def all_acked(client: Client, receipts: list[Any]) -> bool:
    return all(set(client.get(f"/v1/events/{one['id']}/status").values()) == {"ack"} for one in receipts)


def test_a_store_at_its_ceiling_refuses_whole_events(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub(HMS_ESS_STORE_BYTES_MAX="400000")
    client = hub.client()
    partner = Sink(loop)
    add_partner(client, "HEALTHY", partner.url)
    receipts, refused, answer = publish_until_refused(client)
    check_refusal(answer)
    # An event of this size takes about two pages: far fewer than these would be an early no, far more no ceiling.
    assert 20 < len(receipts) < 200, len(receipts)
    check_nothing_half_done(client, receipts, refused)
    # It is refused again, and the health of the process is another question than that of its store.
    check_refusal(client.ask("POST", "/v1/events", event(refused, "S", PAYLOAD)))
    assert client.ask("GET", "/healthz").status == 200
    assert client.ask("GET", "/readyz").status == 503
    # What it has it can still show, and what was sent arrived.
    ids = {one["id"] for one in receipts}
    wait_for("every event at the partner", lambda: {arrival.event_id for arrival in partner.arrivals} >= ids)
    check_nothing_half_done(client, receipts, refused)

    # More room, by configuration: everything goes on where it was.
    hub.kill()
    client = start_hub(HMS_ESS_STORE_BYTES_MAX="40000000").client()
    check_nothing_half_done(client, receipts, refused)
    again = client.ask("POST", "/v1/events", event(refused, "S", PAYLOAD))
    assert again.status == 202 and again.json["sequence"] == len(receipts) + 1, again
    wait_for("the ACKs", lambda: all_acked(client, [*receipts, again.json]))
    assert client.ask("GET", "/readyz").status == 200
    assert client.ask("POST", "/v1/ledger/verify").json["size"] == len(receipts) + 1


def test_a_bulk_body_over_the_ceiling_says_for_each_line_what_became_of_it(start_hub: Callable[..., Hub]) -> None:
    client = start_hub(HMS_ESS_STORE_BYTES_MAX="400000").client()
    lines = [json.dumps(event(f"B-{number}", f"S-{number % 5}", PAYLOAD)) for number in range(400)]
    answer = client.ask("POST", "/v1/events", "\n".join(lines).encode(), {"content-type": "application/x-ndjson"})
    assert answer.status == 200, answer
    results = answer.json["results"]
    assert [one["line"] for one in results] == list(range(1, 401))
    taken = [one["receipt"] for one in results if one["status"] == 202]
    refused = [one for one in results if one["status"] != 202]
    assert refused and all(one["status"] == 503 and one["problem"]["code"] == "unavailable" for one in refused)
    assert answer.json["recorded"] == len(taken) and answer.json["refused"] == len(refused)
    log = [(one["id"], one["sequence"]) for one in client.pages("/v1/events")]
    assert log == sorted(((one["id"], one["sequence"]) for one in taken), key=lambda pair: pair[1])
    assert [sequence for _, sequence in log] == list(range(1, len(log) + 1))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of six megabytes of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs can't be mounted here: {mounted.stderr.strip()}")
    yield place
    # Lazily: a hub that the test left is stopped by a later fixture.
    subprocess.run(["umount", "-l", str(place)], check=True, timeout=30)


def fill(ballast: Path) -> None:
    """Takes every byte that is left."""
    with ballast.open("ab", buffering=0) as file:
        for size in (65_536, 4_096, 512, 1):
            try:
                while True:
                    file.write(b"b" * size)
            except OSError:
                continue


def test_a_full_disk_refuses_and_room_mends_it_without_a_restart(
    small_disk: Path, start_hub: Callable[..., Hub], loop: Loop
) -> None:
    hub = start_hub(small_disk / "data", HMS_ESS_FREE_BYTES_MIN="0")
    client = hub.client()
    add_partner(client, "HEALTHY", Sink(loop).url)
    receipts = []
    for number in range(50):
        receipts.append(client.ask("POST", "/v1/events", event(f"F-{number}", "S", PAYLOAD)).json)
    ballast = small_disk / "ballast"
    fill(ballast)
    more, refused, answer = publish_until_refused(client, first=50)
    receipts += more
    check_refusal(answer)
    check_refusal(client.ask("POST", "/v1/events", event(refused, "S", PAYLOAD)))
    assert client.ask("GET", "/healthz").status == 200
    check_nothing_half_done(client, receipts, refused)

    os.unlink(ballast)
    tries: list[Answer] = []

    def taken() -> bool:
        tries.append(client.ask("POST", "/v1/events", event(refused, "S", PAYLOAD)))
        return tries[-1].status != 503

    wait_for("the hub to see that there is room", taken, seconds=10)
    # A plain 202: what was refused had left no trace, not even of its id.
    assert tries[-1].status == 202 and "duplicate" not in tries[-1].json, tries[-1]
    assert tries[-1].json["sequence"] == len(receipts) + 1
    receipts.append(tries[-1].json)
    assert hub.process.poll() is None
    wait_for("the ACKs", lambda: all_acked(client, receipts))
    assert client.ask("POST", "/v1/ledger/verify").json["size"] == len(receipts)
    wait_for("readiness", lambda: client.ask("GET", "/readyz").status == 200)

    # And what was written through all of that is whole after a kill.
    hub.kill()
    client = start_hub(small_disk / "data", HMS_ESS_FREE_BYTES_MIN="0").client()
    assert [one["id"] for one in client.pages("/v1/events")] == [one["id"] for one in receipts]
    assert all_acked(client, receipts)


def test_too_little_free_space_is_refused_before_the_disk_is_full(
    small_disk: Path, start_hub: Callable[..., Hub]
) -> None:
    hub = start_hub(small_disk / "data", HMS_ESS_FREE_BYTES_MIN=str(2 * 1024 * 1024))
    client = hub.client()
    assert client.ask("POST", "/v1/events", event("F-0", "S")).status == 202
    ballast = small_disk / "ballast"
    disk = os.statvfs(small_disk)
    ballast.write_bytes(b"b" * (disk.f_bavail * disk.f_frsize - 3 * 1024 * 1024 // 2))
    wait_for("the shortage", lambda: client.ask("GET", "/readyz").status == 503, seconds=10)
    check_refusal(client.ask("POST", "/v1/events", event("F-1", "S")))
    assert client.get("/v1/events/F-0")["sequence"] == 1
    ballast.unlink()
    wait_for("readiness", lambda: client.ask("GET", "/readyz").status == 200, seconds=10)
    assert client.ask("POST", "/v1/events", event("F-1", "S")).json["sequence"] == 2
