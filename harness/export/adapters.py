"""Adapters: what an exported task folder calls inside another program, one per task.

The folder's YAML files name functions; those functions come here. Data, prompts and scores are
made by the very code that `forgeteval score` and `forgeteval compare` use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from harness import registry
from harness.data import sources
from harness.data.sources import SourceOverride
from harness.errors import DataError
from harness.prompts import request_parts
from harness.scoring.grade import Grader
from harness.types import Profile, Sample, ScorerName, Task

# How lm-eval and lmms-eval mark the place of a picture.
MARK = "<image>"
SCORERS: tuple[ScorerName, ...] = ("strict", "lenient")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task's data lie and how much of them is used: plain values, as YAML holds them."""

    task: str
    base: str
    """Folder that local paths are relative to."""
    source: tuple[tuple[str, str], ...] = ()
    """Fields of a `SourceOverride`."""
    inline: str = ""
    """A task that a manifest declares, as JSON."""
    file: str = ""
    """The Python file that defines the task, for tasks that are not built in."""
    limit: int = 0
    seed: int = 0
    profile: Profile = "fixed"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Place:
        """From the values of a YAML file."""
        known = {name: given[name] for name in cls.__dataclass_fields__ if name in given}
        source = known.get("source") or {}
        return cls(**{**known, "source": tuple(sorted(dict(source).items()))})


class Adapter:
    """One task with its samples, opened once per process."""

    def __init__(self, place: Place):
        self.place = place
        self.task = task_of(place)

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """The samples that `forgeteval score` asks. Raises DataError."""
        override = SourceOverride(**dict(self.place.source)) if self.place.source else None
        return sources.load(
            self.task,
            override,
            limit=self.place.limit or None,
            seed=self.place.seed,
            base_dir=Path(self.place.base),
        )

    @cached_property
    def _graders(self) -> dict[str, Grader]:
        return {
            name: Grader(self.task.scorers[name], self.samples)
            for name in SCORERS
            if name in self.task.scorers
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per sample: its place among them, its id, its prompt with marks, its answer."""
        return [
            {
                "index": index,
                "id": sample.id,
                "text": marked(self.parts(sample), self.task.name, sample.id),
                "answer": sample.answers[0] if sample.answers else "",
            }
            for index, sample in enumerate(self.samples)
        ]

    def parts(self, sample: Sample) -> tuple[str | int, ...]:
        """The prompt of a sample: text pieces and image slots."""
        return request_parts(self.task.prompts[self.place.profile](sample), len(sample.images))

    def pictures(self, index: int) -> list[Any]:
        """The decoded pictures of a sample, one per slot, in the order of the slots."""
        sample = self.samples[index]
        slots = [part for part in self.parts(sample) if isinstance(part, int)]
        return [sample.images[slot].decode() for slot in slots]

    def grade(self, index: int, answer: str) -> dict[str, float]:
        """`strict` and `lenient` of an answer; a scorer that does not apply is left out."""
        name = self.samples[index].id
        scores = {key: grader.grade(name, answer).value for key, grader in self._graders.items()}
        return {key: value for key, value in scores.items() if value is not None}


@cache
def adapter(place: Place) -> Adapter:
    """The adapter of a place; the same one for all functions of a process."""
    return Adapter(place)


def task_of(place: Place) -> Task:
    """The task that a place names. Raises UserError."""
    if place.inline:
        return registry.inline_task(
            place.task, registry.InlineTask.model_validate_json(place.inline)
        )
    if place.file and place.task not in registry.names():
        registry.register_file(Path(place.file))
    return registry.task(place.task)


def marked(parts: Sequence[str | int], task: str, sample: str) -> str:
    """A prompt as one text with marks. Raises DataError when its words hold a mark themselves."""
    if any(isinstance(part, str) and MARK in part for part in parts):
        raise DataError(
            task, f"sample {sample!r} has {MARK} among its words, which other programs would take "
            "for a picture; leave it out"
        )  # fmt: skip
    return "".join(MARK if isinstance(part, int) else part for part in parts)


# --- lm-eval -----------------------------------------------------------------------------------


def lm_eval_data(split: str, given: Mapping[str, Any]) -> Any:
    """lm-eval's `custom_dataset`: split -> rows, with what finds the sample again."""
    from datasets import Dataset

    place = Place.of(given)
    return {split: Dataset.from_list([{**row, **key_of(place)} for row in adapter(place).rows()])}


def pictures(row: Mapping[str, Any]) -> list[Any]:
    """`doc_to_image` and `doc_to_visual`."""
    return _found(row).pictures(row["index"])


def grade(row: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`process_results`."""
    return _found(row).grade(row["index"], results[0])


def key_of(place: Place) -> dict[str, str]:
    """The column that finds a row's sample again."""
    values = {name: getattr(place, name) for name in place.__dataclass_fields__}
    return {"place": json.dumps({**values, "source": dict(place.source)}, sort_keys=True)}


@cache
def _place(text: str) -> Place:
    return Place.of(json.loads(text))


def _found(row: Mapping[str, Any]) -> Adapter:
    return adapter(_place(row["place"]))
