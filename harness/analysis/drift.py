"""Drift: why a score fell. Form or knowledge, and which habit the answers took up.

All of it is computed from the same paired, clustered contrasts as the scores: a trait of the
answers (`harness.scoring.traits`) or a token class's mass takes the score's place. A fact is
stated only where its interval excludes zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special, stats

from harness.analysis import forgetting
from harness.analysis.contrasts import CellWeights, estimate
from harness.analysis.figures import measured_shift
from harness.analysis.flips import RIGHT
from harness.analysis.matrix import Drift, Judged, Trait, scorer_of
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import PairedDifference, not_available
from harness.analysis.scores import StudyScores
from harness.analysis.strategies import Run, Strategy, role_at, strategies_of

DRIFT_COLUMNS = [
    "study", "strategy", "run", "n_runs", "stage", "stage_name", "trained_on", "benchmark", "role",
    "measure", "n_samples", "n_groups", "base_pct", "stage_pct", "shift_pp", "ci_low_pp",
    "ci_high_pp", "p_value",
]  # fmt: skip
HELD_OUT = "held_out"
MEAN = "mean"
# Facts told of a stage beside its change: more would bury the ones that matter.
SHOWN_FACTS = 3
# Percent of the lost samples that must have answers of a wrong type before it is told.
TOLD_SHARE = 10
# Fewer points than this have no interval of a rank correlation.
FEWEST_POINTS = 5


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


@dataclass(frozen=True, slots=True)
class Shift:
    """A trait before and after, and its paired difference; shares in [0, 1]."""

    measure: str
    before: float
    after: float
    change: PairedDifference

    @property
    def proven(self) -> bool:
        """Whether the interval excludes zero."""
        return _proven(self.change)


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
    essential: PairedDifference
    worst: str
    """The held-out benchmark that lost most; "" where none did."""
    worst_change: PairedDifference
    worst_superficial: PairedDifference
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
    correlation: Correlation

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
    rows = [row for path in paths for row in _rows(scores, path, options.level)]
    return Explanation(
        study=scores.study,
        stages=found,
        table=pd.DataFrame(rows, columns=DRIFT_COLUMNS),
        correlation=correlation(judged, paths, options.level),
    )


def paths_of(strategy: Strategy) -> list[Path]:
    """The runs grouped by what they were taught, in order of first appearance."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    for run in strategy.runs:
        groups.setdefault((run.course, *(s.name for s in run.stages)), []).append(run)
    return [Path(strategy, tuple(runs)) for runs in groups.values()]


def stage_drift(judged: Judged, path: Path, t: int, options: JudgeOptions) -> StageDrift:
    """Everything behind one stage's sentence."""
    scores, level = judged.scores, options.level
    names = path.first.course.held_out_at(t)
    final = _cells(path, forgetting.held_out_change(path.first.course, t))
    step = forgetting.mean_of([forgetting.change(name, t - 1, t) for name in names])
    drift = Drift(scores)
    changes = {name: estimate(judged, _change(path, name, t), level=level) for name in names}
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
        superficial=estimate(drift, final, level=level),
        essential=estimate(Judged(scores, "lenient"), final, level=level),
        worst=worst,
        worst_change=changes.get(worst, na),
        worst_superficial=estimate(drift, _change(path, worst, t), level=level) if worst else na,
        shifts=tuple(held_out_shifts(scores, path, t, level)),
        since=estimate(judged, _cells(path, step), level=level),
        n_lost=n_lost,
        n_misfit=n_misfit,
    )


def held_out_shifts(scores: StudyScores, path: Path, t: int, level: float) -> list[Shift]:
    """The held-out means of all traits at the base and stage t, largest change first.

    Traits of one expected type (`phrase>integer`) are left to the table.
    """
    found = []
    for name in measures_of(scores):
        if ">" in name:
            continue
        trait = Trait(scores, name)
        shift = _shift(trait, measured_shift(trait, path.runs, t), level)
        if shift is not None:
            found.append(shift)
    return sorted(found, key=lambda shift: (-abs(shift.change.delta), shift.measure))


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


def measures_of(scores: StudyScores) -> list[str]:
    """The names of all rates of a study, in order of first appearance."""
    return list(dict.fromkeys(n for bench in scores.benchmarks.values() for n in bench.rates))


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


