"""A store that is full: publishers are told to come back, nothing is half done, and no restart is needed."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from harness import Answer, Client, Hub, Partners, acknowledge, partner_document, wait_for

DISK_MIB = 24
PAYLOAD = "x" * 60_000
PUBLISHES_MAX = 2_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True) if os.geteuid() == 0 else None
    if done is None or done.returncode != 0:
        pytest.skip(f"a small disk takes root and mount: {done.stderr.strip() if done else 'not root'}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def event(number: int) -> dict[str, Any]:
    return {"id": f"EVT-{number}", "version": 1, "payload": {"number": number, "fill": PAYLOAD}}


def publish_until_refused(client: Client, per_second: float = 1_000.0) -> tuple[int, Answer]:
    """The number of the first event that was not taken, and the answer."""
    next_at = time.monotonic()
    for number in range(PUBLISHES_MAX):
        time.sleep(max(0.0, next_at - time.monotonic()))
        next_at += 1.0 / per_second
        answer = client.ask("POST", "/v1/events", event(number))
        if answer.status != 202:
            return number, answer
    raise AssertionError(f"{PUBLISHES_MAX} publishes of {len(PAYLOAD)} bytes were taken")


def check_refusal(answer: Answer) -> None:
    assert answer.status == 503, answer
    assert int(answer.headers["retry-after"]) > 0, answer.headers
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unavailable", answer.json()


def check_nothing_half_done(client: Client, refused: int) -> None:
    """What was refused is not there; what was taken is."""
    assert client.ask("GET", f"/v1/events/EVT-{refused}").status == 404
    log = client.pages("/v1/events", 100)
    assert [item["id"] for item in log] == [f"EVT-{number}" for number in range(refused)]
    assert client.ask("GET", "/healthz").status == 200


def check_goes_on(client: Client, partners: Partners, refused: int) -> None:
    """The same id is a plain 202 now, once the hub has seen that the store is back, and everything arrives."""
    answers: list[Answer] = []

    def is_taken() -> bool:
        answers.append(client.ask("POST", "/v1/events", event(refused)))
        return answers[-1].status != 503

    wait_for("the store to be back", is_taken, 30)
    assert answers[-1].status == 202, answers[-1]
    assert "duplicate" not in answers[-1].json()
    assert client.ask("POST", "/v1/events", event(refused)).status == 200
    expected = {f"EVT-{number}" for number in range(refused + 1)}
    wait_for("every event at the partner", lambda: {arrival.event for arrival in partners.arrivals} == expected, 60)
    words = wait_for(
        "the last receipt",
        lambda: (found := client.ask("GET", f"/v1/events/EVT-{refused}/status").json()) == {"P": "ack"} and found,
        30,
    )
    assert words == {"P": "ack"}
    verified = client.ask("POST", "/v1/ledger/verify", {})
    assert verified.status == 200, verified


def add_partner(client: Client, partners: Partners) -> None:
    document = partner_document("P", partners.listen(acknowledge), retry={"first": "100ms"})
    assert client.ask("POST", "/v1/partners", document).status == 201


def test_a_full_disk_refuses_publishes_until_there_is_room(
    make_hub: Callable[..., Hub], partners: Partners, disk: Path
) -> None:
    hub = make_hub(data=str(disk / "data"), free_bytes_min="0").start()
    client = hub.client()
    add_partner(client, partners)
    fill = disk / "fill"
    with fill.open("wb") as file:
        # Room for some events, then none.
        file.write(b"\0" * (DISK_MIB - 8 << 20))
    refused, answer = publish_until_refused(client)
    check_refusal(answer)
    check_nothing_half_done(client, refused)
    fill.unlink()
    check_goes_on(client, partners, refused)
    hub.stop()


def test_too_little_free_space_refuses_publishes_before_the_disk_is_full(
    make_hub: Callable[..., Hub], partners: Partners, disk: Path
) -> None:
    hub = make_hub(data=str(disk / "data"), free_bytes_min=str(8 << 20)).start()
    client = hub.client()
    add_partner(client, partners)
    fill = disk / "fill"
    with fill.open("wb") as file:
        file.write(b"\0" * (DISK_MIB - 14 << 20))
    # The hub looks at the disk once a second: at this rate that is some 1.2 MB, well before the disk is full.
    refused, answer = publish_until_refused(client, per_second=20.0)
    check_refusal(answer)
    free = os.statvfs(disk)
    assert free.f_bavail * free.f_frsize > 4 << 20, "it noticed too late"
    check_nothing_half_done(client, refused)
    fill.unlink()
    check_goes_on(client, partners, refused)
    hub.stop()


def test_a_store_at_its_ceiling_refuses_publishes_and_goes_on_when_it_is_raised(
    make_hub: Callable[..., Hub], partners: Partners
) -> None:
    hub = make_hub(store_bytes_max=str(4 << 20)).start()
    client = hub.client()
    add_partner(client, partners)
    refused, answer = publish_until_refused(client)
    check_refusal(answer)
    check_nothing_half_done(client, refused)
    client.close()
    hub.stop()
    # The ceiling is configuration: it takes a restart.
    hub.settings["store_bytes_max"] = str(64 << 20)
    hub.start()
    check_goes_on(hub.client(), partners, refused)
    hub.stop()
