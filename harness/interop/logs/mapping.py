"""A map: which log folder is which stage, and how its numbers are to be read, said by the user.

    base: qwen-base                       # folders, relative to the one that is imported
    strategies:
      sa_proj:
        - {path: sa/1_count, trained_on: pixmocount}
        - {path: sa/2_path, name: path, trained_on: pathvqa}
      full:
        runs:
          - {seed: 0, stages: [{path: full/s0/1}]}
          - {seed: 1, stages: [{path: full/s1/1}]}
    targets: [pixmocount, pathvqa]        # optional: else what stages were trained on
    held_out: [ai2d, chartqa]             # optional: else every other task of the logs
    probes: []
    metrics: {arc_easy: acc_norm}         # optional: which metric of a task is its score
    filters: {gsm8k: flexible-extract}    # optional: which filter
    scales: {mmvet: 100}                  # the full mark of a task's metric, where it is not known
    accept: [version]                     # differences between stages that you answer for

Read like a manifest: every problem at once, with the nearest name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from harness.errors import Problem, ResultsError, did_you_mean
from harness.interop.logs.folders import LogFolder, one_model
from harness.interop.logs.metrics import Wanted
from harness.interop.logs.names import NamedStage, nearest
from harness.names import Name
from harness.types import BASE
from harness.yaml_files import problem_of, read_yaml

Difference = Literal["version", "engine", "settings", "pictures"]
Metrics = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class MapStage(_Strict):
    """One stage: the folder of its logs, and the skill it was trained on."""

    path: str
    name: Name | None = None
    trained_on: str | None = None


class MapRun(_Strict):
    """One training run of a strategy."""

    stages: list[MapStage] = Field(min_length=1)
    name: Name | None = None
    seed: int | None = None


class MapStrategy(_Strict):
    """The runs of a strategy; plain stages are one run."""

    stages: list[MapStage] | None = None
    runs: list[MapRun] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> MapStrategy:
        if (self.stages is None) == (self.runs is None):
            raise ValueError("expected a list of stages, or `runs:`")
        if not (self.stages or self.runs):
            raise ValueError("expected at least one stage")
        return self

    def all_runs(self) -> Iterator[tuple[str, Sequence[MapStage]]]:
        """(label, stages) of each run."""
        if self.stages is not None:
            yield "0", self.stages
        for number, run in enumerate(self.runs or ()):
            seed = number if run.seed is None else run.seed
            yield run.name or str(seed), run.stages


def _plain_stages(value: object) -> object:
    return {"stages": value} if isinstance(value, list) else value


class LogMap(_Strict):
    """What the user says of a folder of logs; the schema of map.yaml (see the module)."""

    base: str
    strategies: dict[Name, Annotated[MapStrategy, BeforeValidator(_plain_stages)]]
    targets: list[str] = []
    held_out: list[str] = []
    probes: list[str] = []
    metrics: dict[str, Metrics] = {}
    filters: dict[str, str] = {}
    scales: dict[str, Annotated[float, Field(gt=0)]] = {}
    accept: list[Difference] = []
    base_model: str = ""
    """What the leaderboard calls the base model."""

    def roles(self) -> dict[str, str]:
        """task -> role, for the tasks that the map lists."""
        lists = {"target": self.targets, "held_out": self.held_out, "probe": self.probes}
        return {task: role for role, tasks in lists.items() for task in tasks}

    def wanted(self) -> Wanted:
        """What the map says of measures."""
        return Wanted(self.metrics, self.filters, self.scales)


def read_map(file: Path, home: Path, folders: Sequence[LogFolder]) -> LogMap:
    """The map in `file`, checked against the logs below `home`.

    Raises ManifestError (no YAML) or ResultsError with every problem.
    """
    raw = read_yaml(file, "base, strategies, targets, held_out")
    try:
        found = LogMap.model_validate(raw)
    except ValidationError as error:
        problems = [problem_of(details, LogMap) for details in error.errors(include_url=False)]
        raise ResultsError(file.name, sorted(set(problems), key=lambda p: p.place)) from None
    problems = [*_folder_problems(found, home, folders), *_task_problems(found, folders)]
    if problems:
        raise ResultsError(file.name, problems)
    return found


def mapped_stages(found: LogMap, folders: Sequence[LogFolder]) -> list[NamedStage]:
    """The map's stages, base first; its paths are known to hold logs."""
    stages = [NamedStage(BASE, "0", 0, BASE, None, _at(found.base, folders))]
    for strategy, spec in found.strategies.items():
        for run, steps in spec.all_runs():
            for number, step in enumerate(steps, start=1):
                name = step.name or step.trained_on or PurePosixPath(step.path).name
                logs = _at(step.path, folders)
                stages.append(NamedStage(strategy, run, number, name, step.trained_on, logs))
    return stages


