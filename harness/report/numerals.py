"""Numerals: how numbers are written for people. NA is written `NA`, never 0."""

from __future__ import annotations

import math

MINUS = "−"


def signed(points: float | None, digits: int = 1) -> str:
    """Percentage points with their sign.

    >>> signed(14.13), signed(-0.04), signed(float("nan"))
    ('+14.1', '0.0', 'NA')
    """
    if points is None or not math.isfinite(points):
        return "NA"
    rounded = round(points, digits)
    return f"{0:.{digits}f}" if rounded == 0 else f"{rounded:+.{digits}f}".replace("-", MINUS)


def plain(value: float | None, digits: int = 1) -> str:
    """A number without a plus sign.

    >>> plain(76.42), plain(-3.0), plain(None)
    ('76.4', '−3.0', 'NA')
    """
    return signed(value, digits).removeprefix("+")


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Limits in brackets, or why there are none.

    >>> interval(-2.0, 1.25), interval(float("nan"), 1.0)
    ('[−2.0, +1.2]', '[no interval]')
    """
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "[no interval]"
    return f"[{signed(low, digits)}, {signed(high, digits)}]"
