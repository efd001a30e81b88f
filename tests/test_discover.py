"""Folders as training scripts leave them become strategies, runs and stages, or questions."""

from __future__ import annotations

import json
import shutil
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
        for stage in ("1_count", "3_clock", "2_path"):
            folder = model(tmp_path / "sa_proj" / f"seed{seed}" / stage)
            (folder / "training.json").write_text(json.dumps({"component": "sa_proj"}))
    model(tmp_path / "sa_proj" / "seed2" / "1_count.partial")
    result = discover(tmp_path)
    assert [(s.run, s.stage) for s in result.stages] == [
        (run, stage) for run in "01" for stage in (1, 2, 3)
    ]
    assert result.skills() == ("count", "path", "clock")
    strategy = result.strategies()["sa_proj"]
    assert strategy["component"] == "sa_proj"
    assert [run["name"] for run in strategy["runs"]] == ["0", "1"]
    assert strategy["runs"][1]["stages"][0]["path"] == str(tmp_path / "sa_proj/seed1/1_count")


def test_names_are_in_natural_order(tmp_path):
    model(tmp_path / "base")
    for run in (0, 2, 10):
        for stage in range(1, 12):
            model(tmp_path / "sa" / f"seed{run}" / f"{stage}_a")
    stages = discover(tmp_path).stages
    assert list(dict.fromkeys(s.run for s in stages)) == ["0", "2", "10"]
    assert [s.stage for s in stages[:11]] == list(range(1, 12))


@pytest.mark.parametrize("between", [False, True])
def test_a_gap_is_said_and_nothing_renumbered(tmp_path, between):
    model(tmp_path / "base")
    model(tmp_path / "sa" / "1_colour")
    model(tmp_path / "sa" / "3_count")
    if between:
        (tmp_path / "sa" / "2_path").mkdir()
    with pytest.raises(DiscoveryError) as error:
        discover(tmp_path)
    assert "sa, run 0: no stage 2 with weights before stage 3; finish, copy" in str(error.value)
    # Who knows that stage 2 is not wanted says how the names are to be read.
    stages = discover(tmp_path, pattern="{strategy}/{stage}_{trained_on}").stages
    assert [(s.stage, s.trained_on) for s in stages] == [(1, "colour"), (3, "count")]


def test_a_first_stage_that_is_missing_is_said_and_counting_from_0_is_fine(tmp_path):
    model(tmp_path / "base")
    for name in ("0_a", "1_b"):
        model(tmp_path / "mlp" / name)
    assert [s.stage for s in discover(tmp_path).stages] == [0, 1]
    model(tmp_path / "sa" / "2_b")
    with pytest.raises(DiscoveryError, match="sa, run 0: no stage 1 with weights before stage 2"):
        discover(tmp_path)


def test_what_a_trainer_saves_beside_weights_is_no_weights(tmp_path):
    model(tmp_path / "base")
    stage = tmp_path / "sa" / "1_pathvqa"
    model(stage / "checkpoint-2")
    (stage / "config.json").write_text("{}")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (stage / name).write_bytes(b"")
    assert found(tmp_path) == [("sa", "0", 1, "pathvqa", "sa/1_pathvqa/checkpoint-2")]
    # Pickled weights stay a model, so that it is said what to do with them.
    (stage / "pytorch_model.bin").write_bytes(b"")
    assert found(tmp_path) == [("sa", "0", 1, "pathvqa", "sa/1_pathvqa")]


def test_a_pattern_with_named_places(tmp_path):
    model(tmp_path / "base")
    path = model(tmp_path / "lora" / "run7" / "step2-path_vqa" / "checkpoint-5").absolute()
    result = discover(tmp_path, pattern="{strategy}/run{run}/step{stage}-{trained_on}")
    assert result.stages == (FoundStage("lora", "7", 2, "path_vqa", path),)
    with pytest.raises(DiscoveryError, match=r"needs \{stage\} and \{trained_on\}"):
        discover(tmp_path, pattern="{strategy}/{skill}")


