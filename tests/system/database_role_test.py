"""The role that docs/scale.md has an administrator make: its own words are run, and hubs get along with what it may."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conftest import ROOT, Hub, Loop, Sink, add_partner, event, wait_for
from postgres import Server, as_its_user

PASSWORD = "CHANGE-ME"


def words_of_the_page() -> list[str]:
    """The first SQL of the page, line by line."""
    page = (ROOT / "docs" / "scale.md").read_text()
    block = page.split("```sql\n", 1)[1].split("```", 1)[0]
    assert "create role hms_ess login" in block and PASSWORD in block
    return block.strip().splitlines()


def ask(server: Server, password: str, database: str, sql: str) -> subprocess.CompletedProcess[str]:
    url = f"postgres://hms_ess:{password}@127.0.0.1:{server.port}/{database}"
    return subprocess.run(["psql", "-XAtq", url, "-c", sql], capture_output=True, text=True, timeout=60)


def test_the_role_of_the_docs_is_enough_for_hubs_and_for_nothing_else(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    server.ask("create database another")
    place = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "ess", "-d", "postgres", "-v", "ON_ERROR_STOP=1"]
    words = [word for line in words_of_the_page() for word in ("-c", line)]
    made = subprocess.run(["psql", "-Xq", *place, *words], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    # The server asks for the password, as no server of the tests' own does otherwise.
    rules = server.directory / "data" / "pg_hba.conf"
    asked = "host all hms_ess 127.0.0.1/32 scram-sha-256\n"
    before = subprocess.run(as_its_user("cat", str(rules)), cwd="/", capture_output=True, text=True, check=True).stdout
    kept = as_its_user("tee", str(rules))
    subprocess.run(kept, cwd="/", input=asked + before, text=True, check=True, stdout=subprocess.DEVNULL)
    server.ask("select pg_reload_conf()")

    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    password.chmod(0o600)
    url = f"postgres://hms_ess@127.0.0.1:{server.port}/hms_ess?password_file={password}"
    hubs: list[Hub] = []
    sink = Sink(loop)
    for name in ("a", "b"):
        data = tmp_path / name
        data.mkdir()
        if hubs:
            (data / "seal.key").write_bytes((tmp_path / "a" / "seal.key").read_bytes())
        hubs.append(Hub(binary, data, tmp_path / f"home-{name}", {"HMS_ESS_STORE": url, "HMS_ESS_NODE_NAME": name}))
    first, second = (hub.client() for hub in hubs)
    add_partner(first, "P", sink.url)
    wait_for("both nodes", lambda: len(second.get("/v1/nodes")["items"]) == 2)
    assert second.ask("POST", "/v1/events", event("R-1", "R")).status == 202
    wait_for("the receipt", lambda: first.get("/v1/events/R-1/status") == {"P": "ack"})
    assert first.ask("POST", "/v1/ledger/verify").status == 200

    stranger = ask(server, "wrong", "hms_ess", "select 1")
    assert "password authentication failed" in stranger.stderr, stranger
    for database, sql in [
        ("another", "create table theirs (one integer)"),
        ("hms_ess", "create role another"),
        ("hms_ess", "create database theirs"),
        ("hms_ess", "select rolpassword from pg_authid"),
        ("hms_ess", "copy event to program 'cat'"),
    ]:
        refused = ask(server, PASSWORD, database, sql)
        is_denied = "permission denied" in refused.stderr or "must be superuser" in refused.stderr
        assert refused.returncode != 0 and is_denied, f"{sql}: {refused}"
    for hub in hubs:
        assert hub.terminate() == 0
