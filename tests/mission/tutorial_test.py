"""docs/tutorial.md, block by block as it stands there: what it says to save is saved, what it says to run is run."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from conftest import ROOT, wait_for

PAGE = ROOT / "docs" / "tutorial.md"
#: What brings the programs themselves; the test has them.
BROUGHT = ("cargo build --release", 'export PATH="$PWD/target/release:$PATH"', "python3 -m venv", "pip install")


class Reader:
    """Somebody with three terminals in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocks = [
            (kind, text.rstrip("\n"))
            for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
        ]
        programs = folder / "programs"
        programs.mkdir()
        (programs / "hms-ess").symlink_to(os.environ.get("HMS_ESS_BIN", ROOT / "target/debug/hms-ess"))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HMS_ESS_")}
        self.environment = {
            **inherited,
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            # The page's ports may be taken where the test runs.
            "HMS_ESS_LISTEN": "127.0.0.1:0",
            "HMS_ESS_METRICS_LISTEN": "off",
            "PYTHONUNBUFFERED": "1",
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.running: list[subprocess.Popen[str]] = []

    def next(self, kind: str) -> str:
        """The next block of the page, which is of this kind."""
        found, text = self.blocks.pop(0)
        assert found == kind, f"the page goes on with {found or 'plain'}: {text}"
        return text.replace("5001", str(self.port))

    def save(self, kind: str) -> Path:
        """Saves the next block under the name in its first line."""
        text = self.next(kind)
        path = self.folder / text.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    def run(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", text], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def run_python(self, text: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout

    def leave_running(self, text: str, name: str) -> Path:
        """Runs it in a terminal of its own; what it prints is in the file."""
        log = self.folder / name
        with log.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-ec", f"exec {text}"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.running.append(process)
        return log

    def close(self) -> None:
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


def own_lines(text: str) -> str:
    """A block without the lines that bring programs."""
    return "\n".join(line for line in text.splitlines() if not line.startswith(BROUGHT))


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_tutorial_does_what_it_says(reader: Reader) -> None:
    hub = reader.leave_running(own_lines(reader.next("bash")), "hub.log")
    wait_for("the hub", lambda: "listening on https://" in hub.read_text())
    assert own_lines(reader.next("bash")) == ""
    webhook = reader.save("python")
    # "Put `apply_rule = print` above the route."
    webhook.write_text(webhook.read_text().replace("@app.post", "apply_rule = print\n\n@app.post"))
    partner = reader.leave_running(reader.next("bash"), "partner.log")
    wait_for("the partner", lambda: is_listening(reader.port))
    reader.save("yaml")
    assert "whsec_" in reader.run(reader.next("bash"))
    (reader.folder / "3-to-1.jsonata").write_text(reader.next(""))
    reader.run(reader.next("bash"))
    emit = reader.save("python").read_text()
    reader.run(reader.next("bash"))
    wait_for("the deadline", lambda: "{'deadline': '16:00:00'}" in partner.read_text())
    asked = reader.next("python")
    wait_for("the ACK", lambda: "{'COURT-CAL': 'ack'}" in reader.run_python(asked))
    assert "ack" in reader.run(reader.next("bash"))
    reader.run("hms-ess ledger verify")
    reader.run_python(f'{emit}\nhub = "https://hub.sandbox.gov"\n{reader.next("python")}')
    check_the_missed_event(reader, emit)
    check_the_signature(reader)
    looked = reader.next("bash").splitlines()
    assert [line.split()[1] for line in looked] == ["doctor", "top", "drill"]
    # Both partners are there and nobody is told of trouble yet, which is worth a warning and no failure.
    for line in looked:
        reader.run(line)
    assert list(reader.folder.glob("drill-*.html")), "the drill left no report"
    assert reader.blocks == [], "the page says more than this test does"


def check_the_missed_event(reader: Reader, emit: str) -> None:
    """A partner that was added later gets an old event."""
    reader.run_python(emit.replace("DEADLINE-V3", "DEADLINE-V2").replace("version  = 3", "version  = 1"))
    file = reader.folder / "partners" / "law-firm.yaml"
    text = (reader.folder / "partners" / "court-saas.yaml").read_text()
    file.write_text(text.replace("COURT-CAL", "LAW-FIRM-SYS").replace("court-saas", "law-firm"))
    reader.run("hms-ess partner add partners/law-firm.yaml")
    assert "goes to LAW-FIRM-SYS again" in reader.run(reader.next("bash"))
    reader.run("hms-ess status RULE-COURT-DEADLINE-V2 --wait")


def check_the_signature(reader: Reader) -> None:
    """A forged request is refused."""
    refused = f"""
from types import SimpleNamespace
import hms_ess
request = SimpleNamespace(get_data=lambda: b"{{}}", headers={{"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}})
try:
{chr(10).join("    " + line for line in reader.next("python").replace("whsec_...", "whsec_" + "A" * 32).splitlines())}
except hms_ess.BadSignature:
    print("refused")
"""
    assert "refused" in reader.run_python(refused)
