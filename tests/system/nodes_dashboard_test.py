"""The dashboard of several hubs on one PostgreSQL store: a browser that comes now to this one and now to that one notices nothing."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import threading
from pathlib import Path
from urllib.parse import urlencode

import pytest
from conftest import SECONDS_MAX, Answer, Hub, Loop, Request, Sink, acknowledge, add_partner, wait_for
from fleet import LEASE, LEASE_SECONDS, RETRY, publish, shares, start
from ops_test import MeasuredHub, value
from postgres import Server


async def fail(_: Request) -> tuple[int, bytes]:
    """A partner that is down."""
    return 503, b"down for the night"


class Browser:
    """A cookie and the token of its forms; which hub it comes to is somebody else's choice, as behind a balancer."""

    def __init__(self) -> None:
        self.cookie = ""
        self.csrf = ""

    def ask(self, hub: Hub, method: str, path: str, fields: dict[str, str] | None = None) -> Answer:
        headers = {"cookie": self.cookie}
        body = None
        if fields is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
            body = urlencode(fields).encode()
        answer = hub.stranger().ask(method, path, body, headers)
        if "set-cookie" in answer.headers:
            self.cookie = answer.headers["set-cookie"].split(";")[0]
        return answer

    def sign_in(self, hub: Hub, token: str) -> None:
        answer = self.ask(hub, "POST", "/dashboard/sign-in", {"token": token})
        assert answer.status == 303 and answer.headers["location"] == "/dashboard", answer

    def page(self, hub: Hub, path: str) -> str:
        """The text of a page; the token of its forms is kept."""
        answer = self.ask(hub, "GET", path)
        assert answer.status == 200, answer
        text = answer.body.decode()
        self.csrf = re.findall(r'name="csrf" value="([0-9a-f]+)"', text)[0]
        return text

    def post(self, hub: Hub, path: str, **fields: str) -> Answer:
        return self.ask(hub, "POST", path, {"csrf": self.csrf, "reason": "a test", **fields})

    def is_known(self, hub: Hub) -> bool:
        answer = self.ask(hub, "GET", "/dashboard/audit")
        if answer.status == 303:
            assert answer.headers["location"].startswith("/dashboard/sign-in"), answer
        else:
            assert answer.status == 200, answer
        return answer.status == 200


class Live:
    """An open page's ear at a hub: the names of what it was told."""

    def __init__(self, hub: Hub, browser: Browser) -> None:
        self.heard: list[str] = []
        self.has_ended = False
        self.connection = http.client.HTTPConnection(*hub.address, timeout=SECONDS_MAX)
        self.connection.request("GET", "/dashboard/live", headers={"cookie": browser.cookie, "accept": "text/event-stream"})
        self.socket = self.connection.sock
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        try:
            while line := self.response.readline():
                if line.startswith(b"event: "):
                    self.heard.append(line[7:].strip().decode())
        except OSError:
            pass
        self.has_ended = True

    def close(self) -> None:
        assert self.socket is not None
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(timeout=SECONDS_MAX)


def two(tmp_path: Path, binary: Path, server: Server) -> tuple[Hub, Hub]:
    a = start(binary, tmp_path, server.url("hub"), "a")
    b = start(binary, tmp_path, server.url("hub"), "b")
    wait_for("both to be there", lambda: len(shares(b.client())) == 2)
    return a, b


def two_with_partners(tmp_path: Path, binary: Path, loop: Loop, server: Server) -> tuple[Hub, Hub, list[Sink]]:
    """Both serve some of eight partners, P0 to P7."""
    a, b = two(tmp_path, binary, server)
    sinks = [Sink(loop) for _ in range(8)]
    for number, sink in enumerate(sinks):
        add_partner(a.client(), f"P{number}", sink.url, retry=RETRY)
    wait_for("both to serve some", lambda: min(shares(b.client()).values()) > 0)
    return a, b, sinks


