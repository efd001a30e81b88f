"""The promises about intervals and verdicts, by simulation (slow; `benchmarks/calibration.py`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks/calibration.py"


@pytest.mark.slow
def test_promises_are_kept():
    import sys

    spec = importlib.util.spec_from_file_location("calibration", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    repeats = 1000
    found = list(module.promises(seed=1, repeats=repeats))
    broken = [f"{p.what}: {p.value:.3f}" for p in found if not p.kept(repeats)]
    assert len(found) > 40
    assert broken == []
