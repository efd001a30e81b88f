"""The store: predictions on disk, durable as they arrive, sealed when a cell is complete.

A cell is all predictions of one checkpoint on one task under one signature. While it is worked
on it is a journal (one JSON line per prediction, flushed to the disk); when every request has an
answer it becomes a Parquet file, written aside and renamed, so that a reader sees a whole cell
or none. A torn last line of a journal means work owed, not an error. `results/README.md`
documents every file and column.

`harness.storage.cell_files` is imported where a table is read or written: Arrow takes as long to
load as everything else that a run with nothing to do needs.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ResultsError
from harness.storage.predictions import fits, from_row, to_line, writable
from harness.storage.result_files import writing
from harness.storage.signatures import cell_id
from harness.types import Prediction, Sample

if TYPE_CHECKING:
    import pyarrow as pa


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
        if not file.is_file():
            from harness.storage import cell_files

            cell_files.write_samples(file, task, data, samples)

    def read_samples(self, task: str, data: str) -> list[Sample]:
        """The samples as scoring sees them: everything but the images. Raises ResultsError."""
        from harness.storage import cell_files

        return cell_files.read_samples(self.samples_file(task, data))

    def read_cell(self, task: str, cell: str) -> tuple[pa.Table, dict[str, Any]]:
        """A sealed cell and its metadata (`signature`, `n`, `n_failed`, `digest`).

        Raises ResultsError when the file was changed since it was sealed, or is another cell's.
        """
        from harness.storage import cell_files

        return cell_files.read_cell(self.cell_file(task, cell))

    def predictions(self, task: str, cell: str) -> dict[str, Prediction]:
        """Sample id -> prediction of a sealed cell. Raises ResultsError as `read_cell` does."""
        from harness.storage import cell_files

        return cell_files.read_predictions(self.cell_file(task, cell))

    @contextmanager
    def writer(self, on_wait: Callable[[], None]) -> Iterator[None]:
        """Holds the study for writing; a second process waits (after calling `on_wait`)."""
        with writing(self.folder / ".lock"):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock_file = (self.folder / ".lock").open("w")
        with lock_file as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(lock, fcntl.LOCK_EX)
            with writing(self.folder / ".lock"):
                self._remove_leftovers()
            yield

    def _remove_leftovers(self) -> None:
        """Removes what writers that were killed left behind; whoever holds the lock is alone.

        That is files written aside, and journals whose every answer is in their sealed cell. (A
        journal beside a sealed cell may also hold retried answers: those are kept.)
        """
        tables = ("cells/*", "samples", "graded/*")
        for pattern in (".study.json.*", *(f"{folder}/.*.parquet.*" for folder in tables)):
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
        answers = [
            replace(p, text=writable(p.text), reason=writable(p.reason)) for p in predictions
        ]
        lines = [json.dumps(to_line(p), ensure_ascii=False, default=dict) for p in answers]
        data = "".join(line + "\n" for line in lines).encode()
        with writing(self.file):
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
        self.done.update((p.sample_id, p) for p in answers)

    def seal(self, order: Sequence[str]) -> list[Prediction]:
        """Turns the journal into a sealed cell; its rows, in the order of the task's samples."""
        from harness.storage import cell_files

        self.close()
        answers = [self.done[sample_id] for sample_id in order]
        cell_files.write_cell(self.sealed, answers, self.signature)
        self.file.unlink(missing_ok=True)
        return answers

    def close(self) -> None:
        """Ends writing; what was appended stays."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


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
        prediction = from_row(row)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return prediction if fits(prediction) else None
