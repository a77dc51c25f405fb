"""Clients that mean harm: each is answered or let go within a bound, memory stays bounded, and the others notice nothing."""

from __future__ import annotations

import select
import socket
import time
from typing import Callable

from harness import Hub, raise_file_limit, wait_for

IDLE_CONNECTIONS = 10_000
MEMORY_GROWTH_MIB_MAX = 64.0
# 10,000 connections with their buffers.
MEMORY_IDLE_MIB_MAX = 400.0
ANSWER_SECONDS_MAX = 30.0
# The hub lets a connection be silent for 75 s between requests.
SILENCE_SECONDS_MAX = 100.0


def dial(hub: Hub) -> socket.socket:
    return socket.create_connection(("127.0.0.1", hub.port), timeout=ANSWER_SECONDS_MAX)


def head(hub: Hub, *lines: str) -> bytes:
    first = ["POST /v1/events HTTP/1.1", "host: hub", f"authorization: Bearer {hub.token}"]
    return "\r\n".join([*first, "content-type: application/json", *lines, "", ""]).encode()


def read_answer(stream: socket.socket, seconds: float = ANSWER_SECONDS_MAX) -> bytes:
    """What comes until a whole head is there or the hub closes; bounded."""
    end = time.monotonic() + seconds
    answer = b""
    while b"\r\n\r\n" not in answer:
        ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"no answer within {seconds} s, only {answer!r}"
        try:
            more = stream.recv(65536)
        except ConnectionError:
            return answer
        if not more:
            return answer
        answer += more
    return answer


def check_is_well(hub: Hub, id: str) -> None:
    """Another client is served at once."""
    client = hub.client()
    began = time.monotonic()
    answer = client.ask("POST", "/v1/events", {"id": id, "version": 1, "payload": {}})
    assert answer.status == 202, answer
    assert time.monotonic() - began < 5.0, "another client had to wait"
    client.close()


def test_a_body_that_stops_half_way_is_answered_or_let_go(make_hub: Callable[..., Hub]) -> None:
    hub = make_hub().start()
    with dial(hub) as stream:
        stream.sendall(head(hub, "content-length: 500") + b'{"id": "EVT-HALF", "version": 1')
        check_is_well(hub, "EVT-OTHER-1")
        answer = read_answer(stream)
        assert answer.startswith(b"HTTP/1.1 408"), answer
    with dial(hub) as stream:
        stream.sendall(head(hub, "content-length: 500") + b'{"id": "EVT-HALF", "version": 1')
        stream.shutdown(socket.SHUT_WR)
        answer = read_answer(stream)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    check_is_well(hub, "EVT-OTHER-2")
    assert hub.client().ask("GET", "/v1/events/EVT-HALF").status == 404


def test_a_gigabyte_is_refused_unread(make_hub: Callable[..., Hub]) -> None:
    hub = make_hub().start()
    before = hub.memory_mib("VmHWM")
    with dial(hub) as stream:
        stream.sendall(head(hub, f"content-length: {1 << 30}") + b'{"id": "EVT-LARGE", ')
        answer = read_answer(stream)
        assert answer.startswith(b"HTTP/1.1 413"), answer
        assert b"application/problem+json" in answer.lower()
    assert hub.memory_mib("VmHWM") - before < MEMORY_GROWTH_MIB_MAX
    check_is_well(hub, "EVT-OTHER")


def test_a_chunked_body_without_end_is_refused_at_the_limit(make_hub: Callable[..., Hub]) -> None:
    hub = make_hub().start()
    before = hub.memory_mib("VmHWM")
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    sent = 0
    with dial(hub) as stream:
        stream.sendall(head(hub, "transfer-encoding: chunked"))
        try:
            # Far more than the limit of 1 MiB; the hub need not take it.
            while sent < 256 << 20 and not select.select([stream], [], [], 0)[0]:
                stream.sendall(chunk)
                sent += len(chunk)
            answer = read_answer(stream)
        except ConnectionError:
            answer = b""
    assert sent < 256 << 20, "the hub read 256 MiB of one event"
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413"), answer
    assert hub.memory_mib("VmHWM") - before < MEMORY_GROWTH_MIB_MAX
    check_is_well(hub, "EVT-OTHER")


def test_a_head_that_comes_a_byte_at_a_time_is_let_go(make_hub: Callable[..., Hub]) -> None:
    hub = make_hub().start()
    drip = head(hub, "x-slow: " + "y" * 4096)
    with dial(hub) as stream:
        stream.setblocking(False)
        began = time.monotonic()
        for byte in drip:
            ready, _, _ = select.select([stream], [], [], 0.25)
            if ready:
                break
            assert time.monotonic() - began < SILENCE_SECONDS_MAX, "a slow head was never let go"
            stream.send(bytes([byte]))
        answer = stream.recv(65536)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    check_is_well(hub, "EVT-OTHER")


def test_endless_header_fields_are_refused(make_hub: Callable[..., Hub]) -> None:
    hub = make_hub().start()
    before = hub.memory_mib("VmHWM")
    with dial(hub) as stream:
        answer = b""
        try:
            stream.sendall(b"POST /v1/events HTTP/1.1\r\nhost: hub\r\n")
            for number in range(100_000):
                if select.select([stream], [], [], 0)[0]:
                    break
                stream.sendall(b"x-%d: %s\r\n" % (number, b"y" * 512))
            else:
                raise AssertionError("the hub read 50 MiB of header fields")
            answer = read_answer(stream)
        except ConnectionError:
            pass
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert hub.memory_mib("VmHWM") - before < MEMORY_GROWTH_MIB_MAX
    check_is_well(hub, "EVT-OTHER")


def test_ten_thousand_idle_connections_cost_others_nothing(make_hub: Callable[..., Hub]) -> None:
    # Ours and the hub's, which inherits the limit; some files are needed beside.
    count = min(IDLE_CONNECTIONS, raise_file_limit() - 500)
    hub = make_hub().start()
    idle: list[socket.socket] = []
    try:
        while len(idle) < count:
            idle.append(dial(hub))
        check_is_well(hub, "EVT-OTHER-1")
        # Half of them have begun to speak.
        for stream in idle[::2]:
            stream.sendall(b"POST /v1/events HTTP/1.1\r\nhost:")
        check_is_well(hub, "EVT-OTHER-2")
        assert hub.memory_mib("VmRSS") < MEMORY_IDLE_MIB_MAX
    finally:
        for stream in idle:
            stream.close()
    wait_for("the hub to let them go", lambda: hub.client().ask("GET", "/healthz").status == 200)
    check_is_well(hub, "EVT-OTHER-3")
    print(f"{count} idle connections, {hub.memory_mib('VmHWM'):.0f} MiB at most")
