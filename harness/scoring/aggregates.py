"""Aggregates: the headline numbers that the reference programs make of their samples' scores.

One way in, `aggregate`; what it gives is held to `tests/golden/_aggregates.jsonl`. Use it to
reproduce published numbers: the project's own headlines are made by `Task.headline`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from harness.scoring.lmms_eval import MME_COGNITION, MME_PERCEPTION
from harness.types import Score

Doc = Mapping[str, Any]
Program = Literal["lmm_cl", "lmms_eval"]
Values = dict[str, list[float]]

# MMBench: rotation k of a question has the question's index plus k times this.
ROTATION = 1_000_000


class Aggregate(NamedTuple):
    """A headline number in the program's own unit, and its standard error where it gives one."""

    value: float
    stderr_clt: float | None = None


def stderr_clt(values: Sequence[float]) -> float | None:
    """Standard error of a mean, sample deviation / sqrt(n); None for fewer than two values.

    >>> round(stderr_clt([0.0, 1.0, 1.0, 1.0]), 9)
    0.25
    """
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _by_metric(scores: Iterable[Score]) -> Values:
    """Metric -> its values, samples to which it does not apply left out."""
    found: Values = defaultdict(list)
    for score in scores:
        for name, value in score.metrics.items():
            if value is not None:
                found[name].append(value)
            else:
                found.setdefault(name, [])
    return found


def _means(docs: Sequence[Doc], scores: Sequence[Score]) -> dict[str, Aggregate]:
    found = _by_metric(scores)
    return {name: Aggregate(_mean(values), stderr_clt(values)) for name, values in found.items()}


def _seedbench(docs: Sequence[Doc], scores: Sequence[Score]) -> dict[str, Aggregate]:
    found = _by_metric(scores)
    return {name: Aggregate(_mean(values)) for name, values in found.items() if values}


def _mmstar(docs: Sequence[Doc], scores: Sequence[Score]) -> dict[str, Aggregate]:
    """Mean over the fine categories' means, overall and within each coarse category."""
    fine: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for doc, score in zip(docs, scores, strict=True):
        for name in ("average", str(doc["category"])):
            fine[name][str(doc["l2_category"])].append(score.value or 0.0)
    found = {}
    for name, categories in fine.items():
        items = [value for values in categories.values() for value in values]
        # The program's standard error is that of the items, not that of the macro mean.
        macro = _mean([_mean(values) for values in categories.values()])
        found[name] = Aggregate(macro, stderr_clt(items))
    return found


def _ocrbench(docs: Sequence[Doc], scores: Sequence[Score]) -> dict[str, Aggregate]:
    """Right answers per thousand, whatever the number of samples."""
    values = [score.value or 0.0 for score in scores]
    return {"ocrbench_accuracy": Aggregate(sum(values) / 1000, stderr_clt(values))}


_SUBJECT = re.compile(r"[^_]*_(.+?)_\d+")


def _mmmu(docs: Sequence[Doc], scores: Sequence[Score]) -> dict[str, Aggregate]:
    """Subjects' accuracies weighted by their samples, rounded to five decimals; guesses left out.

    The way through the subjects is the mean of all samples but for the last bit, which decides
    where the fifth decimal is a tie.
    """
    subjects: Values = defaultdict(list)
    for doc, score in zip(docs, scores, strict=True):
        if score.value is not None:
            match = _SUBJECT.fullmatch(str(doc["id"]))
            subjects[match[1] if match else ""].append(score.value)
    weighted = sum(_mean(values) * len(values) for values in subjects.values())
    n = sum(map(len, subjects.values()))
    return {"mmmu_acc": Aggregate(round(_ratio(weighted, n), 5))}


def _pope(docs: Sequence[Doc], scores: Sequence[Score]) -> dict[str, Aggregate]:
    """Precision and recall on plain "yes" and "no" only; the yes ratio is that of the golds."""
    values = [score.value or 0.0 for score in scores]
    golds = [str(doc["answer"]).lower().strip() for doc in docs]
    pairs = list(zip(golds, (score.parsed for score in scores), strict=True))
    hits, false_yes = pairs.count(("yes", "yes")), pairs.count(("no", "yes"))
    precision = _ratio(hits, hits + false_yes)
    recall = _ratio(hits, hits + pairs.count(("yes", "no")))
    yes = golds.count("yes")
    found = {
        "pope_accuracy": _mean(values),
        "pope_precision": precision,
        "pope_recall": recall,
        "pope_f1_score": _ratio(2 * precision * recall, precision + recall),
        "pope_yes_ratio": _ratio(yes, yes + golds.count("no")),
    }
    # The program prints the standard error of the accuracy beside all five.
    error = stderr_clt(values)
    return {name: Aggregate(value, error) for name, value in found.items()}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _mme(docs: Sequence[Doc], scores: Sequence[Score]) -> dict[str, Aggregate]:
    """Sum over categories of accuracy + accuracy of whole pairs, each in percent."""
    pairs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for doc, score in zip(docs, scores, strict=True):
        pairs[str(doc["category"])][str(doc["question_id"])].append(score.value or 0.0)
    found = {}
    for name, categories in (
        ("mme_perception_score", MME_PERCEPTION),
        ("mme_cognition_score", MME_COGNITION),
    ):
        present = [pairs[category] for category in categories if category in pairs]
        items = [value for images in present for pair in images.values() for value in pair]
        if items:
            found[name] = Aggregate(sum(map(_pair_score, present)), stderr_clt(items))
    return found


def _pair_score(images: Mapping[str, Sequence[float]]) -> float:
    for image, pair in images.items():
        if len(pair) != 2:
            raise ValueError(f"MME asks two questions on each image; {image} has {len(pair)}")
    return _mean([50 * sum(pair) + 100 * (sum(pair) == 2) for pair in images.values()])


def _mmbench(docs: Sequence[Doc], scores: Sequence[Score]) -> dict[str, Aggregate]:
    """Percent of questions that are right in every rotation."""
    right: dict[int, bool] = {}
    asked = set()
    for doc, score in zip(docs, scores, strict=True):
        index = int(doc["index"])
        question = index % ROTATION
        right[question] = right.get(question, True) and score.value == 1.0
        if index < ROTATION:
            asked.add(question)
    hits = [float(right[question]) for question in sorted(asked)]
    return {"gpt_eval_score": Aggregate(100 * _mean(hits))}


_BENCHMARKS: Mapping[str, Callable[[Sequence[Doc], Sequence[Score]], dict[str, Aggregate]]] = {
    "mmbench": _mmbench,
    "mme": _mme,
    "mmmu": _mmmu,
    "mmstar": _mmstar,
    "ocrbench": _ocrbench,
    "pope": _pope,
    "seedbench": _seedbench,
}


def aggregate(
    program: Program, task: str, docs: Sequence[Doc], scores: Sequence[Score]
) -> dict[str, Aggregate]:
    """Every headline number that `program` gives for a benchmark, under the program's own keys.

    `docs`: the native columns of the samples; `scores`: of the program's scorer, in the same
    order. A number over no samples is NaN (PathVQA's yes/no accuracy) or left out, as there.
    Raises ValueError without samples, and for MME where an image does not have two questions.
    """
    if not scores or len(docs) != len(scores):
        raise ValueError(f"{task}: got {len(docs)} samples and {len(scores)} scores")
    found = _BENCHMARKS.get(task, _means)(docs, scores)
    if program == "lmm_cl":  # the fork prints no standard errors of this kind
        return {name: Aggregate(number.value) for name, number in found.items()}
    return found
