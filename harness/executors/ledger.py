"""The ledger: what a sweep by several workers owes, what arrived of it, and what failed.

The only part of the executors that writes: answers to journals as they arrive, cells when they are
complete, what engines raised to `logs/`. It keeps the schedule in step with what is really owed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from harness.checkpoints import architecture
from harness.errors import CheckpointError, DataError, SampleError
from harness.executors.messages import Job, Loaded
from harness.plan import Cell, Failure, Plan
from harness.run import Outcome, Requests, Watch, stage_label
from harness.schedule import Costs, Grant, Owed, Schedule
from harness.storage.store import Journal, Store
from harness.types import Checkpoint, Prediction, Profile, Request


@dataclass(slots=True)
class Blame:
    """What died of a cell, or of loading a checkpoint."""

    engines: int = 0
    """Engines that raised."""
    workers: int = 0
    """Workers that died in a row, without an answer in between."""


@dataclass(slots=True)
class OpenCell:
    """An owed cell and how far it is."""

    cell: Cell
    group: int
    """Its checkpoint's number in the sweep."""
    journal: Journal | None = None
    order: list[str] = field(default_factory=list)
    """All sample ids of the task; empty until the cell is opened."""
    unasked: list[str] = field(default_factory=list)
    n_flying: int = 0
    """Jobs that work on it."""
    over: bool = False
    """Sealed, or given up."""
    blame: Blame = field(default_factory=Blame)


@dataclass(slots=True)
class Group:
    """A checkpoint of the sweep with the cells it owes."""

    label: str
    cells: list[int]
    blame: Blame = field(default_factory=Blame)


def owed_cells(plan: Plan, done: Mapping[str, int] | None = None) -> list[Owed]:
    """The plan's owed cells as the schedule sees them, numbered in sweep order.

    `done`: cell id -> requests that are answered already.
    """
    found: list[Owed] = []
    for number, (checkpoint, cells) in enumerate(plan.owed()):
        kind = _architecture(checkpoint)
        for cell in cells:
            n = max(0, cell.n - (done or {}).get(cell.id, 0))
            found.append(Owed(len(found), str(number), kind, cell.pace, n))
    return found


