"""The local executor: worker processes on this machine, each with its own engine and devices.

A worker is a fresh interpreter in a process group of its own, so that Ctrl-C reaches the writer
alone, and whatever an engine started can be ended with it. The two share a socket: a worker whose
writer is gone, killed or not, sees it close and ends itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from harness.executors.messages import Died, Event, Job, Said, Setup, TaskRequests
from harness.types import Request

# How much of a dead worker's standard error is kept.
LOG_BYTES = 20_000
EXIT_SECONDS = 10.0


@dataclass(slots=True)
class _Process:
    """A worker as the writer sees it."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    errors: IO[bytes]
    told: set[str] = field(default_factory=set)
    """Tasks whose requests it has."""

    def end(self) -> int:
        """Kills it with all that its engine started; its exit code."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.connection.close()
        return self.process.wait()

    def last_words(self) -> str:
        self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, self.errors.tell() - LOG_BYTES))
        return self.errors.read().decode("utf-8", "replace")


class LocalExecutor:
    """One process per worker; `environments` says which devices each one sees."""

    def __init__(self, setup: Setup, environments: Sequence[Mapping[str, str]]):
        self._setup = setup
        self._environments = environments
        self._processes: dict[int, _Process] = {}

    @property
    def most(self) -> int:
        """As many workers as there are environments."""
        return len(self._environments)

    def start(self, worker: int) -> None:
        """Starts the worker's process; it says `Up` when its imports are done."""
        here, there = socket.socketpair()
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)
        # It finds what this program finds, and nothing of the folder it is started in.
        found = os.pathsep.join(place for place in sys.path if place)
        with there:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.executors.worker", str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": found, **self._environments[worker]},
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
        connection: Connection[Any, Any] = Connection(here.detach())
        self._processes[worker] = _Process(process, connection, errors)
        self._tell(worker, self._setup)

    def send(self, worker: int, job: Job, requests: Sequence[Request]) -> None:
        """Requests go with the first job that needs them."""
        told = self._processes[worker].told
        if job.cell.asks not in told:
            self._tell(worker, TaskRequests(job.cell.asks, requests))
            told.add(job.cell.asks)
        self._tell(worker, job)

    def events(self, seconds: float) -> Iterator[Event]:
        """One event of each worker that has something to say."""
        places = {known.connection: worker for worker, known in self._processes.items()}
        for connection in wait(list(places), seconds):
            worker = places[connection]  # type: ignore[index]
            yield Event(worker, self._hear(worker))

    def discard(self, worker: int) -> None:
        """Ends the worker at once."""
        if known := self._processes.pop(worker, None):
            known.end()
            known.errors.close()

    def stop(self, seconds: float) -> Iterator[Event]:
        """What the workers flush before they end by themselves."""
        until = time.monotonic() + seconds
        for worker in self._processes:
            self._tell(worker, None)
        while self._processes and (left := until - time.monotonic()) > 0:
            yield from self.events(left)

    def close(self) -> None:
        """Ends every process that is left."""
        for worker in list(self._processes):
            self.discard(worker)

    def _tell(self, worker: int, message: object) -> None:
        # A worker that is gone is noticed where it is listened to, after its last answers.
        with contextlib.suppress(OSError):
            self._processes[worker].connection.send(message)

    def _hear(self, worker: int) -> Said:
        known = self._processes[worker]
        try:
            said: Said = known.connection.recv()
        except (EOFError, OSError):
            del self._processes[worker]
            with contextlib.suppress(subprocess.TimeoutExpired):
                known.process.wait(EXIT_SECONDS)
            code = known.end()
            with known.errors:
                return Died(_ending(code), known.last_words())
        return said


def _ending(code: int) -> str:
    """How a process ended, in words.

    >>> _ending(-9), _ending(3)
    ('was killed by SIGKILL', 'ended with exit code 3')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
