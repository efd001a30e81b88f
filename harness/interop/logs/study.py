"""Logs as a study: a folder of lm-eval or lmms-eval results becomes `results/<study>/`.

    look(folder)          what is there, and which stage each folder is taken for
    import_logs(plan)     everything checked, graded again where possible, and written

The study is written as `harness.interop.score_files` writes one: the log's own scores under the
scorer `logged`, ours under `strict` and `lenient`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.errors import Problem, ResultsError
from harness.interop.logs.folders import find_folders, printable
from harness.interop.logs.mapping import LogMap, mapped_stages, read_map
from harness.interop.logs.metrics import Wanted
from harness.interop.logs.names import NamedStage, read_names, rename_skills
from harness.interop.logs.pairing import PairedTask, Reader, TaskLog
from harness.interop.logs.regrade import Regraded, our_name, regrade
from harness.interop.logs.results import BrokenLogError
from harness.interop.score_files import KIND, SCHEMA_VERSION, free_folder, write_study
from harness.interop.score_rows import DEFAULTS, NAMES, ScoreRows, Words
from harness.manifest import check_name

LOGGED = DEFAULTS["scorer"]
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
class TaskReport:
    """What became of one task."""

    task: str
    role: str
    metric: str
    filter: str
    full_mark: float
    other_metrics: tuple[str, ...]
    other_filters: tuple[str, ...]
    n_documents: int
    n_groups: int
    grouped_by: str
    evaluator: str
    logged: float
    """Mean of the logged scores over all stages' answers; NaN where there is none."""
    evaluators_own: float
    """The base's figure in its results file, divided by the full mark; NaN: not comparable."""
    base_logged: float
    """The base's mean of logged scores."""
    graded_by: str
    """Our task; "" = not graded again."""
    why_not: str
    again: Mapping[str, float]
    """scorer -> mean over the same answers, where our scorer has a score."""
    differ: Mapping[str, float]
    """scorer -> share of answers whose score is another than the logged one."""
    absent: tuple[str, ...]
    """Stages that lack the task."""


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


