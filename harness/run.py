"""The sweep: one live engine visits every checkpoint that owes cells, answers go to the store.

Nothing here knows a model or a metric. A checkpoint or a task that cannot run becomes a
`Failure` at the end; the rest is finished. Ctrl-C ends cleanly: what was answered stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from harness.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, CheckpointError, DataError
from harness.plan import Benchmark, Cell, Failure, Plan, requests
from harness.store import Store
from harness.types import Engine, Prediction, Profile, Request

# Answers are made durable in groups: at most this many, or this old in seconds.
FLUSH_COUNT = 64
FLUSH_SECONDS = 2.0


class Watch(Protocol):
    """Who looks on while a sweep runs (a live view, plain lines, or nobody)."""

    def begin(self, n_requests: int, n_cells: int) -> None:
        """The whole work owed."""

    def checkpoint(self, label: str) -> None:
        """The weights of this checkpoint are being loaded."""

    def task(self, name: str) -> None:
        """This task is being answered."""

    def answered(self, n: int, n_failed: int) -> None:
        """So many more predictions are on the disk."""

    def sealed(self) -> None:
        """One more cell is complete."""


@dataclass(slots=True)
class Outcome:
    """What a sweep did."""

    n_answered: int = 0
    n_failed: int = 0
    n_sealed: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    interrupted: bool = False
    start_seconds: float | None = None
    """Making the engine and loading the first checkpoint."""
    swap_seconds: list[float] = field(default_factory=list)
    """Loading each later checkpoint."""
    task_seconds: dict[str, list[float]] = field(default_factory=dict)
    """task -> [requests, seconds] answered: what the next estimate is made of."""

    @property
    def exit_code(self) -> int:
        """0 when everything asked for is there; 130 after Ctrl-C, as shells expect."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_FAILED if self.failures else EXIT_OK


def sweep(
    plan: Plan,
    store: Store,
    profile: Profile,
    make_engine: Callable[[], Engine],
    watch: Watch,
) -> Outcome:
    """Answers every owed cell of `plan`, one engine for all checkpoints.

    `make_engine` is called only if something is owed. Returns when all is done, failed, or the
    user pressed Ctrl-C; predictions that arrived are in the store in each case.
    """
    outcome = Outcome()
    started = time.monotonic()
    owed = list(plan.owed())
    cells = [cell for _, group in owed for cell in group]
    watch.begin(sum(cell.n for cell in cells), len(cells))
    prepared = Requests(plan, store, profile)
    engine: Engine | None = None
    try:
        for checkpoint, group in owed:
            labels = _labels(plan, checkpoint.fingerprint)
            watch.checkpoint(labels)
            began = time.monotonic()
            try:
                engine = engine or make_engine()
                engine.load(checkpoint)
            except CheckpointError as error:
                outcome.failures.append(Failure(labels, str(error)))
                continue
            if outcome.start_seconds is None:
                outcome.start_seconds = time.monotonic() - began
            else:
                outcome.swap_seconds.append(time.monotonic() - began)
            for cell in group:
                watch.task(cell.task)
                try:
                    _answer(engine, cell, prepared, store, watch, outcome)
                except DataError as error:
                    outcome.failures.append(Failure(cell.task, str(error)))
    except KeyboardInterrupt:
        outcome.interrupted = True
    finally:
        if engine is not None:
            engine.close()
    outcome.seconds = time.monotonic() - started
    return outcome


class Requests:
    """The requests of each task, built once for all checkpoints."""

    def __init__(self, plan: Plan, store: Store, profile: Profile):
        self._benchmarks = plan.benchmarks
        self._store = store
        self._profile = profile
        self._built: dict[str, list[Request]] = {}

    def of(self, task: str) -> list[Request]:
        """In sample order. The samples' words are kept in the store, where scoring finds them."""
        if task not in self._built:
            self._built[task] = self._build(self._benchmarks[task])
        return self._built[task]

    def _build(self, benchmark: Benchmark) -> list[Request]:
        samples = benchmark.load()
        self._store.write_samples(benchmark.task.name, benchmark.data, samples)
        return requests(benchmark.task, samples, self._profile)


def _answer(
    engine: Engine, cell: Cell, prepared: Requests, store: Store, watch: Watch, outcome: Outcome
) -> None:
    """Answers what a cell owes and seals it."""
    asked = prepared.of(cell.task)
    journal = store.journal(cell.task, cell.signature)
    watch.answered(len(journal.done), sum(p.status != "ok" for p in journal.done.values()))
    waiting: list[Prediction] = []
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal flushed
        journal.append(waiting)
        failed = sum(p.status != "ok" for p in waiting)
        outcome.n_answered += len(waiting)
        outcome.n_failed += failed
        watch.answered(len(waiting), failed)
        waiting.clear()
        flushed = time.monotonic()

    owed = [request for request in asked if request.sample_id not in journal.done]
    began = time.monotonic()
    ask = engine.log_likelihood if _by_likelihood(cell, owed) else engine.generate
    try:
        for prediction in ask(owed):
            waiting.append(prediction)
            if len(waiting) >= FLUSH_COUNT or time.monotonic() - flushed > FLUSH_SECONDS:
                flush()
    finally:
        if waiting:
            flush()
        journal.close()
    spent = outcome.task_seconds.setdefault(cell.task, [0.0, 0.0])
    spent[0] += len(owed)
    spent[1] += time.monotonic() - began
    journal.seal([request.sample_id for request in asked])
    outcome.n_sealed += 1
    watch.sealed()


def _by_likelihood(cell: Cell, owed: Sequence[Request]) -> bool:
    return cell.signature["scoring"] == "loglikelihood" and all(r.choices for r in owed)


def _labels(plan: Plan, fingerprint: str) -> str:
    """`llm@2 count`: the stages that are this checkpoint."""
    names = [
        f"{stage.key.strategy}{'' if stage.key.run == '0' else '/' + stage.key.run} {stage.name}"
        if stage.key.stage
        else stage.name
        for stage, checkpoint in plan.stages
        if checkpoint and checkpoint.fingerprint == fingerprint
    ]
    return names[0] if names else fingerprint[:8]
