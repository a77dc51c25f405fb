"""A real hub from the real binary, and cheap partners on loopback. Nothing here knows the hub's insides.

Every wait has a bound, every random choice a seed, every port is a free one.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import queue
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Awaitable, Callable, Iterator, NamedTuple, Optional
from urllib.parse import quote

import postgres
import pytest
from faults.disk import Disk, build

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 60
SECONDS_MAX = 30
POLL_SECONDS = 0.02
#: A hub ends what is idle for 75 s: whoever was busy elsewhere for so long takes another connection.
IDLE_SECONDS_MAX = 60
#: With "postgres" every hub keeps its store at a server, one database for each data directory.
STORE = os.environ.get("HMS_ESS_TEST_STORE", "")
assert STORE in ("", "sqlite", "postgres"), f"HMS_ESS_TEST_STORE: {STORE}"
#: What is about the file of the embedded store: left out where a server has none; docs/scale.md says what is otherwise there.
embedded_only = pytest.mark.embedded_only
#: What the store has to bear out whichever it is: run on each.
any_store = pytest.mark.any_store
#: A thousand of something, which says nothing more of another store.
large = pytest.mark.large
#: How a partner's connection may end; cancelled by the end of the test.
ENDINGS = (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, asyncio.CancelledError)


def wait_for(what: str, is_there: Callable[[], Any], seconds: float = SECONDS_MAX) -> Any:
    """Asks until there is an answer, within a bound."""
    end = time.monotonic() + seconds
    while True:
        found = is_there()
        if found:
            return found
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(POLL_SECONDS)


def raise_file_limit() -> int:
    """As many descriptors as this process and the hubs that it starts may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1_000_000 if hard == resource.RLIM_INFINITY else hard


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


