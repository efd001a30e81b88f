"""Grading again: what our own scorers say of the responses in a log.

Possible where one of our tasks knows the benchmark and the log holds the document's columns.
lmms-eval from 0.5 on logs none: there the documents are made from questions and targets, and used
only if the scorer that repeats that program's own then gives every logged score. Where nothing can
be graded, the reason is told and the log's own score stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness import registry
from harness.interop.logs.answers import Documents
from harness.interop.logs.pairing import PairedTask
from harness.interop.score_traits import expected_type
from harness.scoring.grade import Grader
from harness.types import BY_PIXELS, Sample, ScorerName, Task

SCORERS: tuple[ScorerName, ...] = ("strict", "lenient")
# Names of tasks in lm-eval, lmms-eval and the reference study's fork -> ours, where they differ.
OUR_NAMES: Mapping[str, str] = {
    "textvqa_val": "textvqa", "docvqa_val": "docvqa", "infovqa_val": "infovqa",
    "scienceqa_img": "scienceqa", "pixmocount": "pixmo_count", "mmmu_val": "mmmu",
    "vqav2_val": "vqav2", "mmbench_en_dev": "mmbench", "mmbench_en_dev_static": "mmbench",
    "countbenchqa": "countbench", "countbench_upstream": "countbench", "pope_full": "pope",
    "pope_adv": "pope", "pope_pop": "pope", "pope_random": "pope",
}  # fmt: skip
# Adapters take a picture for granted; a log's document need not have it.
_NO_PICTURES = {"image": None}
_NO_DOCUMENTS = "the log does not hold the documents"
# Scorers that give what lmms-eval and the reference study's fork of it give.
_REFERENCES: tuple[ScorerName, ...] = ("lmms_eval", "lmm_cl")
# What a row that an adapter or scorer cannot use may raise.
_UNUSABLE = (KeyError, ValueError, TypeError, AttributeError, SyntaxError, RecursionError)

Doc = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Regraded:
    """A task's documents as samples, and the scores that our scorers give."""

    samples: list[Sample]
    """One per document, in order; made from the log alone where no task of ours applies."""
    scores: Mapping[ScorerName, list[list[float]]]
    """scorer -> [log of the task][document]; NaN = no score. Empty: not graded again."""
    groups: list[str]
    """What documents share; "" = each is a group of its own."""
    grouped_by: str
    """`document`, `picture`, or our task's own unit."""
    task: str
    """Our task that graded; "" = none."""
    why_not: str
    """Why nothing was graded again; "" where it was."""


def our_name(task: str) -> str:
    """What we would call a log's task; the same where there is no such benchmark here.

    >>> our_name("docvqa_val"), our_name("mmmu_val_art"), our_name("chartqa_lite")
    ('docvqa', 'mmmu', 'chartqa')
    """
    name = task.removesuffix("_lite")
    if name.startswith("mmmu_val_"):
        return "mmmu"
    return OUR_NAMES.get(name, name)


def regrade(paired: PairedTask) -> Regraded:
    """Grade every response of the task again, if that is possible."""
    name, documents = our_name(paired.task), paired.documents
    docs: Sequence[Doc | None] = documents.docs
    samples, why_not = _samples(name, documents.ids, docs)
    made = why_not == _NO_DOCUMENTS
    if made:
        docs = _from_targets(documents)
        samples, why_not = _repeated(name, docs, paired)
    task = None if why_not else registry.task(name)
    scores: Mapping[ScorerName, list[list[float]]] = {}
    if task is None:
        samples = _plain_samples(documents)
    else:
        try:
            scores = _grade(task, samples, docs, paired)
        except _UNUSABLE as error:
            why_not = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    images = [digest.hex() if digest else "" for digest in paired.base.answers.images]
    own = ["" if task is None or made or s.group == BY_PIXELS else s.group for s in samples]
    unit = task.groups if task and any(own) else "picture" if any(images) else "document"
    return Regraded(
        samples=samples,
        scores=scores,
        groups=[group or image for group, image in zip(own, images, strict=True)],
        grouped_by=unit,
        task=(f"{name}, from targets" if made else name) if scores else "",
        why_not=why_not,
    )


