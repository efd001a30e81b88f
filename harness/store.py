"""The store: predictions on disk, durable as they arrive, sealed when a cell is complete.

A cell is all predictions of one checkpoint on one task under one signature. While it is worked
on it is a journal (one JSON line per prediction, flushed to the disk); when every request has an
answer it becomes a Parquet file, written aside and renamed, so that a reader sees a whole cell
or none. A torn last line of a journal means work owed, not an error. `results/README.md`
documents every file and column.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness import readings
from harness.errors import DataError, ResultsError
from harness.types import Prediction, Sample

SCHEMA_VERSION = 1
DEFAULT_RESULTS = "results"
METADATA_KEY = b"forgeteval"
# Signature keys that name the model; all others must agree before two numbers are subtracted.
MODEL_KEYS = ("checkpoint", "processor")
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
        ("reading", readings.TYPE),
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


def signature_text(signature: Mapping[str, object]) -> str:
    """The canonical string of a signature: `key:value|key:value`, keys in order.

    >>> signature_text({"task": "ai2d", "n": 10})
    'n:10|task:ai2d'
    """
    return "|".join(f"{key}:{signature[key]}" for key in sorted(signature))


def cell_id(signature: Mapping[str, object]) -> str:
    """The name of a cell: a hash of everything that made its numbers."""
    return hashlib.sha256(signature_text(signature).encode()).hexdigest()[:20]


def folder_name(task: str) -> str:
    """The name of a benchmark as a folder: `lm_eval:gsm8k` has a character that none may have.

    >>> folder_name("chartqa"), folder_name("lm_eval:gsm8k")
    ('chartqa', 'lm_eval+gsm8k')
    """
    return task.replace(":", "+").replace("/", "+")


class Store:
    """The predictions and samples of one study under `results/<study>/`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def cell_file(self, task: str, cell: str) -> Path:
        """Where a sealed cell lies."""
        return self.folder / "cells" / folder_name(task) / f"{cell}.parquet"

    def is_sealed(self, task: str, cell: str) -> bool:
        """Whether the cell is complete."""
        return self.cell_file(task, cell).is_file()

    def samples_file(self, task: str, data: str) -> Path:
        """Where the questions and gold answers behind a task's cells lie."""
        return self.folder / "samples" / f"{folder_name(task)}-{data[:12]}.parquet"

    def write_samples(self, task: str, data: str, samples: Iterable[Sample]) -> None:
        """Keeps what scoring needs (never images), once per task and data fingerprint."""
        file = self.samples_file(task, data)
        if file.is_file():
            return
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

    def read_samples(self, task: str, data: str) -> list[Sample]:
        """The samples as scoring sees them: everything but the images."""
        file = self.samples_file(task, data)
        rows = read_table(file, SAMPLE_SCHEMA)[0].to_pylist()
        try:
            return [_sample(row) for row in rows]
        except (TypeError, ValueError, RecursionError):
            place = f"{file.parent.name}/{file.name}"
            raise ResultsError(place, "was not written by forgeteval, or is torn") from None

    def read_cell(self, task: str, cell: str) -> tuple[pa.Table, dict[str, Any]]:
        """A sealed cell and its metadata (`signature`, `n`, `n_failed`, `digest`).

        Raises ResultsError when the file was changed since it was sealed, or is another cell's.
        """
        table, metadata = read_table(self.cell_file(task, cell), CELL_SCHEMA)
        if fault := _fault(table, metadata, cell):
            place = f"cells/{folder_name(task)}/{self.cell_file(task, cell).name}"
            raise ResultsError(place, f"{fault}; delete this file and score again")
        for field in CELL_SCHEMA:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        return table, metadata

    @contextmanager
    def writer(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Holds the study for writing; a second process waits (after calling `on_wait`)."""
        with _writing(self.folder / ".lock"):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock_file = (self.folder / ".lock").open("w")
        with lock_file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            with _writing(self.folder / ".lock"):
                self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        """Removes what writers that were killed left behind; whoever holds the lock is alone.

        That is files written aside, and journals whose every answer is in their sealed cell. (A
        journal beside a sealed cell may also hold retried answers: those are kept.)
        """
        for pattern in (".study.json.*", "cells/*/.*.parquet.*", "samples/.*.parquet.*"):
            for file in self.folder.glob(pattern):
                if file.suffix[1:].isdigit():
                    file.unlink(missing_ok=True)
        for file in self.folder.glob("cells/*/*.jsonl"):
            if self.is_sealed(file.parent.name, file.stem) and self._is_told(file):
                file.unlink(missing_ok=True)

    def _is_told(self, journal: Path) -> bool:
        try:
            sealed = self.predictions(journal.parent.name, journal.stem)
        except ResultsError:
            return False  # `results check` tells; the journal may be all that is left
        answers, _ = _read_journal(journal)
        return all(sealed.get(name) == answer for name, answer in answers.items())

    def predictions(self, task: str, cell: str) -> dict[str, Prediction]:
        """Sample id -> prediction of a sealed cell. Raises ResultsError as `read_cell` does."""
        rows = self.read_cell(task, cell)[0].to_pylist()
        try:
            found = [_prediction(row) for row in rows]
        except (TypeError, ValueError):
            found = []
        if len(found) < len(rows) or not all(map(_fits, found)):
            place = f"cells/{folder_name(task)}/{self.cell_file(task, cell).name}"
            raise ResultsError(place, "was not written by forgeteval; delete it and score again")
        return {prediction.sample_id: prediction for prediction in found}

    def journal(self, task: str, signature: Mapping[str, object]) -> Journal:
        """The cell as it is being worked on; earlier predictions are there already.

        A sealed cell opened again (`--retry-failed`) owes its failed predictions.
        """
        file = self.cell_file(task, cell_id(signature))
        journal = Journal(file, signature)
        if file.is_file():
            sealed = self.predictions(task, file.stem).values()
            journal.done = {p.sample_id: p for p in sealed if p.status == "ok"} | journal.done
        return journal


class Journal:
    """A cell in progress: an append-only file of predictions."""

    def __init__(self, sealed: Path, signature: Mapping[str, object]):
        self.sealed = sealed
        self.signature = signature
        self.file = sealed.with_suffix(".jsonl")
        self.done, self._whole = _read_journal(self.file)
        self._stream: RawIOBase | None = None

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Adds predictions and returns when they are on the disk."""
        predictions = [
            replace(p, text=_writable(p.text), reason=_writable(p.reason)) for p in predictions
        ]
        lines = [json.dumps(asdict(p), ensure_ascii=False, default=dict) for p in predictions]
        data = "".join(line + "\n" for line in lines).encode()
        with _writing(self.file):
            if self._stream is None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self.file.open("ab", buffering=0)
            # Whatever a failed write or a kill left behind the last whole line goes first.
            self._stream.truncate(self._whole)
            written = self._stream.write(data)
            if written != len(data):  # a disk that fills up takes a part without an error
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._stream.fileno())
        self._whole += len(data)
        self.done.update((p.sample_id, p) for p in predictions)

    def seal(self, order: Sequence[str]) -> None:
        """Turns the journal into a sealed cell with rows in the order of the task's samples."""
        self.close()
        rows = [_row(self.done[sample_id]) for sample_id in order]
        table = pa.Table.from_pylist(rows, CELL_SCHEMA)
        bare = [name for name in SPARSE_COLUMNS if table[name].null_count == table.num_rows]
        table = table.drop_columns(bare)
        failed = sum(row["status"] != "ok" for row in rows)
        metadata = {"signature": dict(self.signature), "n": len(rows), "n_failed": failed}
        write_table(self.sealed, table, metadata | {"digest": _table_digest(table)})
        self.file.unlink(missing_ok=True)

    def close(self) -> None:
        """Ends writing; what was appended stays."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _row(prediction: Prediction) -> dict[str, Any]:
    """The prediction as a row of `CELL_SCHEMA`."""
    row = asdict(prediction)
    mass, reading = row["class_mass"], prediction.reading
    return row | {
        "class_mass": None if mass is None else list(mass.items()),
        "reading": None if reading is None else readings.to_row(reading),
    }


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


def _prediction(row: dict[str, Any]) -> Prediction:
    mass, scores, greedy = row["class_mass"], row["choice_scores"], row.get("choice_greedy")
    reading = row.get("reading")
    return replace(
        Prediction(**row),
        class_mass=None if mass is None else dict(mass),
        choice_scores=None if scores is None else tuple(scores),
        choice_greedy=None if greedy is None else tuple(greedy),
        reading=None if reading is None else readings.from_row(reading),
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from the results folder. Raises ResultsError."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(file.parent.name, f"{file.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResultsError(f"{file.parent.name}/{file.name}", f"cannot be read: {why}") from None
    if not isinstance(value, dict):
        raise ResultsError(f"{file.parent.name}/{file.name}", "holds no JSON object")
    return value


def write_atomically(file: Path, data: bytes) -> None:
    """The file has the old content or the new, whatever happens: written aside, then renamed."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with _writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """What the system refuses becomes one message; nothing written before is lost."""
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"{file.parent.name}/{file.name}",
            f"cannot be written: {error.strerror or error}; mend that and run again, "
            "what was answered before is kept",
        ) from None


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
        raise ResultsError(place, "is missing") from None
    # Before ValueError, which some of Arrow's own errors are too.
    except (pa.ArrowException, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace(str(file), place)
        raise ResultsError(place, f"cannot be read: {reason}") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ResultsError(place, "was not written by forgeteval, or is torn") from None
    if version != SCHEMA_VERSION:
        raise ResultsError(
            place, f"has schema {version}, this program reads {SCHEMA_VERSION}; update forgeteval"
        )
    names = table.column_names
    known = [f for f in schema or () if f.name in names or f.name not in SPARSE_COLUMNS]
    if schema is not None and not table.schema.equals(pa.schema(known), check_metadata=False):
        raise ResultsError(place, "has other columns than forgeteval writes")
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


def _fault(table: pa.Table, metadata: Mapping[str, Any], cell: str) -> str:
    """What is wrong with a cell's rows or metadata; "" if nothing is."""
    if metadata.get("digest") != _table_digest(table):
        return "its content does not match its checksum"
    signature = metadata.get("signature")
    if not isinstance(signature, dict) or cell_id(signature) != cell:
        return "its signature belongs to another cell"
    failed = sum(status != "ok" for status in table["status"].to_pylist())
    if (metadata.get("n"), metadata.get("n_failed")) != (table.num_rows, failed):
        return "its counts do not match its rows"
    return ""


