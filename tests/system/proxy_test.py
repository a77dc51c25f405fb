"""The whole hub behind a proxy (tinyproxy): deliveries go out by it, its login is nowhere to be read, and its failure is told."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import pytest
from conftest import Hub, Loop, Sink, add_partner, event, wait_for

QUICK = {"first": "50ms", "factor": 1, "max": "100ms", "jitter": 0}


class Proxy(NamedTuple):
    """Where it listens, and what it notes."""

    url: str
    log: Path


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path / "proxy"
    folder.mkdir()
    lines = ["Port %d" % port, "Listen 127.0.0.1", "Allow 127.0.0.1", "BasicAuth hub s3cret", f'LogFile "{folder}/log"']
    (folder / "config").write_text("\n".join([*lines, "LogLevel Connect", "MaxClients 20", "Timeout 60"]) + "\n")
    process = subprocess.Popen(["tinyproxy", "-d", "-c", str(folder / "config")], stdout=subprocess.DEVNULL)

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            return False

    try:
        wait_for("tinyproxy", listens)
        yield Proxy(f"http://127.0.0.1:{port}", folder / "log")
    finally:
        process.kill()
        process.wait()


def test_deliveries_go_out_by_the_proxy(start_hub: Callable[..., Hub], loop: Loop, proxy: Proxy) -> None:
    sink = Sink(loop)
    hub = start_hub(HMS_ESS_PROXY=proxy.url, HMS_ESS_PROXY_LOGIN="env:LOGIN", LOGIN="hub:s3cret")
    client = hub.client()
    add_partner(client, "COURT", sink.url)
    assert client.ask("POST", "/v1/events", event("RULE-A-V1", "RULE-A")).status == 202
    wait_for("the ACK", lambda: client.get("/v1/events/RULE-A-V1/status") == {"COURT": "ack"})
    place = sink.url.split("/")[2]
    assert f"CONNECT {place} " in proxy.log.read_text()
    assert "s3cret" not in "".join(hub.log)


def test_a_proxy_that_wants_another_login_is_named(start_hub: Callable[..., Hub], loop: Loop, proxy: Proxy) -> None:
    sink = Sink(loop)
    hub = start_hub(HMS_ESS_PROXY=proxy.url, HMS_ESS_PROXY_LOGIN="env:LOGIN", LOGIN="hub:hunter2")
    client = hub.client()
    add_partner(client, "COURT", sink.url, retry=QUICK)
    assert client.ask("POST", "/v1/events", event("RULE-A-V1", "RULE-A")).status == 202
    wait_for("a failure", lambda: client.get("/v1/events/RULE-A-V1/status") == {"COURT": "retrying"})
    told = str(client.get("/v1/events/RULE-A-V1/deliveries"))
    assert "the proxy wants another login" in told and "hunter2" not in told, told


def test_who_is_spared_is_dialled_directly(start_hub: Callable[..., Hub], loop: Loop, proxy: Proxy) -> None:
    sink = Sink(loop)
    client = start_hub(HMS_ESS_PROXY=proxy.url, HMS_ESS_PROXY_EXCEPT="127.0.0.0/8").client()
    add_partner(client, "COURT", sink.url)
    assert client.ask("POST", "/v1/events", event("RULE-A-V1", "RULE-A")).status == 202
    wait_for("the ACK", lambda: client.get("/v1/events/RULE-A-V1/status") == {"COURT": "ack"})
    assert "CONNECT 127" not in proxy.log.read_text()
