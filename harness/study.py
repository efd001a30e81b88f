"""A study opened for work: its manifest, its folder of results, its plan.

The one place that turns what a user names (a manifest, a checkpoint folder, a study's name)
into a study.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import engines, executors, rates
from harness.checkpoints import is_adapter
from harness.diagnostics import Asked, waves, with_diagnostics
from harness.discover import discover
from harness.engines.options import LIBRARIES
from harness.errors import DataError, ManifestError, ResultsError
from harness.executors import Workers
from harness.forecast import Forecast, forecast
from harness.manifest import (
    DEFAULT_MANIFEST,
    BaseSpec,
    EngineSpec,
    Manifest,
    Suite,
    check_manifest,
    read_manifest,
)
from harness.names import check_name
from harness.plan import Cell, Failure, Plan, make_plan, owes, parse_only, study_record
from harness.run import Outcome, Watch, sweep
from harness.storage.result_files import write_atomically
from harness.storage.store import Store
from harness.study_folders import results_of
from harness.tune.recipe import StageRecord, cost_of, read_record
from harness.types import BASE, Engine, Kind

# The reference study's suite (arXiv 2510.08564), for a checkpoint folder given alone.
DEFAULT_SUITE = Suite.model_construct(
    targets=["cub200", "pixmo_count", "pathvqa", "textvqa", "timeclock"],
    held_out=[
        "ai2d", "chartqa", "docvqa", "infovqa", "realworldqa", "seedbench", "scienceqa", "mmstar",
    ],
)  # fmt: skip

# A journal line and its sealed row together, measured on the micro study and rounded up; and of a
# probe, of which the base's holds the likeliest tokens at each position.
BYTES_PER_PREDICTION = 500
BYTES_PER_READING = 50_000


# A folder's name that says only which one of many it is.
NUMBERED = re.compile(r"(seed|run|stage|step|epoch|checkpoint)?[-_]?\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Options:
    """What a command line may change of a manifest, and how to look at the store."""

    results: Path | None = None
    suite: Path | None = None
    engine: str | None = None
    limit: int | None = None
    only: tuple[str, ...] = ()
    verify: bool = False
    retry_failed: bool = False
    repeat_base: bool = False
    base: Path | None = None
    """For a folder of stages: the checkpoint that was tuned, a folder or a hub id."""
    pattern: str | None = None
    """For a folder of stages: how they are named, see `harness.discover`."""
    diagnostics: tuple[Kind, ...] = ()
    """What to score besides the answers, see `harness.diagnostics`."""
    probe_samples: int | None = None


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A manifest with its plan."""

    manifest: Manifest
    folder: Path
    """The folder that the manifest's paths are relative to."""
    store: Store
    plan: Plan
    retry_failed: bool = False
    """Sealed cells with failed answers are owed as well."""


def open_study(target: Path, options: Options) -> OpenStudy:
    """Reads a manifest, or makes one of a folder of stages or of one checkpoint, and plans it.

    Raises UserError; no engine is started and torch is not imported.
    """
    discovering = options.base is not None or options.pattern is not None
    if target.is_dir() and not discovering and (target / DEFAULT_MANIFEST).is_file():
        target = target / DEFAULT_MANIFEST
    if target.is_dir():
        manifest, folder = _folder_study(target, options)
    elif not target.exists():
        raise ManifestError(str(target), "no such manifest, and no such folder of checkpoints")
    else:
        if discovering:
            raise ManifestError(target.name, "--base and --pattern are for a folder of stages")
        if options.suite is not None:
            raise ManifestError(target.name, "--suite is for a folder; a manifest has its own")
        manifest, folder = read_manifest(target), target.absolute().parent
    manifest = _changed(manifest, options)
    store = Store(results_of(manifest, folder, options.results))
    wanted = parse_only(options.only, manifest)
    plan = make_plan(
        manifest, folder, store,
        verify=options.verify, retry_failed=options.retry_failed, repeat_base=options.repeat_base,
        wanted=wanted,
    )  # fmt: skip
    if "choices" in options.diagnostics and manifest.suite.scoring == "loglikelihood":
        raise ManifestError(
            "--choices", "suite.scoring is loglikelihood: the answers are the likeliest options"
        )
    asked = Asked(
        options.diagnostics, options.probe_samples, manifest.suite.seed,
        manifest.engine.options.get("token_classes", {}), options.retry_failed,
    )  # fmt: skip
    plan = with_diagnostics(plan, store, asked, wanted)
    return OpenStudy(manifest, folder, store, plan, options.retry_failed)