def _at(path: str, folders: Sequence[LogFolder]) -> tuple[LogFolder, ...]:
    """The log folders at a path or below it."""
    wanted = PurePosixPath(path)
    return tuple(
        log
        for log in folders
        if PurePosixPath(log.name) == wanted or wanted in PurePosixPath(log.name).parents
    )


def _paths(found: LogMap) -> Iterator[tuple[str, str]]:
    """(place in the map, folder) of the base and every stage."""
    yield "base", found.base
    for strategy, spec in found.strategies.items():
        if spec.stages is not None:
            for k, step in enumerate(spec.stages):
                yield f"strategies.{strategy}[{k}].path", step.path
        for n, run in enumerate(spec.runs or ()):
            for k, step in enumerate(run.stages):
                yield f"strategies.{strategy}.runs[{n}].stages[{k}].path", step.path


def _folder_problems(found: LogMap, home: Path, folders: Sequence[LogFolder]) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    if not found.strategies:
        yield Problem("strategies", "names no strategy")
    if BASE in found.strategies:
        yield Problem("strategies.base", "the name `base` means stage 0; rename it")
    for strategy, spec in found.strategies.items():
        labels = [label for label, _ in spec.all_runs()]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            text = f"two runs called {label!r}; give them seeds or names"
            yield Problem(f"strategies.{strategy}.runs", text)
    for place, path in _paths(found):
        if path in seen:
            yield Problem(place, f"{path!r} is already {seen[path]}")
        seen.setdefault(path, place)
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or "\0" in path:
            yield Problem(place, f"got {path[:60]!r}, expected a folder below {home.name}/")
            continue
        logs = _at(path, folders)
        if not logs:
            what = "no logs in" if (home / path).is_dir() else "no folder"
            yield Problem(place, f"{what} {path[:80]!r}{nearest(path, folders)}")
        if not one_model(logs):
            names = ", ".join(log.name for log in logs)
            yield Problem(place, f"holds the logs of several models: {names}. Cure: name one")


def _task_problems(found: LogMap, folders: Sequence[LogFolder]) -> Iterator[Problem]:
    known = sorted({task for log in folders for task in log.tasks()})
    first: dict[str, str] = {}
    for role in ("targets", "held_out", "probes"):
        for k, task in enumerate(getattr(found, role)):
            place = f"{role}[{k}]"
            if task in first:
                yield Problem(place, f"{task!r} is already {first[task]}")
            first.setdefault(task, place)
            if task not in known:
                yield Problem(place, _unknown(task, known))
    for key in ("metrics", "filters"):
        for task in getattr(found, key):
            if task not in known:
                yield Problem(f"{key}.{task}", _unknown(task, known))
    for key in found.scales:
        near = did_you_mean(key, known)
        if key not in known and near:
            yield Problem(f"scales.{key}", f"no such task in the logs{near}")
    listed: Mapping[str, Any] = dict.fromkeys(found.targets or known)
    for strategy, spec in found.strategies.items():
        for _, steps in spec.all_runs():
            for step in steps:
                skill = step.trained_on
                if skill is None or skill in listed:
                    continue
                place = f"strategies.{strategy}, {step.path}: trained_on"
                if near := did_you_mean(skill, list(listed)):
                    yield Problem(place, f"got {skill!r}{near}")
                elif found.targets:
                    yield Problem(place, f"{skill!r} is not among the targets; add it there")


def _unknown(task: str, known: Sequence[str]) -> str:
    hint = did_you_mean(task, known) or f"; they have {', '.join(known[:12])}"
    return f"no task {task[:60]!r} in the logs{hint}"
