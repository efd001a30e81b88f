"""A sequence: one skill after another, each stage from the one before, for several strategies.

    out/
      sa_proj/seed0/1_pathvqa/     a stage: weights, processor, training.json
      sa_proj/seed0/2_pixmo_count/
      checkpoints.yaml             the manifest that `forgeteval score` takes as it is

Another call with the same folder adds its strategy or seed; what is there already is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from harness import components, registry
from harness.checkpoints import tensor_index
from harness.data.sources import SourceOverride, load, open_source
from harness.errors import CheckpointError, DataError, Problem
from harness.manifest import BaseSpec, Suite, read_manifest
from harness.names import check_name
from harness.registry import InlineTask, inline_task
from harness.requests import requests
from harness.resolver import base_folder
from harness.tune.batches import Example
from harness.tune.recipe import Recipe, RecipeError, StageRecord, read_record
from harness.tune.train import tune_stage
from harness.tune.trainer import Progress
from harness.types import Task

MANIFEST = "checkpoints.yaml"

Report = Callable[[str, StageRecord], None]
"""Called after each stage with its folder relative to `out` and its record."""


@dataclass(frozen=True, slots=True)
class SequencePlan:
    """What is trained, on what, and where it goes."""

    base: Path
    components: tuple[str, ...]
    """One strategy each."""
    skills: tuple[str, ...]
    """Tasks in the order of training."""
    data: str
    """`task:{name}` or a path with `{name}`: where each skill's training rows are."""
    out: Path
    recipe: Recipe
    suite: Path | None = None
    """A manifest whose suite the study is scored on; None = the skills alone."""
    split: str = "train"
    limit: int | None = None
    """At most so many training samples per skill, drawn by group."""
    hub: str | None = None
    """The hub id that `base` was fetched from: what the manifest names as the base."""


def run(plan: SequencePlan, report: Report, progress: Progress | None = None) -> Path:
    """Train every stage that is not there yet; returns the manifest.

    Raises UserError with every problem of names, data and components before training.
    """
    _check_folders(plan)
    suite, base_dir = _suite(plan)
    names = tensor_index(plan.base)
    for component in plan.components:
        components.names(component, names)
    training = [_examples(plan, suite, base_dir, skill) for skill in plan.skills]
    for component in plan.components:
        start = plan.base
        for (name, examples), folder in zip(training, stage_folders(plan, component), strict=True):
            record = tune_stage(
                start,
                component,
                examples,
                folder,
                plan.recipe,
                trained_on=name,
                processor_path=plan.base,
                progress=progress,
            )
            report(str(folder.relative_to(plan.out)), record)
            start = folder
    return write_manifest(plan, suite, base_dir)


def _check_folders(plan: SequencePlan) -> None:
    """Raises RecipeError where the stages could not lie where they should."""
    if not plan.skills:
        raise RecipeError("--sequence", "names no skill; give at least one task")
    place = next(p for p in (plan.out.absolute(), *plan.out.absolute().parents) if p.exists())
    if not place.is_dir():
        raise RecipeError(
            "--out", f"{place} is a file, expected a folder or a new name; name another"
        )
    problems = []
    named: dict[str, str] = {}
    for component in plan.components:
        name = strategy_name(component, plan.recipe)
        first = named.setdefault(name, component)
        for folder in stage_folders(plan, component):
            # Another call may have taken the name; unreadable records are `tune_stage`'s to tell.
            if first == component and (record := read_record(folder)) is not None:
                first = record.component
        if first != component:
            problems.append(Problem(component, f"would be called {name!r}, as {first} is"))
    if problems:
        cure = "write it otherwise, for example sa_proj[last:1], or give it another --out"
        raise RecipeError("--component", [*problems, Problem("", cure)])


def located(base: Path) -> tuple[Path, str | None]:
    """(folder, hub id or None) of what `--base` names; a hub id is fetched.

    Raises CheckpointError.
    """
    hub = base.as_posix()
    if base.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", hub) or hub.startswith("."):
        return base, None
    if base.parent.exists():
        raise CheckpointError(hub, "no such checkpoint folder")
    return base_folder(BaseSpec.model_construct(hub=hub), Path.cwd()), hub


def strategy_name(component: str, recipe: Recipe) -> str:
    """The strategy's name in the manifest and on disk.

    >>> strategy_name("sa_proj[last:8]", Recipe())
    'sa_proj-last-8'
    """
    method = "lora_" if recipe.lora else ""
    method += "lwf_" if recipe.distillation else ""
    return check_name(method + re.sub(r"[^\w+]+", "-", component).strip("-"))


def stage_folders(plan: SequencePlan, component: str) -> list[Path]:
    """Where the stages of one strategy go, in order."""
    run_folder = plan.out / strategy_name(component, plan.recipe) / f"seed{plan.recipe.seed}"
    return [run_folder / f"{k}_{skill}" for k, skill in enumerate(plan.skills, start=1)]


