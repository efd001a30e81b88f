"""Many comparisons at once: Holm's correction, and what a design could have seen at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from harness.analysis.paired import Floats, t_quantile


def holm(p_values: ArrayLike) -> Floats:
    """Holm-adjusted p-values (n,) in the given order; NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return adjusted


def minimum_detectable_effect(
    standard_error: float, *, level: float = 0.95, power: float = 0.8, df: float = float("inf")
) -> float:
    """The smallest true difference that a two-sided test at `level` finds with `power`.

    In the unit of `standard_error`. Eight benchmarks of 500 samples, 15 % of which flip:

    >>> se = (8 * 0.15 / 500) ** 0.5 / 8
    >>> round(100 * minimum_detectable_effect(se), 1)
    1.7
    """
    return (t_quantile((1 - level) / 2, df) + t_quantile(1 - power, df)) * standard_error
