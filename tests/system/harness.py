"""A real hub that can be killed, and partners by the dozen on one asyncio loop. Nothing here knows the hub's insides."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import queue
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Awaitable, Callable, NamedTuple, Optional

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0


def wait_for(what: str, is_there: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Asks until there is an answer, within a bound."""
    end = time.monotonic() + seconds
    while True:
        found = is_there()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s for {what}")
        time.sleep(0.01)


class Answer(NamedTuple):
    """What the hub answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Gone(Exception):
    """The hub broke off: nobody knows whether it did what it was asked."""


class Client:
    """One kept connection to the hub. For one thread."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.connection: Optional[http.client.HTTPConnection] = None

    def ask(self, method: str, path: str, body: Any = None, seconds: float = 30.0) -> Answer:
        """Raises ``Gone`` when there is no whole answer."""
        text = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        headers = {"authorization": f"Bearer {self.hub.token}", "content-type": "application/json"}
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.hub.port, timeout=seconds)
            self.connection.request(method, path, text, headers)
            answer = self.connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Gone(str(error)) from error

    def pages(self, path: str, limit: int = 1000) -> list[Any]:
        """All items of a list."""
        items: list[Any] = []
        after = ""
        while True:
            page = self.ask("GET", f"{path}?limit={limit}{after}")
            assert page.status == 200, page
            found = page.json()
            items += found["items"]
            if not found.get("next"):
                return items
            after = f"&after={found['next']}"

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Hub:
    """``hms-ess serve --http`` on a folder that outlives it."""

    def __init__(self, binary: Path, folder: Path, data: Optional[Path] = None, **settings: str) -> None:
        self.binary = binary
        self.folder = folder
        self.data = data or folder / "data"
        self.settings = settings
        self.log = folder / "hub.log"
        self.process: Optional[subprocess.Popen[str]] = None
        self.port = 0
        self.token = ""

    def start(self) -> Hub:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HMS_ESS_")}
        environment["HMS_ESS_PROFILE"] = str(self.folder / "profile.json")
        environment["RUST_LOG"] = "warn"
        environment.update({f"HMS_ESS_{name.upper()}": value for name, value in self.settings.items()})
        command = [str(self.binary), "serve", "--http", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        command += ["--data", str(self.data), "--allow-net", "127.0.0.0/8"]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        self.port = int(self._first_line().rsplit(":", 1)[1])
        self.token = (self.data / "admin.token").read_text().strip()
        return self

    def _first_line(self) -> str:
        assert self.process is not None and self.process.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda out=self.process.stdout: lines.put(out.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=START_SECONDS_MAX)
        except queue.Empty:
            line = ""
        assert line.startswith("listening on http://"), f"the hub did not start: {line}\n{self.log_text()}"
        return line.strip()

    def log_text(self) -> str:
        return self.log.read_text()[-8_000:] if self.log.exists() else ""

    def client(self) -> Client:
        return Client(self)

    def kill(self) -> None:
        """As a power cut would, for the process: no chance to write anything more."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_SECONDS_MAX)
        self.process = None

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            code = self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the hub did not stop on SIGTERM\n{self.log_text()}") from None
        finally:
            self.process = None
        assert code == 0, f"the hub ended with {code}\n{self.log_text()}"

    def memory_mib(self, field: str) -> float:
        """``VmRSS`` (now) or ``VmHWM`` (the most so far)."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(f"{field}:"))
        return int(line.split()[1]) / 1024


class Arrival(NamedTuple):
    """One request that a partner got."""

    partner: str
    event: str
    at: float


Behaviour = Callable[["Partners", str, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Partners:
    """Partners on loopback, one port each or all on one, on an asyncio loop of their own."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.loop = asyncio.new_event_loop()
        self.servers: list[asyncio.Server] = []
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def listen(self, behaviour: Behaviour) -> int:
        """The port of a new listener that behaves so."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await behaviour(self, "", reader, writer)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

        async def start() -> int:
            server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
            self.servers.append(server)
            return int(server.sockets[0].getsockname()[1])

        return asyncio.run_coroutine_threadsafe(start(), self.loop).result(10)

    def stop(self) -> None:
        async def close() -> None:
            for server in self.servers:
                server.close()
            for running in asyncio.all_tasks():
                if running is not asyncio.current_task():
                    running.cancel()

        asyncio.run_coroutine_threadsafe(close(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)


class Request(NamedTuple):
    """A message as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> str:
        return self.headers["x-hms-event-id"]


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Reads one message whole."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(first.split(" ")[1], headers, body)


def respond(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body))


async def acknowledge(
    partners: Partners, _: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Healthy: notes what came and acknowledges it. The last part of the path is the partner's id."""
    while True:
        request = await read_request(reader)
        partners.arrivals.append(Arrival(request.path.rsplit("/", 1)[1], request.event, time.monotonic()))
        respond(writer, 200, json.dumps({"ack": request.event}).encode())
        await writer.drain()


async def stumble(partners: Partners, _: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers the first attempt of every third event with 503, else acknowledges."""
    while True:
        request = await read_request(reader)
        is_refused = sum(request.event.encode()) % 3 == 0 and request.headers["x-hms-attempt"] == "1"
        if is_refused:
            respond(writer, 503, b"not now")
        else:
            partners.arrivals.append(Arrival(request.path.rsplit("/", 1)[1], request.event, time.monotonic()))
            respond(writer, 200, json.dumps({"ack": request.event}).encode())
        await writer.drain()


def partner_document(id: str, port: int, scheme: str = "http", **more: Any) -> dict[str, Any]:
    url = f"{scheme}://127.0.0.1:{port}/partners/{id}"
    return {"id": id, "url": url, "channel": "webhook", **more}


def raise_file_limit() -> int:
    """As many open files as the machine lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
