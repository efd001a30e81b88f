"""A sample file: one evaluator's answers to one task, document by document.

Both programs write one JSON object a line, with the same words for most things:

    doc_id, target                   which document, and its gold answer as text
    doc                              its columns (lm-eval, lmms-eval 0.3; not in lmms-eval 0.5-0.7)
    prompt_hash, input, arguments    what was asked (each version writes another of them)
    filtered_resps, resps            the answer after and before the filter; `resps` is absent where
                                     it is equal (lmms-eval from 0.5 on)
    filter                           lm-eval: a row per document and filter (named from 0.4.7 on)
    <metric>                         the document's score: a number, or an object with `score`

Lines are read one by one, and of each only what a study needs is kept: never pictures or requests.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.interop.logs.results import BrokenLogError, canonical

# A line holds one document; one that is larger is a mistake or an attack.
MAX_LINE = 64_000_000
MAX_QUESTION = 4_000
MAX_ID = 200
NO_FILTER = "none"
_QUESTION_KEYS = ("question", "query", "problem", "input", "sentence", "goal")
_IMAGE_HASH = re.compile(r"(?:image|img|picture)?_?(?:sha256|sha1|md5|hash)", re.IGNORECASE)
_IMAGE_NAME = re.compile(r"(?:image|img|picture|photo)s?_?\d*", re.IGNORECASE)
# lm-eval writes pictures as hashes (from 0.4.9 on).
_HASH = re.compile(r"[0-9a-f]{32,128}")
# Shorter texts are file names, which two data sets may share.
_SHORTEST_IMAGE = 60
_BYTES_TEXT = re.compile(r"b['\"](?:\\x[0-9a-f]{2}|\\n|GIF8|RIFF)")
_LIST_TEXT = re.compile(r"\s*[\[(].*[\])]\s*", re.DOTALL)

Digest = bytes


@dataclass(frozen=True, slots=True)
class LogRow:
    """One line of a sample file."""

    line: int
    doc_id: str
    filter: str
    """`none` where there is no filter, or where its name could not be told."""
    raw: Mapping[str, Any]
    """The whole object. Not kept."""

    def target(self) -> str:
        """The gold answer as the log writes it."""
        value = self.raw.get("target")
        return value if isinstance(value, str) else canonical(value)

    def doc(self) -> Mapping[str, Any] | None:
        """The document's columns; None where the log has none."""
        doc = self.raw.get("doc")
        return doc if isinstance(doc, dict) else None

    def prompt(self) -> str | None:
        """The words that were asked; None where the log has none."""
        said = self.raw.get("input")
        if isinstance(said, str):
            return said
        arguments = self.raw.get("arguments")
        first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
        text = first.get("arg_0") if isinstance(first, dict) else None
        return text if isinstance(text, str) else None

    def prompt_digest(self) -> Digest | None:
        """Equal for equal prompts, whichever way a version writes them; None where it does not."""
        hashed = self.raw.get("prompt_hash")
        if isinstance(hashed, str) and len(hashed) == 64:
            return hashed[:32].encode("ascii", "replace")
        text = self.prompt()
        if text is not None:
            # `prompt_hash` is the SHA-256 of just this text.
            return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32].encode()
        said = self.raw.get("input")
        return None if said is None else _digest(canonical(said))

    def image_digest(self) -> Digest | None:
        """Equal for equal pictures; None where the log says nothing of them."""
        found = list(_images(self.doc() or {})) or list(_images({"image": self._visual()}))
        return _digest("\n".join(found)) if found else None

    def _visual(self) -> object:
        """The pictures of the first request: hashes in lm-eval, data addresses in lmms-eval 0.7."""
        media = self.raw.get("input_media")
        if media is not None:
            return media
        arguments = self.raw.get("arguments")
        first = arguments.get("gen_args_0") if isinstance(arguments, dict) else None
        third = first.get("arg_2") if isinstance(first, dict) else None
        return third.get("visual") if isinstance(third, dict) else None

    def question(self) -> str:
        """What to show people as the question."""
        doc = self.doc() or {}
        said = next((doc[key] for key in _QUESTION_KEYS if isinstance(doc.get(key), str)), None)
        return (said or self.prompt() or "")[:MAX_QUESTION]

    def response(self) -> str:
        """The answer before any filter; the option chosen where likelihoods were compared."""
        filtered = self.raw.get("filtered_resps")
        if likelihoods := _likelihoods(filtered):
            return self._option(max(range(len(likelihoods)), key=likelihoods.__getitem__))
        answer = _first_text(self.raw.get("resps"))
        return answer if answer is not None else _first_text(filtered) or ""

    def golds(self) -> tuple[str, ...]:
        """The accepted answers: the target, or its items where it is a list; options by name."""
        text = self.target()
        if _likelihoods(self.raw.get("filtered_resps")) and text.isdecimal() and len(text) < 4:
            return (self._option(int(text)) or text,)
        if len(text) < MAX_QUESTION and _LIST_TEXT.fullmatch(text):
            try:
                items = ast.literal_eval(text.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                return (text,)
            if isinstance(items, list | tuple) and items:
                return tuple(str(item) for item in items[:50])
        return (text,)

    def _option(self, index: int) -> str:
        """The words of option `index`, whose likelihood was asked for; "" if not logged."""
        arguments = self.raw.get("arguments")
        asked = arguments.get(f"gen_args_{index}") if isinstance(arguments, dict) else None
        text = asked.get("arg_1") if isinstance(asked, dict) else None
        return text.strip() if isinstance(text, str) else ""


def read_rows(file: Path, filters: Sequence[str] = ()) -> Iterator[LogRow]:
    """The rows of a sample file, one at a time.

    `filters`: the task's filters in the results file's order. Rows that do not name theirs come
    filter by filter in that order, so the n-th row of a document is of the n-th filter.
    Raises BrokenLogError with the line at the first that cannot be read: a log that ends in the
    middle of a line was cut off, and nothing is known of what is missing.
    """
    try:
        with file.open("rb") as stream:
            number = 0
            seen: dict[str, int] = {}
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise BrokenLogError(f"line {number}: longer than {MAX_LINE:,} bytes")
                if line.isspace():
                    continue
                row = _row(line, number)
                if filters and "filter" not in row.raw:
                    place = seen[row.doc_id] = seen.get(row.doc_id, -1) + 1
                    row = replace(row, filter=filters[min(place, len(filters) - 1)])
                yield row
    except OSError as error:
        raise BrokenLogError(f"cannot be read: {error.strerror or error}") from None


def score_of(value: object) -> float | None:
    """A metric's value as the document's score: NaN = none was given, None = it is no score.

    >>> score_of(True), score_of({"question_id": 7, "score": 0.5}), score_of("0.25")
    (1.0, 0.5, 0.25)
    >>> score_of({"pred": "cat"}), score_of([1, 0]), score_of(None)
    (None, None, nan)
    """
    if isinstance(value, dict) and "score" in value:
        value = value["score"]
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    if isinstance(value, str) and len(value) < 40:
        # numpy's own numbers are written as texts.
        words = {"true": 1.0, "false": 0.0}
        try:
            return words.get(value.strip().lower()) if value.strip().lower() in words else (
                float(value)
            )  # fmt: skip
        except ValueError:
            return None
    return None


def _row(line: bytes, number: int) -> LogRow:
    try:
        raw = json.loads(line)
    except UnicodeDecodeError:
        raise BrokenLogError(f"line {number}: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        cut = not line.endswith(b"\n")
        what = "cut off in the middle" if cut else f"not JSON: {error.msg} at column {error.colno}"
        raise BrokenLogError(f"line {number}: {what}") from None
    except (ValueError, RecursionError):
        what = "no JSON that can be read: a number or nesting too large"
        raise BrokenLogError(f"line {number}: {what}") from None
    if not isinstance(raw, dict):
        raise BrokenLogError(f"line {number}: got {type(raw).__name__}, expected an object")
    doc_id = raw.get("doc_id")
    usable = isinstance(doc_id, int | str) and not isinstance(doc_id, bool)
    if not usable or not 0 < len(str(doc_id)) <= MAX_ID:
        found = "no key `doc_id`" if doc_id is None else f"doc_id {str(doc_id)[:40]!r}"
        raise BrokenLogError(f"line {number}: {found}; expected a number that names the document")
    name = raw.get("filter")
    return LogRow(number, str(doc_id), name if isinstance(name, str) else NO_FILTER, raw)


def _digest(text: str) -> Digest:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def _first_text(value: object) -> str | None:
    """The first text in nested lists; None where there is none.

    >>> _first_text([["a", "b"]]), _first_text("a"), _first_text([])
    ('a', 'a', None)
    """
    for _ in range(5):
        if isinstance(value, str):
            return value
        if not isinstance(value, list) or not value:
            return None
        value = value[0]
    return None


def _likelihoods(filtered: object) -> list[float]:
    """The log-likelihoods of the options, as lm-eval writes them; [] for other answers.

    >>> _likelihoods([["-3.5", "False"], ["-0.5", "True"]]), _likelihoods(["a", "b"])
    ([-3.5, -0.5], [])
    """
    if not isinstance(filtered, list) or not filtered:
        return []
    found = []
    for pair in filtered:
        if not isinstance(pair, list) or len(pair) != 2 or pair[1] not in ("True", "False"):
            return []
        try:
            found.append(float(pair[0]))
        except (TypeError, ValueError):
            return []
    return found


def _images(value: object, name: str = "", depth: int = 3) -> Iterator[str]:
    """What stands for a picture: its bytes or their hash, a data address, a column of hashes.

    A text such as `<PIL.Image ... at 0x7f>` says nothing of the picture and is passed over.
    """
    if isinstance(value, str):
        if name == "bytes" or value.startswith("data:image/") or _BYTES_TEXT.match(value):
            if len(value) >= _SHORTEST_IMAGE:
                yield value
        elif value and (
            _IMAGE_HASH.fullmatch(name) or (_IMAGE_NAME.fullmatch(name) and _HASH.fullmatch(value))
        ):
            yield value
    elif isinstance(value, dict) and depth:
        for key, item in value.items():
            yield from _images(item, str(key), depth - 1)
    elif isinstance(value, Sequence) and depth:
        for item in value:
            yield from _images(item, name, depth - 1)
