"""`forgeteval gate` and `import` as a CI job runs them: exit codes, files, environment."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

import harness.cli

Command = Callable[..., tuple[int, str, str]]
N = 1000


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `forgeteval ...` in a clean folder; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "FORGETEVAL_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["forgeteval", *args])
        with pytest.raises(SystemExit) as done:
            harness.cli.main()
        out, err = capsys.readouterr()
        code = done.value.code
        assert code is None or isinstance(code, int)
        return code or 0, out, err

    return run


def score_rows(shares: dict[str, float], benchmark: str = "docs") -> pd.DataFrame:
    """One benchmark whose base is right in 80 % and whose strategies are right as often as said."""
    parts = [
        {
            "strategy": strategy,
            "stage": int(strategy != "base"),
            "benchmark": benchmark,
            "sample_id": np.arange(N),
            "score": (np.arange(N) < share * N).astype(int),
            "question": "how many?",
            "response": f"{strategy} says\n::error::no",
            "gold": "3",
        }
        for strategy, share in {"base": 0.8, **shares}.items()
    ]
    return pd.concat([pd.DataFrame(part) for part in parts])


@pytest.fixture
def mine(command: Command, tmp_path: Path) -> Command:
    """A study with a strategy for every verdict."""
    rows = score_rows({"good": 0.9, "bad": 0.6, "vague": 0.79})
    rows.to_csv(tmp_path / "scores.csv", index=False)
    code, out, _ = command("import", "scores.csv", "--study", "mine")
    assert (code, "4,000 rows in results/mine" in out) == (0, True)
    return command


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--candidate", "good"], 0),
        (["--candidate", "bad"], 1),
        (["--candidate", "nobody"], 2),
        (["--candidate", "good", "--margin", "-1"], 2),
        (["--candidate", "good", "--inconclusive", "perhaps"], 2),
        (["--candidate", "good", "--level", "2"], 2),
        (["--candidate", "good", "--policy", "absent.yaml"], 2),
        (["--candidate", "good", "--scorer", "logged", "--no-such-option"], 2),
        (["--candidate", "vague"], 3),
        (["--candidate", "vague", "--inconclusive", "warn"], 0),
        (["--candidate", "vague", "--inconclusive", "pass"], 0),
        (["--candidate", "vague", "--baseline", "bad@1"], 0),
        (["--candidate", "bad", "--baseline", "vague", "--margin", "30"], 0),
        (["--candidate", "bad", "--margin", "30", "--strict"], 1),
    ],
)
def test_exit_codes(mine: Command, args: list[str], code: int) -> None:
    found, _, err = mine("gate", "mine", *args)
    assert found == code
    assert "Traceback" not in err


def test_an_unknown_study_is_a_usage_error(command: Command) -> None:
    code, _, err = command("gate", "mine", "--candidate", "x")
    assert code == 2
    assert "no study 'mine'" in " ".join(err.split())


def test_other_samples_are_incompatible(command: Command, tmp_path: Path) -> None:
    rows = score_rows({"good": 0.9})
    rows[: N + N // 2].to_csv(tmp_path / "scores.csv", index=False)
    assert command("import", "scores.csv", "--study", "mine")[0] == 0
    code, _, err = command("gate", "mine", "--candidate", "good")
    assert code == 4
    assert "500 of 1000 samples" in " ".join(err.split())


def test_an_error_of_ours_is_code_5(mine: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("not the user's fault")

    monkeypatch.setattr("harness.gate.judge_gate", broken)
    code, out, err = mine("gate", "mine", "--candidate", "good")
    assert (code, out) == (5, "")
    assert "internal error" in err
    assert "Traceback" not in err


def test_required_benchmarks_and_learning_from_a_policy(mine: Command, tmp_path: Path) -> None:
    (tmp_path / "gate.yaml").write_text("required: [chart]\nminimum_learning: {docs: 5}\n")
    code, out, _ = mine("gate", "mine", "--candidate", "good", "--policy", "gate.yaml")
    assert code == 3
    assert "chart: missing: the study has no such benchmark" in out
    assert "docs learned: +10.00 pp" in out


def test_json_is_all_there_is_on_stdout(mine: Command) -> None:
    code, out, _ = mine("gate", "mine", "--candidate", "bad", "--json")
    result = json.loads(out)
    assert (code, result["exit_code"], result["headline"]) == (1, 1, "FAIL (1 regressed of 1)")
    row = result["rows"][0]
    assert (row["delta_pp"], row["outcome"], row["lost"]) == (-20.0, "regression", 200)
    assert row["flips"][0]["gold"] == "3"
    assert len(row["flips"]) == 3


def test_files_for_ci(mine: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "step.md"))
    (tmp_path / "step.md").write_text("earlier step\n")
    args = ["--junit", "out/gate.xml", "--summary", "gate.md"]
    code, out, _ = mine("gate", "mine", "--candidate", "bad", *args)
    assert code == 1
    suite = ElementTree.parse(tmp_path / "out" / "gate.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    summary = (tmp_path / "gate.md").read_text()
    assert "## forgeteval gate: FAIL (1 regressed of 1)" in summary
    assert (tmp_path / "step.md").read_text() == "earlier step\n" + summary
    commands = [line for line in out.splitlines() if line.lstrip().startswith("::")]
    assert len(commands) == 1
    assert commands[0].startswith("::error title=docs%3A regressed::mine, bad@1: docs: -20.00 pp")


def test_the_jobs_own_summary_is_appended_to_even_if_named(
    mine: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = tmp_path / "step.md"
    step.write_text("earlier step\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    mine("gate", "mine", "--candidate", "bad", "--summary", "step.md")
    assert step.read_text().startswith("earlier step\n## forgeteval gate: FAIL")
    assert step.read_text().count("## forgeteval gate") == 1


def test_annotations_do_not_disturb_json(mine: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    _, out, err = mine("gate", "mine", "--candidate", "bad", "--json")
    json.loads(out)
    assert err.startswith("::error ")


def test_a_file_that_cannot_be_written_is_a_usage_error(mine: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = mine("gate", "mine", "--candidate", "good", "--junit", "file/gate.xml")
    assert code == 2
    assert "cannot be written" in " ".join(err.split())


def test_import_says_what_is_wrong(command: Command, tmp_path: Path) -> None:
    score_rows({"good": 80}).assign(score=80).to_csv(tmp_path / "scores.csv", index=False)
    code, _, err = command("import", "scores.csv", "--study", "mine")
    assert code == 2
    assert "divide the column by 100" in " ".join(err.split())
    assert not (tmp_path / "results").exists()


def test_import_as_json(command: Command, tmp_path: Path) -> None:
    score_rows({"good": 0.9}).to_parquet(tmp_path / "scores.parquet")
    code, out, _ = command("import", "scores.parquet", "--study", "mine", "--json")
    facts = json.loads(out)
    assert (code, facts["n_rows"], facts["benchmarks"]) == (0, 2000, {"docs": "held_out"})


@pytest.mark.slow
def test_gate_of_100_000_rows_ends_within_five_seconds(command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = [
        score_rows({"a": rng.random(), "b": 0.5, "c": 0.4}, f"bench{i}").assign(
            group=np.tile(np.arange(N) // 4, 4)
        )
        for i in range(25)
    ]
    pd.concat(parts).to_parquet(tmp_path / "scores.parquet")
    assert command("import", "scores.parquet", "--study", "big")[0] == 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    args = ["gate", "big", "--candidate", "a", "--junit", "gate.xml", "--summary", "gate.md"]
    done = subprocess.run(
        [sys.executable, "-m", "harness", *args], cwd=tmp_path, capture_output=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1, done.stderr
    # Processor seconds of the whole process, imports included: they do not depend on what else
    # the machine does, and one process cannot be faster than they are.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15
