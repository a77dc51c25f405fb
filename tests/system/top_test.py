"""`hms-ess top` in a real pseudo-terminal, read by a terminal emulator: what it shows, its keys, a new size, its end."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import json
import pyte
import pytest
from conftest import Hub, any_store, wait_for

pytestmark = any_store

LEAVE_ALTERNATE_SCREEN = b"\x1b[?1049l"
SHOW_CURSOR = b"\x1b[?25h"


class Terminal:
    """A program on a pseudo-terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str], columns: int = 110, rows: int = 16) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.ended: Optional[int] = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(command[0], command, {**environment, "TERM": "xterm-256color"})
        self.before = termios.tcgetattr(self.fd)
        self.resize(columns, rows)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)
        os.kill(self.pid, signal.SIGWINCH)

    def read(self) -> str:
        """Takes what was written; the screen as text."""
        while select.select([self.fd], [], [], 0)[0]:
            try:
                found = os.read(self.fd, 65536)
            except OSError:
                break
            if not found:
                break
            self.raw += found
            self.stream.feed(found)
        return "\n".join(self.screen.display)

    def shows(self, text: str) -> str:
        wait_for(f"{text!r} on the terminal", lambda: text in self.read())
        return self.read()

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def wait(self) -> int:
        """The program's exit code."""

        def ended() -> bool:
            self.read()
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.ended = os.waitstatus_to_exitcode(status)
            return bool(found)

        wait_for("the end of top", ended)
        self.read()
        assert self.ended is not None
        return self.ended

    def is_given_back(self) -> None:
        """Whoever types next sees what they type, on the screen that was there before."""
        assert LEAVE_ALTERNATE_SCREEN in self.raw and SHOW_CURSOR in self.raw
        flags = termios.tcgetattr(self.fd)[3]
        assert flags & termios.ECHO and flags & termios.ICANON

    def close(self) -> None:
        if self.ended is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def partner() -> Iterator[str]:
    class Acks(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps({"ack": event["id"]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Acks)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/update"
    server.shutdown()


@pytest.fixture
def top(start_hub: Callable[..., Hub], partner: str) -> Iterator[Callable[..., Terminal]]:
    hub = start_hub()
    client = hub.client()
    for name, url in [("COURT-CAL", partner), ("LAW-FIRM-SYS", partner), ("KIOSK", "http://127.0.0.1:9/")]:
        assert client.ask("POST", "/v1/partners", {"id": name, "url": url}).status == 201
    event = {"id": "RULE-A-V1", "version": 1, "payload": 1}
    assert client.ask("POST", "/v1/events", event).status == 202
    wait_for("the ACK", lambda: client.get("/v1/events/RULE-A-V1/status")["COURT-CAL"] == "ack")
    opened: list[Terminal] = []

    def start(*words: str, **size: int) -> Terminal:
        terminal = Terminal([str(hub.binary), "top", "--interval", "200ms", *words], hub.environment, **size)
        setattr(terminal, "hub", client)
        opened.append(terminal)
        return terminal

    yield start
    for terminal in opened:
        terminal.close()


def test_lanes_are_shown_with_what_is_wrong_and_q_gives_the_terminal_back(top: Callable[..., Terminal]) -> None:
    terminal = top()
    shown = terminal.shows("connection refused")
    for text in ("HMS-ESS lanes", "3 partners", "COURT-CAL", "well", "KIOSK", "P99", "RULE-A-V1", "q quit"):
        assert text in shown, f"{text}\n{shown}"
    # What is in trouble stands first and is chosen.
    assert "> KIOSK" in shown
    terminal.press("q")
    assert terminal.wait() == 0
    terminal.is_given_back()


def test_keys_filter_sort_and_pause_after_a_yes(top: Callable[..., Terminal]) -> None:
    terminal = top()
    terminal.shows("3 partners")
    terminal.press("/law\r")
    shown = terminal.shows('filtered by "law"')
    assert "> LAW-FIRM-SYS" in shown and "COURT-CAL" not in shown
    state = lambda: terminal.hub.get("/v1/partners/LAW-FIRM-SYS")["state"]  # type: ignore[attr-defined]
    terminal.press("p")
    terminal.shows("pause LAW-FIRM-SYS?")
    terminal.press("n")
    terminal.shows("left as it is")
    assert state() == "active"
    terminal.press("p")
    terminal.shows("pause LAW-FIRM-SYS?")
    terminal.press("y")
    terminal.shows("LAW-FIRM-SYS: paused")
    assert state() == "paused"
    terminal.press("p")
    terminal.shows("resume LAW-FIRM-SYS?")
    terminal.press("y")
    terminal.shows("LAW-FIRM-SYS: resumed")
    assert state() == "active"
    terminal.press("s")
    terminal.shows("by age")


def test_a_new_size_is_drawn_anew(top: Callable[..., Terminal]) -> None:
    terminal = top()
    terminal.shows("q quit")
    terminal.resize(64, 10)
    wait_for("the footer on the new last row", lambda: terminal.read().split("\n")[9].startswith("q quit"))
    terminal.resize(140, 30)
    wait_for("the footer on the new last row", lambda: terminal.read().split("\n")[29].startswith("q quit"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_the_terminal_back(top: Callable[..., Terminal], how: signal.Signals) -> None:
    terminal = top()
    terminal.shows("q quit")
    os.kill(terminal.pid, how)
    assert terminal.wait() == 0
    terminal.is_given_back()


def test_no_colour_is_drawn_where_none_is_wanted(start_hub: Callable[..., Hub], partner: str) -> None:
    hub = start_hub()
    assert hub.client().ask("POST", "/v1/partners", {"id": "COURT-CAL", "url": partner}).status == 201
    colours = {}
    for wanted in ("", "1"):
        terminal = Terminal([str(hub.binary), "top"], {**hub.environment, "NO_COLOR": wanted})
        terminal.shows("COURT-CAL")
        row = next(at for at, line in enumerate(terminal.screen.display) if "COURT-CAL" in line)
        at = terminal.screen.display[row].index("well")
        colours[wanted] = terminal.screen.buffer[row][at].fg
        terminal.close()
    assert colours[""] != "default" and colours["1"] == "default", colours


def test_without_a_terminal_one_frame_is_printed(start_hub: Callable[..., Hub], partner: str) -> None:
    hub = start_hub()
    assert hub.client().ask("POST", "/v1/partners", {"id": "COURT-CAL", "url": partner}).status == 201
    done = hub.run("top")
    assert done.returncode == 0 and "\x1b" not in done.stdout
    assert done.stdout.startswith("1 partner, 0 in trouble") and "COURT-CAL" in done.stdout
