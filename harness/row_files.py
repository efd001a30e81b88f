"""A row file: JSON lines about samples of one task, made anywhere, graded or given prompts here.

A row is an object with the sample's native columns under `sample` or `doc` (images may be left
out) and, to be graded, a `response`. Rows come out in the order they went in, with what was found
out added; other keys are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.errors import DataError, Problem, UserError, did_you_mean
from harness.prompts import as_text
from harness.types import Profile, Sample, ScorerName, Task

SHOWN_PROBLEMS = 10
SAMPLE_KEYS = ("sample", "doc")

Row = dict[str, Any]


def read(name: str, lines: Iterable[str]) -> list[tuple[int, Row]]:
    """(line number, row) of every line that is not blank. Raises DataError with all bad lines."""
    rows: list[tuple[int, Row]] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(Problem(f"line {number}", f"not JSON ({error})"))
            continue
        if not isinstance(row, dict):
            found = type(row).__name__
            problems.append(Problem(f"line {number}", f"got {found}, expected an object"))
            continue
        rows.append((number, row))
    _refuse(name, problems)
    return rows


def grade(name: str, rows: list[tuple[int, Row]], task: Task, scorer: ScorerName) -> Iterator[Row]:
    """The rows with `score` (the headline metric), `scores` (every metric) and `parsed`.

    null stands where the scorer does not apply, and for a response that is null (no answer was
    given: a failure, not a wrong answer). Raises DataError with all rows that cannot be graded.
    """
    if scorer not in task.scorers:
        known = ", ".join(task.scorers)
        raise UserError(task.name, f"has no scorer {scorer!r}; it has {known}")
    samples, problems = _samples(rows, task)
    for number, row in rows:
        if "response" not in row:
            hint = did_you_mean("response", list(row)) or f"; found {', '.join(row)}"
            problems.append(Problem(f"line {number}", f"no key 'response'{hint}"))
        elif not isinstance(row["response"], str | None):
            found = type(row["response"]).__name__
            problems.append(Problem(f"line {number}", f"response is {found}, expected text"))
    _refuse(name, problems)
    judge = task.scorers[scorer]
    for sample, (_, row) in zip(samples, rows, strict=True):
        if row["response"] is None:
            yield {**row, "score": None, "scores": {}, "parsed": None}
            continue
        score = judge(sample, row["response"])
        scores = {key: _finite(value) for key, value in score.metrics.items()}
        yield {**row, "score": score.value, "scores": scores, "parsed": _plain(score.parsed)}


def prompts(name: str, rows: list[tuple[int, Row]], task: Task, profile: Profile) -> Iterator[Row]:
    """The rows with `prompt`: the text around the images, places of images as the sample marks
    them. Raises DataError with all rows that have no prompt."""
    if profile not in task.prompts:
        known = ", ".join(task.prompts)
        raise UserError(task.name, f"has no prompt profile {profile!r}; it has {known}")
    samples, problems = _samples(rows, task)
    _refuse(name, problems)
    for sample, (_, row) in zip(samples, rows, strict=True):
        yield {**row, "prompt": as_text(task.prompts[profile](sample), sample)}


def as_line(row: Row) -> str:
    """A row as one line of ASCII JSON (text with broken characters survives any terminal)."""
    return json.dumps(row, default=str) + "\n"


def _samples(rows: list[tuple[int, Row]], task: Task) -> tuple[list[Sample], list[Problem]]:
    pictures = dict.fromkeys(
        name
        for column in task.source.columns
        for name in column.split("|")
        if name.startswith("image") and name in ("image", "images", "image_1")
    )
    samples: list[Sample] = []
    problems: list[Problem] = []
    for index, (number, row) in enumerate(rows):
        columns = next((row[key] for key in SAMPLE_KEYS if isinstance(row.get(key), Mapping)), None)
        if columns is None:
            text = f"no object under 'sample' or 'doc'; found {', '.join(row)}"
            problems.append(Problem(f"line {number}", text))
            continue
        try:
            samples.append(task.sample({**pictures, **columns}, index))
        except KeyError as error:
            found = ", ".join(map(str, columns))
            problems.append(Problem(f"line {number}", f"no column {error}; found {found}"))
        except (ValueError, TypeError, AttributeError, SyntaxError) as error:
            problems.append(Problem(f"line {number}", str(error)))
    return samples, problems


def _refuse(name: str, problems: list[Problem]) -> None:
    if len(problems) > SHOWN_PROBLEMS:
        more = len(problems) - SHOWN_PROBLEMS
        problems = [*problems[:SHOWN_PROBLEMS], Problem("", f"and {more:,} more lines")]
    if problems:
        raise DataError(name, problems)


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _plain(parsed: Any) -> Any:
    """`parsed` as JSON knows it: no infinities."""
    return None if isinstance(parsed, float) and not math.isfinite(parsed) else parsed
