"""A database that was changed behind the hub's back: what is missing or different is found and named."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Callable

import pytest
from conftest import Client, Hub, Loop, Sink, add_partner, event, wait_for

EVENTS = 6


@pytest.fixture
def kept(start_hub: Callable[..., Hub], loop: Loop, tmp_path: Path) -> Path:
    """The data directory of a stopped hub with receipts under two checkpoints."""
    data = tmp_path / "kept"
    hub = start_hub(data)
    client = hub.client()
    add_partner(client, "COURT-CAL", Sink(loop).url)
    add_partner(client, "LAW-FIRM-SYS", Sink(loop).url)
    for number in range(EVENTS):
        answer = client.ask("POST", "/v1/events", event(f"RULE-{number}", "RULE", {"deadline": f"{number}:00"}))
        assert answer.status == 202, answer
        if number == EVENTS // 2:
            wait_for("the first receipts", lambda: client.get("/v1/ledger/checkpoint")["size"] > 0)
            assert client.ask("POST", "/v1/ledger/checkpoint", {}).status == 200
    wait_for("every receipt", lambda: client.get("/v1/ledger/checkpoint")["size"] == 2 * EVENTS)
    assert client.ask("POST", "/v1/ledger/checkpoint", {}).json["size"] == 2 * EVENTS
    assert client.ask("POST", "/v1/ledger/verify", {}).status == 200
    client.close()
    assert hub.terminate() == 0
    return data


def change(data: Path, *statements: str) -> int:
    """Changes the database as somebody with the file would; how many rows."""
    with sqlite3.connect(data / "ess.db") as database:
        return sum(database.execute(statement).rowcount for statement in statements)


def verdict(client: Client) -> str:
    answer = client.ask("POST", "/v1/ledger/verify", {})
    assert answer.status == 409, answer
    return str(answer.json["detail"])


#: What somebody did, and what the verification says of it.
TAMPERING = {
    "a payload": (["update event set payload = replace(payload, '4:00', '5:00') where id = 'RULE-4'"], "for RULE-4"),
    "an event's name": (["update event set id = 'RULE-X' where id = 'RULE-2'"], "for RULE-X"),
    "a removed partner's name": (["update partner set id = 'COURT-COL', removed_at = 1 where no = 1"], "COURT-COL"),
    "a receipt": (
        ["update ledger set entries = cast(x'02' || substr(entries, 2) as blob) where seq = 3"],
        "ledger entry",
    ),
    "the end of the ledger": (["delete from ledger where seq > 4"], "missing"),
    "the middle of the ledger": (["delete from ledger where seq = 3"], "missing"),
    "the tree": (["update ledger_tile set hashes = zeroblob(length(hashes)) where level = 0"], "ledger entry 0"),
    "a checkpoint": (
        ["update checkpoint set note = replace(note, char(10) || size, char(10) || '1' || size)"],
        "checkpoint",
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_found_and_named(start_hub: Callable[..., Hub], kept: Path, what: str) -> None:
    statements, named = TAMPERING[what]
    assert change(kept, *statements) > 0
    hub = start_hub(kept)
    assert named in verdict(hub.client())
    assert hub.terminate() == 0


def test_what_was_cut_off_the_tree_is_made_anew_from_the_ledger(start_hub: Callable[..., Hub], kept: Path) -> None:
    assert change(kept, "update ledger_tile set hashes = substr(hashes, 1, 64) where level = 0") > 0
    hub = start_hub(kept)
    client = hub.client()
    wait_for("the tree as it was", lambda: client.ask("POST", "/v1/ledger/verify", {}).status == 200)
    assert hub.terminate() == 0


def test_a_partner_with_another_name_than_its_sealed_document_is_refused(
    start_hub: Callable[..., Hub], kept: Path
) -> None:
    assert change(kept, "update partner set id = 'COURT-COL' where id = 'COURT-CAL'") > 0
    with pytest.raises(AssertionError, match="COURT-COL"):
        start_hub(kept)


def test_checkpoints_go_elsewhere_and_say_how_they_follow_each_other(
    start_hub: Callable[..., Hub], kept: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    hub = start_hub(kept, HMS_ESS_CHECKPOINT_DIR=str(elsewhere))
    client = hub.client()
    # Nothing new: what is there is signed already, and the last one is shown.
    last = client.ask("POST", "/v1/ledger/checkpoint", {}).json
    assert last["size"] == 2 * EVENTS
    path = client.get(f"/v1/ledger/consistency?from=1&to={last['size']}")["path"]
    assert path, "a tree of more leaves has something to prove"
    answer = client.ask("GET", f"/v1/ledger/consistency?from=1&to={last['size'] + 1}")
    assert answer.status == 422, answer
    proof = client.get("/v1/ledger/proof?event=RULE-1&partner=COURT-CAL")
    assert (proof["receipt"]["partner"], proof["receipt"]["event"]) == ("COURT-CAL", "RULE-1")
    assert client.ask("POST", "/v1/events", event("RULE-7", "RULE")).status == 202
    wait_for("the new receipts", lambda: client.get("/v1/ledger/checkpoint")["size"] == 2 * EVENTS + 2)
    new = client.ask("POST", "/v1/ledger/checkpoint", {}).json
    written = sorted(elsewhere.glob("*.checkpoint"))
    assert [path.read_text() for path in written] == [new["note"]]
    assert hub.terminate() == 0
