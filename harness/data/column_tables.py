"""Columns: rows of Parquet or Arrow files, of which only the piece that holds a row is in memory.

Image cells come out as `Image`s, undecoded and unread. The one module that reads other people's
Parquet; it is loaded when the first such file is opened (`harness.data.tables`).
"""

from __future__ import annotations

import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from harness.data.images import IMAGE_COLUMN, CellImage, FileImage, file_image
from harness.errors import DataError, Problem, SampleError, first_line

# Pieces of columns kept in memory (bytes); the newest is kept whatever its size.
PIECES_BYTES = 100_000_000

CellKind = Literal["image", "images", "text", "other"]


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file in the state it had when its table was opened: a rewritten file is another one."""

    path: str
    modified_ns: int

    @classmethod
    def at(cls, path: Path) -> DataFile:
        """The file as it is now."""
        return cls(str(path), path.stat().st_mtime_ns)

    @property
    def folder(self) -> str:
        """The folder that image paths in it are relative to."""
        return str(Path(self.path).parent)


class _Pieces:
    """Pieces of columns by (file, piece, leaf), the least recently used dropped first."""

    def __init__(self, limit: int):
        self._limit = limit
        self._held: OrderedDict[tuple[DataFile, int, str], pa.ChunkedArray] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, file: DataFile, piece: int, leaf: str) -> pa.ChunkedArray:
        opened = _open(file)
        if isinstance(opened, _ArrowPieces):  # mapped: the system pages it in and out
            return opened.piece(piece, leaf)
        key = (file, piece, leaf)
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        array = opened.piece(piece, leaf)
        with self._lock:
            if key not in self._held:
                self._held[key] = array
                self._size += array.nbytes
            grown = self._size > self._limit and len(self._held) > 1
            while self._size > self._limit and len(self._held) > 1:
                _, dropped = self._held.popitem(last=False)
                self._size -= dropped.nbytes
                del dropped
        if grown:  # Arrow's allocator would keep what was dropped
            pa.default_memory_pool().release_unused()
        return array


_pieces = _Pieces(PIECES_BYTES)


class _ParquetPieces:
    """A Parquet file; its pieces are its row groups."""

    def __init__(self, path: str):
        self._path = path
        self._file = pq.ParquetFile(path)
        self._lock = threading.Lock()
        self.schema: pa.Schema = self._file.schema_arrow
        groups = self._file.metadata.num_row_groups
        self.lengths = [self._file.metadata.row_group(i).num_rows for i in range(groups)]

    def piece(self, index: int, leaf: str) -> pa.ChunkedArray:
        """A column of a row group, or only one leaf of it (`image.path`). Raises DataError."""
        try:
            with self._lock:  # one file position
                return self._file.read_row_group(index, columns=[leaf]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self._path, error) from None

    def presence(self, column: str) -> str:
        """The cheapest leaf that tells which image cells are there: the path, not the bytes."""
        paths = [self._file.schema.column(i).path for i in range(len(self._file.schema))]
        beside = [p for p in paths if p.startswith(f"{column}.") and not p.endswith(".bytes")]
        return beside[0] if beside else column


class _ArrowPieces:
    """An Arrow file or stream, mapped into memory; its pieces are its record batches."""

    def __init__(self, path: str):
        mapped = pa.memory_map(path)
        try:
            batches = pa.ipc.open_file(mapped)
            self._batches = [batches.get_batch(i) for i in range(batches.num_record_batches)]
            self.schema: pa.Schema = batches.schema
        except pa.ArrowInvalid:
            mapped.seek(0)
            stream = pa.ipc.open_stream(mapped)
            self.schema = stream.schema
            self._batches = list(stream)
        self.lengths = [batch.num_rows for batch in self._batches]

    def piece(self, index: int, column: str) -> pa.ChunkedArray:
        """A column of a record batch; nothing is copied."""
        return pa.chunked_array([self._batches[index].column(column)])

    def presence(self, column: str) -> str:
        """The column itself: it is mapped, so its bytes are not read."""
        return column


@lru_cache(maxsize=64)
def _open(file: DataFile) -> _ParquetPieces | _ArrowPieces:
    path = file.path
    try:
        return _ParquetPieces(path) if path.endswith(".parquet") else _ArrowPieces(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: Exception) -> DataError:
    name = Path(path).name
    reason = first_line(error, 5_000).replace(path, name)
    return DataError(name, f"cannot be read as Parquet or Arrow: {reason}")


@dataclass(frozen=True, slots=True)
class ColumnTable:
    """Rows of Parquet or Arrow files, one after another. Pickles as its paths."""

    files: tuple[DataFile, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names; all files have the same."""
        return tuple(_open(self.files[0]).schema.names)

    @property
    def commit(self) -> str | None:
        """Commit of the hub data set that the files were prepared from; None = not from a hub."""
        commits = [p for p in Path(self.files[0].path).parts if re.fullmatch(r"[0-9a-f]{40}", p)]
        return commits[-1] if commits else None

    def __len__(self) -> int:
        return _starts(self.files)[-1]

    def row(self, index: int) -> dict[str, Any]:
        """One row; see `Table`. Bytes of images are not read."""
        file, piece, at = _locate(self.files, index)
        found: dict[str, Any] = {}
        for name, (kind, leaf) in _kinds(file).items():
            cell = _pieces.get(file, piece, leaf)[at]
            if kind == "image":
                found[name] = CellImage(self, index, name) if cell.is_valid else None
            elif kind == "images":
                count = len(cell) if cell.is_valid else 0
                found[name] = tuple(CellImage(self, index, name, k) for k in range(count))
            else:
                value = cell.as_py()
                is_path = kind == "text" and IMAGE_COLUMN.fullmatch(name) and value
                found[name] = file_image(value, file.folder) if is_path else value
        return found

    def column(self, name: str) -> list[Any]:
        """All values of one column."""
        return [
            value
            for file in self.files
            for piece in range(len(_open(file).lengths))
            for value in _pieces.get(file, piece, name).to_pylist()
        ]

    def image_bytes(self, row: int, column: str, item: int | None) -> bytes:
        """Encoded bytes of an image cell. Raises SampleError."""
        file, piece, at = _locate(self.files, row)
        try:
            value = _pieces.get(file, piece, column)[at]
        except DataError as error:
            raise SampleError(str(error)) from None
        value = value if item is None else value[item]
        value = value.as_py()
        if isinstance(value, Mapping):
            if value.get("bytes"):
                return bytes(value["bytes"])
            if value.get("path"):
                return self._named(value["path"], file).read()
            value = None
        if not value:
            raise SampleError(f"column {column!r} has an image without bytes")
        return bytes(value)

    def _named(self, path: object, file: DataFile) -> FileImage:
        try:
            return file_image(path, file.folder)
        except ValueError as error:
            raise SampleError(str(error)) from None


