"""One task over all stages: the same documents with the same prompts, targets and pictures.

The base's log says which documents there are and what was asked. Every stage is laid beside it by
`doc_id`; whatever does not agree is a problem with the documents named, and nothing is averaged
over. (`doc_hash` is not looked at: of documents with pictures, lmms-eval writes the same one for
all, and lm-eval's can change from run to run.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.errors import Problem
from harness.interop.logs.answers import (
    Answers,
    Documents,
    documents_named,
    peek,
    read_answers,
)
from harness.interop.logs.folders import LogFolder, Run
from harness.interop.logs.metrics import Measure, Wanted, choose
from harness.interop.logs.names import NamedStage
from harness.interop.logs.results import BrokenLogError, Results, TaskResults, read_results

_SHOWN = 5
# The kind of a difference that is no reason to refuse.
_ONLY_TOLD = ""


@dataclass(frozen=True, slots=True)
class TaskLog:
    """The log of one stage and task that counts: of the newest complete run."""

    stage: NamedStage
    date: str
    run: Results
    """What the results file says of the run."""
    results: TaskResults
    """What it says of the task."""
    answers: Answers

    @property
    def evaluator(self) -> str:
        """Program and version."""
        return self.run.evaluator


@dataclass(frozen=True, slots=True)
class PairedTask:
    """One task, laid side by side."""

    task: str
    measure: Measure
    documents: Documents
    base: TaskLog
    stages: tuple[TaskLog, ...]
    """Those that have the task; aligned to the base's documents."""
    absent: tuple[NamedStage, ...]
    """Those that do not."""

    def logs(self) -> tuple[TaskLog, ...]:
        """The base's log, then the stages'."""
        return (self.base, *self.stages)


