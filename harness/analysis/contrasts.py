"""A contrast: a weighted sum of cells, over one or several runs, with its interval.

Samples. Within a benchmark the weights turn each sample's scores into one number, so that
everything is paired; its mean has the interval of `harness.analysis.paired`. Benchmarks have
different samples: the limits of their sum are joined by square-and-add (for t intervals this is
SE = sqrt(sum SE_b^2); it also keeps the lopsided limits of exact methods).

Runs. All runs answer the same samples, so the spread over runs comes on top of the sampling of
samples: variance = variance over runs / R + sampling variance of the mean over runs. Its limits
are joined by square-and-add as well, with t of R-1 degrees of freedom for the runs. With one run
nothing is known about other runs, and `n_runs` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.analysis.matrix import Judged, label, scorer_of
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import (
    Floats,
    PairedDifference,
    mean_value,
    not_available,
    t_quantile,
    t_two_sided,
)
from harness.analysis.scores import StageKey, StudyScores
from harness.errors import IncompatibleError, Problem

# Method of a difference between a checkpoint and itself, which is exactly 0.
SAME = "same checkpoint"
# One run's contrast: (column, benchmark) -> weight.
CellWeights = Mapping[tuple[StageKey, str], float]


@dataclass(frozen=True, slots=True)
class Part:
    """One benchmark's share of a contrast, sample by sample."""

    values: Floats
    """(n,) the contrast of each sample, averaged over runs; NaN = incomplete."""
    by_run: Floats
    """(R,) the contrast of each run, over the same samples."""
    groups: np.ndarray[tuple[int], np.dtype[np.int64]]
    weights: Floats
    n_dropped: int
    reach: float
    same: bool
    """All cells are one and the same: the contrast is exactly 0."""


def part_of(judged: Judged, benchmark: str, runs: Sequence[CellWeights], signs: Floats) -> Part:
    """What `benchmark` adds to the contrasts of `runs`; `signs` (R,) sum the runs up."""
    keys = sorted({key for run in runs for key, name in run if name == benchmark})
    loads = np.array([[run.get((key, benchmark), 0.0) for key in keys] for run in runs])
    scores = judged.columns(benchmark, keys).T
    bench = judged.scores.benchmarks[benchmark]
    total = signs @ loads
    complete = np.isfinite(scores).all(axis=0)
    values = np.where(complete, total @ scores, np.nan)
    n_dropped, heavy = 0, bench.weights
    if not complete.all():
        n_dropped = int((np.isfinite(scores).any(axis=0) & ~complete).sum())
        scores, heavy = scores[:, complete], heavy[complete]
    means = scores @ heavy / heavy.sum() if len(heavy) else np.full(len(keys), np.nan)
    same = all(judged.same_signature(benchmark, keys[0], key) for key in keys[1:])
    return Part(
        values=values,
        by_run=loads @ means,
        groups=bench.groups,
        weights=bench.weights,
        n_dropped=n_dropped,
        reach=judged.reach * float(max(total[total > 0].sum(), -total[total < 0].sum())),
        same=same and len(keys) > 1 and abs(float(total.sum())) < 1e-12,
    )


def check_overlap(judged: Judged, benchmark: str, keys: Sequence[StageKey], limit: float) -> None:
    """Raise IncompatibleError if more than `limit` of the samples are not in all cells given."""
    known = np.isfinite(judged.columns(benchmark, sorted(set(keys))).T)
    there = np.asarray(known.any(axis=1))
    if there.sum() < 2:
        return
    seen = known[there]
    n_all, n_common = int(seen.any(axis=0).sum()), int(seen.all(axis=0).sum())
    if n_all - n_common > limit * n_all:
        names = ", ".join(
            label(key) for key, is_there in zip(sorted(set(keys)), there, strict=True) if is_there
        )
        text = (
            f"{n_all - n_common} of {n_all} samples have no score in one of {names}, "
            f"expected at most {limit:.0%}; score the rest, or raise --max-dropped"
        )
        raise IncompatibleError(f"study {judged.scores.study}", [Problem(benchmark, text)])


def estimate(
    judged: Judged,
    runs: Sequence[CellWeights],
    *,
    against: Sequence[CellWeights] = (),
    level: float = 0.95,
) -> PairedDifference:
    """The mean contrast over `runs` (minus that over `against`), as a fraction.

    NA (with the reason as `method`) where a cell is missing or there is nothing to sum. With
    `against`, runs are independent of each other: pair them beforehand where they match.
    """
    everything = [*runs, *against]
    benchmarks = sorted({name for run in everything for _, name in run})
    if not benchmarks:
        return not_available("not defined", level=level)
    missing = [c for run in everything for c in run if not judged.has(c[1], c[0])]
    if missing:
        return not_available("missing cell", level=level)
    signs = np.concatenate(
        [np.full(len(runs), 1 / len(runs)), np.full(len(against), -1 / max(1, len(against)))]
    )
    parts = [part_of(judged, name, everything, signs) for name in benchmarks]
    pieces = [_sampling(part, level) for part in parts]
    by_run = np.sum([part.by_run for part in parts], axis=0)
    spreads = [spread(by_run[: len(runs)])]
    if against:
        spreads.append(spread(by_run[len(runs) :]))
    return add_up(pieces, spreads, level=level, n_runs=min(len(runs), len(against) or len(runs)))


