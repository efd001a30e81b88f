"""The leaderboard of several studies as CSV, Markdown, JSON, LaTeX, and for a terminal.

CSV and JSON hold every column; Markdown, LaTeX and the terminal those a reader compares. The same
studies give the same bytes, in whatever order they are named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from harness.report.ci import markdown_text, one_line
from harness.report.csv_files import csv_text
from harness.standings import TIED_WITH, Standings

_NAME_LIMIT = 80
_HEADINGS = ("rank", "strategy", "learning", "held-out", "worst", "balance", "Pareto")
_RANKED_BY = {
    "balance": "balance = learning + held-out at the last stage",
    "heldout_final": "held-out at the last stage (there are no targets)",
    "learning": "learning (there are no held-out benchmarks)",
}
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "^": r"\textasciicircum{}", "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%",
}  # fmt: skip


def as_csv(standings: Standings) -> str:
    """All columns; formulas neutralised, NA for what is not available."""
    return csv_text(standings.frame)


def as_json(standings: Standings) -> str:
    """`{"level", "notes", "rows": [{column: value}]}`; NA is null."""
    rows = [
        {str(name): _json_value(value) for name, value in row.items()}
        for row in standings.frame.to_dict(orient="records")
    ]
    whole = {"level": standings.level, "notes": list(standings.notes), "rows": rows}
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _json_value(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    if isinstance(value, np.generic):
        return _json_value(value.item())
    return round(value, 6) + 0.0 if isinstance(value, float) else value


def as_markdown(standings: Standings) -> str:
    """A table for a README, and what must be known to read it."""
    lines = [
        "| rank | study / strategy | learning (pp) | held-out, final (pp) | worst benchmark (pp) "
        "| balance (pp) | Pareto |",
        "|---:|---|---:|---:|---:|---:|:---:|",
        *(f"| {' | '.join(map(markdown_text, cells))} |" for cells in _cells(standings)),
        "",
        *(f"- {markdown_text(note, 500)}" for note in _legend(standings)),
    ]
    return "\n".join(lines) + "\n"


def as_latex(standings: Standings) -> str:
    """A `tabular` that needs no package."""
    heading = " & ".join(
        ("", "strategy", "learning", "held-out, final", "worst benchmark", "balance", "Pareto")
    )
    rows = [" & ".join(map(_latex, cells)) + r" \\" for cells in _cells(standings)]
    notes = [f"% {one_line(note, 500)}" for note in _legend(standings)]
    return "\n".join(
        [
            *notes, r"\begin{tabular}{rlrrrrc}", r"\hline", heading + r" \\", r"\hline",
            *rows, r"\hline", r"\end{tabular}", "",
        ]
    )  # fmt: skip


def _latex(text: str) -> str:
    safe = "".join(_LATEX.get(c, c) for c in one_line(text, _NAME_LIMIT))
    # A minus, not a hyphen, in front of numbers.
    return re.sub(r"(?<![\w-])-(?=[0-9])", "$-$", safe).replace("±", r"$\pm$")


FORMATS: Mapping[str, Callable[[Standings], str]] = {
    "csv": as_csv,
    "md": as_markdown,
    "json": as_json,
    "tex": as_latex,
}


def terminal_table(standings: Standings) -> Table:
    """At most 80 columns; names are folded."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for name in _HEADINGS:
        left = name in ("strategy", "worst")
        table.add_column(
            name, justify="left" if left else "right", no_wrap=not left, overflow="fold"
        )
    for cells in _cells(standings):
        table.add_row(*(Text(one_line(cell, _NAME_LIMIT)) for cell in cells))
    return table


def _cells(standings: Standings) -> list[list[str]]:
    """The columns of _HEADINGS as words, row by row."""
    several = standings.frame["study"].nunique() > 1
    rows = []
    for row in standings.frame.to_dict(orient="records"):
        tied = "" if pd.isna(row[TIED_WITH]) else f"={row[TIED_WITH]}"
        worst = row["worst_benchmark"]
        rows.append(
            [
                "NA" if pd.isna(row["rank"]) else f"{row['rank']}{tied}",
                f"{row['study']}/{row['strategy']}" if several else str(row["strategy"]),
                _interval(row, "learning"),
                _interval(row, "heldout_final"),
                f"{worst} {_points(row['worst_benchmark_pp'])}" if isinstance(worst, str) else "NA",
                _points(row["balance_pp"]),
                "yes" if row["pareto"] else "",
            ]
        )
    return rows


def _interval(row: Mapping[Any, Any], name: str) -> str:
    """`-9.5 ±1.2`, the larger half where an interval is lopsided."""
    delta, low, high = (row[f"{name}{end}_pp"] for end in ("", "_ci_low", "_ci_high"))
    if not np.isfinite([delta, low, high]).all():
        return _points(delta)
    return f"{_points(delta)} ±{max(high - delta, delta - low):.1f}"


def _points(value: float) -> str:
    return f"{value + 0.0:+.1f}" if np.isfinite(value) else "NA"


def _legend(standings: Standings) -> list[str]:
    lines = [
        f"rank by {_RANKED_BY[standings.figure]}, in percentage points; "
        f"± is half the {100 * standings.level:g} % interval"
    ]
    if standings.frame[TIED_WITH].notna().any():
        lines.append("3=1 means: ranked third, but not to be told from rank 1 at that level")
    return [*lines, *standings.notes]


def legend(standings: Standings) -> list[str]:
    """What a reader must know, one line each."""
    return [one_line(line, 500) for line in _legend(standings)]
