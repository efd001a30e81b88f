"""A measure: which number of a log's rows is the score of a task, and what its full mark is.

Scores here are fractions. A log's metric becomes one only if its full mark is known: from the
table below or from the user's `scales`. It is never read off the values, for a log in which nobody
got more than 1 of 5 points looks like one of fractions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import Problem
from harness.interop.logs.results import TaskResults
from harness.interop.logs.rows import NO_FILTER, LogRow, score_of
from harness.scoring.mmmu_answer import open_is_right

# Metric -> the most that one document can get. Each was looked up in the programs' own tasks.
FULL_MARKS: Mapping[str, float] = {
    # lm-eval: right or wrong, or a share
    **dict.fromkeys(
        ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mc1", "mc2",
         "prompt_level_strict_acc", "prompt_level_loose_acc", "math_verify", "pass@1", "pass_at_1",
         "bleu_acc", "rouge1_acc", "rouge2_acc", "rougeL_acc", "relaxed_accuracy"),
        1.0,
    ),
    # lm-eval's truthfulqa_gen: sacrebleu and rouge in per cent
    **dict.fromkeys(("bleu_max", "rouge1_max", "rouge2_max", "rougeL_max"), 100.0),
    # lmms-eval and the reference study's fork of it
    **dict.fromkeys(
        ("accuracy", "anls", "relaxed_overall", "relaxed_human_split",
         "relaxed_augmented_split", "seed_all", "seed_image", "seed_video", "average",
         "ocrbench_accuracy", "pope_accuracy", "mmmu_acc", "lvb_acc", "pixmocount_accuracy",
         "countbench_accuracy", "pathvqa_exact_match", "pathvqa_f1", "pathvqa_binary_accuracy",
         "hour_accuracy", "minute_accuracy", "both_accuracy"),
        1.0,
    ),
    # MME sums its pairs up to 2,000 and 800 points, but each answer is right or wrong.
    **dict.fromkeys(("mme_perception_score", "mme_cognition_score"), 1.0),
}  # fmt: skip
# Which metric stands for a task that has several, the first that is there. Two together are halves
# of a data set: each document has one of them.
PREFERRED: tuple[tuple[str, ...], ...] = (
    ("exact_match",), ("acc",), ("accuracy",), ("relaxed_overall",), ("anls",), ("seed_all",),
    ("pope_accuracy",), ("ocrbench_accuracy",), ("mmmu_acc",), ("both_accuracy",),
    ("mme_perception_score", "mme_cognition_score"),
    ("pathvqa_binary_accuracy", "pathvqa_exact_match"), ("average",), ("mc2",), ("em",),
    ("prompt_level_strict_acc",),
)  # fmt: skip
# Which filter stands for a task that has several, before any other.
PREFERRED_FILTERS = ("strict-match", NO_FILTER)
# What a row holds beside its metrics.
_NOT_METRICS = frozenset(
    {
        "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
        "doc_hash", "prompt_hash", "target_hash", "input", "input_media", "token_counts",
    }
)  # fmt: skip
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user says of measures; task (or, for scales, metric) -> choice."""

    metrics: Mapping[str, Sequence[str]]
    filters: Mapping[str, str]
    scales: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measure:
    """How a row of a task becomes a score."""

    metrics: tuple[str, ...]
    """One, or several of which each document has one."""
    filter: str
    scale: float
    """The full mark: score = value / scale."""
    other_metrics: tuple[str, ...] = ()
    """What could have been chosen instead."""
    other_filters: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The metric, or the metrics, as shown."""
        return "+".join(self.metrics)

    def score(self, row: LogRow) -> float | None:
        """The row's score, in [0, 1] if the log keeps to its scale; NaN = the log has no value.

        None: the row has none of the metrics, which do not apply to its document.
        """
        found: float | None = None
        for metric in self.metrics:
            if metric not in row.raw:
                continue
            value = _value(row.raw[metric])
            found = math.nan if value is None else _share(value, self.scale)
            if not math.isnan(found):
                break
        return found

    def aggregate(self, results: TaskResults) -> float:
        """The evaluator's own figure on the same scale; NaN where it cannot be compared."""
        if len(self.metrics) > 1:
            return math.nan
        return results.aggregates.get((self.metrics[0], self.filter), math.nan) / self.scale


def choose(
    task: str, results: TaskResults, rows: Sequence[LogRow], wanted: Wanted
) -> Measure | Problem:
    """The measure of a task, from what its results file lists and its first rows hold.

    A Problem names the key of the map that settles it.
    """
    name = _filter(task, [row.filter for row in rows], wanted.filters.get(task))
    if isinstance(name, Problem):
        return name
    here = [row for row in rows if row.filter == name]
    metrics = _metrics(task, results, here, wanted)
    if isinstance(metrics, Problem):
        return metrics
    scale = _scale(task, metrics, wanted.scales)
    if isinstance(scale, Problem):
        return scale
    others = [m for m in _scores(results, here) if m not in metrics]
    filters = dict.fromkeys(row.filter for row in rows if row.filter != name)
    return Measure(metrics, name, scale, tuple(others), tuple(filters))


