"""The schedule: which worker answers which requests next. Pure decisions; no process, no clock.

A load (reading a checkpoint's weights into an engine) is what workers can waste, so a worker stays
with the checkpoint it holds for as long as that owes anything. Then it takes a checkpoint that
nobody holds, in the plan's order. Only when there is none left does it join others at a checkpoint
and share what is still to be handed out there: where most is left per worker, if that is worth a
load, and never beyond `LOADS_ALLOWED`. At the tail large cells are handed out in shards.

The executors and the forecast run this same code. Times are seconds, and only ever expectations:
wrong ones cost time, never an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

# All loads together stay below so many times the least possible (each checkpoint and each worker
# once), unless workers die.
LOADS_ALLOWED = 1.5
# A worker joins others at a checkpoint if these have so many times the load's cost before them:
# at 1 it would arrive when they are done, at 2 a pair gains a quarter.
PATIENCE = 2.0
# No smaller shard is made: below, the batches of an engine are no longer full ...
SHARD_REQUESTS = 64
# ... and below that many seconds a shorter tail is not worth another cut.
SHARD_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What work takes on one worker. The defaults are guesses for a study nobody has measured."""

    start: float = 60.0
    """Making an engine and loading its first checkpoint."""
    swap: float = 10.0
    """Loading another checkpoint of the same architecture into a live engine."""
    usual: float = 1.0
    """A request of a task that was not measured."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """task -> seconds per request."""
    shard: float = SHARD_SECONDS
    """The shortest shard."""

    def request(self, task: str) -> float:
        """Seconds of one request of `task`."""
        return self.rates.get(task, self.usual)


@dataclass(frozen=True, slots=True)
class Owed:
    """A cell that owes `n` requests."""

    cell: int
    """Its number in the plan."""
    checkpoint: str
    """What is loaded for it; a base that is scored again counts as another checkpoint."""
    architecture: str
    """Checkpoints of one architecture can follow each other in one engine."""
    task: str
    n: int


@dataclass(frozen=True, slots=True)
class Grant:
    """So many requests of a cell, for one worker."""

    worker: int
    cell: int
    n: int
    loads: bool
    """The worker has to load the cell's checkpoint first ..."""
    starts: bool
    """... on a new engine."""


@dataclass(slots=True)
class _Checkpoint:
    """A checkpoint's cells that are not handed out yet, and the workers that hold it."""

    name: str
    architecture: str
    pool: dict[int, int] = field(default_factory=dict)
    """cell -> requests not handed out."""
    at: set[int] = field(default_factory=set)
    seconds: float = 0.0
    """What the pool takes on one worker."""


@dataclass(slots=True)
class _Worker:
    """What a worker holds; "" = no engine yet, or nothing loaded."""

    architecture: str = ""
    checkpoint: str = ""


