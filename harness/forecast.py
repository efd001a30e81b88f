"""A forecast: the schedule played through on a clock of its own, before anything is started.

What `score --dry-run --workers N` prints and `benchmarks/scale.py` tabulates. Seconds throughout.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.schedule import Costs, Grant, Owed, Schedule


@dataclass(frozen=True, slots=True)
class Forecast:
    """How a sweep by `n_workers` would go."""

    n_workers: int
    seconds: float
    """Wall time."""
    bound: float
    """No schedule whatever takes less: everyone starts, all work is shared evenly, each
    checkpoint is loaded once."""
    n_loads: int
    """How often a checkpoint is loaded, engine starts included."""
    fewest_loads: int
    """Every checkpoint once, and every worker that works once."""
    n_starts: int
    """Engines started."""
    idle_share: float
    """The part of all workers' time in which they have nothing to do, in [0, 1]."""


def forecast(
    owed: Sequence[Owed],
    costs: Costs,
    n_workers: int,
    actual: Callable[[Grant], float] | None = None,
) -> Forecast:
    """Plays the schedule. `actual`: seconds that the requests of a grant really take, where
    they shall differ from what `costs` expects."""
    schedule = Schedule(owed, costs, n_workers)
    rates = {item.cell: costs.request(item.task) for item in owed}
    spent = actual or (lambda grant: grant.n * rates[grant.cell])
    for worker in range(n_workers):
        schedule.join(worker)
    now = busy = 0.0
    starts: Counter[int] = Counter()
    running: list[tuple[float, int]] = []
    idle = list(range(n_workers))
    while True:
        for grant in schedule.hand_out(idle):
            load = (costs.start if grant.starts else costs.swap) if grant.loads else 0.0
            took = load + spent(grant)
            busy += took
            starts[grant.worker] += grant.starts
            heapq.heappush(running, (now + took, grant.worker))
        working = {worker for _, worker in running}
        idle = [worker for worker in range(n_workers) if worker not in working]
        if not running:
            break
        now, worker = heapq.heappop(running)
        idle.append(worker)
    work = sum(spent(Grant(0, item.cell, item.n, False, False)) for item in owed)
    return Forecast(
        n_workers,
        now,
        _bound(owed, costs, n_workers, work),
        schedule.n_loads,
        max(len({item.checkpoint for item in owed}), len(starts)),
        starts.total(),
        max(0.0, 1 - busy / (n_workers * now)) if now else 0.0,
    )


def _bound(owed: Sequence[Owed], costs: Costs, n_workers: int, work: float) -> float:
    """Nobody answers before an engine is up; after that, at best, all share all work evenly, and
    every checkpoint beyond the workers' first ones is one more swap."""
    if not owed:
        return 0.0
    checkpoints = len({item.checkpoint for item in owed})
    swaps = max(0, checkpoints - n_workers) * min(costs.swap, costs.start)
    return costs.start + (work + swaps) / n_workers
