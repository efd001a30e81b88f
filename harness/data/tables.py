"""A table: rows of a data source under native column names, read by position.

Here a file or folder that a source names becomes one: columns of Parquet or Arrow files
(`harness.data.column_tables`) or records of JSON, JSONL or CSV (`harness.data.record_tables`), and
one table gets its pictures from another. Image cells come out as `Image`s, undecoded. Nothing here
knows tasks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.data.images import UrlImage
from harness.data.record_tables import SUFFIXES as RECORD_SUFFIXES
from harness.data.record_tables import read_records
from harness.errors import DataError
from harness.natural_order import natural

COLUMN_SUFFIXES = (".parquet", ".arrow")


class Table(Protocol):
    """Rows by position."""

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def commit(self) -> str | None:
        """Commit of the hub data set that the rows are of; None = not from a hub."""

    def __len__(self) -> int: ...
    def row(self, index: int) -> dict[str, Any]:
        """One row; image cells as `Image`s or tuples of them."""

    def column(self, name: str) -> list[Any]:
        """All values of one column that holds no images."""


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
        return column_table(_saved_files(path))
    if config and (path / config).is_dir():
        path = path / config
    for name in _METADATA:
        for folder in (path / split, path):
            if (folder / name).is_file():
                return _open_files([folder / name])
    return _open_files(_of_split(path, _data_files(path), split))


def _saved_files(folder: Path) -> list[Path]:
    """The files of a split that `datasets.save_to_disk` wrote, in order."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        names = [item["filename"] for item in state["_data_files"]]
        found = [folder / name for name in names if Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        names, found = [], []
    if not found or len(found) < len(names):
        raise DataError(folder.name, "state.json does not name data files beside it")
    return found


def _data_files(folder: Path) -> list[Path]:
    """The data files below a folder: of the first kind there is, in natural order."""
    for suffixes in ((".parquet",), (".arrow",), RECORD_SUFFIXES):
        found = [file for file in folder.rglob("*") if file.suffix in suffixes and file.is_file()]
        # A hub download keeps its cache in hidden folders.
        found = [
            f for f in found if not any(p.startswith(".") for p in f.relative_to(folder).parts)
        ]
        if found:
            return sorted(found, key=lambda file: natural(str(file.relative_to(folder))))
    kinds = ", ".join((*COLUMN_SUFFIXES, *RECORD_SUFFIXES))
    raise DataError(folder.name, f"no data files; expected one of {kinds}")


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
    """Files of one kind as a table. Raises DataError."""
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
    return read_records(files[0])


def column_table(files: list[Path]) -> Table:
    """Parquet or Arrow files (at least one) as one table. Raises DataError."""
    # pyarrow is loaded with the first such file
    from harness.data.column_tables import open_columns

    return open_columns(files)


def _nearby(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return ""
    names = sorted(item.name for item in parent.iterdir())[:8]
    return f"; its folder holds {', '.join(names)}" if names else "; its folder is empty"


# --- Tables with pictures from elsewhere ------------------------------------------------------


@dataclass(frozen=True)
class _Pictured:
    """Rows of `main` with a further column `image`."""

    main: Table

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the main table and `image`."""
        return (*self.main.columns, "image")

    @property
    def commit(self) -> str | None:
        """That of the main table."""
        return self.main.commit

    def __len__(self) -> int:
        return len(self.main)

    def column(self, name: str) -> list[Any]:
        """All values of one column of the main table."""
        return self.main.column(name)


@dataclass(frozen=True)
class JoinedTable(_Pictured):
    """`image` is taken from the row of `pictures` that column `on` names."""

    pictures: Table
    on: str
    index: Mapping[str, int]
    """Image id -> row of `pictures`."""

    def row(self, index: int) -> dict[str, Any]:
        """One row; see `Table`. ValueError when the image table lacks its image."""
        row = self.main.row(index)
        name = str(row.get(self.on))
        if name not in self.index:
            raise ValueError(f"no image {name!r} in the image table")
        return {**row, "image": self.pictures.row(self.index[name])["image"]}


@dataclass(frozen=True)
class AddressedTable(_Pictured):
    """`image` is made of the columns `image_url` and `image_sha256`."""

    def row(self, index: int) -> dict[str, Any]:
        """One row; see `Table`. ValueError for what is no hash."""
        row = self.main.row(index)
        known = str(row.get("image_sha256") or "").lower()
        if not re.fullmatch(r"[0-9a-f]{64}", known):
            raise ValueError("column 'image_sha256' is not a SHA-256")
        return {**row, "image": UrlImage(str(row.get("image_url")), known)}
