"""The driver: a sweep by several workers, and the one writer of what they answer.

Workers come, answer and die; the driver alone knows what is owed and writes the store. An answer
that arrived is in the journal before anything else happens, so it is never asked for again; what a
dead worker still had goes back to the schedule. A cell that workers die of again and again becomes
a `Failure`, the rest goes on.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from types import FrameType

from harness.checkpoints import architecture
from harness.errors import CheckpointError, DataError, Problem, ResultsError, SampleError, UserError
from harness.executors.messages import (
    Answers,
    Died,
    Event,
    Failed,
    Finished,
    Job,
    Loaded,
    Unfit,
    Up,
)
from harness.executors.protocol import Executor
from harness.plan import Cell, Failure, Plan
from harness.run import Outcome, Requests, Watch, stage_label
from harness.schedule import SHARD_REQUESTS, Costs, Owed, Schedule
from harness.store import Journal, Store
from harness.types import Checkpoint, Prediction, Profile, Request

# How long the writer waits for an event before it looks around (for Ctrl-C, above all).
WAIT_SECONDS = 0.5
# How long workers may take to hand over what they have when a sweep is stopped.
STOP_SECONDS = 5.0
# An engine that raised is made once more, as in a sweep on one engine. A worker's death may be
# nobody's fault (a spot machine): so many in a row, without an answer in between, are the cell's.
ENGINE_DEATHS = 2
WORKER_DEATHS = 3


@dataclass(slots=True)
class _OpenCell:
    """An owed cell and how far it is."""

    cell: Cell
    group: int
    """Which checkpoint of the sweep it belongs to."""
    journal: Journal | None = None
    order: list[str] = field(default_factory=list)
    """All sample ids of the task; empty until the cell is opened."""
    unasked: list[str] = field(default_factory=list)
    n_flying: int = 0
    """Jobs that work on it."""
    engine_deaths: int = 0
    worker_deaths: int = 0
    over: bool = False
    """Sealed, or given up."""


@dataclass(slots=True)
class _Group:
    """A checkpoint of the sweep with the cells it owes."""

    checkpoint: Checkpoint
    label: str
    cells: list[int]
    engine_deaths: int = 0
    worker_deaths: int = 0


@dataclass(slots=True)
class _Busy:
    """What a worker is doing."""

    job: Job
    cell: int
    loading: bool


def owed_cells(plan: Plan, done: Mapping[str, int] | None = None) -> list[Owed]:
    """The plan's owed cells as the schedule sees them, numbered in sweep order.

    `done`: cell id -> requests that are answered already.
    """
    found: list[Owed] = []
    for number, (checkpoint, cells) in enumerate(plan.owed()):
        kind = _architecture(checkpoint)
        for cell in cells:
            n = max(0, cell.n - (done or {}).get(cell.id, 0))
            found.append(Owed(len(found), str(number), kind, cell.task, n))
    return found


class Driver:
    """One sweep by the workers of an executor."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        profile: Profile,
        executor: Executor,
        watch: Watch,
        costs: Costs,
    ):
        self._store = store
        self._executor = executor
        self._watch = watch
        self._prepared = Requests(plan, store, profile)
        self._outcome = Outcome()
        self._groups = [
            _Group(checkpoint, stage_label(plan, checkpoint.fingerprint), [])
            for checkpoint, _ in plan.owed()
        ]
        self._cells: list[_OpenCell] = []
        for number, (_, cells) in enumerate(plan.owed()):
            for cell in cells:
                self._groups[number].cells.append(len(self._cells))
                self._cells.append(_OpenCell(cell, number))
        done = {o.cell.id: self._n_done(o) for o in self._cells}
        self._most = executor.most
        self._schedule = Schedule(owed_cells(plan, done), costs, executor.most)
        self._coming: set[int] = set()
        """Workers that were started and are not up."""
        self._up: dict[int, str] = {}
        """Worker -> its machine."""
        self._busy: dict[int, _Busy] = {}
        self._lost: dict[int, str] = {}
        """Workers that are of no use, and why."""
        self._stillborn = 0
        """Workers that died before they were up, since the last one that was."""
        self._jobs = 0
        self._witnesses: dict[str, str] = {}
        self._starts: list[float] = []
        self._stop = False

    def run(self) -> Outcome:
        """Answers every owed cell. Predictions that arrived are in the store however this ends.

        Raises ResultsError, and UserError when no worker can work on the study at all.
        """
        began = time.monotonic()
        self._watch.begin(sum(o.cell.n for o in self._cells), len(self._cells))
        with self._stoppable():
            try:
                self._seal_answered()
                while not self._stop and self._work_is_left():
                    self._employ()
                    self._hand_out()
                    for event in self._executor.events(WAIT_SECONDS):
                        self._handle(event)
                self._outcome.interrupted = self._stop
                if self._stop:
                    self._gather()
            except KeyboardInterrupt:  # a second Ctrl-C, or one where signals are not ours
                self._outcome.interrupted = True
            finally:
                self._executor.close()
                for opened in self._cells:
                    if opened.journal:
                        opened.journal.close()
        self._outcome.seconds = time.monotonic() - began
        return self._outcome

    # --- Workers -----------------------------------------------------------------------------

    def _work_is_left(self) -> bool:
        """Whether anything is in flight, or owed and there is somebody to do it."""
        if self._busy:
            return True
        if all(opened.over for opened in self._cells):
            return False
        if self._up or self._coming or (len(self._lost) < self._most and self._may_start()):
            return True
        self._give_up()
        return False

    def _may_start(self) -> bool:
        return self._stillborn < WORKER_DEATHS

    def _employ(self) -> None:
        """Starts workers while there is more to do than workers to do it."""
        waiting = self._schedule.n_left // SHARD_REQUESTS + 1 if self._schedule.n_left else 0
        wanted = min(self._most - len(self._lost), len(self._busy) + waiting)
        for worker in range(self._most):
            if len(self._up) + len(self._coming) >= wanted or not self._may_start():
                return
            if worker not in self._up and worker not in self._coming and worker not in self._lost:
                self._coming.add(worker)
                self._watch.worker(worker, "starting")
                self._executor.start(worker)

    def _hand_out(self) -> None:
        """Gives every idle worker what the schedule grants it."""
        idle = [worker for worker in sorted(self._up) if worker not in self._busy]
        for grant in self._schedule.hand_out(idle):
            opened = self._cells[grant.cell]
            try:
                asked = self._open(grant.cell)
                taken, opened.unasked = opened.unasked[: grant.n], opened.unasked[grant.n :]
                self._jobs += 1
                job = Job(self._jobs, opened.cell, tuple(taken), self._witness(opened.cell.task))
                self._executor.send(grant.worker, job, asked)
            except DataError as error:
                self._fail_task(opened.cell.task, str(error))
                continue
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                why = f"{opened.cell.task}: its requests cannot be sent to a worker: {error}"
                self._fail_task(opened.cell.task, why)
                continue
            opened.n_flying += 1
            self._busy[grant.worker] = _Busy(job, grant.cell, grant.loads)
            label = self._groups[opened.group].label
            doing = f"{label}: loading" if grant.loads else f"{label}: {opened.cell.task}"
            self._watch.worker(grant.worker, doing)

    def _handle(self, event: Event) -> None:
        worker = event.worker
        match event.said:
            case Up(node=node):
                self._coming.discard(worker)
                self._stillborn = 0
                self._up[worker] = node
                self._schedule.join(worker)
                self._watch.worker(worker, "ready")
            case Loaded() as loaded:
                self._loaded(worker, loaded)
            case Answers(predictions=predictions):
                self._keep(worker, predictions)
            case Finished(seconds=seconds):
                self._finished(worker, seconds)
            case Failed() as failed:
                self._failed(worker, failed)
            case Unfit(text=text):
                self._retire(worker, f"worker {worker} on {self._up.get(worker, '?')}: {text}")
            case Died() as died:
                self._died(worker, died)

    def _loaded(self, worker: int, loaded: Loaded) -> None:
        busy = self._busy[worker]
        busy.loading = False
        group = self._groups[self._cells[busy.cell].group]
        group.worker_deaths = 0
        if loaded.started:
            self._starts.append(loaded.seconds)
            self._outcome.start_seconds = fmean(self._starts)
        else:
            self._outcome.swap_seconds.append(loaded.seconds)
        self._learn()
        self._watch.worker(worker, f"{group.label}: {busy.job.cell.task}")

    def _keep(self, worker: int, predictions: Sequence[Prediction]) -> None:
        """Writes what arrived; an answer that nobody asked this worker for is not believed."""
        busy = self._busy.get(worker)
        if busy is None:
            return
        busy.loading = False
        opened = self._cells[busy.cell]
        assert opened.journal is not None
        asked = set(busy.job.sample_ids) - opened.journal.done.keys()
        fresh = {p.sample_id: p for p in predictions if p.sample_id in asked}
        if not fresh:
            return
        opened.journal.append(list(fresh.values()))
        opened.worker_deaths = 0
        failed = sum(p.status != "ok" for p in fresh.values())
        self._outcome.n_answered += len(fresh)
        self._outcome.n_failed += failed
        self._watch.answered(len(fresh), failed)

    def _finished(self, worker: int, seconds: float) -> None:
        busy = self._busy[worker]
        spent = self._outcome.task_seconds.setdefault(busy.job.cell.task, [0.0, 0.0])
        spent[0] += len(busy.job.sample_ids)
        spent[1] += seconds
        self._learn()
        self._end_job(worker)
        self._seal_if_complete(busy.cell)

    def _failed(self, worker: int, failed: Failed) -> None:
        """An engine that raised, or weights or data that cannot be used."""
        self._write_logs(failed.logs)
        busy = self._busy[worker]
        group = self._groups[self._cells[busy.cell].group]
        if failed.why == "engine":
            self._schedule.forget_weights(worker)
            self._engine_died(worker, failed.text)
            return
        self._end_job(worker)
        if failed.why == "task":
            self._fail_task(busy.job.cell.task, failed.text)
        elif failed.loading:
            # Nothing of this checkpoint is in the worker's engine.
            self._schedule.forget_checkpoint(worker)
            self._fail(group.label, failed.text, group.cells)
        else:
            self._fail(f"{group.label}, {busy.job.cell.task}", failed.text, [busy.cell])

    def _engine_died(self, worker: int, text: str) -> None:
        """Counts against the cell, or against the checkpoint that was being loaded."""
        busy = self._busy[worker]
        opened = self._cells[busy.cell]
        group = self._groups[opened.group]
        blamed = group if busy.loading else opened
        blamed.engine_deaths += 1
        self._end_job(worker)
        self._seal_if_complete(busy.cell)
        if blamed.engine_deaths < ENGINE_DEATHS:
            self._outcome.n_restarts += 1
        elif busy.loading:
            self._fail(group.label, text, group.cells)
        else:
            self._fail(f"{group.label}, {busy.job.cell.task}", text, [busy.cell])

    def _died(self, worker: int, died: Died) -> None:
        """The process is gone. What it answered before is here: events come in order."""
        self._watch.worker(worker, "")
        if worker in self._coming:
            self._coming.discard(worker)
            self._stillborn += 1
            if not self._may_start():
                self._write_logs({f"worker-{worker}.log": died.log})
                self._lost[worker] = f"worker {worker} did not come up: it {died.text}"
                self._outcome.notices.append(self._lost[worker])
            return
        self._outcome.n_lost += 1
        del self._up[worker]
        self._schedule.leave(worker)
        busy = self._busy.get(worker)
        if busy is None:
            return
        opened = self._cells[busy.cell]
        group = self._groups[opened.group]
        blamed = group if busy.loading else opened
        blamed.worker_deaths += 1
        self._end_job(worker)
        if blamed.worker_deaths < WORKER_DEATHS:
            self._seal_if_complete(busy.cell)
            return
        name = f"{opened.cell.checkpoint.fingerprint[:12]}-{busy.job.cell.task}.log"
        self._write_logs({name: died.log})
        text = f"worker: {WORKER_DEATHS} in a row died of it; the last one {died.text}"
        text += f"; what it said is in logs/{name}" if died.log.strip() else ""
        if busy.loading:
            self._fail(group.label, text, group.cells)
        else:
            self._fail(f"{group.label}, {busy.job.cell.task}", text, [busy.cell])

    def _retire(self, worker: int, text: str) -> None:
        """A worker that cannot work on this study, on its machine."""
        self._lost[worker] = text
        self._outcome.notices.append(text)
        self._watch.worker(worker, "")
        if worker in self._busy:
            self._end_job(worker)
        if self._up.pop(worker, None) is not None:
            self._schedule.leave(worker)
        self._coming.discard(worker)
        self._executor.discard(worker)

    def _give_up(self) -> None:
        """No worker is left and none can come; says so, and why."""
        reasons = list(self._lost.values())
        if not self._outcome.n_answered and not self._outcome.failures:
            raise UserError("workers", [Problem("", reason) for reason in reasons])
        left = sum(not opened.over for opened in self._cells)
        self._outcome.failures.append(
            Failure("workers", f"workers: none is left for {left} cells; {'; '.join(reasons)}")
        )

    # --- Cells -------------------------------------------------------------------------------

    def _n_done(self, opened: _OpenCell) -> int:
        """How many answers an earlier run left. Cells that nobody began are not looked into."""
        cell = opened.cell
        sealed = self._store.cell_file(cell.task, cell.id)
        if not sealed.is_file() and not sealed.with_suffix(".jsonl").is_file():
            return 0
        opened.journal = self._store.journal(cell.task, cell.signature)
        return len(opened.journal.done)

    def _open(self, number: int) -> list[Request]:
        """The requests of the cell's task; from now on it is known which of them it owes."""
        opened = self._cells[number]
        asked = self._prepared.of(opened.cell.task)
        if not opened.order:
            if opened.journal is None:
                opened.journal = self._store.journal(opened.cell.task, opened.cell.signature)
            done = opened.journal.done
            opened.order = [request.sample_id for request in asked]
            opened.unasked = [name for name in opened.order if name not in done]
            # A journal may hold answers to questions that the task does not have.
            odd = len(opened.unasked) - max(0, opened.cell.n - len(done))
            self._schedule.give_back(number, max(0, odd))
            known = [done[name] for name in opened.order if name in done]
            if known:
                self._watch.answered(len(known), sum(p.status != "ok" for p in known))
        return asked

    def _seal_answered(self) -> None:
        """Seals what an earlier run answered to the end: no engine is needed for that."""
        for number, opened in enumerate(self._cells):
            if opened.journal and len(opened.journal.done) >= opened.cell.n:
                try:
                    self._open(number)
                except DataError as error:
                    self._fail_task(opened.cell.task, str(error))
                    continue
                self._seal_if_complete(number)

    def _seal_if_complete(self, number: int) -> None:
        opened = self._cells[number]
        journal = opened.journal
        if opened.over or opened.n_flying or opened.unasked or journal is None:
            return
        journal.seal(opened.order)
        opened.over, opened.journal = True, None
        self._outcome.n_sealed += 1
        self._watch.sealed(self._groups[opened.group].label, opened.cell.task)

    def _unanswered(self, worker: int) -> list[str]:
        busy = self._busy[worker]
        journal = self._cells[busy.cell].journal
        done = journal.done if journal else {}
        return [name for name in busy.job.sample_ids if name not in done]

    def _end_job(self, worker: int) -> None:
        """The worker is free; what its job did not answer is owed again."""
        left = self._unanswered(worker)
        busy = self._busy.pop(worker)
        opened = self._cells[busy.cell]
        opened.n_flying -= 1
        if left and not opened.over:
            owed = {*left, *opened.unasked}
            opened.unasked = [name for name in opened.order if name in owed]
            self._schedule.give_back(busy.cell, len(left))
        if opened.journal and not opened.n_flying:
            opened.journal.close()

    def _fail(self, what: str, why: str, cells: Sequence[int]) -> None:
        """Gives cells up; what was answered of them stays for another run."""
        cells = [number for number in cells if not self._cells[number].over]
        for number in cells:
            self._cells[number].over = True
            self._cells[number].unasked = []
        if cells:
            self._schedule.drop(cells)
            self._outcome.failures.append(Failure(what, why))

    def _fail_task(self, task: str, why: str) -> None:
        self._fail(task, why, [n for n, o in enumerate(self._cells) if o.cell.task == task])

    def _witness(self, task: str) -> str:
        """Hash of the first picture of the task that can be read here; "" if there is none."""
        if task not in self._witnesses:
            self._witnesses[task] = ""
            for request in self._prepared.of(task):
                for image in request.images[:1]:
                    with contextlib.suppress(SampleError):
                        self._witnesses[task] = image.sha256
                if self._witnesses[task]:
                    break
        return self._witnesses[task]

    def _learn(self) -> None:
        """Better expectations from what was measured so far."""
        spent = self._outcome.task_seconds
        rates = {task: seconds / n for task, (n, seconds) in spent.items() if n}
        costs = self._schedule.costs
        swaps = self._outcome.swap_seconds
        rates = {**costs.rates, **rates}
        self._schedule.learn(
            replace(
                costs,
                start=self._outcome.start_seconds or costs.start,
                swap=fmean(swaps) if swaps else costs.swap,
                rates=rates,
                usual=fmean(rates.values()) if rates else costs.usual,
            )
        )

    def _write_logs(self, logs: Mapping[str, str]) -> None:
        for name, text in logs.items():
            # On a full disk the message alone must do.
            with contextlib.suppress(OSError):
                folder = self._store.folder / "logs"
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")

    # --- Stopping ----------------------------------------------------------------------------

    def _gather(self) -> None:
        """After Ctrl-C: what workers still hand over is kept."""
        with contextlib.suppress(ResultsError):
            for event in self._executor.stop(STOP_SECONDS):
                if isinstance(event.said, Answers):
                    self._keep(event.worker, event.said.predictions)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the sweep between two events, so that no answer in between is
        lost; a second one ends it at once."""

        def stop(number: int, frame: FrameType | None) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = {}
        with contextlib.suppress(ValueError):  # not the main thread: signals are not ours
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _architecture(checkpoint: Checkpoint) -> str:
    """What one engine can serve; checkpoints that cannot be read are a kind of their own."""
    try:
        return architecture(Path(checkpoint.path))
    except CheckpointError:
        return "unreadable"
