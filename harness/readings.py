"""Readings on disk: what a probe read as a nested column of a cell, and a reading checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import inf
from typing import Any

import pyarrow as pa

from harness.types import Reading

_NUMBERS = pa.list_(pa.float64())
_TOKENS = pa.list_(pa.int32())
_BY_CLASS = pa.map_(pa.string(), _NUMBERS)
TYPE = pa.struct(
    [
        ("tokens", _TOKENS),
        ("top1", _TOKENS),
        ("masses", _BY_CLASS),
        ("peaks", _BY_CLASS),
        ("top_ids", pa.list_(_TOKENS)),
        ("top_logs", pa.list_(_NUMBERS)),
        ("kl_forward", _NUMBERS),
        ("kl_reverse", _NUMBERS),
    ]
)


def to_row(reading: Reading) -> dict[str, Any]:
    """The reading as a value of `TYPE`."""
    row = asdict(reading)
    return row | {name: list(row[name].items()) for name in ("masses", "peaks")}


def from_row(row: Mapping[str, Any]) -> Reading:
    """The reading in a value of `TYPE`, or in a journal's JSON.

    Raises KeyError, TypeError or ValueError for what is none.
    """
    return Reading(
        tokens=tuple(row["tokens"]),
        top1=tuple(row["top1"]),
        masses={name: tuple(values) for name, values in dict(row["masses"]).items()},
        peaks={name: tuple(values) for name, values in dict(row["peaks"]).items()},
        top_ids=tuple(map(tuple, row["top_ids"])),
        top_logs=tuple(map(tuple, row["top_logs"])),
        kl_forward=tuple(row["kl_forward"]),
        kl_reverse=tuple(row["kl_reverse"]),
    )


def fits(reading: Reading) -> bool:
    """Whether it is as a probe makes it: numbers of the right kind, one per position.

    A file may have been written by anybody.
    """
    r, n = reading, len(reading.tokens)
    ids = (r.tokens, r.top1, *r.top_ids)
    values = (*r.masses.values(), *r.peaks.values())
    far = (r.kl_forward, r.kl_reverse)
    return (
        all(type(token) is int and 0 <= token < 2**31 for row in ids for token in row)
        and all(isinstance(x, float) and 0 <= x <= 1 for row in values for x in row)
        and all(isinstance(x, float) and 0 <= x < inf for row in far for x in row)
        and all(isinstance(x, float) and -inf < x < 1 for row in r.top_logs for x in row)
        and all(isinstance(name, str) and name.isprintable() for name in (*r.masses, *r.peaks))
        and all(len(row) == n for row in (r.top1, *values))
        and all(len(row) in (0, n) for row in (r.top_ids, r.kl_forward, r.kl_reverse))
        and len(r.top_ids) == len(r.top_logs)
        and all(len(logs) == len(i) + 1 for i, logs in zip(r.top_ids, r.top_logs, strict=True))
    )
