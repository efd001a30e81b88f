"""A verdict: what an interval says against a margin, in one of four words.

`improved`: the lower one-sided bound is above 0. `regressed`: the upper bound is below -margin
(below 0 when strict). `retained`: the lower bound is above -margin. Else `inconclusive`.
A difference without limits is inconclusive; one without an estimate has no verdict ("NA").
"""

from __future__ import annotations

from math import ceil
from typing import Literal

import numpy as np

from harness.analysis.paired import PairedDifference

Verdict = Literal["improved", "retained", "regressed", "inconclusive", "NA"]


def verdict(
    difference: PairedDifference, margin_pp: float = 1.0, *, strict: bool = False
) -> Verdict:
    """Judge a difference against a margin in points (>= 0).

    `strict` calls any proven loss a regression, also one that is smaller than the margin.
    """
    if np.isnan(difference.delta):
        return "NA"
    if not difference.known:
        return "inconclusive"
    margin = margin_pp / 100
    if difference.lower > 0:
        return "improved"
    if difference.upper < (0 if strict else -margin):
        return "regressed"
    return "retained" if difference.lower > -margin else "inconclusive"


def samples_to_decide(difference: PairedDifference, margin_pp: float = 1.0) -> int | None:
    """How many samples would decide an inconclusive difference, if it stays as large as it is.

    Half-widths shrink with the square root of the samples. None: nothing to go by (no limits, an
    estimate exactly on the margin), or several runs, where more samples need not help.
    """
    if not difference.known or difference.n_runs > 1:
        return None
    distance = difference.delta + margin_pp / 100
    half = (
        difference.delta - difference.lower if distance > 0 else difference.upper - difference.delta
    )
    if abs(distance) < 1e-9 or half <= 0:
        return None
    return max(difference.n_samples, ceil(difference.n_samples * (half / distance) ** 2))
