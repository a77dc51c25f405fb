"""The edge of the API: clients that are slow, huge, endless, broken, unknown or not allowed, and what each is told."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional

import pytest
from conftest import Answer, Client, Hub, event, raise_file_limit, wait_for

#: The hub's own bounds, as docs and code name them, and what a loaded machine adds.
BODY_PAUSE_SECONDS = 10
HEADER_SECONDS = 75
SLACK_SECONDS = 6
AT_ONCE_SECONDS = 3
ENDLESS_SECONDS_MAX = 30
EVENT_BYTES_MAX = 1024 * 1024
LORISES = 50
IDLE_CONNECTIONS = 10_000


class Lorises:
    """Connections whose head never ends: one byte a second."""

    def __init__(self, hub: Hub) -> None:
        self.began = time.monotonic()
        self.closed_after: dict[int, float] = {}
        self.said: dict[int, bytes] = {}
        self.stop = threading.Event()
        self.sockets = [hub.socket() for _ in range(LORISES)]
        for number, one in enumerate(self.sockets):
            one.setblocking(False)
            if number % 2:
                one.sendall(b"POST /v1/events HTTP/1.1\r\nhost: x\r\n")
        self.thread = threading.Thread(target=self._drip, daemon=True)
        self.thread.start()

    def _drip(self) -> None:
        while len(self.closed_after) < LORISES and not self.stop.wait(1):
            for number, one in enumerate(self.sockets):
                if number not in self.closed_after and not self._is_open(number, one):
                    self.closed_after[number] = time.monotonic() - self.began

    def _is_open(self, number: int, one: socket.socket) -> bool:
        """Says one more byte of the head."""
        try:
            if number % 2:
                one.send(b"x")
            read = one.recv(4_096)
            if read:
                self.said[number] = self.said.get(number, b"") + read
            return bool(read)
        except BlockingIOError:
            return True
        except OSError:
            return False

    def end(self) -> None:
        self.stop.set()
        self.thread.join(timeout=10)
        for one in self.sockets:
            one.close()


@pytest.fixture(scope="session", autouse=True)
def hub(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One hub for the whole edge: no client of one test may hurt the next."""
    raise_file_limit()
    folder = tmp_path_factory.mktemp("edge")
    running = Hub(binary, folder / "data", folder / "home")
    yield running
    assert running.terminate() == 0
    assert "panicked" not in "".join(running.log)


@pytest.fixture(scope="session", autouse=True)
def lorises(hub: Hub) -> Iterator[Lorises]:
    dripping = Lorises(hub)
    yield dripping
    dripping.end()


@pytest.fixture
def client(hub: Hub) -> Iterator[Client]:
    one = hub.client()
    yield one
    one.close()


