"""The plan: which cells a study still owes, and in which order, decided before torch is imported.

Planning reads fingerprints, not models. A fingerprint (of weights, of a task's data) is
remembered by path, size and modification time in `results/.cache/`; `verify=True` reads the
bytes again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import engines, registry
from harness.data import sources
from harness.errors import CheckpointError, DataError, ManifestError
from harness.lmeval.settings import is_lm_eval
from harness.lmeval.tasks import as_task
from harness.manifest import Manifest, base_stage
from harness.requests import data_digest, requests
from harness.resolver import Resolver
from harness.storage.memory import Memory
from harness.storage.signatures import SCHEMA_VERSION, cell_id
from harness.storage.store import Store
from harness.types import BASE, Checkpoint, Kind, Profile, Request, Sample, Stage, Task

if TYPE_CHECKING:
    from harness.lmeval.benchmarks import LmEvalBenchmark, LmEvalTasks


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A task as this study uses it."""

    task: Task
    role: str
    data: str
    """Hash of samples and prompts, images included."""
    n: int
    load: Callable[[], Sequence[Sample]]
    """The samples, read again only when a cell is owed."""
    lm_eval: LmEvalBenchmark | None = None
    """Set where lm-eval defines the benchmark: what is asked and how it is graded."""

    def requests(self, samples: Sequence[Sample], profile: Profile) -> list[Request]:
        """What the engines are asked, one request per sample, in the samples' order."""
        return self.lm_eval.requests() if self.lm_eval else requests(self.task, samples, profile)


@dataclass(frozen=True, slots=True)
class Cell:
    """One checkpoint on one task: the unit of work."""

    task: str
    checkpoint: Checkpoint
    signature: Mapping[str, object]
    n: int
    owed: bool
    again: bool = False
    """The base a second time (`--repeat-base`): what differs is the noise floor."""
    kind: Kind | None = None
    """Which diagnostic it is; None = the answers themselves."""
    follows: str = ""
    """The cell of the same task that must be sealed before this one can be asked; "" = none."""

    @property
    def asks(self) -> str:
        """What is asked: cells of one name have the same requests."""
        return "/".join(filter(None, (self.task, self.kind, self.follows)))

    @property
    def pace(self) -> str:
        """What its speed is remembered under: a probe takes longer than an answer."""
        return self.task if self.kind is None else f"{self.task}/{self.kind}"

    @property
    def id(self) -> str:
        """The cell's name in the store."""
        return cell_id(self.signature)


@dataclass(frozen=True, slots=True)
class Failure:
    """A checkpoint or a task that cannot be scored; the rest of the study goes on."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study consists of and what of it is still owed."""

    benchmarks: Mapping[str, Benchmark]
    stages: Sequence[tuple[Stage, Checkpoint | None]]
    """Every stage with its checkpoint; None where that cannot be read."""
    cells: Sequence[Cell]
    """Each (checkpoint, task) once, base first: weights are swapped once per checkpoint."""
    failures: Sequence[Failure] = ()

    def owed(self) -> Iterator[tuple[Checkpoint, list[Cell]]]:
        """Checkpoints in sweep order, each with the cells it still owes."""
        by_checkpoint: dict[tuple[str, bool], list[Cell]] = {}
        for cell in self.cells:
            if cell.owed:
                by_checkpoint.setdefault((cell.checkpoint.fingerprint, cell.again), []).append(cell)
        for cells in by_checkpoint.values():
            yield cells[0].checkpoint, cells


def make_plan(
    manifest: Manifest,
    folder: Path,
    store: Store,
    *,
    verify: bool = False,
    retry_failed: bool = False,
    repeat_base: bool = False,
    wanted: Callable[[Stage], bool] = lambda stage: True,
) -> Plan:
    """The plan of a manifest that lies in `folder`. `wanted` picks the stages to score now.

    With `repeat_base` the base is owed once more, after everything else.
    """
    memory = Memory(store.folder.parent / ".cache" / "fingerprints.json", verify=verify)
    failures: list[Failure] = []
    benchmarks = _benchmarks(manifest, folder, memory, failures)
    resolver = Resolver(manifest, folder, memory)
    stages = _stages(manifest, resolver, failures)
    memory.save()
    settings = engines.identity(manifest.engine.kind, manifest.engine.options)
    cells: dict[str, Cell] = {}
    for stage, checkpoint in stages:
        for benchmark in benchmarks.values() if checkpoint else ():
            assert checkpoint is not None
            signature = _signature(manifest, benchmark, checkpoint, settings, resolver)
            cell = cell_id(signature)
            if cell in cells and cells[cell].owed:
                continue
            owed = wanted(stage) and owes(store, benchmark.task.name, cell, retry_failed)
            cells[cell] = Cell(benchmark.task.name, checkpoint, signature, benchmark.n, owed)
    swept = list(cells.values())
    return Plan(benchmarks, stages, [*swept, *_again(store, stages, swept, repeat_base)], failures)


