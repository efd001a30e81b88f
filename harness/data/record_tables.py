"""Records: rows of a JSON, JSONL, CSV or TSV file, read whole; images are files that they name."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from harness.data.images import IMAGE_COLUMN, file_image
from harness.errors import DataError
from harness.rows import ListText

# A CSV field beyond this is no question of a benchmark.
CSV_FIELD_BYTES = 10_000_000

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


@dataclass(frozen=True)
class RecordTable:
    """Records read whole; text columns named like images are paths relative to `folder`."""

    records: Sequence[Mapping[str, Any]]
    folder: str
    heading: tuple[str, ...] = ()
    """Names that the file gives before its first record."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Every name that a record has, in order of appearance; `image` for `file_name`."""
        names = dict.fromkeys(self.heading)
        names.update(dict.fromkeys(name for record in self.records for name in record))
        if "image" not in names and names.keys() & {"file_name", "image_path"}:
            names["image"] = None
        return tuple(names)

    @property
    def commit(self) -> None:
        """None: hub data sets are prepared as Arrow files."""

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int) -> dict[str, Any]:
        """One row; see `Table`."""
        found: dict[str, Any] = {}
        for name, value in self.records[index].items():
            if IMAGE_COLUMN.fullmatch(name) and value:
                is_list = isinstance(value, list)
                files = [file_image(item, self.folder) for item in (value if is_list else [value])]
                found[name] = tuple(files) if is_list else files[0]
            else:
                found[name] = value
        if "image" not in found:
            for name in ("file_name", "image_path"):
                if name in found:
                    found["image"] = found[name]
        return found

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        return [record.get(name) for record in self.records]


def read_records(path: Path) -> RecordTable:
    """The records of one file. Raises DataError with the line."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(path.name, f"not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise DataError(path.name, str(error.strerror)) from None
    if path.suffix in (".csv", ".tsv"):
        heading, records = _csv_records(path, content)
        return RecordTable(records, str(path.parent), heading)
    return RecordTable(_json_records(path, content), str(path.parent))


def _json_records(path: Path, content: str) -> list[dict[str, Any]]:
    """The records of a JSON list, of one JSON object, or of JSON lines."""
    if path.suffix == ".json":
        value = _parsed(path, 1, content)
        records = value if isinstance(value, list) else [value]
    else:
        lines = enumerate(content.split("\n"), start=1)
        records = [_parsed(path, number, line) for number, line in lines if line.strip()]
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(path.name, f"record {number} is {type(record).__name__}, not an object")
    return records


def _parsed(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(path.name, f"line {number}: not JSON ({error})") from None


def _csv_records(path: Path, content: str) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Fields and records of a CSV or TSV file; the first line names the fields."""
    csv.field_size_limit(CSV_FIELD_BYTES)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    reader = csv.DictReader(StringIO(content, newline=""), delimiter=delimiter)
    records: list[dict[str, Any]] = []
    try:
        heading = tuple(reader.fieldnames or ())
        twice = [name for name, count in Counter(heading).items() if count > 1 and name]
        if twice:
            text = f"the first line names {twice[0]!r} twice; rename one of the columns"
            raise DataError(path.name, text)
        for record in reader:
            if None in record:
                expected = len(reader.fieldnames or ())
                text = f"more than the {expected} fields of the first line; quote texts with commas"
                raise DataError(path.name, f"line {reader.line_num}: {text}")
            records.append({name: _cell(value) for name, value in record.items()})
    except csv.Error as error:
        raise DataError(path.name, f"line {reader.line_num}: {error}") from None
    return heading, records


def _cell(value: str | None) -> str | None:
    return ListText(value) if value and value.startswith("[") else value
