"""Trouble reaches Ops: once when it begins, once when it ends, by each kind of target, through restarts and outages."""

from __future__ import annotations

import base64
import datetime
import email
import email.policy
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from certificates import Authority
from conftest import Client, Hub, Loop, Request, Sink, add_partner, any_store, event, wait_for
from postgres import free_port
from standardwebhooks.webhooks import Webhook

pytestmark = any_store

SECRET = "whsec_" + base64.b64encode(b"ops" * 8).decode()
RETRY = {"first": "50ms", "factor": 1, "max": "100ms", "jitter": 0}
#: Rounds of the hub's own looks in which nothing more may come.
QUIET_ROUNDS = 3


class Receiver:
    """An HTTP receiver of messages to Ops."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        receiver = self

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if receiver.status == 200:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    receiver.got.append((self.path, headers, body))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def events(self) -> list[Any]:
        return [json.loads(body) for _, _, body in list(self.got)]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


class Partner:
    """A partner that answers with a status, or with its ACK."""

    def __init__(self, loop: Loop) -> None:
        self.status = 200
        self.sink = Sink(loop, self.answer)
        self.url = self.sink.url

    async def answer(self, request: Request) -> Optional[tuple[int, bytes]]:
        if self.status != 200:
            return self.status, b"{}"
        return 200, json.dumps({"ack": request.arrival.event_id}).encode()


@pytest.fixture
def configure(start_hub: Callable[..., Hub], tmp_path: Path) -> Callable[..., Hub]:
    """Starts a hub with this hub.yaml."""

    def start(configuration: dict[str, Any], **settings: str) -> Hub:
        file = tmp_path / "hub.yaml"
        # JSON is YAML.
        file.write_text(json.dumps(configuration))
        return start_hub(HMS_ESS_CONFIG=str(file), OPS_SECRET=SECRET, **settings)

    return start


def webhook_target(receiver: Receiver, **more: Any) -> dict[str, Any]:
    return {"type": "webhook", "url": receiver.url, "secret": "env:OPS_SECRET", **more}


def of_cause(receiver: Receiver, cause: str) -> list[Any]:
    return [event for event in receiver.events() if event["data"].get("cause") == cause]


def publish(client: Client, count: int, name: str = "E", **more: Any) -> None:
    for number in range(count):
        answer = client.ask("POST", "/v1/events", {**event(f"{name}-{number}", f"S-{number % 7}"), **more})
        assert answer.status == 202, answer


def rounds_pass(client: Client, path: str = "/v1/escalations") -> None:
    """Waits until the hub has looked a few times more: each look is a second."""
    end = time.monotonic() + QUIET_ROUNDS
    wait_for("some rounds", lambda: time.monotonic() > end and client.get(path) is not None)


def test_five_hundred_unacked_events_are_one_signed_message_and_a_second_on_recovery(
    configure: Callable[..., Hub], loop: Loop, receiver: Receiver, tmp_path: Path
) -> None:
    configuration = {"targets": {"ops": webhook_target(receiver)}}
    hub = configure(configuration)
    client = hub.client()
    partner = Partner(loop)
    partner.status = 503
    add_partner(client, "COURT-CAL", partner.url, retry=RETRY, escalate={"after": "1s", "to": ["ops"]})
    lines = [json.dumps(event(f"E-{number}", f"S-{number % 7}")) + "\n" for number in range(500)]
    (tmp_path / "events.ndjson").write_text("".join(lines))
    assert hub.run("publish", str(tmp_path / "events.ndjson")).returncode == 0
    [begun] = wait_for("the message", lambda: of_cause(receiver, "unacked"))
    assert begun["type"] == "hms.ess.ops.trouble" and begun["subject"] == "COURT-CAL"
    # Several are published at a time: which came first is the log's to say.
    first = client.get("/v1/events?limit=1")["items"][0]["id"]
    assert begun["data"]["deliveries"] == 500 and begun["data"]["oldest_event"] == first
    assert "503" in begun["data"]["last_error"]
    assert "hms-ess status E-0" in begun["data"]["run"]
    for _, headers, body in receiver.got:
        Webhook(SECRET).verify(body, headers)
    assert [one["data"]["cause"] for one in receiver.events()].count("offline") == 1

    # A crash says nothing again of what the hub has written down: what is on the board is.
    def is_written_down() -> bool:
        known = client.get("/v1/escalations")["items"]
        return len(known) == 2 and all(one["told"] == ["ops"] for one in known)

    wait_for("both to be written down", is_written_down)
    hub.kill()
    hub = configure(configuration)
    client = hub.client()
    rounds_pass(client)
    wait_for("the trouble to be known again", lambda: client.get("/v1/escalations")["items"])
    assert len(of_cause(receiver, "unacked")) == 1 and len(of_cause(receiver, "offline")) == 1
    [known] = [one for one in client.get("/v1/escalations?partner=COURT-CAL")["items"] if one["cause"] == "unacked"]
    assert known["told"] == ["ops"] and known["waiting"] == []

    partner.status = 200
    wait_for("the end", lambda: len(of_cause(receiver, "unacked")) == 2)
    ended = of_cause(receiver, "unacked")[1]
    assert ended["type"] == "hms.ess.ops.clear" and ended["data"]["since"] == begun["data"]["since"]
    wait_for("no trouble", lambda: not client.get("/v1/escalations")["items"])
    rounds_pass(client)
    assert [one["type"] for one in of_cause(receiver, "offline")] == ["hms.ess.ops.trouble", "hms.ess.ops.clear"]
    assert len(receiver.got) == 4


def test_quiet_hours_hold_routine_messages_and_never_urgent_ones(
    configure: Callable[..., Hub], loop: Loop, receiver: Receiver
) -> None:
    now = datetime.datetime.now(datetime.timezone.utc)
    begin, end = now - datetime.timedelta(hours=1), now + datetime.timedelta(hours=3)
    quiet = f"{begin:%H:%M}-{end:%H:%M} UTC"
    hub = configure({"targets": {"ops": webhook_target(receiver, quiet=quiet)}, "escalate_to": ["ops"], "escalate_after": "1s"})
    client = hub.client()
    refusing = Partner(loop)
    refusing.status = 422
    add_partner(client, "ROUTINE", refusing.url)
    publish(client, 1, "CALM")

    def waits() -> bool:
        items = client.get("/v1/escalations?partner=ROUTINE")["items"]
        return [(one["cause"], [wait["target"] for wait in one["waiting"]]) for one in items] == [("dead_letter", ["ops"])]

    wait_for("the routine message to wait", waits)
    client.ask("DELETE", "/v1/partners/ROUTINE")
    add_partner(client, "URGENT", refusing.url)
    publish(client, 1, "STORM", priority="urgent")
    [told] = wait_for("the urgent message", receiver.events)
    assert told["subject"] == "URGENT" and told["data"]["urgent"] and told["data"]["text"].startswith("URGENT: ")
    # Discarded: over, and told though it is quiet, as its beginning was.
    reason = {"partner": "URGENT", "reason": "sent by mail"}
    assert client.ask("POST", "/v1/dead-letters/discard", reason).status == 200
    wait_for("its end", lambda: len(receiver.events()) == 2)
    assert receiver.events()[1]["type"] == "hms.ess.ops.clear"


def test_a_target_that_is_down_gets_the_message_when_it_is_back(
    configure: Callable[..., Hub], loop: Loop, receiver: Receiver
) -> None:
    receiver.status = 500
    hub = configure({"targets": {"ops": webhook_target(receiver)}, "escalate_to": ["ops"]})
    client = hub.client()
    refusing = Partner(loop)
    refusing.status = 422
    add_partner(client, "P", refusing.url)
    publish(client, 1)

    def target() -> Any:
        [one] = client.get("/v1/targets")["items"]
        return one

    wait_for("the failure to show", lambda: target()["failures"] >= 1)
    assert "answered 500" in target()["last_error"]
    assert any("could not tell Ops" in line for line in hub.log)
    receiver.status = 200
    [told] = wait_for("the message", receiver.events)
    assert told["data"]["cause"] == "dead_letter"
    assert "hms-ess dead-letters list --partner P" in told["data"]["run"]
    wait_for("the target to be well", lambda: target()["failures"] == 0 and "last_error" not in target())


def test_blocked_paused_and_unacknowledged_each_tell_what_to_run(
    configure: Callable[..., Hub], loop: Loop, receiver: Receiver
) -> None:
    hub = configure({"targets": {"ops": webhook_target(receiver)}, "escalate_to": ["ops"]})
    client = hub.client()
    partner, gone = Partner(loop), Partner(loop)
    gone.status = 410

    async def mute(request: Request) -> Optional[tuple[int, bytes]]:
        return 200, b"{}"

    silent = Sink(loop, mute)
    add_partner(client, "BLOCKED", partner.url, accepts_version=2)
    add_partner(client, "GONE", gone.url)
    add_partner(client, "SILENT", silent.url, ack={"by": "body", "within": "100ms", "resend": 0})
    publish(client, 1)
    wait_for("three messages", lambda: len(receiver.events()) >= 3)
    told = {one["subject"]: one["data"] for one in receiver.events()}
    assert {name: data["cause"] for name, data in told.items()} == {
        "BLOCKED": "blocked",
        "GONE": "paused",
        "SILENT": "unacknowledged",
    }
    mend = client.get("/v1/unacked")["items"]
    assert told["BLOCKED"]["run"][-1] == next(one["mend"] for one in mend if one["partner"] == "BLOCKED")
    assert "hms-ess partner resume GONE" in told["GONE"]["run"]
    assert "`ack: {by: status}`" in told["SILENT"]["text"]
    # What mends each ends it.
    bridge = {"subject": "*", "from": 1, "to": 2, "identity": True}
    assert client.ask("POST", "/v1/bridges", bridge).status in (200, 201)
    gone.status = 200
    assert client.ask("POST", "/v1/partners/GONE/resume").status == 200
    assert client.ask("POST", "/v1/acks", {"ack": "E-0", "partner": "SILENT"}).status in (200, 202)
    wait_for("three ends", lambda: sum(one["type"] == "hms.ess.ops.clear" for one in receiver.events()) == 3)


def test_a_partner_that_is_given_up_is_one_message_and_its_recovery_another(
    configure: Callable[..., Hub], loop: Loop, receiver: Receiver
) -> None:
    hub = configure({"targets": {"ops": webhook_target(receiver)}, "escalate_to": ["ops"]})
    client = hub.client()
    partner = Partner(loop)
    partner.status = 503
    add_partner(client, "P", partner.url, retry={**RETRY, "give_up_after": "1s"})
    publish(client, 5)
    [told] = wait_for("the message", lambda: of_cause(receiver, "gave_up"))
    assert "given up" in told["data"]["text"]
    partner.status = 200
    # Redriven on recovery: nothing is left, and each beginning has its end.
    wait_for("every end", lambda: not client.get("/v1/escalations")["items"])
    wait_for("all told", lambda: sum(1 if one["type"].endswith("trouble") else -1 for one in receiver.events()) == 0)
    assert len(of_cause(receiver, "gave_up")) == 2


def test_each_http_target_gets_its_own_shape(configure: Callable[..., Hub], loop: Loop) -> None:
    pager, chat, alerts = Receiver(), Receiver(), Receiver()
    targets = {
        "pager": {"type": "pagerduty", "url": pager.url, "routing_key": "env:PAGER_KEY"},
        "chat": {"type": "slack", "url": "env:CHAT_URL"},
        "alerts": {"type": "alertmanager", "url": alerts.url, "severity": "warning"},
    }
    hub = configure({"targets": targets, "escalate_to": list(targets)}, PAGER_KEY="k" * 32, CHAT_URL=chat.url)
    client = hub.client()
    refusing = Partner(loop)
    refusing.status = 422
    add_partner(client, "P-1", refusing.url)
    publish(client, 1)
    wait_for("all three", lambda: pager.got and chat.got and alerts.got)
    [trigger] = pager.events()
    assert (trigger["routing_key"], trigger["event_action"]) == ("k" * 32, "trigger")
    assert trigger["payload"]["severity"] == "error" and trigger["payload"]["custom_details"]["partner"] == "P-1"
    [text] = chat.events()
    assert set(text) == {"text"} and "*P-1 will not get 1 event by itself" in text["text"]
    assert alerts.got[0][0] == "/api/v2/alerts"
    [[firing]] = alerts.events()
    assert firing["labels"]["severity"] == "warning" and firing["endsAt"] > firing["startsAt"]
    client.ask("POST", "/v1/dead-letters/discard", {"reason": "done"})
    wait_for("the ends", lambda: len(pager.got) == len(chat.got) == len(alerts.got) == 2)
    resolve = pager.events()[1]
    assert (resolve["event_action"], resolve["dedup_key"]) == ("resolve", trigger["dedup_key"])
    assert alerts.events()[1][0]["labels"] == firing["labels"]
    said = hub.run("target", "test", "pager")
    assert said.returncode == 0 and "taken" in said.stdout, said
    assert [one["event_action"] for one in pager.events()[2:]] == ["trigger", "resolve"]
    for one in (pager, chat, alerts):
        one.close()
    said = hub.run("target", "test", "chat")
    assert said.returncode == 1 and "connection refused" in said.stderr, said
    shown = hub.run("target", "list")
    assert "pagerduty" in shown.stdout and "k" * 32 not in shown.stdout


def test_names_are_checked_and_secrets_are_not_shown(configure: Callable[..., Hub], receiver: Receiver) -> None:
    hub = configure({"targets": {"ops-email": webhook_target(receiver), "pager": webhook_target(receiver, secret=SECRET)}})
    client = hub.client()
    document = {"id": "P", "channel": "webhook", "url": receiver.url, "escalate": {"to": ["ops-mail"]}}
    answer = client.ask("POST", "/v1/partners", document)
    assert answer.status == 422 and answer.json["field"] == "escalate.to", answer
    assert "did you mean `ops-email`? Known are ops-email, pager" in answer.json["hint"]
    assert client.ask("POST", "/v1/targets/none/test").status == 404
    shown = hub.run("config", "show")
    assert shown.returncode == 0 and "(sealed)" in shown.stdout and "env:OPS_SECRET" in shown.stdout, shown
    assert SECRET not in shown.stdout + "".join(hub.log) + json.dumps(client.get("/v1/targets"))


def test_unacked_lists_urgent_first_with_age_and_what_to_run(configure: Callable[..., Hub], loop: Loop) -> None:
    hub = configure({})
    client = hub.client()
    partner = Partner(loop)
    partner.status = 503
    retry = {**RETRY, "first": "5s", "max": "5s"}
    add_partner(client, "P", partner.url, retry=retry, escalate={"after": "1s", "to": ["ops-email"]})
    publish(client, 1, "CALM")
    publish(client, 1, "STORM", priority="urgent", subject="OTHER")
    wait_for("both", lambda: len(client.get("/v1/unacked")["items"]) == 2)
    lines = hub.run("unacked").stdout.splitlines()
    assert "STORM-0" in lines[1] and "urgent" in lines[1] and "CALM-0" in lines[2], lines
    assert "hms-ess partner show P" in lines[1]
    items = json.loads(hub.run("unacked", "--json").stdout)["items"]
    assert [one["event_id"] for one in items] == ["STORM-0", "CALM-0"] and items[0]["age_s"] >= 0
    # Without targets the log says it.
    wait_for("the log", lambda: any("P has not acknowledged" in line for line in hub.log))


class Mailbox:
    """What an SMTP server does with mails, and with passwords."""

    def __init__(self) -> None:
        self.mails: list[email.message.EmailMessage] = []
        self.envelopes: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.envelopes.append(envelope)
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))  # type: ignore[arg-type]
        return "250 OK"

    def check(self, server: Any, session: Any, envelope: Any, mechanism: str, login: Any) -> AuthResult:
        is_right = isinstance(login, LoginPassword) and (login.login, login.password) == (b"hub", b"hunter2")
        return AuthResult(success=is_right)


class MailServer(Controller):
    """A mail server; with TLS from the beginning its own first caller has to shake hands, too."""

    def _trigger_server(self) -> None:
        with socket.create_connection((self.hostname, self.port), 5) as plain:
            if self.ssl_context is None:
                plain.recv(64)
                return
            careless = ssl.create_default_context()
            careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
            with careless.wrap_socket(plain) as secured:
                secured.recv(64)


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_mail_goes_out_by_starttls_or_tls_with_a_password(
    configure: Callable[..., Hub], loop: Loop, tmp_path: Path, scheme: str
) -> None:
    authority = Authority(tmp_path / "ca")
    context = authority.server()
    box = Mailbox()
    secure: dict[str, Any] = (
        {"tls_context": context, "require_starttls": True} if scheme == "smtp" else {"ssl_context": context, "auth_require_tls": False}
    )
    server = MailServer(box, hostname="127.0.0.1", port=free_port(), authenticator=box.check, auth_required=True, **secure)
    server.start()
    try:
        target = {
            "type": "email",
            "url": f"{scheme}://localhost:{server.port}",
            "from": "hub@agency.example",
            "to": ["ops@agency.example", "duty@agency.example"],
            "auth": {"user": "hub", "password": "env:MAIL_PASSWORD"},
        }
        hub = configure(
            {"targets": {"ops-email": target}, "escalate_to": ["ops-email"]},
            MAIL_PASSWORD="hunter2",
            HMS_ESS_PARTNER_CA=str(authority.path),
        )
        client = hub.client()
        said = hub.run("target", "test", "ops-email")
        assert said.returncode == 0, said
        assert "[TEST]" in box.mails[0]["subject"]
        refusing = Partner(loop)
        refusing.status = 422
        add_partner(client, "COURT-CAL", refusing.url)
        publish(client, 1)
        wait_for("the mail", lambda: len(box.mails) == 2)
        mail = box.mails[1]
        assert mail["subject"] == "COURT-CAL will not get 1 event by itself: dead letters"
        assert (mail["from"], mail["to"]) == ("hub@agency.example", "ops@agency.example, duty@agency.example")
        assert box.envelopes[1].rcpt_tos == ["ops@agency.example", "duty@agency.example"]
        text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
        assert "Oldest event: E-0" in text and "hms-ess dead-letters redrive --partner COURT-CAL" in text
        assert "<code>hms-ess status E-0</code>" in mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
    finally:
        server.stop()


def test_a_mail_server_without_starttls_gets_no_mail_unless_it_is_said_so(
    configure: Callable[..., Hub],
) -> None:
    class Plain(Mailbox):
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            self.envelopes.append(envelope)
            return "250 OK"

    box = Plain()
    server = MailServer(box, hostname="127.0.0.1", port=free_port())
    server.start()
    try:
        target = {"type": "email", "url": f"smtp://127.0.0.1:{server.port}", "from": "a@b.example", "to": "c@d.example"}
        hub = configure({"targets": {"safe": target, "relay": {**target, "tls": "none"}}})
        said = hub.run("target", "test", "safe")
        assert said.returncode == 1 and "no STARTTLS" in said.stderr and not box.envelopes, said
        said = hub.run("target", "test", "relay")
        assert said.returncode == 0 and len(box.envelopes) == 1, said
    finally:
        server.stop()


@pytest.mark.skipif(shutil.which("prometheus-alertmanager") is None, reason="installed by `cargo xtask test` as root")
def test_a_real_alertmanager_fires_and_resolves(configure: Callable[..., Hub], loop: Loop, tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "alertmanager.yml"
    configuration.write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    command = [
        "prometheus-alertmanager",
        f"--config.file={configuration}",
        f"--storage.path={tmp_path / 'alerts'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            def is_up() -> bool:
                with socket.socket() as probe:
                    return probe.connect_ex(("127.0.0.1", port)) == 0

            wait_for("the Alertmanager", is_up)
            target = {"type": "alertmanager", "url": f"http://127.0.0.1:{port}"}
            hub = configure({"targets": {"alerts": target}, "escalate_to": ["alerts"]})
            client = hub.client()
            refusing = Partner(loop)
            refusing.status = 422
            add_partner(client, "P", refusing.url)
            publish(client, 1)
            there = Client(("127.0.0.1", port), None, 30)

            def firing() -> list[Any]:
                return [one for one in there.get("/api/v2/alerts") if one["labels"].get("partner") == "P"]

            [alert] = wait_for("the alert", firing)
            assert alert["labels"]["cause"] == "dead_letter" and alert["status"]["state"] == "active"
            client.ask("POST", "/v1/dead-letters/discard", {"reason": "done"})
            wait_for("the end", lambda: not firing())
        finally:
            process.terminate()
            process.wait(timeout=30)
