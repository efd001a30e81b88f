"""Logs as a study: a folder of lm-eval or lmms-eval results becomes `results/<study>/`.

    look(folder)          what is there, and which stage each folder is taken for
    import_logs(plan)     everything checked, graded again where possible, and written

The study is written as `harness.interop.score_files` writes one: the log's own scores under the
scorer `logged`, ours under `strict` and `lenient`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import Problem, ResultsError
from harness.interop.logs.findings import TaskReport, origin, remarks, report, unsampled
from harness.interop.logs.folders import find_folders, printable
from harness.interop.logs.mapping import LogMap, mapped_stages, read_map
from harness.interop.logs.metrics import Wanted
from harness.interop.logs.names import NamedStage, read_names, rename_skills
from harness.interop.logs.pairing import Reader
from harness.interop.logs.regrade import our_name, regrade
from harness.interop.logs.table import LOGGED, Table
from harness.interop.score_files import KIND, SCHEMA_VERSION, free_folder, write_study
from harness.names import check_name

# More problems than this bury the first ones.
SHOWN_PROBLEMS = 40
_ROLES = {"target": 0, "held_out": 1, "probe": 2}


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be imported: stages with their folders, tasks with their roles."""

    home: Path
    stages: tuple[NamedStage, ...]
    """The base first."""
    roles: Mapping[str, str]
    """task -> role, in the order of reports."""
    left_out: tuple[str, ...]
    """Tasks of the logs that the map does not list."""
    wanted: Wanted
    accept: tuple[str, ...] = ()
    base_model: str = ""
    notes: tuple[str, ...] = ()

    def as_map(self) -> dict[str, Any]:
        """The plan as the values of a map.yaml."""
        strategies: dict[str, dict[str, list[dict[str, str]]]] = {}
        for stage in self.stages[1:]:
            step = {"path": stage.path, "name": stage.name}
            if stage.trained_on in self.roles:
                step["trained_on"] = str(stage.trained_on)
            strategies.setdefault(stage.strategy, {}).setdefault(stage.run, []).append(step)
        return {
            "base": self.stages[0].path,
            "strategies": {
                name: next(iter(runs.values()))
                if list(runs) == ["0"]
                else {"runs": [{"name": run, "stages": steps} for run, steps in runs.items()]}
                for name, runs in strategies.items()
            },
            "targets": [task for task, role in self.roles.items() if role == "target"],
            "held_out": [task for task, role in self.roles.items() if role == "held_out"],
        }


@dataclass(frozen=True, slots=True)
class ImportedLogs:
    """What an import did."""

    study: str
    folder: Path
    n_rows: int
    """Logged scores, failed ones included."""
    n_failed: int
    plan: Plan
    tasks: tuple[TaskReport, ...]
    notes: tuple[str, ...]


def look(folder: Path, map_file: Path | None = None, base_model: str = "") -> Plan:
    """What `folder` holds, by its names or by the user's map. Reads no score.

    `base_model`: the name to show; "" = what the map says.

    Raises UserError with everything that is wrong.
    """
    folders, notes = find_folders(folder)
    found = read_map(map_file, folder, folders) if map_file is not None else None
    tasks = sorted({task for log in folders for task in log.tasks()})
    same = [(task, our_name(task)) for task in tasks]
    if found is not None:
        stages = mapped_stages(found, folders)
        problems: list[Problem] = []
        used = {log.name for stage in stages for log in stage.folders}
        notes += [f"{f.name}: not in the map: left out" for f in folders if f.name not in used]
    else:
        stages, read, problems = read_names(folder.absolute().name, folders)
        notes += read
        stages = rename_skills(stages, tasks, same)
    roles = _roles(found, stages, tasks)
    problems += _name_problems(stages, list(roles))
    if problems:
        raise ResultsError(str(folder), _first(problems))
    return Plan(
        home=folder,
        stages=tuple(stages),
        roles=roles,
        left_out=tuple(task for task in tasks if task not in roles),
        wanted=found.wanted() if found else Wanted({}, {}, {}),
        accept=tuple(found.accept) if found else (),
        base_model=base_model or (found.base_model if found else ""),
        notes=tuple(notes),
    )


