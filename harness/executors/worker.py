"""A worker: one engine, and the jobs it is given. The same in a process here and in a Ray actor.

It writes nothing: predictions go back to the one writer in groups. As a process it is started as
`python -m harness.executors.worker FD` with a socket to the writer, and ends with it: when the
socket closes, the worker kills its process group, engine processes included.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from harness.errors import CheckpointError, DataError, EngineError, SampleError, UserError
from harness.executors.messages import (
    Answers,
    Failed,
    Finished,
    Job,
    Loaded,
    Said,
    Setup,
    TaskRequests,
    Unfit,
    Up,
)
from harness.run import FLUSH_COUNT, FLUSH_SECONDS, LiveEngine
from harness.types import Checkpoint, Engine, Prediction, Request

# What an error is about; any other concerns this worker's machine alone.
AT_FAULT: dict[type[UserError], Literal["checkpoint", "engine", "task"]] = {
    CheckpointError: "checkpoint",
    EngineError: "engine",
    DataError: "task",
}
SHARED = "checkpoints and data must lie on a file system that all machines of the sweep see"


class UnfitError(UserError):
    """The study cannot be worked on here; the message says why."""


class Worker:
    """One engine and the requests it was told."""

    def __init__(self, setup: Setup, stopping: Callable[[], bool] = lambda: False):
        self._setup = setup
        self._stopping = stopping
        self._logs = Path(tempfile.mkdtemp(prefix="forgeteval-worker-"))
        self._live = LiveEngine(self._make, self._logs)
        self._holds: tuple[str, bool] | None = None
        self._tasks: dict[str, dict[str, Request]] = {}
        self._seen: set[str] = set()

    def up(self) -> Up:
        """Says where this worker is."""
        return Up(socket.gethostname(), os.getpid())

    def learn(self, sent: TaskRequests) -> None:
        """Keeps a task's requests for all jobs to come."""
        self._tasks[sent.task] = {request.sample_id: request for request in sent.requests}

    def run(self, job: Job) -> Iterator[Said]:
        """What happens while a job is done, ending with Finished, Failed or Unfit."""
        loading = True
        try:
            yield from self._load(job)
            loading = False
            self._see(job)
            began = time.monotonic()
            yield from self._answer(job)
            yield Finished(time.monotonic() - began)
        except UserError as error:
            why = next((word for kind, word in AT_FAULT.items() if isinstance(error, kind)), None)
            # What is left: another library, wrong options, a folder that is not there.
            yield Failed(why, str(error), loading, self._take_logs()) if why else Unfit(str(error))

    def close(self) -> None:
        """Ends the engine."""
        self._live.close()
        shutil.rmtree(self._logs, ignore_errors=True)

    def _make(self) -> Engine:
        engine = self._setup.make_engine()
        here, there = engine.identity, self._setup.identity
        odd = [
            f"{key} is {here.get(key)!r} and not {there[key]!r}"
            for key in there
            if here.get(key) != there[key]
        ]
        if odd:
            raise UnfitError("engine", f"another one than the study's: {', '.join(odd)}")
        return engine

    def _load(self, job: Job) -> Iterator[Said]:
        checkpoint = job.cell.checkpoint
        wanted = (checkpoint.fingerprint, job.cell.again)
        if self._live.alive and self._holds == wanted:
            return
        for folder in _folders(checkpoint):
            if not Path(folder).is_dir():
                raise UnfitError(folder, f"no such folder on this machine; {SHARED}")
        self._holds = None
        started = not self._live.alive
        began = time.monotonic()
        self._live.load(checkpoint)
        self._holds = wanted
        yield Loaded(time.monotonic() - began, started)

    def _see(self, job: Job) -> None:
        """Once for what is asked: the picture that the writer could read is the same here."""
        asks = job.cell.asks
        if not job.witness or asks in self._seen:
            return
        asked = self._tasks[asks].values()
        pictures = (image for request in asked for image in request.images[:1])
        if not any(_hash(image) == job.witness for image in pictures):
            raise UnfitError(
                job.cell.task, f"its pictures cannot be read on this machine; {SHARED}"
            )
        self._seen.add(asks)

    def _answer(self, job: Job) -> Iterator[Answers]:
        """Predictions in groups, small and soon enough that a death loses little."""
        asked = [self._tasks[job.cell.asks][name] for name in job.sample_ids]
        waiting: list[Prediction] = []
        left = dict.fromkeys(job.sample_ids)
        flushed = time.monotonic()
        died: EngineError | None = None
        try:
            for prediction in self._live.ask(job.cell, asked):
                waiting.append(prediction)
                left.pop(prediction.sample_id, None)
                stopping = self._stopping()
                late = time.monotonic() - flushed > FLUSH_SECONDS
                if stopping or late or len(waiting) >= FLUSH_COUNT:
                    yield Answers(tuple(waiting))
                    waiting.clear()
                    flushed = time.monotonic()
                if stopping:
                    return
        except EngineError as error:
            died = error
        if waiting:
            yield Answers(tuple(waiting))
        if not died and left:
            self._live.close()
            first = next(iter(left))
            text = f"ended without answering {len(left)} requests, the first {first!r}"
            died = EngineError("engine", text)
        if died:
            raise died

    def _take_logs(self) -> dict[str, str]:
        """What the engine raised, read and removed."""
        found = {}
        for file in sorted(self._logs.glob("*.log")):
            with contextlib.suppress(OSError):
                found[file.name] = file.read_text(encoding="utf-8", errors="replace")
                file.unlink()
        return found


def _folders(checkpoint: Checkpoint) -> list[str]:
    others = [folder for folder, _ in checkpoint.blend]
    named = [checkpoint.path, checkpoint.processor_path, checkpoint.adapter, *others]
    return [folder for folder in named if folder]


def _hash(image: Any) -> str:
    try:
        return str(image.sha256)
    except SampleError:
        return ""


Message = Setup | TaskRequests | Job | None
"""What a worker is sent; None: no more."""


def serve(
    receive: Callable[[], Message | Exception],
    send: Callable[[Said], None],
    stopping: Callable[[], bool],
) -> None:
    """Does what it is sent until that is None; a message that cannot be read ends it too."""
    worker: Worker | None = None
    try:
        while (message := receive()) is not None:
            match message:
                case Setup():
                    worker = Worker(message, stopping)
                    send(worker.up())
                case TaskRequests() if worker:
                    worker.learn(message)
                case Job() if worker:
                    for said in worker.run(message):
                        send(said)
                case _:
                    send(Unfit(f"what it was sent cannot be read here: {message}"))
    finally:
        if worker:
            worker.close()


def main() -> None:
    """A worker process: `FD` is its end of a socket."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    inbox: queue.SimpleQueue[Message | Exception] = queue.SimpleQueue()
    stopping = threading.Event()
    listener = threading.Thread(target=_listen, args=(connection, inbox, stopping), daemon=True)
    listener.start()
    with contextlib.suppress(OSError):  # the writer is gone: the listener ends everything
        serve(inbox.get, connection.send, stopping.is_set)


def _listen(
    connection: Connection[Any, Any],
    inbox: queue.SimpleQueue[Message | Exception],
    stopping: threading.Event,
) -> None:
    """Takes messages at once, so that the writer never waits, and notices its end at any time."""
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        # Boundary: unpickling imports what the writer imported, and here that may fail anyhow.
        except Exception as error:
            inbox.put(error)
            continue
        if message is None:
            stopping.set()
        inbox.put(message)


if __name__ == "__main__":
    main()
