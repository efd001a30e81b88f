"""lm-eval's tasks as a plan knows them: what is asked by content, without asking lm-eval twice.

Loading a task reads lm-eval's index and the task's data, which takes seconds to minutes. What a
plan needs of it is remembered with stamps of everything on this machine that can change it:
lm-eval's version, the files of the include paths, the task's local data files, the settings.
Data that lm-eval fetches from a hub are read again with `--verify`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.errors import DataError, ManifestError, Problem, did_you_mean
from harness.lmeval import graded
from harness.lmeval.asking import Asked, ask, responses
from harness.lmeval.headline import as_number, headline, is_score
from harness.lmeval.library import (
    Library,
    LoadedTask,
    installed_version,
    quiet,
    scores_of,
    trials,
)
from harness.lmeval.settings import PREFIX, LmEvalSettings
from harness.storage.store import Store
from harness.types import Prediction, Request, Sample

# Files of an include path that are looked at; a folder with more is not one of task files.
MOST_FILES = 20_000
# Counts up when other tasks or metrics are refused than before, so that nothing old is remembered.
RULES = 2
SHOWN_NAMES = 12
DROP = "drop the task"


class Recall(Protocol):
    """The plan's memory."""

    def recall(self, key: str, stamps: object, compute: Callable[[], Any]) -> Any:
        """The remembered value for `key` if `stamps` are unchanged, else `compute()`."""


@dataclass(frozen=True, slots=True)
class LmEvalBenchmark:
    """One of lm-eval's tasks in a study."""

    name: str
    """`lm_eval:` and the task's own name."""
    data: str
    """Hash (hex) of everything that is asked, pictures included."""
    n: int
    """Requests; a document may have several."""
    metric: str
    note: str
    grading: str
    """Hash (hex) of what turns answers into scores: gold answers, filters, metrics."""
    signature: Mapping[str, object]
    load: Callable[[], tuple[LoadedTask, Asked]] = field(compare=False)

    def samples(self) -> list[Sample]:
        """One per request, as reports show them."""
        return self.load()[1].samples

    def requests(self) -> list[Request]:
        """What the engines are asked, in the samples' order."""
        return self.load()[1].requests

    def grade_cell(self, store: Store, cell: str) -> None:
        """Keeps the grades of a sealed cell, unless they are there.

        Raises DataError, and keeps what it says, where they cannot be made.
        """
        if graded.is_current(store, self.name, cell, self.grading):
            return
        try:
            grades = self.grade(store.predictions(self.name, cell))
        except DataError as error:
            why = str(error).removeprefix(f"{self.name}: ")
            if DROP not in why:
                why += f"; {DROP}, or choose another metric with `suite.lm_eval.metric`"
            grades = graded.Grades((), {}, why)
        graded.write(store, self.name, cell, grades, self.grading)
        if grades.refused:
            raise DataError(self.name, grades.refused)

    def grade(self, answers: Mapping[str, Prediction]) -> graded.Grades:
        """What lm-eval's filters and metrics make of a checkpoint's answers.

        Raises DataError when they fail, or the headline is no number from 0 to 1.
        """
        loaded, asked = self.load()
        filled = responses(asked, answers)
        with quiet(loaded.name):
            found = scores_of(loaded.task, filled) if filled else {}
        values: dict[str, dict[str, float]] = {}
        for document, scores in found.items():
            for metric, value in scores.items():
                number = as_number(value)
                if number is not None:
                    values.setdefault(metric, {})[str(document)] = number
            # A metric may say nothing of a document; what it says must be a score.
            if self.metric in scores and not is_score(scores[self.metric]):
                self._refuse(document, found)
        if found and self.metric not in values:
            self._refuse(next(iter(found)), found)
        values.setdefault(self.metric, {})
        return graded.Grades(tuple(values), values)

    def _refuse(self, document: Any, found: Mapping[Any, Mapping[str, Any]]) -> None:
        """`found`: document -> `metric,filter` -> value; what is proposed is a score in all."""
        scores, loaded = found[document], self.load()[0]
        up = loaded.task.higher_is_better()
        seen = [*found.values(), *trials(loaded)]
        usable = [
            metric
            for metric in scores
            if all(is_score(each[metric]) for each in seen if metric in each)
            and up.get(metric.split(",")[0]) is not False
        ]
        got = repr(scores.get(self.metric))[:80]
        task = self.name.removeprefix(PREFIX)
        names = ", ".join(usable)
        cure = f"; choose with `suite.lm_eval.metric: {{{task}: METRIC}}` from {names}, or {DROP}"
        raise DataError(
            self.name,
            f"{self.metric} of document {document} is {got}, expected a number from 0 to 1"
            + (cure if usable else f"; it has no other score of single documents: {DROP}"),
        )


