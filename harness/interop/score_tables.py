"""A score table: other people's scores as read from JSONL, CSV or Parquet, before any judgement.

Only words and row numbers here: which columns a file has, and what stands in them. What the words
must mean (a stage is a whole number, a score a fraction) is checked in `score_rows`. Values are
Arrow arrays, so that three million rows never become Python objects unless the format is JSONL.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.errors import Problem, ResultsError, did_you_mean

REQUIRED = ("strategy", "stage", "benchmark", "sample_id", "score")
TEXTS = ("question", "response", "gold")
OPTIONAL = ("run", "stage_name", "trained_on", "role", "group", *TEXTS, "scorer")
COLUMNS = REQUIRED + OPTIONAL

# A word is taken for a slip of the pen only when it is this close to a known one: docvqa and
# infovqa (0.61) are two things, chart_qa and chartqa (0.93) are one.
_SLIP_CUTOFF = 0.85
# A row must fit into two blocks; models can repeat themselves over megabytes.
_CSV_BLOCK = 1 << 25


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The known columns of one file."""

    columns: Mapping[str, Any]
    """name -> Arrow array (n,): `large_string`, or a number type for `stage` and `score`."""
    numbers: NDArray[np.int64]
    """(n,) where each row stands in the file, as an editor counts (from 1)."""
    noun: Literal["line", "row"]
    ignored: tuple[str, ...]
    """Columns of the file that mean nothing here."""