class Answer(NamedTuple):
    """What the hub said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One kept connection to a hub; for one thread."""

    def __init__(
        self,
        address: tuple[str, int],
        token: Optional[str],
        seconds: float = SECONDS_MAX,
        source: Optional[str] = None,
    ) -> None:
        self.address = address
        self.token = token
        self.seconds = seconds
        #: The address that it comes from; the hub counts by it.
        self.source = None if source is None else (source, 0)
        self.connection: Optional[http.client.HTTPConnection] = None
        self.used_at = 0.0

    def ask(self, method: str, path: str, body: Any = None, headers: Optional[dict[str, str]] = None) -> Answer:
        """One request. A hub that is gone is an OSError or HTTPException: never asked a second time here."""
        sent = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        content = body
        if body is not None and not isinstance(body, bytes):
            content = json.dumps(body).encode()
        if content is not None:
            sent["content-type"] = "application/json"
        sent.update(headers or {})
        if time.monotonic() - self.used_at > IDLE_SECONDS_MAX:
            self.close()
        if self.connection is None:
            self.connection = self.opened()
            self.connection.connect()
            assert self.connection.sock is not None
            self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.connection.request(method, path, content, sent)
            response = self.connection.getresponse()
            whole = response.read()
            self.used_at = time.monotonic()
        except BaseException:
            self.close()
            raise
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, whole)

    def opened(self) -> http.client.HTTPConnection:
        """A connection that is still to be made."""
        return http.client.HTTPConnection(*self.address, timeout=self.seconds, source_address=self.source)

    def get(self, path: str) -> Any:
        """JSON of a 200."""
        answer = self.ask("GET", path)
        assert answer.status == 200, f"GET {path}: {answer}"
        return answer.json

    def pages(self, path: str, limit: int = 1000) -> list[Any]:
        """All items of a list, page by page."""
        items: list[Any] = []
        after: Optional[str] = None
        joint = "&" if "?" in path else "?"
        for _ in range(10_000):
            cursor = "" if after is None else f"&after={quote(str(after))}"
            page = self.get(f"{path}{joint}limit={limit}{cursor}")
            items += page["items"]
            after = page.get("next")
            if after is None:
                return items
        raise AssertionError(f"{path} has no last page")

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Hub:
    """``hms-ess serve`` on a free port over plain HTTP, with a home of its own."""

    scheme = "http"

    def __init__(self, binary: Path, data: Path, home: Path, settings: Optional[dict[str, str]] = None) -> None:
        self.binary = binary
        self.data = data
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HMS_ESS_")}
        self.environment = {
            **inherited,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
            "HMS_ESS_PROFILE": str(home / "profile.json"),
            "RUST_LOG": "warn",
            **({"HMS_ESS_STORE": postgres.shared().url(str(data))} if STORE == "postgres" else {}),
            **(settings or {}),
        }
        self.log: list[str] = []
        self.process = subprocess.Popen(
            self.command(), env=self.environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.address = self._ready()
        self.token = (data / "admin.token").read_text().strip()

    def command(self) -> list[str]:
        plain = ["--http"] if self.scheme == "http" else []
        command = [str(self.binary), "serve", *plain, "--listen", "127.0.0.1:0", "--metrics-listen", "off"]
        return [*command, "--data", str(self.data), "--allow-net", "127.0.0.0/8"]

    def _ready(self) -> tuple[str, int]:
        lines: queue.Queue[Optional[str]] = queue.Queue()
        assert self.process.stdout is not None
        stream = self.process.stdout

        def read() -> None:
            for line in stream:
                self.log.append(line)
                lines.put(line)
            lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            line = lines.get(timeout=max(0.1, end - time.monotonic()))
            assert line is not None, "the hub ended before it was ready:\n" + "".join(self.log)
            if f"listening on {self.scheme}://" in line:
                host, _, port = line.split(f"listening on {self.scheme}://")[1].strip().rpartition(":")
                return host, int(port)

    def client(self, token: Optional[str] = None, seconds: float = SECONDS_MAX) -> Client:
        """A client with the admin's token, or another one."""
        return Client(self.address, token or self.token, seconds)

    def stranger(self, seconds: float = SECONDS_MAX) -> Client:
        """A client without a token."""
        return Client(self.address, None, seconds)

    def socket(self, seconds: float = SECONDS_MAX) -> socket.socket:
        """A bare connection, for what no client would say."""
        return socket.create_connection(self.address, timeout=seconds)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``hms-ess`` with these words, as the hub's administrator."""
        command = [str(self.binary), *words]
        env, cwd = self.environment, self.home
        return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=SECONDS_MAX)

    def resident_bytes(self) -> int:
        """Memory of the hub's process and of the script workers that it started."""
        return sum(resident_bytes(pid) for pid in [self.process.pid, *self.children()])

    def children(self) -> list[int]:
        """The script workers: each was started by one of the hub's threads and is listed there."""
        found: list[int] = []
        for listed in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in listed.read_text().split()]
            except OSError:
                continue
        return found

    def kill(self) -> None:
        """SIGKILL: what a power cut leaves, less the disk's own cache."""
        self.process.kill()
        self.process.wait(timeout=SECONDS_MAX)

    def terminate(self, seconds: float = SECONDS_MAX) -> int:
        """SIGTERM; answers the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the hub did not stop within {seconds} s of SIGTERM") from None


class Watch:
    """Asks for the hub's health and memory all the time."""

    def __init__(self, hub: Hub) -> None:
        self.stop = threading.Event()
        self.asked = 0
        self.slowest = 0.0
        self.resident_max = 0
        #: Of the largest script worker by itself.
        self.worker_resident_max = 0
        self.errors: list[str] = []
        self.thread = threading.Thread(target=self._run, args=(hub,))
        self.thread.start()

    def _run(self, hub: Hub) -> None:
        client = hub.stranger(seconds=10)
        while not self.stop.wait(0.03):
            began = time.monotonic()
            try:
                answer = client.ask("GET", "/healthz")
                if answer.status != 200:
                    self.errors.append(str(answer))
            except Exception as error:
                self.errors.append(repr(error))
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.asked += 1
            workers = [resident_bytes(pid) for pid in hub.children()]
            self.worker_resident_max = max([self.worker_resident_max, *workers])
            self.resident_max = max(self.resident_max, resident_bytes(hub.process.pid) + sum(workers))
        client.close()

    def end(self) -> None:
        self.stop.set()
        self.thread.join(timeout=20)


class Arrival(NamedTuple):
    """One request that a partner got."""

    at: float
    event_id: str
    sequence: int
    attempt: int
    is_test: bool
    headers: dict[str, str]
    body: bytes


class Request(NamedTuple):
    """What a behaviour decides on."""

    arrival: Arrival
    writer: asyncio.StreamWriter


Behaviour = Callable[[Request], Awaitable[Optional[tuple[int, bytes]]]]


async def acknowledge(request: Request) -> Optional[tuple[int, bytes]]:
    """What a healthy partner does."""
    return 200, json.dumps({"ack": request.arrival.event_id}).encode()