def look(folder: Path, map_file: Path | None = None) -> Plan:
    """What `folder` holds, by its names or by the user's map. Reads no score.

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
        base_model=found.base_model if found else "",
        notes=tuple(notes),
    )


def import_logs(plan: Plan, study: str, results: Path, *, replace: bool = False) -> ImportedLogs:
    """Read, check and keep the logs of a plan as `results/<study>/`: all of it or nothing.

    Raises ResultsError: a bad study name, a study that is there, or everything wrong with the
    logs at once.
    """
    folder = free_folder(results, study, replace=replace)
    reader = Reader(plan.wanted, plan.accept)
    table = _Table(plan)
    reports = []
    for task, role in plan.roles.items():
        paired = reader.pair(task, plan.stages[0], plan.stages[1:])
        if paired is None:
            continue
        graded = regrade(paired)
        table.add(paired, graded)
        reports.append(_report(role, paired, graded))
        reader.notes += _remarks(paired)
    if not reader.problems:
        reader.problems += table.stages_without_scores()
    reader.tell()
    _tell_unsampled(reader, plan)
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
        "notes": [_origin(plan, reports), *notes],
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


# --- rows ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Table:
    """The rows of the study, gathered block by block: one per task, stage and scorer."""

    plan: Plan
    settings: dict[str, str] = field(default_factory=dict)
    n_logged: int = 0
    n_failed: int = 0
    _blocks: list[dict[str, Any]] = field(default_factory=list)
    _texts: list[pa.Table] = field(default_factory=list)

    def add(self, paired: PairedTask, graded: Regraded) -> None:
        """All scores of one task."""
        self.settings[paired.task] = _settings(paired)
        ids = np.array(paired.documents.ids, object)
        groups = np.array([f"{paired.task}/{g}" if g else "" for g in graded.groups], object)
        for k, log in enumerate(paired.logs()):
            logged = np.array(log.answers.scores, float)
            self.n_logged += len(logged)
            self.n_failed += int(np.isnan(logged).sum())
            self._block(paired.task, log, LOGGED, ids, groups, logged)
            self._texts.append(_words(log.answers.responses, graded if k == 0 else None))
            for scorer, columns in graded.scores.items():
                scores = np.array(columns[k], float)
                known = ~np.isnan(scores)
                if known.any():
                    self._block(paired.task, log, scorer, ids[known], groups[known], scores[known])
                    self._texts.append(_words([None] * int(known.sum()), None))

    def _block(
        self, task: str, log: TaskLog, scorer: str, ids: Any, groups: Any, score: Any
    ) -> None:
        stage = log.stage
        self._blocks.append(
            {
                "strategy": stage.strategy,
                "run": stage.run,
                "stage_name": stage.name,
                "trained_on": stage.trained_on or "",
                "benchmark": task,
                "role": self.plan.roles[task],
                "scorer": scorer,
                "stage": stage.stage,
                "sample_id": ids,
                "group": groups,
                "score": score,
            }
        )

    def stages_without_scores(self) -> list[Problem]:
        """Stages of the plan that no task gave a score."""
        found = {(block["strategy"], block["run"], block["stage"]) for block in self._blocks}
        return [
            Problem(f"{stage.label} ({stage.path})", "has none of the tasks that are imported")
            for stage in self.plan.stages
            if (stage.strategy, stage.run, stage.stage) not in found
        ]

    def rows(self) -> ScoreRows:
        """Everything gathered, as the rows of a score file."""
        sizes = [len(block["score"]) for block in self._blocks]
        names = {}
        for name in (*NAMES, "scorer"):
            if name in ("sample_id", "group"):
                values = np.concatenate([block[name] for block in self._blocks])
                names[name] = Words.of(values, np.arange(len(values)))
            else:
                words = np.array([block[name] for block in self._blocks], object)
                names[name] = Words.of(words, np.repeat(np.arange(len(sizes)), sizes))
        texts = pa.concat_tables(self._texts)
        return ScoreRows(
            names=names,
            stage=np.repeat([block["stage"] for block in self._blocks], sizes).astype(np.int64),
            score=np.concatenate([block["score"] for block in self._blocks]),
            texts={name: texts[name].combine_chunks() for name in texts.column_names},
            ignored=(),
        )


def _words(responses: Sequence[str | None], graded: Regraded | None) -> pa.Table:
    """The words of a block; what belongs to the document stands in the base's rows only."""
    n = len(responses)
    samples = graded.samples if graded else []
    text, texts = pa.large_string(), pa.list_(pa.string())
    nothing: list[Any] = [None] * n

    def column(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([_clean(v) for v in values] if samples else nothing, kind)

    return pa.table(
        {
            "question": column([s.question for s in samples], text),
            "response": pa.array([_clean(r) for r in responses], text),
            "gold": column([" / ".join(dict.fromkeys(s.answers)) for s in samples], text),
            "answer_type": column([s.answer_type for s in samples], pa.string()),
            "answers": column([list(s.answers) for s in samples], texts),
            "choices": column([list(s.choices) for s in samples], texts),
        }
    )


def _clean(value: Any) -> Any:
    """Texts that a file can hold: JSON may escape half of a surrogate pair."""
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if value is None:
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def _settings(paired: PairedTask) -> str:
    """How a task's numbers were made: equal in two studies means comparable."""
    measure, base = paired.measure, paired.base
    prompts = hashlib.sha256(b"".join(d or b"?" for d in base.answers.prompts)).hexdigest()
    return "|".join(
        [
            f"evaluator:{base.evaluator}",
            f"task:{paired.task} {base.results.version}",
            f"metric:{measure.name}/{measure.scale:g}",
            f"filter:{measure.filter}",
            f"prompts:{prompts[:16]}",
        ]
    )


# --- what to tell --------------------------------------------------------------------------------


def _report(role: str, paired: PairedTask, graded: Regraded) -> TaskReport:
    logged = np.array([log.answers.scores for log in paired.logs()], float)
    again = {name: np.array(columns, float) for name, columns in graded.scores.items()}
    measure = paired.measure
    return TaskReport(
        task=paired.task,
        role=role,
        metric=measure.name,
        filter=measure.filter,
        full_mark=measure.scale,
        other_metrics=measure.other_metrics,
        other_filters=measure.other_filters,
        n_documents=logged.shape[1],
        n_groups=_count_groups(graded.groups),
        grouped_by=graded.grouped_by,
        evaluator=paired.base.evaluator,
        logged=_mean(logged),
        evaluators_own=measure.aggregate(paired.base.results),
        base_logged=_mean(logged[0]),
        graded_by=graded.task,
        why_not=graded.why_not,
        again={str(name): _mean(values) for name, values in again.items()},
        differ={
            str(name): _mean(
                np.where(np.isnan(values) | np.isnan(logged), np.nan, abs(values - logged) > 1e-9)
            )
            for name, values in again.items()
        },
        absent=tuple(stage.label for stage in paired.absent),
    )


def _mean(values: Any) -> float:
    known = ~np.isnan(values)
    return float(values[known].mean()) if known.any() else math.nan


def _count_groups(groups: Sequence[str]) -> int:
    named = {group for group in groups if group}
    return len(named) + sum(not group for group in groups)


def _remarks(paired: PairedTask) -> list[str]:
    """What a reader must know of one task."""
    task, measure, notes = paired.task, paired.measure, []
    if paired.absent:
        labels = ", ".join(stage.label for stage in paired.absent)
        notes.append(f"{task}: no log of {labels}: missing, not zero")
    if all(prompt is None for prompt in paired.base.answers.prompts):
        notes.append(f"{task}: the logs do not say what was asked: prompts could not be compared")
    highest = max((s for log in paired.logs() for s in log.answers.scores if s == s), default=0.0)
    if measure.scale > 1 and highest * measure.scale <= 1:
        notes.append(
            f"{task}: the full mark is {measure.scale:g}, but no document has more than "
            f"{highest * measure.scale:g}: is it the mark of a document, not of the sum?"
        )
    return notes


def _origin(plan: Plan, reports: Sequence[TaskReport]) -> str:
    evaluators = ", ".join(dict.fromkeys(report.evaluator for report in reports))
    return f"imported from logs of {evaluators}; scores as logged"


def _tell_unsampled(reader: Reader, plan: Plan) -> None:
    """Results of tasks without a sample file: they cannot be paired."""
    for stage in plan.stages:
        have = {task for log in stage.folders for task in log.tasks()}
        lacking: dict[str, None] = {}
        for log in stage.folders:
            for run in log.runs:
                try:
                    tasks = reader.results(run, log).tasks
                except BrokenLogError:
                    continue
                lacking |= dict.fromkeys(
                    task for task, facts in tasks.items()
                    if facts.n_documents is not None and task not in have
                )  # fmt: skip
        if lacking:
            names = ", ".join(lacking)
            reader.notes.append(f"{stage.label}: results without samples, left out: {names}")
