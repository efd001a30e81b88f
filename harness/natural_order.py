"""Natural order: `10_clock` comes after `2_count`."""

from __future__ import annotations

import re


def natural(text: str) -> list[tuple[int, str]]:
    """Sort key: runs of digits count as numbers, and before words.

    >>> sorted(["10_clock", "2_count", "base"], key=natural)
    ['2_count', '10_clock', 'base']
    """
    parts = re.split(r"([0-9]+)", text)
    return [
        # A longer run of digits is no count of anything, and slow or impossible to convert.
        (int(part), "") if part.isdecimal() and len(part) < 18 else (-1, part)
        for part in parts
    ]
