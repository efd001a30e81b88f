"""`forgeteval demo` and `forgeteval micro build-base` as a user meets them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.cli.demo import _strategies
from harness.errors import UserError

RUN = CliRunner()


def test_strategies_are_components_each_once() -> None:
    assert _strategies(" llm, mlp_gate_up,llm ") == ("llm", "mlp_gate_up")
    with pytest.raises(UserError, match=r"--strategies: got nothing, expected for example llm"):
        _strategies(" , ")
    with pytest.raises(UserError, match="did you mean 'mlp_gate_up'"):
        _strategies("llm,mlp_gateup")


@pytest.mark.parametrize("command", [["demo"], ["micro", "build-base"]])
def test_help_has_examples(command: list[str]) -> None:
    shown = RUN.invoke(app, [*command, "--help"]).output
    assert f"forgeteval {' '.join(command)}" in shown


def test_build_base_writes_a_model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from harness.micro import pretrain

    tiny = partial(pretrain.PretrainRecipe, cycles=(pretrain.Cycle(1, 1e-3),), scenes=1, singles=1)
    monkeypatch.setattr(pretrain, "PretrainRecipe", tiny)
    monkeypatch.setattr(pretrain, "accuracy", partial(pretrain.accuracy, n_pictures=2))
    done = RUN.invoke(app, ["micro", "build-base", "--out", str(tmp_path / "base")])
    assert done.exit_code == 0, done.output
    assert "right answers on fresh pictures" in " ".join(done.output.split())
    from harness.micro.study import BASE_FOLDER

    shipped = {file.name for file in BASE_FOLDER.iterdir()} - {"README.md"}
    assert {file.name for file in (tmp_path / "base").iterdir()} == shipped


@pytest.mark.slow
def test_demo_trains_scores_compares_and_reuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole road with a short recipe: what is learned in 12 steps does not matter here."""
    pytest.importorskip("torch")
    from harness.micro import study

    monkeypatch.setattr(study, "TRAIN_SAMPLES", 96)
    monkeypatch.setattr(study, "RECIPE", replace(study.RECIPE, max_steps=12, batch_size=8))
    study.training_set.cache_clear()
    command = ["demo", "--out", str(tmp_path), "--strategies", "llm,mlp_gate_up"]
    first = RUN.invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "8 trained" in first.output and "0 reused" in first.output
    folder = tmp_path / "results" / "micro"
    tables = {name: (folder / f"{name}.csv").read_bytes() for name in ("scores", "deltas")}
    board = pd.read_csv(folder / "leaderboard.csv")
    assert sorted(board["strategy"]) == ["llm", "mlp_gate_up"]
    assert list(board["n_missing"]) == [0, 0]

    again = RUN.invoke(app, command)
    assert again.exit_code == 0, again.output
    assert "none trained, 8 reused" in again.output
    assert "already in" in again.output
    assert {name: (folder / f"{name}.csv").read_bytes() for name in tables} == tables
    study.training_set.cache_clear()
