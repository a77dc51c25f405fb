"""What lies in ops/ and docs/alerts holds: by Prometheus' own judge, by systemd's, and against a hub that runs."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import quote

import pytest
from conftest import ROOT, SECONDS_MAX, Hub, Loop, Sink, add_partner, event, wait_for
from postgres import free_port

OPS = ROOT / "ops"
RULES = OPS / "prometheus-rules.yml"
#: Partners that have series of their own, as docs/metrics.md says.
PARTNER_SERIES_MAX = 100
#: What docs/operations.md says of the unit; systemd counts from 0 (best) to 10.
EXPOSURE_MAX = 1.5


def run(*words: str | Path) -> str:
    """A judge that must be there and must agree."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=SECONDS_MAX)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def alerts() -> list[tuple[str, str]]:
    """Each alert of the rule file with its text; the file's own shape is promtool's to judge."""
    parts = RULES.read_text().split("- alert: ")[1:]
    return [(part.split("\n", 1)[0].strip(), part) for part in parts]


@pytest.fixture
def watched(binary: Path, tmp_path: Path) -> Iterator[MeasuredHub]:
    """A hub with its metrics listener on a free port."""
    hub = MeasuredHub(binary, tmp_path / "data", tmp_path / "home")
    yield hub
    hub.kill()


class MeasuredHub(Hub):
    """A hub that tells its metrics."""

    def command(self) -> list[str]:
        self.metrics_port = free_port()
        command = super().command()
        command[command.index("--metrics-listen") + 1] = f"127.0.0.1:{self.metrics_port}"
        return command

    def scrape(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=SECONDS_MAX) as answer:
            return str(answer.read().decode())


def value(text: str, series: str) -> float:
    """The value of a series; 0 when it is not there yet."""
    found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.rsplit(" ", 1)[0] == series]
    return float(found[0]) if found else 0.0


def test_prometheus_takes_the_rules_and_each_alert_fires_when_it_should() -> None:
    run("promtool", "check", "rules", RULES)
    run("promtool", "test", "rules", OPS / "prometheus-rules.test.yml")
    tried = (OPS / "prometheus-rules.test.yml").read_text()
    for name, _ in alerts():
        for case in (f"name: {name} fires\n", f"name: {name} is silent\n"):
            assert case in tried, f"{name} is not tried out: {case}"


def test_each_alert_has_its_page_and_each_page_its_alert() -> None:
    pages = {page.stem for page in (ROOT / "docs/alerts").glob("*.md")}
    assert pages == {name for name, _ in alerts()}
    parts = ["What it does to partners and publishers", "First look", "Cure", "Wake somebody?"]
    for name, rule in alerts():
        assert f"runbook: docs/alerts/{name}.md\n" in rule, f"{name} does not say where its page is"
        assert "severity: critical" in rule or "severity: warning" in rule
        page = (ROOT / f"docs/alerts/{name}.md").read_text()
        assert re.findall(r"^## (.*)$", page, re.M) == parts, f"{name}: the page lacks a part"
        severity = "critical" if "severity: critical" in rule else "warning"
        assert f"Severity: {severity}.\n" in page


def test_the_pages_name_commands_that_the_program_knows(binary: Path) -> None:
    known = run(binary, "--help")
    for page in (ROOT / "docs/alerts").glob("*.md"):
        for words in re.findall(r"hms-ess ([a-z][a-z-]*)", page.read_text()):
            assert re.search(rf"^ +{words}\b", known, re.M), f"{page.name}: hms-ess {words}"