def check_problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json", answer
    problem: dict[str, Any] = answer.json
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["title"] and problem["detail"] and problem["type"].endswith(code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem


class Heard(NamedTuple):
    """What a bare connection got back, and when it knew that."""

    status: Optional[int]
    text: bytes
    seconds: float


def listen(connection: socket.socket, began: float, seconds: float) -> Heard:
    """The first answer, or the close, within a bound."""
    connection.settimeout(seconds)
    text = b""
    try:
        while b"\r\n\r\n" not in text:
            piece = connection.recv(65_536)
            if not piece:
                break
            text += piece
    except (ConnectionResetError, BrokenPipeError):
        pass
    except TimeoutError:
        raise AssertionError(f"neither answered nor closed within {seconds} s: {text!r}") from None
    status = int(text.split(b" ")[1]) if text.startswith(b"HTTP/1.1 ") else None
    return Heard(status, text, time.monotonic() - began)


def head(hub: Hub, *lines: str, target: str = "/v1/events", token: bool = True) -> bytes:
    """The head of a POST."""
    fixed = [f"POST {target} HTTP/1.1", "host: x"]
    if token:
        fixed.append(f"authorization: Bearer {hub.token}")
    if not any(line.startswith("content-type") for line in lines):
        fixed.append("content-type: application/json")
    return ("\r\n".join([*fixed, *lines]) + "\r\n\r\n").encode()


def say(hub: Hub, text: bytes, seconds: float = AT_ONCE_SECONDS) -> Heard:
    """One bare request; the connection is closed afterwards."""
    with hub.socket() as connection:
        began = time.monotonic()
        connection.sendall(text)
        return listen(connection, began, seconds)


def test_a_body_that_stops_half_way_is_given_up_within_its_bound(hub: Hub) -> None:
    halves = {
        "half of it": head(hub, "content-length: 100") + b'{"id": "HALF-V1", ',
        "none of it": head(hub, "content-length: 100"),
        "a chunk of it": head(hub, "transfer-encoding: chunked") + b'5\r\n{"id"\r\n',
        "half a chunk of it": head(hub, "transfer-encoding: chunked") + b'50\r\n{"id"',
        "an administrator's": head(hub, "content-length: 100", target="/v1/partners") + b"{",
    }
    connections = {name: hub.socket() for name in halves}
    began = time.monotonic()
    for name, text in halves.items():
        connections[name].sendall(text)
    for name, connection in connections.items():
        heard = listen(connection, began, BODY_PAUSE_SECONDS + SLACK_SECONDS)
        assert heard.status in (408, None), f"{name}: {heard}"
        assert BODY_PAUSE_SECONDS - 1 < heard.seconds < BODY_PAUSE_SECONDS + SLACK_SECONDS, f"{name}: {heard}"
        connection.close()
    assert hub.client().ask("GET", "/v1/events/HALF-V1").status == 404


def test_a_body_that_breaks_off_records_nothing(hub: Hub, client: Client) -> None:
    whole = b'{"id": "BROKEN-V1", "version": 1, "payload": 1}'
    for _ in range(20):
        with hub.socket() as connection:
            connection.sendall(head(hub, f"content-length: {len(whole) + 1}") + whole)
    assert client.ask("GET", "/v1/events/BROKEN-V1").status == 404
    assert client.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson", "application/cloudevents-batch+json"])
@pytest.mark.parametrize("expect", [[], ["expect: 100-continue"]])
def test_a_gigabyte_is_refused_unread(hub: Hub, kind: str, expect: list[str]) -> None:
    heard = say(hub, head(hub, "content-length: 1000000000", f"content-type: {kind}", *expect))
    assert heard.status == 413 and heard.seconds < AT_ONCE_SECONDS, heard
    assert b"application/problem+json" in heard.text


def test_a_stranger_is_told_so_before_his_body_is_read(hub: Hub) -> None:
    heard = say(hub, head(hub, "content-length: 1000000", token=False))
    assert heard.status == 401 and heard.seconds < AT_ONCE_SECONDS, heard


def test_an_endless_chunked_body_is_ended_at_the_bound(hub: Hub) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    sent = 0
    with hub.socket() as connection:
        began = time.monotonic()
        connection.sendall(head(hub, "transfer-encoding: chunked"))
        try:
            while time.monotonic() < began + ENDLESS_SECONDS_MAX:
                connection.sendall(chunk)
                sent += 65_536
        except (ConnectionError, TimeoutError):
            pass
        seconds = time.monotonic() - began
        heard = listen(connection, began, ENDLESS_SECONDS_MAX)
    # The hub refuses at the bound, then reads and drops for two seconds, so that an honest sender can read the answer. One that
    # goes on loses it to the reset; to be stopped is the point.
    assert heard.status in (413, None), heard
    assert seconds < AT_ONCE_SECONDS + 2, f"{sent} bytes were taken of an endless body in {seconds} s"


def test_the_largest_event_is_taken_and_one_byte_more_is_not(hub: Hub, client: Client) -> None:
    empty = b'{"id":"LARGE-V1","version":1,"payload":""}'
    fitting = empty[:-2] + b"x" * (EVENT_BYTES_MAX - len(empty)) + empty[-2:]
    assert len(fitting) == EVENT_BYTES_MAX
    with hub.socket() as connection:
        began = time.monotonic()
        try:
            connection.sendall(head(hub, f"content-length: {len(fitting) + 1}") + b" " + fitting)
        except ConnectionError:
            # It is refused unread: the answer is there before the body has been sent.
            pass
        assert listen(connection, began, AT_ONCE_SECONDS).status == 413
    assert client.ask("POST", "/v1/events", fitting).status == 202


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64 + b"\r\n\r\n",
        b"GET /" + b"x" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"x-more: y\r\n" * 5_000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-long: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-nul: \0\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\nhello",
        b"POST /v1/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello",
        b"POST /v1/events HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\nhello",
    ],
)
def test_broken_http_is_refused_or_closed(hub: Hub, text: bytes) -> None:
    with hub.socket() as connection:
        began = time.monotonic()
        try:
            connection.sendall(text)
        except ConnectionError:
            pass
        heard = listen(connection, began, AT_ONCE_SECONDS)
    assert heard.status is None or 400 <= heard.status < 500, heard
    assert hub.stranger().ask("GET", "/healthz").status == 200


