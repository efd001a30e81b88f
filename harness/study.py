"""A study opened for work: its manifest, its folder of results, its plan.

The one place that turns what a user names (a manifest, a checkpoint folder, a study's name)
into a study.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness import engines, rates
from harness.engines.options import LIBRARIES
from harness.errors import ManifestError, ResultsError, did_you_mean
from harness.manifest import (
    DEFAULT_MANIFEST,
    BaseSpec,
    EngineSpec,
    Manifest,
    Suite,
    check_name,
    read_manifest,
)
from harness.plan import Plan, make_plan, parse_only, study_record
from harness.run import Outcome, Watch, sweep
from harness.store import DEFAULT_RESULTS, Store, write_atomically
from harness.types import Engine

# The reference study's suite (arXiv 2510.08564), for a checkpoint folder given alone.
DEFAULT_SUITE = Suite.model_construct(
    targets=["cub200", "pixmo_count", "pathvqa", "textvqa", "timeclock"],
    held_out=[
        "ai2d", "chartqa", "docvqa", "infovqa", "realworldqa", "seedbench", "scienceqa", "mmstar",
    ],
)  # fmt: skip

# A journal line and its sealed row together, measured on the micro study and rounded up.
BYTES_PER_PREDICTION = 500


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


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A manifest with its plan."""

    manifest: Manifest
    folder: Path
    """The folder that the manifest's paths are relative to."""
    store: Store
    plan: Plan


def open_study(target: Path, options: Options) -> OpenStudy:
    """Reads a manifest (or takes a checkpoint folder as a study of one) and plans it.

    Raises UserError; no engine is started and torch is not imported.
    """
    if target.is_dir():
        manifest, folder = _folder_study(target, options)
    else:
        manifest, folder = read_manifest(target), target.absolute().parent
    manifest = _changed(manifest, options)
    results = options.results or (folder / manifest.results if manifest.results else None)
    store = Store((results or Path(DEFAULT_RESULTS)) / manifest.study)
    plan = make_plan(
        manifest, folder, store,
        verify=options.verify, retry_failed=options.retry_failed, repeat_base=options.repeat_base,
        wanted=parse_only(options.only, manifest),
    )  # fmt: skip
    return OpenStudy(manifest, folder, store, plan)


def score(opened: OpenStudy, watch: Watch, *, record: bool = True) -> Outcome:
    """Answers what the study owes; one writer at a time, a second process waits.

    `record=False` leaves `study.json` alone: the cells are kept, the study is still the old one.
    Raises ResultsError when the results folder cannot be written or has no room.
    """
    store, plan = opened.store, opened.plan
    with store.writer(lambda: watch.checkpoint("waiting for another forgeteval score")):
        plan = replace(plan, cells=[_still_owed(store, cell) for cell in plan.cells])
        _check_room(store, plan)
        if record:
            write_record(store, study_record(opened.manifest, plan))
        outcome = sweep(plan, store, opened.manifest.suite.profile, lambda: _engine(opened), watch)
    outcome.failures[:0] = plan.failures
    rates.learn(_rates_file(store), opened.manifest.engine.kind, outcome)
    return outcome


def estimate(opened: OpenStudy) -> rates.Estimate:
    """How long what is owed will take, from what earlier sweeps here took."""
    return rates.estimate(_rates_file(opened.store), opened.manifest.engine.kind, opened.plan)


def _rates_file(store: Store) -> Path:
    return store.folder.parent / ".cache" / "rates.json"


def write_record(store: Store, record: Mapping[str, Any]) -> None:
    """Writes `study.json`."""
    text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False)
    write_atomically(store.folder / "study.json", text.encode() + b"\n")


def study_folder(target: str, results: Path | None = None) -> Path:
    """The results of a study named by its manifest, its folder, or its name under `results`.

    Raises ResultsError listing the studies there are.
    """
    file = Path(target)
    if file.suffix in (".yaml", ".yml"):
        manifest = read_manifest(file, check_paths=False)
        place = results or (file.parent / manifest.results if manifest.results else None)
        folder = (place or Path(DEFAULT_RESULTS)) / manifest.study
        if not (folder / "study.json").is_file():
            raise ResultsError(target, f"not scored yet; run `forgeteval score {target}`")
        return folder
    if (file / "study.json").is_file():
        return file
    place = results or Path(DEFAULT_RESULTS)
    try:
        folder = place / check_name(target)
    except ValueError as error:
        raise ResultsError("STUDY", str(error)) from None
    if (folder / "study.json").is_file():
        return folder
    known = sorted(f.parent.name for f in place.glob("*/study.json"))
    hint = did_you_mean(target, known) or (f"; there are {', '.join(known)}" if known else "")
    raise ResultsError(f"{place}", f"no study {target!r} here{hint}")


def _still_owed(store: Store, cell: Any) -> Any:
    """Another process may have sealed it while this one planned or waited."""
    sealed = cell.owed and store.is_sealed(cell.task, cell.id)
    return replace(cell, owed=False) if sealed else cell


def _check_room(store: Store, plan: Plan) -> None:
    """Raises ResultsError before any model is loaded when the disk cannot hold the answers."""
    need = BYTES_PER_PREDICTION * sum(cell.n for cell in plan.cells if cell.owed)
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
        changes["engine"] = EngineSpec.model_validate({"kind": options.engine})
    if options.limit:
        changes["suite"] = manifest.suite.model_copy(update={"limit": options.limit})
    return manifest.model_copy(update=changes)


def _folder_study(folder: Path, options: Options) -> tuple[Manifest, Path]:
    """One checkpoint folder as a study of a base alone."""
    if not (folder / "config.json").is_file():
        raise ManifestError(
            str(folder), "holds no config.json; give a checkpoint folder or a manifest"
        )
    suite, place = DEFAULT_SUITE, Path.cwd()
    source = options.suite or _nearest_manifest(folder)
    if source is not None:
        suite, place = read_manifest(source, check_paths=False).suite, source.absolute().parent
    name = "-".join(folder.absolute().parts[-2:]) if folder.parent.name else folder.name
    manifest = Manifest.model_construct(
        study=check_name(name),
        base=BaseSpec.model_construct(path=str(folder.absolute())),
        engine=EngineSpec(),
        suite=suite,
        strategies={},
    )
    return manifest, place


def _nearest_manifest(folder: Path) -> Path | None:
    for parent in [*folder.absolute().parents][:4]:
        if (parent / DEFAULT_MANIFEST).is_file():
            return parent / DEFAULT_MANIFEST
    return None
