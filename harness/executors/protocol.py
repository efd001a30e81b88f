"""The executor protocol: how the one writer reaches its workers, wherever they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from harness.executors.messages import Event, Job
from harness.types import Request


class Executor(Protocol):
    """Starts workers, hands them jobs, and tells what they say. Holds no state of the study.

    A worker is a place (0, 1, ...) with devices of its own; a process or an actor lives there,
    and after its death another one can.
    """

    @property
    def most(self) -> int:
        """How many workers there may be at once."""

    def start(self, worker: int) -> None:
        """Begins to bring a worker up; `Up` or `Died` follows some time later."""

    def send(self, worker: int, job: Job, requests: Sequence[Request]) -> None:
        """Gives a job to a worker that is up; `requests` are all of the job's task.

        What becomes of it is told by events: a worker that is gone by now is a `Died`.
        """

    def events(self, seconds: float) -> Iterator[Event]:
        """What workers said, in order for each; waits so long at most if nobody says anything."""

    def discard(self, worker: int) -> None:
        """Ends a worker that is of no use; it says nothing more."""

    def stop(self, seconds: float) -> Iterator[Event]:
        """Asks all workers to end and tells what they still answer, for so long at most."""

    def close(self) -> None:
        """Nothing of any worker is left when this returns."""