def differences(one: LmEvalBenchmark, other: LmEvalBenchmark) -> list[str]:
    """In what two definitions of a task differ; nothing where they are the same benchmark."""
    found = [
        f"{key} {one.signature.get(key)} and {other.signature.get(key)}"
        for key in one.signature
        if one.signature.get(key) != other.signature.get(key)
    ]
    if one.data != other.data:
        found.append("what is asked")
    if (one.metric, one.grading) != (other.metric, other.grading):
        found.append("the settings that grade it")
    return found


class LmEvalTasks:
    """What a manifest's `lm_eval:` names stand for."""

    def __init__(self, settings: LmEvalSettings, limit: int | None, base: Path, memory: Recall):
        self._settings = settings
        self._limit = settings.limit or limit
        self._base = base
        self._memory = memory
        self._library = Library(settings, base)
        self._asked: dict[tuple[str, str], Asked] = {}
        self._names: set[str] = set()
        self._all_known = True

    def benchmarks(self, name: str) -> list[LmEvalBenchmark]:
        """The benchmark of that name, or one for each task of a group. Raises DataError."""
        asked = name.removeprefix(PREFIX)
        folders = self._settings.folders(self._base)
        common = [
            installed_version(),
            self._settings.model_dump(mode="json"),
            self._limit,
            [_stamps(folder) for folder in folders],
            RULES,
        ]
        key = f"{self._base}:{asked}:{json.dumps(common[1:3], sort_keys=True)}"
        self._names.add(asked)
        self._all_known, before = False, self._all_known
        known = self._memory.recall(f"lm_eval members:{key}", common, lambda: self._members(asked))
        self._all_known = before
        found = []
        members = json.loads(known)
        self._names.update(task for task, _ in members)
        for task, files in members:
            stamps = [common, [_stamps(Path(file)) for file in files]]
            compute = partial(self._facts, task, asked)
            facts = self._memory.recall(f"lm_eval task:{task}:{key}", stamps, compute)
            load = self._loader(task, asked)
            found.append(LmEvalBenchmark(f"{PREFIX}{task}", load=load, **json.loads(facts)))
        return found

    def check_keys(self) -> None:
        """Raises ManifestError for settings of tasks that the study does not have.

        After all benchmarks were asked for. Where a name could not be resolved, which fails
        anyway, it is not known which tasks the study has.
        """
        problems = []
        shots = self._settings.num_fewshot
        for setting, by_task in (
            ("num_fewshot", shots if isinstance(shots, dict) else {}),
            ("metric", self._settings.metric),
        ):
            for key in by_task if self._all_known else ():
                if key not in self._names:
                    near = did_you_mean(key, sorted(self._names))
                    names = ", ".join(sorted(self._names)[:SHOWN_NAMES])
                    text = f"this study names no such task or group{near or f'; it has {names}'}"
                    problems.append(Problem(f"{setting}.{key}", text))
        if problems:
            raise ManifestError("suite.lm_eval", problems)

    def _members(self, asked: str) -> str:
        """JSON: [task, its local data files] of each task that a name stands for."""
        names = self._library.members(asked)
        files = {name: _local_files(self._loader(name, asked)()[0].task) for name in names}
        return json.dumps(list(files.items()))

    def _loader(self, name: str, asked: str) -> Callable[[], tuple[LoadedTask, Asked]]:
        def load() -> tuple[LoadedTask, Asked]:
            loaded = self._library.task(name, asked, self._limit)
            if (name, asked) not in self._asked:
                with quiet(name):
                    self._asked[name, asked] = ask(loaded)
            return loaded, self._asked[name, asked]

        return load

    def _facts(self, name: str, asked: str) -> str:
        """JSON: the fields of the benchmark."""
        loaded, questions = self._loader(name, asked)()
        settings, task = self._settings, loaded.task
        wanted = settings.metric.get(name, settings.metric.get(asked))
        tried = trials(loaded)
        with quiet(name):
            chosen = headline(name, task, tried, wanted)
            grading = _grading_digest(loaded, questions)
        generated = [r.decoding for r in questions.requests if not r.choices]
        first = generated[0] if generated else None
        chat = "multiturn" if settings.multiturn else "yes"
        signature = {
            "lm_eval": installed_version(),
            "task_version": str(getattr(task, "VERSION", None) or "-"),
            "num_fewshot": int(task.get_config("num_fewshot") or 0),
            "chat_template": chat if settings.apply_chat_template else "no",
            "profile": "lm_eval",
            "scoring": "lm_eval",
            "max_new_tokens": first.max_new_tokens if first else 0,
            "stop": "".join(map(repr, first.stop)) if first and first.stop else "-",
        }
        return json.dumps(
            {
                "data": _data_digest(questions),
                "n": len(questions.requests),
                "metric": chosen.metric,
                "note": chosen.note,
                "grading": grading,
                "signature": signature,
            }
        )