def score(
    opened: OpenStudy, watch: Watch, *, record: bool = True, workers: Workers | None = None
) -> Outcome:
    """Answers what the study owes; one writer at a time, a second process waits.

    `workers`: who answers; None: one engine in this process. `record=False` leaves `study.json`
    alone: the cells are kept, the study is still the old one.
    Raises ResultsError when the results folder cannot be written or has no room.
    """
    store, plan = opened.store, opened.plan
    with store.writer(lambda: watch.checkpoint("waiting for another forgeteval score")):
        retry = opened.retry_failed
        plan = replace(plan, cells=[_still_owed(store, cell, retry) for cell in plan.cells])
        _check_room(store, plan)
        if record:
            costs = training_costs(plan)
            write_record(store, {**study_record(opened.manifest, plan), "costs": costs})
        if workers is None or workers.alone:
            profile = opened.manifest.suite.profile
            outcome = sweep(plan, store, profile, lambda: _engine(opened), watch)
        else:
            outcome = _sweep_with(workers, replace(opened, plan=plan), watch)
        outcome.failures += [*restore_samples(store, plan), *grade_cells(store, plan)]
    outcome.failures[:0] = plan.failures
    rates.learn(_rates_file(store), _pace(opened, workers), outcome)
    return outcome


def restore_samples(store: Store, plan: Plan) -> list[Failure]:
    """Writes the questions behind sealed cells anew where that file is gone; what could not be."""
    failures = []
    sealed = {cell.task for cell in plan.cells if store.is_sealed(cell.task, cell.id)}
    for name, benchmark in plan.benchmarks.items():
        if name in sealed and not store.samples_file(name, benchmark.data).is_file():
            try:
                store.write_samples(name, benchmark.data, benchmark.load())
            except DataError as error:
                failures.append(Failure(name, str(error)))
    return failures


def grade_cells(store: Store, plan: Plan) -> list[Failure]:
    """Has lm-eval grade the sealed cells of its tasks that are not graded yet; what could not be.

    After the sweep, and on its own where only grades are missing: no model is needed. A task that
    cannot be graded is one failure, however many checkpoints answered it.
    """
    failures: dict[str, list[str]] = {}
    for cell in plan.cells:
        bench = plan.benchmarks[cell.task].lm_eval
        if bench is None or cell.kind or not store.is_sealed(cell.task, cell.id):
            continue
        try:
            bench.grade_cell(store, cell.id)
        except DataError as error:
            failures.setdefault(cell.task, []).append(str(error))
    return [
        Failure(task, first + (f" (other checkpoints alike: {len(more)})" if more else ""))
        for task, (first, *more) in failures.items()
    ]


def training_costs(plan: Plan) -> dict[str, dict[str, float | None]]:
    """strategy -> what a run of it cost, where every stage left a record of its training.

    A folder that several stages are made of (a sweep of WiSE-FT) was trained once. Over runs:
    seconds are the mean, share and memory the largest. Raises CheckpointError.
    """
    runs: dict[str, dict[str, dict[str, StageRecord | None]]] = {}
    for stage, checkpoint in plan.stages:
        if stage.key.strategy != BASE:
            folders = runs.setdefault(stage.key.strategy, {}).setdefault(stage.key.run, {})
            place = (checkpoint.adapter or checkpoint.path) if checkpoint else ""
            folders[place] = read_record(Path(place)) if place else None
    found: dict[str, dict[str, float | None]] = {}
    for strategy, by_run in runs.items():
        records = [[r for r in folders.values() if r] for folders in by_run.values()]
        if list(map(len, records)) != list(map(len, by_run.values())):
            continue
        costs = [cost_of(run) for run in records]
        found[strategy] = {
            "trainable_share": max(cost.trainable_share for cost in costs),
            "train_seconds": sum(cost.train_seconds for cost in costs) / len(costs),
            "peak_memory_gb": max(cost.peak_memory_gb for cost in costs),
        }
        for key in ("energy_kwh", "co2_kg"):
            known = [value for cost in costs if (value := getattr(cost, key)) is not None]
            if len(known) == len(costs):
                found[strategy][key] = sum(known) / len(known)
    return found


def _sweep_with(workers: Workers, opened: OpenStudy, watch: Watch) -> Outcome:
    """The sweep by several workers. Nothing is started if nothing is owed.

    What must wait for the base's probe is swept after everything else.
    """
    outcome = Outcome()
    for plan in waves(opened.plan, opened.store):
        if any(cell.owed for cell in plan.cells) and not outcome.interrupted:
            outcome = outcome.then(_sweep_part(workers, replace(opened, plan=plan), watch))
    return outcome


def _sweep_part(workers: Workers, opened: OpenStudy, watch: Watch) -> Outcome:
    engine = opened.manifest.engine
    executor = executors.create(
        workers,
        partial(engines.create, engine.kind, engine.options),
        engines.identity(engine.kind, engine.options),
        engine.kind,
        engine.options,
    )
    costs = rates.costs(_rates_file(opened.store), _pace(opened, workers), engine.kind)
    profile = opened.manifest.suite.profile
    return executors.Driver(opened.plan, opened.store, profile, executor, watch, costs).run()


def _pace(opened: OpenStudy, workers: Workers | None) -> str:
    """The name under which the speed of such workers is kept: several share a machine's cores."""
    kind = opened.manifest.engine.kind
    if workers is None or workers.alone:
        return kind
    return f"{kind}, {workers.executor}" + (f" x {workers.n}" if workers.n else "")


def estimate(opened: OpenStudy) -> rates.Estimate:
    """How long what is owed will take, from what earlier sweeps here took."""
    return rates.estimate(_rates_file(opened.store), opened.manifest.engine.kind, opened.plan)


