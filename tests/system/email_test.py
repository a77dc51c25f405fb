"""The email channel against a real SMTP server: the mail, the link that asks before it counts, refusals, the fallback."""

from __future__ import annotations

import http.client
import json
import re
from email.message import EmailMessage, Message
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from pathlib import Path
from typing import Any, Callable, Iterator, Optional
from urllib.parse import urlsplit

import pytest
from certificates import Authority
from conftest import ROOT, Client, Hub, Loop, Request, Sink, add_partner, event, wait_for
from escalation_test import Mailbox, MailServer
from postgres import free_port

RETRY = {"first": "50ms", "factor": 1, "max": "100ms", "jitter": 0}


class Post(Mailbox):
    """A mail server that can say no."""

    def __init__(self) -> None:
        super().__init__()
        #: By recipient, what it says instead of yes; a list is used up.
        self.says: dict[str, list[str]] = {}
        self.asked: list[str] = []

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        self.asked.append(address)
        if self.says.get(address):
            return self.says[address].pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"


@pytest.fixture
def post() -> Iterator[tuple[Post, MailServer]]:
    box = Post()
    server = MailServer(box, hostname="127.0.0.1", port=free_port())
    server.start()
    yield box, server
    server.stop()


def address(server: MailServer, *to: str) -> str:
    return f"smtp://127.0.0.1:{server.port}?to={','.join(to or ('clerk@court.example',))}"


def add_email(client: Client, id: str, url: str, **document: Any) -> Any:
    return add_partner(client, id, url, **{"channel": "email", "tls": "none", "retry": RETRY, **document})


def link_of(mail: Any) -> str:
    text = mail.get_body(("plain",)).get_content()
    [link] = re.findall(r"https?://\S+/ack/\S+", text)
    assert link in mail.get_body(("html",)).get_content()
    return str(link)


def visit(hub: Hub, link: str, form: Optional[str] = None) -> tuple[int, str, dict[str, str]]:
    connection = http.client.HTTPConnection(*hub.address, timeout=30)
    headers = {"content-type": "application/x-www-form-urlencoded"} if form is not None else {}
    connection.request("GET" if form is None else "POST", urlsplit(link).path, form, headers)
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    return answer.status, page, {name.lower(): value for name, value in answer.getheaders()}


def delivery(client: Client, id: str, partner: str, query: str = "") -> Any:
    found = client.get(f"/v1/events/{id}/deliveries{query}")["items"]
    return next((one for one in found if one["partner"] == partner), None)


def state(client: Client, id: str, partner: str, query: str = "") -> Any:
    found = delivery(client, id, partner, query)
    return found and found["state"]