def test_bad_json_is_refused_with_its_position(client: Client) -> None:
    answer = client.ask("POST", "/v1/events", b'{\n  "id": "BAD-V1",\n  "version": 1,\n  "payload": {"a": }\n}')
    problem = check_problem(answer, 400, "malformed")
    assert problem["position"]["line"] == 4 and 15 <= problem["position"]["column"] <= 21, problem
    answer = client.ask("POST", "/v1/partners", b'{"id": "P",\n "url": oops}')
    assert check_problem(answer, 400, "malformed")["position"]["line"] == 2
    check_problem(client.ask("POST", "/v1/events", b"\xff\xfe"), 400, "malformed")
    check_problem(client.ask("POST", "/v1/events", b"[" * 100_000), 422, "invalid")
    answer = client.ask("POST", "/v1/events", {**event("BAD-V1", "S"), "pay_load": 1})
    assert check_problem(answer, 422, "invalid")["field"] == "pay_load"
    answer = client.ask("GET", "/v1/events?limmit=5")
    assert check_problem(answer, 422, "invalid")["field"] == "limmit"


def test_unknown_routes_and_wrong_methods_are_problems(hub: Hub, client: Client) -> None:
    for path in ("/v2/events", "/v1/event", "/v1/events/", "/v1/events/../../etc/passwd", "/admin", "/v1"):
        check_problem(client.ask("GET", path), 404, "not_found")
    wrong = (("PUT", "/v1/events"), ("DELETE", "/v1/events/X"), ("PATCH", "/v1/partners"), ("POST", "/healthz"))
    for method, path in wrong:
        answer = client.ask(method, path)
        check_problem(answer, 405, "method_not_allowed")
        # RFC 9110 section 15.5.6: the answer must say what the target takes.
        assert answer.headers.get("allow"), answer
    check_problem(client.ask("GET", "/v1/events/NO-SUCH-V1"), 404, "not_found")


def operations(hub: Hub) -> list[tuple[str, str, bool]]:
    """Method, path with the ids filled in, and whether it takes a token."""
    paths = hub.stranger().get("/openapi.json")["paths"]
    return [
        (method.upper(), path.replace("{id}", "X"), operation.get("security") != [])
        for path, item in paths.items()
        for method, operation in item.items()
    ]


