"""Nothing is lost: whatever strikes a sweep, the next one does what is owed, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = (
    "kill -9", "SIGTERM", "SIGINT", "file size limit", "disk full at the n-th write",
    "read-only folder", "clock moved back", "two processes at once",
    "engine killed, started again", "engine dies again and again",
)  # fmt: skip


def strike(kills: int) -> list[dict[str, object]]:
    # A process of its own: faults fork, and a test session holds threads and much memory.
    script = Path(__file__).with_name("faults.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", str(kills)], capture_output=True, text=True
    )
    assert done.stdout, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_struck_sweep_ends_with_the_bytes_of_an_undisturbed_one():
    found = strike(4)
    assert [finding for finding in found if not finding["ok"]] == []
    assert tuple(finding["fault"] for finding in found) == FAULTS
    assert found[0]["n"] == 4


@pytest.mark.slow
def test_fifty_kills():
    (killed, *others) = strike(50)
    assert killed["ok"] and killed["n"] == 50, killed
    assert all(finding["ok"] for finding in others), others
