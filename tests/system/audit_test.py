"""The packet for a court: what a person reads, and what anybody checks without the hub."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from conftest import Client, Hub, Loop, Request, Sink, add_partner, any_store, embedded_only, event, wait_for

pytestmark = any_store

BRIDGE = {"subject": "RULE", "from": 1, "to": 2, "script": '{"cutoff": deadline}'}
PAYLOAD = {"deadline": "16:00 <local>", "number": 9007199254740993}


async def refuse(request: Request) -> Optional[tuple[int, bytes]]:
    return 200, json.dumps({"nack": request.arrival.event_id, "reason": "no such court"}).encode()


async def hang(request: Request) -> Optional[tuple[int, bytes]]:
    await asyncio.sleep(3600)
    return None


def key_of(hub: Hub) -> str:
    shown = hub.run("ledger", "key")
    assert shown.returncode == 0, shown
    return shown.stdout.strip()


def verify(hub: Hub, packet: Path, key: str) -> subprocess.CompletedProcess[str]:
    """Checks a packet as somebody who has no hub: nothing of this run's profile is there."""
    hub.environment["HMS_ESS_PROFILE"] = str(hub.home / "no-profile.json")
    try:
        return hub.run("ledger", "verify", str(packet), "--key", key)
    finally:
        hub.environment["HMS_ESS_PROFILE"] = str(hub.home / "profile.json")


@pytest.fixture
def told(start_hub: Callable[..., Hub], loop: Loop) -> Hub:
    """A hub with one event: acknowledged by one, refused by another, in another version by a third, outstanding at a fourth."""
    hub = start_hub()
    client = hub.client()
    answer = client.ask("POST", "/v1/bridges", BRIDGE)
    assert answer.status == 201, answer
    add_partner(client, "COURT-CAL", Sink(loop).url)
    add_partner(client, "COUNTY-KIOSK", Sink(loop, refuse).url)
    add_partner(client, "LAW-FIRM-SYS", Sink(loop).url, accepts_version=2, adapter='{"at": payload.cutoff}')
    add_partner(client, "SLOW-SYS", Sink(loop, hang).url)
    answer = client.ask("POST", "/v1/events", event("RULE-V1", "RULE", PAYLOAD), {"x-hms-docket-id": "24-CV-1"})
    assert answer.status == 202, answer
    expected = {"COURT-CAL": "ack", "COUNTY-KIOSK": "nack", "LAW-FIRM-SYS": "ack", "SLOW-SYS": "pending"}
    wait_for("the answers", lambda: client.get("/v1/events/RULE-V1/status") == expected)
    client.close()
    return hub