def publish(client: Client, id: str, payload: Any = None, **more: Any) -> None:
    answer = client.ask("POST", "/v1/events", {**event(id, "RULE-COURT", payload), **more})
    assert answer.status == 202, answer


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_a_delivery_is_a_mail_and_its_link_asks_before_it_counts(
    start_hub: Callable[..., Hub], tmp_path: Path, scheme: str
) -> None:
    authority = Authority(tmp_path / "ca")
    context = authority.server()
    box = Mailbox()
    secure: dict[str, Any] = (
        {"tls_context": context, "require_starttls": True}
        if scheme == "smtp"
        else {"ssl_context": context, "auth_require_tls": False}
    )
    server = MailServer(
        box, hostname="127.0.0.1", port=free_port(), authenticator=box.check, auth_required=True, **secure
    )
    server.start()
    try:
        hub = start_hub(
            MAIL_PASSWORD="hunter2", HMS_ESS_PARTNER_CA=str(authority.path), HMS_ESS_PUBLIC_URL="https://hub.agency.example/"
        )
        client = hub.client()
        # The page's own partner, at this server.
        page = (ROOT / "docs/channels/email.md").read_text().split("```yaml\n")[1].split("```")[0]
        file = tmp_path / "clerk.yaml"
        file.write_text(page.replace("smtps://mail.agency.example:465", f"{scheme}://localhost:{server.port}"))
        said = hub.run("partner", "add", str(file))
        assert said.returncode == 0, said
        publish(client, "RULE-COURT-V3", {"county": "Cook", "days": 14, "note": "<b>§ 7</b>"})
        wait_for("the mail", lambda: box.mails)
        [mail] = box.mails
        assert box.envelopes[0].rcpt_tos == ["clerk@court.example", "deputy@court.example"]
        assert (mail["from"], mail["subject"]) == ("hub@agency.example", "RULE-COURT: RULE-COURT-V3")
        wait_for("the wait", lambda: state(client, "RULE-COURT-V3", "CLERK-EAST") == "awaiting_ack")
        found = delivery(client, "RULE-COURT-V3", "CLERK-EAST")
        assert mail["message-id"] == f"<{found['message_id']}@agency.example>"
        assert mail["x-hms-event-id"] == "RULE-COURT-V3" and mail["webhook-signature"].startswith("v1,")
        text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
        assert "county: Cook" in text and "note: <b>§ 7</b>" in text
        assert "&lt;b&gt;§ 7" in mail.get_body(("html",)).get_content()  # type: ignore[union-attr]
        [attachment] = list(mail.iter_attachments())
        assert attachment.get_filename() == "RULE-COURT-V3.v1.json"
        attached = attachment.get_content()
        envelope = json.loads(attached if isinstance(attached, (str, bytes)) else attached.as_bytes())
        assert envelope["payload"]["days"] == 14

        link = link_of(mail)
        assert link.startswith("https://hub.agency.example/ack/")
        # Scanners open links, and some more than once: nothing counts.
        for _ in range(3):
            status, page, headers = visit(hub, link)
            assert status == 200 and "I acknowledge" in page and "RULE-COURT-V3" in page
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "no-referrer"
        assert state(client, "RULE-COURT-V3", "CLERK-EAST") == "awaiting_ack"
        assert visit(hub, link, "word=maybe")[0] == 422
        status, page, _ = visit(hub, link, "word=ack")
        assert status == 200 and "Thank you" in page
        found = delivery(client, "RULE-COURT-V3", "CLERK-EAST")
        assert (found["state"], found["evidence"]) == ("ack", "callback")
        # Once: neither the same word nor another one changes anything.
        for form in ("word=ack", "word=nack&reason=late"):
            status, page, _ = visit(hub, link, form)
            assert status == 200 and "acknowledged already" in page
        assert len(client.pages("/v1/ledger")) == 1
        assert link.rsplit("/", 1)[1] not in "".join(hub.log)
        assert "hunter2" not in "".join(hub.log) + json.dumps(client.get("/v1/partners"))
    finally:
        server.stop()


def test_a_link_refuses_with_a_reason_and_one_that_was_changed_is_none(
    start_hub: Callable[..., Hub], post: tuple[Post, MailServer]
) -> None:
    box, server = post
    hub = start_hub()
    client = hub.client()
    add_email(client, "CLERK", address(server))
    publish(client, "E-1")
    wait_for("the mail", lambda: box.mails)
    link = link_of(box.mails[0])
    assert link.startswith(f"http://127.0.0.1:{hub.address[1]}/ack/")
    assert box.mails[0]["from"] == "hms-ess@localhost"
    status, page, _ = visit(hub, link[:-4] + "AAAA")
    assert status == 404 and "not valid" in page
    assert visit(hub, link[:-4] + "AAAA", "word=ack")[0] == 404
    status, page, _ = visit(hub, link, "word=nack&reason=no+such+%3Ci%3Ecourt")
    assert status == 200 and "no such &#60;i&#62;court" in page, page
    found = delivery(client, "E-1", "CLERK")
    assert (found["state"], found["reason"]) == ("nack", "no such <i>court")
    # A hub that starts again knows its links.
    assert hub.terminate() == 0
    hub = start_hub()
    status, page, _ = visit(hub, link, "word=ack")
    assert status == 200 and "refused already" in page
    assert state(hub.client(), "E-1", "CLERK") == "nack"
    for _ in range(200):
        status, _, headers = visit(hub, "http://x/ack/AAAA")
        if status == 429:
            break
    assert status == 429 and int(headers["retry-after"]) >= 1