def write_manifest(plan: SequencePlan, suite: Suite, base_dir: Path) -> Path:
    """Write (or extend) `checkpoints.yaml` in the plan's folder; returns its path."""
    file = plan.out / MANIFEST
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    strategies: dict[str, Any] = found.get("strategies", {})
    for component in plan.components:
        name = strategy_name(component, plan.recipe)
        runs = [
            run
            for run in strategies.get(name, {}).get("runs", [])
            if run["seed"] != plan.recipe.seed
        ]
        stages = [
            {"trained_on": skill, "path": str(folder.relative_to(plan.out))}
            for skill, folder in zip(plan.skills, stage_folders(plan, component), strict=True)
        ]
        runs.append({"seed": plan.recipe.seed, "stages": stages})
        strategies[name] = {"component": component, "runs": sorted(runs, key=lambda r: r["seed"])}
    written = {
        "study": found.get("study") or check_name(plan.out.absolute().name),
        "base": found.get("base") or plan.hub or _relative(plan.base, plan.out),
        "suite": _placed(suite, base_dir, plan.out),
        "strategies": strategies,
    }
    if "engine" in found:
        written["engine"] = found["engine"]
    head = "# Written by `forgeteval tune`; another call with the same --out adds to it.\n"
    text = yaml.safe_dump(written, sort_keys=False, width=100)
    file.write_text(head + text, encoding="utf-8")
    return file


def _suite(plan: SequencePlan) -> tuple[Suite, Path]:
    """The suite that the study will be scored on, and the folder its paths are relative to."""
    if plan.suite is not None:
        suite = read_manifest(plan.suite, check_paths=False).suite
        known, where = suite.targets, f"a target of {plan.suite.name}"
    else:
        suite = Suite.model_construct(targets=list(plan.skills))
        known, where = list(registry.names()), "a known task; `--suite MANIFEST` brings others"
    unknown = [skill for skill in plan.skills if skill not in known]
    if unknown:
        raise RecipeError(
            "--sequence", [Problem("", f"{skill!r} is not {where}") for skill in unknown]
        )
    return suite, (plan.suite or plan.base).absolute().parent


def _examples(
    plan: SequencePlan, suite: Suite, base_dir: Path, skill: str
) -> tuple[str, Sequence[Example]]:
    """The training samples of one skill, asked as they will be when scored. Pictures are lazy."""
    task, override, place = _source(plan, suite, base_dir, skill)
    samples = load(task, override, limit=plan.limit, seed=0, base_dir=place)
    if not len(samples):
        raise DataError(skill, "no training rows")
    asked = requests(task, samples, suite.profile)
    return skill, [
        Example(request, sample.answers[0]) for request, sample in zip(asked, samples, strict=True)
    ]


def _source(
    plan: SequencePlan, suite: Suite, base_dir: Path, skill: str
) -> tuple[Task, SourceOverride | None, Path]:
    """The task with where its training rows are, and what paths are relative to."""
    where = plan.data.replace("{name}", skill)
    inline = suite.tasks.get(skill)
    if where.startswith("task:"):
        name = where.removeprefix("task:")
        task = inline_task(name, inline) if inline else registry.task(name)
        placed = suite.sources.get(name)
        if placed is not None:
            return task, placed.model_copy(update={"split": plan.split}), base_dir
        if inline is not None:
            return replace(task, source=replace(task.source, split=plan.split)), None, base_dir
        return task, SourceOverride(hub=task.source.hub, split=plan.split), base_dir
    file = Path(where).absolute()
    if not file.exists():
        raise DataError("--data", f"no file or folder {where!r}")
    override = SourceOverride(path=str(file), split=plan.split)
    plain = inline_task(skill, InlineTask(path=str(file), scorer="exact", split=plan.split))
    if inline is not None:
        own = inline.model_copy(update={"path": str(file), "split": plan.split})
        return inline_task(skill, own), None, base_dir
    task = registry.task(skill)
    if set(task.source.columns) <= set(open_source(task, override, base_dir).columns):
        return task, override, base_dir
    # Rows in the plain form (image, question, answer), asked in the task's own words.
    return replace(plain, prompts=task.prompts), None, base_dir


def _placed(suite: Suite, base_dir: Path, out: Path) -> dict[str, Any]:
    """The suite as YAML values, its paths good from the new manifest's folder."""
    written: dict[str, Any] = suite.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for kind in ("sources", "tasks"):
        places: Mapping[str, dict[str, Any]] = written.get(kind, {})
        for place in places.values():
            if place.get("path"):
                place["path"] = _relative(base_dir / place["path"], out)
    return written


def _relative(path: Path, folder: Path) -> str:
    """Relative where that stays inside `folder`, as manifests want it; else absolute."""
    relative = os.path.relpath(path.absolute(), folder.absolute())
    return str(path.absolute()) if relative.startswith("..") else relative
