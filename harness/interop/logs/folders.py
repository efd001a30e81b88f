"""A log folder: the files that lm-eval or lmms-eval left for one model, by date.

    lm-eval 0.4.5-0.4.13    .../results_<date>.json    .../samples_<task>_<date>.jsonl
    lmms-eval 0.3-0.7       .../<date>_results.json    .../<date>_samples_<task>.jsonl

Only names are read here. Links that lead out of the folder are not followed.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from harness.errors import Problem, ResultsError

Program = Literal["lm-eval", "lmms-eval"]
# Folders deeper than this below the one named are not looked into.
MAX_DEPTH = 8
MAX_FILES = 500_000

_ISO = r"(?P<date>\d{4}-\d{2}-\d{2}T\d{2}-\d{2}-\d{2}(?:\.\d+)?)"
_SHORT = r"(?P<date>\d{8}_\d{4,6})"
_KINDS: tuple[tuple[Program, re.Pattern[str]], ...] = (
    ("lm-eval", re.compile(rf"samples_(?P<task>.+)_{_ISO}\.jsonl")),
    ("lm-eval", re.compile(rf"(?:.+_)?{_ISO}\.json")),
    ("lmms-eval", re.compile(rf"{_SHORT}_samples_(?P<task>.+)\.jsonl")),
    ("lmms-eval", re.compile(rf"{_SHORT}_results\.json")),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One start of the evaluator: what it wrote under one date."""

    date: str
    """As in the file names."""
    results: Path | None
    """None: the run died before it wrote its results file."""
    samples: dict[str, Path]
    """task -> sample file."""

    @property
    def when(self) -> str:
        """The date as digits: sorts by time, whichever program wrote it."""
        return re.sub(r"\D", "", self.date)


@dataclass(frozen=True, slots=True)
class LogFolder:
    """All runs of one evaluator that lie in one folder."""

    path: Path
    name: str
    """Relative to the folder that is imported, `/` between parts; "." for that folder itself."""
    program: Program
    runs: tuple[Run, ...]
    """The newest first."""

    def tasks(self) -> set[str]:
        """Every task with a sample file."""
        return {task for run in self.runs for task in run.samples}


def one_model(folders: Sequence[LogFolder]) -> bool:
    """Whether several log folders can be one model's: called alike, or with no task in common."""
    names = {PurePosixPath(log.name).name for log in folders}
    tasks = [task for log in folders for task in log.tasks()]
    return len(names) <= 1 or len(set(tasks)) == len(tasks)


def find_folders(folder: Path) -> tuple[list[LogFolder], list[str]]:
    """(log folders by name, what was passed over, in words).

    Raises ResultsError: no such folder, no logs in it, or log files that are links out of it.
    """
    if not folder.is_dir():
        raise ResultsError(str(folder), "no such folder")
    home = folder.resolve()
    notes: list[str] = []
    problems: list[Problem] = []
    found: dict[tuple[Path, Program], dict[str, dict[str, Path]]] = defaultdict(dict)
    for place, name in _files(folder, home, notes):
        kind = next(((p, m) for p, shape in _KINDS if (m := shape.fullmatch(name))), None)
        if kind is None:
            continue
        file = place / name
        if not file.resolve().is_relative_to(home):
            problems.append(
                Problem(_shown(file, folder), "is a link out of the folder. Cure: copy the file")
            )
            continue
        if not file.is_file():
            problems.append(Problem(_shown(file, folder), "is no plain file"))
            continue
        program, match = kind
        task = match.groupdict().get("task") or ""
        found[place, program].setdefault(match["date"], {})[task] = file
    if problems:
        raise ResultsError(str(folder), problems)
    if not found:
        raise ResultsError(
            str(folder),
            "no logs in it; expected lm-eval's results_<date>.json and samples_<task>_<date>.jsonl,"
            " or lmms-eval's <date>_results.json and <date>_samples_<task>.jsonl",
        )
    folders = [
        LogFolder(place, _shown(place, folder), program, _runs(dates))
        for (place, program), dates in sorted(found.items())
    ]
    return _with_samples(folder, folders, notes), notes


def _with_samples(folder: Path, found: Sequence[LogFolder], notes: list[str]) -> list[LogFolder]:
    """The folders that hold scores per sample; the others are told of."""
    useful = [log for log in found if log.tasks()]
    if not useful:
        raise ResultsError(
            str(folder),
            [
                Problem(log.name, "results without sample files: scores cannot be paired")
                for log in found
            ]
            + [Problem("", "Cure: run the evaluator with --log_samples")],
        )
    notes += [
        f"{log.name}: results without sample files (no --log_samples): passed over"
        for log in found
        if not log.tasks()
    ]
    return useful


def _shown(path: Path, folder: Path) -> str:
    """The path below `folder`, in letters that can be written anywhere."""
    return printable(path.relative_to(folder).as_posix())


def printable(text: str) -> str:
    """Text of a stranger without characters that steer a terminal.

    >>> printable("a\x1b[31mb")
    'a?[31mb'
    """
    return "".join(character if character.isprintable() else "?" for character in text)


def _runs(dates: dict[str, dict[str, Path]]) -> tuple[Run, ...]:
    runs = [
        Run(date, files.get(""), {task: file for task, file in files.items() if task})
        for date, files in dates.items()
    ]
    return tuple(sorted(runs, key=lambda run: run.when, reverse=True))


def _files(folder: Path, home: Path, notes: list[str]) -> Iterator[tuple[Path, str]]:
    """(folder, name) of every file below, in a fixed order."""
    count = 0
    for text, below, names in os.walk(folder):
        place = Path(text)
        depth = len(place.relative_to(folder).parts)
        for name in sorted(below):
            link = place / name
            if link.is_symlink() and not link.resolve().is_relative_to(home):
                notes.append(f"{_shown(link, folder)}: a link out of the folder: passed over")
        below[:] = sorted(n for n in below if not n.startswith(".")) if depth < MAX_DEPTH else []
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                raise ResultsError(str(folder), f"more than {MAX_FILES:,} files; name a part of it")
            yield place, name
