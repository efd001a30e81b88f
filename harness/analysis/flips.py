"""Sample by sample: which answers turned wrong or right, and the paths they took over stages.

A net change of 0 can hide many flips, and a recovered mean can be other samples than those lost.
Scores count as right from 0.5 on (0/1 scores: 1). Samples without a score in any of the given
arrays (NaN) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.analysis.paired import PairedDifference, mean_value

RIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Flips:
    """Answers that changed between two stages."""

    lost: int
    """Right before, wrong after."""
    gained: int
    n_samples: int

    @property
    def net(self) -> int:
        """Gained minus lost."""
        return self.gained - self.lost

    @property
    def rate(self) -> float:
        """Share of the samples that flipped; NaN without samples."""
        return (self.lost + self.gained) / self.n_samples if self.n_samples else float("nan")


def flips(before: ArrayLike, after: ArrayLike) -> Flips:
    """Count flips between two stages, (n,) each.

    >>> flips([1, 1, 0, 0], [1, 0, 1, 1])
    Flips(lost=1, gained=2, n_samples=4)
    """
    was, now = _right(before, after)
    return Flips(int((was & ~now).sum()), int((~was & now).sum()), len(was))


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Samples by whether they were right at the base, at the dip and after it."""

    kept: int
    """1-1-1"""
    recovered: int
    """1-0-1"""
    lost: int
    """1-0-0"""
    gained: int
    """0-0-1"""
    transient: int
    """0-1-0"""
    other: int
    """1-1-0, 0-1-1 and 0-0-0"""

    def __add__(self, more: Trajectories) -> Trajectories:
        """The counts of two sets of samples together."""
        return Trajectories(
            kept=self.kept + more.kept,
            recovered=self.recovered + more.recovered,
            lost=self.lost + more.lost,
            gained=self.gained + more.gained,
            transient=self.transient + more.transient,
            other=self.other + more.other,
        )

    @property
    def recovered_share(self) -> float:
        """Of those right at the base and wrong at the dip: the share right again; NaN if none."""
        n_lost = self.recovered + self.lost
        return self.recovered / n_lost if n_lost else float("nan")


def trajectories(base: ArrayLike, dip: ArrayLike, later: ArrayLike) -> Trajectories:
    """Count the paths of samples over three stages, (n,) each.

    >>> trajectories([1, 1, 0], [0, 0, 0], [1, 0, 1]).recovered_share
    0.5
    """
    first, second, third = _right(base, dip, later)
    paths = np.bincount(4 * first + 2 * second + 1 * third, minlength=8)
    return Trajectories(
        kept=int(paths[0b111]),
        recovered=int(paths[0b101]),
        lost=int(paths[0b100]),
        gained=int(paths[0b001]),
        transient=int(paths[0b010]),
        other=int(paths[0b110] + paths[0b011] + paths[0b000]),
    )


@dataclass(frozen=True, slots=True)
class Loss:
    """A change of the strict score taken apart; `superficial` + `essential` = the strict change."""

    superficial: PairedDifference
    """Strict minus lenient change: answers that are still known but given in another form."""
    essential: PairedDifference
    """Lenient change: answers that are not known any more."""


def superficial_essential(
    strict: tuple[ArrayLike, ArrayLike],
    lenient: tuple[ArrayLike, ArrayLike],
    groups: ArrayLike | None = None,
    *,
    level: float = 0.95,
    weights: ArrayLike | None = None,
) -> Loss:
    """Take a change apart into format drift and knowledge loss.

    `strict`, `lenient`: (before, after), each (n,), of the two scorers. Both parts are over the
    samples that have all four scores, so that they add up.
    """
    scores = [np.asarray(a, dtype=np.float64) for a in (*strict, *lenient)]
    known = np.isfinite(np.stack(scores)).all(axis=0)
    s0, s1, l0, l1 = (np.where(known, a, np.nan) for a in scores)
    codes = np.arange(len(s0)) if groups is None else np.asarray(groups, dtype=np.int64)
    heavy = None if weights is None else np.asarray(weights, dtype=np.float64)
    drift = (s1 - s0) - (l1 - l0)
    # A lenient score is never below the strict one, which keeps the difference within 1; scorers
    # that break this may reach 2.
    reach = 2.0 if np.nanmax(np.abs(drift), initial=0.0) > 1 else 1.0
    superficial = mean_value(drift, codes, weights=heavy, level=level, reach=reach)
    return Loss(superficial, mean_value(l1 - l0, codes, weights=heavy, level=level))


def _right(*scores: ArrayLike) -> list[NDArray[np.bool_]]:
    arrays = np.stack([np.asarray(a, dtype=np.float64) for a in scores])
    known = np.isfinite(arrays).all(axis=0)
    return list(arrays[:, known] >= RIGHT)
