"""A sequence of skills: stages, each from the one before, and the manifest that scores them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

pytest.importorskip("torch")

from tiny_models import make_checkpoint, noise_image

from harness.cli import app
from harness.errors import CheckpointError, DataError, UserError
from harness.manifest import Suite, read_manifest
from harness.tune import sequence
from harness.tune.recipe import Recipe, RecipeError, cost_of, read_record
from harness.tune.sequence import SequencePlan, run
from harness.weights.differences import difference

pytestmark = pytest.mark.slow

SKILLS = ("colour", "count")


def rows(skill: str, count: int, seed: int) -> pa.Table:
    answers = {"colour": ("red", "blue"), "count": ("2", "3")}[skill]
    return pa.Table.from_pylist(
        [
            {
                "id": f"{skill}{seed}-{i}",
                "image": {"bytes": noise_image(seed + i, 56, 40).data, "path": f"{i}.png"},
                "question": f"Which {skill}?",
                "answer": answers[i % 2],
            }
            for i in range(count)
        ]
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Two skills with training and test rows, the manifest of a suite, and a base."""
    monkeypatch.chdir(tmp_path)
    for kind, count, seed in (("train", 8, 0), ("test", 6, 100)):
        Path(kind).mkdir()
        for skill in SKILLS:
            pq.write_table(rows(skill, count, seed), Path(kind) / f"{skill}.parquet")
    make_checkpoint(tmp_path / "base", "qwen2_5_vl")
    tasks = {
        skill: {"path": f"test/{skill}.parquet", "scorer": scorer}
        for skill, scorer in (("colour", "exact"), ("count", "number"))
    }
    suite = {"targets": list(SKILLS), "tasks": tasks}
    Path("suite.yaml").write_text(
        yaml.safe_dump({"study": "suite", "base": "base", "suite": suite, "strategies": {}})
    )
    return tmp_path


def plan(**change: object) -> SequencePlan:
    recipe = Recipe(learning_rate=1e-3, batch_size=4, max_steps=2)
    values = {
        "base": Path("base"),
        "components": ("sa_proj",),
        "skills": SKILLS,
        "data": "train/{name}.parquet",
        "out": Path("ft"),
        "recipe": recipe,
        "suite": Path("suite.yaml"),
    }
    return SequencePlan(**(values | change))


def test_a_sequence_leaves_stages_and_a_manifest_that_grows(place):
    seen = []
    manifest = run(plan(), lambda folder, record: seen.append((folder, record)))
    assert [folder for folder, _ in seen] == ["sa_proj/seed0/1_colour", "sa_proj/seed0/2_count"]
    records = [read_record(place / "ft" / folder) for folder, _ in seen]
    assert [record.trained_on for record in records] == list(SKILLS)
    cost = cost_of(records)
    assert cost.train_seconds == sum(record.train_seconds for record in records)
    assert cost.trainable_share == records[0].trainable_share
    assert cost.energy_kwh is None or cost.energy_kwh > 0
    # Each stage started from the one before it.
    assert records[0].start_fingerprint != records[1].start_fingerprint
    run(plan(components=("norms",), recipe=Recipe(max_steps=1, seed=3)), lambda *_: None)
    study = read_manifest(manifest)
    assert study.suite.targets == list(SKILLS)
    stages = [(s.key.strategy, s.key.run, s.key.stage, s.trained_on) for s, _ in study.stages()]
    assert stages == [
        ("sa_proj", "0", 1, "colour"),
        ("sa_proj", "0", 2, "count"),
        ("norms", "3", 1, "colour"),
        ("norms", "3", 2, "count"),
    ]
    assert {name: spec.component for name, spec in study.strategies.items()} == {
        "sa_proj": "sa_proj",
        "norms": "norms",
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"skills": ("colours",)}, RecipeError, "'colours' is not a target of suite.yaml"),
        ({"suite": None}, RecipeError, "'colour' is not a known task; `--suite MANIFEST`"),
        ({"data": "train/{name}.pq"}, DataError, "no file or folder 'train/colour.pq'"),
        ({"skills": ()}, RecipeError, "--sequence: names no skill; give at least one task"),
        ({"out": Path("suite.yaml")}, RecipeError, "suite.yaml is a file, expected a folder"),
        ({"out": Path("suite.yaml/ft")}, RecipeError, "suite.yaml is a file, expected a folder"),
        (
            {"components": ("sa_proj[1]", "sa_proj[-1:]")},
            RecipeError,
            "sa_proj[-1:]: would be called 'sa_proj-1', as sa_proj[1] is",
        ),
    ],
)
def test_what_is_wrong_is_said_before_training(place, change, error, message):
    with pytest.raises(error) as raised:
        run(plan(**change), lambda *_: None)
    assert message in str(raised.value)
    assert not Path("ft").exists()


