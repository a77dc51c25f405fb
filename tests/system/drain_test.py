"""A hub that is told to stop says so first: a balancer sends publishers elsewhere, and none of them is refused or forgotten."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest
from conftest import ROOT, Client, Hub, Loop, Sink, add_partner, embedded_only, event, wait_for

#: How long the hub goes on after it said that it stops: many times as long as the balancer needs to notice.
DRAIN = "6s"
#: How often the balancer here asks whether a hub is ready.
CHECK_SECONDS = 0.25
PUBLISHERS = 4


class Balancer:
    """A TCP balancer: asks each hub's ``/readyz``, and passes a new connection on to the first that is ready."""

    def __init__(self, hubs: list[Hub]) -> None:
        self.hubs = hubs
        self.stopped = threading.Event()
        self.ready = [False for _ in hubs]
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.threads = [threading.Thread(target=self._check, args=(at,)) for at in range(len(hubs))]
        self.threads.append(threading.Thread(target=self._accept))
        for thread in self.threads:
            thread.start()
        wait_for("hubs that are ready", lambda: all(self.ready))

    def _check(self, at: int) -> None:
        while not self.stopped.wait(CHECK_SECONDS):
            client = self.hubs[at].stranger(seconds=5)
            try:
                self.ready[at] = client.ask("GET", "/readyz").status == 200
            except (OSError, http.client.HTTPException):
                self.ready[at] = False
            client.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            chosen = next((hub for hub, ready in zip(self.hubs, self.ready) if ready), None)
            if chosen is None:
                near.close()
                continue
            try:
                far = socket.create_connection(chosen.address, timeout=30)
            except OSError:
                near.close()
                continue
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=pass_on, args=(one, other), daemon=True).start()

    def close(self) -> None:
        self.stopped.set()
        # A listener that is only closed leaves its thread in accept().
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(timeout=20)


def pass_on(one: socket.socket, other: socket.socket) -> None:
    """Everything that comes, to its end."""
    try:
        while piece := one.recv(65536):
            other.sendall(piece)
        other.shutdown(socket.SHUT_WR)
    except OSError:
        one.close()
        other.close()


class Publisher:
    """Publishes one event after the other of its own subject, until it is told to end; the first refusal ends it, too."""

    def __init__(self, name: str, publish: Callable[[dict[str, Any]], None]) -> None:
        self.name = name
        self.publish = publish
        self.taken: list[str] = []
        self.trouble: Optional[BaseException] = None
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        for number in itertools.count(1):
            if self.stopped.is_set():
                return
            id = f"{self.name}-V{number}"
            try:
                self.publish(event(id, self.name))
            except BaseException as trouble:
                self.trouble = trouble
                return
            self.taken.append(id)

    def end(self) -> list[str]:
        self.stopped.set()
        self.thread.join(timeout=60)
        assert self.trouble is None, f"after {len(self.taken)} events: {self.trouble!r}"
        return self.taken


def have_taken(publishers: list[Publisher], more: int, before: Optional[list[int]] = None) -> bool:
    """Whether each got so many more answers; the first trouble ends the test."""
    for publisher in publishers:
        if publisher.trouble is not None:
            raise publisher.trouble
    counts = before or [0 for _ in publishers]
    return all(len(publisher.taken) >= count + more for publisher, count in zip(publishers, counts))


def plainly(client: Client) -> Callable[[dict[str, Any]], None]:
    """A publisher that knows nothing of several hubs and tries nothing twice, but honours ``connection: close``."""

    def publish(one: dict[str, Any]) -> None:
        answer = client.ask("POST", "/v1/events", one)
        assert answer.status == 202, answer

    return publish


class SecureClient(Client):
    """The same over TLS."""

    def __init__(self, address: tuple[str, int], token: str, ca: Path) -> None:
        super().__init__(address, token)
        self.context = ssl.create_default_context(cafile=ca)

    def opened(self) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection(*self.address, timeout=self.seconds, context=self.context)


