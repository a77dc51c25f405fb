"""A hub that keeps its store at a PostgreSQL server: the mission's loop, a kill, and a server that is gone for a while."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import Client, Hub, Loop, Sink, add_partner, event, wait_for
from postgres import Server

RETRY = {"first": "200ms", "factor": 1, "max": "200ms", "jitter": 0}


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def start(binary: Path, folder: Path, server: Server, name: str = "hub", **settings: str) -> Hub:
    return Hub(binary, folder / name, folder / "home", {"HMS_ESS_STORE": server.url("hub"), **settings})


def publish(client: Client, ids: list[str]) -> None:
    for id in ids:
        answer = client.ask("POST", "/v1/events", event(id, id.split("-")[0]))
        assert answer.status == 202, answer


def is_acked(client: Client, ids: list[str]) -> bool:
    return all(set(client.get(f"/v1/events/{id}/status").values()) == {"ack"} for id in ids)


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


def test_a_second_hub_and_another_key_are_refused(tmp_path: Path, binary: Path, server: Server) -> None:
    hub = start(binary, tmp_path, server)
    other = hub.environment
    import subprocess

    def refused(data: Path, **settings: str) -> str:
        command = [str(binary), "serve", "--http", "--listen", "127.0.0.1:0", "--metrics-listen", "off"]
        done = subprocess.run(
            [*command, "--data", str(data)], env={**other, **settings}, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode != 0
        return done.stdout + done.stderr

    assert "another hub has this database" in refused(tmp_path / "hub")
    assert hub.terminate() == 0
    assert "seal.key is missing" in refused(tmp_path / "second")
    (tmp_path / "second" / "seal.key").write_bytes(bytes(32))
    assert "not the key of this database" in refused(tmp_path / "second")
    wrong = refused(tmp_path / "hub", HMS_ESS_STORE="postgres://ess:geheim@db.example/ess?sslmode=require")
    assert "verify-full" in wrong and "geheim" not in wrong
    shown = hub.run("config", "show").stdout
    assert "postgres://ess@127.0.0.1" in shown
