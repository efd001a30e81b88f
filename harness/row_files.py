"""A row file: JSON lines about samples of one task, made anywhere, graded or given prompts here.

A row is an object with the sample's native columns under `sample` or `doc` (images may be left
out) and, to be graded, a `response`. Rows come out in the order they went in, with what was found
out added; other keys are kept. Nothing comes out when a row cannot be used: all such rows are
named at once.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any

from harness import registry
from harness.errors import DataError, Problem, UserError, did_you_mean
from harness.processes import forked
from harness.prompts import as_text
from harness.types import Sample, Task

SHOWN_PROBLEMS = 10
SAMPLE_KEYS = ("sample", "doc")
# Files of fewer lines than this are done before a second process has started.
LINES_A_PROCESS = 10_000
# An adapter may take a picture for granted; a row made elsewhere need not have it.
_NO_PICTURES = {"image": None}

Line = tuple[int, str]
Row = dict[str, Any]
Step = Callable[[list[Line]], tuple[str, list[Problem]]]
"""Lines -> finished lines as one text, and what is wrong with which line."""


def grade(name: str, text: str, task: str, scorer: str) -> str:
    """`text` with `score` (the headline metric), `scores` (every metric) and `parsed` in each row.

    null stands where the scorer does not apply, and for a response that is null (no answer was
    given: a failure, not a wrong answer). `name` is what messages call the file. Raises DataError
    with all rows that cannot be graded, or for a file without any; UserError for a scorer that the
    task lacks.
    """
    found = registry.task(task)
    if scorer not in found.scorers:
        known = ", ".join(found.scorers)
        raise UserError(task, f"has no scorer {scorer!r}; it has {known}")
    return _run(name, text, partial(_grade_lines, task, scorer))


def prompts(name: str, text: str, task: str, profile: str) -> str:
    """`text` with `prompt` in each row: the words and, where the sample marks them, the images.

    Raises like `grade`.
    """
    found = registry.task(task)
    if profile not in found.prompts:
        known = ", ".join(found.prompts)
        raise UserError(task, f"has no prompt profile {profile!r}; it has {known}")
    return _run(name, text, partial(_prompt_lines, task, profile))


def _run(name: str, text: str, step: Step) -> str:
    """The step over all lines, in several processes where that is quicker and safe."""
    # Only "\n" ends a line of JSON lines: str.splitlines knows ten more ends.
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line and not line.isspace()]
    if not lines:
        raise DataError(name, "no rows; expected a JSON object in each line")
    count = min(os.cpu_count() or 1, len(lines) // LINES_A_PROCESS)
    if count > 1 and sys.platform == "linux":
        # A fork knows the tasks that were registered; the pieces are small so that none waits.
        pieces = [lines[k : k + LINES_A_PROCESS] for k in range(0, len(lines), LINES_A_PROCESS)]
        try:
            with forked(count) as pool:
                results = list(pool.map(step, pieces))
        except BrokenProcessPool:
            raise UserError(
                name, "a process that read it was killed; is there memory left?"
            ) from None
    else:
        results = [step(lines)]
    problems = [problem for _, found in results for problem in found]
    if len(problems) > SHOWN_PROBLEMS:
        more = len(problems) - SHOWN_PROBLEMS
        problems = [*problems[:SHOWN_PROBLEMS], Problem("", f"and {more:,} more lines")]
    if problems:
        raise DataError(name, problems)
    return "".join(done for done, _ in results)


def _grade_lines(task_name: str, scorer: str, lines: list[Line]) -> tuple[str, list[Problem]]:
    task = registry.task(task_name)
    judge = task.scorers[scorer]  # type: ignore[index]  # checked by `grade`

    def work(sample: Sample, row: Row) -> Row:
        if "response" not in row:
            hint = did_you_mean("response", list(row)) or f"; found {', '.join(row)}"
            raise ValueError(f"no key 'response'{hint}")
        response = row["response"]
        if response is None:
            return {**row, "score": None, "scores": {}, "parsed": None}
        if not isinstance(response, str):
            raise ValueError(f"response is {type(response).__name__}, expected text")
        score = judge(sample, response)
        scores = {key: _finite(value) for key, value in score.metrics.items()}
        return {**row, "score": score.value, "scores": scores, "parsed": _finite(score.parsed)}

    return _each(lines, task, work)


def _prompt_lines(task_name: str, profile: str, lines: list[Line]) -> tuple[str, list[Problem]]:
    task = registry.task(task_name)
    write = task.prompts[profile]  # type: ignore[index]  # checked by `prompts`
    return _each(lines, task, lambda sample, row: {**row, "prompt": as_text(write(sample), sample)})


def _each(
    lines: list[Line], task: Task, work: Callable[[Sample, Row], Row]
) -> tuple[str, list[Problem]]:
    """`work` on each line's sample and row; lines that cannot be used become problems."""
    done: list[str] = []
    problems: list[Problem] = []
    for index, (number, line) in enumerate(lines):
        try:
            row = _parsed(line)
            sample = task.sample({**_NO_PICTURES, **_columns(row)}, index)
            # ASCII: text with broken characters survives any terminal.
            done.append(json.dumps(work(sample, row), default=str))
        except KeyError as error:
            problems.append(Problem(f"line {number}", f"no column {error}"))
        except (ValueError, TypeError, AttributeError, SyntaxError, RecursionError) as error:
            problems.append(Problem(f"line {number}", str(error)))
    return "".join(f"{line}\n" for line in done), problems


def _parsed(line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"got {type(row).__name__}, expected an object")
    return row


def _columns(row: Row) -> Mapping[str, Any]:
    for key in SAMPLE_KEYS:
        value = row.get(key)
        if isinstance(value, dict):
            return value
    raise ValueError(f"no object under 'sample' or 'doc'; found {', '.join(row) or 'nothing'}")


def _finite(value: Any) -> Any:
    """JSON has no infinities and no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
