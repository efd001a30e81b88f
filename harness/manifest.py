"""The manifest: `checkpoints.yaml` as checked values.

A manifest says which checkpoints belong to a study and what they are scored on. Reading one
finds every problem at once, each with its place and a cure, before any model is touched. Paths
are relative to the manifest's folder and may not leave it unless they are absolute.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from harness import components, registry
from harness.data.sources import SourceOverride
from harness.engines.options import hf_options
from harness.errors import ManifestError, Problem, UserError, did_you_mean
from harness.lmeval.settings import LmEvalSettings, check_benchmark_name, is_lm_eval
from harness.names import Name
from harness.natural_order import natural
from harness.registry import InlineTask
from harness.stage_lists import last_target, spelled_out
from harness.types import BASE, HELD_OUT_MEAN, MEAN, Profile, Stage, StageKey
from harness.yaml_files import problem_of, read_yaml

DEFAULT_MANIFEST = "checkpoints.yaml"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


@dataclass(frozen=True, slots=True)
class _Context:
    """What field validators need to know of the whole manifest."""

    folder: Path
    tasks: tuple[str, ...]
    targets: tuple[str, ...]
    check_paths: bool


def _context(info: ValidationInfo) -> _Context:
    assert isinstance(info.context, _Context)
    return info.context


def _inside(folder: Path, text: str) -> Path:
    """The path against the manifest's folder. Raises ValueError when it climbs out of it."""
    if "\0" in text or len(text) > 1_000:
        raise ValueError("not a path (too long, or it holds a NUL character)")
    path = Path(text).expanduser() if text.startswith("~") else Path(text)
    if path.is_absolute():
        return path
    depth = 0
    for part in PurePosixPath(text).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            raise ValueError(f"{text!r} leaves the manifest's folder; write an absolute path")
    return folder / path


def _checked(check: Callable[[Any], object], value: object) -> None:
    """Runs another room's check; its UserError becomes this field's problem."""
    try:
        check(value)
    except UserError as error:
        raise ValueError("; ".join(map(str, error.problems))) from None


def _existing(text: str, info: ValidationInfo) -> str:
    context = _context(info)
    path = _inside(context.folder, text)
    if context.check_paths and path.is_file():
        raise ValueError(f"{text!r} is a file, expected a checkpoint's folder")
    if context.check_paths and not path.is_dir():
        raise ValueError(f"no checkpoint at {text!r}{_neighbours(path)}")
    return text


