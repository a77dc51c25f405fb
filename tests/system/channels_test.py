"""Partners that are not webhooks, through the whole hub: the drop, the receipt that comes as a file, the ledger."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import pytest
from conftest import Client, Hub, event, wait_for

SSHD = "/usr/sbin/sshd"
StartHub = Callable[..., Hub]


class Sshd(NamedTuple):
    """OpenSSH's server, and what a partner's file needs to name it."""

    url: str
    inbox: Path
    host_key: str
    client_key: Path


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    folder = tmp_path / "sshd"
    inbox = folder / "inbox"
    inbox.mkdir(parents=True)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / name)], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host",
        f"AuthorizedKeysFile {folder}/client.pub",
        "PidFile none",
        "StrictModes no",
        "UsePAM no",
        "PermitRootLogin yes",
        "Subsystem sftp internal-sftp",
    ]
    (folder / "config").write_text("\n".join(lines) + "\n")
    command = [SSHD, "-D", "-e", "-f", str(folder / "config")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)

    def listens() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            return False

    try:
        wait_for("sshd", listens)
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        host_key = " ".join((folder / "host.pub").read_text().split()[:2])
        yield Sshd(f"sftp://{user}@127.0.0.1:{port}{inbox}", inbox, host_key, folder / "client")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def add(client: Client, **partner: Any) -> None:
    answer = client.ask("POST", "/v1/partners", partner)
    assert answer.status == 201, answer


def status(client: Client, id: str) -> Any:
    return client.get(f"/v1/events/{id}/status")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def check_receipts(client: Client, partner: str, inbox: Path) -> None:
    """A drop is acknowledged by a file, refused by another, and each word is in the ledger once."""
    for id in ("RULE-A-V1", "RULE-B-V1"):
        assert client.ask("POST", "/v1/events", event(id, id)).status == 202
    wait_for("both drops", lambda: set(names(inbox)) >= {"RULE-A-V1.v1.json", "RULE-B-V1.v1.json"})
    wait_for("both deliveries", lambda: status(client, "RULE-B-V1") == {partner: "awaiting_ack"})
    (inbox / "RULE-A-V1.ack").touch()
    (inbox / "RULE-B-V1.ack").write_text('{"nack": "RULE-B-V1", "reason": "unknown county"}')
    wait_for("the ACK", lambda: status(client, "RULE-A-V1") == {partner: "ack"})
    wait_for("the NACK", lambda: status(client, "RULE-B-V1") == {partner: "nack"})
    wait_for("the receipts are taken away", lambda: names(inbox) == ["RULE-A-V1.v1.json", "RULE-B-V1.v1.json"])
    entries = [(entry["event_id"], entry["word"], entry["evidence"]) for entry in client.pages("/v1/ledger")]
    assert sorted(entries) == [("RULE-A-V1", "ack", "file"), ("RULE-B-V1", "nack", "file")]


def test_receipt_files_of_a_share_are_heard(start_hub: StartHub, tmp_path: Path) -> None:
    inbox = tmp_path / "share" / "inbox"
    inbox.mkdir(parents=True)
    hub = start_hub(HMS_ESS_ALLOW_DIR=str(tmp_path / "share"))
    client = hub.client()
    add(client, id="CLERK", channel="file", url=f"file://{inbox}", ack={"pattern": "{id}.ack"})
    check_receipts(client, "CLERK", inbox)


def test_receipt_files_on_an_sftp_server_are_heard(start_hub: StartHub, sshd: Sshd) -> None:
    client = start_hub().client()
    login = {"key": f"file:{sshd.client_key}"}
    add(client, id="CLINIC", channel="sftp", url=sshd.url, auth=login, ack={"pattern": "{id}.ack"})
    # Without a pin nothing is sent, and the answer says which line to add.
    tested = client.ask("POST", "/v1/partners/CLINIC/test").json
    assert f'host_key: "{sshd.host_key}"' in tested["reason"], tested
    assert names(sshd.inbox) == []
    pinned = {"channel": "sftp", "url": sshd.url, "auth": login, "host_key": sshd.host_key}
    answer = client.ask("PUT", "/v1/partners/CLINIC", {"id": "CLINIC", **pinned, "ack": {"pattern": "{id}.ack"}})
    assert answer.status == 200, answer
    check_receipts(client, "CLINIC", sshd.inbox)


def test_a_receipt_that_came_while_the_hub_was_down_counts(start_hub: StartHub, tmp_path: Path) -> None:
    inbox = tmp_path / "share"
    inbox.mkdir()
    hub = start_hub(HMS_ESS_ALLOW_DIR=str(inbox))
    add(hub.client(), id="CLERK", channel="file", url=f"file://{inbox}", ack={"by": "file"})
    assert hub.client().ask("POST", "/v1/events", event("RULE-A-V1", "RULE-A")).status == 202
    wait_for("the delivery", lambda: status(hub.client(), "RULE-A-V1") == {"CLERK": "awaiting_ack"})
    hub.terminate()
    (inbox / "RULE-A-V1.ack").touch()
    client = start_hub(hub.data, HMS_ESS_ALLOW_DIR=str(inbox)).client()
    wait_for("the ACK", lambda: status(client, "RULE-A-V1") == {"CLERK": "ack"})


def check_cleaning_up(client: Client, partner: str, inbox: Path) -> None:
    """An old drop goes once it is acknowledged, one that waits for its receipt stays, and so does what is the partner's own."""
    (inbox / "notes.txt").write_text("the partner's own")
    (inbox / "RULE-X-V1.v1.json").write_text("called like a drop, and none")
    for id in ("RULE-A-V1", "RULE-B-V1", "RULE-C-V1"):
        assert client.ask("POST", "/v1/events", event(id, id)).status == 202
    drops = [f"RULE-{name}-V1.v1.json" for name in "ABC"]
    wait_for("the drops", lambda: set(names(inbox)) >= set(drops))
    (inbox / "RULE-A-V1.ack").touch()
    wait_for("the ACK", lambda: status(client, "RULE-A-V1") == {partner: "ack"})
    wait_for("the first drop is gone", lambda: drops[0] not in names(inbox))
    (inbox / "RULE-C-V1.ack").touch()
    wait_for("the third drop is gone", lambda: drops[2] not in names(inbox))
    # A late receipt of a delivery that has ended is nobody's any more.
    (inbox / "RULE-A-V1.ack").touch()
    wait_for("the late receipt is gone", lambda: "RULE-A-V1.ack" not in names(inbox))
    assert names(inbox) == [drops[1], "RULE-X-V1.v1.json", "notes.txt"]
    assert status(client, "RULE-B-V1") == {partner: "awaiting_ack"}


def test_old_drops_of_a_share_are_cleaned_up(start_hub: StartHub, tmp_path: Path) -> None:
    hub = start_hub(HMS_ESS_ALLOW_DIR=str(tmp_path / "share"))
    inbox = tmp_path / "share" / "inbox"
    inbox.mkdir(parents=True)
    ack = {"pattern": "{id}.ack"}
    add(hub.client(), id="CLERK", channel="file", url=f"file://{inbox}", ack=ack, clean={"after": "1s"})
    check_cleaning_up(hub.client(), "CLERK", inbox)


def test_old_drops_on_an_sftp_server_are_cleaned_up(start_hub: StartHub, sshd: Sshd) -> None:
    client = start_hub().client()
    login = {"key": f"file:{sshd.client_key}"}
    own = {"url": sshd.url, "auth": login, "host_key": sshd.host_key, "ack": {"pattern": "{id}.ack"}}
    add(client, id="CLINIC", channel="sftp", **own, clean={"after": "1s"})
    check_cleaning_up(client, "CLINIC", sshd.inbox)
