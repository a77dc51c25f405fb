"""A store whose disk fails at any step: publishes are refused whole, nothing floods a partner, and it mends without a restart.

The disk is `faults/fault.c`: each case names which calls on which file fail, with which error, once or until it is mended.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import pytest
from conftest import Client, Hub, Loop, Request, Sink, acknowledge, add_partner, embedded_only, event, wait_for
from faults.disk import ANY_CHANGE, CREATE, FOREVER, LINK, MKDIR, RENAME, SYNC, TRUNCATE, WRITE, Disk
from power_loss_test import made, start_once
from store_full_test import check_refusal

pytestmark = embedded_only

SEED = int(os.environ.get("POWER_SEED", "20261126"))
#: Starts that fail at a step of their own, of each kind of failure.
FAILED_STARTS = 6
#: Longer than two receipts may take in these tests: what would be sent again would have been sent by then.
STILL_SECONDS = 0.7
RETRY = {"first": "100ms", "factor": 1, "max": "150ms", "jitter": 0}
BIG = "x" * 150_000


class Step(NamedTuple):
    """Where the hub writes, and what goes wrong there."""

    name: str
    file: str
    op: int
    error: int
    torn: bool = False


STEPS = [
    Step("log-full", "ess.db-wal", WRITE, errno.ENOSPC),
    Step("log-full-in-the-middle", "ess.db-wal", WRITE, errno.ENOSPC, torn=True),
    Step("log-write", "ess.db-wal", WRITE, errno.EIO),
    Step("log-write-in-the-middle", "ess.db-wal", WRITE, errno.EIO, torn=True),
    Step("log-sync", "ess.db-wal", SYNC, errno.EIO),
    Step("log-sync-full", "ess.db-wal", SYNC, errno.ENOSPC),
    Step("database-full", "ess.db", WRITE, errno.ENOSPC),
    Step("database-write", "ess.db", WRITE, errno.EIO, torn=True),
    Step("database-sync", "ess.db", SYNC, errno.EIO),
    Step("database-size", "ess.db", TRUNCATE, errno.EIO),
    Step("everything-full", "", ANY_CHANGE, errno.ENOSPC),
    Step("everything", "", ANY_CHANGE | SYNC, errno.EIO),
]


class Publisher:
    """Publishes, and remembers what it was told."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.receipts: list[Any] = []
        self.refused: list[str] = []

    def publish(self, payload: Any = None) -> bool:
        """One more event; true when it was taken."""
        id = f"F-{len(self.receipts) + len(self.refused)}"
        answer = self.client.ask("POST", "/v1/events", event(id, f"S-{len(self.receipts) % 3}", payload))
        if answer.status == 202:
            self.receipts.append(answer.json)
            return True
        check_refusal(answer)
        assert answer.json["hint"], answer.json
        self.refused.append(id)
        return False

    def publish_again(self) -> None:
        """What was refused, until it is taken: its id is free."""
        for id in self.refused:

            def is_taken() -> bool:
                answer = self.client.ask("POST", "/v1/events", event(id, "AGAIN"))
                if answer.status == 503:
                    return False
                assert answer.status == 202 and "duplicate" not in answer.json, f"{id} was half there: {answer}"
                self.receipts.append(answer.json)
                return True

            wait_for("the hub to see that the disk is well", is_taken, seconds=10)
        self.refused = []


def provoke(publisher: Publisher, disk: Disk, lasts: bool) -> None:
    """Publishes until the failure was met, and until it shows when it lasts. Large events make the log long enough to be moved."""
    for _ in range(200):
        publisher.publish(BIG)
        if disk.failed and (publisher.refused or not lasts):
            return
    raise AssertionError(f"{disk.failed} calls failed, and {len(publisher.refused)} publishes were refused")


def check_while_it_lasts(client: Client, publisher: Publisher) -> None:
    """Nothing is taken, nothing is half there, and everybody is told."""
    assert not publisher.publish()
    assert client.ask("GET", "/readyz").status == 503
    assert client.ask("GET", "/healthz").status == 200
    for id in publisher.refused:
        assert client.ask("GET", f"/v1/events/{id}").status == 404, f"{id} was refused and is there"
    answer = client.ask("POST", "/v1/partners", {"id": "NEW", "channel": "webhook", "url": "http://127.0.0.1:9/"})
    assert answer.status == 503 and answer.json["hint"], answer
    assert [view["id"] for view in client.get("/v1/partners")["items"]] == ["P"]
    assert len(client.pages("/v1/events")) == len(publisher.receipts)


