"""The contract of a task, checked on its data without a model.

A gold answer scores 1 and an empty one 0, under `strict` and under `lenient`; the prompt has one
slot for each image; every image decodes; nothing that states the answer is shown. (Unique ids and
columns are checked whenever a source is loaded.)
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.errors import Problem, SampleError
from harness.prompts import as_text, request_parts
from harness.types import Sample, Scorer, ScorerName, Task

JUDGES: tuple[ScorerName, ...] = ("strict", "lenient")
SHOWN_SAMPLES = 5
# VQA accuracy gives 0.3 for each annotator who agrees: with few of them, gold is below 1.
VQA_METRICS, VQA_SHARE = ("VQA accuracy", "vqa"), 0.3
# A caption shorter than this may stand in a question by accident.
SHORTEST_CAPTION = 8
_HAIR = 1e-9


@dataclass(frozen=True, slots=True)
class Report:
    """What the check of one task found."""

    task: str
    n_samples: int
    n_groups: int
    problems: tuple[Problem, ...]


def check(task: Task, samples: Sequence[Sample]) -> Report:
    """Checks every sample; at most a few samples are named for each kind of problem."""
    found: dict[str, list[str]] = {}
    groups: set[str] = set()
    decoded: set[str] = set()
    for sample in samples:
        groups.add(sample.group or f"#{sample.id}")
        broken = _pictures(sample, decoded)
        for what in (*broken, *_answers(task, sample), *_prompts(task, sample)):
            found.setdefault(what, []).append(sample.id)
    if not samples:
        found["the source has no samples"] = []
    return Report(
        task.name, len(samples), len(groups), tuple(_problem(w, i) for w, i in found.items())
    )


def _problem(what: str, ids: list[str]) -> Problem:
    named = ", ".join(ids[:SHOWN_SAMPLES])
    more = f" and {len(ids) - SHOWN_SAMPLES:,} more" if len(ids) > SHOWN_SAMPLES else ""
    return Problem(f"sample {named}{more}" if ids else "", what)


def _pictures(sample: Sample, decoded: set[str]) -> Iterator[str]:
    """Decodes the images that were not decoded before."""
    for number, image in enumerate(sample.images):
        try:
            if image.sha256 not in decoded:
                image.decode()
                decoded.add(image.sha256)
        except SampleError as error:
            yield f"image {number}: {error}"


def _answers(task: Task, sample: Sample) -> Iterator[str]:
    if not 0 <= sample.chance <= 1:
        yield f"chance is {sample.chance}, expected a share"
    if sample.answer_type == "letter" and sample.choices:
        letters = string.ascii_uppercase[: len(sample.choices)]
        if not any(gold in (*letters, *sample.choices) for gold in sample.answers):
            gold, n_choices = sample.answers[0], len(sample.choices)
            yield f"the gold answer {gold!r} is not one of {n_choices} options"
    for judge in JUDGES:
        due, best = _due(task.metric, sample), best_gold(task.scorers[judge], sample)
        if best < due - _HAIR:
            yield f"the gold answer scores {best:g} under {judge}, expected {due:g}"
        empty = task.scorers[judge](sample, "").value
        if empty != 0:
            yield f"an empty answer scores {empty} under {judge}, expected 0"


def best_gold(scorer: Scorer, sample: Sample) -> float:
    """The score of the best of a sample's gold answers, graded as if it were the response."""
    return max(scorer(sample, gold).value or 0.0 for gold in dict.fromkeys(sample.answers))


def check_golds(scorers: Mapping[ScorerName, Scorer], metric: str, sample: Sample) -> None:
    """Raises ValueError for a sample whose gold answers cannot get full marks: nothing could."""
    due = _due(metric, sample)
    for judge in JUDGES:
        best = best_gold(scorers[judge], sample)
        if best < due - _HAIR:
            golds = " or ".join(map(repr, sample.answers))
            raise ValueError(f"answer {golds} scores {best:g} under {judge}, expected {due:g}")


def _due(metric: str, sample: Sample) -> float:
    """What the best gold answer must score."""
    if metric not in VQA_METRICS:
        return 1.0
    return min(1.0, VQA_SHARE * max(Counter(sample.answers).values()))


def _prompts(task: Task, sample: Sample) -> Iterator[str]:
    caption = str(sample.doc.get("text") or "")
    for profile, write in task.prompts.items():
        prompt = write(sample)
        parts = request_parts(prompt, len(sample.images))
        slots = sorted(part for part in parts if isinstance(part, int))
        if slots != list(range(len(sample.images))):
            yield f"prompt {profile} has {len(slots)} image slots for {len(sample.images)} images"
        if any("<image>" in part for part in parts if isinstance(part, str)):
            yield f"prompt {profile} has an image mark left in its text"
        words = re.sub(r"\s+", " ", as_text(prompt, sample)).lower()
        if len(caption) >= SHORTEST_CAPTION and caption.lower() in words:
            yield f"prompt {profile} shows the caption, which states the answer"