def _neighbours(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return ""
    names = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    if not names:
        return "; the folder is empty"
    return f"; the folder holds {', '.join(names[:5])}" + (" ..." if len(names) > 5 else "")


def _task_name(name: str, info: ValidationInfo) -> str:
    if is_lm_eval(name):
        return check_benchmark_name(name)
    known = _context(info).tasks
    if name not in known:
        hint = did_you_mean(name, known) or "; `forgeteval tasks` lists the known ones"
        raise ValueError(f"unknown task {name!r}{hint}")
    return name


TaskName = Annotated[str, AfterValidator(_task_name)]


class BaseSpec(_Strict):
    """The model before any tuning: a folder, or a hub id with a revision."""

    path: str | None = None
    hub: str | None = None
    revision: str | None = None
    trust_remote_code: StrictBool = False

    @model_validator(mode="after")
    def _one_place(self, info: ValidationInfo) -> BaseSpec:
        if (self.path is None) == (self.hub is None):
            raise ValueError("expected either `path: FOLDER` or `hub: ORG/NAME`")
        if self.path == "":
            raise ValueError("got an empty path, expected the folder of the model before tuning")
        if self.path is not None and self.revision is not None:
            raise ValueError("`revision` goes with `hub`; a folder has none")
        if self.path is not None:
            _existing(self.path, info)
        return self


def _base(value: object, info: ValidationInfo) -> object:
    """A plain string is a hub id if it looks like one and no such folder is near, else a folder."""
    if not isinstance(value, str):
        return value
    looks_like_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", value) and not value.startswith(".")
    is_hub = looks_like_hub and not (_context(info).folder / value).parent.exists()
    return {"hub" if is_hub else "path": value}


class EngineSpec(_Strict):
    """Which engine runs the model; every key but `kind` is an option of that engine."""

    model_config = ConfigDict(extra="allow", frozen=True)
    kind: Literal["hf", "vllm"] = "hf"

    @property
    def options(self) -> dict[str, Any]:
        """The engine's own options, as written."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _known_options(self) -> EngineSpec:
        # vLLM's own options are checked when the engine is made: only vLLM knows their names.
        if self.kind == "hf":
            _checked(hf_options, self.options)
        return self


class WiseFt(_Strict):
    """WiSE-FT: weights = alpha x `with` + (1 - alpha) x `of` (arXiv 2109.01903)."""

    of: str
    """Folder of the tuned checkpoint."""
    with_: str = Field(alias="with", default=BASE)
    """Folder of the other end point; `base` is the study's base, `previous` the stage before."""
    alpha: float = Field(ge=0.0, le=1.0, strict=True)
    """Share of `with`. A list of shares stands for as many stages."""

    @field_validator("of", "with_")
    @classmethod
    def _folders(cls, value: str, info: ValidationInfo) -> str:
        return value if value == BASE else _existing(value, info)


class StageSpec(_Strict):
    """One step of a sequence: the skill it was trained on and the checkpoint it left."""

    path: Annotated[str, AfterValidator(_existing)] | None = None
    """A model folder, or the folder of a peft adapter over the base."""
    wise_ft: WiseFt | None = None
    trained_on: str | None = None
    name: Name | None = None
    trust_remote_code: StrictBool = False

    @field_validator("trained_on")
    @classmethod
    def _is_target(cls, value: str | None, info: ValidationInfo) -> str | None:
        targets = _context(info).targets
        if value is not None and value not in targets:
            raise ValueError(
                f"{value!r} is not among suite.targets"
                f"{did_you_mean(value, targets) or '; add it there'}"
            )
        return value

    @model_validator(mode="after")
    def _one_source(self) -> StageSpec:
        if (self.path is None) == (self.wise_ft is None):
            raise ValueError("expected either `path: FOLDER` or `wise_ft: {of, with, alpha}`")
        return self


def _expand(value: object, info: ValidationInfo) -> object:
    """A glob stands for its folders in natural order, trained_on read from their names."""
    if isinstance(value, list):
        return spelled_out(value)
    if not isinstance(value, str):
        return value
    context = _context(info)
    pattern = _inside(context.folder, value)
    anchor = Path(pattern.anchor) if pattern.is_absolute() else Path()
    found = [p for p in anchor.glob(str(pattern.relative_to(anchor))) if p.is_dir()]
    found.sort(key=lambda path: natural(str(path)))
    if not found:
        if not context.check_paths:
            return []
        raise ValueError(f"no folder matches {value!r}")
    stages = []
    for path in found:
        shown = path if Path(value).is_absolute() else path.relative_to(context.folder)
        stages.append({"path": str(shown), "trained_on": last_target(path.name, context.targets)})
    return stages


Stages = Annotated[list[StageSpec], BeforeValidator(_expand)]


class RunSpec(_Strict):
    """One training run of a strategy: its seed or order, and its stages."""

    stages: Stages
    seed: StrictInt | None = None
    order: str | None = None
    name: Name | None = None


class StrategySpec(_Strict):
    """How stages were tuned, and what came of it."""

    component: str | None = None
    """What the strategy says it tuned; `forgeteval audit` checks it against the weights."""
    stages: Stages | None = None
    runs: list[RunSpec] | None = None

    @field_validator("component")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            _checked(components.parse, value)
        return value

    @model_validator(mode="after")
    def _stages_or_runs(self) -> StrategySpec:
        if (self.stages is None) == (self.runs is None):
            raise ValueError("expected either `stages:` or `runs:`")
        if not all(run.stages for run in self.all_runs()) and self.runs != []:
            raise ValueError("expected at least one stage")
        return self

    def all_runs(self) -> list[RunSpec]:
        """The runs; plain `stages` are one run."""
        return self.runs if self.runs is not None else [RunSpec.model_construct(stages=self.stages)]


class Suite(_Strict):
    """What every checkpoint is scored on, and how."""

    targets: list[TaskName] = []
    held_out: list[TaskName] = []
    probes: list[TaskName] = []
    limit: Annotated[StrictInt, Field(ge=1)] | None = None
    seed: StrictInt = 0
    """Seed of the subset that `limit` draws."""
    profile: Profile = "fixed"
    scoring: Literal["generate", "loglikelihood"] = "generate"
    sources: dict[str, SourceOverride] = {}
    tasks: dict[Name, InlineTask] = {}
    lm_eval: LmEvalSettings = LmEvalSettings()

    @field_validator("lm_eval")
    @classmethod
    def _include_paths(cls, value: LmEvalSettings, info: ValidationInfo) -> LmEvalSettings:
        context = _context(info)
        for text in value.include_paths:
            path = _inside(context.folder, text)
            if context.check_paths and not path.is_dir():
                raise ValueError(f"include_path: no folder {text!r}{_neighbours(path)}")
        return value

    @field_validator("sources")
    @classmethod
    def _of_known_tasks(
        cls, value: dict[str, SourceOverride], info: ValidationInfo
    ) -> dict[str, SourceOverride]:
        for name in value:
            _task_name(name, info)
        return value

    @field_validator("tasks")
    @classmethod
    def _not_a_mean(cls, value: dict[str, InlineTask]) -> dict[str, InlineTask]:
        if HELD_OUT_MEAN in value:
            raise ValueError(f"{HELD_OUT_MEAN!r} is what tables call a mean; rename that task")
        return value

    def benchmarks(self) -> dict[str, str]:
        """benchmark -> role, in the order of reports."""
        roles = {"target": self.targets, "held_out": self.held_out, "probe": self.probes}
        return {name: role for role, names in roles.items() for name in names}


class Manifest(_Strict):
    """A study as its author wrote it, checked."""

    study: Name
    base: Annotated[BaseSpec, BeforeValidator(_base)]
    engine: EngineSpec = EngineSpec()
    suite: Suite
    strategies: dict[Name, StrategySpec] = {}
    made_by: str | None = None
    """The command that makes the checkpoints, named when they are not there yet."""
    results: str | None = None
    """Where results go unless a command says otherwise; relative to the manifest."""

    @field_validator("results")
    @classmethod
    def _results_inside(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            _inside(_context(info).folder, value)
        return value

    def stages(self) -> Iterator[tuple[Stage, StageSpec]]:
        """Every stage after the base, by strategy and run in the manifest's order."""
        for strategy, spec in self.strategies.items():
            for number, run in enumerate(spec.all_runs()):
                label = run_label(run, number)
                for index, step in enumerate(run.stages, start=1):
                    name = step.name or step.trained_on or Path(step.path or "wise_ft").name
                    yield Stage(StageKey(strategy, label, index), name, step.trained_on), step


def run_label(run: RunSpec, number: int) -> str:
    """The value of the `run` column: name, else seed (and order), else a count from 0."""
    if run.name:
        return run.name
    parts = [run.order or "", "" if run.seed is None else str(run.seed)]
    return "-".join(part for part in parts if part) or str(number)


def base_stage() -> Stage:
    """Stage 0, shared by all strategies."""
    return Stage(StageKey(BASE, "0", 0), BASE)


def read_manifest(file: Path, *, check_paths: bool = True) -> Manifest:
    """The manifest in `file`, checked. `check_paths=False` reads it where the weights are not.

    Raises ManifestError with every problem found.
    """
    where = file.name
    raw = read_yaml(file, "study, base, suite, strategies")
    folder = file.parent.absolute()
    made_by = raw.get("made_by")
    if check_paths and isinstance(made_by, str) and _base_is_missing(raw, folder):
        raise ManifestError(where, f"its checkpoints are not made yet; run `{made_by}` first")
    return check_manifest(raw, where, folder, check_paths=check_paths)


def check_manifest(
    raw: dict[str, Any], where: str, folder: Path, *, check_paths: bool = True
) -> Manifest:
    """A manifest from plain values. `where` names them in messages; paths are from `folder`.

    Raises ManifestError with every problem found.
    """
    suite = raw.get("suite")
    suite = suite if isinstance(suite, dict) else {}
    own, targets = suite.get("tasks"), suite.get("targets")
    context = _Context(
        folder=folder,
        tasks=(*registry.names(), *(map(str, own) if isinstance(own, dict) else ())),
        targets=tuple(map(str, targets)) if isinstance(targets, list) else (),
        check_paths=check_paths,
    )
    problems = _suite_problems(raw)
    try:
        manifest = Manifest.model_validate(raw, context=context)
    except ValidationError as error:
        problems += [problem_of(details, Manifest) for details in error.errors(include_url=False)]
    else:
        problems += _stage_problems(manifest)
        if not problems:
            return manifest
    raise ManifestError(where, sorted(set(problems), key=lambda p: natural(p.place)))


def _base_is_missing(raw: Mapping[str, Any], folder: Path) -> bool:
    """Whether the base is written as a folder that is not there; `hub: ORG/NAME` is none."""
    base = raw.get("base")
    text = base.get("path") if isinstance(base, dict) else base
    return isinstance(text, str) and not (folder / text).exists()


def _suite_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """What only the whole suite shows: names given twice or none, sources of no known task."""
    suite = raw.get("suite")
    if not isinstance(suite, dict):
        return []
    problems: list[Problem] = []
    first: dict[str, str] = {}
    for role in ("targets", "held_out", "probes"):
        names = suite.get(role)
        for index, name in enumerate(names if isinstance(names, list) else []):
            place = f"suite.{role}[{index}]"
            if str(name) in first:
                problems.append(Problem(place, f"{name!r} is already {first[str(name)]}"))
            first.setdefault(str(name), place)
    if not first and all(isinstance(suite.get(r, []), list) for r in ("targets", "held_out")):
        problems.append(Problem("suite", "names no benchmark; give targets, held_out, or both"))
    sources = suite.get("sources")
    own, placed = (
        [str(name) for name in given] if isinstance(given, dict) else []
        for given in (suite.get("tasks"), sources)
    )
    known = registry.names()
    for name in own:
        if name in known:
            cure = f"choose another, as 'my_{name}', here and where the suite names it"
            problems.append(
                Problem(f"suite.tasks.{name}", f"the name is taken by a known benchmark; {cure}")
            )
    for name in placed:
        place = f"suite.sources.{name}"
        if name not in first:
            problems.append(Problem(place, "the suite does not use this task"))
        elif name in own:
            cure = f"say where its rows are at suite.tasks.{name}.path"
            problems.append(Problem(place, f"the task is declared in this manifest; {cure}"))
    return problems


def _stage_problems(manifest: Manifest) -> list[Problem]:
    """What only all strategies show: stages and runs given twice."""
    problems = []
    for strategy, spec in manifest.strategies.items():
        if strategy == BASE:
            problems.append(Problem("strategies.base", "the name `base` means stage 0; rename it"))
        runs = spec.all_runs()
        labels = [run_label(run, number) for number, run in enumerate(runs)]
        if spec.runs is not None and not runs:
            problems.append(Problem(f"strategies.{strategy}.runs", "expected at least one run"))
        for number, run in enumerate(runs):
            place = f"strategies.{strategy}" + (f".runs[{number}]" if spec.runs else "")
            if labels[number] == MEAN:
                text = f"the name `{MEAN}` means the mean over runs; rename it"
                problems.append(Problem(place, text))
            if labels[number] in labels[:number]:
                what = f"a second run called {labels[number]!r}; give it another seed or a name"
                problems.append(Problem(place, what))
            problems += _repeated_stages(place, run.stages)
    return problems


def _repeated_stages(place: str, stages: Sequence[StageSpec]) -> list[Problem]:
    problems = []
    for field in ("path", "name"):
        seen: dict[str, int] = {}
        for index, stage in enumerate(stages):
            value = getattr(stage, field)
            if value is None:
                continue
            if value in seen:
                text = f"{value!r} is already stages[{seen[value]}]"
                problems.append(Problem(f"{place}.stages[{index}].{field}", text))
            seen.setdefault(value, index)
    return problems
