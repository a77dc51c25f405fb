"""The Debian package: built, looked into, really installed, run as its own user from its own configuration, and removed again."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Iterator

import pytest
from conftest import ROOT, SECONDS_MAX, wait_for

DATA = Path("/var/lib/hms-ess")
CONFIG = Path("/etc/hms-ess/hub.yaml")
#: Packing takes its time on a busy machine.
BUILD_SECONDS_MAX = 600


def run(*words: str | Path, seconds: float = SECONDS_MAX) -> str:
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def package(binary: Path) -> Path:
    said = run("cargo", "xtask", "package", "--binary", binary, seconds=BUILD_SECONDS_MAX)
    return Path(said.split("built ")[-1].strip())


def test_the_package_holds_what_a_machine_needs_and_nothing_of_ours(package: Path) -> None:
    listed = [line.split(None, 5) for line in run("dpkg-deb", "--contents", package).splitlines()]
    assert {owner for _, owner, *_ in listed} == {"root/root"}
    modes = {path.removeprefix("."): mode for mode, _, _, _, _, path in listed}
    assert modes["/usr/bin/hms-ess"] == "-rwxr-xr-x"
    for path in (
        "/usr/lib/systemd/system/hms-ess.service",
        "/usr/lib/sysusers.d/hms-ess.conf",
        "/etc/hms-ess/hub.yaml",
        "/usr/share/doc/hms-ess/operations.md",
        "/usr/share/doc/hms-ess/alerts/HmsEssDown.md",
        "/usr/share/doc/hms-ess/prometheus-rules.yml",
    ):
        assert modes[path] == "-rw-r--r--", path
    fields = run("dpkg-deb", "--field", package)
    assert "Package: hms-ess\n" in fields and "Depends: libc6 (>= " in fields
    assert "@" not in fields.replace("hms-ess@localhost", "")
    assert run("dpkg-deb", "--info", package, "conffiles") == "/etc/hms-ess/hub.yaml\n"


@pytest.fixture
def installed(package: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("installing a package needs root")
    if DATA.exists() or CONFIG.exists():
        pytest.skip("there is a hub on this machine already")
    try:
        run("dpkg", "--install", package)
        yield
    finally:
        subprocess.run(["dpkg", "--purge", "hms-ess"], check=False, timeout=SECONDS_MAX)
        shutil.rmtree(DATA, ignore_errors=True)
        subprocess.run(["userdel", "hms-ess"], check=False, timeout=SECONDS_MAX)


@pytest.mark.usefixtures("installed")
def test_an_installed_hub_runs_as_its_own_user_and_its_ledger_outlives_the_package() -> None:
    assert stat.S_IMODE(DATA.stat().st_mode) == 0o700 and DATA.owner() == "hms-ess"
    assert (stat.S_IMODE(CONFIG.stat().st_mode), CONFIG.group()) == (0o640, "hms-ess")
    name = f"hms-ess-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.settimeout(SECONDS_MAX)
        environment = {
            "NOTIFY_SOCKET": f"@{name}",
            "HMS_ESS_PROFILE": f"{DATA}/profile.json",
            # The ports that the configuration names may be taken where tests run.
            "HMS_ESS_LISTEN": "127.0.0.1:0",
            "HMS_ESS_METRICS_LISTEN": "127.0.0.1:0",
            "PATH": "/usr/bin:/bin",
        }
        unit = Path("/usr/lib/systemd/system/hms-ess.service").read_text()
        start = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
        as_user = ["setpriv", "--reuid=hms-ess", "--regid=hms-ess", "--clear-groups", "--no-new-privs"]
        command = [*as_user, *start.removeprefix("ExecStart=").split()]
        hub = subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.PIPE, text=True)
        try:
            assert systemd.recv(64) == b"READY=1"
            assert hub.stdout is not None and hub.stdout.readline().startswith("listening on https://127.0.0.1:")
            assert (DATA / "ess.db").owner() == "hms-ess"
            hub.terminate()
            assert systemd.recv(64) == b"STOPPING=1"
            assert hub.wait(timeout=SECONDS_MAX) == 0
        finally:
            hub.kill()
            hub.wait(timeout=SECONDS_MAX)
    run("dpkg", "--purge", "hms-ess")
    wait_for("the program to be gone", lambda: not Path("/usr/bin/hms-ess").exists())
    assert not CONFIG.exists()
    assert (DATA / "ess.db").is_file(), "the ledger outlives the package"
