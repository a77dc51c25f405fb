"""Partners that mean harm, or are broken in every way an HTTP answer can be, beside healthy ones.

A hostile partner may cost its own deliveries, and nothing else: no other's time, no memory without bound, no answer of
the API.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
import zlib
from typing import Any, Awaitable, Callable, Iterator

import pytest
from conftest import Client, Hub, Loop, Raw, Sink, Watch, add_partner, event, wait_for

EVENTS = 200
#: So many first attempts at once at each partner; another one is a second attempt.
SUBJECTS = 10
#: For a hundred events to three healthy partners; seconds on an idle machine are tenths.
HEALTHY_SECONDS_MAX = 20
RESIDENT_BYTES_MAX = 120 * 1024 * 1024
HEALTH_SECONDS_MAX = 2.0
BOMB_BYTES = 512 * 1024 * 1024
HANG = 3600
RETRY = {"first": "200ms", "factor": 1.5, "max": "1s", "jitter": 0.2, "give_up_after": "24h"}

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def request_head(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A byte a second, of the head first."""
    await request_head(reader)
    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"x" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def drip_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A whole head at once, and a byte a second of the body."""
    await request_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(1)


async def pour(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Without end, as fast as it is taken."""
    while True:
        writer.write(piece)
        await writer.drain()
        # The other hostile partners of this loop get their turn.
        await asyncio.sleep(0)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
    await pour(writer, b"x" * 65_536)


async def flood_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    await pour(writer, b"1;" + b"e" * 200 + b"\r\nx\r\n")


async def interim_storm(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_head(reader)
    await pour(writer, b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 100)


async def endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await pour(writer, b"x-more: " + b"y" * 1000 + b"\r\n")


async def endless_header_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nx-more: ")
    await pour(writer, b"y" * 65_536)


async def reset_half_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(20)
    writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"ack"')
    await writer.drain()
    bare = writer.get_extra_info("socket")
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(HANG)


async def huge_promise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says that petabytes follow: nothing may be set aside for them."""
    await request_head(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9007199254740992\r\n\r\n{")
    await asyncio.sleep(HANG)


async def speak_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_head(reader)
    writer.write(b"\x00\xff SSH-2.0 nonsense\r\n\r\n" * 10)
    await writer.drain()


def bomb() -> Conversation:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = b"\0" * (1024 * 1024)
    packed = b"".join(packer.compress(zeros) for _ in range(BOMB_BYTES // len(zeros))) + packer.flush()

    async def explode(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_head(reader)
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
            b"content-length: %d\r\n\r\n" % len(packed)
        )
        writer.write(packed)
        await writer.drain()

    return explode


@pytest.fixture
def hostile_loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.close()


def publish_wave(client: Client, healthy: dict[str, Sink], first: int, count: int) -> float:
    """Publishes, and waits until every healthy partner has acknowledged; answers how long that took."""
    began = time.monotonic()
    ids = [f"H-{number}" for number in range(first, first + count)]
    for number, id in enumerate(ids):
        assert client.ask("POST", "/v1/events", event(id, f"S-{number % SUBJECTS}")).status == 202
    left = set(ids)

    def all_acked() -> bool:
        for id in sorted(left):
            status = client.get(f"/v1/events/{id}/status")
            if any(status[name] != "ack" for name in healthy):
                return False
            left.discard(id)
        return True

    wait_for("the healthy partners' ACKs", all_acked, seconds=HEALTHY_SECONDS_MAX)
    return time.monotonic() - began


def partners(client: Client, names: dict[str, Raw]) -> list[Any]:
    return [view for view in client.get("/v1/partners")["items"] if view["id"] in names]


def test_hostile_partners_cost_nobody_else_anything(
    start_hub: Callable[..., Hub], loop: Loop, hostile_loop: Loop
) -> None:
    conversations: dict[str, Conversation] = {
        "DRIP": drip,
        "DRIP-BODY": drip_body,
        "FLOOD": flood,
        "FLOOD-CHUNKS": flood_chunks,
        "BOMB": bomb(),
        "INTERIM": interim_storm,
        "HEADERS": endless_headers,
        "HEADER-LINE": endless_header_line,
        "RESET": reset_half_way,
        "SILENT": never_answer,
        "PROMISE": huge_promise,
        "NONSENSE": speak_nonsense,
        "TLS": never_answer,
    }
    hub = start_hub()
    client = hub.client()
    hostile = {name: Raw(hostile_loop, conversation) for name, conversation in conversations.items()}
    for name, partner in hostile.items():
        scheme = "https" if name == "TLS" else "http"
        url = f"{scheme}://127.0.0.1:{partner.port}/events"
        add_partner(client, name, url, timeout="2s", ack={"by": "body", "within": "2s"}, retry=RETRY)
    healthy = {f"HEALTHY-{number}": Sink(loop) for number in range(3)}
    for name, sink in healthy.items():
        add_partner(client, name, sink.url, retry=RETRY)

    watch = Watch(hub)
    try:
        waves = [publish_wave(client, healthy, 0, EVENTS // 2)]
        # The second wave comes when every one of them has been tried again and again.
        wait_for("attempts at hostile partners", lambda: all(one.connections > SUBJECTS for one in hostile.values()))
        wait_for("what is wrong with each", lambda: all("last_error" in view for view in partners(client, hostile)))
        waves.append(publish_wave(client, healthy, EVENTS // 2, EVENTS // 2))
        views = {view["id"]: view for view in partners(client, hostile)}
    finally:
        watch.end()
    peak = watch.resident_max / (1024 * 1024)
    print(json.dumps({"waves": waves, "slowest": watch.slowest, "asked": watch.asked, "peak_mb": peak}))
    for name, one in hostile.items():
        print(name, one.connections, views[name]["state"], views[name].get("last_error"))

    assert not watch.errors and watch.asked > 20, watch.errors[:5]
    assert watch.slowest < HEALTH_SECONDS_MAX, f"/healthz took {watch.slowest:.1f} s"
    assert watch.resident_max < RESIDENT_BYTES_MAX, f"the hub had {peak:.0f} MiB"
    for sink in healthy.values():
        assert len(sink.arrivals) == EVENTS, "each event once: a healthy partner needs no second attempt"
    for name in hostile:
        assert views[name]["backlog"] == EVENTS, f"nothing that {name} said is a receipt"
        assert views[name]["in_flight"] <= 16
    assert client.ask("POST", "/v1/ledger/verify").json["size"] == EVENTS * len(healthy)
