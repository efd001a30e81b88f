"""The sweep: one live engine visits every checkpoint that owes cells, answers go to the store.

Nothing here knows a model or a metric. A checkpoint or a task that cannot run becomes a
`Failure` at the end; the rest is finished. An engine that dies is started once more for what it
still owes. Ctrl-C ends cleanly: what was answered stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.diagnostics import diagnostic_requests
from harness.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CheckpointError,
    DataError,
    EngineError,
    UserError,
)
from harness.plan import Benchmark, Cell, Failure, Plan
from harness.storage.store import Journal, Store
from harness.types import OWN_METRIC, Checkpoint, Engine, Prediction, Profile, Request, Sample

# Answers are made durable in groups: at most this many, or this old in seconds.
FLUSH_COUNT = 64
FLUSH_SECONDS = 2.0
# A larger share of failed answers makes a cell one that was not scored; the gate thinks so too.
MAX_FAILED = 0.05
# Environment variables whose values are kept out of logs; shorter values are words, not secrets.
SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)
SECRET_LENGTH = 8


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

    def sealed(self, label: str = "", task: str = "") -> None:
        """One more cell is complete: this one, where several are worked on at a time."""

    def worker(self, number: int, doing: str) -> None:
        """What one of several workers begins to do; "" when it is gone."""


@dataclass(frozen=True, slots=True)
class FailedAnswers:
    """Requests of one cell that have a reason instead of an answer."""

    where: str
    """The checkpoint and the task, for people."""
    n_failed: int
    n: int
    reason: str
    """The commonest."""


@dataclass(slots=True)
class Outcome:
    """What a sweep did."""

    n_answered: int = 0
    n_failed: int = 0
    failed: list[FailedAnswers] = field(default_factory=list)
    """By cell, of those that were sealed."""
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
    n_restarts: int = 0
    """How often an engine that died was started again for what it owed."""
    n_lost: int = 0
    """Workers (of several) that died; others took over what they owed."""
    notices: list[str] = field(default_factory=list)
    """What went wrong with workers without costing a cell, for people."""

    def then(self, later: Outcome) -> Outcome:
        """Both sweeps as one, the other after this one."""
        spent = {name: list(pair) for name, pair in self.task_seconds.items()}
        for name, (n, seconds) in later.task_seconds.items():
            known = spent.setdefault(name, [0.0, 0.0])
            spent[name] = [known[0] + n, known[1] + seconds]
        return Outcome(
            n_answered=self.n_answered + later.n_answered,
            n_failed=self.n_failed + later.n_failed,
            failed=[*self.failed, *later.failed],
            n_sealed=self.n_sealed + later.n_sealed,
            seconds=self.seconds + later.seconds,
            failures=[*self.failures, *later.failures],
            interrupted=self.interrupted or later.interrupted,
            start_seconds=later.start_seconds if self.start_seconds is None else self.start_seconds,
            swap_seconds=[*self.swap_seconds, *later.swap_seconds],
            task_seconds=spent,
            n_restarts=self.n_restarts + later.n_restarts,
            n_lost=self.n_lost + later.n_lost,
            notices=[*self.notices, *later.notices],
        )

    def sealed(self, where: str, answers: Sequence[Prediction]) -> None:
        """A cell is complete."""
        self.n_sealed += 1
        reasons = Counter(p.reason for p in answers if p.status != "ok")
        if reasons:
            reason = reasons.most_common(1)[0][0]
            self.failed.append(FailedAnswers(where, reasons.total(), len(answers), reason))

    @property
    def exit_code(self) -> int:
        """0 when everything asked for is there, but for single answers; 130 after Ctrl-C."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        lost = any(cell.n_failed > MAX_FAILED * cell.n for cell in self.failed)
        return EXIT_FAILED if self.failures or lost else EXIT_OK


