"""The committed study: its files are whole, and its numbers are what the program makes of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MICRO = Path(__file__).parents[1] / "results" / "micro"
FILES = ("scores.csv", "deltas.csv", "leaderboard.csv")


def forgeteval(*words: str) -> None:
    command = [sys.executable, "-m", "harness", *words]
    done = subprocess.run(command, cwd=MICRO.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_committed_figures_are_made_again_byte_for_byte(tmp_path: Path) -> None:
    again = tmp_path / "micro"
    shutil.copytree(MICRO, again, ignore=shutil.ignore_patterns("*.csv"))
    forgeteval("compare", str(again), "--json")
    assert {name: (again / name).read_bytes() == (MICRO / name).read_bytes() for name in FILES} == (
        dict.fromkeys(FILES, True)
    )


@pytest.mark.slow
def test_the_committed_study_passes_the_check_of_a_leaderboard() -> None:
    forgeteval("results", "check", str(MICRO))
