"""Provenance: where a report's numbers come from, what failed, and how to make them again."""

from __future__ import annotations

import csv
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import harness
from harness.analysis import suite_settings
from harness.analysis.scores import StudyScores
from harness.report import foreign_text
from harness.report.view import View
from harness.storage.result_files import read_json

AUDIT_FILE = "audit.csv"
# Rows of the weights audit on a page; the whole audit is the file.
AUDIT_ROWS = 200
_CELL_LIMIT = 200
_SETTINGS_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class Table:
    """A small table of texts, safe to show."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the last section of a report shows."""

    versions: Sequence[tuple[str, str]]
    settings: Table
    """Benchmark and how its numbers were made."""
    checkpoints: Table
    failures: Table
    """Cells with failed or unreadable answers."""
    audit: Table | None
    """The weights audit, where it was made."""
    commands: Sequence[str]
    notes: Sequence[str]
    options: str
    """The choices of the judgement that change numbers."""


def provenance(
    study_dir: Path, scores: StudyScores, view: View, target: str, results: Path | None
) -> Provenance:
    """Gather it. `target`: the study as the user named it. Raises ResultsError for a torn file."""
    record = read_json(study_dir / "study.json")
    judgement = view.judgement
    settings = [
        (foreign_text.name(name), foreign_text.visible(made, _SETTINGS_LIMIT))
        for name, made in suite_settings(scores).items()
    ]
    return Provenance(
        versions=[
            ("forgeteval", harness.__version__),
            ("Python", platform.python_version()),
            ("pandas", pd.__version__),
            ("study", foreign_text.name(scores.study)),
            ("base model", foreign_text.visible(scores.base_model, _CELL_LIMIT)),
        ],
        settings=Table(("Benchmark", "Made with"), settings),
        checkpoints=_checkpoints(record),
        failures=_failures(view),
        audit=audit(study_dir / AUDIT_FILE),
        commands=_commands(record, view, target, results),
        notes=[foreign_text.visible(note, _SETTINGS_LIMIT) for note in judgement.notes],
        options=judgement.options.signature(judgement.scorer),
    )


def _checkpoints(record: Mapping[str, Any]) -> Table:
    columns = ("Strategy", "Run", "Stage", "Name", "Checkpoint (by content)")
    rows = [
        (
            foreign_text.name(str(row.get("strategy", ""))),
            foreign_text.name(str(row.get("run", ""))),
            str(row.get("stage", "")),
            foreign_text.name(str(row.get("name", ""))),
            foreign_text.name(str(row.get("checkpoint") or "NA")),
        )
        for row in record.get("stages", [])
    ]
    return Table(columns, rows)


def _failures(view: View) -> Table:
    chosen = view.judgement.judged_scores
    chosen = chosen[(chosen["n_failed"] > 0) | (chosen["n_unparsed"] > 0)]
    columns = ["strategy", "run", "stage_name", "benchmark", "n_failed", "n_unparsed", "n_samples"]
    rows = [[foreign_text.name(str(cell)) for cell in row] for row in chosen[columns].to_numpy()]
    titles = ("Strategy", "Run", "Stage", "Benchmark", "Failed", "Not readable", "Scored")
    return Table(titles, rows)


def audit(file: Path) -> Table | None:
    """The weights audit as it was written, its first rows; None where it was not made."""
    if not file.is_file():
        return None
    with file.open(encoding="utf-8", newline="") as stream:
        lines = csv.reader(stream)
        header = next(lines, [])
        rows = [[foreign_text.visible(cell, _CELL_LIMIT) for cell in line] for line in lines]
    shown = rows[:AUDIT_ROWS]
    return Table([foreign_text.name(c) for c in header], shown, len(rows) - len(shown))


def _commands(
    record: Mapping[str, Any], view: View, target: str, results: Path | None
) -> list[str]:
    options = view.judgement.options
    where = foreign_text.name(target if Path(target).suffix else Path(target).name)
    arguments = [where]
    if results is not None:
        arguments += ["--results", foreign_text.name(results.name)]
    judged = [
        *(["--scorer", options.scorer] if options.scorer else []),
        *(["--margin", f"{options.margin_pp:g}"] if options.margin_pp != 1.0 else []),
        *(["--level", f"{options.level:g}"] if options.level != 0.95 else []),
        *(["--dip", options.dip] if options.dip else []),
        *(["--baseline", options.baseline] if options.baseline else []),
        *(["--max-dropped", f"{options.max_dropped:g}"] if options.max_dropped != 0.05 else []),
        *(["--common"] if options.common_set else []),
    ]
    if record.get("kind") == "imported":
        source = str(record.get("source", "FILE"))
        first = ["forgeteval", "import", source, "--study", str(record.get("study", ""))]
        # Else the study would be made in ./results, where the next lines do not look.
        first += arguments[1:]
    else:
        manifest = where if where.endswith((".yaml", ".yml")) else "checkpoints.yaml"
        first = ["forgeteval", "score", manifest]
    return [
        shlex.join(map(foreign_text.name, first)),
        shlex.join(["forgeteval", "compare", *arguments, *judged]),
        shlex.join(["forgeteval", "report", *arguments, *judged]),
    ]
