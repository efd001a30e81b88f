"""The CSV files of a study: `scores.csv`, `deltas.csv`, `leaderboard.csv`; same input, same bytes.

Fixed forms: UTF-8, `\\n`, commas; points and shares with 4 decimals, p-values with 6 significant
digits, `NA` for what is not available, `true` / `false` for flags. A text cell that a spreadsheet
would run as a formula gets a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import ResultsError

if TYPE_CHECKING:
    import pandas as pd

    from harness.analysis.judge import Judgement

NA = "NA"
# What spreadsheets take for the start of a formula (OWASP: CSV injection).
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
SIGNIFICANT = frozenset({"p_value", "p_holm"})

SCORES_ORDER = ("strategy", "run", "stage", "benchmark", "metric", "scorer")
DELTAS_ORDER = ("strategy", "run", "contrast", "from_stage", "to_stage", "benchmark", "scorer")


def neutralise(cell: str) -> str:
    """Text that a spreadsheet shows and does not run.

    >>> neutralise("=1+1")
    "'=1+1"
    """
    return f"'{cell}" if cell.startswith(FORMULA_STARTS) else cell


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV in its given row order."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    columns = [_cells(frame[name].tolist(), name in SIGNIFICANT) for name in frame.columns]
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def _cells(values: Iterable[object], significant: bool) -> list[str]:
    return [_cell(value, significant) for value in values]


def _cell(value: object, significant: bool) -> str:
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, str):
        return neutralise(value)
    if isinstance(value, int | np.integer):
        return str(int(value))
    if not isinstance(value, float | np.floating) or not np.isfinite(value):
        return NA
    text = f"{float(value):.6g}" if significant else f"{float(value):.4f}"
    return "0.0000" if text == "-0.0000" else text


def write_csv_files(judgement: Judgement, folder: Path) -> list[Path]:
    """Write the three files into `folder`, each replaced as a whole; returns their paths."""
    frames = {
        "scores.csv": judgement.scores.sort_values(list(SCORES_ORDER), kind="stable"),
        "deltas.csv": judgement.deltas.sort_values(list(DELTAS_ORDER), kind="stable"),
        "leaderboard.csv": judgement.leaderboard,
    }
    return [write_text(folder / name, csv_text(frame)) for name, frame in frames.items()]


def write_text(path: Path, text: str) -> Path:
    """Replace a file by `text` at once, so that no reader sees half of it; ResultsError if not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            out.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        raise ResultsError(str(path), f"cannot be written: {error.strerror}") from error
    return path
