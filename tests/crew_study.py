"""A plan for a crew of engines, what one engine leaves of it, and what the crew did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crew import say
from replay import ReplayEngine
from test_run import make_plan as paper_plan

from harness.executors import Driver
from harness.plan import Plan
from harness.report.live import Quiet
from harness.run import sweep
from harness.schedule import Costs
from harness.storage.store import Store
from harness.types import Checkpoint

N_CELLS, N_ANSWERS = 6, 1200


def make_plan(store: Store, folder: Path, n_checkpoints: int = 3, **more: Any) -> Plan:
    """The plan of test_run.py with folders that are there."""
    plan = paper_plan(store, n_checkpoints, **more)
    for name in ("0", "1", "2", "3", "4"):
        (folder / name).mkdir(parents=True, exist_ok=True)

    def there(checkpoint: Checkpoint) -> Checkpoint:
        path = str(folder / Path(checkpoint.path).name)
        return Checkpoint(path, checkpoint.fingerprint, str(folder / "0"))

    cells = [type(c)(c.task, there(c.checkpoint), c.signature, c.n, c.owed) for c in plan.cells]
    stages = [(stage, there(c)) for stage, c in plan.stages if c]
    return Plan(plan.benchmarks, stages, cells)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results" / "study")


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """What one engine leaves."""
    store = Store(tmp_path / "whole" / "study")
    sweep(make_plan(store, tmp_path / "ckpt"), store, "fixed", lambda: ReplayEngine(say), Quiet())
    return files_of(store)


def drive(plan: Plan, store: Store, executor: Any, costs: Costs | None = None, watch=None):
    return Driver(plan, store, "fixed", executor, watch or Quiet(), costs or Costs()).run()


def files_of(store: Store) -> dict[str, bytes]:
    found = [f for f in sorted(store.folder.rglob("*")) if f.is_file() and f.parent.name != "logs"]
    return {str(f.relative_to(store.folder)): f.read_bytes() for f in found}


def computed(folder: Path) -> list[str]:
    """Each answer that an engine of the crew computed, in that order."""
    return (folder / "computed").read_text().splitlines()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