def test_a_browser_is_signed_in_at_every_hub_and_signed_out_at_every_hub(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    a, b, sinks = two_with_partners(tmp_path, binary, loop, server)
    browser = Browser()
    browser.sign_in(a, a.token)
    assert "Overview" in browser.page(b, "/dashboard")
    # The form of a page of A's, sent to B, and what came of it told by A: once.
    browser.page(a, "/dashboard/partners/P0")
    assert browser.post(b, "/dashboard/partners/P0/pause").status == 303
    assert "P0 is paused; its events wait." in browser.page(a, "/dashboard/partners/P0")
    assert "P0 is paused; its events wait." not in browser.page(b, "/dashboard/partners/P0")
    # A new secret is shown once, at another hub than the one that made it, and the database never has it in clear.
    assert browser.post(a, "/dashboard/partners/P1/rotate-secret", overlap="1h").status == 303
    in_database = server.ask("select encode(notice, 'escape') from dashboard_session", server.databases["hub"])
    secret = re.findall(r"whsec_[\w+/=]+", browser.page(b, "/dashboard/partners/P1"))
    assert len(secret) == 1 and in_database and "whsec_" not in in_database
    assert "whsec_" not in browser.page(a, "/dashboard/partners/P1")
    # Neither the cookie nor the token of its forms is there.
    dump = server.ask("select row_to_json(s) from dashboard_session s", server.databases["hub"])
    cookie = browser.cookie.split("=")[1]
    assert dump and cookie not in dump and browser.csrf not in dump and a.token not in dump
    # The forms of somebody else's session are refused at either.
    other = Browser()
    other.sign_in(b, b.token)
    other.page(a, "/dashboard")
    assert other.csrf != browser.csrf
    refused = browser.ask(b, "POST", "/dashboard/partners/P2/pause", {"csrf": other.csrf, "reason": "x"})
    assert refused.status == 403, refused
    # Which hubs there are, and who serves how many.
    nodes = browser.page(b, "/dashboard/nodes")
    assert "2 hubs, 2 live" in nodes and 'href="/dashboard/nodes" aria-current="page"' in nodes
    # Signed out at B: A asks to sign in, and the other browser is as before.
    assert browser.post(b, "/dashboard/sign-out").status == 303
    browser.cookie = f"hms_session={cookie}"
    assert not browser.is_known(a) and not browser.is_known(b)
    assert other.is_known(a) and other.is_known(b)
    assert a.terminate() == 0 and b.terminate() == 0


@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_a_hub_that_goes_signs_nobody_out(
    tmp_path: Path, binary: Path, server: Server, how: str
) -> None:
    a, b = two(tmp_path, binary, server)
    browser = Browser()
    browser.sign_in(a, a.token)
    browser.page(a, "/dashboard")
    if how == "killed":
        a.kill()
    else:
        assert a.terminate() == 0
        a = start(binary, tmp_path, server.url("hub"), "a")
        assert browser.is_known(a)
    assert browser.is_known(b)
    assert browser.post(b, "/dashboard/ledger/checkpoint").status in (303, 503)
    if how == "killed":
        wait_for("the lost hub to be given up", lambda: list(shares(b.client())) == ["b"], seconds=LEASE_SECONDS * 2 + 5)
        wait_for("the page to say so", lambda: "1 hub, 1 live" in browser.page(b, "/dashboard/nodes"))
        again = start(binary, tmp_path, server.url("hub"), "a")
        assert browser.is_known(again)
        assert again.terminate() == 0
    else:
        assert a.terminate() == 0
    assert b.terminate() == 0


def test_an_open_page_hears_of_what_another_hub_delivers_and_its_stream_ends_with_the_session(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    a, b, sinks = two_with_partners(tmp_path, binary, loop, server)
    browser = Browser()
    browser.sign_in(b, b.token)
    assert "All clear" in browser.page(a, "/dashboard")
    for sink in sinks:
        sink.behave = fail
    publish(a.client(), ["RULE-1"])
    # Every partner fails, whichever hub serves it, and either hub's overview names all of them with the hub's own words.
    for hub in (a, b):
        text = wait_for(
            "all eight to be named",
            lambda: all(f'id="p-P{number}"' in (page := browser.page(hub, "/dashboard")) for number in range(8)) and page,
        )
        assert "8 partners have not acknowledged" in text
    ear = Live(b, browser)
    before = len(ear.heard)
    for sink in sinks:
        sink.behave = acknowledge
    wait_for("b's page to hear of a change", lambda: "change" in ear.heard[before:])
    wait_for("all to be in step again", lambda: "All clear" in browser.page(b, "/dashboard"))
    # A sign of life comes when nothing was committed for a while: what is heard next is the other hub's commit and nothing of b's.
    wait_for("a quiet time", lambda: ear.heard and ear.heard[-1] == "tick", seconds=60)
    heard = len(ear.heard)
    assert a.client().ask("POST", "/v1/tokens", {"role": "auditor"}).status == 201
    wait_for("b's page to hear of it", lambda: "change" in ear.heard[heard:], seconds=10)
    browser.page(a, "/dashboard")
    assert browser.post(a, "/dashboard/sign-out").status == 303
    # The stream at b looks whether the session goes on, after the next word or sign of life.
    wait_for("b's stream to end", lambda: ear.has_ended, seconds=60)
    assert a.terminate() == 0 and b.terminate() == 0


def test_a_database_that_is_away_signs_nobody_out(
    tmp_path: Path, binary: Path, server: Server
) -> None:
    a = start(binary, tmp_path, server.url("hub"), "a")
    browser = Browser()
    browser.sign_in(a, a.token)
    browser.page(a, "/dashboard")
    server.stop()
    # It is not known whether somebody is signed in: that is said, and nobody is led to a sign-in that could not work either.
    answer = browser.ask(a, "GET", "/dashboard/nodes")
    assert answer.status == 503 and "retry-after" in answer.headers and "set-cookie" not in answer.headers, answer
    assert browser.ask(a, "POST", "/dashboard/sign-in", {"token": a.token}).status == 503
    server.start()

    def is_back() -> bool:
        return browser.ask(a, "GET", "/dashboard/nodes").status == 200

    wait_for("the same session to go on", is_back, seconds=60)
    assert a.terminate() == 0


def test_metrics_tell_of_the_hubs_and_of_one_that_is_lost(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    hubs: list[MeasuredHub] = []
    for name in ("a", "b"):
        data = tmp_path / name
        data.mkdir()
        if hubs:
            shutil.copy(hubs[0].data / "seal.key", data / "seal.key")
        settings = {"HMS_ESS_STORE": server.url("hub"), "HMS_ESS_NODE_NAME": name, "HMS_ESS_NODE_LEASE": LEASE}
        hubs.append(MeasuredHub(binary, data, tmp_path / f"home-{name}", settings))
    a, b = hubs
    for number in range(6):
        add_partner(a.client(), f"P{number}", Sink(loop).url)

    def told(name: str) -> list[float]:
        return [value(hub.scrape(), f"ess_node_{name}") for hub in hubs]

    wait_for("both to see both", lambda: told("live_count") == [2, 2])
    wait_for("all partners to be served", lambda: sum(told("partner_count")) == 6 and min(told("partner_count")) > 0)
    assert told("lease_held") == [1, 1] and told("takeovers_total") == [0, 0]
    a.kill()
    hubs.remove(a)
    wait_for("the lost one to be counted", lambda: told("takeovers_total") == [1], seconds=LEASE_SECONDS * 2 + 10)
    wait_for("the other to serve all", lambda: told("partner_count") == [6])
    assert told("live_count") == [1]
    # Without a database it says that it holds no lease.
    server.stop()
    wait_for("the lease to run out", lambda: told("lease_held") == [0], seconds=LEASE_SECONDS + 20)
    server.start()
    wait_for("the lease to be held again", lambda: told("lease_held") == [1], seconds=60)
    assert b.terminate() == 0


def test_the_overview_never_says_that_all_is_clear_while_a_hub_does_not_answer(
    tmp_path: Path, binary: Path, loop: Loop, server: Server
) -> None:
    a, b = two(tmp_path, binary, server)
    for number in range(6):
        add_partner(a.client(), f"P{number}", Sink(loop).url)
    wait_for("both to serve some", lambda: min(shares(b.client()).values()) > 0)
    browser = Browser()
    browser.sign_in(a, a.token)
    wait_for("all to be heard of", lambda: "All clear" in browser.page(b, "/dashboard"))
    a.kill()
    said: list[bool] = []

    def is_clear() -> bool:
        is_known = "not known now" not in (text := browser.page(b, "/dashboard"))
        assert is_known == ("All clear" in text), text
        said.append(is_known)
        return is_known and shares(b.client()) == {"b": 6}

    wait_for("the other to speak for all", is_clear, seconds=60)
    print(f"{said.count(False)} of {len(said)} pages said that something is not known")
    assert b.terminate() == 0