class Ledger:
    """The cells of one sweep. Cells and groups are called by their numbers in sweep order."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        profile: Profile,
        watch: Watch,
        costs: Costs,
        n_workers: int,
    ):
        self.outcome = Outcome()
        self._store = store
        self._watch = watch
        self._prepared = Requests(plan, store, profile)
        self._groups: list[Group] = []
        self._cells: list[OpenCell] = []
        for number, (checkpoint, cells) in enumerate(plan.owed()):
            first = len(self._cells)
            self._cells += [OpenCell(cell, number) for cell in cells]
            label = stage_label(plan, checkpoint.fingerprint)
            self._groups.append(Group(label, list(range(first, len(self._cells)))))
        done = {opened.cell.id: self._n_done(opened) for opened in self._cells}
        self.schedule = Schedule(owed_cells(plan, done), costs, n_workers)
        self._jobs = 0
        self._witnesses: dict[str, str] = {}
        self._starts: list[float] = []

    @property
    def n_left(self) -> int:
        """Cells that are neither sealed nor given up."""
        return sum(not opened.over for opened in self._cells)

    def begin(self) -> None:
        """Says how much there is, and seals what an earlier run answered to the end: no engine is
        needed for that."""
        self._watch.begin(sum(opened.cell.n for opened in self._cells), len(self._cells))
        for number, opened in enumerate(self._cells):
            if opened.journal and len(opened.journal.done) >= opened.cell.n:
                try:
                    self._open(number)
                except DataError as error:
                    self.fail_task(opened.cell.task, str(error))
                else:
                    self._seal_if_complete(number)

    def close(self) -> None:
        """Closes what is open; everything that was kept stays."""
        for opened in self._cells:
            if opened.journal:
                opened.journal.close()

    def task(self, cell: int) -> str:
        """The task of a cell."""
        return self._cells[cell].cell.task

    def group(self, cell: int) -> Group:
        """The checkpoint of a cell."""
        return self._groups[self._cells[cell].group]

    def blame(self, cell: int, *, loading: bool) -> Blame:
        """Whose fault it is when something dies: the checkpoint's while it is being loaded."""
        return self.group(cell).blame if loading else self._cells[cell].blame

    def take(self, grant: Grant) -> tuple[Job, list[Request]]:
        """What was granted, as a job, and all requests of its task. Raises DataError."""
        opened = self._cells[grant.cell]
        asked = self._open(grant.cell)
        taken, opened.unasked = opened.unasked[: grant.n], opened.unasked[grant.n :]
        opened.n_flying += 1
        self._jobs += 1
        witness = self._witness(opened.cell.asks, asked)
        return Job(self._jobs, opened.cell, tuple(taken), witness), asked

    def keep(self, cell: int, job: Job, predictions: Sequence[Prediction]) -> None:
        """Writes what arrived; an answer that this job did not ask for is not believed."""
        opened = self._cells[cell]
        assert opened.journal is not None
        asked = set(job.sample_ids) - opened.journal.done.keys()
        fresh = {p.sample_id: p for p in predictions if p.sample_id in asked}
        if not fresh:
            return
        opened.journal.append(list(fresh.values()))
        opened.blame.workers = 0
        failed = sum(p.status != "ok" for p in fresh.values())
        self.outcome.n_answered += len(fresh)
        self.outcome.n_failed += failed
        self._watch.answered(len(fresh), failed)

    def end(self, cell: int, job: Job) -> None:
        """Nothing more comes of a job: what it did not answer is owed again, or the cell is
        complete."""
        opened = self._cells[cell]
        done = opened.journal.done if opened.journal else {}
        left = {name for name in job.sample_ids if name not in done}
        opened.n_flying -= 1
        if left and not opened.over:
            owed = left.union(opened.unasked)
            opened.unasked = [name for name in opened.order if name in owed]
            self.schedule.give_back(cell, len(left))
        if opened.journal and not opened.n_flying:
            opened.journal.close()
        self._seal_if_complete(cell)

    def fail(self, what: str, why: str, cells: Sequence[int]) -> None:
        """Gives cells up; what was answered of them stays for another run."""
        given_up = [number for number in cells if not self._cells[number].over]
        for number in given_up:
            self._cells[number].over = True
            self._cells[number].unasked = []
        if given_up:
            self.schedule.drop(given_up)
            self.outcome.failures.append(Failure(what, why))

    def fail_job(self, cell: int, why: str, *, loading: bool) -> None:
        """The cell that was being answered, or the checkpoint that was being loaded."""
        group = self.group(cell)
        if loading:
            self.fail(group.label, why, group.cells)
        else:
            self.fail(f"{group.label}, {self._cells[cell].cell.task}", why, [cell])

    def fail_task(self, task: str, why: str) -> None:
        """A task whose data cannot be used, for all checkpoints."""
        self.fail(task, why, [n for n, o in enumerate(self._cells) if o.cell.task == task])

    def loaded(self, cell: int, loaded: Loaded) -> None:
        """Learns what a load takes."""
        self.group(cell).blame.workers = 0
        if loaded.started:
            self._starts.append(loaded.seconds)
            self.outcome.start_seconds = fmean(self._starts)
        else:
            self.outcome.swap_seconds.append(loaded.seconds)
        self._learn()

    def answered(self, job: Job, seconds: float) -> None:
        """Learns what the requests of a task take."""
        spent = self.outcome.task_seconds.setdefault(job.cell.pace, [0.0, 0.0])
        spent[0] += len(job.sample_ids)
        spent[1] += seconds
        self._learn()

    def write_logs(self, logs: Mapping[str, str]) -> None:
        """Keeps what engines and workers raised."""
        for name, text in logs.items():
            # On a full disk the message alone must do.
            with contextlib.suppress(OSError):
                folder = self._store.folder / "logs"
                folder.mkdir(parents=True, exist_ok=True)
                file = folder / Path(name).name
                file.write_text(text, encoding="utf-8", errors="backslashreplace")

    def _n_done(self, opened: OpenCell) -> int:
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
        asked = self._prepared.of(opened.cell)
        if opened.order:
            return asked
        if opened.journal is None:
            opened.journal = self._store.journal(opened.cell.task, opened.cell.signature)
        done = opened.journal.done
        opened.order = [request.sample_id for request in asked]
        opened.unasked = [name for name in opened.order if name not in done]
        # A journal may hold answers to questions that the task does not have.
        odd = len(opened.unasked) - max(0, opened.cell.n - len(done))
        self.schedule.give_back(number, max(0, odd))
        known = [done[name] for name in opened.order if name in done]
        if known:
            self._watch.answered(len(known), sum(p.status != "ok" for p in known))
        return asked

    def _seal_if_complete(self, number: int) -> None:
        opened = self._cells[number]
        journal = opened.journal
        if opened.over or opened.n_flying or opened.unasked or journal is None:
            return
        label = self.group(number).label
        self.outcome.sealed(f"{label}, {opened.cell.task}", journal.seal(opened.order))
        opened.over, opened.journal = True, None
        self._watch.sealed(label, opened.cell.task)

    def _witness(self, asks: str, asked: Sequence[Request]) -> str:
        """Hash of the first picture asked about that can be read here; "" if there is none."""
        if asks not in self._witnesses:
            self._witnesses[asks] = ""
            for image in (image for request in asked for image in request.images[:1]):
                with contextlib.suppress(SampleError):
                    self._witnesses[asks] = image.sha256
                    break
        return self._witnesses[asks]

    def _learn(self) -> None:
        """Better expectations from what was measured so far."""
        measured, costs = self.outcome, self.schedule.costs
        spent = {task: seconds / n for task, (n, seconds) in measured.task_seconds.items() if n}
        rates = {**costs.rates, **spent}
        swaps = measured.swap_seconds
        self.schedule.learn(
            replace(
                costs,
                start=measured.start_seconds or costs.start,
                swap=fmean(swaps) if swaps else costs.swap,
                rates=rates,
                usual=fmean(rates.values()) if rates else costs.usual,
            )
        )


def _architecture(checkpoint: Checkpoint) -> str:
    """What one engine can serve; checkpoints that cannot be read are a kind of their own."""
    try:
        return architecture(Path(checkpoint.path))
    except CheckpointError:
        return "unreadable"