def _again(
    store: Store,
    stages: Sequence[tuple[Stage, Checkpoint | None]],
    cells: Sequence[Cell],
    owed: bool,
) -> Iterator[Cell]:
    """The base's cells once more, under signatures of their own; last in the sweep."""
    base = stages[0][1]
    for cell in cells if base else ():
        if base and cell.checkpoint.fingerprint == base.fingerprint:
            signature = {**cell.signature, "repeat": 1}
            there = store.is_sealed(cell.task, cell_id(signature))
            if owed or there:
                yield Cell(cell.task, base, signature, cell.n, not there, again=True)


def study_record(manifest: Manifest, plan: Plan) -> dict[str, Any]:
    """What `study.json` holds: enough to judge the study where no model or data are.

    No times, no machine paths: equal inputs give equal bytes.
    """
    cells: dict[tuple[str, str], str] = {
        (cell.checkpoint.fingerprint, cell.task): cell.id
        for cell in plan.cells
        if not cell.again and cell.kind is None
    }
    base = manifest.base.hub or Path(manifest.base.path or "").name
    return {
        "schema": SCHEMA_VERSION,
        "kind": "scored",
        "study": manifest.study,
        "base_model": base,
        "profile": manifest.suite.profile,
        "benchmarks": [
            {
                "name": name,
                "role": b.role,
                "metric": b.task.metric,
                "data": b.data,
                "n": b.n,
                **({"grading": b.lm_eval.grading, "note": b.lm_eval.note} if b.lm_eval else {}),
            }
            for name, b in plan.benchmarks.items()
        ],
        "tasks": {
            name: spec.model_dump(mode="json") for name, spec in manifest.suite.tasks.items()
        },
        "components": {
            name: spec.component for name, spec in manifest.strategies.items() if spec.component
        },
        "stages": [
            {
                "strategy": stage.key.strategy,
                "run": stage.key.run,
                "stage": stage.key.stage,
                "name": stage.name,
                "trained_on": stage.trained_on,
                "checkpoint": checkpoint.fingerprint if checkpoint else None,
                "cells": {
                    name: cells[checkpoint.fingerprint, name]
                    for name in (plan.benchmarks if checkpoint else ())
                    if checkpoint and (checkpoint.fingerprint, name) in cells
                },
                **_trust(checkpoint),
                **_diagnostics(plan, checkpoint),
            }
            for stage, checkpoint in plan.stages
        ],
        "base_again": {cell.task: cell.id for cell in plan.cells if cell.again},
        **_probe_samples(plan),
    }


def _trust(checkpoint: Checkpoint | None) -> dict[str, bool]:
    """Said only where it is so: code from the checkpoint's folder made these numbers."""
    trusted = checkpoint is not None and checkpoint.trust_remote_code
    return {"trust_remote_code": True} if trusted else {}