class Loop:
    """One event loop in one thread, for all partners of a test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wrapped() -> Any:
            return await work

        return asyncio.run_coroutine_threadsafe(wrapped(), self.loop).result(timeout=SECONDS_MAX)

    def close(self) -> None:
        async def cancel() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.run(cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=SECONDS_MAX)
        if not self.thread.is_alive():
            self.loop.close()


class Sink:
    """A partner over keep-alive HTTP/1.1. Its behaviour answers status and body; None hangs up without an answer."""

    def __init__(self, loop: Loop, behave: Behaviour = acknowledge) -> None:
        self.behave = behave
        self.arrivals: list[Arrival] = []
        #: Arrivals that were answered by the ACK, with the time after the answer had been written.
        self.acked: list[tuple[float, Arrival]] = []
        self._server: asyncio.base_events.Server = loop.run(asyncio.start_server(self._talk, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/events"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers: dict[str, str] = {}
                for line in head.decode("latin-1").split("\r\n")[1:]:
                    name, colon, value = line.partition(":")
                    if colon:
                        headers[name.strip().lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                arrival = Arrival(
                    time.monotonic(),
                    headers.get("x-hms-event-id", ""),
                    int(headers.get("x-hms-sequence", "0")),
                    int(headers.get("x-hms-attempt", "0")),
                    "x-hms-test" in headers,
                    headers,
                    body,
                )
                self.arrivals.append(arrival)
                answer = await self.behave(Request(arrival, writer))
                if answer is None:
                    return
                status, text = answer
                writer.write(
                    b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                    % (status, len(text), text)
                )
                await writer.drain()
                if status == 200 and b'"ack"' in text:
                    self.acked.append((time.monotonic(), arrival))
        except ENDINGS:
            pass
        finally:
            writer.close()


class Raw:
    """A partner that speaks no protocol but its own: the behaviour has the bare connection."""

    def __init__(
        self, loop: Loop, behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        self.connections = 0

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            try:
                await behave(reader, writer)
            except ENDINGS:
                pass
            finally:
                writer.close()

        self._server: asyncio.base_events.Server = loop.run(asyncio.start_server(talk, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]


def add_partner(client: Client, id: str, url: str, **document: Any) -> Any:
    """Adds a webhook partner; answers the hub's answer."""
    answer = client.ask("POST", "/v1/partners", {"id": id, "channel": "webhook", "url": url, **document})
    assert answer.status == 201, answer
    return answer.json


def event(id: str, subject: str, payload: Any = None) -> dict[str, Any]:
    """A native event."""
    return {"id": id, "version": 1, "subject": subject, "payload": {"n": id} if payload is None else payload}


@pytest.fixture(scope="session")
def binary() -> Path:
    """The program under test: built by ``cargo xtask test``, or named by HMS_ESS_BIN."""
    named = os.environ.get("HMS_ESS_BIN")
    found = named or shutil.which("hms-ess") or str(ROOT / "target" / "debug" / "hms-ess")
    assert Path(found).is_file(), "no hms-ess to test: run `cargo build -p hms-ess`, or set HMS_ESS_BIN"
    return Path(found).resolve()


@pytest.fixture(scope="session", autouse=True)
def no_server_stays() -> Iterator[None]:
    yield
    postgres.close_shared()


@pytest.fixture(scope="session", autouse=True)
def file_limit() -> int:
    return raise_file_limit()


@pytest.fixture
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server of the test's own, which it may stop, kill and freeze."""
    running = postgres.Server()
    yield running
    running.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    running = Loop()
    yield running
    running.close()


@pytest.fixture(scope="session")
def fault_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("fault"))


@pytest.fixture
def disk(fault_library: Path, tmp_path: Path) -> Disk:
    """A data directory on a disk that fails on demand; for `start_hub(disk.data, **disk.settings())`."""
    data = tmp_path / "data"
    data.mkdir()
    return Disk(data, tmp_path / "disk", fault_library)


@pytest.fixture
def start_hub(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Starts hubs; whatever still runs at the end is stopped."""
    started: list[Hub] = []

    def start(data: Optional[Path] = None, **settings: str) -> Hub:
        hub = Hub(binary, data or tmp_path / "data", tmp_path / "home", settings)
        started.append(hub)
        return hub

    yield start
    for hub in started:
        if hub.process.poll() is None:
            hub.kill()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "last: waits for a long bound that began early in the run")
    config.addinivalue_line("markers", "embedded_only: is about the file of the embedded store")
    config.addinivalue_line("markers", "any_store: what the store has to bear out, whichever it is")
    config.addinivalue_line("markers", "large: a thousand of something")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What waits longest is asked last, so that the other tests run meanwhile."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)
    if STORE == "postgres":
        left_out = [item for item in items if item.get_closest_marker("embedded_only") is not None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
