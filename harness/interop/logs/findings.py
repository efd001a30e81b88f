"""What an import found: how each task was read, what grading again says, what to watch for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.interop.logs.names import NamedStage
from harness.interop.logs.pairing import PairedTask, Reader
from harness.interop.logs.regrade import Regraded
from harness.interop.logs.results import BrokenLogError


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What became of one task."""

    task: str
    role: str
    metric: str
    filter: str
    full_mark: float
    other_metrics: tuple[str, ...]
    other_filters: tuple[str, ...]
    n_documents: int
    n_groups: int
    grouped_by: str
    evaluator: str
    logged: float
    """Mean of the logged scores over all stages' answers; NaN where there is none."""
    evaluators_own: float
    """The base's figure in its results file, divided by the full mark; NaN: not comparable."""
    base_logged: float
    """The base's mean of logged scores."""
    graded_by: str
    """Our task; "" = not graded again."""
    why_not: str
    again: Mapping[str, float]
    """scorer -> mean over the same answers, where our scorer has a score."""
    differ: Mapping[str, float]
    """scorer -> share of answers whose score is another than the logged one."""
    absent: tuple[str, ...]
    """Stages that lack the task."""


def report(role: str, paired: PairedTask, graded: Regraded) -> TaskReport:
    logged = np.array([log.answers.scores for log in paired.logs()], float)
    again = {name: np.array(columns, float) for name, columns in graded.scores.items()}
    measure = paired.measure
    return TaskReport(
        task=paired.task,
        role=role,
        metric=measure.name,
        filter=measure.filter,
        full_mark=measure.scale,
        other_metrics=measure.other_metrics,
        other_filters=measure.other_filters,
        n_documents=logged.shape[1],
        n_groups=_count_groups(graded.groups),
        grouped_by=graded.grouped_by,
        evaluator=paired.base.evaluator,
        logged=_mean(logged),
        evaluators_own=measure.aggregate(paired.base.results),
        base_logged=_mean(logged[0]),
        graded_by=graded.task,
        why_not=graded.why_not,
        again={str(name): _mean(values) for name, values in again.items()},
        differ={
            str(name): _mean(
                np.where(np.isnan(values) | np.isnan(logged), np.nan, abs(values - logged) > 1e-9)
            )
            for name, values in again.items()
        },
        absent=tuple(stage.label for stage in paired.absent),
    )


def _mean(values: Any) -> float:
    known = ~np.isnan(values)
    return float(values[known].mean()) if known.any() else math.nan


def _count_groups(groups: Sequence[str]) -> int:
    named = {group for group in groups if group}
    return len(named) + sum(not group for group in groups)


def remarks(paired: PairedTask) -> list[str]:
    """What a reader must know of one task."""
    task, measure, notes = paired.task, paired.measure, []
    if paired.absent:
        labels = ", ".join(stage.label for stage in paired.absent)
        notes.append(f"{task}: no log of {labels}: missing, not zero")
    if all(prompt is None for prompt in paired.base.answers.prompts):
        notes.append(f"{task}: the logs do not say what was asked: prompts could not be compared")
    highest = max((s for log in paired.logs() for s in log.answers.scores if s == s), default=0.0)
    if measure.scale > 1 and highest * measure.scale <= 1:
        notes.append(
            f"{task}: the full mark is {measure.scale:g}, but no document has more than "
            f"{highest * measure.scale:g}: is it the mark of a document, not of the sum?"
        )
    return notes


def origin(reports: Sequence[TaskReport]) -> str:
    evaluators = ", ".join(dict.fromkeys(report.evaluator for report in reports))
    return f"imported from logs of {evaluators}; scores as logged"


def unsampled(reader: Reader, stages: Sequence[NamedStage]) -> Iterator[str]:
    """Results of tasks without a sample file: they cannot be paired."""
    for stage in stages:
        have = {task for log in stage.folders for task in log.tasks()}
        lacking: dict[str, None] = {}
        for log in stage.folders:
            for run in log.runs:
                try:
                    tasks = reader.results(run, log).tasks
                except BrokenLogError:
                    continue
                lacking |= dict.fromkeys(
                    task for task, facts in tasks.items()
                    if facts.n_documents is not None and task not in have
                )  # fmt: skip
        if lacking:
            names = ", ".join(lacking)
            yield f"{stage.label}: results without samples, left out: {names}"