def correlation(judged: Judged, paths: Sequence[Path], level: float) -> Correlation:
    """Spearman's rank correlation of number-mass shift and held-out change, run by run.

    Without masses the bare-number rate stands in, and `measure` says so. The interval is Fisher's
    z with the standard error of Bonett and Wright (2000). The points of one run are not
    independent of each other, so the interval is rather too narrow.
    """
    known = measures_of(judged.scores)
    measure = "number_mass" if "number_mass" in known else "bare_number"
    trait = Trait(judged.scores, measure)
    points = []
    places = [(run, t) for p in paths for run in p.runs for t in range(1, run.last + 1)]
    for run, t in places:
        weights = forgetting.held_out_change(run.course, t)
        lost = _value(judged, [run.cells(weights)] if weights else [])
        moved = _value(trait, measured_shift(trait, [run], t))
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


def sentence(found: StageDrift, later: Sequence[StageDrift] = ()) -> str:
    """The few facts that explain the held-out change of one stage.

    `later`: the same runs' later stages, in order, in which recovery is looked for.
    """
    who = found.path.strategy.name
    if len(found.path.strategy.runs) > len(found.path.runs):
        who += f"/{found.path.run}"
    facts = [_held_out_fact(found), *_loss_facts(found), *_trait_facts(found)]
    if found.held_out.high < 0:
        facts += _recovery_fact(found, later)
    return f"{who}, after `{found.stage_name}`: " + "; ".join(facts)


def _held_out_fact(found: StageDrift) -> str:
    change = found.held_out
    if np.isnan(change.delta):
        return "held-out change NA (a cell is missing)"
    text = f"held-out {_pp(change.delta)} pp{_interval(change)}"
    return text if _proven(change) else f"{text}, within chance"


def _loss_facts(found: StageDrift) -> Iterator[str]:
    """How much of the loss is form, and the benchmark that lost most."""
    if found.held_out.high < 0 and not np.isnan(found.superficial.delta):
        yield _form(found.held_out, found.superficial, "the held-out loss")
    worst = f"`{found.worst}`"
    if found.worst_change.high < 0 and found.worst_superficial.high < 0:
        yield _form(found.worst_change, found.worst_superficial, f"the loss on {worst}")
    elif found.worst_change.high < 0:
        yield f"most on {worst}: {_pp(found.worst_change.delta)} pp{_interval(found.worst_change)}"


def _form(change: PairedDifference, form: PairedDifference, what: str) -> str:
    share = 100 * min(1.0, max(0.0, form.delta / change.delta))
    parts = f"{_pp(form.delta)} of {_pp(change.delta)} pp{_interval(form)}"
    return f"{share:.0f} % of {what} is format ({parts})"


def _trait_facts(found: StageDrift) -> Iterator[str]:
    """The habits that changed most, those of the stage's own style and the mass first."""
    first = [f"misfit_{found.style}"] if found.style else []
    if found.style in ("integer", "decimal", ""):
        first = ["bare_number"]
    mass = found.shift("number_mass")
    share = 100 * found.n_misfit / found.n_lost if found.n_lost else 0.0
    if found.held_out.high < 0 and share >= TOLD_SHARE:
        yield f"{share:.0f} % of {found.n_lost} samples lost have answers of a type that is wrong"
    told = 0
    rest = [s.measure for s in found.shifts if s.measure.startswith("misfit_")]
    rest += [s.measure for s in found.shifts if s.measure.startswith("says_")]
    # A bare number is an integer where none fits: one fact, told once.
    double = {"misfit_integer"} if "bare_number" in first else {"bare_number"}
    for name in dict.fromkeys([*first, *rest, "words"]):
        shift = found.shift(name)
        if told < SHOWN_FACTS and shift and shift.proven and name not in double:
            yield _words(shift, found.style)
            told += 1
    if mass and mass.proven:
        yield f"number mass {mass.before:.2f} → {mass.after:.2f}{_interval(mass.change, '')}"


