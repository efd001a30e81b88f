"""The table of drift: `drift.csv`, one row per strategy, stage, benchmark and measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from harness.analysis.contrasts import CellWeights
from harness.analysis.figures import measured_shift
from harness.analysis.matrix import Drift, Judged, Trait, scorer_of
from harness.analysis.options import JudgeOptions
from harness.analysis.scores import StudyScores
from harness.analysis.shifts import (
    Form,
    Path,
    Shift,
    WrongKind,
    measures_of,
    never,
    shift_of,
    told_measures,
)
from harness.analysis.strategies import Run, complete_benchmarks, role_at, strategies_of
from harness.types import HELD_OUT_MEAN, MEAN

DRIFT_COLUMNS = [
    "study", "strategy", "run", "n_runs", "stage", "stage_name", "trained_on", "contrast",
    "benchmark", "role", "measure", "unit", "n_samples", "n_groups", "before", "after", "shift",
    "ci_low", "ci_high", "p_value",
]  # fmt: skip
FROM_BASE, FROM_PREVIOUS = "base_to_stage", "previous_to_stage"
# How a measure's numbers are written: (unit, factor). Shares are percent, their shifts points.
UNITS: Mapping[str, tuple[str, float]] = {
    "words": ("words", 100.0), "kl_forward": ("nats", 1.0), "kl_reverse": ("nats", 1.0),
}  # fmt: skip
PERCENT = ("percent", 100.0)


MEASURED_COLUMNS = [
    "strategy", "stage", "measure", "unit", "n_samples", "n_groups", "before", "after", "shift",
    "ci_low", "ci_high",
]  # fmt: skip


def measured(scores: StudyScores, options: JudgeOptions | None = None) -> pd.DataFrame:
    """Held-out means of all measures against the base: a row per strategy, stage and measure.

    As the rows `held_out` of `drift.csv`, but over all runs of a strategy, whatever their orders.
    Measures of one expected type and of one position are left out. A stage at which a benchmark
    lacks what it has at the base has no row: a mean over fewer would be another mean.
    """
    options = options or JudgeOptions()
    judged = Judged(scores, scorer_of(scores, options.scorer))
    usable = complete_benchmarks(judged) if options.common_set else None
    found = []
    for strategy in strategies_of(scores, usable):
        for trait in [Trait(scores, name) for name in told_measures(scores)]:
            for t in range(1, strategy.last + 1):
                if not _whole(trait, strategy.runs, t):
                    continue
                contrast = measured_shift(trait, strategy.runs, t)
                shift = shift_of(trait, contrast, options.level, unseen=True) if contrast else None
                if shift is not None:
                    stage = strategy.longest.key(t).stage
                    row = {"strategy": strategy.name, "stage": stage}
                    found.append(row | _cells_of(trait.scorer, shift))
    return pd.DataFrame(found, columns=MEASURED_COLUMNS)


def _whole(trait: Judged, runs: Sequence[Run], t: int) -> bool:
    """Whether every held-out benchmark that has the trait at the base has it at stage t."""
    return all(
        trait.has(name, run.key(t))
        for run in runs
        if t <= run.last
        for name in run.course.held_out_at(t)
        if trait.has(name, run.key(0))
    )


def rows(
    judged: Judged, path: Path, level: float, held_out: Mapping[int, Sequence[Shift]]
) -> Iterator[dict[str, object]]:
    """The rows of one path; a trait that never occurs has none.

    `held_out`: stage -> the shifts of held-out means that are known already.

    Besides the traits: what is lost in form (`form`, of which `wrong_kind` is one part), and
    what the lenient scorer does not see and sees (`superficial`, `essential`); these against the
    stage before as well.
    """
    scores = judged.scores
    traits: dict[str, Judged] = {name: Trait(scores, name) for name in measures_of(scores)}
    parts: dict[str, Judged] = {
        "superficial": Drift(scores),
        "essential": Judged(scores, "lenient"),
    }
    if traits:
        parts |= {"form": Form(scores, judged.scorer), "wrong_kind": WrongKind(scores)}
    for t in range(1, path.first.last + 1):
        known = {shift.measure: shift for shift in held_out.get(t, ())}
        steps = [(0, measure, trait) for measure, trait in {**traits, **parts}.items()]
        steps += [(t - 1, measure, trait) for measure, trait in parts.items() if t > 1]
        for start, measure, trait in steps:
            for name, contrast in _contrasts(trait, path, start, t).items():
                if never(trait, contrast):
                    continue
                shift = known.get(measure) if name == HELD_OUT_MEAN and not start else None
                shift = shift or shift_of(trait, contrast, level)
                if shift is not None:
                    row = _row(scores, path, t, name) | _cells_of(measure, shift)
                    yield row | {"contrast": FROM_PREVIOUS if start else FROM_BASE}


def _contrasts(trait: Judged, path: Path, start: int, t: int) -> dict[str, Sequence[CellWeights]]:
    """benchmark (and held-out mean) -> what its change from stage `start` to t sums up."""
    benchmarks = trait.scores.benchmarks.items()
    found: dict[str, Sequence[CellWeights]] = {
        name: path.change(name, t, start)
        for name, bench in benchmarks
        if trait.scorer in bench.rates or not isinstance(trait, Trait)
    }
    return {**found, HELD_OUT_MEAN: measured_shift(trait, path.runs, t, start)}


def _row(scores: StudyScores, path: Path, t: int, name: str) -> dict[str, object]:
    stage = path.first.stages[t]
    return {
        "study": scores.study,
        "strategy": path.strategy.name,
        "run": path.run,
        "n_runs": len(path.runs),
        "stage": stage.key.stage,
        "stage_name": stage.name,
        "trained_on": stage.trained_on,
        "benchmark": name,
        "role": MEAN if name == HELD_OUT_MEAN else role_at(scores, name, path.first, t),
    }


def _cells_of(measure: str, shift: Shift) -> dict[str, object]:
    change = shift.change
    unit, factor = UNITS.get(measure.partition("@")[0], PERCENT)
    return {
        "measure": measure,
        "unit": unit,
        "n_samples": change.n_samples,
        "n_groups": change.n_groups,
        "before": factor * shift.before,
        "after": factor * shift.after,
        "shift": factor * change.delta,
        # Nothing is known of a limit that has no end.
        "ci_low": factor * change.low if np.isfinite(change.low) else np.nan,
        "ci_high": factor * change.high if np.isfinite(change.high) else np.nan,
        "p_value": change.p_value,
    }
