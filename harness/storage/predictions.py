"""Predictions as rows: what a journal's line and a cell's row hold of an answer, and both checked.

A file may have been written by anybody: `fits` says whether a prediction read from one is such as
an engine makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from math import inf
from typing import Any

from harness.types import Prediction, Reading

_FIELDS = tuple(field.name for field in fields(Prediction))


def to_line(prediction: Prediction) -> dict[str, Any]:
    """The prediction as a journal's line. (`asdict` copies every value, an answer's words too.)"""
    line = {name: getattr(prediction, name) for name in _FIELDS}
    reading = prediction.reading
    return line if reading is None else line | {"reading": asdict(reading)}


def to_row(prediction: Prediction) -> dict[str, Any]:
    """The prediction as a row of a cell: what has names of its own as pairs."""
    row = to_line(prediction)
    if prediction.class_mass is not None:
        row["class_mass"] = list(prediction.class_mass.items())
    if prediction.reading is not None:
        named = {name: list(row["reading"][name].items()) for name in ("masses", "peaks")}
        row["reading"] |= named
    return row


def from_row(row: dict[str, Any]) -> Prediction:
    """The prediction in a row of a cell, or in a journal's JSON.

    Raises KeyError, TypeError or ValueError for what is none.
    """
    mass, scores, greedy = row["class_mass"], row["choice_scores"], row.get("choice_greedy")
    reading = row.get("reading")
    return replace(
        Prediction(**row),
        class_mass=None if mass is None else dict(mass),
        choice_scores=None if scores is None else tuple(scores),
        choice_greedy=None if greedy is None else tuple(greedy),
        reading=None if reading is None else _reading(reading),
    )


def fits(prediction: Prediction) -> bool:
    """Whether a cell can hold it."""
    p = prediction
    texts = (p.sample_id, p.text, p.finish_reason, p.reason)
    counts = (p.n_prompt_tokens, p.n_tokens)
    scores = [*(p.choice_scores or ()), *(p.class_mass or {}).values()]
    return (
        p.status in ("ok", "failed")
        and all(isinstance(text, str) and writable(text) == text for text in texts)
        and all(type(count) is int and 0 <= count < 2**31 for count in counts)
        and all(isinstance(score, float) for score in scores)
        and all(isinstance(flag, bool) for flag in p.choice_greedy or ())
        and all(isinstance(name, str) and writable(name) == name for name in p.class_mass or ())
        and (p.reading is None or _reading_fits(p.reading))
    )


def writable(text: str) -> str:
    """The text with half characters (lone surrogates), which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode()


def _reading(row: Mapping[str, Any]) -> Reading:
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


def _reading_fits(reading: Reading) -> bool:
    """Whether it is as a probe makes it: numbers of the right kind, one per position."""
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
