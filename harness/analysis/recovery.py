"""Recovery: how much of what was lost at one stage (the dip) is back at a later one.

In points it is a paired difference like any other. As a fraction, (S_t - S_s) / (S_0 - S_s), it
is a ratio of two correlated means, and means nothing unless the loss at the dip is itself beyond
chance: then it is NA. Its limits are Fieller's: all fractions f for which T(f) = (S_t - S_s) - f
(S_0 - S_s) cannot be told from 0.

Giving the fraction only where the loss is beyond chance picks the cases in which chance made the
loss large. Where the loss is barely so, Fieller's limits then cover far less than they say (81 %
instead of 95 % in `benchmarks/calibration.py`). So the limits are widened to those of the test
that takes the choice into account: T(f) given the part of the loss that is independent of it is a
truncated normal variable. Losses well beyond chance are not affected; a limit can be infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from harness.analysis.contrasts import CellWeights, Part, estimate, part_of
from harness.analysis.matrix import Judged
from harness.analysis.paired import (
    Floats,
    PairedDifference,
    paired_difference,
    t_quantile,
)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What came back after a dip."""

    points: PairedDifference
    """S_t - S_s."""
    loss: PairedDifference
    """S_0 - S_s: positive = lost."""
    fraction: float
    """1 = all of the loss came back; NaN = NA."""
    low: float
    high: float
    note: str = ""
    """Why the fraction is NA."""


NOT_LOST = "the loss at the dip is not beyond chance"


def recovery(
    base: ArrayLike,
    dip: ArrayLike,
    later: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
    weights: ArrayLike | None = None,
) -> Recovery:
    """Recovery of one benchmark from its sample scores at three stages, (n,) each; NaN left out."""
    scores = np.stack([np.asarray(a, dtype=np.float64) for a in (base, dip, later)])
    scores[:, ~np.isfinite(scores).all(axis=0)] = np.nan
    first, low, back = scores
    points = paired_difference(low, back, groups, level=level, weights=weights)
    loss = paired_difference(low, first, groups, level=level, weights=weights)
    codes = np.arange(len(first)) if groups is None else np.asarray(groups, dtype=np.int64)
    heavy = np.ones(len(first)) if weights is None else np.asarray(weights, dtype=np.float64)
    spread = scaled_covariance(back - low, first - low, codes, heavy, level)
    return _fraction(points, loss, spread, level)


def recovery_of_contrasts(
    judged: Judged, gains: Sequence[CellWeights], losses: Sequence[CellWeights], *, level: float
) -> Recovery:
    """Recovery of a mean over benchmarks; by run, `gains` S_t - S_s and `losses` S_0 - S_s."""
    points = estimate(judged, gains, level=level)
    loss = estimate(judged, losses, level=level)
    nan = float("nan")
    if not (points.known and loss.known):
        return Recovery(points, loss, nan, nan, nan, points.method)
    n = len(gains)
    signs = np.full(n, 1 / n)
    spread = np.zeros((2, 2))
    by_run = np.zeros((2, n))
    for name in sorted({b for run in (*gains, *losses) for _, b in run}):
        up: Part = part_of(judged, name, gains, signs)
        down: Part = part_of(judged, name, losses, signs)
        spread += scaled_covariance(up.values, down.values, up.groups, up.weights, level)
        by_run += [up.by_run, down.by_run]
    if n > 1:
        spread += t_quantile((1 - level) / 2, n - 1) ** 2 * np.cov(by_run) / n
    return _fraction(points, loss, spread, level)


def scaled_covariance(
    gained: Floats,
    lost: Floats,
    groups: np.ndarray[tuple[int], np.dtype[np.int64]],
    weights: Floats,
    level: float,
) -> Floats:
    """(2, 2) clustered covariance of two means, times the squared t quantile; needs two groups."""
    keep = np.isfinite(gained) & np.isfinite(lost)
    codes = np.unique(groups[keep], return_inverse=True)[1]
    heavy = weights[keep]
    n = int(codes.max(initial=-1)) + 1
    if n < 2:
        return np.full((2, 2), np.nan)
    sums = [
        np.bincount(codes, heavy * (x - np.average(x, weights=heavy)))
        for x in (gained[keep], lost[keep])
    ]
    covariance = np.asarray(sums) @ np.asarray(sums).T * n / (n - 1) / heavy.sum() ** 2
    return np.asarray(covariance * t_quantile((1 - level) / 2, n - 1) ** 2)