class Schedule:
    """Hands out what is owed, one grant at a time; workers come and go as they like."""

    def __init__(self, owed: Sequence[Owed], costs: Costs, n_workers: int):
        self.costs = costs
        self.n_loads = 0
        """Loads granted so far."""
        self._n_workers = n_workers
        self._tasks = {item.cell: item.task for item in owed}
        self._homes = {item.cell: item.checkpoint for item in owed}
        self._checkpoints: dict[str, _Checkpoint] = {}
        self._workers: dict[int, _Worker] = {}
        for item in owed:
            known = _Checkpoint(item.checkpoint, item.architecture)
            checkpoint = self._checkpoints.setdefault(item.checkpoint, known)
            if item.n:
                checkpoint.pool[item.cell] = item.n
        self.allowed = math.floor(LOADS_ALLOWED * max(len(self._checkpoints), n_workers))
        """The most loads while no worker dies."""
        self._weigh()

    @property
    def n_left(self) -> int:
        """Requests that are not handed out."""
        return sum(n for checkpoint in self._checkpoints.values() for n in checkpoint.pool.values())

    def join(self, worker: int) -> None:
        """A worker is up; it has no engine yet."""
        self._workers[worker] = _Worker()

    def leave(self, worker: int) -> None:
        """A worker is gone. What it was granted is owed again only when it is given back."""
        gone = self._workers.pop(worker)
        if gone.checkpoint:
            self._checkpoints[gone.checkpoint].at.discard(worker)

    def forget_weights(self, worker: int) -> None:
        """The worker's engine died under it: whatever comes next is a start."""
        self._leave_checkpoint(worker)
        self._workers[worker] = _Worker()

    def forget_checkpoint(self, worker: int) -> None:
        """The worker's engine lives, but holds no checkpoint: the one it was given is broken."""
        self._leave_checkpoint(worker)
        self._workers[worker].checkpoint = ""

    def give_back(self, cell: int, n: int) -> None:
        """Requests that were granted and not answered are owed again."""
        if n:
            checkpoint = self._checkpoints[self._homes[cell]]
            checkpoint.pool[cell] = checkpoint.pool.get(cell, 0) + n
            checkpoint.seconds += n * self.costs.request(self._tasks[cell])

    def drop(self, cells: Iterable[int]) -> None:
        """Cells that cannot be scored are not handed out any more."""
        for cell in cells:
            self._checkpoints[self._homes[cell]].pool.pop(cell, None)
        self._weigh()

    def learn(self, costs: Costs) -> None:
        """Better expectations, for all decisions to come."""
        self.costs = costs
        self._weigh()

    def hand_out(self, idle: Iterable[int]) -> Iterator[Grant]:
        """Grants for those of the idle workers that should work now."""
        refused: set[str] = set()
        for worker in idle:
            # Where one worker of a kind should rather wait, so should the next: they differ in
            # the checkpoint they hold only, and one that still owes anything comes first.
            known = self._workers[worker]
            own = known.checkpoint and self._checkpoints[known.checkpoint].pool
            if not own and known.architecture in refused:
                continue
            grant = self.next(worker)
            if grant is None:
                refused.add(known.architecture)
            else:
                yield grant

    def next(self, worker: int) -> Grant | None:
        """What this idle worker does next; None: nothing that is worth its while now."""
        known = self._workers[worker]
        held = self._checkpoints.get(known.checkpoint)
        chosen = held if held and held.pool else self._another(known)
        if chosen is None:
            return None
        loads = chosen is not held
        starts = loads and chosen.architecture != known.architecture
        if loads:
            self._leave_checkpoint(worker)
            self._workers[worker] = _Worker(chosen.architecture, chosen.name)
            chosen.at.add(worker)
            self.n_loads += 1
        cell, n = self._portion(chosen)
        return Grant(worker, cell, n, loads, starts)

    def _another(self, worker: _Worker) -> _Checkpoint | None:
        """The checkpoint to go to: one that nobody holds, else the one that gains most by help."""
        owing = [c for c in self._checkpoints.values() if c.pool]
        free = [c for c in owing if not c.at]
        kin = [c for c in free if c.architecture == worker.architecture]
        if kin:
            return kin[0]
        if free and (foreign := self._foreign(worker, free)):
            return foreign
        if self.n_loads + len(free) >= self.allowed:
            return None
        joined = max((c for c in owing if c.at), key=self._gain(worker), default=None)
        return joined if joined and self._gain(worker)(joined) > PATIENCE else None

    def _foreign(self, worker: _Worker, free: Sequence[_Checkpoint]) -> _Checkpoint | None:
        """A free checkpoint that costs an engine start, of the architecture with most to do."""
        pending: dict[str, float] = {}
        for checkpoint in free:
            name = checkpoint.architecture
            pending[name] = pending.get(name, 0.0) + checkpoint.seconds
        hands = {
            name: sum(w.architecture == name for w in self._workers.values()) for name in pending
        }
        name = max(pending, key=lambda name: pending[name] / (hands[name] + 1))
        # A worker without an engine has to start one anyway. One that has one leaves the work to
        # those who hold that architecture, unless they are far from done.
        far = pending[name] > PATIENCE * self.costs.start * hands[name]
        if worker.architecture and hands[name] and not far:
            return None
        return next(c for c in free if c.architecture == name)

    def _gain(self, worker: _Worker) -> Callable[[_Checkpoint], float]:
        """checkpoint -> what is left there for each of its workers, in loads of this one."""

        def loads_left(checkpoint: _Checkpoint) -> float:
            same = checkpoint.architecture == worker.architecture
            cost = self.costs.swap if same else self.costs.start
            left = checkpoint.seconds / len(checkpoint.at)
            return left / cost if cost else math.inf

        return loads_left

    def _portion(self, checkpoint: _Checkpoint) -> tuple[int, int]:
        """The longest cell of the checkpoint, or a shard of it where that is too long a tail."""

        def length(cell: int) -> float:
            return checkpoint.pool[cell] * self.costs.request(self._tasks[cell])

        cell = max(checkpoint.pool, key=length)
        n, rate = checkpoint.pool[cell], self.costs.request(self._tasks[cell])
        # What each worker would do if all that is left were dealt evenly: a longer piece would be
        # waited for.
        left = sum(c.seconds for c in self._checkpoints.values())
        fair = max(left / self._n_workers, self.costs.shard)
        if n * rate > fair:
            n = min(n, max(math.ceil(fair / rate), SHARD_REQUESTS))
        if checkpoint.pool[cell] - n < SHARD_REQUESTS:
            n = checkpoint.pool[cell]
        checkpoint.pool[cell] -= n
        if not checkpoint.pool[cell]:
            del checkpoint.pool[cell]
        checkpoint.seconds = max(0.0, checkpoint.seconds - n * rate) if checkpoint.pool else 0.0
        return cell, n

    def _leave_checkpoint(self, worker: int) -> None:
        held = self._workers[worker].checkpoint
        if held:
            self._checkpoints[held].at.discard(worker)

    def _weigh(self) -> None:
        for checkpoint in self._checkpoints.values():
            checkpoint.seconds = sum(
                n * self.costs.request(self._tasks[cell]) for cell, n in checkpoint.pool.items()
            )