def _words(shift: Shift, style: str) -> str:
    before, after = (f"{100 * share:.1f}" for share in (shift.before, shift.after))
    kind, _, what = shift.measure.partition("_")
    if shift.measure == "bare_number":
        return f"{after} % of answers to other questions are bare numbers (base {before} %)"
    if shift.measure == "words":
        return f"answers of {after} words (base {before})"
    if kind == "says":
        asked = "yes/no questions" if what == "yes" else "choice questions"
        return f"{after} % of answers to {asked} say {what!r} (base {before} %)"
    like = ", the type just trained" if what == style else ""
    noun = what.replace("_", "/")
    return f"{after} % of answers are of type {noun} where it does not fit{like} (base {before} %)"


def _recovery_fact(found: StageDrift, later: Sequence[StageDrift]) -> Iterator[str]:
    """The next later stage that won held-out points back, and what became of the numbers."""
    back = next((stage for stage in later if stage.since.low > 0), None)
    if back is None:
        if later:
            yield "not recovered at a later stage"
        return
    text = f"recovered at `{back.stage_name}` ({_pp(back.since.delta)} pp{_interval(back.since)}"
    for name, title in (("bare_number", "bare numbers"), ("number_mass", "number mass")):
        then, now = found.shift(name), back.shift(name)
        if then and now and then.proven and then.change.delta > 0 and now.after < then.after:
            text += f"; {title} {100 * then.after:.1f} → {100 * now.after:.1f} %"
    yield f"{text})"


def _rows(scores: StudyScores, path: Path, level: float) -> Iterator[dict[str, object]]:
    """The rows of `drift.csv` of one path; a trait that never occurs has none."""
    for t in range(1, path.first.last + 1):
        for measure in measures_of(scores):
            trait = Trait(scores, measure)
            cells = {
                name: _change(path, name, t)
                for name, bench in scores.benchmarks.items()
                if measure in bench.rates
            }
            cells[HELD_OUT] = measured_shift(trait, path.runs, t)
            for name, contrast in cells.items():
                if _never(trait, contrast):
                    continue
                shift = _shift(trait, contrast, level)
                if shift is not None:
                    yield _row(scores, path, t, name) | _cells_of(shift)


def _never(trait: Judged, contrast: Sequence[CellWeights]) -> bool:
    """Whether a trait occurs in none of the cells: no interval is worth its time."""
    return all(trait.mean(name, key) == 0 for run in contrast for key, name in run)


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
        "role": MEAN if name == HELD_OUT else role_at(scores, name, path.first, t),
    }


def _cells_of(shift: Shift) -> dict[str, object]:
    change = shift.change
    return {
        "measure": shift.measure,
        "n_samples": change.n_samples,
        "n_groups": change.n_groups,
        "base_pct": 100 * shift.before,
        "stage_pct": 100 * shift.after,
        "shift_pp": 100 * change.delta,
        "ci_low_pp": 100 * change.low,
        "ci_high_pp": 100 * change.high,
        "p_value": change.p_value,
    }


def _shift(trait: Trait, contrast: Sequence[CellWeights], level: float) -> Shift | None:
    """The trait's shift; None where a cell lacks it."""
    after = _value(trait, [{c: w for c, w in run.items() if w > 0} for run in contrast])
    before = _value(trait, [{c: -w for c, w in run.items() if w < 0} for run in contrast])
    if not np.isfinite(before + after):
        return None
    return Shift(trait.scorer, before, after, estimate(trait, contrast, level=level))


def _value(trait: Judged, runs: Sequence[CellWeights]) -> float:
    """A weighted sum of cell means, averaged over runs; NaN without runs or with a cell missing."""
    sums = [sum(w * trait.mean(name, key) for (key, name), w in run.items()) for run in runs]
    return float(np.mean(sums)) if sums and all(runs) else float("nan")


def _cells(path: Path, weights: forgetting.Weights | None) -> list[CellWeights]:
    return [run.cells(weights) for run in path.runs] if weights else []


def _change(path: Path, name: str, t: int) -> list[CellWeights]:
    return _cells(path, forgetting.change(name, 0, t))


def _proven(change: PairedDifference) -> bool:
    return change.low > 0 or change.high < 0


def _pp(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _interval(change: PairedDifference, unit: str = "pp") -> str:
    if not change.known:
        return ""
    if unit:
        return f" [{_pp(change.low)}, {_pp(change.high)}]"
    return f" [{change.low:+.2f}, {change.high:+.2f}]".replace("-", "−")
