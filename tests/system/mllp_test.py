"""The hospital example against the receiver of PyPI's `hl7`: what the docs print is what is applied, sent and answered."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any, Callable, Optional

from certificates import Authority
from conftest import ENDINGS, ROOT, Hub, Loop, add_partner, event, wait_for
from hl7.mllp import start_hl7_server

EXAMPLE = ROOT / "examples" / "hospital"
#: Makes segments of any event.
ADAPTER = '[{"segment": "MSH", "9": ["MFN", "M02"]}, {"segment": "NTE", "1": "1", "3": id}]'


class Clinic:
    """A receiver; its answer is the code, and perhaps words, for each message."""

    def __init__(
        self, loop: Loop, answer: Callable[[Any], tuple[str, str]], port: int = 0, tls: Any = None
    ) -> None:
        self.answer = answer
        self.messages: list[Any] = []
        self.connections = 0
        self.loop = loop
        self.server = loop.run(start_hl7_server(self._talk, "127.0.0.1", port, encoding="utf-8", ssl=tls))
        self.port = self.server.sockets[0].getsockname()[1]
        self.url = f"mllp://127.0.0.1:{self.port}"

    async def _talk(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        try:
            while True:
                message = await reader.readmessage()
                self.messages.append(message)
                code, text = self.answer(message)
                ack = message.create_ack(code)
                if text:
                    ack.assign_field(text, "MSA", 1, 3)
                writer.writemessage(ack)
                await writer.drain()
        except ENDINGS:
            pass
        finally:
            writer.close()

    def ids(self) -> list[str]:
        """What came, by its note."""
        return [str(message.segment("NTE")[3]) for message in self.messages]


def accept(message: Any) -> tuple[str, str]:
    return "AA", ""


def publish(hub: Hub, id: str, subject: str = "RULE-A") -> None:
    answer = hub.client().ask("POST", "/v1/events", event(id, subject))
    assert answer.status == 202, answer


def delivery(hub: Hub, id: str, partner: str = "CLINIC") -> Optional[dict[str, Any]]:
    found = [one for one in hub.client().get(f"/v1/events/{id}/deliveries")["items"] if one["partner"] == partner]
    return found[0] if found else None


def reaches(hub: Hub, id: str, state: str) -> Callable[[], Any]:
    def ask() -> Any:
        found = delivery(hub, id)
        return found if found is not None and found["state"] == state else None

    return ask


def test_the_hospital_example_is_what_goes_out(start_hub: Callable[..., Hub], loop: Loop, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    clinic = Clinic(loop, accept, tls=authority.server(asks_for_certificate=True))
    folder = tmp_path / "hospital"
    shutil.copytree(EXAMPLE, folder)
    written = (folder / "partners" / "county-clinic.yaml").read_text()
    page = (ROOT / "docs" / "channels" / "mllp.md").read_text()
    assert written in page, "docs/channels/mllp.md shows another partner"
    certificate, key = authority.issue("hub")
    written = written.replace("hl7.clinic.example:2575", f"127.0.0.1:{clinic.port}")
    written = written.replace("/etc/hms-ess/clinic.crt", str(certificate)).replace("/etc/hms-ess/clinic.key", str(key))
    (folder / "partners" / "county-clinic.yaml").write_text(written)

    hub = start_hub(HMS_ESS_PARTNER_CA=str(authority.path))
    applied = hub.run("apply", str(folder), "--yes")
    assert applied.returncode == 0, applied.stderr
    tested = hub.run("partner", "test", "COUNTY-CLINIC")
    assert tested.returncode == 0, (tested.stdout, tested.stderr)
    published = hub.run("publish", str(folder / "event.json"))
    assert published.returncode == 0, published.stderr
    wait_for("the receipt", lambda: (delivery(hub, "RULE-LAB-COVID-V2", "COUNTY-CLINIC") or {}).get("state") == "ack")
    assert [str(message).split("\r")[0].split("|")[10] for message in clinic.messages] == ["T", "P"]

    text = str(clinic.messages[-1])
    shown = page.split("```text\n")[1].split("\n```")[0]
    fields = [line.split("|") for line in text.strip("\r").split("\r")]
    expected = [line.split("|") for line in shown.split("\n")]
    # What differs from run to run: MSH-7 and MSH-10.
    for lines in (fields, expected):
        lines[0][6] = lines[0][9] = "*"
    assert fields == expected
    assert clinic.connections == 1, "the connection is kept"


def test_a_dry_run_is_marked_in_msh_11(start_hub: Callable[..., Hub], loop: Loop) -> None:
    clinic = Clinic(loop, accept)
    hub = start_hub()
    adapter = ADAPTER.replace('"9":', '"11": "P", "9":')
    add_partner(hub.client(), "CLINIC", clinic.url, channel="mllp", adapter=adapter)
    answer = hub.client().ask("POST", "/v1/events", {**event("E-1", "RULE-A"), "test": True})
    assert answer.status == 202, answer
    wait_for("the dry run", lambda: clinic.messages)
    assert str(clinic.messages[0]).split("\r")[0].split("|")[10] == "T", str(clinic.messages[0])


def test_a_refusal_is_a_dead_letter_with_the_partners_words(start_hub: Callable[..., Hub], loop: Loop) -> None:
    clinic = Clinic(loop, lambda message: ("AE", "unknown measure"))
    hub = start_hub()
    add_partner(hub.client(), "CLINIC", clinic.url, channel="mllp", adapter=ADAPTER)
    publish(hub, "E-1")
    wait_for("the refusal", reaches(hub, "E-1", "nack"))
    assert "unknown measure" in str(delivery(hub, "E-1"))
    assert len(clinic.messages) == 1


def test_a_receiver_that_was_away_gets_everything_in_order(start_hub: Callable[..., Hub], loop: Loop) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hub = start_hub()
    url = f"mllp://127.0.0.1:{port}"
    retry = {"first": "50ms", "factor": 1, "max": "50ms", "jitter": 0}
    add_partner(hub.client(), "CLINIC", url, channel="mllp", adapter=ADAPTER, retry=retry)
    ids = [f"E-{number}" for number in range(20)]
    for id in ids:
        publish(hub, id)
    wait_for("a failed attempt", lambda: "connection refused" in str(delivery(hub, "E-0")))
    clinic = Clinic(loop, accept, port=port)
    wait_for("the last receipt", reaches(hub, ids[-1], "ack"))
    assert clinic.ids() == ids


def test_other_formats_do_not_travel_by_mllp(start_hub: Callable[..., Hub]) -> None:
    hub = start_hub()
    document = {"id": "CLINIC", "channel": "mllp", "url": "mllp://127.0.0.1:1", "format": "json"}
    answer = hub.client().ask("POST", "/v1/partners", document)
    assert answer.status in (400, 422) and answer.json["field"] == "format", answer
    assert "hl7" in answer.json["hint"]