def test_each_checkpoint_of_a_training_by_a_pattern(tmp_path):
    base = model(tmp_path.parent / "before")
    for step in (500, 1000):
        model(tmp_path / "sa" / "pathvqa" / f"checkpoint-{step}")
    model(tmp_path / "sa" / "pathvqa" / "final")  # not asked for by the pattern: a question
    with pytest.raises(DiscoveryError, match="sa/pathvqa/final: which stage of what is it"):
        discover(tmp_path, base, "{strategy}/{trained_on}/checkpoint-{stage}")
    shutil.rmtree(tmp_path / "sa" / "pathvqa" / "final")
    # Trainer's last save lies beside its checkpoints; the pattern says which are meant.
    (tmp_path / "sa" / "pathvqa" / "config.json").write_text("{}")
    (tmp_path / "sa" / "pathvqa" / "model.safetensors").write_bytes(b"")
    assert found(tmp_path, base=base, pattern="{strategy}/{trained_on}/checkpoint-{stage}") == [
        ("sa", "0", 500, "pathvqa", "sa/pathvqa/checkpoint-500"),
        ("sa", "0", 1000, "pathvqa", "sa/pathvqa/checkpoint-1000"),
    ]


def test_one_trainings_folder_is_said_to_be_one(tmp_path):
    model(tmp_path / "checkpoint-500")
    model(tmp_path / "checkpoint-1000")
    with pytest.raises(DiscoveryError) as error:
        discover(tmp_path, tmp_path)
    assert "is one training's output; give checkpoint-1000 in it, or the folder above" in str(
        error.value
    )


def test_a_last_checkpoint_without_weights_is_a_question(tmp_path):
    """The one before it is another checkpoint: never taken in silence."""
    model(tmp_path / "base")
    model(tmp_path / "sa" / "1_pathvqa" / "checkpoint-500")
    (tmp_path / "sa" / "1_pathvqa" / "checkpoint-1000").mkdir()
    with pytest.raises(DiscoveryError, match="sa/1_pathvqa/checkpoint-1000: holds no weights"):
        discover(tmp_path)


def test_stages_behind_links_are_found(tmp_path):
    model(tmp_path / "base")
    elsewhere = model(tmp_path.parent / "scratch" / "first")
    (tmp_path / "sa").mkdir()
    (tmp_path / "sa" / "1_pathvqa").symlink_to(elsewhere)
    (tmp_path / "sa" / "loop").symlink_to(tmp_path)
    with pytest.raises(DiscoveryError, match="which stage of what is it"):
        discover(tmp_path)  # through the loop the base is met again, and said
    (tmp_path / "sa" / "loop").unlink()
    assert found(tmp_path) == [("sa", "0", 1, "pathvqa", "sa/1_pathvqa")]


def test_seeds_of_the_reference_layout_are_runs(tmp_path):
    model(tmp_path / "base")
    for seed in (0, 1):
        for name in ("a", "a_then_b"):
            model(tmp_path / f"seed{seed}" / f"sa-trained_on_{name}" / "checkpoint-9")
    assert [(s.strategy, s.run, s.stage) for s in discover(tmp_path).stages] == [
        ("sa", run, stage) for run in "01" for stage in (1, 2)
    ]
    model(tmp_path / "old" / "seed1" / "sa-trained_on_a")
    with pytest.raises(DiscoveryError, match="is the same stage as"):
        discover(tmp_path)


def test_adapters_shards_and_words_before_the_number(tmp_path):
    model(tmp_path / "base")
    for name in ("lora/stage1_pathvqa", "lora/Stage-2-clock"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "x/y"}')
        (folder / "adapter_model.safetensors").write_bytes(b"")
    folder = model(tmp_path / "full" / "1_pathvqa")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "global_step9").mkdir()
    (tmp_path / "full" / "runs").mkdir()
    assert [(s.strategy, s.stage, s.trained_on) for s in discover(tmp_path).stages] == [
        ("full", 1, "pathvqa"), ("lora", 1, "pathvqa"), ("lora", 2, "clock"),
    ]  # fmt: skip
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(DiscoveryError, match="the checkpoints name x/y as their start"):
        discover(tmp_path)


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