def _sampling(part: Part, level: float) -> PairedDifference:
    found = mean_value(
        part.values,
        part.groups,
        weights=part.weights,
        level=level,
        reach=part.reach,
        n_dropped=part.n_dropped,
    )
    if part.same and np.isfinite(found.delta):
        return replace(
            found, delta=0.0, low=0.0, high=0.0, lower=0.0, upper=0.0, p_value=1.0, method=SAME
        )
    return found


@dataclass(frozen=True, slots=True)
class Spread:
    """Uncertainty of a mean over runs that comes from the runs; df 0 = one run, not known."""

    error: float
    df: float


def spread(by_run: Floats) -> Spread:
    """Of the mean of (R,) values, one per run."""
    n = len(by_run)
    return Spread(float(np.std(by_run, ddof=1) / np.sqrt(n)), n - 1) if n > 1 else Spread(0.0, 0)


def add_up(
    pieces: Sequence[PairedDifference], spreads: Sequence[Spread], *, level: float, n_runs: int
) -> PairedDifference:
    """The sum of independent pieces (one per benchmark) with the spread over runs on top.

    NA if any piece is; without limits if any piece has none.
    """
    varied = [s for s in spreads if s.df > 0]
    if len(pieces) == 1 and not varied:
        return replace(pieces[0], n_runs=n_runs)
    delta = sum(piece.delta for piece in pieces)
    tail = 1.0 - level
    two, one = [_run_half(varied, t) for t in (tail / 2, tail)]
    low = delta - np.hypot(_size([p.delta - p.low for p in pieces]), two)
    high = delta + np.hypot(_size([p.high - p.delta for p in pieces]), two)
    lower = delta - np.hypot(_size([p.delta - p.lower for p in pieces]), one)
    upper = delta + np.hypot(_size([p.upper - p.delta for p in pieces]), one)
    # The test that agrees with the interval: t with the degrees of freedom of the summed halves.
    halves = [p.delta - p.low if delta > 0 else p.high - p.delta for p in pieces]
    dfs = [float(max(1, p.n_groups - 1)) for p in pieces]
    df = satterthwaite(
        [*halves, *[_run_half([s], tail / 2) for s in varied]], [*dfs, *[s.df for s in varied]]
    )
    half = delta - low if delta > 0 else high - delta
    p_value = _p_from_half(delta, float(half), tail, df)
    methods = sorted({piece.method for piece in pieces})
    return PairedDifference(
        delta=float(delta) + 0.0,
        low=float(low),
        high=float(high),
        lower=float(lower),
        upper=float(upper),
        p_value=p_value,
        n_samples=sum(piece.n_samples for piece in pieces),
        n_groups=sum(piece.n_groups for piece in pieces),
        method=" and ".join(methods) + (" and runs" if varied else ""),
        n_dropped=sum(piece.n_dropped for piece in pieces),
        level=level,
        n_runs=n_runs,
    )


def satterthwaite(halves: Sequence[float], dfs: Sequence[float]) -> float:
    """Degrees of freedom of a sum of independent variances, of which `halves` are the roots."""
    squares = np.square(np.asarray(halves, dtype=np.float64))
    if not 0 < squares.sum() < np.inf:  # nothing varies, or a limit has no end
        return float(min(dfs))
    return float(squares.sum() ** 2 / np.sum(squares**2 / np.asarray(dfs)))


def _run_half(varied: Sequence[Spread], tail: float) -> float:
    if not varied:
        return 0.0
    error = _size([s.error for s in varied])
    return (
        t_quantile(tail, satterthwaite([s.error for s in varied], [s.df for s in varied])) * error
    )


def _size(values: Sequence[float]) -> float:
    return float(np.sqrt(np.square(values).sum()))


def _p_from_half(delta: float, half: float, tail: float, df: float) -> float:
    if np.isnan(half):
        return float("nan")
    if half == 0:
        return 1.0 if delta == 0 else 0.0
    return t_two_sided(delta / half * t_quantile(tail / 2, df), df)


def difference_between(
    scores: StudyScores,
    benchmarks: Sequence[str],
    before: Sequence[StageKey],
    after: Sequence[StageKey],
    options: JudgeOptions,
) -> PairedDifference:
    """How one benchmark, or the plain mean of several, changed from `before` to `after`.

    Several stages on a side are runs. As many on both sides: paired by position; one `before`:
    the base that all `after` share; else two independent sets of runs. Raises IncompatibleError
    when the cells were made in different ways or have different samples; NA for a missing cell.
    """
    judged = Judged(scores, scorer_of(scores, options.scorer))
    judged.check_settings(benchmarks, [*before, *after])
    for name in benchmarks:
        check_overlap(judged, name, [*before, *after], options.max_dropped)
    share = 1 / max(1, len(benchmarks))

    def side(key: StageKey, sign: float) -> dict[tuple[StageKey, str], float]:
        return {(key, name): sign * share for name in benchmarks}

    if len(before) == 1 or len(before) == len(after):
        starts = list(before) * (len(after) if len(before) == 1 else 1)
        pairs = [add_weights(side(e, 1), side(s, -1)) for s, e in zip(starts, after, strict=True)]
        return estimate(judged, pairs, level=options.level)
    ups, downs = [side(key, 1) for key in after], [side(key, 1) for key in before]
    return estimate(judged, ups, against=downs, level=options.level)


def add_weights(*contrasts: CellWeights) -> CellWeights:
    """The sum of contrasts, cell by cell; cells that cancel stay, so that samples stay paired."""
    total: dict[tuple[StageKey, str], float] = {}
    for contrast in contrasts:
        for cell, weight in contrast.items():
            total[cell] = total.get(cell, 0.0) + weight
    return total
