"""What `import` prints: of a score file its facts, of logs which folder is which stage and how
each task was read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harness.interop.logs.findings import TaskReport
from harness.interop.logs.study import ImportedLogs, Plan
from harness.interop.score_files import Imported
from harness.types import BASE

# Notes that are printed; all of them are in study.json.
SHOWN_NOTES = 20


def plan_tables(plan: Plan) -> RenderableType:
    """Which folder is taken for which stage, and which task plays which role."""
    table = Table("strategy", "run", "stage", "trained on", title="stages")
    table.add_column("folder", overflow="fold")
    table.add_column("runs", justify="right")
    table.add_column("newest")
    for stage in plan.stages:
        is_base = stage.strategy == BASE
        for log in stage.folders:
            table.add_row(
                Text(stage.strategy),
                "" if is_base else Text(stage.run),
                "0" if is_base else Text(f"{stage.stage}  {stage.name}"),
                Text(stage.trained_on or ""),
                Text(log.name),
                str(len(log.runs)),
                log.runs[0].date[:16],
            )
    tasks = Table("role", "tasks", title="tasks")
    for role in ("target", "held_out", "probe"):
        names = [task for task, its in plan.roles.items() if its == role]
        if names:
            tasks.add_row(role, Text(", ".join(names)))
    if plan.left_out:
        tasks.add_row("left out", Text(", ".join(plan.left_out)))
    return Group(table, tasks, *map(Text, _shown(plan.notes)))


def map_text(plan: Plan) -> str:
    """The plan as a map.yaml to start from."""
    return yaml.safe_dump(plan.as_map(), sort_keys=False, allow_unicode=True, width=88)


def import_tables(done: ImportedLogs) -> RenderableType:
    """How each task was read, and what grading again says of its logged scores."""
    read = Table(title=f"{done.study}: how the logs were read")
    for name in ("task", "metric", "filter", "full mark", "documents", "groups by"):
        read.add_column(name, overflow="fold")
    again = Table(title="scores of all stages, per cent")
    for name in ("task", "logged", "strict", "lenient", "strict differs", "graded again by"):
        again.add_column(name, overflow="fold")
    for task in done.tasks:
        read.add_row(
            Text(task.task), Text(_chosen(task.metric, task.other_metrics)),
            Text(_chosen(task.filter, task.other_filters)), f"{task.full_mark:g}",
            f"{task.n_documents:,}", Text(f"{task.n_groups:,} {task.grouped_by}"),
        )  # fmt: skip
        again.add_row(
            Text(task.task), percent(task.logged),
            percent(task.again.get("strict", math.nan)),
            percent(task.again.get("lenient", math.nan)),
            percent(task.differ.get("strict", math.nan)),
            Text(task.graded_by or f"not: {task.why_not}"),
        )  # fmt: skip
    notes = [Text(note, style="yellow") for note in _shown([*done.notes, *own_figures(done)])]
    return Group(read, again, *notes)


def own_figures(done: ImportedLogs) -> Iterator[str]:
    """Where the evaluator's own figure is no plain mean of its scores per document."""
    for task in done.tasks:
        own, mean = task.evaluators_own, task.base_logged
        if own == own and mean == mean and abs(own - mean) > 5e-4:
            yield (
                f"{task.task}: the base's mean is {percent(mean)}, its results file says "
                f"{percent(own)}: the evaluator does not take the plain mean"
            )


def as_json(done: ImportedLogs) -> dict[str, Any]:
    """What was imported, for programs; null = NA."""
    return {
        "study": done.study,
        "folder": str(done.folder),
        "n_rows": done.n_rows,
        "n_failed": done.n_failed,
        **plan_json(done.plan),
        "tasks": {task.task: _task_json(task) for task in done.tasks},
        "notes": [*done.notes, *own_figures(done)],
    }


def plan_json(plan: Plan) -> dict[str, Any]:
    """Stages and roles, for programs."""
    return {
        "stages": [
            {
                "strategy": stage.strategy,
                "run": stage.run,
                "stage": stage.stage,
                "name": stage.name,
                "trained_on": stage.trained_on,
                "folders": [log.name for log in stage.folders],
            }
            for stage in plan.stages
        ],
        "roles": dict(plan.roles),
        "left_out": list(plan.left_out),
    }


def _task_json(task: TaskReport) -> dict[str, Any]:
    return {
        "role": task.role,
        "metric": task.metric,
        "other_metrics": list(task.other_metrics),
        "filter": task.filter,
        "other_filters": list(task.other_filters),
        "full_mark": task.full_mark,
        "n_documents": task.n_documents,
        "n_groups": task.n_groups,
        "grouped_by": task.grouped_by,
        "evaluator": task.evaluator,
        "logged": _number(task.logged),
        "base_logged": _number(task.base_logged),
        "evaluators_own": _number(task.evaluators_own),
        "graded_by": task.graded_by or None,
        "why_not": task.why_not or None,
        "again": {name: _number(value) for name, value in task.again.items()},
        "differ": {name: _number(value) for name, value in task.differ.items()},
        "absent": list(task.absent),
    }


def scores_lines(done: Imported) -> Iterator[str]:
    """What became of a score file, as lines of rich's markup."""
    yield f"[bold]{escape(done.study)}[/]: {done.n_rows:,} rows in {escape(str(done.folder))}"
    yield f"strategies: {escape(', '.join(done.strategies) or 'only the base')}"
    for role in ("target", "held_out", "probe"):
        names = [name for name, its in done.benchmarks.items() if its == role]
        if names:
            yield f"{role}: {escape(', '.join(names))}"
    if done.n_failed:
        yield f"[yellow]{done.n_failed:,} rows have no score: counted as failed answers[/]"
    if done.ignored:
        yield f"columns left aside: {escape(', '.join(done.ignored))}"


def scores_json(done: Imported) -> dict[str, Any]:
    """What became of a score file, for programs."""
    return {
        "study": done.study,
        "folder": str(done.folder),
        "n_rows": done.n_rows,
        "n_failed": done.n_failed,
        "strategies": done.strategies,
        "benchmarks": dict(done.benchmarks),
        "scorers": done.scorers,
        "ignored_columns": done.ignored,
    }


def percent(value: float) -> str:
    """A fraction in per cent; NA where there is none."""
    return f"{100 * value:.2f}" if value == value else "NA"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _chosen(name: str, others: Sequence[str]) -> str:
    if not others:
        return name
    more = ", ".join(others[:4]) + (" ..." if len(others) > 4 else "")
    return f"{name} (others: {more})"


def _shown(notes: Sequence[str]) -> list[str]:
    more = len(notes) - SHOWN_NOTES
    return [*notes[:SHOWN_NOTES], *([f"and {more:,} more notes"] if more > 0 else [])]
