"""Grades on disk: what lm-eval's metrics said of each document of a sealed cell.

One Parquet file per cell in `graded/<benchmark>/`, so that a study is judged without lm-eval. A
file counts only for the very answers it was made of and for the task as it was defined then;
otherwise `forgeteval score` grades again, without a model. A cell that lm-eval cannot grade has
a file too, which says why: the rest of the study is judged without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from harness.errors import ResultsError
from harness.storage.cell_files import read_metadata, read_table, write_table
from harness.storage.store import Store, folder_name

FOLDER = "graded"
UNIT = "unit"


@dataclass(frozen=True, slots=True)
class Grades:
    """The grades of one cell."""

    metrics: tuple[str, ...]
    """`metric,filter` as lm-eval writes it."""
    values: Mapping[str, Mapping[str, float]]
    """metric -> unit (a document) -> value; absent = the metric has none for it."""
    refused: str = ""
    """Why the cell could not be graded, and the cure; then there are no values."""


def file_of(store: Store, task: str, cell: str) -> Path:
    """Where the grades of a cell lie."""
    return store.folder / FOLDER / folder_name(task) / f"{cell}.parquet"


def write(store: Store, task: str, cell: str, grades: Grades, grading: str) -> None:
    """Keeps the grades of a sealed cell, made by the task definition `grading`."""
    units = list(dict.fromkeys(unit for column in grades.values.values() for unit in column))
    columns: dict[str, object] = {UNIT: units}
    for metric in grades.metrics:
        columns[metric] = [grades.values[metric].get(unit) for unit in units]
    schema = pa.schema([(UNIT, pa.string()), *((m, pa.float64()) for m in grades.metrics)])
    of = store.read_cell(task, cell)[1]["digest"]
    table = pa.Table.from_pydict(columns, schema)
    metadata = {"of": of, "grading": grading}
    if grades.refused:
        metadata["refused"] = grades.refused
    write_table(file_of(store, task, cell), table, metadata)


def is_current(store: Store, task: str, cell: str, grading: str) -> bool:
    """Whether the cell's grades are there, of its answers and of this task definition.

    Quick: no row is read. What was refused is tried again: a package may be there by now.
    """
    grades = read_metadata(file_of(store, task, cell))
    if "refused" in grades:
        return False
    of = read_metadata(store.cell_file(task, cell)).get("digest")
    return bool(grades) and (grades.get("of"), grades.get("grading")) == (of, grading)


def read(store: Store, task: str, cell: str, grading: str) -> Grades:
    """The grades of a sealed cell. Raises ResultsError naming the command that makes them."""
    file = file_of(store, task, cell)
    place = f"{FOLDER}/{folder_name(task)}/{file.name}"
    cure = "run `forgeteval score` where lm-eval is installed: it grades without a model"
    if not file.is_file():
        raise ResultsError(place, f"the answers are not graded yet; {cure}")
    table, metadata = read_table(file, None)
    of = store.read_cell(task, cell)[1]["digest"]
    if (metadata.get("of"), metadata.get("grading")) != (of, grading):
        raise ResultsError(place, f"are grades of other answers or of an older task; {cure}")
    names = table.column_names
    if not names or names[0] != UNIT or any(f.type != pa.float64() for f in list(table.schema)[1:]):
        raise ResultsError(place, f"was not written by forgeteval; delete it and {cure}")
    rows = table.to_pylist()
    values = {
        name: {row[UNIT]: row[name] for row in rows if row[name] is not None} for name in names[1:]
    }
    return Grades(tuple(names[1:]), values, str(metadata.get("refused", "")))