def test_a_name_that_another_call_took_is_said_before_training(place):
    trained = []
    seen = lambda folder, _: trained.append(folder)  # noqa: E731
    run(plan(components=("sa_proj[1]",), skills=SKILLS[:1]), seen)
    with pytest.raises(RecipeError, match="would be called 'sa_proj-1', as"):
        run(plan(components=("norms", "sa_proj[-1:]"), skills=SKILLS[:1]), seen)
    assert trained == ["sa_proj-1/seed0/1_colour"]


def tuned(*arguments: str) -> Result:
    common = ("tune", "--base=base", "--suite=suite.yaml", "--data=train/{name}.parquet")
    return CliRunner().invoke(app, [*common, *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--learning-rate=0",), "recipe.learning_rate: got 0.0, expected more than 0, and finite"),
        (("--vision-learning-rate=-1",), "recipe.vision_learning_rate: got -1.0, expected"),
        (("--lwf=-1",), "distillation.weight: got -1.0, expected more than 0"),
        (("--lwf=0",), "leave --lwf out for none"),
        (("--epochs=inf",), "recipe.epochs: got inf, expected more than 0, and finite"),
        (("--epochs=0",), "recipe.epochs: got 0.0, expected more than 0"),
        (("--sequence= , ",), "--sequence: got ' , ', expected names of tasks; for example"),
        (("--out=suite.yaml",), "suite.yaml is a file, expected a folder or a new name"),
    ],
)
def test_options_that_mean_nothing_are_refused(place, arguments, message):
    given = ("--component=norms", "--sequence=colour", "--out=ft", *arguments)
    error = tuned(*given).exception
    assert isinstance(error, UserError) and error.code == 2
    assert message in str(error)
    assert not Path("ft").exists()


def test_the_learning_rate_reaches_the_vision_tower(place):
    common = ("--component=vision", "--sequence=colour", "--batch-size=4", "--max-steps=2")
    largest = {}
    for name, arguments in (
        ("study", ()),
        ("scaled", ("--learning-rate=1e-3",)),
        ("own", ("--vision-learning-rate=1e-3",)),
    ):
        result = tuned(*common, f"--out={name}", *arguments)
        assert result.exit_code == 0, result.output
        stage = place / name / "vision" / "seed0" / "1_colour"
        rates = read_record(stage).recipe
        largest[name] = rates["vision_learning_rate"]
        moves = [move.relative_norm for move in difference(Path("base"), stage).moves.values()]
        # Far more than what the study's 2e-6 does in two steps.
        assert (max(moves) > 1e-4) == (name != "study")
    assert largest == {"study": 2e-6, "scaled": 4e-4, "own": 1e-3}


def test_the_data_names_the_skill_where_no_sequence_does(place):
    def error(*arguments: str) -> str:
        common = ("tune", "--base=base", "--component=norms", "--out=ft", "--suite=suite.yaml")
        return str(CliRunner().invoke(app, [*common, *arguments]).exception)

    assert "--sequence: is needed with --data task:{name}" in error()
    assert "'path' is not a target of suite.yaml" in error("--data=task:path")
    assert "'train' is not a target of suite.yaml" in error("--data=x/train.parquet")


def test_a_base_may_be_a_hub_id(place, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        sequence, "base_folder", lambda spec, _: fetched.append(spec.hub) or place / "base"
    )
    assert sequence.located(Path("org/model")) == (place / "base", "org/model")
    assert sequence.located(Path("base")) == (Path("base"), None)
    assert fetched == ["org/model"]
    with pytest.raises(CheckpointError, match="no such checkpoint folder"):
        sequence.located(Path("train/bse"))
    Path("ft").mkdir()
    manifest = sequence.write_manifest(
        plan(components=(), hub="org/model"), Suite.model_construct(targets=["pathvqa"]), place
    )
    assert yaml.safe_load(manifest.read_text())["base"] == "org/model"
