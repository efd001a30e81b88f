"""Parquet files of a study: cells and samples as rows, the same bytes for the same rows.

Each says in its metadata what it is; a cell also the digest of its rows. Arrow is loaded with this
module, so the store opens it when a table is read or written, and a sweep that owes nothing never.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import DataError, ResultsError, first_line
from harness.storage import predictions
from harness.storage.result_files import write_atomically
from harness.storage.signatures import SCHEMA_VERSION, cell_id
from harness.types import Prediction, Sample

METADATA_KEY = b"forgeteval"
CURE = "; delete this file and run `forgeteval score` again"
_NUMBERS = pa.list_(pa.float64())
_TOKENS = pa.list_(pa.int32())
_BY_CLASS = pa.map_(pa.string(), _NUMBERS)
_READING = pa.struct(
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
CELL_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("status", pa.string()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("n_prompt_tokens", pa.int32()),
        ("n_tokens", pa.int32()),
        ("reason", pa.string()),
        ("class_mass", pa.map_(pa.string(), pa.float64())),
        ("choice_scores", pa.list_(pa.float64())),
        ("choice_greedy", pa.list_(pa.bool_())),
        ("reading", _READING),
    ]
)
# Columns that a cell has only where one of its rows has a value: cells of before have none.
SPARSE_COLUMNS = ("choice_greedy", "reading")
SAMPLE_SCHEMA = pa.schema(
    [
        ("sample_id", pa.string()),
        ("group", pa.string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
        ("answer_type", pa.string()),
        ("chance", pa.float64()),
        ("images", pa.list_(pa.string())),
        ("doc", pa.string()),
    ]
)


def write_samples(file: Path, task: str, data: str, samples: Iterable[Sample]) -> None:
    """Keeps what scoring needs of a task's samples, never images. Raises DataError."""
    rows = [
        {
            "sample_id": s.id,
            "group": s.group or s.id,
            "question": s.question,
            "answers": list(s.answers),
            "choices": list(s.choices),
            "answer_type": s.answer_type,
            "chance": s.chance,
            "images": [],
            "doc": json.dumps(s.doc, sort_keys=True, default=str),
        }
        for s in samples
    ]
    try:
        table = pa.Table.from_pylist(rows, SAMPLE_SCHEMA)
    except UnicodeEncodeError:
        raise DataError(
            task, "an id, question or answer holds half a character (a lone surrogate such as "
            "\\ud800), which no file can hold; mend the data"
        ) from None  # fmt: skip
    write_table(file, table, {"data": data})


def read_samples(file: Path) -> list[Sample]:
    """The samples as scoring sees them: everything but the images. Raises ResultsError."""
    rows = read_table(file, SAMPLE_SCHEMA)[0].to_pylist()
    try:
        return [_sample(row) for row in rows]
    except (TypeError, ValueError, RecursionError):
        place = f"{file.parent.name}/{file.name}"
        raise ResultsError(place, f"was not written by forgeteval, or is torn{CURE}") from None


def write_cell(file: Path, answers: Iterable[Prediction], signature: Mapping[str, object]) -> None:
    """Seals a cell: its predictions in order, with their counts and digest."""
    rows = [predictions.to_row(answer) for answer in answers]
    table = pa.Table.from_pylist(rows, CELL_SCHEMA)
    bare = [name for name in SPARSE_COLUMNS if table[name].null_count == table.num_rows]
    table = table.drop_columns(bare)
    failed = sum(row["status"] != "ok" for row in rows)
    metadata = {"signature": dict(signature), "n": len(rows), "n_failed": failed}
    write_table(file, table, metadata | {"digest": _digest(table)})


def read_cell(file: Path) -> tuple[pa.Table, dict[str, Any]]:
    """A sealed cell with all columns, and its metadata (`signature`, `n`, `n_failed`, `digest`).

    Raises ResultsError when the file was changed since it was sealed, or is another cell's.
    """
    table, metadata = read_table(file, CELL_SCHEMA)
    if fault := _fault(table, metadata, file.stem):
        raise ResultsError(_place(file), f"{fault}; delete this file and score again")
    for field in CELL_SCHEMA:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table, metadata