def files_of(packet: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(packet) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_packet_says_everything_and_is_checked_without_the_hub(told: Hub, tmp_path: Path) -> None:
    packet = tmp_path / "packet.zip"
    made = told.run("audit", "RULE-V1", "--out", str(packet))
    assert made.returncode == 0, made
    key = key_of(told)
    files = files_of(packet)
    # What the ledger's hash is of.
    published = json.loads(files["event.json"])
    assert (published["id"], published["payload"]) == ("RULE-V1", PAYLOAD)
    record = json.loads(files["record.json"])
    assert record["published_by"].startswith("tok_") and record["docket_id"] == "24-CV-1"
    assert (record["payload"], record["partners"]) == ("whole", 4)
    assert json.loads(files["conversions/2.json"]) == {"cutoff": "16:00 <local>"}
    scripts = {name: text for name, text in files.items() if name.startswith("scripts/")}
    assert sorted(scripts.values()) == [b'{"at": payload.cutoff}', b'{"cutoff": deadline}']
    receipts = {one["receipt"]["partner"]: one for one in json.loads(files["receipts.json"])}
    assert {name: one["receipt"]["word"] for name, one in receipts.items()} == {
        "COURT-CAL": "ack", "COUNTY-KIOSK": "nack", "LAW-FIRM-SYS": "ack",
    }
    # The very bytes that were sent, found by the hash in the receipt.
    sent = files[f"sent/{receipts['LAW-FIRM-SYS']['receipt']['body_sha256']}.json"]
    assert json.loads(sent) == {"at": "16:00 <local>"}
    states = {one["partner"]: one["state"] for one in json.loads(files["attempts.json"])}
    assert states["SLOW-SYS"] == "pending" and states["COUNTY-KIOSK"] == "nack"
    manifest = json.loads(files["manifest.json"])
    signed = {name: hashlib.sha256(text).hexdigest() for name, text in files.items() if not name.startswith("manifest.")}
    assert manifest["files"] == signed
    # The page says it in words, and what came from outside can't become markup.
    page = files["index.html"].decode()
    for words in ("acknowledged", "refused by the partner", "no such court", "not delivered yet", "24-CV-1", "<pre>"):
        assert words in page, words
    assert "<script" not in page and "16:00 <local>" not in page and "16:00 &#60;local&#62;" in page
    # Without the hub.
    assert told.terminate() == 0
    checked = verify(told, packet, key)
    assert checked.returncode == 0 and "proven: 2 acknowledged, 1 refused" in checked.stdout, checked
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(packet) as archive:
        archive.extractall(unpacked)
    assert verify(told, unpacked, key).returncode == 0


def test_a_packet_that_was_changed_is_refused_and_the_file_named(told: Hub, tmp_path: Path) -> None:
    packet = tmp_path / "packet.zip"
    assert told.run("audit", "RULE-V1", "--out", str(packet)).returncode == 0
    key = key_of(told)
    whole = files_of(packet)
    changed = tmp_path / "changed.zip"

    def pack(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> None:
        with zipfile.ZipFile(changed, "w", method) as archive:
            for name, text in files.items():
                archive.writestr(name, text)

    pack(whole)
    assert verify(told, changed, key).returncode == 0
    for name in ("event.json", "attempts.json", "proofs/COURT-CAL.json", "index.html", "manifest.json"):
        pack({**whole, name: whole[name].replace(b"a", b"e", 1)})
        refused = verify(told, changed, key)
        assert refused.returncode == 1 and name in refused.stderr, (name, refused)
    pack({name: text for name, text in whole.items() if name != "proofs/COUNTY-KIOSK.json"})
    assert "proofs/COUNTY-KIOSK.json: it is missing" in verify(told, changed, key).stderr
    pack(whole, zipfile.ZIP_DEFLATED)
    assert "packed anew" in verify(told, changed, key).stderr
    changed.write_bytes(packet.read_bytes()[:-40])
    assert "damaged" in verify(told, changed, key).stderr
    other = key.split("+")[0] + "+00000000+" + key.split("+")[2]
    assert verify(told, packet, other).returncode == 1


def test_what_can_not_be_made_is_said(told: Hub, tmp_path: Path) -> None:
    packet = tmp_path / "packet.zip"
    unknown = told.run("audit", "RULE-V9", "--out", str(packet))
    assert unknown.returncode == 1 and "there is no event RULE-V9" in unknown.stderr and not packet.exists()
    packet.write_text("mine")
    there = told.run("audit", "RULE-V1", "--out", str(packet))
    assert there.returncode == 1 and "is there already" in there.stderr and packet.read_text() == "mine"
    assert told.run("audit", "RULE-V1", "--out", str(packet), "--force").returncode == 0
    client = told.client()
    token = client.ask("POST", "/v1/tokens", {"role": "publisher"}).json["token"]
    assert told.client(token).ask("GET", "/v1/events/RULE-V1/audit").status == 403
    token = client.ask("POST", "/v1/tokens", {"role": "auditor"}).json["token"]
    answer = told.client(token).ask("GET", "/v1/events/RULE-V1/audit")
    assert answer.status == 200 and zipfile.is_zipfile(io.BytesIO(answer.body))


def test_a_dry_run_and_a_replay_have_their_packets(told: Hub, tmp_path: Path) -> None:
    client = told.client()
    assert client.ask("POST", "/v1/events", event("RULE-V1", "RULE"), {"x-hms-test": "true"}).status == 202
    answer = client.ask("POST", "/v1/events/RULE-V1/replay", {"to": ["COURT-CAL"], "force": True})
    assert answer.status == 202, answer

    def receipts() -> list[Any]:
        return [entry for entry in client.pages("/v1/ledger") if entry["partner"] == "COURT-CAL"]

    wait_for("a receipt of each", lambda: len(receipts()) == 3)
    key = key_of(told)
    packet = tmp_path / "packet.zip"
    assert told.run("audit", "RULE-V1", "--out", str(packet)).returncode == 0
    proofs = {name for name in files_of(packet) if name.startswith("proofs/COURT-CAL")}
    first = next(entry["index"] for entry in receipts() if entry["round"] == 0 and entry["sequence"] == 1)
    assert proofs == {"proofs/COURT-CAL.json", f"proofs/COURT-CAL~{first}.json"}
    newest = json.loads(files_of(packet)["proofs/COURT-CAL.json"])
    assert newest["receipt"]["round"] == 1
    assert verify(told, packet, key).returncode == 0
    dry = tmp_path / "dry.zip"
    assert told.run("audit", "RULE-V1", "--test", "--out", str(dry)).returncode == 0
    shown = verify(told, dry, key)
    assert shown.returncode == 0 and "the dry run RULE-V1" in shown.stdout, shown


@embedded_only
def test_an_event_that_was_changed_in_the_store_gets_no_packet(
    told: Hub, start_hub: Callable[..., Hub], tmp_path: Path
) -> None:
    import sqlite3

    assert told.terminate() == 0
    with sqlite3.connect(told.data / "ess.db") as database:
        assert database.execute("update event set payload = replace(payload, '16', '17')").rowcount == 1
    hub = start_hub(told.data)
    refused = hub.run("audit", "RULE-V1", "--out", str(tmp_path / "packet.zip"))
    assert refused.returncode == 1 and "is not what was recorded" in refused.stderr, refused
