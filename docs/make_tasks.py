"""Writes `docs/tasks.md`: all benchmarks, and how often the scorers disagree about one answer.

.venv/bin/python docs/make_tasks.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness import registry
from harness.types import Sample, ScorerName, Task

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "tests" / "golden"
FILE_OF_TASK = {
    "textvqa": "textvqa_val",
    "docvqa": "docvqa_val",
    "infovqa": "infovqa_val",
    "scienceqa": "scienceqa_img",
    "pixmo_count": "pixmocount",
    "mmmu": "mmmu_val",
    "vqav2": "vqav2_val",
    "mmbench": "mmbench_en_dev_static",
}
REFERENCES: tuple[ScorerName, ...] = ("lmm_cl", "lmms_eval")
TOLERANCE = 1e-9

HEAD = """\
# Benchmarks

Written by `docs/make_tasks.py` (a test says when it is out of date). `n` is the number of scored
samples as published; *groups* is what samples of one cluster share; *source* is a hub id, which a
manifest replaces by a local copy with `suite.sources.NAME: {path: ...}`.

"""
DISAGREE = """
## How much of a score is format

The answers are those of `tests/golden` (hand-written: plain, wrong, wordy, hedged, empty, in
markup, ...; see its README), each graded by the reference program's scorer, by `strict` and by
`lenient`. A number counts the answers about which two of them disagree. *Lenient over reference*:
answers that are right and that the reference marks down, which is what a change of format alone
can cost; *reference over lenient*: answers that the reference credits by accident.

"""


def main() -> None:
    """Writes the file."""
    (HERE / "tasks.md").write_text(document(), encoding="utf-8")


def document() -> str:
    """The whole page."""
    return HEAD + tasks_table() + DISAGREE + disagreements_table()


def tasks_table() -> str:
    """Facts of every task."""
    rows = [
        (
            f"`{task.name}`",
            task.title,
            task.role,
            "" if task.n is None else f"{task.n:,}",
            task.metric,
            task.chance,
            task.groups,
            _source(task),
            task.licence,
            task.citation,
        )
        for task in registry.all_tasks()
        if not task.name.startswith("micro_")
    ]
    heads = ("task", "title", "role", "n", "metric", "chance", "groups", "source", "licence")
    return _table((*heads, "citation"), rows)


def _source(task: Task) -> str:
    parts = [task.source.hub, task.source.config, task.source.split]
    return " / ".join(part for part in parts if part) if task.source.hub else "local files"


def disagreements_table() -> str:
    """One row for each task and reference scorer, and their sum."""
    rows: list[tuple[str, ...]] = []
    total = [0] * 6
    for task in registry.all_tasks():
        for reference in REFERENCES:
            graded = list(_graded(task, reference))
            if graded:
                counts = _counts(graded)
                total = [have + more for have, more in zip(total, counts, strict=True)]
                rows.append((f"`{task.name}`", f"`{reference}`", *map(str, counts)))
    rows.append(("all", "", *(f"{count:,}" for count in total)))
    heads = ("task", "reference", "answers", "reference ≠ strict", "reference ≠ lenient")
    return _table((*heads, "strict ≠ lenient", "lenient over ref.", "ref. over lenient"), rows)


def _graded(task: Task, reference: ScorerName) -> Iterator[tuple[float, float, float]]:
    """(reference, strict, lenient) for every golden answer that all three score."""
    if reference not in task.scorers:
        return
    for sample, response in _answers(task):
        scorers: tuple[ScorerName, ...] = (reference, "strict", "lenient")
        values = [task.scorers[name](sample, response).value for name in scorers]
        first, second, third = values
        if first is not None and second is not None and third is not None:
            yield first, second, third


def _answers(task: Task) -> Iterator[tuple[Sample, str]]:
    """The distinct golden answers of a task."""
    file = GOLDEN / f"{FILE_OF_TASK.get(task.name, task.name)}.jsonl"
    seen: set[str] = set()
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        row = json.loads(line)
        if row["item"] not in seen:
            seen.add(row["item"])
            yield task.sample(row["sample"], len(seen)), row["response"]


def _counts(graded: list[tuple[float, float, float]]) -> list[int]:
    """Answers, then the five disagreements of `disagreements_table`."""
    return [
        len(graded),
        sum(abs(reference - strict) > TOLERANCE for reference, strict, _ in graded),
        sum(abs(reference - lenient) > TOLERANCE for reference, _, lenient in graded),
        sum(abs(strict - lenient) > TOLERANCE for _, strict, lenient in graded),
        sum(lenient > reference + TOLERANCE for reference, _, lenient in graded),
        sum(reference > lenient + TOLERANCE for reference, _, lenient in graded),
    ]


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