def sweep(
    plan: Plan,
    store: Store,
    profile: Profile,
    make_engine: Callable[[], Engine],
    watch: Watch,
) -> Outcome:
    """Answers every owed cell of `plan`, one engine for all checkpoints.

    `make_engine` is called only if something is owed, and again if an engine died. Returns when
    all is done, failed, or the user pressed Ctrl-C; predictions that arrived are in the store in
    each case. Raises what `make_engine` says of wrong options, and ResultsError.
    """
    outcome = Outcome()
    started = time.monotonic()
    owed = list(plan.owed())
    cells = [cell for _, group in owed for cell in group]
    watch.begin(sum(cell.n for cell in cells), len(cells))
    prepared = Requests(plan, store, profile)
    live = LiveEngine(make_engine, store.folder / "logs")
    try:
        for checkpoint, group in owed:
            labels = stage_label(plan, checkpoint.fingerprint)
            watch.checkpoint(labels)
            began = time.monotonic()
            try:
                live.load(checkpoint)
            except (CheckpointError, EngineError) as error:
                outcome.failures.append(Failure(labels, str(error)))
                continue
            if outcome.start_seconds is None:
                outcome.start_seconds = time.monotonic() - began
            else:
                outcome.swap_seconds.append(time.monotonic() - began)
            for cell in group:
                watch.task(cell.task)
                try:
                    _answer(live, cell, labels, prepared, store, watch, outcome)
                except DataError as error:
                    outcome.failures.append(Failure(cell.task, str(error)))
                except (CheckpointError, EngineError) as error:
                    outcome.failures.append(Failure(f"{labels}, {cell.task}", str(error)))
    except KeyboardInterrupt:
        outcome.interrupted = True
    finally:
        live.close()
    outcome.seconds = time.monotonic() - started
    return outcome


class LiveEngine:
    """The engine of a sweep: made when it is first needed, dropped when it dies.

    Engines and their libraries raise anything. Whatever is no error of ours counts as the
    engine's death: an `EngineError` with the class's name, the traceback in `logs`.
    """

    def __init__(self, make: Callable[[], Engine], logs: Path):
        self._make = make
        self._logs = logs
        self._engine: Engine | None = None

    @property
    def alive(self) -> bool:
        """Whether there is an engine that has not died."""
        return self._engine is not None

    def load(self, checkpoint: Checkpoint) -> None:
        """Make `checkpoint` the one that answers, on a new engine where there is none.

        An engine that dies of a swap is replaced once. Raises CheckpointError, EngineError.
        """
        swapped = self.alive
        try:
            self._load(checkpoint)
        except EngineError:
            if not swapped:
                raise
            self._load(checkpoint)

    def ask(self, cell: Cell, owed: Sequence[Request]) -> Iterator[Prediction]:
        """The loaded checkpoint's predictions, in any order. Raises EngineError."""
        assert self._engine is not None
        died: EngineError | None = None
        try:
            yield from _answers(self._engine, str(cell.signature["scoring"]), owed)
        except UserError as error:
            if not isinstance(error, EngineError):
                raise
            died = error
        except Exception as error:  # the boundary that this class is
            died = self._death(error, f"{cell.checkpoint.fingerprint[:12]}-{cell.task}")
        # Outside the handlers: an error that is being handled would keep the dead model in memory.
        if died:
            self.close()
            raise died

    def close(self) -> None:
        """Ends the engine, if there is one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            # Boundary: a dead engine may fail to close, and everything it said is stored.
            with contextlib.suppress(Exception):
                engine.close()

    def _load(self, checkpoint: Checkpoint) -> None:
        died: EngineError | None = None
        try:
            self._engine = self._engine or self._make()
            self._engine.load(checkpoint)
        except UserError as error:
            if not isinstance(error, EngineError):
                raise
            died = error
        except Exception as error:  # the boundary that this class is
            died = self._death(error, f"{checkpoint.fingerprint[:12]}-load")
        if died:
            self.close()
            raise died

    def _death(self, error: Exception, name: str) -> EngineError:
        """The error in one line; its traceback goes to a log file."""
        log = self._logs / f"{name}.log"
        text = _without_secrets("".join(traceback.format_exception(error)))
        with contextlib.suppress(OSError):  # on a full disk the message alone must do
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(text, encoding="utf-8", errors="backslashreplace")
        reason = _without_secrets((str(error).strip().splitlines() or [""])[0])[:200]
        died = f"died with {type(error).__name__}" + (f": {reason}" if reason else "")
        return EngineError("engine", f"{died}; what it raised is in logs/{log.name}")


def _answers(engine: Engine, scoring: str, owed: Sequence[Request]) -> Iterator[Prediction]:
    """`owed` generated or compared as the study says; as each request says for lm-eval's tasks."""
    compared = [request for request in owed if request.choices]
    if scoring == OWN_METRIC:
        generated = [request for request in owed if not request.choices]
        yield from engine.log_likelihood(compared) if compared else ()
        yield from engine.generate(generated) if generated else ()
    elif scoring in ("loglikelihood", "choices") and len(compared) == len(owed):
        yield from engine.log_likelihood(owed)
    else:
        yield from engine.generate(owed)


