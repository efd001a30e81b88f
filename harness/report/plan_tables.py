"""What `score` prints: the plan before, the outcome after."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness.agreement import Agreement
from harness.executors import Workers
from harness.forecast import Forecast
from harness.plan import Failure
from harness.run import FailedAnswers, Outcome
from harness.study import OpenStudy, estimate, forecast_workers

# Cells with failed answers that are named one by one.
SHOWN_CELLS = 5


def print_plan(
    console: Console, opened: OpenStudy, workers: Workers | None = None, *, as_json: bool
) -> None:
    """Which cells are there and which are owed, by checkpoint; how `workers` would share them."""
    plan = opened.plan
    owed = [cell for cell in plan.cells if cell.owed]
    expected = estimate(opened)
    crew = workers if workers and not workers.alone else None
    shared = forecast_workers(opened, crew) if crew and owed else None
    if as_json:
        record = {
            "study": opened.manifest.study,
            "cells": len(plan.cells),
            "cells_owed": len(owed),
            "requests_owed": sum(cell.n for cell in owed),
            "checkpoints_owed": len({cell.checkpoint.fingerprint for cell in owed}),
            "estimate_seconds": expected.seconds,
            "estimate_basis": expected.basis,
            "failures": [{"what": f.what, "why": f.why} for f in plan.failures],
        }
        if shared:
            record["workers"] = {
                key: round(value, 3) if isinstance(value, float) else value
                for key, value in asdict(shared).items()
            }
        print(json.dumps(record, indent=1))
        return
    counts = Counter(cell.checkpoint.fingerprint for cell in owed)
    requests = Counter[str]()
    for cell in owed:
        requests[cell.checkpoint.fingerprint] += cell.n
    table = Table("strategy", "run", "stage", "name", "cells owed", "requests", box=None)
    for stage, checkpoint in plan.stages:
        mark = checkpoint.fingerprint if checkpoint else ""
        table.add_row(
            stage.key.strategy, stage.key.run, str(stage.key.stage), stage.name,
            f"{counts[mark]}" if checkpoint else "cannot be read", f"{requests[mark]:,}",
        )  # fmt: skip
    console.print(table)
    total = sum(cell.n for cell in owed)
    console.print(f"{len(owed)} of {len(plan.cells)} cells owed, {total:,} requests.")
    if owed:
        known = expected.seconds is not None
        about = f"about {duration(expected.seconds or 0)}" if known else "time unknown"
        one = " with one engine" if crew else ""
        console.print(f"Estimate{one}: {about} ({expected.basis}).", highlight=False)
    if owed and crew:
        console.print(_sharing(shared), highlight=False)
    _print_failures(console, plan.failures)


def _sharing(shared: Forecast | None) -> str:
    """The forecast of several workers in a sentence or two."""
    if shared is None:
        return "With several workers: time unknown; score a part of it first (--only, --limit)."
    workers = f"{shared.n_workers} worker" + "s" * (shared.n_workers > 1)
    return (
        f"With {workers}: about {duration(shared.seconds)} (at least {duration(shared.bound)}); "
        f"checkpoints are loaded {shared.n_loads} times (at least {shared.fewest_loads}); "
        f"workers idle {100 * shared.idle_share:.0f} % of the time."
    )


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(42.4), duration(600), duration(9000)
    ('42 s', '10 min', '2 h 30 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def print_agreement(console: Console, found: Agreement, *, as_json: bool) -> None:
    """How many answers two engines gave alike, and the first that differ."""
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    console.print(
        f"{found.first} and {found.second}: {found.n - found.n_different:,} of {found.n:,} "
        f"answers are equal, {found.n_different:,} differ."
    )
    if not found.examples:
        return
    table = Table("checkpoint", "task", "sample", found.first, found.second, box=None)
    for row in found.examples:
        table.add_row(*(escape(repr(cell) if k > 2 else cell) for k, cell in enumerate(row)))
    console.print(table)


def print_outcome(console: Console, opened: OpenStudy, outcome: Outcome, *, as_json: bool) -> None:
    """What was done, what failed, and the next command."""
    sealed = sum(opened.store.is_sealed(cell.task, cell.id) for cell in opened.plan.cells)
    if as_json:
        record = {
            "study": opened.manifest.study,
            "results": str(opened.store.folder),
            "cells": len(opened.plan.cells),
            "cells_done": sealed,
            "answered": outcome.n_answered,
            "failed_samples": outcome.n_failed,
            "failed": [asdict(cell) for cell in outcome.failed],
            "seconds": round(outcome.seconds, 3),
            "interrupted": outcome.interrupted,
            "engine_restarts": outcome.n_restarts,
            "workers_lost": outcome.n_lost,
            "notices": outcome.notices,
            "failures": [{"what": f.what, "why": f.why} for f in outcome.failures],
        }
        print(json.dumps(record, indent=1))
        return
    total = len(opened.plan.cells)
    if outcome.interrupted:
        again = shlex.join(["forgeteval", *sys.argv[1:]])
        console.print(f"Stopped: {sealed} of {total} cells are done, nothing answered is lost.")
        console.print(f"Go on with: {again}", highlight=False)
    elif outcome.n_answered == 0 and sealed == total:
        console.print(f"Nothing to do: all {total} cells of {opened.manifest.study} are scored.")
    else:
        rate = outcome.n_answered / max(outcome.seconds, 1e-9)
        console.print(
            f"{outcome.n_answered:,} answers in {outcome.seconds:.0f} s ({rate:.0f}/s); "
            f"{sealed} of {total} cells of {opened.manifest.study} are scored."
        )
    if outcome.n_restarts:
        console.print(f"The engine died and was started again {outcome.n_restarts} times.")
    if outcome.n_lost:
        console.print(f"Workers died {outcome.n_lost} times; others took over what they owed.")
    for notice in outcome.notices:
        console.print(f"not used: {notice}", style="yellow", markup=False)
    _print_failed(console, outcome.failed)
    _print_failures(console, outcome.failures)
    if not outcome.interrupted and sealed:
        console.print(f"Next: forgeteval compare {opened.store.folder}", highlight=False)


def _print_failed(console: Console, failed: Sequence[FailedAnswers]) -> None:
    """Cells with failed answers, the worst first, and what can be done."""
    worst = sorted(failed, key=lambda cell: -cell.n_failed / cell.n)
    for cell in worst[:SHOWN_CELLS]:
        text = f"{cell.where}: {cell.n_failed:,} of {cell.n:,} answers failed: {cell.reason}"
        console.print(text, style="yellow", markup=False, highlight=False)
    if len(worst) > SHOWN_CELLS:
        more = len(worst) - SHOWN_CELLS
        console.print(f"and {more} more cells with failed answers", style="yellow")
    if worst:
        console.print("`--retry-failed` asks them again.")


def _print_failures(console: Console, failures: Sequence[Failure]) -> None:
    for failure in failures:
        console.print(f"could not be scored: {failure.why}", style="red", markup=False)
