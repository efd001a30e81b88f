"""The answers of a sample file: one stage's scores and responses to one task, column by column.

Of each row only what a study needs is kept: score, response, digests of what was asked; and,
from the base's file, the documents themselves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.interop.logs.folders import Run
from harness.interop.logs.metrics import Measure
from harness.interop.logs.results import BrokenLogError, TaskResults
from harness.interop.logs.rows import Digest, LogRow, read_rows

# Rows that are looked at to see which metrics and filters a task has.
PEEK = 400
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Documents:
    """What is known of a task's documents, from the base's log; row i of each belongs to doc i."""

    ids: list[str]
    questions: list[str]
    golds: list[tuple[str, ...]]
    docs: list[Mapping[str, Any] | None]
    """Their columns, without pictures; None where the log has none."""


@dataclass(slots=True)
class Answers:
    """One stage's answers to one task, in the order of its documents."""

    ids: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """In [0, 1]; NaN where the log gives none."""
    responses: list[str] = field(default_factory=list)
    targets: list[Digest] = field(default_factory=list)
    prompts: list[Digest | None] = field(default_factory=list)
    images: list[Digest | None] = field(default_factory=list)


def peek(run: Run, task: str, facts: TaskResults) -> list[LogRow]:
    """The first rows, and the first of every filter that comes later (block after block)."""
    rows: list[LogRow] = []
    found: set[str] = set()
    wanted = len(facts.filters())
    for row in read_rows(run.samples[task], facts.filters()):
        if len(rows) < PEEK or row.filter not in found:
            rows.append(row)
            found.add(row.filter)
        elif len(found) >= wanted:
            break
    if not rows:
        raise BrokenLogError("its sample file is empty")
    return rows


def read_answers(
    run: Run, task: str, facts: TaskResults, measure: Measure, documents: Documents | None
) -> Answers:
    """One sample file. Raises BrokenLogError: unreadable, documents twice, or fewer than asked."""
    answers = Answers()
    seen: dict[str, None] = {}
    twice: list[str] = []
    others: dict[str, None] = {}
    unnamed = False
    for row in read_rows(run.samples[task], facts.filters()):
        unnamed |= "filter" not in row.raw
        if row.filter != measure.filter:
            others[row.filter] = None
            continue
        if row.doc_id in seen:
            twice.append(row.doc_id)
            continue
        seen[row.doc_id] = None
        score = measure.score(row)
        if score is None:
            continue
        _keep(answers, row, score)
        if documents is not None:
            documents.ids.append(row.doc_id)
            documents.questions.append(row.question())
            documents.golds.append(row.golds())
            documents.docs.append(_without_images(row.doc()))
    if twice:
        raise BrokenLogError(
            f"{documents_named(twice)} stand{'' if twice[1:] else 's'} in it twice"
        )
    if not seen:
        found = ", ".join(others) or "no row at all"
        raise BrokenLogError(f"no row of the filter {measure.filter!r} (found: {found})")
    if not answers.ids:
        raise BrokenLogError(f"no row has the metric {measure.name}")
    if facts.n_documents is not None and len(seen) < facts.n_documents:
        n = f"{len(seen):,} of {facts.n_documents:,} documents"
        raise BrokenLogError(f"holds {n} that its results file counts: it is cut off")
    if unnamed and len(facts.filters()) > 1:
        _check_order(answers, measure, facts)
    return answers


def _check_order(answers: Answers, measure: Measure, facts: TaskResults) -> None:
    """Rows without a filter's name were told apart by their order: the mean must say so too."""
    known = [score for score in answers.scores if not math.isnan(score)]
    own = measure.aggregate(facts)
    if known and not math.isnan(own) and abs(sum(known) / len(known) - own) > 1e-6:
        raise BrokenLogError(
            f"its rows do not name their filter, and those taken for {measure.filter!r} do not "
            "give the results file's figure"
        )


def _keep(answers: Answers, row: LogRow, score: float) -> None:
    answers.ids.append(row.doc_id)
    answers.scores.append(score)
    answers.responses.append(row.response())
    target = row.target().encode("utf-8", "surrogatepass")
    answers.targets.append(hashlib.sha256(target).digest()[:16])
    answers.prompts.append(row.prompt_digest())
    answers.images.append(row.image_digest())


def _without_images(doc: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The columns without encoded pictures, which may be megabytes."""
    return None if doc is None else dict(_small(doc))


def _small(doc: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in doc.items():
        picture = isinstance(value, dict) and "bytes" in value
        large = isinstance(value, str) and len(value) > 100_000
        yield name, None if picture or large else value


def documents_named(ids: Sequence[str]) -> str:
    """`document 3`, `documents 3, 8 and 12 more`.

    >>> documents_named(["3", "8"]), documents_named(list("abcdefgh"))
    ('documents 3, 8', 'documents a, b, c, d, e and 3 more')
    """
    shown = ", ".join(doc[:40] for doc in ids[:_SHOWN])
    rest = f" and {len(ids) - _SHOWN:,} more" if len(ids) > _SHOWN else ""
    return f"document{'s' if len(ids) > 1 else ''} {shown}{rest}"
