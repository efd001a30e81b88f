"""Grading again: what our own scorers say of the responses in a log.

Possible where one of our tasks knows the benchmark and the log holds the document's columns. Where
not, the reason is told and the log's own score stands alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    name = our_name(paired.task)
    images = [digest.hex() if digest else "" for digest in paired.base.answers.images]
    samples, why_not = _samples(name, paired.documents)
    plain = why_not != ""
    if plain:
        samples = _plain_samples(paired.documents)
    own = ["" if plain or s.group in ("", BY_PIXELS) else s.group for s in samples]
    groups = [group or image for group, image in zip(own, images, strict=True)]
    task = None if plain else registry.task(name)
    scores: Mapping[ScorerName, list[list[float]]] = {}
    if task is not None:
        try:
            scores = _grade(task, samples, paired)
        except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            why_not = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    unit = task.groups if task and any(own) else "picture" if any(images) else "document"
    return Regraded(
        samples=samples,
        scores=scores,
        groups=groups,
        grouped_by=unit,
        task=name if scores else "",
        why_not=why_not,
    )


def _samples(name: str, documents: Documents) -> tuple[list[Sample], str]:
    """(the documents as samples of our task, or why that cannot be)."""
    if name not in registry.names():
        return [], "no task of ours"
    task = registry.task(name)
    found = []
    for index, (doc_id, doc) in enumerate(zip(documents.ids, documents.docs, strict=True)):
        if doc is None:
            return [], "the log does not hold the documents"
        try:
            sample = task.sample({**_NO_PICTURES, **doc}, _index(doc_id, index))
        except KeyError as error:
            return [], f"document {doc_id}: no column {error}"
        except (ValueError, TypeError, AttributeError, SyntaxError, RecursionError) as error:
            return [], f"document {doc_id}: {' '.join(str(error).split())[:100]}"
        found.append(replace(sample, id=doc_id))
    return found, ""


def _index(doc_id: str, index: int) -> int:
    return int(doc_id) if doc_id.isdecimal() and len(doc_id) < 12 else index


def _grade(
    task: Task, samples: Sequence[Sample], paired: PairedTask
) -> dict[ScorerName, list[list[float]]]:
    found: dict[ScorerName, list[list[float]]] = {}
    keep = [task.keep is None or task.keep({**_NO_PICTURES, **(d or {})})
            for d in paired.documents.docs]  # fmt: skip
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
