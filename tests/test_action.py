"""The GitHub action: its script on a small study, and that action.yml and script agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "action" / "gate.py"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
N = 1000


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Graded answers of a base and of a strategy for each verdict."""
    shares = {"base": 0.8, "good": 0.9, "bad": 0.6, "vague": 0.79}
    rows = pd.concat(
        pd.DataFrame(
            {
                "strategy": strategy,
                "stage": int(strategy != "base"),
                "benchmark": "docs",
                "sample_id": np.arange(N),
                "score": (np.arange(N) < share * N).astype(int),
            }
        )
        for strategy, share in shares.items()
    )
    file = tmp_path / "scores.csv"
    rows.to_csv(file, index=False)
    return file


def step(folder: Path, **inputs: str) -> tuple[int, str, dict[str, str]]:
    """Runs the action's script as the composite step does: (exit code, log, outputs)."""
    given = {name: spec.get("default", "") for name, spec in ACTION["inputs"].items()} | inputs
    env = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
    env |= {f"INPUT_{name.upper()}": value for name, value in given.items()}
    env |= {
        "OUTPUT_FOLDER": str(folder / "out"),
        "GITHUB_ACTIONS": "true",
        "GITHUB_OUTPUT": str(folder / "outputs"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], cwd=folder, env=env, capture_output=True, text=True
    )
    lines = (folder / "outputs").read_text(encoding="utf-8").splitlines()
    outputs = dict(line.split("=", 1) for line in lines)
    return done.returncode, done.stdout + done.stderr, outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidate", "code", "outcome"),
    [("good", 0, "pass"), ("bad", 1, "regression"), ("vague", 3, "inconclusive")],
)
def test_the_step_ends_with_the_verdict(
    tmp_path: Path, scores: Path, candidate: str, code: int, outcome: str
) -> None:
    got, log, outputs = step(
        tmp_path, study="mine", candidate=candidate, scores=scores.name, report="false"
    )
    assert (got, outputs["outcome"], outputs["exit-code"]) == (code, outcome, str(code)), log
    suite = ElementTree.parse(outputs["junit"]).getroot()
    assert {case.get("name") for case in suite.iter("testcase")} >= {"docs"}
    assert "docs" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    # A regression is annotated where a reviewer reads; a pass says nothing.
    assert ("::error" in log) == (code == 1 or code == 3)


@pytest.mark.slow
def test_the_report_is_written_when_the_gate_is_shut(tmp_path: Path, scores: Path) -> None:
    code, log, outputs = step(tmp_path, study="mine", candidate="bad", scores=scores.name)
    assert code == 1, log
    assert Path(outputs["report"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    code, log, outputs = step(tmp_path, study="mine")
    assert (code, outputs) == (2, {"outcome": "error", "exit-code": "2"})
    assert "::error::forgeteval: input candidate is required" in log


@pytest.mark.slow
def test_names_are_never_options_or_shell(tmp_path: Path, scores: Path) -> None:
    code, log, outputs = step(
        tmp_path, study="--help", candidate="good; touch owned", scores=scores.name, report="false"
    )
    assert (code, outputs["outcome"]) == (2, "error"), log
    assert "plain name" in log
    assert not (tmp_path / "owned").exists()


def test_every_input_reaches_the_script_through_the_environment() -> None:
    gate = next(step for step in ACTION["runs"]["steps"] if step.get("id") == "gate")
    passed = {name.removeprefix("INPUT_").lower() for name in gate["env"] if "INPUT_" in name}
    assert passed == ACTION["inputs"].keys() - {"artifact", "package", "python-version"}
    read = SCRIPT.read_text(encoding="utf-8")
    assert all(f'"{name}"' in read or f"['{name}']" in read for name in passed)


def test_no_expression_is_pasted_into_a_shell() -> None:
    for file in (ROOT / "action.yml", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))):
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        jobs = document.get("jobs", {"": document.get("runs")})
        scripts = [s.get("run", "") for job in jobs.values() for s in job.get("steps", [])]
        assert scripts
        assert not [script for script in scripts if "${{" in script], file.name


def test_outputs_are_those_the_script_writes() -> None:
    written = set(re.findall(r'"(outcome|exit-code|junit|report)"', SCRIPT.read_text("utf-8")))
    assert written >= ACTION["outputs"].keys()


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", sorted((ROOT / ".github" / "workflows").glob("*.yml"))),
        ("github-actions", [ROOT / "action.yml"]),
        ("dependabot", [ROOT / ".github" / "dependabot.yml"]),
    ],
)
def test_what_github_reads_fits_its_schema(schema: str, files: list[Path]) -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [program, "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert files and done.returncode == 0, done.stdout + done.stderr
