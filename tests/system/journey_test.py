"""One event's way is found by its id in the log, and is one trace at a collector."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Iterator, Optional

import pytest
from conftest import Hub, Loop, Request, Sink, acknowledge, add_partner, any_store, event, wait_for
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = any_store

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
RETRY = {"first": "50ms", "factor": 1, "max": "100ms", "jitter": 0}
WELL, ERROR = 1, 2


class Collector:
    """What a collector is to the hub: it takes OTLP in JSON at /v1/traces."""

    def __init__(self) -> None:
        self.status = 200
        self.requests: list[tuple[str, str, bytes]] = []
        collector = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append((self.path, self.headers["content-type"], body))
                self.send_response(collector.status)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def spans(self) -> list[dict[str, Any]]:
        """All spans so far; each request is held to the protocol's own definition first."""
        found = []
        for path, kind, body in list(self.requests):
            assert (path, kind) == ("/v1/traces", "application/json")
            Parse(body, ExportTraceServiceRequest())
            for resource in json.loads(body)["resourceSpans"]:
                named = attributes(resource["resource"])
                assert named["service.name"] == "hms-ess"
                found += [span for scope in resource["scopeSpans"] for span in scope["spans"]]
        return found

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


def attributes(one: dict[str, Any]) -> dict[str, Any]:
    values = {item["key"]: item["value"] for item in one["attributes"]}
    return {key: value.get("stringValue", value.get("intValue")) for key, value in values.items()}


