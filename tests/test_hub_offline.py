"""A hub that cannot be reached is found out at once, not after minutes of retries per task."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

OPEN_TWO = """
from pathlib import Path
from harness.errors import UserError
from harness.registry import task
from harness.data.sources import open_source
for name in ("chartqa", "gqa"):
    try:
        open_source(task(name), None, Path())
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_no_network_costs_seconds_and_names_the_cure(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k[:3] != "HF_"}
    env = {**kept, "HF_ENDPOINT": "https://hub.invalid", "HF_HOME": str(tmp_path)}
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", OPEN_TWO], env=env, capture_output=True, text=True, timeout=100
    )
    assert time.monotonic() - start < 40
    assert "Retrying" not in done.stderr
    assert done.stdout.count("suite.sources") == 2
    assert "lmms-lab/ChartQA" in done.stdout and "lmms-lab/GQA" in done.stdout
