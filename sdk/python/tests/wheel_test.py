"""The wheel is what the mission promises: about 25 KB, pure, typed, with nothing to install besides."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

WHEEL_BYTES_MAX = 25 * 1024
ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_is_small_pure_and_typed(tmp_path: Path) -> None:
    # The builder is a program beside this Python, found by PATH.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(ROOT)], check=True, env={**os.environ, "PATH": path})
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.name == "hms_ess-0.1.0-py3-none-any.whl"
    assert wheel.stat().st_size <= WHEEL_BYTES_MAX
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read("hms_ess-0.1.0.dist-info/METADATA").decode()
    assert "hms_ess/py.typed" in names
    assert not [name for name in names if name.startswith("tests/")]
    assert "Requires-Dist" not in metadata
