"""A row: one record of a source under its native column names, as a task's `sample` reads it.

What the files in `tasks/` share, so that each stays a page: cells as text, options, the kind
of an answer, chance. A row that cannot be used raises `ValueError` with a phrase that names the
column; whoever reads the row adds where it happened.

Image columns arrive as `Image`s (or tuples of them) and may be absent: grading needs none.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from string import ascii_uppercase
from typing import Any

from harness.types import AnswerType, Image, Sample

Row = Mapping[str, Any]

# The number of minutes in half a day: what a clock without a sun can show.
_CLOCK_MINUTES = 12 * 60
# Guessing a time with one minute of tolerance: three minutes are right.
CLOCK_CHANCE = 3 / _CLOCK_MINUTES
YES_NO_CHANCE = 0.5
# Characters of a cell that a message shows.
_SHOWN = 60


class ListText(str):
    """A cell of a file whose cells are all text (CSV, TSV) that may be a list written as JSON.

    `texts` reads it as the list; everywhere else it is the text that it is.
    """

    __slots__ = ()


def text(row: Row, *names: str) -> str:
    """The first of the columns `names` that holds something, as text; "" when all are empty.

    ValueError when there is no such column, and for what is neither text nor a number. (Empty
    cells are reported when a source is loaded; answers that were made elsewhere are graded all
    the same.)

    >>> text({"answer": 3}, "label", "answer")
    '3'
    >>> text({"count": 3.0}, "count")
    '3'
    """
    if not any(name in row for name in names):
        raise _absent(row, *names)
    found = (_written(row[name], name) for name in names if row.get(name) is not None)
    return next((words for words in found if words.strip()), "")


def texts(row: Row, name: str) -> tuple[str, ...]:
    """A column that holds a list of texts (or one), without empty ones; ("",) when none is left.

    >>> texts({"answers": ["a", "", None, "b"]}, "answers")
    ('a', 'b')
    """
    if name not in row:
        raise _absent(row, name)
    value = _listed(row[name])
    items = value if isinstance(value, list | tuple) else (value,)
    written = (_written(item, name) for item in items if item is not None)
    return tuple(words for words in written if words.strip()) or ("",)


def _listed(value: object) -> object:
    """The list that a `ListText` holds; any other value as it is."""
    if isinstance(value, ListText):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass  # a text that begins with a bracket
    return value


def _written(value: object, name: str) -> str:
    """A text or a number as text, without the ".0" of a whole number: integers with a gap among
    them are often stored as floats. ValueError, naming the column, for anything else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int):  # bool is one
        return str(value)
    if isinstance(value, float | Decimal) and math.isfinite(value):
        if value == int(value):
            return str(int(value))
        return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)
    raise ValueError(f"column {name!r} holds {_shown(value)}, expected text or a number")


def _shown(value: object) -> str:
    """What a cell holds, for a message: its value where it is short, and its type."""
    if isinstance(value, float | Decimal):
        return str(value).lower()
    if _is_image(value) or isinstance(value, bytes):
        return "binary data"
    kind = type(value).__name__
    kind = {"dict": "an object", "list": "a list", "tuple": "a list"}.get(kind, kind)
    return f"{kind} ({repr(value)[:_SHOWN]})"


def whole(row: Row, name: str) -> int:
    """A column that holds a whole number. ValueError for anything else.

    >>> whole({"index": "12"}, "index")
    12
    """
    written = text(row, name)
    if not re.fullmatch(r"[+-]?[0-9]+", written.strip()):
        raise ValueError(f"column {name!r} holds {written[:_SHOWN]!r}, expected a whole number")
    return int(written)


def _absent(row: Row, *names: str) -> ValueError:
    found = [name for name, value in row.items() if value is not None]
    return ValueError(f"no column {' or '.join(map(repr, names))}; found {', '.join(found)}")


def images(row: Row, *names: str) -> tuple[Image, ...]:
    """The images of the columns `names`, in order; absent and empty cells are passed over."""
    found: list[Image] = []
    for name in names or ("image",):
        cell = row.get(name)
        # A grading row may carry anything under an image's name (null, a path): only images count.
        cells = cell if isinstance(cell, list | tuple) else (cell,)
        found += [item for item in cells if _is_image(item)]
    return tuple(found)


def columns(row: Row) -> dict[str, Any]:
    """The row without its images: what scorers and headlines may read (`Sample.doc`)."""
    return {
        name: value
        for name, value in row.items()
        if not _is_image(value[0] if isinstance(value, tuple | list) and value else value)
    }


def _is_image(value: object) -> bool:
    """By its type: asking an image for anything may read it."""
    kind = type(value)
    return hasattr(kind, "decode") and hasattr(kind, "read")


def digest(content: str) -> str:
    """Eight hex digits that stand for a text in an id."""
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def letter(index: object, options: Sequence[str]) -> str:
    """The letter of option `index`, counted from 0; "" without one. ValueError for no option.

    >>> letter("2", ["a", "b", "c"])
    'C'
    """
    if not str(index).strip():
        return ""
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", str(index).strip()):
        text = f"answer {str(index)[:_SHOWN]!r} is no index of {len(options)} options"
        raise ValueError(f"{text}, expected a number from 0")
    position = int(str(index))
    if not 0 <= position < len(options):
        raise ValueError(f"answer {position} is not one of {len(options)} options")
    return ascii_uppercase[position]


_CLOCK = re.compile(r"\d{1,2}:\d{2}")
_INTEGER = re.compile(r"[-+]?\d{1,3}(,\d{3})+|[-+]?\d+")
_DECIMAL = re.compile(r"[-+]?[$€£]?\d[\d,]*\.?\d*\s?%?")
# Gold answers of the suite with more words than this are descriptions.
_PHRASE_WORDS = 5


def answer_type(answer: str) -> AnswerType:
    """The kind of a gold answer, by its form.

    >>> [answer_type(a) for a in ("Yes", "12", "3.5%", "10:08", "blue car")]
    ['yes_no', 'integer', 'decimal', 'time', 'phrase']
    """
    plain = answer.strip().rstrip(".").lower()
    if plain in ("yes", "no"):
        return "yes_no"
    if _INTEGER.fullmatch(plain):
        return "integer"
    if _DECIMAL.fullmatch(plain):
        return "decimal"
    if _CLOCK.fullmatch(plain):
        return "time"
    return "phrase" if len(plain.split()) <= _PHRASE_WORDS else "sentence"


def chance(options: Sequence[object]) -> float:
    """Score of guessing among `options`; 0 where there are none.

    >>> chance(["a", "b", "c", "d"])
    0.25
    """
    return 1 / len(options) if options else 0.0


def open_chance(answer: str) -> float:
    """Score of guessing an open answer: a half where it is yes or no, else nothing."""
    return YES_NO_CHANCE if answer_type(answer) == "yes_no" else 0.0


def clock_sample(row: Row, index: int) -> Sample:
    """A sample of the clock sets, which share their columns: image, question, answer "HH:MM"."""
    return Sample(
        id=f"{index:06d}",
        question=text(row, "question").replace("\n<image>", ""),
        answers=(text(row, "answer"),),
        images=images(row),
        answer_type="time",
        chance=CLOCK_CHANCE,
        doc=columns(row),
    )
