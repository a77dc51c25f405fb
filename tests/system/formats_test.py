"""The pages of docs/formats, word for word: the event and the adapter go in, the bytes of the page come out."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from conftest import ROOT, Hub, Loop, Sink, add_partner, wait_for

PAGES = sorted(page for page in (ROOT / "docs" / "formats").glob("*.md") if page.stem != "README")
#: How the lines of a page's body end on the wire.
LINE_ENDS = {"csv": "\r\n", "hl7": "\r"}


class Page(NamedTuple):
    """What a page says."""

    event: str
    adapter: str | None
    content_type: str
    body: str


def read(path: Path) -> Page:
    text = path.read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)\n```$", text, flags=re.DOTALL | re.MULTILINE)
    adapters = [block for language, block in blocks if language == "jsonata"]
    content_type = re.search(r"`content-type: (.*?)`", text)
    assert content_type is not None and len(blocks) == 2 + len(adapters), f"{path.name} has another form"
    body = blocks[-1][1]
    if (end := LINE_ENDS.get(path.stem)) is not None:
        body = "".join(line + end for line in body.split("\n"))
    return Page(blocks[0][1], adapters[0] if adapters else None, content_type.group(1), body)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.stem))
def test_the_page_is_what_goes_out(path: Path, start_hub: Callable[..., Hub], loop: Loop) -> None:
    page = read(path)
    # What a script may take is no matter here, and the machine may be busy.
    client = start_hub(HMS_ESS_SCRIPT_TIME="5s").client()
    partner = Sink(loop)
    options = {} if page.adapter is None else {"adapter": page.adapter}
    add_partner(client, "COUNTY", partner.url, format=path.stem, **options)
    answer = client.ask("POST", "/v1/events", page.event.encode())
    assert answer.status == 202, answer

    def blocked() -> list[Any]:
        # It would be waited for in vain, and says why.
        return [item for item in client.get("/v1/unacked")["items"] if item["state"] == "blocked"]

    arrival = wait_for("the delivery", lambda: partner.arrivals or blocked())[0]
    assert not isinstance(arrival, dict), arrival
    assert arrival.body.decode() == page.body
    assert arrival.headers["content-type"] == page.content_type


def test_the_binary_mode_of_cloudevents_has_its_attributes_in_the_head(
    start_hub: Callable[..., Hub], loop: Loop
) -> None:
    client = start_hub().client()
    partner = Sink(loop)
    add_partner(client, "COUNTY", partner.url, format="cloudevents-binary")
    answer = client.ask("POST", "/v1/events", {"id": "R-V3", "version": 3, "source": "é", "payload": {"a": 1}})
    assert answer.status == 202, answer
    arrival = wait_for("the delivery", lambda: partner.arrivals)[0]
    assert json.loads(arrival.body) == {"a": 1} and arrival.headers["content-type"] == "application/json"
    said = {name: value for name, value in arrival.headers.items() if name.startswith("ce-")}
    assert said.pop("ce-time")
    assert said == {
        "ce-specversion": "1.0", "ce-id": "R-V3", "ce-source": "%C3%A9", "ce-type": "hms.ess.change",
        "ce-subject": "R", "ce-hmsversion": "3", "ce-hmssequence": "1",
    }  # fmt: skip


def test_other_readers_understand_the_pages() -> None:
    pages = {path.stem: read(path) for path in PAGES}
    root = xml.etree.ElementTree.fromstring(pages["xml"].body)
    courts = root.findall("{urn:example:rules}court")
    assert [court.text for court in courts] == ["Cook County, IL", '"Old" Court']
    assert courts[1].get("fee") == "9007199254740993"
    rows = list(csv.DictReader(io.StringIO(pages["csv"].body, newline="")))
    assert [row["court"] for row in rows] == ["Cook County, IL", '"Old" Court']
    assert json.loads(pages["cloudevents"].body)["specversion"] == "1.0"
    assert {path.stem for path in PAGES} == {"json", "xml", "csv", "form", "text", "hl7", "cloudevents"}