def test_each_expression_of_the_dashboard_is_one_that_prometheus_reads(tmp_path: Path) -> None:
    dashboard = json.loads((OPS / "grafana-dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 30
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(places) == len(set(places)), "two panels lie on one another"
    rules = []
    for number, expression in enumerate(expressions):
        # What Grafana puts in.
        filled = expression.replace("$__rate_interval", "5m").replace("$instance", ".*")
        assert "$" not in filled, expression
        rules.append({"record": f"panel:{number}", "expr": filled})
    file = tmp_path / "panels.json"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    run("promtool", "check", "rules", file)


def test_the_unit_is_hardened_as_the_documentation_says() -> None:
    unit = OPS / "hms-ess.service"
    told = run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", unit)
    exposure = float(re.findall(r"Overall exposure level for hms-ess.service: ([0-9.]+)", told)[0])
    assert exposure <= EXPOSURE_MAX
    assert f"exposure of {exposure}" in (ROOT / "docs/operations.md").read_text()


def test_prometheus_scrapes_a_hub_and_knows_what_happened(
    watched: MeasuredHub, loop: Loop, tmp_path: Path
) -> None:
    partner = Sink(loop)
    client = watched.client()
    add_partner(client, "COURT-CAL", partner.url)
    assert client.ask("POST", "/v1/events", event("RULE-V1", "RULE")).status == 202
    wait_for("the ACK to be counted", lambda: value(watched.scrape(), ENDED) == 1)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "hms-ess", "static_configs": [{"targets": [f"127.0.0.1:{watched.metrics_port}"]}]}
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    port = free_port()
    with Prometheus(tmp_path, port) as prometheus:
        for query, expected in [("ess_hub_ready", 1.0), ("ess_ledger_receipt_count", 1.0), (ENDED, 1.0)]:
            wait_for(f"{query} = {expected}", lambda: prometheus.ask(query) == [expected])
        assert prometheus.ask('up{job="hms-ess"}') == [1.0]
        assert prometheus.ask('ess_delivery_ack_seconds_bucket{le="+Inf"}') == [1.0]
        # Every expression of rules and panels is answered by the real thing, and no alert is pending on a hub that is well.
        dashboard = json.loads((OPS / "grafana-dashboard.json").read_text())
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                prometheus.ask(target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*"))
        loud = [name for name, _ in alerts() if prometheus.ask(f'ALERTS{{alertname="{name}"}}')]
        # The machine that tests run on may be short of disk.
        assert not set(loud) - {"HmsEssDiskFills"}


ENDED = 'ess_delivery_ends_total{state="ack",channel="webhook"}'


class Prometheus:
    """Debian's Prometheus on a free port."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
        self.log = (folder / "prometheus.log").open("w")
        self.process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=self.log, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> Prometheus:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=SECONDS_MAX)
        self.log.close()

    def ask(self, query: str) -> list[float] | None:
        """The values of a query; nothing while Prometheus starts."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?query={quote(query)}", timeout=SECONDS_MAX) as answer:
                told: dict[str, Any] = json.loads(answer.read())
        except OSError as error:
            assert self.process.poll() is None, Path(self.log.name).read_text()
            # 400 is a query that can't be read.
            assert getattr(error, "code", 503) != 400, query
            return None
        result = told["data"]["result"]
        return [float(one["value"][1]) for one in result] if told["data"]["resultType"] == "vector" else []


def test_a_scrape_is_bounded_however_many_partners_are_in_trouble(watched: MeasuredHub) -> None:
    client = watched.client()
    count = PARTNER_SERIES_MAX + 30
    closed = f"http://127.0.0.1:{free_port()}/"
    for number in range(count):
        add_partner(client, f"P-{number:05}", closed)
    assert client.ask("POST", "/v1/events", event("RULE-V1", "RULE")).status == 202

    def is_seen() -> bool:
        return value(watched.scrape(), "ess_delivery_backlog_count") == count

    wait_for("all to be tried", is_seen)
    unlisted = "ess_partner_unlisted_count"
    wait_for("all to need attention", lambda: value(watched.scrape(), unlisted) == count - PARTNER_SERIES_MAX)
    text = watched.scrape()
    for name in ("ess_partner_backlog_count", "ess_partner_oldest_seconds"):
        assert text.count(f"\n{name}{{") == PARTNER_SERIES_MAX, name
    assert len(text) < 100_000


def test_what_is_refused_is_counted_by_its_code_and_no_caller_makes_a_series(watched: MeasuredHub) -> None:
    before = watched.scrape()
    stranger = watched.stranger()
    for number in range(3):
        assert stranger.ask("GET", f"/v1/events?after=x{number}", headers={"authorization": "Bearer no"}).status == 401
        assert watched.client().ask("GET", f"/v1/partners/NONE-{number}").status == 404
    after = watched.scrape()
    refused = 'ess_request_refusals_total{code="unauthenticated"}'
    assert value(after, refused) - value(before, refused) == 3
    series = {line.rsplit(" ", 1)[0] for line in after.splitlines() if not line.startswith("#")}
    assert series == {line.rsplit(" ", 1)[0] for line in before.splitlines() if not line.startswith("#")}