def _samples(name: str, ids: Sequence[str], docs: Sequence[Doc | None]) -> tuple[list[Sample], str]:
    """(the documents as samples of our task, or why that cannot be)."""
    if name not in registry.names():
        return [], "no task of ours"
    task = registry.task(name)
    found = []
    for index, (doc_id, doc) in enumerate(zip(ids, docs, strict=True)):
        if doc is None:
            return [], _NO_DOCUMENTS
        try:
            sample = task.sample({**_NO_PICTURES, **doc}, _index(doc_id, index))
        except KeyError as error:
            return [], f"document {doc_id}: no column {error}"
        except _UNUSABLE as error:
            return [], f"document {doc_id}: {' '.join(str(error).split())[:100]}"
        found.append(replace(sample, id=doc_id))
    return found, ""


def _from_targets(documents: Documents) -> list[Doc]:
    """Documents as far as question and target make them, under the usual names of columns."""
    return [
        {
            **dict.fromkeys(("id", "question_id", "questionId", "index"), doc_id),
            **dict.fromkeys(("answer", "number"), golds[0]),
            "question": question,
            "answers": list(golds),
        }
        for doc_id, question, golds in zip(
            documents.ids, documents.questions, documents.golds, strict=True
        )
    ]


def _repeated(name: str, docs: Sequence[Doc], paired: PairedTask) -> tuple[list[Sample], str]:
    """The made documents as samples, if a reference scorer gives every logged score on them."""
    samples, why_not = _samples(name, paired.documents.ids, docs)
    if why_not:
        return [], _NO_DOCUMENTS
    task = registry.task(name)
    pairs = [
        (sample, response, score)
        for log in paired.logs()
        for sample, response, score in zip(
            samples, log.answers.responses, log.answers.scores, strict=True
        )
        if not math.isnan(score)
    ]
    # Where nothing was right, a scorer that understands nothing would agree.
    right = any(score > 0 for _, _, score in pairs)
    for reference in _REFERENCES:
        if right and reference in task.scorers:
            grader = Grader(task.scorers[reference], samples)
            try:
                if all(abs(_value(grader, s, r) - score) < 1e-6 for s, r, score in pairs):
                    return samples, ""
            except _UNUSABLE:
                continue
    return [], _NO_DOCUMENTS


def _index(doc_id: str, index: int) -> int:
    return int(doc_id) if doc_id.isdecimal() and len(doc_id) < 12 else index


def _grade(
    task: Task, samples: Sequence[Sample], docs: Sequence[Doc | None], paired: PairedTask
) -> dict[ScorerName, list[list[float]]]:
    found: dict[ScorerName, list[list[float]]] = {}
    keep = [task.keep is None or task.keep({**_NO_PICTURES, **(doc or {})}) for doc in docs]
    for scorer in SCORERS:
        if scorer not in task.scorers:
            continue
        grader = Grader(task.scorers[scorer], samples)
        found[scorer] = [
            [
                _value(grader, sample, response) if kept and not math.isnan(score) else math.nan
                for sample, response, score, kept in zip(
                    samples, log.answers.responses, log.answers.scores, keep, strict=True
                )
            ]
            for log in paired.logs()
        ]
    return found


def _value(grader: Grader, sample: Sample, response: str) -> float:
    value = grader.grade(sample.id, response).value
    return math.nan if value is None else value


def _plain_samples(documents: Documents) -> list[Sample]:
    """Samples as far as the log tells: for showing them, and for the types of their answers."""
    return [
        Sample(
            id=doc_id,
            question=question,
            answers=golds,
            answer_type=expected_type(golds[0]),
        )
        for doc_id, question, golds in zip(
            documents.ids, documents.questions, documents.golds, strict=True
        )
    ]