def read_predictions(file: Path) -> dict[str, Prediction]:
    """Sample id -> prediction of a sealed cell. Raises ResultsError as `read_cell` does."""
    rows = read_cell(file)[0].to_pylist()
    try:
        found = [predictions.from_row(row) for row in rows]
    except (TypeError, ValueError):
        found = []
    if len(found) < len(rows) or not all(map(predictions.fits, found)):
        fault = "was not written by forgeteval; delete it and score again"
        raise ResultsError(_place(file), fault)
    return {prediction.sample_id: prediction for prediction in found}


def _place(cell: Path) -> str:
    return "/".join(cell.parts[-3:])


def write_table(file: Path, table: pa.Table, metadata: Mapping[str, Any]) -> None:
    """A Parquet file of ours: written whole or not at all, the same bytes for the same rows."""
    text = json.dumps({"schema": SCHEMA_VERSION, **metadata}, sort_keys=True)
    table = table.replace_schema_metadata({METADATA_KEY: text.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    write_atomically(file, sink.getvalue().to_pybytes())


def read_table(file: Path, schema: pa.Schema | None) -> tuple[pa.Table, dict[str, Any]]:
    """A file of `write_table` and its metadata; None = whatever columns it has.

    Raises ResultsError for a file that is missing, torn, or not ours.
    """
    place = f"{file.parent.name}/{file.name}"
    try:
        table = pq.ParquetFile(file, page_checksum_verification=True).read()
        metadata = json.loads((table.schema.metadata or {})[METADATA_KEY])
        version = metadata["schema"]
        # Arrow believes a file's strings to be UTF-8; later readers would not.
        table.validate(full=True)
    except FileNotFoundError:
        raise ResultsError(place, "is missing; run `forgeteval score` again") from None
    # Before ValueError, which some of Arrow's own errors are too.
    except (pa.ArrowException, OSError) as error:
        reason = first_line(error, 5_000).replace(str(file), place)
        raise ResultsError(place, f"cannot be read: {reason}{CURE}") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ResultsError(place, f"was not written by forgeteval, or is torn{CURE}") from None
    if version != SCHEMA_VERSION:
        raise ResultsError(
            place, f"has schema {version}, this program reads {SCHEMA_VERSION}; update forgeteval"
        )
    names = table.column_names
    known = [f for f in schema or () if f.name in names or f.name not in SPARSE_COLUMNS]
    if schema is not None and not table.schema.equals(pa.schema(known), check_metadata=False):
        raise ResultsError(place, f"has other columns than forgeteval writes{CURE}")
    return table, metadata


def read_metadata(file: Path) -> dict[str, Any]:
    """What a file of `write_table` says of itself, its rows unread; {} where there is no such file.

    Whether the rows are what it says is found when they are read.
    """
    try:
        found = json.loads((pq.read_schema(file).metadata or {})[METADATA_KEY])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(
        id=row["sample_id"],
        question=row["question"],
        answers=tuple(row["answers"]),
        choices=tuple(row["choices"]),
        group=row["group"],
        answer_type=row["answer_type"],
        chance=row["chance"],
        doc=json.loads(row["doc"]),
    )


def _fault(table: pa.Table, metadata: Mapping[str, Any], cell: str) -> str:
    """What is wrong with a cell's rows or metadata; "" if nothing is."""
    if metadata.get("digest") != _digest(table):
        return "its content does not match its checksum"
    signature = metadata.get("signature")
    if not isinstance(signature, dict) or cell_id(signature) != cell:
        return "its signature belongs to another cell"
    failed = sum(status != "ok" for status in table["status"].to_pylist())
    if (metadata.get("n"), metadata.get("n_failed")) != (table.num_rows, failed):
        return "its counts do not match its rows"
    return ""


def _digest(table: pa.Table) -> str:
    """Hash of the rows' values, whatever the file's encoding."""
    digest = hashlib.sha256()
    for row in table.to_pylist():
        digest.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "replace"))
    return digest.hexdigest()