def all_acked(client: Client, receipts: list[Any]) -> bool:
    return all(set(client.get(f"/v1/events/{one['id']}/status").values()) == {"ack"} for one in receipts)


def check_record(client: Client, publisher: Publisher) -> None:
    """The log is exactly what was receipted, and each delivery ended once."""
    log = [(one["id"], one["sequence"]) for one in client.pages("/v1/events")]
    assert log == [(one["id"], one["sequence"]) for one in publisher.receipts]
    entries = Counter(entry["event_id"] for entry in client.pages("/v1/ledger"))
    assert entries == Counter(one["id"] for one in publisher.receipts), "each receipt is in the ledger once"
    assert client.ask("POST", "/v1/ledger/verify").json["ok"] is True


@pytest.mark.parametrize("lasts", [False, True], ids=["once", "lasting"])
@pytest.mark.parametrize("step", STEPS, ids=[step.name for step in STEPS])
def test_a_failing_disk_refuses_whole_events_and_mends_without_a_restart(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk, step: Step, lasts: bool
) -> None:
    hub = start_hub(disk.data, **disk.settings())
    client = hub.client()
    partner = Sink(loop)
    add_partner(client, "P", partner.url, retry=RETRY)
    publisher = Publisher(client)
    for _ in range(3):
        assert publisher.publish()
    disk.fail(step.op, step.error, step.file, count=FOREVER if lasts else 1, torn=step.torn)
    provoke(publisher, disk, lasts)
    if lasts:
        check_while_it_lasts(client, publisher)
    disk.mend()
    publisher.publish_again()
    wait_for("readiness", lambda: client.ask("GET", "/readyz").status == 200, seconds=10)
    assert publisher.publish()
    wait_for("the ACKs", lambda: all_acked(client, publisher.receipts))
    assert hub.process.poll() is None
    check_record(client, publisher)
    # The hub never died: nothing had to be sent twice.
    arrived = Counter(arrival.event_id for arrival in partner.arrivals)
    assert arrived == Counter(one["id"] for one in publisher.receipts)
    # And all of that is on the disk: after a cut that takes everything unsynced, and what failed syncs only seemed to write.
    hub.kill()
    disk.cut(random.Random(SEED), keep=0)
    client = start_hub(disk.data).client()
    check_record(client, publisher)
    assert all_acked(client, publisher.receipts)


async def say_nothing(request: Request) -> Optional[tuple[int, bytes]]:
    """A partner that takes everything and acknowledges nothing."""
    return 200, b"{}"


def is_still(sink: Sink) -> bool:
    """Nothing arrived for longer than it takes to be sent again."""
    before = len(sink.arrivals)
    threading.Event().wait(STILL_SECONDS)
    return len(sink.arrivals) == before


WITHIN, RESEND = "200ms", 2
ATTEMPTS_MAX = 1 + RESEND
KILLS = 4
BACKLOG = 2_000
#: Outcomes that may wait for a store that can't write, and what was under way or on its way when they were reached.
UNRECORDED_MAX = 1_024 + 256 + 16


def quiet_partner(client: Client, loop: Loop) -> Sink:
    sink = Sink(loop, say_nothing)
    # By callback: else the time for the ACK is the time for the answer too, and a busy machine makes failures of it.
    add_partner(client, "P", sink.url, retry=RETRY, ack={"by": "callback", "within": WITHIN, "resend": RESEND})
    return sink


