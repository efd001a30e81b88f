"""Folders as training scripts leave them become strategies, runs and stages, or questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.discover import DiscoveryError, FoundStage, discover


def model(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **config}))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def found(folder: Path, **options: object) -> list[tuple[str, str, int, str, str]]:
    return [
        (s.strategy, s.run, s.stage, s.trained_on, s.path.relative_to(folder).as_posix())
        for s in discover(folder, **options).stages
    ]


def reference_layout(root: Path) -> None:
    """`checkpoints/<experiment>_<config>-trained_on_<t1>_then_<t2>/checkpoint-<N>`."""
    for name, steps in (
        ("exp_sa-trained_on_cub200", (100, 360)),
        ("exp_sa-trained_on_cub200_then_pixmo_count", (90, 1000)),
        ("exp_full-trained_on_cub200", (360,)),
    ):
        for step in steps:
            model(root / name / f"checkpoint-{step}", _name_or_path="lmms-lab/llava")


def test_the_reference_studys_layout(tmp_path):
    reference_layout(tmp_path)
    base = model(tmp_path.parent / "the_base")
    assert found(tmp_path, base=base) == [
        ("exp_full", "0", 1, "cub200", "exp_full-trained_on_cub200/checkpoint-360"),
        ("exp_sa", "0", 1, "cub200", "exp_sa-trained_on_cub200/checkpoint-360"),
        (
            *("exp_sa", "0", 2, "pixmo_count"),
            "exp_sa-trained_on_cub200_then_pixmo_count/checkpoint-1000",
        ),
    ]


def test_a_missing_base_is_asked_for_never_guessed(tmp_path):
    reference_layout(tmp_path)
    with pytest.raises(DiscoveryError) as error:
        discover(tmp_path)
    assert "which checkpoint was tuned? give it with --base FOLDER" in str(error.value)
    assert "the checkpoints name lmms-lab/llava as their start" in str(error.value)


def test_several_orders_are_several_runs(tmp_path):
    base = model(tmp_path / "base")
    for name in ("a", "a_then_b", "b", "b_then_a"):
        model(tmp_path / f"sa-trained_on_{name}")
    stages = discover(tmp_path).stages
    assert discover(tmp_path).base == base
    assert [(s.run, s.stage, s.trained_on) for s in stages] == [
        ("a-b", 1, "a"),
        ("a-b", 2, "b"),
        ("b-a", 1, "b"),
        ("b-a", 2, "a"),
    ]


def test_the_layout_of_tune_with_its_components(tmp_path):
    model(tmp_path / "base")
    for seed in (0, 1):
        for stage in ("1_count", "10_clock", "2_path"):
            folder = model(tmp_path / "sa_proj" / f"seed{seed}" / stage)
            (folder / "training.json").write_text(json.dumps({"component": "sa_proj"}))
    model(tmp_path / "sa_proj" / "seed2" / "1_count.partial")
    result = discover(tmp_path)
    assert [(s.run, s.stage) for s in result.stages] == [
        (run, stage) for run in "01" for stage in (1, 2, 10)
    ]
    assert result.skills() == ("count", "path", "clock")
    strategy = result.strategies()["sa_proj"]
    assert strategy["component"] == "sa_proj"
    assert [run["name"] for run in strategy["runs"]] == ["0", "1"]
    assert strategy["runs"][1]["stages"][0]["path"] == str(tmp_path / "sa_proj/seed1/1_count")


def test_a_pattern_with_named_places(tmp_path):
    model(tmp_path / "base")
    path = model(tmp_path / "lora" / "run7" / "step2-path_vqa" / "checkpoint-5").absolute()
    result = discover(tmp_path, pattern="{strategy}/run{run}/step{stage}-{trained_on}")
    assert result.stages == (FoundStage("lora", "7", 2, "path_vqa", path),)
    with pytest.raises(DiscoveryError, match=r"needs \{stage\} and \{trained_on\}"):
        discover(tmp_path, pattern="{strategy}/{skill}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["odd"], "odd: which stage of what is it?"),
        (["sa-trained_on_a_then_b"], "sa, stage 1: no trained_on_a"),
        (["x/1_a", "x/1_b"], "x/1_b: is stage 1 like x/1_a"),
        (["odd"], "name it by a pattern such as '{strategy}/{stage}_{trained_on}'"),
        ([], "no checkpoints below it"),
    ],
)
def test_what_cannot_be_told_is_said(tmp_path, names, message):
    model(tmp_path / "base")
    for name in names:
        model(tmp_path / name)
    with pytest.raises(DiscoveryError) as error:
        discover(tmp_path)
    assert message in str(error.value)
