"""The micro study on disk: test sets, stages trained one after another, and the manifest.

    demo/
      data/micro_<skill>.parquet        test sets, pictures inside
      checkpoints/base/                 the shipped base
      checkpoints/<strategy>/seed<n>/<k>_<skill>/
      checkpoints.yaml                  a manifest like anyone's

Everything is made from a `StudyPlan`. What is already there and was made from the same things
(start weights, component, recipe, samples: `harness.tune` records them) is kept; a stage that was
interrupted is trained anew.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from torch import Tensor
from transformers import AutoProcessor

from harness.micro import skills
from harness.micro.packing import Packer
from harness.tune.recipe import Recipe
from harness.tune.train import tune_stage

STRATEGIES = ("llm", "sa_proj", "mlp", "mlp_gate_up")
BASE_FOLDER = Path(__file__).parent / "base"
TEST_PICTURES = 180
TRAIN_SAMPLES = 3000
RECIPE = Recipe(
    learning_rate=3e-3,
    vision_learning_rate=None,
    max_steps=120,
    batch_size=32,
    dtype="float32",
)

Report = Callable[[str, bool], None]
"""Called after each stage with its name (`llm/seed0/2_count`) and whether it was there already."""


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What the demo is asked for."""

    out: Path
    strategies: tuple[str, ...] = STRATEGIES
    runs: int = 1
    seed: int = 0

    @property
    def seeds(self) -> range:
        """One training seed per run."""
        return range(self.seed, self.seed + self.runs)

    def stages(self, strategy: str, seed: int) -> list[tuple[str, Path]]:
        """(skill, folder) of every stage of one run, in order."""
        run = self.out / "checkpoints" / strategy / f"seed{seed}"
        return [(skill, run / f"{k}_{skill}") for k, skill in enumerate(skills.TARGETS, start=1)]


def write_data(out: Path) -> bool:
    """Write the test sets to `out`/data; False if they all were there already."""
    changed = False
    for skill in (*skills.HELD_OUT, *skills.TARGETS):
        sink = io.BytesIO()
        pq.write_table(test_set(skill), sink)
        changed |= write_if_new(out / "data" / f"micro_{skill}.parquet", sink.getvalue())
    return changed


def test_set(skill: str) -> pa.Table:
    """The test samples of a skill; questions on one picture share its `group`.

    Columns id, image {bytes, path}, question, answer, choices, group.
    """
    rng = np.random.default_rng([11, [*skills.HELD_OUT, *skills.TARGETS].index(skill)])
    rows: list[dict[str, Any]] = []
    k = 0
    while len(rows) < TEST_PICTURES:
        picture = skills.ask(skill, rng, "test", "field")
        image = {"bytes": png(picture), "path": f"{skill}_{k:03d}.png"}
        for q, question in enumerate(picture.questions):
            rows.append(
                {
                    "id": f"{skill}_{k:03d}_{q}",
                    "image": image,
                    "question": question.text,
                    "answer": question.answer,
                    "choices": list(question.choices),
                    "group": f"{skill}_{k:03d}",
                }
            )
        k += 1
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string()) for name in ("question", "answer")]
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("image", image_type),
            *texts,
            ("choices", pa.list_(pa.string())),
            ("group", pa.string()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def png(picture: skills.Picture) -> bytes:
    """The picture as a PNG file."""
    sink = io.BytesIO()
    picture.image.save(sink, format="PNG")
    return sink.getvalue()


@lru_cache(maxsize=len(skills.TARGETS))  # one seed: as many as all strategies share
def training_set(skill: str, seed: int) -> tuple[dict[str, Tensor], ...]:
    """Training samples of one stage as ready tensors; another seed gives other pictures."""
    rng = np.random.default_rng([seed, 13, skills.TARGETS.index(skill)])
    drawn = []
    for _ in range(TRAIN_SAMPLES):
        picture = skills.ask(skill, rng, "train", "field")
        question = picture.questions[int(rng.integers(len(picture.questions)))]
        drawn.append(skills.Picture(picture.image, (question,)))
    return tuple(Packer(AutoProcessor.from_pretrained(BASE_FOLDER)).samples(drawn))


def train(plan: StudyPlan, report: Report) -> None:
    """Train every stage of the plan that is not there yet, each from the stage before it.

    Raises RecipeError where a folder holds a stage that was made from other things.
    """
    # For a model this small a second thread costs more than it gives, most of all where the
    # machine is shared; and one thread gives the same weights everywhere.
    torch.set_num_threads(1)
    base = plan.out / "checkpoints" / "base"
    for file in sorted(BASE_FOLDER.iterdir()):
        write_if_new(base / file.name, file.read_bytes())
    for seed in plan.seeds:
        for strategy in plan.strategies:
            start = base
            for skill, folder in plan.stages(strategy, seed):
                there = folder.is_dir()
                tune_stage(
                    start,
                    strategy,
                    training_set(skill, seed),
                    folder,
                    replace(RECIPE, seed=seed),
                    trained_on=f"micro_{skill}",
                )
                report(str(folder.relative_to(plan.out / "checkpoints")), there)
                start = folder


def manifest(plan: StudyPlan) -> dict[str, Any]:
    """The study as a manifest, paths relative to the folder it is written to."""

    def run(strategy: str, seed: int) -> dict[str, Any]:
        stages = [
            {
                "name": skill,
                "trained_on": f"micro_{skill}",
                "path": folder.relative_to(plan.out).as_posix(),
            }
            for skill, folder in plan.stages(strategy, seed)
        ]
        return {"seed": seed, "stages": stages}

    names = [f"micro_{skill}" for skill in (*skills.TARGETS, *skills.HELD_OUT)]
    return {
        "study": "micro",
        "base": "checkpoints/base",
        "results": "results",
        "engine": {"kind": "hf", "dtype": "float32", "threads": 1},
        "suite": {
            "targets": [f"micro_{skill}" for skill in skills.TARGETS],
            "held_out": [f"micro_{skill}" for skill in skills.HELD_OUT],
            "sources": {name: {"path": f"data/{name}.parquet"} for name in names},
        },
        "strategies": {
            strategy: {"component": strategy, "runs": [run(strategy, s) for s in plan.seeds]}
            for strategy in plan.strategies
        },
    }


def write_manifest(plan: StudyPlan) -> Path:
    """Write `checkpoints.yaml` into the plan's folder and return its path."""
    file = plan.out / "checkpoints.yaml"
    head = "# Written by `forgeteval demo`; its options decide what stands here.\n"
    text = yaml.safe_dump(manifest(plan), sort_keys=False, width=100)
    write_if_new(file, (head + text).encode())
    return file


def write_if_new(file: Path, data: bytes) -> bool:
    """Write `data` unless the file holds it already (its time stamp then stays)."""
    if file.is_file() and file.read_bytes() == data:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_bytes(data)
    part.replace(file)
    return True
