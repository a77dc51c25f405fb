"""A database that hangs: it takes connections and says nothing. Whoever asks a hub, for whatever, is told so in time, and when it
goes on so does the hub."""

from __future__ import annotations

import http.client
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import fleet as fleets
import pytest
from conftest import Answer, Client, Loop, event, wait_for
from cutting_proxy import Proxy
from fleet import Fleet, publish
from postgres import Server

#: A hub says within 10 s that its database does not answer; a busy machine may take longer, and 35 s it must not take.
ANSWER_SECONDS_MAX = 20
#: What is not answered by reading: it goes on, or waits for what comes.
FLOWS = {"/v1/stream"}
PAGES = [
    "/dashboard", "/dashboard/events", "/dashboard/events/E-1", "/dashboard/partners", "/dashboard/partners/P0",
    "/dashboard/bridges", "/dashboard/dead-letters", "/dashboard/escalations", "/dashboard/ledger", "/dashboard/holds",
    "/dashboard/audit", "/dashboard/events/E-1/proof?partner=P0",
]  # fmt: skip
#: Reads that nobody can answer from memory; the overview's counts are kept for a moment.
OF_THE_STORE = {
    "/v1/events", "/v1/events/E-1", "/v1/events/E-1/status", "/v1/events/E-1/deliveries", "/v1/partners", "/v1/partners/P0",
    "/v1/partners/P0/events", "/v1/ledger", "/v1/audit", "/v1/dead-letters", "/v1/unacked", "/v1/nodes", "/v1/holds",
    "/dashboard/events", "/dashboard/events/E-1", "/dashboard/partners", "/dashboard/partners/P0",
    "/dashboard/ledger", "/dashboard/audit",
}  # fmt: skip
NEW = {"id": "NEW", "channel": "webhook", "url": "http://127.0.0.1:9/"}
WRITES: list[tuple[str, str, Any]] = [
    ("POST", "/v1/events", event("E-2", "E")),
    ("POST", "/v1/partners", NEW),
    ("POST", "/v1/partners", {**NEW, "id": "NEWER"}),
    ("PUT", "/v1/partners/NEWEST", {**NEW, "id": "NEWEST"}),
    ("DELETE", "/v1/partners/P7", None),
    ("POST", "/v1/partners/P1/pause", {}),
    ("POST", "/v1/partners/P2/rotate-secret", {}),
    ("POST", "/v1/tokens", {"role": "publisher"}),
    ("POST", "/v1/tables", {"id": "T", "entries": {"a": "b"}}),
    ("POST", "/v1/holds", {"subject": "E", "reason": "a suit"}),
    ("POST", "/v1/events/E-1/replay", {}),
    ("POST", "/v1/dead-letters/redrive", {"partner": "P0"}),
    ("POST", "/v1/dead-letters/discard", {"partner": "P0", "reason": "old"}),
    ("POST", "/v1/ledger/verify", None),
    ("POST", "/v1/ledger/checkpoint", {}),
]


@pytest.fixture
def fleet(tmp_path: Path, binary: Path, loop: Loop) -> Iterator[Fleet]:
    yield from fleets.running(binary, tmp_path, loop)


class Told(NamedTuple):
    """What somebody was told, and when."""

    what: str
    answer: Answer
    seconds: float


def sign_in(client: Client) -> dict[str, str]:
    """The cookie of a browser."""
    answer = client.ask(
        "POST", "/dashboard/sign-in", f"token={client.token}".encode(),
        {"content-type": "application/x-www-form-urlencoded", "origin": f"http://{client.address[0]}:{client.address[1]}"},
    )  # fmt: skip
    assert answer.status == 303, answer
    return {"cookie": answer.headers["set-cookie"].split(";")[0]}


def paths_of(client: Client) -> list[str]:
    """Everything that can be read, of the partner P0 and the event E-1."""
    found = []
    for path, methods in client.get("/openapi.json")["paths"].items():
        if "get" in methods and path not in FLOWS:
            id = "P0" if "/partners/" in path else "E-1"
            found.append(path.replace("{id}", id) + {"/v1/ledger/proof": "?event=E-1&partner=P0"}.get(path, ""))
    assert len(found) > 25 and OF_THE_STORE - set(PAGES) <= set(found), found
    return found


