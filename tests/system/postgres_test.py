"""A hub that keeps its store at a PostgreSQL server: the mission's loop, a kill, and a server that is gone for a while."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import postgres
import pytest
from certificates import Authority
from conftest import Client, Hub, Loop, Sink, add_partner, event, wait_for
from fleet import RETRY, is_acked, publish
from postgres import Server


def start(binary: Path, folder: Path, server: Server, name: str = "hub", **settings: str) -> Hub:
    return Hub(binary, folder / name, folder / "home", {"HMS_ESS_STORE": server.url("hub"), **settings})


def verified(client: Client) -> Any:
    answer = client.ask("POST", "/v1/ledger/verify")
    assert answer.status == 200, answer
    return answer.json


def test_the_whole_loop_and_a_kill_lose_nothing(tmp_path: Path, binary: Path, loop: Loop, server: Server) -> None:
    hub = start(binary, tmp_path, server)
    sinks = [Sink(loop) for _ in range(3)]
    client = hub.client()
    for number, sink in enumerate(sinks):
        add_partner(client, f"P{number}", sink.url, retry=RETRY)
    first = [f"S{number % 4}-{number}" for number in range(40)]
    publish(client, first)
    wait_for("every receipt", lambda: is_acked(client, first))
    again = client.ask("POST", "/v1/events", event("S0-0", "S0"))
    assert again.status == 200, "a repeat is answered with the first"
    assert client.ask("POST", "/v1/events", event("S0-0", "S0", {"other": 1})).status == 409

    stop = threading.Event()
    taken: list[str] = []

    def go_on() -> None:
        mine = hub.client()
        for number in range(10_000):
            if stop.is_set():
                return
            id = f"K{number % 4}-{number}"
            try:
                if mine.ask("POST", "/v1/events", event(id, f"K{number % 4}")).status == 202:
                    taken.append(id)
            except Exception:
                return

    publisher = threading.Thread(target=go_on)
    publisher.start()
    wait_for("some that were taken", lambda: len(taken) > 30)
    hub.kill()
    stop.set()
    publisher.join(timeout=30)
    hub = start(binary, tmp_path, server)
    client = hub.client()
    wait_for("every receipt after the kill", lambda: is_acked(client, [*first, *taken]), seconds=60)
    for sink in sinks:
        got = {arrival.event_id for arrival in sink.arrivals}
        assert {*first, *taken} <= got
    events = client.pages("/v1/events")
    assert [one["sequence"] for one in events] == list(range(1, len(events) + 1)), "the log has no gap"
    assert verified(client)["size"] >= 3 * (len(first) + len(taken))
    assert hub.terminate() == 0


def test_while_the_database_is_gone_publishes_are_refused_and_then_all_arrives(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    hub = start(binary, tmp_path, server)
    sink = Sink(loop)
    client = hub.client()
    add_partner(client, "P", sink.url, retry=RETRY)
    publish(client, ["A-1", "A-2"])
    wait_for("both receipts", lambda: is_acked(client, ["A-1", "A-2"]))

    server.stop()
    refused = client.ask("POST", "/v1/events", event("A-3", "A"))
    assert refused.status == 503, refused
    assert json.loads(refused.body)["detail"], "it says what to do"
    assert client.ask("GET", "/healthz").status == 200, "the process lives"
    refused = client.ask("POST", "/v1/events", event("A-4", "A"))
    assert refused.status == 503, refused

    server.start()

    def is_taken() -> bool:
        return client.ask("POST", "/v1/events", event("A-3", "A")).status in (200, 202)

    wait_for("the hub to find the database again", is_taken)
    publish(client, ["A-5"])
    wait_for("what was published since", lambda: is_acked(client, ["A-3", "A-5"]))
    assert client.ask("GET", "/v1/events/A-4").status == 404, "what was refused is not there"
    assert verified(client)["size"] == 4
    assert hub.process.poll() is None, "without a restart"
    assert hub.terminate() == 0


def test_a_hub_without_the_databases_key_is_refused(tmp_path: Path, binary: Path, server: Server) -> None:
    hub = start(binary, tmp_path, server)
    other = hub.environment

    def refused(data: Path, **settings: str) -> str:
        command = [str(binary), "serve", "--http", "--listen", "127.0.0.1:0", "--metrics-listen", "off"]
        done = subprocess.run(
            [*command, "--data", str(data)], env={**other, **settings}, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode != 0
        return done.stdout + done.stderr

    assert hub.terminate() == 0
    assert "seal.key is missing" in refused(tmp_path / "second")
    (tmp_path / "second" / "seal.key").write_bytes(bytes(32))
    assert "not the key of this database" in refused(tmp_path / "second")
    wrong = refused(tmp_path / "hub", HMS_ESS_STORE="postgres://ess:geheim@db.example/ess?sslmode=require")
    assert "verify-full" in wrong and "geheim" not in wrong
    shown = hub.run("config", "show").stdout
    assert "postgres://ess@127.0.0.1" in shown


def test_a_hub_that_moves_up_keeps_its_log_its_receipts_and_its_proofs(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    data = tmp_path / "hub"
    # Whatever the other hubs of this run are on: the embedded store.
    hub = Hub(binary, data, tmp_path / "home", {"HMS_ESS_STORE": ""})
    sinks = [Sink(loop), Sink(loop)]
    client = hub.client()
    for number, sink in enumerate(sinks):
        add_partner(client, f"P{number}", sink.url, retry=RETRY)
    ids = [f"M{number % 3}-{number}" for number in range(30)]
    publish(client, ids)
    wait_for("every receipt", lambda: is_acked(client, ids))
    assert client.ask("POST", "/v1/ledger/checkpoint", {}).status == 200
    proof = tmp_path / "proof"
    assert hub.run("prove", ids[7], "P0", "--out", str(proof)).returncode == 0
    key = hub.run("ledger", "key").stdout.strip()
    events, receipts, head = client.pages("/v1/events"), client.pages("/v1/ledger"), verified(client)
    refused = hub.run("store", "copy", "--from", str(data), "--to", server.url("hub"))
    assert refused.returncode != 0 and "has this data directory open" in refused.stderr, refused
    assert hub.terminate() == 0

    done = hub.run("store", "copy", "--from", str(data), "--to", server.url("hub"))
    assert done.returncode == 0 and "copied 30 events and 60 receipts" in done.stdout, done
    again = hub.run("store", "copy", "--from", str(data), "--to", server.url("hub"))
    assert again.returncode != 0 and "not empty" in again.stderr, again
    hub = start(binary, tmp_path, server)
    client = hub.client()
    assert client.pages("/v1/events") == events
    assert client.pages("/v1/ledger") == receipts
    assert verified(client) == head
    assert hub.run("ledger", "key").stdout.strip() == key
    assert hub.run("ledger", "verify", str(proof), "--key", key).returncode == 0
    publish(client, ["M0-30"])
    wait_for("what is published after the move", lambda: is_acked(client, ["M0-30"]))
    assert [len([one for one in sink.arrivals if one.event_id == "M0-30"]) for sink in sinks] == [1, 1]
    assert sum(len(sink.arrivals) for sink in sinks) == 62, "nothing is sent again"
    assert hub.terminate() == 0


def test_the_servers_certificate_is_checked(tmp_path: Path, binary: Path) -> None:
    authority, stranger = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    server = Server()
    try:
        for file, name in zip(authority.issue("database"), ("server.crt", "server.key")):
            target = server.directory / "data" / name
            shutil.copy(file, target)
            subprocess.run(postgres.to_its_user(str(target)), check=True)
            target.chmod(0o600)
        server.stop("fast")
        server.more = " -c ssl=on"
        server.start()
        url = server.url("hub")
        wrong = f"{url}?sslmode=verify-full&sslrootcert={stranger.path}"
        with pytest.raises(AssertionError, match="certificate"):
            Hub(binary, tmp_path / "hub", tmp_path / "home", {"HMS_ESS_STORE": wrong})
        right = f"{url}?sslmode=verify-full&sslrootcert={authority.path}"
        hub = Hub(binary, tmp_path / "hub", tmp_path / "home", {"HMS_ESS_STORE": right})
        publish(hub.client(), ["T-1"])
        assert server.ask("select count(*) from pg_stat_ssl s join pg_stat_activity a using (pid) where s.ssl and a.application_name = 'hms-ess'") != "0"
        assert hub.terminate() == 0
    finally:
        server.close()