def _diagnostics(plan: Plan, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """Said only where there are such cells: kind -> task -> cell."""
    found: dict[str, dict[str, str]] = {}
    for cell in plan.cells:
        if checkpoint and cell.kind and cell.checkpoint.fingerprint == checkpoint.fingerprint:
            found.setdefault(cell.kind, {})[cell.task] = cell.id
    return {"diagnostics": found} if found else {}


def _probe_samples(plan: Plan) -> dict[str, Any]:
    """Said only where there are probes: kind -> samples per task."""
    found = {c.kind: c.signature["samples"] for c in plan.cells if "samples" in c.signature}
    return {"probe_samples": found} if found else {}


def _benchmarks(
    manifest: Manifest, folder: Path, memory: Memory, failures: list[Failure]
) -> dict[str, Benchmark]:
    """The suite's benchmarks by name, in its order; what cannot be read goes to `failures`.

    Raises ManifestError for settings of lm-eval's tasks that the suite does not have.
    """
    found: dict[str, Benchmark] = {}
    theirs: LmEvalTasks | None = None
    named: dict[str, str] = {}
    for name, role in manifest.suite.benchmarks().items():
        try:
            if is_lm_eval(name):
                theirs = theirs or _lm_eval_tasks(manifest, folder, memory)
                for benchmark in _lm_eval_benchmarks(theirs, name, role, found, named):
                    found.setdefault(benchmark.task.name, benchmark)
                    named.setdefault(benchmark.task.name, name)
            else:
                found[name] = _benchmark(manifest, name, role, folder, memory)
        except DataError as error:
            failures.append(Failure(name, str(error)))
    if theirs is not None:
        theirs.check_keys()
    return found


def _stages(
    manifest: Manifest, resolver: Resolver, failures: list[Failure]
) -> list[tuple[Stage, Checkpoint | None]]:
    """Base and stages with their checkpoints; None, and a failure, where one cannot be read."""
    found: list[tuple[Stage, Checkpoint | None]] = []
    for stage, spec in [(base_stage(), None), *manifest.stages()]:
        try:
            found.append((stage, resolver.base if spec is None else resolver.stage(spec)))
        except CheckpointError as error:
            found.append((stage, None))
            failures.append(Failure("/".join(map(str, _key(stage))), str(error)))
    return found


def _key(stage: Stage) -> tuple[str, str, int]:
    return stage.key.strategy, stage.key.run, stage.key.stage


def _benchmark(manifest: Manifest, name: str, role: str, folder: Path, memory: Memory) -> Benchmark:
    suite = manifest.suite
    inline = suite.tasks.get(name)
    task = registry.inline_task(name, inline) if inline else registry.task(name)
    override = suite.sources.get(name)

    def load() -> Sequence[Sample]:
        return sources.load(
            task, override=override, limit=suite.limit, seed=suite.seed, base_dir=folder
        )

    def measure() -> tuple[str, int]:
        samples = load()
        if not samples:
            raise DataError(name, "the source has no rows")
        return data_digest(task, samples, suite.profile), len(samples)

    stamps = [
        sources.source_stat(task, override, folder),
        registry.code_stamp(task),
        [suite.limit, suite.seed, suite.profile, repr(inline)],
    ]
    key = f"data:{folder}:{name}:{suite.limit}:{suite.seed}:{suite.profile}"
    data, n = memory.recall(key, stamps, measure)
    return Benchmark(task, role, str(data), int(n), load)


def _lm_eval_tasks(manifest: Manifest, folder: Path, memory: Memory) -> LmEvalTasks:
    """lm-eval's tasks; their room is entered only where a suite names one."""
    from harness.lmeval.benchmarks import LmEvalTasks

    return LmEvalTasks(manifest.suite.lm_eval, manifest.suite.limit, folder, memory)


def _lm_eval_benchmarks(
    theirs: LmEvalTasks,
    name: str,
    role: str,
    found: Mapping[str, Benchmark],
    named: Mapping[str, str],
) -> list[Benchmark]:
    """The tasks that an `lm_eval:` name stands for, under the role it was given.

    `found`: the benchmarks before it, and in `named` the names that they came from. Raises
    DataError where one of them is the same task in another role or with other settings.
    """
    from harness.lmeval.benchmarks import differences

    benchmarks = theirs.benchmarks(name)
    if role == "target" and [b.name for b in benchmarks] != [name]:
        raise DataError(name, "is a group; name one of its tasks as a target, or hold it out")
    for bench in benchmarks:
        first = found.get(bench.name)
        if first is None or first.lm_eval is None:
            continue
        if first.role != role:
            raise DataError(name, f"{bench.name} is already {first.role}")
        differ = differences(first.lm_eval, bench)
        if differ:
            raise DataError(
                name,
                f"its {bench.name} is not that of {named[bench.name]}, they differ in "
                f"{', '.join(differ)}; a study has each task once: leave one of the names out",
            )
    return [
        Benchmark(as_task(b.name, b.metric), role, b.data, b.n, b.samples, b) for b in benchmarks
    ]


def _signature(
    manifest: Manifest,
    benchmark: Benchmark,
    checkpoint: Checkpoint,
    settings: Mapping[str, str],
    resolver: Resolver,
) -> dict[str, object]:
    task = benchmark.task
    return {
        "schema": SCHEMA_VERSION,
        "checkpoint": checkpoint.fingerprint,
        "processor": resolver.processor_fingerprint(checkpoint)[:16],
        "task": task.name,
        "data": benchmark.data[:16],
        "n": benchmark.n,
        "profile": manifest.suite.profile,
        "scoring": manifest.suite.scoring,
        "max_new_tokens": task.decoding.max_new_tokens,
        "stop": "".join(map(repr, task.decoding.stop)) or "-",
        **(benchmark.lm_eval.signature if benchmark.lm_eval else {}),
        **settings,
    }


def owes(store: Store, task: str, cell: str, retry_failed: bool) -> bool:
    """Whether a cell is not sealed, or is to be asked again for its failures."""
    if not store.is_sealed(task, cell):
        return True
    return retry_failed and int(store.read_cell(task, cell)[1]["n_failed"]) > 0


def parse_only(only: Sequence[str], manifest: Manifest) -> Callable[[Stage], bool]:
    """The filter behind `--only STRATEGY[@STAGE]`; the base is always wanted.

    STAGE is a number or a stage's name. Raises ManifestError naming what matches nothing.
    """
    if not only:
        return lambda stage: True
    parts = [item.partition("@") for item in only]
    picks = [(strategy, step if at else None) for strategy, at, step in parts]
    stages = [stage for stage, _ in manifest.stages()]

    def matches(stage: Stage, strategy: str, step: str | None) -> bool:
        return stage.key.strategy == strategy and step in (None, str(stage.key.stage), stage.name)

    lost = [i for i, p in zip(only, picks, strict=True) if not any(matches(s, *p) for s in stages)]
    if lost:
        strategy, at, _ = lost[0].partition("@")
        mine = [f"{s.key.stage} ({s.name})" for s in stages if s.key.strategy == strategy]
        known = ", ".join(dict.fromkeys(s.key.strategy for s in stages)) or "none"
        what = f"its stages are {', '.join(mine)}" if at and mine else f"strategies are {known}"
        raise ManifestError("--only", f"{lost[0]!r} matches no stage; {what}")
    return lambda stage: stage.key.strategy == BASE or any(matches(stage, *p) for p in picks)