@pytest.mark.parametrize("step", [STEPS[0], STEPS[4], STEPS[-1]], ids=["full", "sync", "everything"])
def test_nothing_floods_a_partner_while_no_outcome_can_be_written_down(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk, step: Step
) -> None:
    hub = start_hub(disk.data, **disk.settings())
    client = hub.client()
    sink = quiet_partner(client, loop)
    ids = [f"F-{number}" for number in range(20)]
    for id in ids:
        assert client.ask("POST", "/v1/events", event(id, id)).status == 202
    disk.fail(step.op, step.error, step.file)

    def attempts() -> Counter[str]:
        return Counter(arrival.event_id for arrival in sink.arrivals)

    wait_for("every attempt", lambda: set(attempts().values()) == {ATTEMPTS_MAX} and len(attempts()) == len(ids))
    wait_for("an end of sending", lambda: is_still(sink))
    assert set(attempts().values()) == {ATTEMPTS_MAX}
    # Killed and started again and again, it sends nothing before it can write.
    for _ in range(4):
        hub.kill()
        try:
            hub = start_hub(disk.data, **disk.settings())
        except AssertionError as refusal:
            assert "error: " in str(refusal), refusal
            continue
        assert hub.client().ask("GET", "/readyz").status == 503
        assert is_still(sink)
    assert set(attempts().values()) == {ATTEMPTS_MAX}, "a hub that can't write was started, and sent"
    disk.mend()
    if hub.process.poll() is not None:
        hub = start_hub(disk.data, **disk.settings())
    client = hub.client()

    def is_outstanding() -> bool:
        return all(client.get(f"/v1/events/{id}/status") == {"P": "awaiting_ack"} for id in ids)

    # What could not be written down is sent again, once for all these kills, and then left to the partner's word.
    wait_for("an end of every delivery", lambda: is_outstanding() and is_still(sink))
    most, count = attempts().most_common(1)[0]
    story = [(round(one.at, 3), one.attempt) for one in sink.arrivals if one.event_id == most]
    assert count <= 2 * ATTEMPTS_MAX, f"{most}: {story}"


def test_a_store_that_can_not_write_bounds_what_a_kill_would_repeat(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk
) -> None:
    client = start_hub(disk.data, **disk.settings()).client()
    is_open = threading.Event()

    async def acknowledge_when_open(request: Request) -> Optional[tuple[int, bytes]]:
        while not is_open.is_set():
            await asyncio.sleep(0.01)
        return await acknowledge(request)

    sink = Sink(loop, acknowledge_when_open)
    add_partner(client, "P", sink.url, retry=RETRY, order="none")
    lines = [json.dumps(event(f"F-{number}", f"S-{number}")) for number in range(BACKLOG)]
    answer = client.ask("POST", "/v1/events", "\n".join(lines).encode(), {"content-type": "application/x-ndjson"})
    assert answer.json["recorded"] == BACKLOG, answer
    disk.fail(WRITE, errno.ENOSPC, "ess.db-wal")
    is_open.set()
    wait_for("some to be sent", lambda: len(sink.arrivals) > 500)
    wait_for("an end of sending", lambda: is_still(sink))
    assert len(sink.arrivals) <= UNRECORDED_MAX, f"{len(sink.arrivals)} were sent, and no outcome was written down"
    disk.mend()
    wait_for("the rest", lambda: client.get("/v1/partners/P")["backlog"] == 0)
    wait_for("the record", lambda: len(client.pages("/v1/ledger")) == BACKLOG)
    assert Counter(arrival.event_id for arrival in sink.arrivals) == Counter(f"F-{number}" for number in range(BACKLOG))


def test_what_was_sent_again_is_counted_across_kills(start_hub: Callable[..., Hub], loop: Loop, disk: Disk) -> None:
    hub = start_hub(disk.data)
    sink = quiet_partner(hub.client(), loop)
    ids = [f"F-{number}" for number in range(20)]
    for id in ids:
        assert hub.client().ask("POST", "/v1/events", event(id, id)).status == 202
    dice = random.Random(SEED)
    for _ in range(KILLS):
        # Anywhere between two sendings: this wait is the thing under test.
        threading.Event().wait(dice.uniform(0, 0.2))
        hub.kill()
        hub = start_hub(disk.data)
    client = hub.client()

    def is_outstanding() -> bool:
        return all(client.get(f"/v1/events/{id}/status") == {"P": "awaiting_ack"} for id in ids)

    wait_for("an end of every delivery", lambda: is_outstanding() and is_still(sink))
    attempts = Counter(arrival.event_id for arrival in sink.arrivals)
    # At most what was under way at a kill is repeated.
    assert max(attempts.values()) <= ATTEMPTS_MAX + KILLS, attempts


