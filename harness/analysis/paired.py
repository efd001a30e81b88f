"""A paired difference: how much the mean score of the same samples changed, and how sure that is.

The samples of one image are not independent, so all arithmetic is on groups. With D_g the summed
(weighted) difference of group g and W_g its summed weight, the estimate is sum(D) / sum(W).
Which interval is used depends on what the data can bear, and `method` says which it was:

- `clustered t`: the usual case, at least 300 samples and 30 (effective) groups. Variance
  G/(G-1) * sum((D_g - delta W_g)^2) / W^2 and t with G-1 degrees of freedom: what a
  cluster-robust regression on a constant gives (arXiv:2411.00640).
- `mcnemar mid-p`: 0/1 scores, every sample its own group, few samples or few changes.
- `rare differences`: so few groups changed that no variance can be estimated from them. Lost and
  gained groups are counted like rare events (weighted Poisson limits, Fay and Feuer 1997).
- `sign flips`: few groups or few samples. The permutation test that swaps before and after
  within whole groups, and the interval of all shifts that it does not reject.
- `all equal`: every group changed by the same amount, mostly nothing. That is evidence, not
  certainty: the limits are those of an event that was not seen in G trials ("rule of three").
- `one group`, `no samples`: no interval exists; the limits are NaN.

All limits are antisymmetric: swapping before and after negates them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

Floats = NDArray[np.float64]

# Below these the t interval is replaced by exact methods (shared definition of "few").
FEW_SAMPLES = 300
FEW_GROUPS = 30
# Fewer changed groups than this, and fewer than a third of all: too rare for a variance. With
# 14 flips in 150 groups the one-sided t bound missed in 8 % (benchmarks/calibration.py).
FEW_CHANGES = 30
# Random subsets of groups where enumerating all is too much; the seed is fixed so that the same
# scores always give the same interval.
N_SUBSETS = 8192
ENUMERATE_UP_TO = 12
# Sums of floats that should cancel do so to about this.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """An estimate with its limits, as fractions (not points); NaN = cannot be had."""

    delta: float
    low: float
    """Two-sided limits at `level`."""
    high: float
    lower: float
    """One-sided limits at `level`: the ones a verdict looks at."""
    upper: float
    p_value: float
    """Two-sided, against no difference."""
    n_samples: int
    n_groups: int
    method: str
    n_dropped: int = 0
    """Samples that had a score on one side only."""
    level: float = 0.95
    n_runs: int = 1

    @property
    def known(self) -> bool:
        """Whether there are limits, not only an estimate (or nothing)."""
        return not (np.isnan(self.low) or np.isnan(self.high))


def not_available(why: str, *, level: float = 0.95, n_dropped: int = 0) -> PairedDifference:
    """The difference that is NA, with the reason as its method."""
    nan = float("nan")
    return PairedDifference(nan, nan, nan, nan, nan, nan, 0, 0, why, n_dropped, level)


@dataclass(frozen=True, slots=True)
class Clusters:
    """Differences summed by group: all that an interval needs."""

    delta: float
    sums: Floats
    """(G,) weighted sums of the differences."""
    sizes: Floats
    """(G,) summed weights, positive."""
    n_samples: int
    flips: bool
    """Every sample is its own group, weighs the same and changes by -1, 0 or 1."""
    reach: float = 1.0
    """The largest size a difference can have."""

    @property
    def n_groups(self) -> int:
        """G, the number of groups."""
        return len(self.sums)

    @property
    def total(self) -> float:
        """The summed weight of all samples."""
        return float(self.sizes.sum())

    @property
    def n_effective(self) -> float:
        """How many groups of equal size would be as good: (sum W)^2 / sum W^2."""
        return float(self.total**2 / np.square(self.sizes).sum())


def cluster(
    values: Floats, groups: NDArray[np.int64], weights: Floats | None = None, reach: float = 1.0
) -> Clusters:
    """Sum finite `values` (n,) by group code (n,); n >= 1."""
    heavy = np.ones(len(values)) if weights is None else weights
    codes = np.unique(groups, return_inverse=True)[1]
    sizes: Floats = np.bincount(codes, weights=heavy).astype(np.float64)
    sums: Floats = np.bincount(codes, weights=heavy * values).astype(np.float64)
    sums[np.abs(sums) < ROUNDING * sizes] = 0.0
    flips = (
        reach == 1.0
        and len(sizes) == len(values)
        and bool((np.abs(values) % 1.0 == 0).all())
        and bool((heavy == heavy[0]).all())
    )
    return Clusters(float(sums.sum() / sizes.sum()), sums, sizes, len(values), flips, reach)


def paired_difference(
    before: ArrayLike,
    after: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
    weights: ArrayLike | None = None,
) -> PairedDifference:
    """Mean of `after - before` over the samples that have both, with its interval.

    `before`, `after`: (n,) scores in [0, 1]; NaN = no score. `groups`: (n,) integer codes of the
    image each sample belongs to (None: all different). `weights`: (n,) positive, for a weighted
    mean. Nothing raises for lack of data: without samples everything is NaN, with one group only
    `delta` is known.

    >>> paired_difference([1, 1, 0, 0] * 200, [1, 0, 0, 0] * 200).delta
    -0.25
    """
    x = np.asarray(before, dtype=np.float64)
    y = np.asarray(after, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"before {x.shape} and after {y.shape} must be (n,) alike")
    codes = np.arange(len(x)) if groups is None else np.asarray(groups, dtype=np.int64)
    heavy = None if weights is None else np.asarray(weights, dtype=np.float64)
    n_dropped = int((np.isfinite(x) != np.isfinite(y)).sum())
    return mean_value(y - x, codes, weights=heavy, level=level, n_dropped=n_dropped)


def mean_value(
    values: Floats,
    groups: NDArray[np.int64],
    *,
    weights: Floats | None = None,
    level: float = 0.95,
    reach: float = 1.0,
    n_dropped: int = 0,
) -> PairedDifference:
    """The mean of per-sample differences (n,), NaN left out, with its interval.

    `values` may be any linear combination of scores, for example a difference of differences;
    `reach` is then the largest size it can have.
    """
    keep = np.isfinite(values)
    if not keep.any():
        return not_available("no samples", level=level, n_dropped=n_dropped)
    data = cluster(values[keep], groups[keep], None if weights is None else weights[keep], reach)
    method, limits, p_value = choose_method(data)
    tail = 1.0 - level
    low, high = limits(tail / 2)
    lower, upper = limits(tail)
    low, high = agree(low, high, p_value >= tail, data.delta)
    return PairedDifference(
        delta=data.delta + 0.0,
        low=low,
        high=high,
        # What two sides exclude, one side excludes all the more.
        lower=max(low, lower),
        upper=min(high, upper),
        p_value=p_value,
        n_samples=data.n_samples,
        n_groups=data.n_groups,
        method=method,
        n_dropped=n_dropped,
        level=level,
    )


def agree(low: float, high: float, may_be_zero: bool, delta: float) -> tuple[float, float]:
    """Make limits of exact methods tell the same as their test: 0 inside, or just outside."""
    if np.isnan(low):
        return low, high
    if may_be_zero:
        return min(low, 0.0), max(high, 0.0)
    if low <= 0 <= high:
        edge = float(np.nextafter(0.0, delta))
        return (edge, high) if delta > 0 else (low, edge)
    return low, high


Limits = Callable[[float], tuple[float, float]]
"""Probability in each tail -> (low, high)."""


def choose_method(data: Clusters) -> tuple[str, Limits, float]:
    """(name, limits, p-value) of the method that suits the data (see the module)."""
    n_changed = int((data.sums != 0).sum())
    nan = float("nan")
    if data.n_groups == 1:
        return "one group", lambda _: (nan, nan), nan
    if np.ptp(data.sums / data.sizes) < ROUNDING:
        return "all equal", lambda tail: unseen_limits(data, tail), sign_flip_test(data)
    if data.flips and (data.n_samples < FEW_SAMPLES or n_changed < FEW_CHANGES):
        p_value = mcnemar(*lost_and_gained(data.sums), mid_p=True)
        return "mcnemar mid-p", lambda tail: rare_limits(data, tail), p_value
    if n_changed < FEW_CHANGES and 3 * n_changed < data.n_groups:
        return "rare differences", lambda tail: rare_limits(data, tail), sign_flip_test(data)
    if data.n_samples < FEW_SAMPLES or data.n_effective < FEW_GROUPS:
        sums, sizes = subset_sums(data)
        means = np.sort(sums / sizes)
        return (
            "sign flips",
            lambda tail: sign_flip_limits(means, tail, data.reach),
            sign_flip_test(data),
        )
    return "clustered t", lambda tail: t_limits(data, tail), t_test(data)


def lost_and_gained(changes: ArrayLike) -> tuple[int, int]:
    """How many values are below and above zero; NaN is neither."""
    values = np.asarray(changes, dtype=np.float64)
    return int((values < 0).sum()), int((values > 0).sum())


def standard_error(data: Clusters) -> float:
    """Of the weighted mean, clustered, with the G/(G-1) correction; G >= 2."""
    residuals = data.sums - data.delta * data.sizes
    g = data.n_groups
    return float(np.sqrt(np.square(residuals).sum() * g / (g - 1)) / data.total)


def t_quantile(tail: float, df: float) -> float:
    """The value that t with `df` degrees of freedom exceeds with probability `tail`."""
    return (
        float(special.stdtrit(df, 1.0 - tail))
        if np.isfinite(df)
        else float(special.ndtri(1 - tail))
    )


def t_two_sided(statistic: float, df: float) -> float:
    """P(|T| >= |statistic|)."""
    if np.isfinite(df):
        return float(2.0 * special.stdtr(df, -abs(statistic)))
    return float(2.0 * special.ndtr(-abs(statistic)))


def t_limits(data: Clusters, tail: float) -> tuple[float, float]:
    """Limits of t with G-1 degrees of freedom, `tail` on each side."""
    half = t_quantile(tail, data.n_groups - 1) * standard_error(data)
    return data.delta - half, data.delta + half


def t_test(data: Clusters) -> float:
    """Two-sided p-value of t with G-1 degrees of freedom."""
    return t_two_sided(data.delta / standard_error(data), data.n_groups - 1)


def mcnemar(lost: int, gained: int, *, mid_p: bool = False) -> float:
    """Two-sided p-value of `lost` against `gained` samples, exact binomial or mid-p.

    >>> mcnemar(5, 0)
    0.0625
    """
    n = lost + gained
    if n == 0:
        return 1.0
    few = min(lost, gained)
    p_value = 2.0 * float(special.bdtr(few, n, 0.5))
    if mid_p:
        p_value -= float(special.comb(n, few)) * 0.5**n
    return min(1.0, p_value)


def unseen_limits(data: Clusters, tail: float) -> tuple[float, float]:
    """All groups changed alike: another value may be as frequent as what G trials can miss."""
    share = 1.0 - tail ** (1.0 / data.n_effective)
    return (
        (1 - share) * data.delta - share * data.reach,
        (1 - share) * data.delta + share * data.reach,
    )


def rare_limits(data: Clusters, tail: float) -> tuple[float, float]:
    """Losses and gains as two counts of rare events, their limits joined by square-and-add.

    0/1 flips of single samples are binomial (Clopper-Pearson); group sums are weighted Poisson
    counts (Fay and Feuer 1997), an unseen event being as heavy as the heaviest one seen.
    """
    shares = data.sums / data.total
    if data.flips:
        lost, gained = lost_and_gained(shares)
        loss = _binomial_limits(lost, data.n_samples, tail)
        gain = _binomial_limits(gained, data.n_samples, tail)
    else:
        heaviest = float(np.abs(shares).max())
        loss = _poisson_limits(-shares[shares < 0], heaviest, tail)
        gain = _poisson_limits(shares[shares > 0], heaviest, tail)
    lost_share = float(-shares[shares < 0].sum())
    gained_share = float(shares[shares > 0].sum())
    low = data.delta - np.hypot(gained_share - gain[0], loss[1] - lost_share)
    high = data.delta + np.hypot(gain[1] - gained_share, lost_share - loss[0])
    return max(float(low), -data.reach), min(float(high), data.reach)


def _binomial_limits(count: int, n: int, tail: float) -> tuple[float, float]:
    low = float(special.betaincinv(count, n - count + 1, tail)) if count > 0 else 0.0
    high = float(special.betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    return low, high


def _poisson_limits(weights: Floats, heaviest: float, tail: float) -> tuple[float, float]:
    """Limits of a sum of `weights`, one per event."""
    mean, variance = float(weights.sum()), float(np.square(weights).sum())
    low = 0.0
    if mean > 0:
        low = variance / mean * float(special.gammaincinv(mean**2 / variance, tail))
    mean, variance = mean + heaviest, variance + heaviest**2
    high = variance / mean * float(special.gammaincinv(mean**2 / variance, 1 - tail))
    return low, high


# Every set of eight groups: the 256 rows that a byte of `subsets_of` chooses from.
_OCTETS = ((np.arange(256)[:, None] >> np.arange(7, -1, -1)) & 1).astype(np.float64)


@lru_cache(maxsize=64)
def subsets_of(n: int) -> NDArray[np.uint8]:
    """(ceil(n / 8), n_subsets) non-empty subsets of n groups, eight to a byte, the first highest.

    All of them, or a fixed choice.
    """
    if n <= ENUMERATE_UP_TO:
        numbers = np.arange(1, 2**n)[:, None]
        chosen = np.asarray((numbers >> np.arange(n)) % 2, dtype=bool)
    else:
        # Thousands of groups get here when one of them outweighs the rest: fewer will do.
        n_subsets = min(N_SUBSETS, max(1000, 10_000_000 // n))
        chosen = np.random.default_rng(n).random((n_subsets, n), dtype=np.float32) < 0.5
        chosen = chosen[chosen.any(axis=1)]
    return np.ascontiguousarray(np.packbits(chosen, axis=1).T)


def subset_sums(data: Clusters) -> tuple[Floats, Floats]:
    """Sums and sizes of subsets of the groups; the order of groups does not matter.

    The groups are put into a canonical order, the same for the data and for their negative.
    """
    keys = np.round(data.sums, 9) + 0.0
    up, down = np.lexsort((keys, data.sizes)), np.lexsort((-keys, data.sizes))
    order = up if tuple(keys[up]) >= tuple(-keys[down]) else down
    return _summed(data.sums[order]), _summed(data.sizes[order])


def _summed(values: Floats) -> Floats:
    """(n_subsets,) sums of (n,) values, looked up eight groups at a time: no product is needed."""
    subsets = subsets_of(len(values))
    padded = np.zeros(8 * len(subsets))
    padded[: len(values)] = values
    total = np.zeros(subsets.shape[1])
    for octet, chosen in zip(padded.reshape(-1, 8) @ _OCTETS.T, subsets, strict=True):
        total += octet[chosen]
    return total


def sign_flip_limits(means: Floats, tail: float, reach: float) -> tuple[float, float]:
    """The shifts that the sign-flip test does not reject at `tail` on each side.

    Flipping the groups of a subset leaves the total alone where the subset's own mean is the
    shift; so the limits are quantiles of the sorted subset `means` (Hartigan 1969). With too few
    groups for any rejection they are -reach and reach.
    """
    n = len(means) + 1
    k = int(np.floor(tail * n + ROUNDING))
    if k < 1:
        return -reach, reach
    return float(means[k - 1]), float(means[n - 1 - k])


def sign_flip_test(data: Clusters) -> float:
    """Two-sided p-value of swapping before and after in whole groups.

    The data themselves count in full, other swaps with the same total by half (mid-p).
    """
    changed = data.sums != 0
    if not changed.any():
        return 1.0
    moved = Clusters(data.delta, data.sums[changed], data.sizes[changed], data.n_samples, False)
    sums, _ = subset_sums(moved)
    slack = ROUNDING * moved.total
    ties = 0.5 * float((np.abs(sums) <= slack).sum())
    below, above = float((sums < -slack).sum()), float((sums > slack).sum())
    return min(1.0, 2.0 * (1.0 + ties + min(below, above)) / (len(sums) + 1))