class Reader:
    """Reads logs stage by stage; remembers results files, gathers problems and notes."""

    def __init__(self, wanted: Wanted, accept: Sequence[str] = ()):
        self._wanted = wanted
        self._accept = frozenset(accept)
        self._results: dict[Any, Results | BrokenLogError] = {}
        self._differences: dict[tuple[str, str, str], list[str]] = {}
        """(kind, stage, what differs) -> tasks."""
        self._choices: dict[tuple[str, str], list[str]] = {}
        """(stage, which run was taken or passed over, and why) -> tasks."""
        self.problems: list[Problem] = []
        self.notes: list[str] = []

    def pair(self, task: str, base: NamedStage, stages: Sequence[NamedStage]) -> PairedTask | None:
        """The task over all stages; None where something is wrong with it (see `problems`)."""
        documents = Documents([], [], [], [])
        measures: list[Measure] = []

        def measure_of(results: TaskResults, run: Run) -> Measure:
            """The base's measure; a stage's own where the base cannot be read."""
            if not measures:
                measure = choose(task, results, peek(run, task, results), self._wanted)
                if isinstance(measure, Problem):
                    raise _UndecidedError(measure)
                measures.append(measure)
            return measures[0]

        before = len(self.problems)
        log: TaskLog | None = None
        found, absent = [], []
        try:
            log = self._newest(task, base, measure_of, documents)
            if log is not None:
                self._check_values(task, log)
            elif len(self.problems) == before:
                text = f"the base has no log of it ({', '.join(f.name for f in base.folders)})"
                cure = "Cure: score the base too, or leave the task out of targets and held_out"
                self.problems.append(Problem(f"task {task}", f"{text}. {cure}"))
            # Also without a base: whatever is wrong with the stages is to be told at once.
            for stage in stages:
                done = len(self.problems)
                other = self._newest(task, stage, measure_of, None)
                if other is not None:
                    self._check_values(task, other)
                    found.append(self._aligned(task, log, other) if log else other)
                elif len(self.problems) == done:
                    absent.append(stage)
        except _UndecidedError as error:
            self.problems.append(error.problem)
        if log is None or len(self.problems) > before:
            return None
        return PairedTask(task, measures[0], documents, log, tuple(found), tuple(absent))

    def results(self, run: Run, folder: LogFolder) -> Results:
        """The results file of a run. Raises BrokenLogError."""
        if run.results is None:
            raise BrokenLogError("no results file of that date: the run did not finish")
        if run.results not in self._results:
            try:
                self._results[run.results] = read_results(run.results, folder.program)
            except BrokenLogError as error:
                self._results[run.results] = BrokenLogError(f"results file {error}")
        held = self._results[run.results]
        if isinstance(held, BrokenLogError):
            raise held
        return held

    def _newest(
        self,
        task: str,
        stage: NamedStage,
        measure_of: Callable[[TaskResults, Run], Measure],
        documents: Documents | None,
    ) -> TaskLog | None:
        """The newest complete run; what was passed over for it, or why there is none, is told."""
        runs = [(run, log) for log in stage.folders for run in log.runs if task in run.samples]
        runs.sort(key=lambda pair: pair[0].when, reverse=True)
        failures: list[tuple[Run, LogFolder, str]] = []
        for run, folder in runs:
            try:
                results = self.results(run, folder)
                if task not in results.tasks:
                    raise BrokenLogError("its results file does not list the task")
                facts = results.tasks[task]
                answers = read_answers(run, task, facts, measure_of(facts, run), documents)
            except BrokenLogError as error:
                failures.append((run, folder, str(error)))
                if documents is not None:
                    for column in (documents.ids, documents.questions, documents.golds):
                        column.clear()
                    documents.docs.clear()
                continue
            for bad, _, why in failures:
                self._chose(stage, f"run {bad.date} passed over: {why}", task)
            if len(runs) - len(failures) > 1:
                others = len(runs) - len(failures) - 1
                older = "an older run" if others == 1 else f"{others} older runs"
                self._chose(stage, f"run {run.date} taken, {older} not", task)
            return TaskLog(stage, run.date, results, facts, answers)
        for bad, folder, why in failures:
            place = f"{folder.name}/{bad.samples[task].name}"
            self.problems.append(Problem(place, f"({stage.label}) {why}"))
        return None

    def _chose(self, stage: NamedStage, text: str, task: str) -> None:
        self._choices.setdefault((stage.label, text), []).append(task)

    # --- what must agree ---------------------------------------------------------------------

    def _add(self, task: str, stage: NamedStage, what: str, ids: Sequence[str]) -> None:
        """A problem with documents; `{docs}` in `what` becomes their names."""
        if ids:
            text = what.replace("{docs}", documents_named(ids))
            self.problems.append(Problem(f"task {task}, {stage.label}", text))

    def _check_values(self, task: str, log: TaskLog) -> None:
        answers, stage = log.answers, log.stage
        outside = [
            i
            for i, score in zip(answers.ids, answers.scores, strict=True)
            if not (math.isnan(score) or 0 <= score <= 1)
        ]
        cure = f"Cure: scales: {{{task}: NUMBER}} in a map, or another metric"
        text = f"scores outside of 0 and the full mark: {{docs}}. {cure}"
        self._add(task, stage, text, outside)
        empty = [i for i, s in zip(answers.ids, answers.scores, strict=True) if math.isnan(s)]
        if empty and len(empty) == len(answers.ids):
            self._add(task, stage, "no document has a score: {docs}", empty)
        elif empty:
            self.notes.append(
                f"{stage.label}, {task}: no score for {documents_named(empty)}: failed answers,"
                " in no mean"
            )

    def _aligned(self, task: str, base: TaskLog, other: TaskLog) -> TaskLog:
        """`other` in the base's order, after everything that must agree was looked at."""
        self._check_settings(task, base, other)
        mine, theirs = base.answers, other.answers
        place = {doc: i for i, doc in enumerate(theirs.ids)}
        known = set(mine.ids)
        missing = [doc for doc in mine.ids if doc not in place]
        further = [doc for doc in theirs.ids if doc not in known]
        cure = "Cure: score both on the same documents (the same --limit)"
        self._add(task, other.stage, f"lacks documents of the base: {{docs}}. {cure}", missing)
        self._add(
            task, other.stage, f"has documents that the base lacks: {{docs}}. {cure}", further
        )
        both = [(i, place[doc]) for i, doc in enumerate(mine.ids) if doc in place]
        for what, ours, its in (
            ("targets (gold answers)", mine.targets, theirs.targets),
            ("prompts", mine.prompts, theirs.prompts),
            ("pictures", mine.images, theirs.images),
        ):
            changed = [mine.ids[i] for i, j in both if ours[i] and its[j] and ours[i] != its[j]]
            text = f"other {what} than the base: {{docs}}"
            if changed and what in self._accept:
                where = f"{other.stage.label}, {task}: {text}"
                self.notes.append(where.format(docs=documents_named(changed)) + " (accepted)")
            elif what == "pictures":
                # Some logs hash pictures as they were encoded anew, which may differ by library.
                text += ". Cure: score both on the same data, or `accept: [pictures]` in a map"
                self._add(task, other.stage, text, changed)
            else:
                self._add(task, other.stage, text, changed)
        order = [j for _, j in both]
        answers = Answers(
            ids=mine.ids,
            scores=[theirs.scores[j] for j in order],
            responses=[theirs.responses[j] for j in order],
        )
        return replace(other, answers=answers)

    def _check_settings(self, task: str, base: TaskLog, other: TaskLog) -> None:
        mine, its = base.results, other.results
        differences = [
            ("version", "evaluator", base.evaluator, other.evaluator),
            ("version", "version of the task", mine.version, its.version),
            ("engine", "model class", base.run.engine, other.run.engine),
            (_ONLY_TOLD, "library", base.run.library, other.run.library),
            *(
                ("settings", key, mine.settings[key], its.settings[key])
                for key in mine.settings
                if key in its.settings
            ),
        ]
        for kind, what, one, two in differences:
            if one == two or not one or not two:
                continue
            text = f"{what}: {_cut(two)} here, {_cut(one)} at the base"
            self._differences.setdefault((kind, other.stage.label, text), []).append(task)

    def tell(self) -> None:
        """What was found task after task, said once: runs chosen (notes), and differences of
        settings (problems, or notes where they are accepted)."""
        for (label, text), tasks in self._choices.items():
            self.notes.append(f"{label}: {text} ({_listed(tasks)})")
        for (kind, stage, text), tasks in self._differences.items():
            where = _listed(tasks)
            if kind in self._accept or kind == _ONLY_TOLD:
                accepted = "" if kind == _ONLY_TOLD else "accepted; "
                self.notes.append(f"{stage}: {text} ({accepted}{where})")
                continue
            cure = f"Cure: score both alike, or answer for it with `accept: [{kind}]` in a map"
            self.problems.append(Problem(stage, f"{text} ({where}). {cure}"))


class _UndecidedError(Exception):
    """It is not clear which number is the score."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


def _listed(tasks: Sequence[str]) -> str:
    return ", ".join(tasks[:_SHOWN]) + (" ..." if len(tasks) > _SHOWN else "")


def _cut(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