def import_logs(plan: Plan, study: str, results: Path, *, replace: bool = False) -> ImportedLogs:
    """Read, check and keep the logs of a plan as `results/<study>/`: all of it or nothing.

    Raises ResultsError: a bad study name, a study that is there, or everything wrong with the
    logs at once.
    """
    folder = free_folder(results, study, replace=replace)
    reader = Reader(plan.wanted, plan.accept)
    table = Table(plan.stages, plan.roles)
    reports = []
    for task, role in plan.roles.items():
        paired = reader.pair(task, plan.stages[0], plan.stages[1:])
        if paired is None:
            continue
        graded = regrade(paired)
        table.add(paired, graded)
        reports.append(report(role, paired, graded))
        reader.notes += remarks(paired)
    if not reader.problems:
        reader.problems += table.stages_without_scores()
    reader.tell()
    reader.notes += unsampled(reader, plan.stages)
    if reader.problems:
        raise ResultsError(str(plan.home), _first(reader.problems))
    rows = table.rows()
    notes = (*plan.notes, *map(printable, reader.notes))
    facts = {
        "schema": SCHEMA_VERSION,
        "kind": KIND,
        "study": study,
        "base_model": plan.base_model,
        "source": plan.home.absolute().name,
        "scorer": LOGGED,
        "settings": table.settings,
        "logs": {stage.label: stage.path for stage in plan.stages},
        "dates": table.dates,
        "notes": [origin(reports), *notes],
        "n_rows": len(rows),
    }
    try:
        write_study(folder, rows, facts)
    except OSError as error:
        raise ResultsError(str(folder), f"cannot be written: {error.strerror or error}") from error
    return ImportedLogs(study, folder, table.n_logged, table.n_failed, plan, tuple(reports), notes)


def study_name(path: Path) -> str:
    """A study's name made of a file's or folder's. ResultsError where nothing is left of it."""
    name = path.absolute().name if path.is_dir() else path.stem
    text = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-._+")[:80]
    try:
        return check_name(text)
    except ValueError:
        raise ResultsError(str(path), "makes no name for the study; give --study NAME") from None


# --- what is there -------------------------------------------------------------------------------


def _name_problems(stages: Sequence[NamedStage], tasks: Sequence[str]) -> list[Problem]:
    """Names become file names and table cells."""
    problems = []
    words = [("strategy", s.strategy) for s in stages] + [("run", s.run) for s in stages]
    words += [("stage", s.name) for s in stages if not s.name.startswith("stage ")]
    words += [("task", task) for task in tasks]
    for kind, word in dict.fromkeys(words):
        try:
            check_name(word)
        except ValueError as error:
            problems.append(Problem(f"{kind} {word[:60]!r}", f"{error}. Cure: a map, or rename it"))
    return problems


def _roles(
    found: LogMap | None, stages: Sequence[NamedStage], tasks: Sequence[str]
) -> dict[str, str]:
    """task -> role: as the map lists them; else targets are what was trained on."""
    trained = list(dict.fromkeys(s.trained_on for s in stages if s.trained_on in tasks))
    said = found.roles() if found else {}
    roles = {str(task): said.get(str(task), "target") for task in trained}
    roles |= said
    if not (found and found.held_out):
        for task in tasks:
            roles.setdefault(task, "held_out")
    return dict(sorted(roles.items(), key=lambda item: _ROLES[item[1]]))


def _first(problems: Sequence[Problem]) -> list[Problem]:
    shown = (Problem(printable(problem.place), printable(problem.text)) for problem in problems)
    unique = list(dict.fromkeys(shown))
    if len(unique) <= SHOWN_PROBLEMS:
        return unique
    more = len(unique) - SHOWN_PROBLEMS
    return [*unique[:SHOWN_PROBLEMS], Problem("", f"and {more:,} more problems")]
