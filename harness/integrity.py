"""Integrity: what of a study's results can be trusted, and what nobody refers to.

Reads every file that a study's `study.json` names and looks at every other one. Nothing is
changed here; `removable` lists what `forgeteval results prune` may delete.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import ResultsError
from harness.lmeval import graded
from harness.record import read_record
from harness.storage.cell_files import read_table
from harness.storage.store import Journal, Store

Kind = Literal["ok", "missing", "unfinished", "damaged", "stale", "foreign"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one file (or of one that should be there)."""

    kind: Kind
    """`ok`; `missing`: owed; `unfinished`: a journal; `damaged`: does not match its checksum or
    name; `stale`: a sound cell that `study.json` no longer refers to; `foreign`: not ours."""
    file: Path
    """Relative to the study's folder."""
    text: str = ""


def check(folder: Path) -> list[Finding]:
    """Every file of a study judged, worst news not hidden behind good. Raises ResultsError when
    there is no readable `study.json`."""
    record = read_record(folder)
    if record["kind"] != "scored":
        return [Finding("ok", Path("study.json"))]
    store = Store(folder)
    found = [*_cells(store, record), *_samples(store, record), *_grades(store, record)]
    known = {finding.file for finding in found}
    return found + [_unknown(store, file) for file in _others(folder, known)]


def removable(findings: list[Finding]) -> list[Finding]:
    """The stale cells and samples, and journals that no study refers to."""
    return [finding for finding in findings if finding.kind == "stale"]


def _cells(store: Store, record: dict[str, Any]) -> Iterator[Finding]:
    sizes = {row["name"]: row["n"] for row in record["benchmarks"]}
    wanted = {(t, c) for stage in record["stages"] for t, c in stage["cells"].items()}
    diagnostics = {
        (task, cell)
        for stage in record["stages"]
        for cells in stage.get("diagnostics", {}).values()
        for task, cell in cells.items()
    }
    for task, cell in sorted(wanted | diagnostics):
        file = store.cell_file(task, cell)
        place = file.relative_to(store.folder)
        if file.is_file():
            # Diagnostics are of a part of the samples.
            whole = (task, cell) in wanted
            yield _judge(store, place, task, cell, sizes.get(task) if whole else None)
        elif file.with_suffix(".jsonl").is_file():
            done = len(Journal(file, {}).done)
            text = f"{done} of {sizes.get(task)} answered; `forgeteval score` goes on"
            yield Finding("unfinished", place.with_suffix(".jsonl"), text)
        else:
            yield Finding("missing", place, "not scored yet")


def _judge(store: Store, place: Path, task: str, cell: str, n: int | None) -> Finding:
    try:
        table, metadata = store.read_cell(task, cell)
    except ResultsError as error:
        return Finding("damaged", place, error.problems[0].text)
    if n is not None and table.num_rows != n:
        return Finding("damaged", place, f"{table.num_rows} rows, expected {n}")
    failed = metadata.get("n_failed", 0)
    return Finding("ok", place, f"{failed} failed samples" if failed else "")


def _samples(store: Store, record: dict[str, Any]) -> Iterator[Finding]:
    for row in record["benchmarks"]:
        file = store.samples_file(row["name"], row["data"])
        place = file.relative_to(store.folder)
        try:
            n = len(store.read_samples(row["name"], row["data"]))
        except ResultsError as error:
            yield Finding("damaged" if file.is_file() else "missing", place, error.problems[0].text)
            continue
        sound = n == row["n"]
        text = "" if sound else f"{n} rows, expected {row['n']}"
        yield Finding("ok" if sound else "damaged", place, text)


def _grades(store: Store, record: dict[str, Any]) -> Iterator[Finding]:
    """The grades of lm-eval's tasks, for the cells that are there to be graded."""
    grading = {row["name"]: row["grading"] for row in record["benchmarks"] if row.get("grading")}
    cells = [*(stage["cells"] for stage in record["stages"]), record.get("base_again", {})]
    for task, cell in sorted({(t, c) for row in cells for t, c in row.items() if t in grading}):
        if not store.is_sealed(task, cell):
            continue
        file = graded.file_of(store, task, cell)
        kind: Kind
        try:
            refused = graded.read(store, task, cell, grading[task]).refused
        except ResultsError as error:
            kind = "damaged" if file.is_file() else "missing"
            yield Finding(kind, file.relative_to(store.folder), error.problems[0].text)
        else:
            kind = "missing" if refused else "ok"
            text = f"not graded: {refused}" if refused else ""
            yield Finding(kind, file.relative_to(store.folder), text)


def _others(folder: Path, known: set[Path]) -> Iterator[Path]:
    for part in ("cells", "samples", graded.FOLDER):
        for file in sorted((folder / part).rglob("*")):
            place = file.relative_to(folder)
            if file.is_file() and place not in known:
                yield place


def _unknown(store: Store, place: Path) -> Finding:
    """A file that `study.json` does not name: an old cell of ours, or somebody else's."""
    if place.suffix == ".jsonl" and len(place.stem) == 20:
        return Finding("stale", place, "journal of a cell that the study no longer refers to")
    try:
        if place.parts[0] == graded.FOLDER:
            read_table(store.folder / place, None)
        elif place.parts[0] == "cells":
            store.read_cell(place.parent.name, place.stem)
        else:
            task, _, data = place.stem.rpartition("-")
            store.read_samples(task, data)
    except ResultsError:
        return Finding("foreign", place, "not written by forgeteval, renamed, or damaged")
    return Finding("stale", place, "the study no longer refers to it")
