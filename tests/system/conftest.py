"""The program under test, and a folder, partners and hubs that end with their test."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable, Iterator

import pytest

from harness import Hub, Partners

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def binary() -> Path:
    """Built by ``cargo xtask test``, or named by HMS_ESS_BIN."""
    named = os.environ.get("HMS_ESS_BIN")
    found = named or shutil.which("hms-ess") or str(ROOT / "target" / "debug" / "hms-ess")
    assert Path(found).is_file(), "no hms-ess to test: run `cargo build -p hms-ess`, or set HMS_ESS_BIN"
    return Path(found).resolve()


@pytest.fixture
def make_hub(binary: Path, tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Makes hubs; those that still run are stopped in order, which is a check of its own."""
    made: list[Hub] = []

    def make(**settings: str) -> Hub:
        folder = tmp_path / f"hub-{len(made)}"
        folder.mkdir()
        data = Path(settings.pop("data")) if "data" in settings else None
        made.append(Hub(binary, folder, data, **settings))
        return made[-1]

    yield make
    for hub in made:
        hub.stop()


@pytest.fixture
def partners() -> Iterator[Partners]:
    listening = Partners()
    yield listening
    listening.stop()
