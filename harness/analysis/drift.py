"""Drift: why a score fell. Form or knowledge, and which habit the answers took up.

All of it is computed from the same paired, clustered contrasts as the scores: a trait of the
answers (`harness.scoring.traits`) or a token class's mass takes the score's place. A fact is
stated only where its interval excludes zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special, stats

from harness.analysis import forgetting
from harness.analysis.contrasts import estimate
from harness.analysis.drift_table import DRIFT_COLUMNS, rows
from harness.analysis.drift_words import sentence
from harness.analysis.figures import measured_shift
from harness.analysis.flips import RIGHT
from harness.analysis.matrix import Drift, Judged, Trait, scorer_of
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import PairedDifference, not_available
from harness.analysis.scores import StudyScores
from harness.analysis.shifts import (
    Form,
    Path,
    Shift,
    WrongKind,
    held_out_shifts,
    measures_of,
    paths_of,
    value_of,
)
from harness.analysis.strategies import strategies_of

# Measures of a probe whose shift is held against the held-out change, where there was one.
PROBED = ("forced_number_mass", "kl_forward", "free_number_mass")
# Fewer points than this have no interval of a rank correlation.
FEWEST_POINTS = 5


@dataclass(frozen=True, slots=True)
class StageDrift:
    """What is known of why the held-out scores changed up to one stage."""

    path: Path
    t: int
    style: str
    """The type of answer that the stage taught: `integer`; "" where it is not known."""
    held_out: PairedDifference
    """Mean held-out change against the base, by the judging scorer."""
    superficial: PairedDifference
    """What of it the lenient scorer forgives: right answers in other words."""
    essential: PairedDifference
    """What of it the lenient scorer sees as well."""
    wrong_kind: PairedDifference
    """What of it is wrong answers of a type that does not fit."""
    form: PairedDifference
    """`superficial` and `wrong_kind` together; the rest is content."""
    worst: str
    """The held-out benchmark that lost most; "" where none did."""
    worst_change: PairedDifference
    worst_form: PairedDifference
    shifts: tuple[Shift, ...]
    """Held-out means of traits against the base, the largest change first."""
    since: PairedDifference
    """Held-out change since the stage before."""
    n_lost: int
    """Held-out samples of all runs that were right at the base and are wrong now."""
    n_misfit: int
    """How many of them are answered in a type that does not fit; 0 where types are not known."""

    @property
    def stage_name(self) -> str:
        """The stage's name."""
        return self.path.first.stages[self.t].name

    def shift(self, measure: str) -> Shift | None:
        """The shift of that measure; None where it was not measured."""
        return next((shift for shift in self.shifts if shift.measure == measure), None)


@dataclass(frozen=True, slots=True)
class Correlation:
    """A rank correlation of a trait's shift with the held-out change; NaN = too few points."""

    measure: str
    rho: float
    low: float
    high: float
    p_value: float
    n: int
    level: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the scores of a study changed."""

    study: str
    stages: tuple[StageDrift, ...]
    table: pd.DataFrame
    """`drift.csv`: one row per strategy, stage, benchmark (and held-out mean) and measure."""
    correlations: tuple[Correlation, ...]
    """With the shift of the number mass where answers begin (without masses, of the bare-number
    rate), then with those of what a probe read."""
    measures: tuple[str, ...]
    """Everything that was measured of the answers and by diagnostics."""

    @property
    def correlation(self) -> Correlation:
        """With the shift of the number mass, or of the bare-number rate."""
        return self.correlations[0]

    def sentences(self) -> list[str]:
        """One sentence per strategy and stage, in order."""
        return [sentence(found, later_of(found, self.stages)) for found in self.stages]


def explain(scores: StudyScores, options: JudgeOptions | None = None) -> Explanation:
    """Explain a study whose rates hold the traits of its answers.

    Raises UserError for an unknown scorer, IncompatibleError for numbers made in different ways.
    """
    options = options or JudgeOptions()
    judged = Judged(scores, scorer_of(scores, options.scorer))
    judged.check_settings(scores.benchmarks, None)
    paths = [path for strategy in strategies_of(scores) for path in paths_of(strategy)]
    found = tuple(
        stage_drift(judged, path, t, options)
        for path in paths
        for t in range(1, path.first.last + 1)
    )
    known_shifts = [{s.t: s.shifts for s in found if s.path is path} for path in paths]
    table = [
        row
        for path, shifts in zip(paths, known_shifts, strict=True)
        for row in rows(judged, path, options.level, shifts)
    ]
    known = measures_of(scores)
    return Explanation(
        study=scores.study,
        stages=found,
        table=pd.DataFrame(table, columns=DRIFT_COLUMNS),
        correlations=tuple(
            correlation(judged, paths, measure, options.level)
            for measure in (
                "number_mass" if "number_mass" in known else "bare_number",
                *(name for name in PROBED if name in known),
            )
        ),
        measures=tuple(known),
    )


def stage_drift(judged: Judged, path: Path, t: int, options: JudgeOptions) -> StageDrift:
    """Everything behind one stage's sentence."""
    scores, level = judged.scores, options.level
    names = path.first.course.held_out_at(t)
    final = path.cells(forgetting.held_out_change(path.first.course, t))
    step = forgetting.mean_of([forgetting.change(name, t - 1, t) for name in names])
    form = Form(scores, judged.scorer)
    changes = {name: estimate(judged, path.change(name, t), level=level) for name in names}
    losses = {name: found.delta for name, found in changes.items() if found.delta < 0}
    worst = min(losses, key=losses.__getitem__, default="")
    na = not_available("no loss", level=level)
    style = expected_type(scores, path.first.course.trained[t])
    n_lost, n_misfit = lost_samples(judged, path, t)
    return StageDrift(
        path=path,
        t=t,
        style=style,
        held_out=estimate(judged, final, level=level),
        superficial=estimate(Drift(scores), final, level=level),
        essential=estimate(Judged(scores, "lenient"), final, level=level),
        wrong_kind=estimate(WrongKind(scores), final, level=level),
        form=estimate(form, final, level=level),
        worst=worst,
        worst_change=changes.get(worst, na),
        worst_form=estimate(form, path.change(worst, t), level=level) if worst else na,
        shifts=tuple(held_out_shifts(scores, path, t, level)),
        since=estimate(judged, path.cells(step), level=level),
        n_lost=n_lost,
        n_misfit=n_misfit,
    )