def _without_secrets(text: str) -> str:
    """The text with the values of the environment's tokens replaced by their names."""
    for name, value in os.environ.items():
        if len(value) >= SECRET_LENGTH and SECRET_NAMES.search(name):
            text = text.replace(value, f"<{name}>")
    return text


class Requests:
    """The requests of each task, built once for all checkpoints."""

    def __init__(self, plan: Plan, store: Store, profile: Profile):
        self._benchmarks = plan.benchmarks
        self._store = store
        self._profile = profile
        self._built: dict[str, list[Request]] = {}
        self._samples: dict[str, Sequence[Sample]] = {}

    def of(self, cell: Cell) -> list[Request]:
        """In sample order. The samples' words are kept in the store, where scoring finds them.

        Raises DataError for samples that cannot be had, and a cell that others must come before.
        """
        task = cell.task
        if task not in self._built:
            self._built[task] = self._build(self._benchmarks[task])
        if cell.asks not in self._built:
            all_of_task, samples = self._built[task], self._samples[task]
            self._built[cell.asks] = diagnostic_requests(cell, all_of_task, samples, self._store)
        return self._built[cell.asks]

    def _build(self, benchmark: Benchmark) -> list[Request]:
        samples = benchmark.load()
        self._store.write_samples(benchmark.task.name, benchmark.data, samples)
        self._samples[benchmark.task.name] = samples
        return benchmark.requests(samples, self._profile)


def _answer(
    live: LiveEngine,
    cell: Cell,
    where: str,
    prepared: Requests,
    store: Store,
    watch: Watch,
    outcome: Outcome,
) -> None:
    """Answers what a cell owes and seals it; an engine that dies is started again once.

    `where`: the checkpoint, for people.
    """
    asked = prepared.of(cell)
    journal = store.journal(cell.task, cell.signature)
    watch.answered(len(journal.done), sum(p.status != "ok" for p in journal.done.values()))
    began = time.monotonic()
    before = outcome.n_answered
    for last in (False, True):
        try:
            if not live.alive:  # it died just now, or of the cell before
                outcome.n_restarts += 1
                live.load(cell.checkpoint)
            _collect(live, cell, asked, journal, watch, outcome)
            break
        except EngineError:
            if last:
                raise
    spent = outcome.task_seconds.setdefault(cell.pace, [0.0, 0.0])
    spent[0] += outcome.n_answered - before
    spent[1] += time.monotonic() - began
    answers = journal.seal([request.sample_id for request in asked])
    outcome.sealed(f"{where}, {cell.task}", answers)
    watch.sealed()


def _collect(
    live: LiveEngine,
    cell: Cell,
    asked: Sequence[Request],
    journal: Journal,
    watch: Watch,
    outcome: Outcome,
) -> None:
    """Asks what the journal lacks; what arrives is in the journal however this ends."""
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
    try:
        for prediction in live.ask(cell, owed) if owed else ():
            waiting.append(prediction)
            if len(waiting) >= FLUSH_COUNT or time.monotonic() - flushed > FLUSH_SECONDS:
                flush()
    finally:
        if waiting:
            flush()
        journal.close()
    left = [request.sample_id for request in owed if request.sample_id not in journal.done]
    if left:
        live.close()
        raise EngineError(
            "engine", f"ended without answering {len(left)} requests, the first {left[0]!r}"
        )


def stage_label(plan: Plan, fingerprint: str) -> str:
    """`llm@2 count`: the stages that are this checkpoint."""
    names = [
        f"{stage.key.strategy}{'' if stage.key.run == '0' else '/' + stage.key.run} {stage.name}"
        if stage.key.stage
        else stage.name
        for stage, checkpoint in plan.stages
        if checkpoint and checkpoint.fingerprint == fingerprint
    ]
    return names[0] if names else fingerprint[:8]