def _data_digest(asked: Asked) -> str:
    digest = hashlib.sha256()
    for request in asked.requests:
        row = [
            [request.sample_id, request.parts, request.turns, request.choices],
            [request.decoding.max_new_tokens, request.decoding.stop],
            [image.sha256 for image in request.images],
        ]
        digest.update(json.dumps(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _grading_digest(loaded: LoadedTask, asked: Asked) -> str:
    """Hash of gold answers, of the task's settings and of the program text in its folder."""
    digest = hashlib.sha256()
    for bundle in asked.members:
        digest.update(_plain(bundle[0].doc).encode("utf-8", "surrogatepass"))
    config = dict(loaded.task.dump_config())
    for place in ("dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset"):
        config.pop(place, None)
    # lm-eval notes the task file's place there.
    config["metadata"] = {"version": str(getattr(loaded.task, "VERSION", None))}
    digest.update(_plain(config).encode("utf-8", "surrogatepass"))
    digest.update(_source(type(loaded.task)).encode())
    for file in sorted(loaded.folder.glob("*.py")) if loaded.folder else ():
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _plain(value: object) -> str:
    """The value as JSON that is the same in every process."""
    text = json.dumps(value, sort_keys=True, default=_source, skipkeys=True)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _source(value: Any) -> str:
    if callable(value) or inspect.isclass(value):
        try:
            return inspect.getsource(value)
        except (TypeError, OSError):
            return str(getattr(value, "__qualname__", type(value).__name__))
    if hasattr(value, "tolist"):  # numbers and arrays of numpy
        return str(value.tolist())
    return type(value).__name__  # pictures are part of what is asked


def _local_files(task: Any) -> list[str]:
    """Files and folders on this machine that the task's configuration names as its data."""
    kwargs = task.get_config("dataset_kwargs") or {}
    named = [task.get_config("dataset_path"), kwargs.get("data_dir")]
    named += _flat(kwargs.get("data_files"))
    found: list[str] = []
    for text in named:
        if isinstance(text, str) and "://" not in text:
            path = Path(text).expanduser()
            pattern = path if path.is_absolute() else Path.cwd() / path
            if pattern.exists():
                found.append(str(pattern))
            elif any(mark in text for mark in "*?["):
                anchor = Path(pattern.anchor)
                found += map(str, sorted(anchor.glob(str(pattern.relative_to(anchor)))))
    return found


def _flat(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for item in value for text in _flat(item)]
    return [value]


def _stamps(place: Path) -> list[object]:
    """Path, size and time of a file, or of every file in a folder (compiled Python left out)."""
    files = [place] if place.is_file() else sorted(place.rglob("*"))[:MOST_FILES]
    found: list[object] = [str(place)]
    for file in files:
        if file.is_file() and "__pycache__" not in file.parts:
            stat = file.stat()
            found.append([str(file), stat.st_size, stat.st_mtime_ns])
    return found
