"""Executors: a sweep by several workers, on this machine or on a Ray cluster, with one writer.

A `Driver` answers what a plan owes and returns what `harness.run.sweep` returns; the store it
leaves is the same. Nothing here imports torch or Ray before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import UserError
from harness.executors.devices import local_environments
from harness.executors.driver import Driver
from harness.executors.ledger import owed_cells
from harness.executors.local import LocalExecutor
from harness.executors.messages import Setup
from harness.executors.protocol import Executor
from harness.executors.ray_cluster import Cluster, RayExecutor
from harness.types import Engine

__all__ = ["KINDS", "Driver", "Workers", "create", "owed_cells"]

KINDS = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Workers:
    """Who answers, as the command line says."""

    executor: str = "local"
    n: int | None = None
    """How many; None: one here, or as many as a Ray cluster has room for."""
    address: str | None = None
    """Of a Ray cluster."""

    @property
    def alone(self) -> bool:
        """One engine in this process, as ever."""
        return self.executor == "local" and (self.n or 1) == 1

    def check(self) -> None:
        """Raises UserError for what does not go together."""
        if self.address and self.executor != "ray":
            raise UserError("--address", "is for --executor ray; the local one has no address")


def create(
    workers: Workers,
    make_engine: Callable[[], Engine],
    identity: Mapping[str, str],
    kind: str,
    options: Mapping[str, Any],
) -> Executor:
    """The executor. Raises UserError where what it needs is not there."""
    setup = Setup(make_engine, identity)
    if workers.executor == "ray":
        return RayExecutor(setup, Cluster(workers.address, workers.n), kind, options)
    return LocalExecutor(setup, local_environments(kind, options, workers.n or 1))
