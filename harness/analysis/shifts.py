"""A shift: a trait of the answers (or of the distributions behind them) before and after stages.

Every trait is a number per sample, so its change is a contrast like that of a score: paired,
clustered, over runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis import forgetting
from harness.analysis.contrasts import CellWeights, estimate
from harness.analysis.figures import measured_shift
from harness.analysis.matrix import Judged, Trait
from harness.analysis.paired import Floats, PairedDifference, not_available
from harness.analysis.scores import BenchmarkScores, StudyScores
from harness.analysis.strategies import Run, Strategy
from harness.types import MEAN


@dataclass(frozen=True, slots=True)
class Path:
    """The runs of a strategy that taught the same stages in the same order."""

    strategy: Strategy
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """Any of the runs: they have the same stages."""
        return self.runs[0]

    @property
    def run(self) -> str:
        """`run` in files: the run's name, or `mean` for several."""
        return self.first.name if len(self.runs) == 1 else MEAN

    def cells(self, weights: forgetting.Weights | None) -> list[CellWeights]:
        """A figure's contrast in each run; none where the figure is not defined."""
        return [run.cells(weights) for run in self.runs] if weights else []

    def change(self, benchmark: str, t: int, start: int = 0) -> list[CellWeights]:
        """One benchmark's change from stage `start` (the base) to stage t."""
        return self.cells(forgetting.change(benchmark, start, t))


@dataclass(frozen=True, slots=True)
class Shift:
    """A trait before and after, and its paired difference, in the trait's own unit."""

    measure: str
    before: float
    after: float
    change: PairedDifference

    @property
    def proven(self) -> bool:
        """Whether the interval excludes zero."""
        return proven(self.change)


class WrongKind(Judged):
    """Wrong answers of a type that fits neither question nor gold, as a loss: in [-1, 0].

    "3" for the colour of a thing: the lenient scorer gives nothing for it, yet it tells of a
    habit, not of what is known of the colour.
    """

    def __init__(self, scores: StudyScores):
        super().__init__(scores, "answers of a type that does not fit")

    def values(self, bench: BenchmarkScores) -> Floats:
        """(n, n_columns); NaN where answers or the lenient scorer are not there."""
        kinds = [rate for name, rate in bench.rates.items() if name.startswith("misfit_")]
        if not kinds or "lenient" not in bench.values:
            return np.full(bench.status.shape, np.nan)
        return np.asarray((bench.values["lenient"] - 1) * np.sum(kinds, axis=0))


class Form(WrongKind):
    """What of a score's loss is form: right answers in other words, and answers of a wrong type.

    The rest, wrong answers of the right type, is content. Both sum up to the score's change.
    Where the types of answers are not known, form is what the lenient scorer forgives.
    """

    def __init__(self, scores: StudyScores, scorer: str):
        super().__init__(scores)
        self._judge = scorer

    def values(self, bench: BenchmarkScores) -> Floats:
        """(n, n_columns) in [-1, 0] for any honest pair of scorers."""
        if self._judge not in bench.values:
            return np.full(bench.status.shape, np.nan)
        forgiven = bench.values[self._judge] - bench.values.get("lenient", np.nan)
        typed = any(name.startswith("misfit_") for name in bench.rates)
        return np.asarray(forgiven + super().values(bench) if typed else forgiven)


def paths_of(strategy: Strategy) -> list[Path]:
    """The runs grouped by what they were taught, in order of first appearance."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in strategy.runs:
        groups.setdefault((run.course, *(s.name for s in run.stages)), []).append(run)
    return [Path(strategy, tuple(runs)) for runs in groups.values()]


def measures_of(scores: StudyScores) -> list[str]:
    """The names of all rates of a study, in order of first appearance."""
    return list(dict.fromkeys(n for bench in scores.benchmarks.values() for n in bench.rates))


def told_measures(scores: StudyScores) -> list[str]:
    """Those of a whole answer, whatever was asked: not of one expected type or one position."""
    return [name for name in measures_of(scores) if ">" not in name and "@" not in name]


def held_out_shifts(scores: StudyScores, path: Path, t: int, level: float) -> list[Shift]:
    """The held-out means of all traits at the base and stage t, largest change first.

    Traits of one expected type (`phrase>integer`) and of one position are left to the table.
    """
    found = []
    for name in told_measures(scores):
        trait = Trait(scores, name)
        contrast = measured_shift(trait, path.runs, t)
        shift = shift_of(trait, contrast, level)
        if shift is not None:
            found.append(shift)
    return sorted(found, key=lambda shift: (-abs(shift.change.delta), shift.measure))


def never(trait: Judged, contrast: Sequence[CellWeights]) -> bool:
    """Whether a trait occurs in none of the cells: no interval is worth its time."""
    means = (trait.mean(name, key) for run in contrast for key, name in run)
    return not trait.signed and all(mean == 0 for mean in means)


def shift_of(
    trait: Judged, contrast: Sequence[CellWeights], level: float, *, unseen: bool = False
) -> Shift | None:
    """The trait's shift; None where a cell lacks it.

    Where it never occurs limits take time and tell little: only if `unseen` are they made.
    """
    after = value_of(trait, [{c: w for c, w in run.items() if w > 0} for run in contrast])
    before = value_of(trait, [{c: -w for c, w in run.items() if w < 0} for run in contrast])
    if not np.isfinite(before + after):
        return None
    if not unseen and never(trait, contrast):
        still = replace(not_available("never occurs", level=level), delta=0.0)
        return Shift(trait.scorer, before, after, still)
    return Shift(trait.scorer, before, after, estimate(trait, contrast, level=level))


def value_of(trait: Judged, runs: Sequence[CellWeights]) -> float:
    """A weighted sum of cell means, averaged over runs; NaN without runs or with a cell missing."""
    sums = [sum(w * trait.mean(name, key) for (key, name), w in run.items()) for run in runs]
    return float(np.mean(sums)) if sums and all(runs) else float("nan")


def proven(change: PairedDifference) -> bool:
    """Whether the interval excludes zero."""
    return change.low > 0 or change.high < 0
