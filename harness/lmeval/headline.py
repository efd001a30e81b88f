"""The headline: which of a task's metrics is its score, sample by sample.

A study pairs samples, so the score must exist for one document alone, as a number from 0 to 1.
Metrics that only a whole corpus has (BLEU, perplexity, F1 over all) are refused by name, and so
are those of which less is better: what falls is forgetting here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import DataError, did_you_mean
from harness.lmeval.settings import PREFIX

# Names of functions that sum a metric up as a study does.
MEANS = ("mean", "nanmean")


@dataclass(frozen=True, slots=True)
class Headline:
    """A task's metric, and what must be said of it."""

    metric: str
    """`metric,filter` as lm-eval writes it."""
    note: str = ""
    """Where lm-eval sums it up otherwise than by the mean of documents."""


def headline(
    name: str, task: Any, trials: Sequence[Mapping[str, Any]], wanted: str | None
) -> Headline:
    """The metric that `wanted` names, else the first that documents have and more is better of.

    `trials`: `metric,filter` -> value, for some documents and answers; none = not known. Raises
    DataError where no metric fits, or the one that is wanted does not exist or does not fit.
    """
    filters = [ensemble.name for ensemble in task._filters]
    ways = {str(metric): way for metric, way in task.aggregation().items()}
    up = task.higher_is_better()
    known = list(dict.fromkeys([*ways, *(key.split(",")[0] for one in trials for key in one)]))

    def fits(key: str) -> bool:
        seen = [one[key] for one in trials if key in one]
        scored = bool(seen) and all(map(is_score, seen)) if trials else True
        return scored and up.get(key.split(",")[0]) is not False

    if wanted is not None:
        metric, _, chosen = wanted.partition(",")
        keys = [f"{metric},{f}" for metric in known for f in filters]
        key = f"{metric},{chosen.strip() or filters[0]}"
        place = f"suite.lm_eval.metric.{name}"
        if key not in keys:
            near = did_you_mean(wanted, [*known, *keys]) or f"; it has {', '.join(keys)}"
            raise DataError(place, f"no metric {wanted!r}{near}")
        fault = _fault(key, trials, up)
        if fault:
            others = [k.removesuffix(f",{filters[0]}") for k in keys if trials and fits(k)]
            if not trials:
                others = [m for m in known if up.get(m) is not False and _way(ways.get(m)) in MEANS]
            cure = f"choose from {', '.join(others)}" if others else "this task has none: drop it"
            raise DataError(
                place,
                f"{metric} {fault}; only metrics from 0 to 1 of which more is better can be "
                f"judged; {cure}",
            )
        return Headline(key, _note(metric, ways.get(metric)))
    fit = [metric for metric in known if fits(f"{metric},{filters[0]}")]
    if not fit:
        faults = {m: _fault(f"{m},{filters[0]}", trials, up) for m in known}
        said = ", ".join(f"{m} ({_way(ways.get(m))}) {faults[m]}".rstrip() for m in known)
        raise DataError(
            PREFIX + name,
            "has no score of single documents from 0 to 1 of which more is better, only: "
            f"{said}; choose a task with one (acc, exact_match, ...)",
        )
    fit.sort(key=lambda metric: _way(ways.get(metric)) != "mean")
    return Headline(f"{fit[0]},{filters[0]}", _note(fit[0], ways.get(fit[0])))


def _fault(key: str, trials: Sequence[Mapping[str, Any]], up: Mapping[str, Any]) -> str:
    """Why a study cannot be judged by a metric; "" = nothing speaks against it."""
    if up.get(key.split(",")[0]) is False:
        return "is better when it is lower (`higher_is_better: false`)"
    wrong = [one[key] for one in trials if key in one and not is_score(one[key])]
    return f"is {' '.join(repr(wrong[0]).split()):.40} for a trial answer" if wrong else ""


def is_score(value: Any) -> bool:
    """Whether a metric's value for one document is a number from 0 to 1.

    >>> is_score(True), is_score(37.5), is_score(("gold", "answer"))
    (True, False, False)
    """
    number = as_number(value)
    return number is not None and 0.0 <= number <= 1.0


def as_number(value: Any) -> float | None:
    """The value as a float; None for what is no finite number (pairs for corpus metrics)."""
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        value = value.item()
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        return None
    return float(value)


def _way(aggregation: Any) -> str:
    """The name of the function that sums a metric up."""
    named = getattr(aggregation, "__name__", None) or getattr(aggregation, "func", aggregation)
    return str(getattr(named, "__name__", named))


def _note(metric: str, aggregation: Any) -> str:
    way = _way(aggregation)
    if aggregation is None or way in MEANS:
        return ""
    return f"{metric} is the mean of documents here; lm-eval sums it up by {way}"
