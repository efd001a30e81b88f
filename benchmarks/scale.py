"""How far a sweep scales: the real schedule, played through for 1 to 1,024 workers.

A study of 200 checkpoints of one architecture on 22 built-in benchmarks at their published sizes,
10,000 questions at most. Rates are assumptions (below), so wall times are examples; the ratios (to
the lower bound, to the fewest loads) and where scaling ends are what this shows. With `--noise`
each cell takes another time than the schedule expects.

    python benchmarks/scale.py --json scale.json
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness import registry
from harness.forecast import Forecast, forecast
from harness.schedule import Costs, Grant, Owed

CHECKPOINTS = 200
WORKERS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
# Assumed for a model of 7 billion parameters on one GPU: an engine start, a swap of weights from a
# shared disk, and requests per second (a document costs more than a multiple choice question).
START_SECONDS, SWAP_SECONDS = 90.0, 12.0
FASTEST, SLOWEST = 40.0, 8.0
# Benchmarks whose size their authors do not state; and the most questions of one (`suite.limit`).
USUAL_SIZE, LIMIT = 3000, 10_000
# The micro study's skills, and two further sources of the same clock question.
LEFT_OUT = ("micro_", "cococlock", "openimgclock")


def benchmarks() -> dict[str, int]:
    """Built-in benchmark -> its questions."""
    tasks = [registry.task(name) for name in registry.names() if not name.startswith(LEFT_OUT)]
    return {task.name: min(task.n or USUAL_SIZE, LIMIT) for task in tasks}


def study(sizes: dict[str, int], checkpoints: int = CHECKPOINTS) -> tuple[list[Owed], Costs]:
    """All cells of the study, and what they are expected to take."""
    owed = [
        Owed(k * len(sizes) + j, f"checkpoint {k}", "one", task, n)
        for k in range(checkpoints)
        for j, (task, n) in enumerate(sizes.items())
    ]
    rng = random.Random(0)
    rates = {task: 1 / rng.uniform(SLOWEST, FASTEST) for task in sizes}
    return owed, Costs(START_SECONDS, SWAP_SECONDS, rates=rates)


def play(workers: Iterable[int], noise: float = 0.0) -> list[Forecast]:
    """The forecast for each number of workers. `noise`: standard deviation of the logarithm of
    what a cell takes beyond expectation."""
    owed, costs = study(benchmarks())
    rng = random.Random(1)
    factors = [rng.lognormvariate(0, noise) for _ in owed]

    def actual(grant: Grant) -> float:
        return grant.n * costs.request(owed[grant.cell].task) * factors[grant.cell]

    return [forecast(owed, costs, n, actual) for n in workers]


def table(found: Sequence[Forecast], title: str) -> Table:
    """One row per number of workers."""
    shown = Table(
        "workers", "hours", "over the bound", "speed-up", "loads", "fewest", "ratio", "starts",
        "idle", title=title, box=None,
    )  # fmt: skip
    for row in found:
        over = abs(100 * (row.seconds / row.bound - 1))
        shown.add_row(
            f"{row.n_workers:,}", f"{row.seconds / 3600:.2f}",
            f"{over:.1f} %", f"{found[0].seconds / row.seconds:.0f}",
            f"{row.n_loads}", f"{row.fewest_loads}", f"{row.n_loads / row.fewest_loads:.2f}",
            f"{row.n_starts}", f"{abs(100 * row.idle_share):.1f} %",
        )  # fmt: skip
    return shown


def main() -> None:
    """Prints two tables: as expected, and with cells that take other times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="Write all figures here.")
    parser.add_argument("--noise", type=float, default=0.3, help="of the second table")
    arguments = parser.parse_args()
    console = Console(width=110)
    record = {}
    for name, noise in (("as expected", 0.0), (f"noise {arguments.noise:g}", arguments.noise)):
        found = play(WORKERS, noise)
        console.print(table(found, f"{CHECKPOINTS} checkpoints x 22 benchmarks, {name}"))
        record[name] = [asdict(row) for row in found]
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