class SecureHub(Hub):
    """A hub with a certificate of its own CA."""

    scheme = "https"

    def client(self, token: Optional[str] = None, seconds: float = 30) -> Client:
        return SecureClient(self.address, token or self.token, self.data / "tls" / "ca.pem")


@pytest.fixture
def start_secure_hub(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    started: list[Hub] = []

    def start(data: Path, **settings: str) -> Hub:
        started.append(SecureHub(binary, data, tmp_path / "home", settings))
        return started[-1]

    yield start
    for hub in started:
        if hub.process.poll() is None:
            hub.kill()


@contextlib.contextmanager
def haproxy(hubs: list[Hub], folder: Path) -> Iterator[tuple[str, int]]:
    """HAProxy as docs/scale.md has it, before these hubs; where it listens."""
    page = (ROOT / "docs" / "scale.md").read_text()
    backend = page.split("```\n# haproxy.cfg\n")[1].split("```")[0]
    for written, hub in zip(("10.0.0.11:8443", "10.0.0.12:8443"), hubs):
        assert written in backend
        backend = backend.replace(written, f"{hub.address[0]}:{hub.address[1]}")
    backend = backend.replace("/etc/haproxy/hub-ca.pem", str(hubs[0].data / "tls" / "ca.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        top = "global\n    maxconn 1000\ndefaults\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n"
        front = f"frontend all\n    mode tcp\n    bind fd@{listener.fileno()}\n    default_backend hubs\n"
        config = folder / "haproxy.cfg"
        config.write_text(top + front + backend)
        process = subprocess.Popen(["/usr/sbin/haproxy", "-db", "-f", config], pass_fds=[listener.fileno()])
        address: tuple[str, int] = listener.getsockname()
    try:
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def two_hubs(start_hub: Callable[..., Hub], tmp_path: Path, **settings: str) -> tuple[Hub, Hub]:
    """Two hubs with data directories of their own that know the same tokens."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert start_hub(first).terminate() == 0
    shutil.copytree(first, second)
    return start_hub(first, **settings), start_hub(second, **settings)


def log_of(hub: Hub) -> list[str]:
    return [one["id"] for one in hub.client().pages("/v1/events")]


def check_logs(publishers: list[Publisher], logs: list[list[str]]) -> None:
    """What was taken is on record, and each publisher's events stand in the order in which they were published."""
    for publisher in publishers:
        taken = publisher.end()
        assert taken and not set(taken) - set(logs[0]) - set(logs[1])
        for log in logs:
            own = [id for id in log if id.startswith(f"{publisher.name}-V")]
            assert own == sorted(own, key=lambda id: int(id.rpartition("V")[2]))


def test_a_hub_that_stops_takes_everything_until_its_delay_is_over(start_hub: Callable[..., Hub]) -> None:
    hub = start_hub(HMS_ESS_DRAIN_DELAY="10m")
    kept = hub.client()
    assert "connection" not in kept.ask("GET", "/readyz").headers
    hub.process.send_signal(signal.SIGTERM)
    refused = wait_for("/readyz to turn", lambda: (said := hub.stranger().ask("GET", "/readyz")).status == 503 and said)
    assert refused.json["detail"] == "the hub is stopping"
    # The kept connection is answered and ends; new ones are taken.
    for client, id in ((kept, "D-V1"), (hub.client(), "D-V2")):
        answer = client.ask("POST", "/v1/events", event(id, "D"))
        assert answer.status == 202 and answer.headers["connection"] == "close"
    assert hub.stranger().ask("GET", "/healthz").status == 200
    # Asked twice, it does not wait.
    assert hub.terminate() == 1


def test_readyz_turns_before_the_port_closes(start_hub: Callable[..., Hub]) -> None:
    hub = start_hub(HMS_ESS_DRAIN_DELAY="3s")
    said: list[int] = []

    def is_closed() -> bool:
        try:
            said.append(hub.stranger().ask("GET", "/readyz").status)
        except (OSError, http.client.HTTPException):
            return True
        return False

    assert not is_closed()
    hub.process.send_signal(signal.SIGTERM)
    wait_for("the port to close", is_closed)
    assert hub.process.wait(timeout=30) == 0
    turned = said.index(503)
    assert set(said[:turned]) == {200} and set(said[turned:]) == {503}


@embedded_only
def test_no_publish_is_refused_or_forgotten_while_a_hub_behind_a_balancer_stops(
    start_hub: Callable[..., Hub], loop: Loop, tmp_path: Path
) -> None:
    first, second = two_hubs(start_hub, tmp_path, HMS_ESS_DRAIN_DELAY=DRAIN)
    sink = Sink(loop)
    for hub in (first, second):
        add_partner(hub.client(), "COURT", sink.url)
    balancer = Balancer([first, second])
    try:
        publishers = [Publisher(f"P{n}", plainly(Client(balancer.address, first.token))) for n in range(PUBLISHERS)]
        wait_for("events at the first hub", lambda: have_taken(publishers, 10))
        assert not log_of(second)
        assert first.terminate() == 0
        before = [len(one.taken) for one in publishers]
        wait_for("events after it", lambda: have_taken(publishers, 10, before))
        for publisher in publishers:
            publisher.end()
    finally:
        balancer.close()
    after = log_of(second)
    logs = [log_of(start_hub(tmp_path / "first")), after]
    assert all(logs)
    check_logs(publishers, logs)
    published = {id for log in logs for id in log}
    wait_for("every event at the partner", lambda: published <= {arrival.event_id for arrival in sink.arrivals})


@embedded_only
def test_no_publish_is_refused_behind_haproxy_as_the_page_has_it(
    start_secure_hub: Callable[..., Hub], tmp_path: Path
) -> None:
    first, second = two_hubs(start_secure_hub, tmp_path, HMS_ESS_DRAIN_DELAY="8s")
    ca = first.data / "tls" / "ca.pem"
    with haproxy([first, second], tmp_path) as address:
        clients = [SecureClient(address, first.token, ca) for _ in range(PUBLISHERS)]
        publishers = [Publisher(f"P{n}", plainly(client)) for n, client in enumerate(clients)]
        wait_for("events at the hubs", lambda: have_taken(publishers, 10))
        assert first.terminate() == 0
        before = [len(one.taken) for one in publishers]
        wait_for("events after it", lambda: have_taken(publishers, 10, before))
        for publisher in publishers:
            publisher.end()
    after = log_of(second)
    check_logs(publishers, [log_of(start_secure_hub(tmp_path / "first")), after])


@embedded_only
def test_publishers_with_both_addresses_go_on_at_the_other_hub(
    start_hub: Callable[..., Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import hms_ess

    first, second = two_hubs(start_hub, tmp_path)
    monkeypatch.setenv("HMS_ESS_TOKEN", first.token)
    monkeypatch.setenv("HMS_ESS_PROFILE", str(tmp_path / "none.json"))
    with socket.create_server(("127.0.0.1", 0)) as gone:
        dead = gone.getsockname()
    urls = [f"http://{host}:{port}" for host, port in (dead, first.address, second.address)]

    def publish(one: dict[str, Any]) -> None:
        hms_ess.publish(hms_ess.ChangeEvent(one["id"], one["version"], one["payload"], subject=one["subject"]), urls)

    publishers = [Publisher(f"P{n}", publish) for n in range(PUBLISHERS)]
    wait_for("events at the first hub", lambda: have_taken(publishers, 10))
    assert not log_of(second)
    # No word before it: the worst that can happen to a publish that is under way.
    first.kill()
    before = [len(one.taken) for one in publishers]
    wait_for("events after it", lambda: have_taken(publishers, 10, before))
    for publisher in publishers:
        publisher.end()
    check_logs(publishers, [log_of(start_hub(tmp_path / "first")), log_of(second)])
