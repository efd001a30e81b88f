"""The driver: a sweep by several workers, which come, answer and die.

It starts workers, gives them what the schedule grants, and hears what they say; the ledger knows
what is owed and writes. An answer that arrived is in its journal before anything else happens, so
it is never asked for again; what a dead worker still had is owed again. A cell that workers die of
again and again becomes a `Failure`, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from harness.errors import DataError, Problem, ResultsError, UserError
from harness.executors.ledger import Ledger
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
from harness.plan import Failure, Plan
from harness.run import Outcome, Watch
from harness.schedule import SHARD_REQUESTS, Costs
from harness.storage.store import Store
from harness.types import Profile

# How long the writer waits for an event before it looks around (for Ctrl-C, above all).
WAIT_SECONDS = 0.5
# How long workers may take to hand over what they have when a sweep is stopped.
STOP_SECONDS = 5.0
# An engine that raised is made once more, as in a sweep on one engine. A worker's death may be
# nobody's fault (a spot machine): so many in a row, without an answer in between, are the cell's.
ENGINE_DEATHS = 2
WORKER_DEATHS = 3


@dataclass(slots=True)
class _Busy:
    """What a worker is doing."""

    job: Job
    cell: int
    loading: bool


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
        self._executor = executor
        self._watch = watch
        self._ledger = Ledger(plan, store, profile, watch, costs, executor.most)
        self._schedule = self._ledger.schedule
        self._outcome = self._ledger.outcome
        self._coming: set[int] = set()
        """Workers that were started and are not up."""
        self._up: dict[int, str] = {}
        """Worker -> its machine."""
        self._busy: dict[int, _Busy] = {}
        self._lost: dict[int, str] = {}
        """Workers that are of no use, and why."""
        self._stillborn = 0
        """Workers that died before they were up, since the last one that was."""
        self._stop = False

    def run(self) -> Outcome:
        """Answers every owed cell. Predictions that arrived are in the store however this ends.

        Raises ResultsError, and UserError when no worker can work on the study at all.
        """
        began = time.monotonic()
        with self._stoppable():
            try:
                self._ledger.begin()
                while not self._stop and self._work_is_left():
                    self._employ()
                    self._hand_out()
                    for event in self._executor.events(WAIT_SECONDS):
                        self._handle(event)
                if self._stop:
                    self._outcome.interrupted = True
                    self._gather()
            except KeyboardInterrupt:  # a second Ctrl-C, or one where signals are not ours
                self._outcome.interrupted = True
            finally:
                self._executor.close()
                self._ledger.close()
        self._outcome.seconds = time.monotonic() - began
        return self._outcome

    def _work_is_left(self) -> bool:
        """Whether anything is in flight, or owed and there is somebody to do it."""
        if self._busy:
            return True
        if not self._ledger.n_left:
            return False
        can_start = self._may_start() and len(self._lost) < self._executor.most
        if self._up or self._coming or can_start:
            return True
        self._give_up()
        return False

    def _may_start(self) -> bool:
        return self._stillborn < WORKER_DEATHS

    def _employ(self) -> None:
        """Starts workers while there is more to do than workers to do it."""
        waiting = -(-self._schedule.n_left // SHARD_REQUESTS)
        wanted = min(self._executor.most - len(self._lost), len(self._busy) + waiting)
        for worker in range(self._executor.most):
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
            task = self._ledger.task(grant.cell)
            try:
                job, asked = self._ledger.take(grant)
            except DataError as error:
                self._ledger.fail_task(task, str(error))
                continue
            try:
                self._executor.send(grant.worker, job, asked)
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                why = f"{task}: its requests cannot be sent to a worker: {error}"
                self._ledger.fail_task(task, why)
                self._ledger.end(grant.cell, job)
                continue
            self._busy[grant.worker] = _Busy(job, grant.cell, grant.loads)
            label = self._ledger.group(grant.cell).label
            doing = f"{label}: loading" if grant.loads else f"{label}: {task}"
            self._watch.worker(grant.worker, doing)

    def _handle(self, event: Event) -> None:
        worker, busy = event.worker, self._busy.get(event.worker)
        match event.said:
            case Up(node=node):
                self._coming.discard(worker)
                self._stillborn = 0
                self._up[worker] = node
                self._schedule.join(worker)
                self._watch.worker(worker, "ready")
            case Loaded() as loaded if busy:
                busy.loading = False
                self._ledger.loaded(busy.cell, loaded)
                label = self._ledger.group(busy.cell).label
                self._watch.worker(worker, f"{label}: {busy.job.cell.task}")
            case Answers(predictions=predictions) if busy:
                busy.loading = False
                self._ledger.keep(busy.cell, busy.job, predictions)
            case Finished(seconds=seconds) if busy:
                self._ledger.answered(busy.job, seconds)
                self._end_job(worker)
            case Failed() as failed if busy:
                self._failed(worker, busy, failed)
            case Unfit(text=text):
                self._retire(worker, f"worker {worker} on {self._up.get(worker, '?')}: {text}")
            case Died() as died:
                self._died(worker, died)

    def _end_job(self, worker: int) -> None:
        """The worker is free for another job."""
        if busy := self._busy.pop(worker, None):
            self._ledger.end(busy.cell, busy.job)

    def _failed(self, worker: int, busy: _Busy, failed: Failed) -> None:
        """An engine that raised, or weights or data that cannot be used."""
        self._ledger.write_logs(failed.logs)
        if failed.why == "engine":
            self._schedule.forget_weights(worker)
            blame = self._ledger.blame(busy.cell, loading=failed.loading)
            blame.engines += 1
            if blame.engines < ENGINE_DEATHS:
                self._outcome.n_restarts += 1
            else:
                self._ledger.fail_job(busy.cell, failed.text, loading=failed.loading)
        elif failed.why == "task":
            self._ledger.fail_task(busy.job.cell.task, failed.text)
        else:
            if failed.loading:  # nothing of this checkpoint is in the worker's engine
                self._schedule.forget_checkpoint(worker)
            self._ledger.fail_job(busy.cell, failed.text, loading=failed.loading)
        self._end_job(worker)

    def _died(self, worker: int, died: Died) -> None:
        """The process is gone. What it answered before is here: events come in order."""
        self._watch.worker(worker, "")
        if worker in self._coming:
            self._coming.discard(worker)
            self._stillborn += 1
            if not self._may_start():
                self._ledger.write_logs({f"worker-{worker}.log": died.log} if died.log else {})
                self._lost[worker] = f"worker {worker} did not come up: it {died.text}"
                self._outcome.notices.append(self._lost[worker])
            return
        self._outcome.n_lost += 1
        del self._up[worker]
        self._schedule.leave(worker)
        if busy := self._busy.get(worker):
            blame = self._ledger.blame(busy.cell, loading=busy.loading)
            blame.workers += 1
            if blame.workers >= WORKER_DEATHS:
                self._ledger.fail_job(busy.cell, self._cause(busy, died), loading=busy.loading)
            self._end_job(worker)

    def _cause(self, busy: _Busy, died: Died) -> str:
        """Why a cell is given up, with what the last worker wrote in a file."""
        text = f"worker: {WORKER_DEATHS} in a row died of it; the last one {died.text}"
        if not died.log.strip():
            return text
        name = f"{busy.job.cell.checkpoint.fingerprint[:12]}-{busy.job.cell.task}.log"
        self._ledger.write_logs({name: died.log})
        return f"{text}; what it said is in logs/{name}"

    def _retire(self, worker: int, text: str) -> None:
        """A worker that cannot work on this study, on its machine."""
        self._lost[worker] = text
        self._outcome.notices.append(text)
        self._watch.worker(worker, "")
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
        why = f"workers: none is left for {self._ledger.n_left} cells; {'; '.join(reasons)}"
        self._outcome.failures.append(Failure("workers", why))

    def _gather(self) -> None:
        """After Ctrl-C: what workers still hand over is kept."""
        with contextlib.suppress(ResultsError):
            for event in self._executor.stop(STOP_SECONDS):
                busy = self._busy.get(event.worker)
                if busy and isinstance(event.said, Answers):
                    self._ledger.keep(busy.cell, busy.job, event.said.predictions)

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
