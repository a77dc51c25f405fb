"""A real hub from the real binary, and partners that listen on loopback. Nothing here knows the hub's insides."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Optional

import json
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 60
SECONDS_MAX = 30


def wait_for(what: str, is_there: Callable[[], Any]) -> Any:
    """Asks until there is an answer, within a bound."""
    end = time.monotonic() + SECONDS_MAX
    while time.monotonic() < end:
        found = is_there()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {SECONDS_MAX} s for {what}")


class RunningHub:
    """``hms-ess serve`` on a free port, with a profile of its own that every client below is pointed to."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HMS_ESS_")}
        path = f"{binary.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**inherited, "HMS_ESS_PROFILE": str(folder / "profile.json"), "PATH": path}
        self.log: list[str] = []
        command = [str(binary), "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        command += ["--data", str(self.data), "--allow-net", "127.0.0.0/8"]
        self.process = subprocess.Popen(
            command, env=self.environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.url = self._ready()
        self.profile: dict[str, Any] = json.loads((folder / "profile.json").read_text())

    def _ready(self) -> str:
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
            if "listening on https://" in line:
                return "https://" + line.split("listening on https://")[1].strip()

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Runs a line as the mission prints it."""
        return self.run(["bash", "-c", line])

    def python(self, script: Path) -> subprocess.CompletedProcess[str]:
        """Runs a Python file with the installed SDK."""
        return self.run([sys.executable, str(script)])

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=SECONDS_MAX * 2
        )
        text = f"{command}: {done.returncode}\n{done.stdout}{done.stderr}\n--- hub\n{''.join(self.log[-40:])}"
        assert done.returncode == 0, text
        return done

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the hub did not stop on SIGTERM") from None


class Received(NamedTuple):
    """One request that a partner got."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)


class Partner:
    """A partner that acknowledges everything; while ``held`` it sits on real events, not on tests."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.free = threading.Event()
        self.free.set()
        partner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                partner.received.append(Received(headers, body))
                if "x-hms-test" not in headers:
                    partner.free.wait(SECONDS_MAX)
                answer = json.dumps({"ack": headers["x-hms-event-id"]}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/events"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self.free.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="session")
def binary() -> Path:
    """The program under test: built by ``cargo xtask test``, or named by HMS_ESS_BIN."""
    named = os.environ.get("HMS_ESS_BIN")
    found = named or shutil.which("hms-ess") or str(ROOT / "target" / "debug" / "hms-ess")
    assert Path(found).is_file(), "no hms-ess to test: run `cargo build -p hms-ess`, or set HMS_ESS_BIN"
    return Path(found).resolve()


@pytest.fixture
def hub(binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningHub]:
    for name in ("HMS_ESS_HUB", "HMS_ESS_TOKEN", "HMS_ESS_CA"):
        monkeypatch.delenv(name, raising=False)
    running = RunningHub(binary, tmp_path)
    # The SDK inside the test finds the same hub as the programs it starts.
    monkeypatch.setenv("HMS_ESS_PROFILE", running.environment["HMS_ESS_PROFILE"])
    yield running
    running.stop()


@pytest.fixture
def partner() -> Iterator[Partner]:
    listening = Partner()
    yield listening
    listening.stop()