def _filter(task: str, found: Sequence[str], wanted: str | None) -> str | Problem:
    names = list(dict.fromkeys(found))
    if wanted is not None:
        if wanted not in names:
            known = ", ".join(map(repr, names[:_SHOWN]))
            return Problem(
                f"filters.{task}", f"no filter {wanted[:40]!r} in the log; it has {known}"
            )
        return wanted
    return next((name for name in PREFERRED_FILTERS if name in names), names[0])


def _metrics(
    task: str, results: TaskResults, rows: Sequence[LogRow], wanted: Wanted
) -> tuple[str, ...] | Problem:
    usable = _scores(results, rows)
    if task in wanted.metrics:
        named = wanted.metrics[task]
        missing = [metric for metric in named if metric not in usable]
        if missing:
            known = ", ".join(usable[:_SHOWN]) or "none"
            text = f"no score per document called {missing[0][:40]!r}; the log has {known}"
            return Problem(f"metrics.{task}", text)
        return tuple(named)
    if not usable:
        listed = list(dict.fromkeys(metric for metric, _ in results.aggregates))
        found = ", ".join(listed[:_SHOWN]) or "none"
        text = (
            f"no score per document in its rows (metrics: {found}), only what the evaluator sums"
            " up later. Cure: leave the task out (list the others under targets and held_out)"
        )
        return Problem(f"task {task}", text)
    # The first rows may all belong to one half of a data set.
    there = {*usable, *(metric for metric, _ in results.aggregates)}
    for metrics in PREFERRED:
        if any(metric in usable for metric in metrics) and there.issuperset(metrics):
            return metrics
    marked = {*FULL_MARKS, *wanted.scales}
    known_first = sorted(usable, key=lambda metric: metric not in marked)
    if len(usable) > 1 and known_first[0] not in marked:
        text = f"which of {', '.join(usable[:_SHOWN])} is its score, and what is the full mark?"
        cure = f"metrics: {{{task}: NAME}} and scales: {{{task}: NUMBER}} in a map"
        return Problem(f"task {task}", f"{text} Cure: {cure}")
    return (known_first[0],)


def _scores(results: TaskResults, rows: Sequence[LogRow]) -> list[str]:
    """Metrics that give single documents a number and are better when higher, as listed."""
    listed = dict.fromkeys(metric for metric, _ in results.aggregates)
    in_rows = dict.fromkeys(key for row in rows for key in row.raw if key not in _NOT_METRICS)
    # A metric is what the results file lists; without that, whatever a row has beside the usual.
    names = [name for name in listed if name in in_rows] or [n for n in in_rows if not listed]
    return [
        name
        for name in names
        if name not in results.lower_is_better
        and any(
            _value(row.raw[name]) is not None and row.raw[name] is not None
            for row in rows
            if name in row.raw
        )
    ]


def _scale(task: str, metrics: Sequence[str], scales: Mapping[str, float]) -> float | Problem:
    said = next((scales[key] for key in (task, *metrics) if key in scales), None)
    if said is not None:
        return said
    known = {FULL_MARKS.get(metric) for metric in metrics}
    if len(known) == 1 and (mark := known.pop()) is not None:
        return mark
    text = f"the full mark of its metric {'+'.join(metrics)[:60]!r} is not known"
    cure = f"scales: {{{task}: 1}} in a map where it is a fraction, 100 for per cents, or its sum"
    return Problem(f"task {task}", f"{text}, and values do not tell. Cure: {cure}")


def _share(value: float, scale: float) -> float:
    """value / scale; what exceeds the full mark by rounding only is the full mark."""
    share = value / scale
    return 1.0 if 1 < share < 1 + 1e-9 else share


def _value(value: object) -> float | None:
    """As `score_of`; an MMMU record, which holds no score, is judged as its program does later."""
    if isinstance(value, dict) and "parsed_pred" in value and "question_type" in value:
        return _mmmu(value)
    return score_of(value)


def _mmmu(record: Mapping[str, Any]) -> float:
    golds = [str(gold) for gold in _flat([record.get("answer")])]
    given = list(_flat([record["parsed_pred"]]))
    if record["question_type"] == "multiple-choice":
        return float(any(str(letter) in golds for letter in given))
    return float(open_is_right(golds, [g if isinstance(g, str | float) else str(g) for g in given]))


def _flat(values: Iterable[object], depth: int = 4) -> Iterable[object]:
    for value in values:
        if isinstance(value, list) and depth:
            yield from _flat(value, depth - 1)
        elif value is not None:
            yield value