def lost_samples(judged: Judged, path: Path, t: int) -> tuple[int, int]:
    """(held-out samples lost since the base, those of them answered in a type that does not fit).

    Summed over benchmarks and runs.
    """
    n_lost = n_misfit = 0
    kinds = [name for name in measures_of(judged.scores) if name.startswith("misfit_")]
    for run in path.runs:
        for name in run.course.held_out_at(t):
            keys = [run.key(0), run.key(t)]
            before, after = judged.columns(name, keys).T
            lost = (before >= RIGHT) & (after < RIGHT)
            misfit = sum(Trait(judged.scores, kind).columns(name, keys)[:, 1] for kind in kinds)
            n_lost += int(lost.sum())
            n_misfit += int((lost & (misfit >= RIGHT)).sum()) if kinds else 0
    return n_lost, n_misfit


def expected_type(scores: StudyScores, target: str | None) -> str:
    """The commonest type of answer that a benchmark asks for; "" where traits are not known."""
    if target is None or target not in scores.benchmarks:
        return ""
    sizes: dict[str, int] = {}
    for name, values in scores.benchmarks[target].rates.items():
        expected, _, given = name.partition(">")
        if given:
            sizes[expected] = int(np.isfinite(values).any(axis=1).sum())
    return max(sizes, key=sizes.__getitem__, default="")


def correlation(judged: Judged, paths: Sequence[Path], measure: str, level: float) -> Correlation:
    """Spearman's rank correlation of a measure's shift and the held-out change, run by run.

    The interval is Fisher's
    z with the standard error of Bonett and Wright (2000). The points of one run are not
    independent of each other, so the interval is rather too narrow.
    """
    trait = Trait(judged.scores, measure)
    points = []
    places = [(run, t) for p in paths for run in p.runs for t in range(1, run.last + 1)]
    for run, t in places:
        weights = forgetting.held_out_change(run.course, t)
        lost = value_of(judged, [run.cells(weights)] if weights else [])
        moved = value_of(trait, measured_shift(trait, [run], t))
        if np.isfinite(lost) and np.isfinite(moved):
            points.append((moved, lost))
    n, nan = len(points), float("nan")
    x, y = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if n < FEWEST_POINTS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(measure, nan, nan, nan, nan, n, level)
    result = stats.spearmanr(x, y)
    rho = float(result.statistic)
    half = float(special.ndtri(0.5 + level / 2)) * np.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = np.arctanh(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    low, high = float(np.tanh(centre - half)), float(np.tanh(centre + half))
    return Correlation(measure, rho, low, high, float(result.pvalue), n, level)


def later_of(found: StageDrift, stages: Sequence[StageDrift]) -> list[StageDrift]:
    """The stages of the same runs that come after."""
    return [other for other in stages if other.path == found.path and other.t > found.t]