def test_by_status_the_servers_yes_is_the_receipt_and_a_dry_run_says_so(
    start_hub: Callable[..., Hub], post: tuple[Post, MailServer]
) -> None:
    box, server = post
    hub = start_hub()
    client = hub.client()
    add_email(client, "CLERK", address(server), ack={"by": "status"}, **{"from": "hub@agency.example"})
    assert client.ask("POST", "/v1/events", {**event("E-1", "RULE-COURT"), "test": True}).status == 202
    wait_for("the ACK", lambda: state(client, "E-1", "CLERK", "?test=true") == "ack")
    [mail] = box.mails
    assert mail["subject"] == "[TEST] RULE-COURT: E-1" and mail["x-hms-test"] == "true"
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert text.startswith("This is a test.") and "/ack/" not in text
    assert [one.get_filename() for one in mail.iter_attachments()] == ["test_E-1.v1.json"]


def test_a_no_for_now_is_tried_again_and_a_no_for_good_is_not_and_all_recipients_count(
    start_hub: Callable[..., Hub], post: tuple[Post, MailServer]
) -> None:
    box, server = post
    hub = start_hub()
    client = hub.client()
    box.says = {
        "slow@court.example": ["450 4.2.0 greylisted", "550 5.7.1 Greylisting in action, come back"],
        "gone@court.example": ["550 5.1.1 no such user"],
    }
    add_email(client, "SLOW", address(server, "slow@court.example"), ack={"by": "status"})
    add_email(client, "GONE", address(server, "clerk@court.example", "gone@court.example"), ack={"by": "status"})
    publish(client, "E-1")
    wait_for("the patient one", lambda: state(client, "E-1", "SLOW") == "ack")
    wait_for("the other one", lambda: state(client, "E-1", "GONE") == "dead")
    assert box.asked.count("slow@court.example") == 3 and box.asked.count("gone@court.example") == 1
    # Nobody got a mail that not everybody got.
    assert [envelope.rcpt_tos for envelope in box.envelopes] == [["slow@court.example"]]
    found = delivery(client, "E-1", "GONE")
    assert "550" in found["reason"] and "no such user" in found["reason"]


def test_a_mail_is_the_fallback_of_a_webhook_and_its_link_acknowledges(
    start_hub: Callable[..., Hub], loop: Loop, post: tuple[Post, MailServer]
) -> None:
    box, server = post

    async def broken(_: Request) -> Optional[tuple[int, bytes]]:
        return 503, b"{}"

    sink = Sink(loop, broken)
    hub = start_hub()
    client = hub.client()
    fallback = {"channel": "email", "url": address(server), "tls": "none", "after": "1s"}
    add_partner(client, "COURT-CAL", sink.url, retry=RETRY, fallback=fallback)
    publish(client, "E-1")
    wait_for("the mail", lambda: box.mails)
    status, page, _ = visit(hub, link_of(box.mails[0]), "word=ack")
    assert status == 200 and "Thank you" in page
    wait_for("the ACK", lambda: state(client, "E-1", "COURT-CAL") == "ack")


def test_partner_test_sends_a_mail_whose_link_says_that_it_works(
    start_hub: Callable[..., Hub], post: tuple[Post, MailServer]
) -> None:
    box, server = post
    hub = start_hub()
    client = hub.client()
    add_email(client, "CLERK", address(server))
    said = hub.run("partner", "test", "CLERK")
    assert len(box.mails) == 1 and "delivered" in said.stdout + said.stderr, said
    for form in (None, "word=ack"):
        status, page, _ = visit(hub, link_of(box.mails[0]), form)
        assert status == 200 and "This link works" in page
    assert client.pages("/v1/ledger") == []


