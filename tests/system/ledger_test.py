"""A database that was changed behind the hub's back: what is missing or different is found and named."""

from __future__ import annotations

import random
import sqlite3
import threading
from pathlib import Path
from typing import Callable, Optional

import postgres
import pytest
from conftest import STORE, Client, Hub, Loop, Request, Sink, add_partner, any_store, embedded_only, event, wait_for

pytestmark = any_store

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
        document = {**event(f"RULE-{number}", "RULE", {"deadline": f"{number}:00"}), "source": "HMS-GOV"}
        answer = client.ask("POST", "/v1/events", document)
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


#: What the embedded database says, and the server.
SERVERS_WORDS = {
    "cast(x'02' || substr(entries, 2) as blob)": "set_byte(entries, 0, 2)",
    "zeroblob(length(hashes))": "decode(repeat('00', length(hashes)), 'hex')",
    "char(10)": "chr(10)",
}


def in_servers_words(statement: str) -> str:
    for ours, theirs in SERVERS_WORDS.items():
        statement = statement.replace(ours, theirs)
    return statement


def change(data: Path, *statements: str) -> int:
    """Changes the database as somebody with the file would, or with the server's password; how many rows."""
    if STORE == "postgres":
        return sum(postgres.shared().change(str(data), in_servers_words(statement)) for statement in statements)
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


#: What the ledger's proof covers: table and column. What it does not: see docs/ledger.md.
COVERED = [
    *[("event", column) for column in ("seq", "id", "test", "subject", "version", "kind", "priority", "digest", "rest", "payload")],
    *[("ledger", column) for column in ("first", "count", "seq", "entries", "chain")],
    *[("ledger_tile", column) for column in ("level", "idx", "hashes")],
    *[("checkpoint", column) for column in ("size", "note")],
]


def flip(database: sqlite3.Connection, table: str, column: str, dice: random.Random) -> str:
    """Changes one byte, or one unit of a number, of one row; says which."""
    rows = database.execute(f"select rowid, {column} from {table}" if table in ("event", "ledger", "checkpoint")
                            else f"select (level << 32) | idx, {column} from {table}").fetchall()
    row, value = dice.choice(rows)
    if isinstance(value, int):
        changed: object = value ^ 1 if column in ("test", "kind", "priority") else value + dice.choice([1, 2])
        where = ""
    else:
        raw = bytearray(value.encode() if isinstance(value, str) else value)
        # Beside what the publisher wrote, this column holds what is not covered.
        begin, end = (raw.index(b"HMS-GOV"), raw.index(b"HMS-GOV") + 7) if column == "rest" else (0, len(raw))
        at = dice.randrange(begin, end)
        raw[at] ^= 1 << dice.randrange(6 if isinstance(value, str) else 8)
        changed = raw.decode() if isinstance(value, str) else bytes(raw)
        where = f", byte {at} of {len(raw)}"
    key = "rowid" if table != "ledger_tile" else "((level << 32) | idx)"
    database.execute(f"update {table} set {column} = ? where {key} = ?", (changed, row))
    return f"{table}.{column} of row {row}{where}: {value!r} -> {changed!r}"


@embedded_only
@pytest.mark.parametrize(("table", "column"), COVERED)
def test_a_flipped_byte_of_any_column_that_is_covered_is_found(
    start_hub: Callable[..., Hub], kept: Path, table: str, column: str
) -> None:
    dice = random.Random(f"{table}.{column}")
    whole = (kept / "ess.db").read_bytes()
    for number in range(3):
        (kept / "ess.db").write_bytes(whole)
        with sqlite3.connect(kept / "ess.db") as database:
            database.execute("pragma ignore_check_constraints = on")
            try:
                what = flip(database, table, column, dice)
            except (sqlite3.IntegrityError, UnicodeDecodeError):
                continue
        database.close()
        try:
            hub = start_hub(kept)
        except AssertionError as refused:
            # A hub that names the damage and does not start is found out, too.
            assert "damaged" in str(refused) or "ledger" in str(refused), (what, str(refused))
            continue
        answer = hub.client().ask("POST", "/v1/ledger/verify", {})
        assert answer.status == 409, (number, what, answer)
        named = {"event": ("event", " for "), "ledger": ("ledger entry",), "ledger_tile": ("ledger",)}
        assert any(word in answer.json["detail"] for word in named.get(table, ("checkpoint",))), (what, answer)
        hub.kill()


