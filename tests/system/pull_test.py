"""Partners behind a firewall: they fetch their events, with their own token, and acknowledge them."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from conftest import ROOT, Client, Hub, Loop, Request, Sink, any_store, event, large, wait_for

pytestmark = any_store

PAGE = ROOT / "docs" / "channels" / "pull.md"


def add_pull(client: Client, id: str, **document: Any) -> str:
    """Adds a partner that fetches; answers its own token."""
    answer = client.ask("POST", "/v1/partners", {"id": id, "channel": "pull", **document})
    assert answer.status == 201, answer
    answer = client.ask("POST", "/v1/tokens", {"role": "partner", "partner": id})
    assert answer.status == 201, answer
    return str(answer.json["token"])


def publish(client: Client, id: str, subject: Optional[str] = None, **headers: str) -> None:
    answer = client.ask("POST", "/v1/events", event(id, subject or id), headers)
    assert answer.status == 202, answer


def fetch(client: Client, id: str, query: str = "wait=10s") -> list[Any]:
    return list(client.get(f"/v1/partners/{id}/inbox?{query}")["items"])


def ack(client: Client, id: str, **more: Any) -> None:
    answer = client.ask("POST", "/v1/acks", {"ack": id, **more})
    assert answer.status == 200, answer


def test_a_partner_fetches_its_events_and_its_word_ends_them(start_hub: Callable[..., Hub]) -> None:
    hub = start_hub()
    client = hub.client()
    own = hub.client(add_pull(client, "CLINIC"))
    assert fetch(own, "CLINIC", "") == []
    publish(client, "RULE-V1", "RULE")
    publish(client, "RULE-V2", "RULE")
    (item,) = fetch(own, "CLINIC")
    assert (item["event_id"], item["envelope"]["payload"], item["lease_ms"]) == ("RULE-V1", {"n": "RULE-V1"}, 30_000)
    assert item["headers"]["x-hms-partner-seq"] == "1" and item["headers"]["webhook-id"] == item["message_id"]
    # The newer one of the subject waits for the end of the older one.
    assert fetch(own, "CLINIC", "") == []
    wait_for("the state", lambda: client.get("/v1/events/RULE-V1/status") == {"CLINIC": "awaiting_ack"})
    ack(own, "RULE-V1")
    (item,) = fetch(own, "CLINIC")
    assert item["event_id"] == "RULE-V2"
    answer = own.ask("POST", "/v1/acks", {"nack": "RULE-V2", "reason": "unknown county"})
    assert answer.status == 200, answer
    assert client.get("/v1/events/RULE-V1/status") == {"CLINIC": "ack"}
    assert client.get("/v1/events/RULE-V2/status") == {"CLINIC": "nack"}
    entries = client.pages("/v1/ledger")
    assert [(entry["word"], entry["evidence"]) for entry in entries] == [("ack", "callback"), ("nack", "callback")]
    assert client.ask("POST", "/v1/ledger/verify", {}).status == 200
    assert hub.terminate(seconds=5) == 0


def test_what_is_not_acknowledged_in_its_lease_is_offered_again_and_to_one_at_a_time(
    start_hub: Callable[..., Hub],
) -> None:
    hub = start_hub()
    client = hub.client()
    token = add_pull(client, "CLINIC", ack={"within": "400ms"})
    own, other = hub.client(token), hub.client(token)
    publish(client, "RULE-V1")
    began = time.monotonic()
    (first,) = fetch(own, "CLINIC")
    assert fetch(other, "CLINIC", "") == []
    (again,) = fetch(other, "CLINIC")
    # The hub writes outcomes down together, which may take some of the lease.
    assert time.monotonic() - began >= 0.3
    assert again["message_id"] == first["message_id"]
    assert (first["headers"]["x-hms-attempt"], again["headers"]["x-hms-attempt"]) == ("1", "2")
    # A late word, of the first lease, counts, and what waits to be fetched again does not come any more.
    time_to_offer = wait_for("the offer", lambda: client.get("/v1/events/RULE-V1/deliveries")["items"][0]["attempts_made"] >= 2)
    assert time_to_offer
    ack(own, "RULE-V1")
    assert fetch(own, "CLINIC", "wait=1s") == []
    assert client.get("/v1/events/RULE-V1/status") == {"CLINIC": "ack"}
    assert hub.terminate(seconds=5) == 0


def test_a_restart_forgets_nothing_and_waits_for_nobody(start_hub: Callable[..., Hub], tmp_path: Path) -> None:
    data = tmp_path / "kept"
    hub = start_hub(data)
    client = hub.client()
    token = add_pull(client, "CLINIC", ack={"within": "1s"}, order="none")
    for number in range(3):
        publish(client, f"RULE-{number}", "RULE")
    assert len(fetch(hub.client(token), "CLINIC", "max=1&wait=5s")) == 1
    # Two wait to be fetched, one for its word; stopping takes no time.
    began = time.monotonic()
    assert hub.terminate(seconds=8) == 0
    assert time.monotonic() - began < 8
    hub = start_hub(data)
    own = hub.client(token)
    got: dict[str, int] = {}

    def all_three() -> bool:
        for item in fetch(own, "CLINIC", "wait=2s"):
            got[item["event_id"]] = int(item["headers"]["x-hms-attempt"])
            ack(own, item["event_id"])
        return len(got) == 3

    wait_for("all three", all_three)
    # Nobody asked for two of them before: that was no failed attempt.
    assert sorted(got.values()) == [1, 1, 2]
    status = hub.client().get("/v1/partners/CLINIC")
    assert "offline_since" not in status, status
    assert hub.terminate(seconds=5) == 0


def test_a_retraction_takes_what_waits_out_of_the_inbox(start_hub: Callable[..., Hub]) -> None:
    hub = start_hub()
    client = hub.client()
    own = hub.client(add_pull(client, "CLINIC", order="none"))
    publish(client, "RULE-V1", "RULE")
    publish(client, "OTHER-V1", "OTHER")
    wait_for("both to wait", lambda: client.get("/v1/partners/CLINIC")["in_flight"] == 2)
    assert hub.run("retract", "RULE-V1").returncode == 0
    wait_for("the end", lambda: client.get("/v1/events/RULE-V1/status") == {"CLINIC": "cancelled"})
    # Its attempt was under way, as the lane sees it: so the retraction comes, and the event does not.
    wait_for("both to wait", lambda: client.get("/v1/partners/CLINIC")["in_flight"] == 2)
    got = sorted(item["event_id"] for item in fetch(own, "CLINIC"))
    assert got == ["OTHER-V1", "RULE-V1.retraction"], got
    assert hub.terminate(seconds=5) == 0


def test_a_partner_that_is_changed_keeps_its_events_in_its_new_version(start_hub: Callable[..., Hub]) -> None:
    hub = start_hub()
    client = hub.client()
    own = hub.client(add_pull(client, "CLINIC"))
    publish(client, "RULE-V1")
    wait_for("it to wait", lambda: client.get("/v1/partners/CLINIC")["in_flight"] == 1)
    fetched: list[Any] = []
    # One that is paused gets nothing, even what waited for it.
    assert client.ask("POST", "/v1/partners/CLINIC/pause", {}).status == 200
    wait_for("it to be taken back", lambda: client.get("/v1/partners/CLINIC")["in_flight"] == 0)
    assert fetch(own, "CLINIC", "") == []
    assert client.ask("POST", "/v1/partners/CLINIC/resume", {}).status == 200
    wait_for("it to wait", lambda: client.get("/v1/partners/CLINIC")["in_flight"] == 1)
    bridge = {"subject": "RULE*", "from": 1, "to": 2, "script": '{"m": n}'}
    assert client.ask("POST", "/v1/bridges", bridge).status == 201
    changed = {"id": "CLINIC", "channel": "pull", "accepts_version": 2}
    assert client.ask("PUT", "/v1/partners/CLINIC", changed).status == 200
    fetched += fetch(own, "CLINIC")
    assert [item["envelope"]["payload"] for item in fetched] == [{"m": "RULE-V1"}]
    assert hub.terminate(seconds=5) == 0


def test_only_the_partner_itself_takes_from_its_inbox(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub()
    client = hub.client()
    add_pull(client, "CLINIC")
    other = hub.client(add_pull(client, "COURT-CAL"))
    assert other.ask("GET", "/v1/partners/CLINIC/inbox").status == 403
    auditor = client.ask("POST", "/v1/tokens", {"role": "auditor"}).json["token"]
    assert hub.client(auditor).ask("GET", "/v1/partners/CLINIC/inbox").status == 403
    answer = client.ask("POST", "/v1/partners", {"id": "HOOK", "channel": "webhook", "url": Sink(loop).url})
    assert answer.status == 201, answer
    refused = client.ask("GET", "/v1/partners/HOOK/inbox")
    assert refused.status == 409 and "has no inbox" in refused.json["detail"], refused
    assert client.ask("GET", "/v1/partners/CLINIC/inbox?wait=61s").status == 422
    assert client.ask("GET", "/v1/partners/CLINIC/inbox?max=0").status == 422
    refused = client.ask("POST", "/v1/partners", {"id": "X", "channel": "pull", "url": "https://a.example"})
    assert refused.status == 422 and refused.json["field"] == "url", refused
    assert hub.terminate(seconds=5) == 0


def test_server_sent_events_bring_messages_as_they_are_due(start_hub: Callable[..., Hub]) -> None:
    hub = start_hub()
    client = hub.client()
    token = add_pull(client, "CLINIC")
    stream = http.client.HTTPConnection(*hub.address, timeout=20)
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    stream.request("GET", "/v1/partners/CLINIC/inbox", headers=headers)
    answer = stream.getresponse()
    assert answer.status == 200 and answer.getheader("content-type") == "text/event-stream"
    payload = '{ "lines":\n  [1,\n 9007199254740993] }'
    body = f'{{"id": "RULE-V1", "version": 1, "payload": {payload}}}'.encode()
    assert client.ask("POST", "/v1/events", body).status == 202
    publish(client, "OTHER-V1", "OTHER", **{"x-hms-test": "true"})
    items: dict[str, Any] = {}
    data: list[str] = []
    while len(items) < 2:
        line = answer.readline().decode().rstrip("\n")
        if line.startswith("data: "):
            data.append(line[6:])
        elif not line and data:
            item = json.loads("\n".join(data))
            items[item["event_id"]] = (item, "\n".join(data))
            data = []
    assert payload in items["RULE-V1"][1]
    assert items["OTHER-V1"][0]["test"] is True and items["OTHER-V1"][0]["headers"]["x-hms-test"] == "true"
    stream.close()
    # The stream that is gone takes nothing along.
    own = hub.client(token)
    ack(own, "RULE-V1")
    publish(client, "RULE-V2", "RULE")
    assert [item["event_id"] for item in fetch(own, "CLINIC")] == ["RULE-V2"]
    assert hub.terminate(seconds=5) == 0


def test_listen_hands_events_on_to_a_local_webhook_under_the_hubs_signature(
    start_hub: Callable[..., Hub], loop: Loop, tmp_path: Path
) -> None:
    from hms_ess import verify

    hub = start_hub()
    client = hub.client()
    found = re.search(r"```yaml\n(# partners/clinic\.yaml\n.*?)```", PAGE.read_text(), re.S)
    assert found, "the page has its example"
    file = tmp_path / "clinic.yaml"
    file.write_text(found.group(1))
    added = hub.run("partner", "add", str(file), "--json")
    assert added.returncode == 0, added
    secret = json.loads(added.stdout)["secret"]
    token = client.ask("POST", "/v1/tokens", {"role": "partner", "partner": "CLINIC"}).json["token"]
    answers: dict[str, bytes] = {"RULE-V2": b'{"nack": "RULE-V2", "reason": "no such ward"}', "RULE-V3": b"{}"}

    async def local(request: Request) -> Optional[tuple[int, bytes]]:
        verify(request.arrival.body, request.arrival.headers, secret)
        assert "authorization" not in request.arrival.headers
        id = request.arrival.event_id
        return 200, answers.get(id, json.dumps({"ack": id}).encode())

    sink = Sink(loop, local)
    for number in (1, 2, 3):
        publish(client, f"RULE-V{number}", f"RULE-{number}")
    publish(client, "RULE-V1", "RULE-1", **{"x-hms-test": "true"})

    def listen(*more: str) -> subprocess.CompletedProcess[str]:
        words = [str(hub.binary), "listen", "CLINIC", "--forward", sink.url, "--once", *more]
        env = {**hub.environment, "HMS_ESS_TOKEN": token, "HMS_ESS_HUB": "http://%s:%d" % hub.address}
        return subprocess.run(words, env=env, cwd=hub.home, capture_output=True, text=True, timeout=30)

    wait_for("all to wait", lambda: client.get("/v1/partners/CLINIC")["in_flight"] == 4)
    done = listen()
    assert done.returncode == 0, done
    assert "RULE-V1: acknowledged" in done.stdout and "RULE-V1 (dry run): acknowledged" in done.stdout
    assert "RULE-V2: refused: no such ward" in done.stdout and "RULE-V3: the webhook answered 200 without" in done.stdout
    words = {id: client.get(f"/v1/events/{id}/status") for id in ("RULE-V1", "RULE-V2", "RULE-V3")}
    assert words == {"RULE-V1": {"CLINIC": "ack"}, "RULE-V2": {"CLINIC": "nack"}, "RULE-V3": {"CLINIC": "awaiting_ack"}}
    assert {arrival.headers.get("x-hms-test") for arrival in sink.arrivals} == {None, "true"}
    # The page's lease is short, so that it is offered again while this test waits.
    wait_for("the offer", lambda: "RULE-V3: acknowledged" in listen("--by-status").stdout)
    assert hub.terminate(seconds=5) == 0


def test_the_sdk_iterates_over_the_inbox(start_hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    import hms_ess

    hub = start_hub()
    client = hub.client()
    token = add_pull(client, "CLINIC")
    publish(client, "RULE-V1")
    publish(client, "OTHER-V1")
    publish(client, "RULE-V1", **{"x-hms-test": "true"})
    monkeypatch.setenv("HMS_ESS_TOKEN", token)
    monkeypatch.delenv("HMS_ESS_PROFILE", raising=False)
    url = "http://%s:%d" % hub.address
    seen = []
    for message in hms_ess.inbox("CLINIC", url, wait=2, forever=False):
        seen.append((message["id"], hms_ess.is_test(message.headers, message)))
        message.ack() if message["id"] == "RULE-V1" else message.nack("no such court")
    assert sorted(seen) == [("OTHER-V1", False), ("RULE-V1", False), ("RULE-V1", True)]
    assert client.get("/v1/events/RULE-V1/status") == {"CLINIC": "ack"}
    assert client.get("/v1/events/RULE-V1/status?test=true") == {"CLINIC": "ack"}
    assert client.get("/v1/events/OTHER-V1/status") == {"CLINIC": "nack"}
    assert hub.terminate(seconds=5) == 0


PARTNERS = 1_000
BYTES_MAX = 50 << 20


@large
def test_a_thousand_partners_that_wait_cost_little(start_hub: Callable[..., Hub]) -> None:
    hub = start_hub()
    client = hub.client()
    tokens = [add_pull(client, f"CLINIC-{number:04}") for number in range(PARTNERS)]
    before = hub.resident_bytes()
    sockets = []
    for number, token in enumerate(tokens):
        line = hub.socket()
        line.sendall(
            f"GET /v1/partners/CLINIC-{number:04}/inbox?wait=60s HTTP/1.1\r\nhost: hub\r\n"
            f"authorization: Bearer {token}\r\n\r\n".encode()
        )
        sockets.append(line)
    descriptors = Path(f"/proc/{hub.process.pid}/fd")
    wait_for("all to wait", lambda: len(os.listdir(descriptors)) >= PARTNERS)
    publish(client, "RULE-V1")
    for line in sockets:
        assert b'"event_id":"RULE-V1"' in line.recv(65_536)
        line.close()
    grown = hub.resident_bytes() - before
    print(f"{PARTNERS} partners that wait: {grown / (1 << 20):.1f} MiB, {grown / PARTNERS / 1024:.1f} KiB each")
    assert grown < BYTES_MAX, grown
    assert hub.terminate(seconds=10) == 0