def bounce(mail: EmailMessage, action: str, status: str, said: str) -> bytes:
    """The report that a mail server sends to the sender of a mail (RFC 3464), with the mail itself."""
    report = MIMEMultipart("report", **{"report-type": "delivery-status"})
    report["From"], report["To"] = "MAILER-DAEMON@mail.court.example", str(mail["from"])
    report["Subject"] = "Undelivered Mail Returned to Sender"
    words = EmailMessage()
    words.set_content("I'm sorry to have to inform you that your message could not be delivered.")
    about, recipient = Message(), Message()
    about["Reporting-MTA"] = "dns; mail.court.example"
    recipient["Final-Recipient"], recipient["Action"] = "rfc822; clerk@court.example", action
    recipient["Status"], recipient["Diagnostic-Code"] = status, f"smtp; {said}"
    statuses = Message()
    statuses["Content-Type"] = "message/delivery-status"
    statuses.set_payload([about, recipient])
    for part in (words, statuses, MIMEMessage(mail)):
        report.attach(part)
    return report.as_bytes()


def test_a_mail_that_comes_back_later_is_a_dead_letter_with_the_servers_words(
    start_hub: Callable[..., Hub], post: tuple[Post, MailServer], tmp_path: Path
) -> None:
    box, server = post
    hub = start_hub()
    client = hub.client()
    add_email(client, "CLERK", address(server))
    for number in (1, 2):
        publish(client, f"E-{number}", subject=f"S-{number}")
    wait_for("the mails", lambda: len(box.mails) == 2)
    mails = {str(mail["x-hms-event-id"]): mail for mail in box.mails}
    file = tmp_path / "bounce.eml"

    def hand_over(text: bytes) -> Any:
        file.write_bytes(text)
        return hub.run("bounce", str(file))

    # The mail server still tries.
    said = hand_over(bounce(mails["E-1"], "delayed", "4.4.1", "connection timed out"))
    assert (said.returncode, said.stdout) == (0, "E-1 for CLERK is late; nothing was changed\n"), said
    said = hand_over(bounce(mails["E-1"], "failed", "5.1.1", "550 5.1.1 no such user"))
    why = "bounced for clerk@court.example: 5.1.1 550 5.1.1 no such user"
    assert (said.returncode, said.stdout) == (0, f"E-1 for CLERK did not arrive, and is a dead letter now: {why}\n"), said
    found = delivery(client, "E-1", "CLERK")
    assert (found["state"], found["reason"]) == ("nack", why)
    assert [one["event_id"] for one in client.pages("/v1/dead-letters")] == ["E-1"]

    # Who acknowledged has it, whatever a server says afterwards.
    assert visit(hub, link_of(mails["E-2"]), "word=ack")[0] == 200
    said = hand_over(bounce(mails["E-2"], "failed", "5.2.2", "552 mailbox full"))
    assert said.returncode == 0 and "E-2 for CLERK was acknowledged before; nothing was changed" in said.stdout, said
    assert state(client, "E-2", "CLERK") == "ack"

    # A forged one, and other mails, do nothing.
    mails["E-2"].replace_header("x-hms-ack-link", link_of(mails["E-2"])[:-6] + "AAAAAA")
    said = hand_over(bounce(mails["E-2"], "failed", "5.1.1", "550 no"))
    assert said.returncode == 1 and "hint: " in said.stderr, said
    said = hand_over(b"Subject: hello\r\n\r\nhello")
    assert said.returncode == 1 and "no delivery report" in said.stderr, said
    token = client.ask("POST", "/v1/tokens", {"role": "auditor"}).json["token"]
    answer = Client(hub.address, token).ask("POST", "/v1/bounces", {})
    assert answer.status == 403, answer