def test_an_event_that_nobody_acknowledged_is_covered_by_its_digest(
    start_hub: Callable[..., Hub], tmp_path: Path
) -> None:
    data = tmp_path / "lone"
    hub = start_hub(data)
    client = hub.client()
    for number in (1, 2, 3):
        assert client.ask("POST", "/v1/events", event(f"RULE-{number}", "RULE")).status == 202
    assert hub.terminate() == 0
    assert change(data, "update event set payload = '{}' where id = 'RULE-2'") == 1
    hub = start_hub(data)
    assert "event number 2, RULE-2: its content is not what was recorded" in verdict(hub.client())
    assert hub.terminate() == 0
    assert change(data, "delete from event where id = 'RULE-2'") == 1
    hub = start_hub(data)
    assert "event number 2: missing" in verdict(hub.client())
    assert hub.terminate() == 0


def export(hub: Hub, out: Path, *more: str) -> None:
    made = hub.run("ledger", "export", "--out", str(out), *more)
    assert made.returncode == 0, made


def test_an_export_is_checked_without_the_hub_and_continues_the_one_before(
    start_hub: Callable[..., Hub], kept: Path, tmp_path: Path
) -> None:
    hub = start_hub(kept)
    client = hub.client()
    key = hub.run("ledger", "key").stdout.strip()
    exports = tmp_path / "exports"
    exports.mkdir()
    export(hub, exports)
    note = tmp_path / "kept.checkpoint"
    note.write_text(client.ask("POST", "/v1/ledger/checkpoint", {}).json["note"])
    assert client.ask("POST", "/v1/events", event("RULE-7", "RULE")).status == 202
    wait_for("the new receipts", lambda: client.get("/v1/ledger/checkpoint")["size"] == 2 * EVENTS + 2)
    export(hub, exports)
    files = sorted(path.name for path in exports.iterdir())
    first, second = (f"{0:020}-{2 * EVENTS:020}.ledger", f"{2 * EVENTS:020}-{2 * EVENTS + 2:020}.ledger")
    assert files == [first, second]
    alone = tmp_path / "alone.ledger"
    export(hub, alone, "--after", "3")
    assert hub.terminate() == 0

    def check(path: Path, *more: str) -> tuple[int, str]:
        done = hub.run("ledger", "verify", str(path), "--key", key, *more)
        return done.returncode, done.stdout + done.stderr

    code, said = check(exports, "--checkpoint", str(note))
    assert code == 0 and f"receipts 0 to {2 * EVENTS + 2}" in said and "it continues the checkpoint" in said, said
    assert check(alone)[0] == 0 and check(exports / second)[0] == 0
    # One receipt's word, somewhere in the middle.
    text = (exports / first).read_text()
    (exports / first).write_text(text.replace('"word":"ack"', '"word":"nak"', 4).replace('"word":"nak"', '"word":"ack"', 3))
    code, said = check(exports)
    assert code == 1 and "does not fit" in said and f"{first}:" in said, said
    (exports / first).write_text("".join(text.splitlines(keepends=True)[:-1]))
    assert check(exports)[0] == 1 and "cut off" in check(exports)[1]
    (exports / first).unlink()
    code, said = check(exports, "--checkpoint", str(note))
    assert code == 0, said


def forge(data: Path, receipts: int) -> None:
    """Somebody cuts the ledger off everywhere, so that nothing in the database tells: rows, tree and checkpoints."""
    with sqlite3.connect(data / "ess.db") as database:
        database.execute("delete from ledger where first >= ?", (receipts,))
        database.execute("update ledger_tile set hashes = substr(hashes, 1, ?) where level = 0", (32 * receipts,))
        database.execute("delete from checkpoint where size > ?", (receipts,))
    database.close()