def _fraction(
    points: PairedDifference, loss: PairedDifference, spread: Floats, level: float
) -> Recovery:
    """The fraction with its limits; `spread`: covariance of (gain, loss), squared t in it."""
    gain, lost = points.delta, loss.delta
    nan = float("nan")
    a = lost**2 - spread[1, 1]
    if not (loss.low > 0 and a > 0):
        return Recovery(points, loss, nan, nan, nan, NOT_LOST)
    b = gain * lost - spread[0, 1]
    c = gain**2 - spread[0, 0]
    root = np.sqrt(max(0.0, b * b - a * c))
    low, high = float((b - root) / a), float((b + root) / a)
    kept = _kept_by_conditional_test(gain, lost, spread, level, low, high)
    return Recovery(points, loss, gain / lost, min(low, kept[0]), max(high, kept[1]))


# Fractions tried on each side of the interval, from a fine to a wide step, and how many of the
# interval's own lengths away the last one is (sinh(7)).
N_TRIED, FARTHEST = 4001, 7.0


def _kept_by_conditional_test(
    gain: float, lost: float, spread: Floats, level: float, low: float, high: float
) -> tuple[float, float]:
    """The lowest and highest fraction that the test given the choice (see above) keeps."""
    tail = (1 - level) / 2
    z = float(special.ndtri(1 - tail))
    (v_gain, v_both), (_, v_lost) = spread / z**2  # normal with the width of the t it stands for
    steps = np.sinh(np.linspace(-FARTHEST, FARTHEST, N_TRIED))
    f = (low + high) / 2 + max(high - low, 1e-9) * steps
    t = gain - f * lost
    sd = np.sqrt(np.maximum(v_gain - 2 * f * v_both + f * f * v_lost, 1e-18))
    slope = (v_both - f * v_lost) / sd**2
    # The fraction is given if lost > z sd(lost); in T: above (slope > 0) or below this edge.
    edge = (z * np.sqrt(v_lost) - (lost - slope * t)) / np.where(slope == 0, 1e-18, slope)
    side = np.where(slope > 0, -1.0, 1.0)
    log_share = special.log_ndtr(side * t / sd) - special.log_ndtr(side * edge / sd)
    share = np.exp(np.minimum(log_share, 0.0))
    kept = np.flatnonzero((share >= tail) & (share <= 1 - tail))
    if len(kept) == 0:
        return low, high
    first, last = kept[0], kept[-1]
    return (
        float(f[first]) if first > 0 else float("-inf"),
        float(f[last]) if last < N_TRIED - 1 else float("inf"),
    )


def score_interval(
    values: Floats,
    groups: np.ndarray[tuple[int], np.dtype[np.int64]],
    weights: Floats,
    level: float,
) -> tuple[float, float, float]:
    """(mean, low, high) of scores (n,) in [0, 1], NaN left out: one cell of the matrix.

    Wilson's interval with the effective number of samples that the clustered variance implies,
    so that it stays within [0, 1] and is not empty at 0 or 1. NaN limits for one group.
    """
    keep = np.isfinite(values)
    n_groups = len(np.unique(groups[keep]))
    mean = float(np.average(values[keep], weights=weights[keep])) if n_groups else float("nan")
    if n_groups < 2:
        return mean, float("nan"), float("nan")
    t = t_quantile((1 - level) / 2, n_groups - 1)
    variance = float(scaled_covariance(values, values, groups, weights, level)[0, 0]) / t**2
    spread = mean * (1 - mean)
    n = spread / variance if variance > 1e-12 and spread > 1e-12 else float(n_groups)
    centre = (mean + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * np.sqrt(max(spread, 0.0) / n + t * t / (4 * n * n))
    return mean, max(0.0, float(centre - half)), min(1.0, float(centre + half))