def _table_digest(table: pa.Table) -> str:
    """Hash of the rows' values, whatever the file's encoding."""
    digest = hashlib.sha256()
    for row in table.to_pylist():
        digest.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "replace"))
    return digest.hexdigest()


def _read_journal(file: Path) -> tuple[dict[str, Prediction], int]:
    """The predictions before the first torn line, and the bytes they take; the rest is owed."""
    found: dict[str, Prediction] = {}
    whole = 0
    if not file.is_file():
        return found, whole
    with file.open("rb") as stream:
        for line in stream:
            prediction = _journalled(line) if line.endswith(b"\n") else None
            if prediction is None:
                break
            found[prediction.sample_id] = prediction
            whole += len(line)
    return found, whole


def _journalled(line: bytes) -> Prediction | None:
    """The prediction in a line; None where it is torn, or holds what a cell cannot."""
    try:
        row = json.loads(line)
        prediction = _prediction(row)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return prediction if _fits(prediction) else None


def _fits(prediction: Prediction) -> bool:
    """Whether `CELL_SCHEMA` can hold it: a journal may have been written by anybody."""
    p = prediction
    texts = (p.sample_id, p.text, p.finish_reason, p.reason)
    counts = (p.n_prompt_tokens, p.n_tokens)
    scores = [*(p.choice_scores or ()), *(p.class_mass or {}).values()]
    return (
        p.status in ("ok", "failed")
        and all(isinstance(text, str) and _writable(text) == text for text in texts)
        and all(type(count) is int and 0 <= count < 2**31 for count in counts)
        and all(isinstance(score, float) for score in scores)
        and all(isinstance(flag, bool) for flag in p.choice_greedy or ())
        and all(isinstance(name, str) and _writable(name) == name for name in p.class_mass or ())
        and (p.reading is None or readings.fits(p.reading))
    )


def _writable(text: str) -> str:
    """The text with half characters (lone surrogates), which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode()
