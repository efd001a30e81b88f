"""The headline: which of a task's metrics is its score, sample by sample.

A study pairs samples, so the score must exist for one document alone, as a number from 0 to 1.
Metrics that only a whole corpus has (BLEU, perplexity, F1 over all) are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import DataError, did_you_mean
from harness.lmeval.settings import PREFIX


@dataclass(frozen=True, slots=True)
class Headline:
    """A task's metric, and what must be said of it."""

    metric: str
    """`metric,filter` as lm-eval writes it."""
    note: str = ""
    """Where lm-eval sums it up otherwise than by the mean of documents."""


def headline(name: str, task: Any, trial: Mapping[str, Any] | None, wanted: str | None) -> Headline:
    """The metric that `wanted` names, else the first that documents have and more is better of.

    `trial`: `metric,filter` -> value for one document; None = not known. Raises DataError where
    there is none, or the one that is wanted does not exist.
    """
    filters = [ensemble.name for ensemble in task._filters]
    ways = {str(metric): way for metric, way in task.aggregation().items()}
    known = list(dict.fromkeys([*(key.split(",")[0] for key in trial or {}), *ways]))
    if trial is None:
        known = list(ways)
    else:
        known.sort(key=lambda metric: list(ways).index(metric) if metric in ways else len(ways))
    if wanted is not None:
        metric, _, chosen = wanted.partition(",")
        keys = [f"{metric},{f}" for metric in known for f in filters]
        key = f"{metric},{chosen.strip() or filters[0]}"
        if key not in keys:
            near = did_you_mean(wanted, [*known, *keys]) or f"; it has {', '.join(keys)}"
            raise DataError(f"suite.lm_eval.metric.{name}", f"no metric {wanted!r}{near}")
        return Headline(key, _note(metric, ways.get(metric)))
    up = task.higher_is_better()
    fit = [
        metric
        for metric in known
        if up.get(metric) is not False
        and (trial is None or is_score(trial.get(f"{metric},{filters[0]}")))
    ]
    if not fit:
        said = ", ".join(f"{metric} ({_way(way)})" for metric, way in ways.items())
        raise DataError(
            PREFIX + name,
            f"has no score of single documents from 0 to 1, only of all together: {said}; "
            "choose a task with one (acc, exact_match, ...)",
        )
    fit.sort(key=lambda metric: _way(ways.get(metric)) != "mean")
    return Headline(f"{fit[0]},{filters[0]}", _note(fit[0], ways.get(fit[0])))


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
    if aggregation is None or way in ("mean", "nanmean"):
        return ""
    return f"{metric} is the mean of documents here; lm-eval sums it up by {way}"