def named(spans: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [span for span in spans if span["name"] == name]


def publish(hub: Hub, id: str, flags: Optional[str] = "01") -> None:
    headers = {} if flags is None else {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}
    document = {**event(id, "RULE", {"deadline": "16:00"}), "version": 3}
    answer = hub.client().ask("POST", "/v1/events", document, headers)
    assert answer.status == 202, answer


def add_bridge(hub: Hub) -> None:
    bridge = {"subject": "RULE", "from": 3, "to": 1, "script": '{"due": deadline}'}
    answer = hub.client().ask("POST", "/v1/bridges", bridge)
    assert answer.status == 201, answer


def fails_once() -> Callable[[Request], Any]:
    """A partner that answers 503 to the first attempt."""
    tried: set[str] = set()

    async def behave(request: Request) -> Optional[tuple[int, bytes]]:
        if request.arrival.event_id not in tried:
            tried.add(request.arrival.event_id)
            return 503, b"not yet"
        return await acknowledge(request)

    return behave


def test_a_journey_is_one_trace_below_the_callers_span(
    start_hub: Callable[..., Hub], loop: Loop, collector: Collector
) -> None:
    hub = start_hub(HMS_ESS_OTEL_URL=collector.url)
    partner = Sink(loop, fails_once())
    add_bridge(hub)
    add_partner(hub.client(), "COURT-CAL", partner.url, accepts_version=1, retry=RETRY)
    publish(hub, "RULE-V3")
    spans = wait_for("the whole journey", lambda: whole(collector.spans(), 6))
    assert {span["traceId"] for span in spans} == {TRACE}
    by_id = {span["spanId"]: span for span in spans}
    assert len(by_id) == 6, "each span has an id of its own"
    parents = {span["name"] + str(attributes(span).get("delivery.attempt", "")): by_id.get(span["parentSpanId"], {}).get("name", span["parentSpanId"]) for span in spans}
    assert parents == {
        "publish RULE": CALLER,
        "convert 3 to 1": "publish RULE",
        "deliver COURT-CAL": "publish RULE",
        "attempt COURT-CAL1": "deliver COURT-CAL",
        "attempt COURT-CAL2": "deliver COURT-CAL",
        "receipt COURT-CAL": "deliver COURT-CAL",
    }
    assert all(attributes(span)["event.id"] == "RULE-V3" for span in spans)
    assert all(int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"]) for span in spans)
    first, second = sorted(named(spans, "attempt COURT-CAL"), key=lambda span: span["startTimeUnixNano"])
    told = [(attributes(span)["delivery.outcome"], attributes(span)["http.response.status_code"]) for span in (first, second)]
    assert told == [("failed", "503"), ("acked", "200")]
    assert (first["status"]["code"], second["status"]["code"]) == (ERROR, WELL)
    assert attributes(named(spans, "receipt COURT-CAL")[0])["hms.receipt.evidence"] == "body"
    assert len(attributes(named(spans, "convert 3 to 1")[0])["hms.bridge.scripts"]) == 64
    # What travels to the partner is the caller's own context, as the contract has it.
    assert {arrival.headers["traceparent"] for arrival in partner.arrivals} == {f"00-{TRACE}-{CALLER}-01"}


def whole(spans: list[dict[str, Any]], count: int) -> Optional[list[dict[str, Any]]]:
    assert len(spans) <= count, [span["name"] for span in spans]
    return spans if len(spans) == count else None


def test_a_caller_that_does_not_record_its_trace_is_not_recorded_here(
    start_hub: Callable[..., Hub], loop: Loop, collector: Collector
) -> None:
    hub = start_hub(HMS_ESS_OTEL_URL=collector.url)
    partner = Sink(loop)
    add_partner(hub.client(), "COURT-CAL", partner.url)
    publish(hub, "NOT-RECORDED", "00")
    wait_for("the delivery", lambda: len(partner.acked) == 1)
    publish(hub, "RECORDED", None)
    # Spans go out in their order: with the later event's here, the earlier one's would be.
    spans = wait_for("the other one's", lambda: named(collector.spans(), "deliver COURT-CAL") and collector.spans())
    assert {attributes(span)["event.id"] for span in spans} == {"RECORDED"}
    # Without a caller's trace the event begins one: its first span has no parent.
    assert [span["name"] for span in spans if "parentSpanId" not in span] == ["publish RULE"]
    assert len({span["traceId"] for span in spans}) == 1
    assert hub.terminate() == 0
    hub = start_hub(HMS_ESS_OTEL_URL=collector.url, HMS_ESS_OTEL_SHARE="0")
    collector.requests.clear()
    publish(hub, "BY-SHARE", None)
    wait_for("its delivery", lambda: len(partner.acked) == 3)
    publish(hub, "BY-CALLER")
    spans = wait_for("the recorded one's", lambda: named(collector.spans(), "deliver COURT-CAL") and collector.spans())
    assert {attributes(span)["event.id"] for span in spans} == {"BY-CALLER"}


def test_a_collector_that_fails_holds_nothing_up(
    start_hub: Callable[..., Hub], loop: Loop, collector: Collector
) -> None:
    collector.status = 503
    hub = start_hub(HMS_ESS_OTEL_URL=collector.url)
    partner = Sink(loop)
    add_partner(hub.client(), "COURT-CAL", partner.url)
    publish(hub, "ONE")
    wait_for("the ACK", lambda: len(partner.acked) == 1)
    wait_for("a word in the log", lambda: any("could not bring spans to the collector" in line for line in hub.log))
    assert hub.terminate() == 0


def lines_of(hub: Hub, id: str) -> list[dict[str, Any]]:
    """What `grep <event id>` finds in the log."""
    found = [json.loads(line) for line in hub.log if id in line and line.startswith("{")]
    return [line["fields"] for line in found]


def test_the_whole_way_of_an_event_is_found_by_its_id_in_the_log(start_hub: Callable[..., Hub], loop: Loop) -> None:
    hub = start_hub(HMS_ESS_LOG="json", RUST_LOG="info", HMS_ESS_ESCALATE_AFTER="1s")
    client = hub.client()
    partner = Sink(loop, fails_once())

    async def refuse(request: Request) -> Optional[tuple[int, bytes]]:
        return 422, b"no"

    refusing = Sink(loop, refuse)
    add_bridge(hub)
    add_partner(client, "COURT-CAL", partner.url, accepts_version=1, retry=RETRY)
    add_partner(client, "REFUSES", refusing.url, retry=RETRY)
    add_partner(client, "NO-BRIDGE", partner.url, accepts_version=7)
    publish(hub, "RULE-V3")
    wait_for("the ACK", lambda: partner.acked)
    answer = client.ask("POST", "/v1/events/RULE-V3/replay", {"to": ["COURT-CAL"]})
    assert answer.status in (200, 202), answer

    def says(text: str, **fields: Any) -> Callable[[], bool]:
        def is_there() -> bool:
            lines = lines_of(hub, "RULE-V3")
            return any(
                text in line["message"] and all(line.get(name) == value for name, value in fields.items())
                for line in lines
            )

        return is_there

    attempt = {"event.id": "RULE-V3", "partner.id": "COURT-CAL"}
    for what, is_there in {
        "the publish": says("recorded RULE-V3 as number 1", **{"event.id": "RULE-V3", "event.seq": 1}),
        "the conversion": says("converted RULE-V3 from version 3 to 1: done", **{"bridge.from": 3, "bridge.to": 1}),
        "an attempt that failed": says("attempt 1", **attempt, **{"delivery.outcome": "failed"}),
        "the ACK": says("attempt 2", **attempt, **{"delivery.outcome": "acked", "http.status": 200}),
        "a refusal": says("attempt 1", **{"partner.id": "REFUSES", "delivery.outcome": "refused"}),
        "the dead letter": says("dead letter", **{"event.id": "RULE-V3", "partner.id": "REFUSES"}),
        "what is blocked": says("is blocked", **{"event.id": "RULE-V3", "partner.id": "NO-BRIDGE"}),
        "the escalation": says("", **{"event.id": "RULE-V3", "partner.id": "NO-BRIDGE", "cause": "blocked"}),
        "the replay": says("sent again", **{"event.id": "RULE-V3", "partner.id": "COURT-CAL"}),
    }.items():
        wait_for(f"{what} in\n{json.dumps(lines_of(hub, 'RULE-V3'), indent=1)[:4000]}", is_there, 20)
    trace = f"00-{TRACE}-{CALLER}-01"
    attempts = [line for line in lines_of(hub, "RULE-V3") if line["message"].startswith("attempt")]
    assert attempts and all(line["traceparent"] == trace for line in attempts)
