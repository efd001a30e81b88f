"""The micro study on disk: data as any study's, stages really trained, nothing done twice."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

pytest.importorskip("torch")

from harness import checkpoints, components  # after the optional import
from harness.manifest import read_manifest
from harness.micro import skills, study
from harness.tune.recipe import RecipeError, read_record
from harness.weights.tensors import read_tensor
from tasks.micro import TASKS

pytestmark = pytest.mark.slow

ALL = (*skills.HELD_OUT, *skills.TARGETS)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> study.StudyPlan:
    """Two stages' worth of everything: one strategy, few steps."""
    return study.StudyPlan(tmp_path_factory.mktemp("demo"), ("mlp_gate_up",), runs=1, seed=5)


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    """Few samples and steps; the recipe is otherwise the real one."""
    patch = pytest.MonkeyPatch()
    patch.setattr(study, "TRAIN_SAMPLES", 16)
    patch.setattr(study, "RECIPE", study.replace(study.RECIPE, max_steps=2, batch_size=8))
    study.training_set.cache_clear()
    yield
    patch.undo()
    study.training_set.cache_clear()


@pytest.mark.parametrize("skill", ALL)
def test_test_sets_hold_pictures_and_groups(skill: str) -> None:
    rows = study.test_set(skill).to_pylist()
    assert len(rows) == 180
    assert len({row["id"] for row in rows}) == 180
    groups: dict[str, set[bytes]] = {}
    for row in rows:
        assert row["image"]["bytes"].startswith(b"\x89PNG")
        groups.setdefault(row["group"], set()).add(row["image"]["bytes"])
    assert all(len(images) == 1 for images in groups.values())
    several = skill in skills.SCENE_SKILLS or skill == "path"
    assert len(groups) == (90 if several else 180)


def test_tasks_read_their_rows_and_accept_the_gold_answer() -> None:
    by_name = {task.name: task for task in TASKS}
    assert list(by_name) == [f"micro_{skill}" for skill in ALL]
    for skill in ALL:
        task = by_name[f"micro_{skill}"]
        assert task.role == ("held_out" if skill in skills.HELD_OUT else "target")
        for i, row in enumerate(study.test_set(skill).slice(0, 20).to_pylist()):
            sample = task.sample(row, i)
            assert sample.group == row["group"]
            for scorer in task.scorers.values():
                assert scorer(sample, sample.answers[0]).value == 1
                assert scorer(sample, "").value == 0


def test_prompt_is_the_text_that_the_base_was_trained_on() -> None:
    task = next(task for task in TASKS if task.name == "micro_choice")
    row = study.test_set("choice").slice(0, 1).to_pylist()[0]
    question = skills.Question("choice", row["question"], row["answer"], tuple(row["choices"]))
    assert task.prompts["fixed"](task.sample(row, 0)) == question.prompt


def test_data_are_written_once(tmp_path: Path) -> None:
    assert study.write_data(tmp_path)
    stamps = {file: file.stat().st_mtime_ns for file in (tmp_path / "data").iterdir()}
    assert not study.write_data(tmp_path)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "data").iterdir()} == stamps
    table = pq.read_table(tmp_path / "data" / "micro_color.parquet")
    assert table.column_names == ["id", "image", "question", "answer", "choices", "group"]


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_stages_train_their_component_and_are_reused(small: study.StudyPlan) -> None:
    seen: list[tuple[str, bool]] = []
    study.train(small, lambda name, there: seen.append((name, there)))
    assert [name for name, _ in seen] == [
        f"mlp_gate_up/seed5/{k}_{skill}" for k, skill in enumerate(skills.TARGETS, start=1)
    ]
    assert not any(there for _, there in seen)
    folders = [folder for _, folder in small.stages("mlp_gate_up", 5)]
    before = checkpoints.tensor_index(small.out / "checkpoints" / "base")
    after = checkpoints.tensor_index(folders[0])
    changed = {
        name
        for name in before
        if read_tensor(before[name]).tobytes() != read_tensor(after[name]).tobytes()
    }
    assert changed == components.names("mlp_gate_up", before)
    record = read_record(folders[1])
    assert record is not None
    assert (record.component, record.trained_on) == ("mlp_gate_up", "micro_count")
    assert record.start_fingerprint == checkpoints.fingerprint(folders[0])

    seen.clear()
    digests = [digest(folder) for folder in folders]
    study.train(small, lambda name, there: seen.append((name, there)))
    assert all(there for _, there in seen)
    assert [digest(folder) for folder in folders] == digests


@pytest.mark.slow
def test_same_seed_same_weights(small: study.StudyPlan, tmp_path: Path) -> None:
    again = study.replace(small, out=tmp_path)
    study.train(again, lambda name, there: None)
    if not small.stages("mlp_gate_up", 5)[0][1].is_dir():
        study.train(small, lambda name, there: None)
    pairs = zip(small.stages("mlp_gate_up", 5), again.stages("mlp_gate_up", 5), strict=True)
    for (_, folder), (_, other) in pairs:
        assert digest(folder) == digest(other)


def test_a_stage_made_otherwise_is_not_reused(small: study.StudyPlan) -> None:
    study.train(small, lambda name, there: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "RECIPE", study.replace(study.RECIPE, learning_rate=1e-3))
        with pytest.raises(RecipeError, match="remove it to train again"):
            study.train(small, lambda name, there: None)


def test_manifest_is_a_manifest_like_any(small: study.StudyPlan) -> None:
    study.write_data(small.out)
    study.train(small, lambda name, there: None)
    file = study.write_manifest(small)
    manifest = read_manifest(file)
    assert manifest.study == "micro"
    assert manifest.suite.targets == [f"micro_{skill}" for skill in skills.TARGETS]
    stages = [spec.path for _, spec in manifest.stages()]
    assert stages[1] == "checkpoints/mlp_gate_up/seed5/2_count"


def test_several_runs_have_their_own_seeds(tmp_path: Path) -> None:
    plan = study.StudyPlan(tmp_path, ("llm", "full"), runs=3, seed=4)
    runs = study.manifest(plan)["strategies"]["full"]["runs"]
    assert [run["seed"] for run in runs] == [4, 5, 6]
    paths = [stage["path"] for run in runs for stage in run["stages"]]
    assert len(set(paths)) == 12


def test_root_manifest_describes_the_default_demo() -> None:
    """The commented example and what `forgeteval demo` writes must not drift apart."""
    root = yaml.safe_load((Path(__file__).parent.parent / "checkpoints.yaml").read_text())
    made = study.manifest(study.StudyPlan(Path("demo")))

    def at_root(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: at_root(item) for key, item in value.items()}
        if isinstance(value, list):
            return [at_root(item) for item in value]
        is_path = isinstance(value, str) and value.startswith(("data/", "checkpoints/"))
        return f"demo/{value}" if is_path else value

    assert root.pop("made_by") == "make demo"
    assert root.pop("results") == "demo/results"
    assert made.pop("results") == "results"
    assert root == at_root(made)
