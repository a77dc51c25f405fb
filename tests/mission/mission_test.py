"""The mission's chapter, verbatim: its scripts are cut out of the text and run as printed against a real hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import textwrap
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import ROOT, Partner, RunningHub, wait_for
from werkzeug.serving import make_server

from hms_ess import status

MISSION_SHA256 = "24dab48e48392cae2c63b0e9ba538e243be736b0a2e57ac28dc69ee3658fce16"

# Version 1 of the rule, as the court's calendar knows it.
BRIDGE = '{"deadline": deadline & ":00"}'


@pytest.fixture(scope="module")
def chapter() -> str:
    path = Path(os.environ.get("HMS_ESS_SHARED", ROOT.parent / "shared")) / "mission-chapter-7.md"
    if not path.is_file() and os.environ.get("CI", "") not in ("true", "1"):
        pytest.skip(f"the mission's text is not beside the clone ({path.name})")
    text = path.read_bytes()
    assert hashlib.sha256(text).hexdigest() == MISSION_SHA256, "the mission's text changed: read it, then pin it anew"
    return text.decode("utf-8")


def fence(chapter: str, heading: str, kind: str) -> str:
    """The first fenced block of that kind below the heading that begins so."""
    start = re.search(rf"^#+ +{re.escape(heading)}\b", chapter, re.MULTILINE)
    assert start, f"no heading {heading}"
    block = re.search(rf"^```{kind}\n(.*?)^```", chapter[start.end() :], re.MULTILINE | re.DOTALL)
    assert block, f"no {kind} below {heading}"
    return block[1]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


class CourtCalendar:
    """The mission's Flask app, unchanged: only its missing ``apply_rule`` is handed to it."""

    def __init__(self, script: Path) -> None:
        self.applied: list[Any] = []
        self.headers: list[dict[str, str]] = []
        spec = importlib.util.spec_from_file_location("partner_webhook", script)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        setattr(module, "apply_rule", self.applied.append)
        spec.loader.exec_module(module)
        inner: Callable[..., Any] = module.app.wsgi_app

        def listening(environ: dict[str, Any], start_response: Any) -> Any:
            sent = {k[5:].replace("_", "-").lower(): v for k, v in environ.items() if k.startswith("HTTP_")}
            self.headers.append(sent)
            return inner(environ, start_response)

        module.app.wsgi_app = listening
        self.server = make_server("127.0.0.1", 0, module.app, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}/court-calendar/update"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def court(chapter: str, tmp_path: Path) -> Any:
    calendar = CourtCalendar(write(tmp_path / "partner_webhook.py", fence(chapter, "4.2", "python")))
    yield calendar
    calendar.server.shutdown()


def add_court(hub: RunningHub, chapter: str, court: CourtCalendar) -> None:
    """Section 8: its YAML with only the url changed, its command as printed; and the bridge of section 5."""
    printed = fence(chapter, "8", "yaml")
    changed, count = re.subn(r"(?m)^url: .*$", f"url: {court.url}", printed)
    assert count == 1
    write(hub.folder / "partners" / "court-saas.yaml", changed)
    hub.shell(fence(chapter, "8", "bash"))
    write(hub.folder / "3-to-1.jsonata", BRIDGE)
    hub.shell("hms-ess bridge add 3-to-1.jsonata --subject RULE-COURT-DEADLINE --from 3 --to 1")


def add_law_firm(hub: RunningHub, partner: Partner) -> None:
    write(hub.folder / "partners" / "law-firm.yaml", f"id: LAW-FIRM-SYS\nurl: {partner.url}\nchannel: webhook\n")
    hub.shell("hms-ess partner add partners/law-firm.yaml")


def test_the_whole_chapter_runs_as_printed(
    chapter: str, hub: RunningHub, court: CourtCalendar, partner: Partner
) -> None:
    # A rule that was published before LAW-FIRM-SYS was a partner: the event that it missed.
    emit = fence(chapter, "4.1", "python")
    earlier = emit.replace("DEADLINE-V3", "DEADLINE-V2").replace("16:00", "17:00")
    hub.python(write(hub.folder / "earlier.py", earlier))
    add_court(hub, chapter, court)
    add_law_firm(hub, partner)

    # 4: LAW-FIRM-SYS takes its time; nobody waits for it.
    partner.free.clear()
    hub.python(write(hub.folder / "emit_change.py", emit))
    id = "RULE-COURT-DEADLINE-V3"
    wait_for("the court's ACK", lambda: status(id)["COURT-CAL"] == "ack")
    assert court.applied == [{"deadline": "16:00:00"}]

    # 9.2 prints what the chapter says it prints.
    recipe = fence(chapter, "9.2", "python")
    expected = recipe.split("# ➜ ")[1].strip()
    assert hub.python(write(hub.folder / "ask.py", recipe)).stdout.strip() == expected

    # 9.3: the missed event, while the newer one is still under way.
    hub.shell(fence(chapter, "9.3", "bash"))
    partner.free.set()
    wait_for("the replay's ACK", lambda: status("RULE-COURT-DEADLINE-V2").get("LAW-FIRM-SYS") == "ack")
    replayed = [each for each in partner.received if each.headers.get("x-hms-replay") == "true"]
    assert [each.event["id"] for each in replayed] == ["RULE-COURT-DEADLINE-V2"]
    assert replayed[0].event["payload"] == {"deadline": "17:00", "timezone": "local"}
    assert status(id, wait=20) == {"COURT-CAL": "ack", "LAW-FIRM-SYS": "ack"}


def test_a_dry_run_reaches_everyone_marked_and_uses_nothing_up(
    chapter: str, hub: RunningHub, court: CourtCalendar, partner: Partner
) -> None:
    add_court(hub, chapter, court)
    add_law_firm(hub, partner)
    emit = fence(chapter, "4.1", "python")
    # 9.1 speaks of the `event` and `hub` of 4.1: the same script with the recipe in place of its last line.
    recipe = fence(chapter, "9.1", "python").strip()
    head, address = re.match(r'(?s)(.*)publish\(event, hub=("[^"]+")\)', emit).groups()  # type: ignore[union-attr]
    hub.python(write(hub.folder / "dry.py", f"{head}hub = {address}\n{recipe}\n"))
    id = "RULE-COURT-DEADLINE-V3"
    assert status(id, test=True, wait=20) == {"COURT-CAL": "ack", "LAW-FIRM-SYS": "ack"}
    assert court.headers[-1]["x-hms-test"] == "true"
    assert partner.received[-1].headers["x-hms-test"] == "true"
    assert partner.received[-1].event["test"] is True
    assert partner.received[-1].headers["webhook-id"].startswith("test_")

    # The real id is still free.
    hub.python(write(hub.folder / "emit_change.py", emit))
    assert status(id, wait=20) == {"COURT-CAL": "ack", "LAW-FIRM-SYS": "ack"}
    assert "x-hms-test" not in partner.received[-1].headers


def test_the_chapters_scripts_are_as_short_as_it_says(chapter: str) -> None:
    blocks = [fence(chapter, heading, "python") for heading in ("4.1", "4.2")]
    lines = [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 20, textwrap.indent("\n".join(lines), "  ")