@embedded_only
def test_a_ledger_that_was_cut_off_everywhere_is_told_by_a_checkpoint_elsewhere(
    start_hub: Callable[..., Hub], kept: Path, tmp_path: Path
) -> None:
    hub = start_hub(kept)
    client = hub.client()
    note = tmp_path / "kept.checkpoint"
    note.write_text(client.get("/v1/ledger/checkpoint")["checkpoint"]["note"])
    exports = tmp_path / "exports"
    exports.mkdir()
    export(hub, exports)
    rows = [row for row in client.pages("/v1/ledger")]
    assert hub.terminate() == 0
    # The place where a row of the ledger ends, within the older checkpoint or after it.
    with sqlite3.connect(kept / "ess.db") as database:
        cut = database.execute("select max(first) from ledger").fetchone()[0]
    database.close()
    assert 0 < cut < len(rows)
    forge(kept, cut)
    hub = start_hub(kept)
    # Nothing in the hub's own store can tell.
    assert hub.client().ask("POST", "/v1/ledger/verify", {}).status == 200
    told = hub.run("ledger", "verify", "--checkpoint", str(note))
    assert told.returncode == 1 and f"has {cut} receipts, fewer than the {2 * EVENTS}" in told.stderr, told
    refused = hub.run("ledger", "export", "--out", str(exports))
    assert refused.returncode == 1 and "fewer than" in refused.stderr, refused
    # And when it has as many again, they are not the same.
    client = hub.client()
    for number in range(20, 20 + EVENTS):
        assert client.ask("POST", "/v1/events", event(f"RULE-{number}", "RULE")).status == 202
    wait_for("as many again", lambda: client.get("/v1/ledger/checkpoint")["size"] >= 2 * EVENTS)
    told = hub.run("ledger", "verify", "--checkpoint", str(note))
    assert told.returncode == 1 and "is not the continuation" in told.stderr, told
    export(hub, tmp_path / "after.ledger", "--after", str(2 * EVENTS))
    key = hub.run("ledger", "key").stdout.strip()
    (exports / f"{2 * EVENTS:020}-{99:020}.ledger").write_bytes((tmp_path / "after.ledger").read_bytes())
    told = hub.run("ledger", "verify", str(exports), "--key", key)
    assert told.returncode == 1 and "are not those of the file before" in told.stderr, told
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
    # The last one at the start, then each.
    wait_for("both checkpoints", lambda: len(list(elsewhere.glob("*.checkpoint"))) == 2)
    assert [path.read_text() for path in sorted(elsewhere.glob("*.checkpoint"))] == [last["note"], new["note"]]
    assert hub.terminate() == 0


def test_checkpoints_are_added_to_a_file_and_posted_until_they_are_taken(
    start_hub: Callable[..., Hub], kept: Path, loop: Loop, tmp_path: Path
) -> None:
    taken: list[bytes] = []
    is_up = threading.Event()

    async def archive(request: Request) -> Optional[tuple[int, bytes]]:
        if not is_up.is_set():
            return 503, b"not now"
        assert request.arrival.headers["authorization"] == "Bearer archive-token"
        taken.append(request.arrival.body)
        return 201, b""

    (tmp_path / "token").write_text("archive-token\n")
    file = tmp_path / "elsewhere" / "checkpoints"
    settings = {
        "HMS_ESS_CHECKPOINT_FILE": str(file),
        "HMS_ESS_CHECKPOINT_URL": Sink(loop, archive).url,
        "HMS_ESS_CHECKPOINT_TOKEN": f"file:{tmp_path / 'token'}",
    }
    hub = start_hub(kept, **settings)
    client = hub.client()

    def places() -> dict[str, dict[str, object]]:
        return {place["to"]: place for place in client.get("/v1/ledger/checkpoint")["elsewhere"]}

    failing = wait_for("the failure", lambda: [place for place in places().values() if place.get("error")])[0]
    assert (failing["to"], failing["error"]) == ("url", "status 503") and failing["failing_since"]
    warned = hub.run("ledger", "checkpoint")
    assert warned.returncode == 0 and "status 503" in warned.stderr, warned
    assert client.ask("POST", "/v1/events", event("RULE-7", "RULE")).status == 202
    wait_for("the new receipts", lambda: client.get("/v1/ledger/checkpoint")["size"] == 2 * EVENTS + 2)
    new = client.ask("POST", "/v1/ledger/checkpoint", {}).json
    is_up.set()
    wait_for("both places", lambda: all(place.get("size") == new["size"] for place in places().values()))
    assert not any(place.get("error") for place in places().values())
    notes = file.read_text()
    assert notes.endswith(new["note"]) and taken[-1].decode() == new["note"]
    # A hub that starts anew goes on where the file ends.
    assert hub.terminate() == 0
    hub = start_hub(kept, **settings)
    client = hub.client()
    wait_for("both places", lambda: all(place.get("size") == new["size"] for place in places().values()))
    assert file.read_text() == notes
    # The file is what an auditor holds the hub's ledger to: every checkpoint of it.
    held = hub.run("ledger", "verify", "--checkpoint", str(file))
    assert held.returncode == 0 and f"continues the checkpoint of {2 * EVENTS}" in held.stdout, held
    assert hub.terminate() == 0


def test_an_archive_that_may_not_be_dialled_is_said_and_nothing_else_suffers(
    start_hub: Callable[..., Hub], kept: Path
) -> None:
    hub = start_hub(kept, HMS_ESS_CHECKPOINT_URL="https://169.254.169.254/latest")
    client = hub.client()
    place = wait_for("the refusal", lambda: [p for p in client.get("/v1/ledger/checkpoint")["elsewhere"] if p.get("error")])
    assert "169.254.169.254" in place[0]["error"], place
    assert client.ask("POST", "/v1/ledger/verify", {}).status == 200
    assert hub.terminate() == 0