def ask_all(new_client: Callable[[], Client], cookie: dict[str, str], reads: list[str], writes: bool) -> list[Told]:
    """Everything at once; all are answered in time."""
    told: list[Told] = []
    failed: list[str] = []

    def ask(method: str, path: str, body: Any) -> None:
        began = time.monotonic()
        try:
            headers = cookie if path.startswith("/dashboard") else {}
            client = new_client()
            if headers:
                client.token = None
            answer = client.ask(method, path, body, headers)
            told.append(Told(path if method == "GET" else f"{method} {path}", answer, time.monotonic() - began))
            client.close()
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{method} {path}: {error!r} after {time.monotonic() - began:.1f} s")

    asked = [("GET", path, None) for path in [*reads, *PAGES]] + (WRITES if writes else [])
    threads = [threading.Thread(target=ask, args=one) for one in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)
    assert not failed, "\n".join(failed)
    assert len(told) == len(asked)
    return told


@pytest.mark.parametrize("how", ["stopped", "unreachable"])
def test_while_the_database_hangs_everybody_is_told_so_in_time(loop: Loop, server: Server, fleet: Fleet, how: str) -> None:
    way = Proxy(loop, server.port)
    url = server.url("hub").replace(f":{server.port}/", f":{way.port}/")
    fleet.start_all(url, url)
    hub = fleet.hubs[0]
    client = hub.client()
    publish(client, ["E-1"])
    wait_for("its receipts", lambda: fleets.is_acked(client, ["E-1"]))
    cookie, reads = sign_in(client), paths_of(client)
    whole = ask_all(hub.client, cookie, reads, writes=False)
    wrong = [one for one in whole if one.what in OF_THE_STORE and one.answer.status != 200]
    assert not wrong, wrong
    if how == "stopped":
        server.freeze()
    else:
        way.freeze()
    stranger = hub.stranger()
    for time_of in ("at first", "then"):
        told = ask_all(lambda: hub.client(seconds=ANSWER_SECONDS_MAX), cookie, reads, writes=True)
        by_path = {one.what: one for one in told}
        wrong = [one for one in told if one.answer.status >= 500 and one.answer.status != 503]
        assert not wrong, wrong
        answered = [path for path in OF_THE_STORE if by_path[path].answer.status != 503]
        assert not answered, f"{time_of}: {answered}"
        written = [(one.what, one.answer) for one in told if " /v1/" in one.what and one.answer.status < 300]
        assert not written, f"{time_of}: {written}"
        for one in told:
            if one.answer.status == 503:
                assert int(one.answer.headers["retry-after"]) >= 1, one
                if not one.what.startswith("/dashboard") and one.what != "/readyz":
                    assert one.answer.json["code"] == "unavailable" and one.answer.json["hint"], one
        refused = [one for one in told if one.answer.status == 503]
        print(f"{how}, {time_of}: {len(refused)} of {len(told)} refused, after {max(one.seconds for one in refused):.1f} s at most")
        assert stranger.ask("GET", "/readyz").status == 503
    assert stranger.ask("GET", "/healthz").status == 200
    if how == "stopped":
        server.thaw()
    else:
        way.mend()
    strangers = [one.stranger() for one in fleet.hubs]
    wait_for("both to be ready again", lambda: {one.ask("GET", "/readyz").status for one in strangers} == {200}, seconds=60)
    fleet.load()
    # What was open is the same at both, and may be done again.
    clients = [one.client() for one in fleet.hubs]
    lists = wait_for(
        "one list of partners at both",
        lambda: (both := [sorted(one["id"] for one in at.pages("/v1/partners")) for at in clients])[0] == both[1] and both[0],
    )
    print(f"{how}: after it {lists}")
    for id in ("NEW", "NEWER", "NEWEST"):
        assert clients[1].ask("PUT", f"/v1/partners/{id}", {**NEW, "id": id}).status in (200, 201)
        assert clients[0].ask("DELETE", f"/v1/partners/{id}").status in (200, 204)
    after = ask_all(hub.client, cookie, reads, writes=False)
    wrong = [one for one in after if one.what in OF_THE_STORE and one.answer.status != 200]
    assert not wrong, wrong
    for publisher in fleet.publishers:
        publisher.stop()
    for asked in fleet.hubs:
        assert asked.process.poll() is None and asked.terminate() == 0, "".join(asked.log[-20:])
