"""What `score` prints: the plan before, the outcome after."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter

from rich.console import Console
from rich.table import Table

from harness.run import Outcome
from harness.study import OpenStudy


def print_plan(console: Console, opened: OpenStudy, *, as_json: bool) -> None:
    """Which cells are there and which are owed, by checkpoint."""
    plan = opened.plan
    owed = [cell for cell in plan.cells if cell.owed]
    if as_json:
        record = {
            "study": opened.manifest.study,
            "cells": len(plan.cells),
            "cells_owed": len(owed),
            "requests_owed": sum(cell.n for cell in owed),
            "checkpoints_owed": len({cell.checkpoint.fingerprint for cell in owed}),
            "failures": [{"what": f.what, "why": f.why} for f in plan.failures],
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
    _print_failures(console, [*plan.failures])


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
            "seconds": round(outcome.seconds, 3),
            "interrupted": outcome.interrupted,
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
    if outcome.n_failed:
        console.print(f"{outcome.n_failed} samples failed; `--retry-failed` asks them again.")
    _print_failures(console, outcome.failures)
    if not outcome.interrupted and sealed:
        console.print(f"Next: forgeteval compare {opened.store.folder}", highlight=False)


def _print_failures(console: Console, failures: list) -> None:  # type: ignore[type-arg]
    for failure in failures:
        console.print(f"could not be scored: {failure.why}", style="red", markup=False)