def test_an_ack_that_can_not_be_written_down_is_refused_and_counts_once_when_it_comes_again(
    start_hub: Callable[..., Hub], loop: Loop, disk: Disk
) -> None:
    client = start_hub(disk.data, **disk.settings()).client()
    sink = quiet_partner(client, loop)
    token = client.ask("POST", "/v1/tokens", {"role": "partner", "partner": "P"}).json["token"]
    assert client.ask("POST", "/v1/events", event("F-0", "S")).status == 202
    wait_for("the event", lambda: sink.arrivals)
    disk.fail(SYNC, errno.EIO, "ess.db-wal")
    client.token, admin = token, client.token
    answer = client.ask("POST", "/v1/acks", {"ack": "F-0"})
    assert answer.status == 503 and answer.json["hint"], answer
    disk.mend()
    wait_for("the ACK", lambda: client.ask("POST", "/v1/acks", {"ack": "F-0"}).status in (200, 202, 204), seconds=10)
    client.token = admin
    assert client.get("/v1/events/F-0/status") == {"P": "ack"}
    assert [entry["event_id"] for entry in client.pages("/v1/ledger")] == ["F-0"]


STARTS = [(WRITE, errno.ENOSPC), (SYNC, errno.EIO), (CREATE | MKDIR, errno.ENOSPC), (RENAME, errno.EIO)]


@pytest.mark.parametrize("ops, error", STARTS, ids=["write", "sync", "create", "rename"])
def test_a_first_start_that_fails_says_so_and_the_next_one_goes_through(
    binary: Path, fault_library: Path, tmp_path: Path, ops: int, error: int
) -> None:
    dice = random.Random(SEED)
    starts = 0
    for skip in sorted(dice.sample(range(20), FAILED_STARTS)):
        place = tmp_path / str(skip)
        disk = Disk(made(place / "data"), place / "disk", fault_library)
        disk.fail(ops, error, skip=skip)
        said = start_once(binary, disk, tmp_path / "home")
        assert "panicked" not in said, said
        if disk.failed:
            starts += 1
            was_told = any(word in said for word in ("error: ", "ERROR", "WARN"))
            assert was_told, f"a failure that nobody was told of: {said}"
        disk.mend()
        said = start_once(binary, disk, tmp_path / "home")
        assert "listening" in said, f"after a failure at step {skip}: {said}"
    assert starts, "no call failed"


COPIES = [(WRITE, errno.ENOSPC), (SYNC, errno.EIO), (CREATE, errno.ENOSPC), (LINK, errno.EIO)]


@pytest.mark.parametrize("ops, error", COPIES, ids=["write", "sync", "create", "link"])
def test_a_back_up_that_fails_leaves_nothing_and_disturbs_nobody(
    start_hub: Callable[..., Hub], disk: Disk, ops: int, error: int
) -> None:
    client = start_hub(disk.data, **disk.settings()).client()
    publisher = Publisher(client)
    assert publisher.publish()
    before = {path.name for path in disk.data.iterdir()}
    disk.fail(ops, error, "copy.db,copy.db.part")
    answer = client.ask("POST", "/v1/backup", {"file": str(disk.data / "copy.db")})
    assert answer.status in (409, 503) and answer.json["hint"] and disk.failed, answer
    assert {path.name for path in disk.data.iterdir()} == before
    assert publisher.publish() and client.ask("GET", "/readyz").status == 200
    disk.mend()
    assert client.ask("POST", "/v1/backup", {"file": str(disk.data / "copy.db")}).status == 200
    assert (disk.data / "copy.db").stat().st_size > 0


def test_a_long_failure_is_logged_when_it_begins_and_when_it_ends(start_hub: Callable[..., Hub], disk: Disk) -> None:
    hub = start_hub(disk.data, **disk.settings(), RUST_LOG="info")
    publisher = Publisher(hub.client())
    disk.fail(SYNC, errno.EIO, "ess.db-wal")
    assert not publisher.publish()
    # The store is tried again four times a second.
    began, tries = time.monotonic(), disk.failed
    wait_for("some tries", lambda: disk.failed >= tries + 6)
    assert time.monotonic() - began > 1, "a failing disk is not hammered"
    disk.mend()
    publisher.publish_again()
    wait_for("the word that it is well", lambda: any("writes again" in line for line in hub.log))
    assert sum("it is tried again by itself" in line for line in hub.log) == 1, "".join(hub.log)
