"""A table: rows of a data source under native column names, read by position.

Two kinds: columns in Parquet or Arrow files, of which only the piece that holds a row is in
memory, and records of JSON, JSONL or CSV, which name their images as files or addresses. Image
cells come out as `Image`s, undecoded. Nothing here knows tasks.
"""

from __future__ import annotations

import csv
import json
import os
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import DataError, Problem, SampleError
from harness.images import CellImage, FileImage, UrlImage
from harness.types import Image

# Pieces of columns kept in memory (bytes); the newest is kept whatever its size.
PIECES_BYTES = 100_000_000
# Names of columns whose text is a path to an image.
IMAGE_COLUMN = re.compile(r"images?|image_\d+|image_path|file_name")
# A list cell or a CSV field beyond this is no question of a benchmark.
CSV_FIELD_BYTES = 10_000_000

RECORD_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")
COLUMN_SUFFIXES = (".parquet", ".arrow")


class Table(Protocol):
    """Rows by position."""

    @property
    def columns(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def row(self, index: int) -> dict[str, Any]:
        """One row; image cells as `Image`s or tuples of them."""

    def column(self, name: str) -> list[Any]:
        """All values of one column that holds no images."""


# --- Parquet and Arrow -----------------------------------------------------------------------


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
    reason = (str(error).splitlines() or [type(error).__name__])[0].replace(path, name)
    return DataError(name, f"cannot be read as Parquet or Arrow: {reason}")


@dataclass(frozen=True, slots=True)
class ColumnTable:
    """Rows of Parquet or Arrow files, one after another. Pickles as its paths."""

    files: tuple[DataFile, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Column names of the first file."""
        return tuple(_open(self.files[0]).schema.names) if self.files else ()

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
                found[name] = _file_image(value, file.folder) if is_path else value
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
                return _file_image(value["path"], file.folder).read()
            value = None
        if not value:
            raise SampleError(f"column {column!r} has an image without bytes")
        return bytes(value)


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
def _kinds(file: DataFile) -> Mapping[str, tuple[str, str]]:
    """Column -> (image, images, text or other by the Arrow type; the leaf to read for a row)."""
    opened = _open(file)
    kinds = {field.name: _kind(field.type) for field in opened.schema}
    return {
        name: (kind, opened.presence(name) if kind.startswith("image") else name)
        for name, kind in kinds.items()
    }


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "image"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "images" if _kind(kind.value_type) == "image" else "other"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else "other"


# --- JSON, JSONL, CSV ------------------------------------------------------------------------


@dataclass(frozen=True)
class RecordTable:
    """Records read whole; text columns named like images are paths relative to `folder`."""

    records: Sequence[Mapping[str, Any]]
    folder: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Every name that a record has, in order of appearance; `image` for `file_name`."""
        names = dict.fromkeys(name for record in self.records for name in record)
        if "image" not in names and names.keys() & {"file_name", "image_path"}:
            names["image"] = None
        return tuple(names)

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int) -> dict[str, Any]:
        """One row; see `Table`."""
        found: dict[str, Any] = {}
        for name, value in self.records[index].items():
            if IMAGE_COLUMN.fullmatch(name) and value:
                is_list = isinstance(value, list)
                files = [_file_image(item, self.folder) for item in (value if is_list else [value])]
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


def _file_image(name: object, folder: str) -> Image:
    """The image file that a data set names. Never outside the data set's folder."""
    if not isinstance(name, str):
        raise ValueError(f"an image is given as {type(name).__name__}, expected a path")
    inside = os.path.normpath(name)
    if Path(inside).is_absolute() or inside.startswith(".."):
        raise ValueError(f"image path {name!r} leads out of the data folder")
    return FileImage(str(Path(folder) / inside), name)


def _csv_records(path: Path, content: str) -> list[dict[str, Any]]:
    """The records of a CSV or TSV file. Raises DataError with the line."""
    csv.field_size_limit(CSV_FIELD_BYTES)
    delimiter = "\t" if path.suffix == ".tsv" else ","
    reader = csv.DictReader(content.splitlines(keepends=True), delimiter=delimiter)
    records: list[dict[str, Any]] = []
    try:
        for record in reader:
            if None in record:
                expected = len(reader.fieldnames or ())
                text = f"more than the {expected} fields of the first line; quote texts with commas"
                raise DataError(path.name, f"line {reader.line_num}: {text}")
            records.append(record)
    except csv.Error as error:
        raise DataError(path.name, f"line {reader.line_num}: {error}") from None
    return records


def _read_records(path: Path) -> RecordTable:
    """The records of one file. Raises DataError with the line."""
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(path.name, f"not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise DataError(path.name, str(error.strerror)) from None
    if path.suffix in (".csv", ".tsv"):
        return RecordTable(_csv_records(path, content), str(path.parent))
    lines: Iterable[tuple[int, str]]
    if path.suffix == ".json":
        lines = [(1, content)]
    else:
        lines = ((i, line) for i, line in enumerate(content.split("\n"), 1) if line.strip())
    records: list[Any] = []
    for number, line in lines:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(path.name, f"line {number}: not JSON ({error})") from None
        records += value if path.suffix == ".json" and isinstance(value, list) else [value]
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise DataError(path.name, f"record {number} is {type(record).__name__}, not an object")
    return RecordTable(records, str(path.parent))


# --- Finding the files -----------------------------------------------------------------------

_SPLITS = ("train", "validation", "val", "dev", "test", "testdev")
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


def open_path(path: Path, split: str = "", config: str | None = None) -> Table:
    """The table in a local file or folder.

    Understands one Parquet, Arrow, JSONL, JSON or CSV file; a folder with such files, with the
    hub's layout (`<config>/<split>-*.parquet`), an image folder with `metadata.jsonl` or `.csv`,
    or a folder that `datasets.save_to_disk` wrote. Raises DataError.
    """
    if not path.exists():
        raise DataError(path.name, f"no such file or folder{_nearby(path)}")
    if path.is_file():
        return _open_files([path])
    if (path / "dataset_dict.json").is_file():
        held = [item.name for item in sorted(path.iterdir()) if item.is_dir()]
        if split not in held:
            raise DataError(path.name, f"no split {split!r}; found {', '.join(held)}")
        path = path / split
    if (path / "state.json").is_file():
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        return column_table([path / item["filename"] for item in state["_data_files"]])
    if config and (path / config).is_dir():
        path = path / config
    for name in _METADATA:
        for folder in (path / split, path):
            if (folder / name).is_file():
                return _open_files([folder / name])
    return _open_files(_of_split(path, _data_files(path), split))


def _data_files(folder: Path) -> list[Path]:
    """The data files below a folder: of the first kind there is, in natural order."""
    for suffixes in ((".parquet",), (".arrow",), RECORD_SUFFIXES):
        found = [file for file in folder.rglob("*") if file.suffix in suffixes and file.is_file()]
        # A hub download keeps its cache in hidden folders.
        found = [
            f for f in found if not any(p.startswith(".") for p in f.relative_to(folder).parts)
        ]
        if found:
            return sorted(found, key=lambda file: _natural(str(file.relative_to(folder))))
    kinds = ", ".join((*COLUMN_SUFFIXES, *RECORD_SUFFIXES))
    raise DataError(folder.name, f"no data files; expected one of {kinds}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def _of_split(folder: Path, files: list[Path], split: str) -> list[Path]:
    """The files of a split, where file or folder names tell splits apart."""

    def named(file: Path) -> str:
        parts = file.relative_to(folder).parts
        names = [re.split(r"[-_.]", parts[-1])[0], *parts[:-1]]
        return next((name for name in names if name in _SPLITS or name == split), "")

    chosen = [file for file in files if named(file) == split]
    if chosen or not split:
        return chosen or files
    others = sorted({named(file) for file in files} - {""})
    if others:
        raise DataError(folder.name, f"no split {split!r}; found {', '.join(others)}")
    return files


def _open_files(files: list[Path]) -> Table:
    suffix = files[0].suffix
    if suffix in COLUMN_SUFFIXES:
        return column_table(files)
    if suffix not in RECORD_SUFFIXES:
        kinds = ", ".join((*COLUMN_SUFFIXES, *RECORD_SUFFIXES))
        raise DataError(
            files[0].name, f"got a {suffix or 'nameless'} file, expected one of {kinds}"
        )
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise DataError(files[0].parent.name, f"several record files ({names}): name one of them")
    return _read_records(files[0])


def column_table(paths: Sequence[Path]) -> ColumnTable:
    """Parquet or Arrow files as one table. Raises DataError for shards with other columns."""
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


def _nearby(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return ""
    names = sorted(item.name for item in parent.iterdir())[:8]
    return f"; its folder holds {', '.join(names)}" if names else "; its folder is empty"


# --- Tables of tables ------------------------------------------------------------------------


@dataclass(frozen=True)
class JoinedTable:
    """Rows of `main` with column `image` taken from the row of `pictures` that they name."""

    main: Table
    pictures: Table
    on: str
    index: Mapping[str, int]
    """Image id -> row of `pictures`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the main table and `image`."""
        return (*self.main.columns, "image")

    def __len__(self) -> int:
        return len(self.main)

    def column(self, name: str) -> list[Any]:
        """All values of one column of the main table."""
        return self.main.column(name)

    def row(self, index: int) -> dict[str, Any]:
        """One row; see `Table`. ValueError when the image table lacks its image."""
        row = self.main.row(index)
        name = str(row.get(self.on))
        if name not in self.index:
            raise ValueError(f"no image {name!r} in the image table")
        return {**row, "image": self.pictures.row(self.index[name])["image"]}


@dataclass(frozen=True)
class AddressedTable:
    """Rows of `main` with column `image` made of their `image_url` and `image_sha256`."""

    main: Table

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the main table and `image`."""
        return (*self.main.columns, "image")

    def __len__(self) -> int:
        return len(self.main)

    def column(self, name: str) -> list[Any]:
        """All values of one column of the main table."""
        return self.main.column(name)

    def row(self, index: int) -> dict[str, Any]:
        """One row; see `Table`."""
        row = self.main.row(index)
        known = str(row.get("image_sha256") or "").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", known):
            raise ValueError("column 'image_sha256' is not a SHA-256")
        return {**row, "image": UrlImage(str(row.get("image_url")), known)}