def forecast_workers(opened: OpenStudy, workers: Workers) -> Forecast | None:
    """How several workers would share what is owed; None where nothing was measured here."""
    pace, kind = _pace(opened, workers), opened.manifest.engine.kind
    costs = rates.costs(_rates_file(opened.store), pace, kind)
    if not costs.rates:
        return None
    return forecast(executors.owed_cells(opened.plan), costs, workers.n or 1)


def _rates_file(store: Store) -> Path:
    return store.folder.parent / ".cache" / "rates.json"


def write_record(store: Store, record: Mapping[str, Any]) -> None:
    """Writes `study.json`."""
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(store.folder / "study.json", text.encode() + b"\n")


def _still_owed(store: Store, cell: Cell, retry_failed: bool) -> Cell:
    """Another process may have sealed it while this one planned or waited."""
    return replace(cell, owed=cell.owed and owes(store, cell.task, cell.id, retry_failed))


def _check_room(store: Store, plan: Plan) -> None:
    """Raises ResultsError before any model is loaded when the disk cannot hold the answers."""
    need = sum(
        cell.n * (BYTES_PER_READING if "samples" in cell.signature else BYTES_PER_PREDICTION)
        for cell in plan.cells
        if cell.owed
    )
    free = shutil.disk_usage(store.folder).free
    if free < need:
        raise ResultsError(
            str(store.folder), f"about {need / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free here"
        )


def _engine(opened: OpenStudy) -> Engine:
    return engines.create(opened.manifest.engine.kind, opened.manifest.engine.options)


def _changed(manifest: Manifest, options: Options) -> Manifest:
    """The manifest with what the command line says instead."""
    changes: dict[str, Any] = {}
    if options.engine and options.engine != manifest.engine.kind:
        if options.engine not in LIBRARIES:
            known = ", ".join(LIBRARIES)
            raise ManifestError("--engine", f"got {options.engine!r}, expected one of {known}")
        # The other engine's own options mean nothing here; the number type is part of the study.
        kept = {k: v for k, v in manifest.engine.options.items() if k == "dtype"}
        changes["engine"] = EngineSpec.model_validate({"kind": options.engine, **kept})
    if options.limit:
        changes["suite"] = manifest.suite.model_copy(update={"limit": options.limit})
    return manifest.model_copy(update=changes)


def _folder_study(folder: Path, options: Options) -> tuple[Manifest, Path]:
    """A folder as a study: one checkpoint alone, or the stages that are discovered in it.

    Its suite: `--suite`, else that of a manifest in the folder or above it, else the reference
    study's, with the skills that the stages name among the targets.
    """
    suite, place = DEFAULT_SUITE, Path.cwd()
    source = options.suite or _nearest_manifest(folder)
    if source is not None:
        suite, place = read_manifest(source, check_paths=False).suite, source.absolute().parent
    if is_adapter(folder) or (folder / "config.json").is_file():
        return _one_checkpoint(folder, options, suite), place
    found = discover(folder, options.base, options.pattern)
    asked = suite.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if source is None:
        asked["targets"] = list(dict.fromkeys([*suite.targets, *found.skills()]))
        asked["held_out"] = [name for name in suite.held_out if name not in found.skills()]
    hub = options.base if options.base and not options.base.exists() else None
    written = {
        "study": _plain_name(folder.absolute().name),
        "base": str(hub) if hub else {"path": str(found.base)},
        "suite": asked,
        "strategies": found.strategies(),
    }
    return check_manifest(written, str(folder), place), place


def _one_checkpoint(folder: Path, options: Options, suite: Suite) -> Manifest:
    """One checkpoint folder as a study of a base alone."""
    if options.pattern is not None or options.base is not None:
        raise ManifestError(
            str(folder), "is one checkpoint; --base and --pattern are for a folder of stages"
        )
    return Manifest.model_construct(
        study=_plain_name(_last_words(folder.absolute().parts)),
        base=BaseSpec.model_construct(path=str(folder.absolute())),
        engine=EngineSpec(),
        suite=suite,
        strategies={},
    )


def _last_words(parts: Sequence[str]) -> str:
    """The end of a path that tells one checkpoint from others: seeds and steps alone do not.

    >>> _last_words(("/", "ckpt", "mlp", "seed0", "2_count")), _last_words(("/", "ckpt", "a1"))
    ('mlp-seed0-2_count', 'ckpt-a1')
    """
    n = 2
    while n < len(parts) - 1 and NUMBERED.fullmatch(parts[-n]):
        n += 1
    return "-".join(parts[-n:])


def _plain_name(text: str) -> str:
    """A folder's name as a study's. Raises ManifestError where nothing of it can be kept."""
    try:
        return check_name(re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._")[:80])
    except ValueError as error:
        raise ManifestError(text, f"cannot name a study: {error}; write a manifest") from None


def _nearest_manifest(folder: Path) -> Path | None:
    for parent in [folder.absolute(), *folder.absolute().parents][:5]:
        if (parent / DEFAULT_MANIFEST).is_file():
            return parent / DEFAULT_MANIFEST
    return None
