"""Rates: how fast earlier sweeps here went, and what that says of the next one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.plan import Plan
from harness.run import Outcome
from harness.schedule import Costs
from harness.storage.result_files import write_atomically


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected wall time; None where nothing was measured yet."""

    seconds: float | None
    basis: str
    """What it rests on, for people."""


def learn(file: Path, engine: str, outcome: Outcome) -> None:
    """Keeps what this sweep took, by engine and task."""
    if outcome.start_seconds is None:
        return
    known = _read(file)
    mine = known.setdefault(engine, {"tasks": {}})
    mine["start"] = round(outcome.start_seconds, 3)
    if outcome.swap_seconds:
        mine["swap"] = round(fmean(outcome.swap_seconds), 3)
    for task, (n, seconds) in outcome.task_seconds.items():
        if n:
            mine["tasks"][task] = round(seconds / n, 6)
    write_atomically(file, json.dumps(known, indent=1, sort_keys=True).encode())


def estimate(file: Path, engine: str, plan: Plan) -> Estimate:
    """Start + one swap per further checkpoint + the requests owed at each task's own rate.

    A task never run takes the mean rate of those that were.
    """
    mine = _read(file).get(engine)
    groups = list(plan.owed())
    if not groups:
        return Estimate(0.0, "nothing owed")
    if not mine or not mine["tasks"]:
        return Estimate(None, f"no sweep with {engine} was measured here yet")
    usual = fmean(mine["tasks"].values())
    cells = [cell for _, group in groups for cell in group]
    new = {cell.pace for cell in cells} - mine["tasks"].keys()
    seconds = mine["start"] + (len(groups) - 1) * mine.get("swap", mine["start"])
    seconds += sum(cell.n * mine["tasks"].get(cell.pace, usual) for cell in cells)
    basis = f"as measured here with {engine}"
    if new:
        basis += f"; {len(new)} tasks at the mean rate of the others"
    return Estimate(round(seconds, 1), basis)


def costs(file: Path, pace: str, engine: str) -> Costs:
    """What the schedule expects, as measured at `pace` (so many workers), else with one engine or
    another number of workers; guesses if nothing was."""
    known = _read(file)
    others = (name for name in known if name.startswith(f"{engine},"))
    name = next((name for name in (pace, engine, *others) if name in known), None)
    if name is None or not known[name]["tasks"]:
        return Costs()
    mine = known[name]
    swap = mine.get("swap", mine["start"])
    return Costs(mine["start"], swap, fmean(mine["tasks"].values()), mine["tasks"])


def _read(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(engine): {
                "start": float(row["start"]),
                **({"swap": float(row["swap"])} if "swap" in row else {}),
                "tasks": {str(task): float(rate) for task, rate in row["tasks"].items()},
            }
            for engine, row in known.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # only an estimate is lost