def read_table(path: Path) -> ScoreTable:
    """Read the known columns of `path`; the suffix says the format.

    Raises ResultsError: no such file, an unknown suffix, a broken file, or wrong columns (all of
    them at once, with the nearest known name).
    """
    readers: dict[str, Callable[[Path], ScoreTable]] = {
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".pq": _read_parquet,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ResultsError(
            str(path),
            f"unknown kind of file {path.suffix!r}; expected one of {', '.join(readers)}. "
            "Cure: save the scores as one of these and name the file so",
        )
    if not path.is_file():
        raise ResultsError(str(path), "no such file" if not path.exists() else "not a file")
    try:
        return reader(path)
    except OSError as error:
        raise ResultsError(str(path), f"cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ResultsError(
            str(path), f"not UTF-8 text (byte {error.start}). Cure: save it as UTF-8"
        ) from error
    except (pa.ArrowException, csv.Error) as error:
        reason = " ".join(str(error).split())[:300]
        raise ResultsError(str(path), f"broken {path.suffix[1:]} file: {reason}") from error


def check_columns(path: Path, found: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """(known columns in file order, ignored columns), or one ResultsError with every problem."""
    missing = [name for name in REQUIRED if name not in found]
    problems = [
        Problem(f"column {name}", "missing" + did_you_mean_in_file(name, found)) for name in missing
    ]
    problems += [
        Problem(f"column {name}", "stands twice in the file")
        for name in COLUMNS
        if list(found).count(name) > 1
    ]
    absent = [name for name in OPTIONAL if name not in found]
    ignored = [name for name in found if name not in COLUMNS]
    for name in ignored:
        if not missing and (near := slip(name, absent)):
            problems.append(Problem(f"column {name}", f"unknown; did you mean {near!r}?"))
    if problems:
        listing = ", ".join(str(name)[:40] for name in list(found)[:30]) or "none"
        problems.append(Problem("columns found", listing))
        problems.append(
            Problem("columns expected", f"{', '.join(REQUIRED)}; optional {', '.join(OPTIONAL)}")
        )
        raise ResultsError(str(path), problems)
    return [name for name in found if name in COLUMNS], tuple(ignored)


def did_you_mean_in_file(name: str, found: Sequence[str]) -> str:
    """The file's own column that is probably meant by the missing `name`, as a suggestion."""
    others = [column for column in found if column not in COLUMNS]
    by_lower = {column.strip().lower(): column for column in others}
    if name in by_lower:
        return f"; the file has {by_lower[name]!r}: rename it"
    near = did_you_mean(name, others)
    return near.replace("did you mean", "rename the file's").rstrip("?") if near else ""


def slip(word: str, known: Sequence[str]) -> str:
    """The known word of which `word` is a misspelling, or "".

    >>> slip("responce", ["response", "gold"])
    'response'
    """
    near = get_close_matches(word.strip().lower(), list(known), n=1, cutoff=_SLIP_CUTOFF)
    return near[0] if near else ""


# --- JSONL ---------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> ScoreTable:
    """One JSON object per line. Read in Python, because ids may be numbers in one line and words
    in the next, and because an error must name its line."""
    values: dict[str, list[Any]] = {}
    extra: dict[str, None] = {}
    numbers: list[int] = []
    broken: list[Problem] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            row = _json_object(line)
            if isinstance(row, str):
                broken.append(Problem(f"line {number}", row))
                if len(broken) == 5:
                    break
                continue
            for name, value in row.items():
                if name in COLUMNS:
                    column = values.setdefault(name, [])
                    # Keys may be absent from some lines; absent is empty, not an error yet.
                    column.extend([None] * (len(numbers) - len(column)))
                    column.append(value)
                else:
                    extra[name] = None
            numbers.append(number)
    if broken:
        raise ResultsError(str(path), broken)
    known, ignored = check_columns(path, [*values, *extra])
    for column in values.values():
        column.extend([None] * (len(numbers) - len(column)))
    columns = {name: _from_json(path, name, values.pop(name), numbers) for name in known}
    return ScoreTable(columns, np.array(numbers, np.int64), "line", ignored)


def _json_object(line: str) -> dict[str, Any] | str:
    """The object on one line, or why it is none."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError):
        return "not JSON that can be read: a number or a nesting is too large"
    if not isinstance(row, dict):
        return f"got a JSON {type(row).__name__}, expected an object with keys"
    return row


def _from_json(path: Path, name: str, values: list[Any], numbers: Sequence[int]) -> Any:
    """A column of JSON values as an Arrow array."""
    if name in ("stage", "score"):
        try:
            return pa.array(values, pa.float64())
        except (pa.ArrowException, OverflowError, TypeError):
            pass
    nested = [
        number
        for number, value in zip(numbers, values, strict=True)
        if isinstance(value, (list, dict))
    ]
    if nested and name not in TEXTS:
        raise ResultsError(
            str(path),
            [
                Problem(
                    f"column {name}", f"line {nested[0]} holds a list or object, expected a word"
                )
            ],
        )
    words = [_word(value) for value in values]
    try:
        return pa.array(words, pa.large_string())
    except UnicodeEncodeError:
        # JSON may escape half of a surrogate pair, which no file can hold.
        clean = [w if w is None else w.encode("utf-8", "replace").decode("utf-8") for w in words]
        return pa.array(clean, pa.large_string())


def _word(value: Any) -> str | None:
    """A JSON value as the word a CSV file would have for it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=True)


# --- CSV and Parquet -----------------------------------------------------------------------------


def _read_csv(path: Path) -> ScoreTable:
    """Comma-separated with a header; every column is read as words, so that 007 stays 007."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(lines), [])
    known, ignored = check_columns(path, header)
    table = pa_csv.read_csv(
        path,
        read_options=pa_csv.ReadOptions(block_size=_CSV_BLOCK),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            include_columns=known,
            column_types={name: pa.large_string() for name in known},
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    columns = {name: table[name] for name in known}
    # A spreadsheet counts the header as row 1.
    numbers = np.arange(2, table.num_rows + 2, dtype=np.int64)
    return ScoreTable(columns, numbers, "row", ignored)


def _read_parquet(path: Path) -> ScoreTable:
    """Any Parquet file whose top-level columns are plain or dictionary values."""
    with pq.ParquetFile(path) as file:
        known, ignored = check_columns(path, file.schema_arrow.names)
        table = file.read(columns=known)
    columns = {name: _plain(path, name, table[name]) for name in known}
    numbers = np.arange(1, table.num_rows + 1, dtype=np.int64)
    return ScoreTable(columns, numbers, "row", ignored)


def _plain(path: Path, name: str, column: Any) -> Any:
    """A Parquet column as words, or as numbers where numbers are wanted and stand there."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if name in ("stage", "score") and (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    ):
        return column.cast(pa.float64(), safe=False)
    if pa.types.is_floating(kind):
        # Frames turn whole numbers with a gap into floats: 12.0 is the id 12.
        whole = pc.all(pc.equal(column, pc.round(column))).as_py()
        column = column.cast(pa.int64()) if whole else column
    if pa.types.is_nested(kind) and name in TEXTS:
        words = [_word(value) for value in column.to_pylist()]
        return pa.array(words, pa.large_string())
    try:
        return column.cast(pa.large_string())
    except pa.ArrowException as error:
        raise ResultsError(
            str(path), [Problem(f"column {name}", f"holds {kind}, expected words")]
        ) from error