def open_columns(paths: Sequence[Path]) -> ColumnTable:
    """Parquet or Arrow files (at least one) as one table.

    Raises DataError for files that cannot be read, or with other columns than the first.
    """
    files = tuple(DataFile.at(path) for path in paths)
    first = set(_open(files[0]).schema.names)
    problems = [
        Problem(path.name, f"columns differ from {paths[0].name}: {', '.join(sorted(odd))}")
        for path, file in zip(paths[1:], files[1:], strict=True)
        if (odd := first ^ set(_open(file).schema.names))
    ]
    if problems:
        raise DataError(paths[0].parent.name, problems)
    return ColumnTable(files)


@lru_cache(maxsize=64)
def _starts(files: tuple[DataFile, ...]) -> tuple[int, ...]:
    """Row number at which each file starts, and the number of rows at the end."""
    return (0, *accumulate(sum(_open(file).lengths) for file in files))


@lru_cache(maxsize=4096)
def _piece_starts(file: DataFile) -> tuple[int, ...]:
    return (0, *accumulate(_open(file).lengths))


def _locate(files: tuple[DataFile, ...], row: int) -> tuple[DataFile, int, int]:
    """File, piece and position within the piece of a row."""
    starts = _starts(files)
    number = bisect_right(starts, row) - 1
    within = row - starts[number]
    pieces = _piece_starts(files[number])
    piece = bisect_right(pieces, within) - 1
    return files[number], piece, within - pieces[piece]


@lru_cache(maxsize=4096)
def _kinds(file: DataFile) -> Mapping[str, tuple[CellKind, str]]:
    """Column -> (what its cells hold by the Arrow type; the leaf to read for a row)."""
    opened = _open(file)
    kinds = {field.name: _kind(field.type) for field in opened.schema}
    return {
        name: (kind, opened.presence(name) if kind.startswith("image") else name)
        for name, kind in kinds.items()
    }


def _kind(cell: pa.DataType) -> CellKind:
    if pa.types.is_struct(cell) and cell.get_field_index("bytes") >= 0:
        return "image"
    if pa.types.is_binary(cell) or pa.types.is_large_binary(cell):
        return "image"
    if pa.types.is_list(cell) or pa.types.is_large_list(cell):
        return "images" if _kind(cell.value_type) == "image" else "other"
    return "text" if pa.types.is_string(cell) or pa.types.is_large_string(cell) else "other"
