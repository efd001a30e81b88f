"""The gate and the leaderboard on a study that was scored here, from manifest to verdict."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from replay import ReplayEngine
from test_study import place, score

import harness.cli
from harness import engines

__all__ = ["place"]  # the fixture: a manifest, its checkpoints and its data


def answer(checkpoint: Any, request: Any) -> str:
    """Strategy `a` forgets half of everything in its last stage."""
    return "3" if Path(checkpoint.path).name == "a2" and int(request.sample_id) % 2 else "red"


@pytest.fixture
def scored(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engines, "create", lambda kind, options: ReplayEngine(answer))
    score(place)
    monkeypatch.chdir(place)
    return place


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["forgeteval", *args])
    with pytest.raises(SystemExit) as done:
        harness.cli.main()
    return done.value.code if isinstance(done.value.code, int) else 0


def test_a_forgetful_stage_does_not_pass(
    scored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (scored / "gate.yaml").write_text("required: [words]\nmargin: 5\n")
    args = ["gate", "tiny", "--policy", "gate.yaml", "--json", "--candidate"]
    assert run(monkeypatch, *args, "a@later") == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    words = rows["words"]
    assert (words["delta_pp"], words["outcome"], words["lost"]) == (-50.0, "regression", 10)
    assert words["flips"][0] == {
        "sample_id": "1",
        "question": "words 1?",
        "before": "red",
        "after": "3",
        "gold": "red",
        "score_before": 1.0,
        "score_after": 0.0,
    }
    # Twenty answers that are all the same as before prove no margin of 5 points.
    assert run(monkeypatch, *args, "a@1") == 3


def test_by_manifest_and_ranked(
    scored: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["gate", "study.yaml", "--results", "results", "--candidate", "a", "--baseline", "b"]
    assert run(monkeypatch, *args, "--scorer", "lenient") == 1
    capsys.readouterr()
    assert run(monkeypatch, "leaderboard", "tiny", "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["rank"], row["strategy"]) for row in rows] == [(1, "b"), (2, "a")]
    # 50 points apart, but on ten pictures each.
    assert rows[1]["tied_with"] == 1