def test_every_route_but_the_tokenless_ones_asks_for_a_token(hub: Hub) -> None:
    tokenless = set()
    asked = 0
    for method, path, takes_token in operations(hub):
        if not takes_token:
            tokenless.add(path)
            assert hub.stranger().ask(method, path).status == 200, path
            continue
        for authorization in (None, "Bearer", "Bearer hms_wrong", f"Basic {hub.token}", f"Bearer {hub.token}x"):
            headers = {} if authorization is None else {"authorization": authorization}
            body: Any = {} if method in ("POST", "PUT") else None
            # Each from an address of its own: wrong tokens of one are counted, and this is not about that.
            stranger = Client(hub.address, None, source=f"127.0.1.{asked % 200 + 1}")
            answer = stranger.ask(method, path, body, headers)
            stranger.close()
            check_problem(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"].startswith("Bearer"), answer
            asked += 1
    assert tokenless == {"/healthz", "/readyz", "/v1/keys"} and asked > 100


def make_token(client: Client, **body: Any) -> dict[str, Any]:
    answer = client.ask("POST", "/v1/tokens", body)
    assert answer.status == 201, answer
    made: dict[str, Any] = answer.json
    assert made["token"].startswith("hms_")
    return made


def test_a_publishers_token_is_good_for_its_subjects_only(hub: Hub, client: Client) -> None:
    made = make_token(client, role="publisher", subjects=["RULE-COURT-*"])
    court = hub.client(made["token"])
    assert court.ask("POST", "/v1/events", event("TOKEN-1", "RULE-COURT-DEADLINE")).status == 202
    for plan in ("", "?plan=true"):
        check_problem(court.ask("POST", f"/v1/events{plan}", event("TOKEN-2", "RULE-TAX")), 403, "forbidden")
    dry_run = court.ask("POST", "/v1/events", event("TOKEN-2", "RULE-TAX"), {"x-hms-test": "true"})
    check_problem(dry_run, 403, "forbidden")
    two = b'{"id":"TOKEN-3","version":1,"subject":"RULE-COURT-FEE","payload":1}\n'
    two += b'{"id":"TOKEN-2","version":1,"subject":"RULE-TAX","payload":1}\n'
    results = court.ask("POST", "/v1/events", two, {"content-type": "application/x-ndjson"}).json["results"]
    assert [one["status"] for one in results] == [202, 403]
    check_problem(client.ask("GET", "/v1/events/TOKEN-2"), 404, "not_found")
    for method, path in (("GET", "/v1/tokens"), ("GET", "/v1/audit"), ("POST", "/v1/partners"), ("POST", "/v1/backup")):
        # A connection of its own for each: the hub closes one whose body it refused unread.
        answer = hub.client(made["token"]).ask(method, path, {} if method == "POST" else None)
        check_problem(answer, 403, "forbidden")


def test_revoked_and_expired_tokens_are_refused(hub: Hub, client: Client) -> None:
    made = make_token(client, role="auditor")
    auditor = hub.client(made["token"])
    assert auditor.ask("GET", "/v1/events").status == 200
    assert client.ask("DELETE", f"/v1/tokens/{made['id']}").status == 204
    # At once, on the very same connection.
    check_problem(auditor.ask("GET", "/v1/events"), 401, "unauthenticated")

    made = make_token(client, role="auditor", expires_in="1s")
    brief = hub.client(made["token"])
    assert brief.ask("GET", "/v1/events").status == 200
    wait_for("the token's end", lambda: brief.ask("GET", "/v1/events").status == 401, seconds=5)
    check_problem(brief.ask("GET", "/v1/events"), 401, "unauthenticated")
    listed = {one["id"]: one for one in client.get("/v1/tokens")["items"]}
    assert made["token"] not in str(listed), "a token is never shown again"


def test_thousands_of_idle_connections_leave_room_for_an_answer(hub: Hub, client: Client) -> None:
    count = min(IDLE_CONNECTIONS, raise_file_limit() - 1_000)
    assert count > 500, "this machine allows too few descriptors to say anything"
    before = hub.resident_bytes()
    idle: list[socket.socket] = []
    try:
        for number in range(count):
            idle.append(hub.socket())
            if number % 500 == 499:
                began = time.monotonic()
                assert hub.stranger().ask("GET", "/healthz").status == 200
                assert time.monotonic() - began < AT_ONCE_SECONDS
        answer = client.ask("POST", "/v1/events", event("IDLE-1", "S"))
        assert answer.status == 202
        per_connection = (hub.resident_bytes() - before) / count
        print(f"{count} idle connections, {per_connection:.0f} bytes each")
        assert per_connection < 32 * 1024
        # None was thrown out for it: the first and the last are still served.
        for one in (idle[0], idle[-1]):
            one.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert one.recv(64).startswith(b"HTTP/1.1 200")
    finally:
        for one in idle:
            one.close()
    wait_for("an answer after them", lambda: hub.stranger().ask("GET", "/healthz").status == 200)


@pytest.mark.last
def test_heads_that_never_end_are_closed_within_their_bound(hub: Hub, lorises: Lorises) -> None:
    left = lorises.began + HEADER_SECONDS + SLACK_SECONDS * 2 - time.monotonic()
    wait_for("the slow connections' end", lambda: len(lorises.closed_after) == LORISES, seconds=max(left, 1))
    assert max(lorises.closed_after.values()) < HEADER_SECONDS + SLACK_SECONDS
    for said in lorises.said.values():
        assert said.startswith(b"HTTP/1.1 408"), said
    assert hub.stranger().ask("GET", "/healthz").status == 200
