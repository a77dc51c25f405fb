"""Partners that mean harm, all at once beside healthy ones: each costs its own lane and nothing else."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from typing import Any, Callable

from harness import Client, Hub, Partners, acknowledge, partner_document, read_request, wait_for

HEALTHY = 4
EVENTS = 150
# One attempt at a hostile partner. The contract's default is 30 s; the deadline is the same code.
TIMEOUT_SECONDS = 2
# Beside the 1.2 of the contract: what a shared machine and a partner written in Python add to a p99 of some milliseconds.
P99_SLACK_SECONDS = 0.25
MEMORY_GROWTH_MIB_MAX = 64.0


async def hang(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the message and never answers."""
    await read_request(reader)
    await asyncio.Event().wait()


async def drip(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers a byte at a time: no pause is long, the whole takes for ever."""
    request = await read_request(reader)
    body = json.dumps({"ack": request.event}).encode()
    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)


async def drip_body(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A prompt head, then a body without end, a byte at a time."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\n \r\n")
        await writer.drain()
        await asyncio.sleep(0.2)


async def flood(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A body without end, as fast as it is read."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    while True:
        writer.write(chunk)
        await writer.drain()


async def bomb(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """32 MiB of blanks in 32 KiB."""
    await read_request(reader)
    body = gzip.compress(b" " * (32 << 20))
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def storm(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Interim answers without end."""
    await read_request(reader)
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * 64)
        await writer.drain()


async def headers(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Header fields without end."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    number = 0
    while True:
        writer.write(b"x-more-%d: %s\r\n" % (number, b"y" * 512))
        number += 1
        await writer.drain()


async def long_line(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One header field without end."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nx-more: ")
    while True:
        writer.write(b"y" * 65536)
        await writer.drain()


async def reset(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Promises more than it sends, and resets."""
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"ack\"")
    await writer.drain()
    writer.transport.abort()


async def mute(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accepts, and never finishes TLS."""
    await asyncio.Event().wait()


async def babble(_: Partners, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What it says is not HTTP."""
    await read_request(reader)
    writer.write(b"\x00\xff220 ready\r\n\r\n" * 100)
    await writer.drain()


HOSTILE = [hang, drip, drip_body, flood, bomb, storm, headers, long_line, reset, mute, babble]


def publish(client: Client, name: str) -> dict[str, float]:
    """When each event was published, a steady flow."""
    begun: dict[str, float] = {}
    next_at = time.monotonic()
    for number in range(EVENTS):
        # 50 events a second is the load, not a guess at when something is done.
        time.sleep(max(0.0, next_at - time.monotonic()))
        next_at += 0.02
        id = f"EVT-{name}-{number}"
        begun[id] = time.monotonic()
        answer = client.ask("POST", "/v1/events", {"id": id, "version": 1, "payload": {"number": number}})
        assert answer.status == 202, answer
    return begun


def healthy_p99(client: Client, partners: Partners, name: str) -> float:
    partners.arrivals.clear()
    begun = publish(client, name)
    wait_for("the healthy partners", lambda: len(partners.arrivals) >= EVENTS * HEALTHY, 30)
    delays = sorted(arrival.at - begun[arrival.event] for arrival in partners.arrivals)
    return delays[len(delays) * 99 // 100]


def first_failures(client: Client, event: str) -> dict[str, Any]:
    """The hostile partners' deliveries of this event, once each had an attempt that ended."""

    def found() -> dict[str, Any]:
        items = client.ask("GET", f"/v1/events/{event}/deliveries").json()["items"]
        bad = {item["partner"]: item for item in items if item["partner"].startswith("BAD-")}
        return bad if all(item["attempts_made"] or item["state"] == "ack" for item in bad.values()) else {}

    return dict(wait_for("an end of the first attempt at each hostile partner", found, TIMEOUT_SECONDS + 20))


def test_hostile_partners_cost_only_their_own_lanes(make_hub: Callable[..., Hub], partners: Partners) -> None:
    hub = make_hub().start()
    client = hub.client()
    for number in range(HEALTHY):
        document = partner_document(f"GOOD-{number}", partners.listen(acknowledge))
        assert client.ask("POST", "/v1/partners", document).status == 201
    alone = healthy_p99(client, partners, "ALONE")
    before = hub.memory_mib("VmHWM")

    # Theirs is a loop of their own: a flood must not slow the healthy ones inside this test.
    others = Partners()
    try:
        for behaviour in HOSTILE:
            scheme = "https" if behaviour is mute else "http"
            more = {"timeout": f"{TIMEOUT_SECONDS}s", "retry": {"first": "200ms", "max": "1s"}}
            name = f"BAD-{behaviour.__name__.replace('_', '-').upper()}"
            document = partner_document(name, others.listen(behaviour), scheme, **more)
            assert client.ask("POST", "/v1/partners", document).status == 201
        beside = healthy_p99(client, partners, "BESIDE")
        failures = first_failures(client, "EVT-BESIDE-0")
        assert len(failures) == len(HOSTILE)
        wrong = {name: item for name, item in failures.items() if item["state"] == "ack"}
        assert not wrong, f"taken for an ACK: {wrong}"
        for name, item in failures.items():
            took = max(attempt["took_ms"] for attempt in item["attempts"])
            assert took < (TIMEOUT_SECONDS + 1) * 1000, f"{name}: an attempt took {took} ms"
        after = hub.memory_mib("VmHWM")
        print(f"healthy p99 {alone * 1e3:.1f} ms alone, {beside * 1e3:.1f} ms beside; memory {before:.0f} -> {after:.0f} MiB")
        hub.stop()
    finally:
        others.stop()
    assert beside <= 1.2 * alone + P99_SLACK_SECONDS, f"healthy p99 {alone:.3f} s alone, {beside:.3f} s beside"
    assert after - before <= MEMORY_GROWTH_MIB_MAX, f"memory grew from {before:.0f} to {after:.0f} MiB"
