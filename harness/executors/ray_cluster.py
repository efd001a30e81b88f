"""The Ray executor: an actor per engine, on one machine or on the many of a cluster.

An actor is a worker in a thread (`harness.executors.worker.serve`) with two calls: `tell` puts a
message into its inbox, `take` waits a moment for what it has to say. That needs nothing which a
`ray://` client cannot do. Ray places the actors; one that has no room yet waits, and the sweep
begins with the first that is up. Ray ends all actors with the program that made them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import EngineError, UserError, first_line
from harness.executors.devices import cores, cpu_environment, gpus_per_engine
from harness.executors.messages import Died, Event, Job, Said, Setup, TaskRequests
from harness.executors.worker import Message, serve
from harness.types import Request

# Nothing is told to anybody about this run, and no warning of Ray's own stands in our output.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_LOG_TO_STDERR": "0",
}
HERE = "local"
COLORS = re.compile(r"\x1b\[[0-9;]*m")
# How long one `take` waits for something to be said.
TAKE_SECONDS = 5.0
KNOCK_SECONDS = 10.0
# A machine under load can take longer than Ray waits for its own processes.
START_ATTEMPTS = 5
# How long the first actor may take to be placed and up: an autoscaler starts machines for it.
FIRST_ACTOR_SECONDS = 900.0


class Actor:
    """A worker inside a Ray actor."""

    def __init__(self, setup: Setup):
        self._inbox: queue.SimpleQueue[Message | Exception] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Said] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._inbox.put(setup)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        try:
            serve(self._inbox.get, self._outbox.put, self._stopping.is_set)
        # Boundary: a worker that ends of anything is a dead worker, not a silent one.
        except BaseException as error:
            self._outbox.put(Died(f"ended with {type(error).__name__}: {error}"))
        else:
            self._outbox.put(Died("ended as asked"))

    def tell(self, messages: Sequence[Message], tasks: Mapping[str, Any]) -> None:
        """Messages for the worker; `tasks`: task -> reference to its requests in Ray's store."""
        import ray

        for task, reference in tasks.items():
            self._inbox.put(TaskRequests(task, ray.get(reference)))
        for message in messages:
            if message is None:
                self._stopping.set()
            self._inbox.put(message)

    def take(self) -> list[Said]:
        """What the worker said since the last call; waits for it a while."""
        said: list[Said] = []
        with contextlib.suppress(queue.Empty):
            said.append(self._outbox.get(timeout=TAKE_SECONDS))
            while True:
                said.append(self._outbox.get_nowait())
        return said


@dataclass(slots=True)
class _Known:
    """An actor as the writer sees it."""

    actor: Any
    taking: Any
    """The `take` that is under way."""
    told: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which Ray to use, and how much of it."""

    address: str | None = None
    """None: `$RAY_ADDRESS`, else a Ray of our own on this machine."""
    workers: int | None = None
    """None: as many engines as there is room for now."""


class RayExecutor:
    """Connects when it is made. Raises UserError where Ray, the address or GPUs are missing."""

    def __init__(self, setup: Setup, cluster: Cluster, kind: str, options: Mapping[str, Any]):
        self._ray = _imported()
        self._setup = setup
        self._actors: dict[int, _Known] = {}
        self._tasks: dict[str, Any] = {}
        self._first = time.monotonic() + FIRST_ACTOR_SECONDS
        self._address = cluster.address or os.environ.get("RAY_ADDRESS") or HERE
        self._connect(cluster.workers or 1)
        try:
            self._needs, self.most = self._room(kind, options, cluster.workers)
        except UserError:
            self._ray.shutdown()
            raise
        shared = {}
        if self._address == HERE:  # the machine and its files are known
            found = os.pathsep.join(place for place in sys.path if place)
            shared = {"PYTHONPATH": found, **cpu_environment(self.most)}
        environment = {"env_vars": {**SETTINGS, **shared}}
        self._class = self._ray.remote(Actor).options(
            **self._needs,
            max_restarts=0,
            max_concurrency=4,
            runtime_env=environment,
        )

    def start(self, worker: int) -> None:
        """Asks Ray for an actor; it is placed as soon as there is room."""
        actor = self._class.remote(self._setup)
        self._actors[worker] = _Known(actor, actor.take.remote())

    def send(self, worker: int, job: Job, requests: Sequence[Request]) -> None:
        """Requests lie in Ray's store once, however many workers need them."""
        task, known = job.cell.asks, self._actors[worker]
        if task not in self._tasks:
            self._tasks[task] = self._ray.put(list(requests))
        # In a mapping the reference is passed as such; the actor reads it where it is.
        new = {} if task in known.told else {task: self._tasks[task]}
        known.told.add(task)
        known.actor.tell.remote([job], new)

    def events(self, seconds: float) -> Iterator[Event]:
        """What the actors said, in order for each."""
        if not self._actors:
            time.sleep(seconds)
            return
        takes = {known.taking: worker for worker, known in self._actors.items()}
        ready, _ = self._ray.wait(list(takes), num_returns=1, timeout=seconds)
        if ready:  # whoever else is ready by now comes along
            ready, _ = self._ray.wait(list(takes), num_returns=len(takes), timeout=0)
            self._first = float("inf")
        elif time.monotonic() > self._first:
            raise EngineError("--executor ray", self._no_room())
        for reference in ready:
            yield from self._taken(takes[reference], reference)

    def discard(self, worker: int) -> None:
        """Ends the actor at once."""
        if known := self._actors.pop(worker, None):
            with contextlib.suppress(Exception):  # whatever is left of a dead actor
                self._ray.kill(known.actor)

    def stop(self, seconds: float) -> Iterator[Event]:
        """What the actors flush before they end."""
        until = time.monotonic() + seconds
        for known in self._actors.values():
            known.actor.tell.remote([None], {})
        while self._actors and (left := until - time.monotonic()) > 0:
            yield from self.events(left)

    def close(self) -> None:
        """Ends the actors, and the Ray that was started for them."""
        for worker in list(self._actors):
            self.discard(worker)
        with _signals_kept():
            self._ray.shutdown()

    def _taken(self, worker: int, reference: Any) -> Iterator[Event]:
        known = self._actors[worker]
        try:
            said: list[Said] = self._ray.get(reference)
        # Boundary: an actor that cannot be asked, for whatever reason, is a dead one.
        except self._ray.exceptions.RayError as error:
            self.discard(worker)
            yield Event(worker, Died(_ending(error), str(error)))
            return
        known.taking = known.actor.take.remote()
        for one in said:
            if isinstance(one, Died):
                self.discard(worker)
            yield Event(worker, one)

    def _connect(self, workers: int) -> None:
        """Joins the cluster, or starts a Ray of our own. Raises UserError."""
        import logging

        _knock(self._address)

        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        own = {"include_dashboard": False, "num_cpus": max(cores(), workers)}
        wanted = {**quiet, "address": self._address, **(own if self._address == HERE else {})}
        attempts = 2 if self._address != HERE else START_ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                with _signals_kept():
                    self._ray.init(**wanted)
                return
            # Boundary: Ray raises plain exceptions of many kinds, some from far below.
            except Exception as error:
                self._ray.shutdown()
                if attempt == attempts:
                    raise UserError(*_no_connection(self._address, error)) from None

    def _room(
        self, kind: str, options: Mapping[str, Any], workers: int | None
    ) -> tuple[dict[str, float], int]:
        """What an actor asks for, and how many there may be. Raises UserError."""
        there = self._ray.cluster_resources()
        each = gpus_per_engine(kind, options, there=there.get("GPU", 0) > 0)
        name, size = ("GPU", each) if each else ("CPU", 1)
        room = int(there.get(name, 0)) // size
        # Another cluster may grow; the machine we are on does not.
        if each and self._address == HERE and room < (workers or 1):
            cure = f"use --workers {room}" if room else "name a cluster with --address"
            raise UserError(
                "--executor ray",
                f"{workers or 1} workers need {each * (workers or 1)} GPUs ({each} each), this "
                f"machine has {int(there.get('GPU', 0))}; {cure}, or set engine.device to cpu",
            )
        needs = {"num_gpus": float(each), "num_cpus": 0.0} if each else {"num_cpus": 1.0}
        return needs, workers or max(1, room)

    def _no_room(self) -> str:
        asked = ", ".join(f"{n:g} {name[4:].upper()}" for name, n in self._needs.items() if n)
        there = self._ray.cluster_resources()
        found = ", ".join(f"{there.get(name, 0):g} {name}" for name in ("GPU", "CPU"))
        return (
            f"no worker was up after {FIRST_ACTOR_SECONDS / 60:.0f} min: each asks for {asked}, "
            f"the cluster has {found}; add machines, or ask for less in `engine:`"
        )


def _imported() -> Any:
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    try:
        import ray
    except ImportError:
        raise UserError(
            "--executor ray", "Ray is not installed; install it with: pip install 'forgeteval[ray]'"
        ) from None
    return ray


def _knock(address: str) -> None:
    """Whether anybody listens there: Ray itself would wait for minutes. Raises UserError."""
    place = _last_started() if address == "auto" else address
    host, colon, port = place.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(*_no_connection(address, error)) from None


def _last_started() -> str:
    """HOST:PORT that `auto` stands for, of a cluster that may have died since; "" = Ray says."""
    try:
        from ray._private.services import canonicalize_bootstrap_address

        return canonicalize_bootstrap_address("auto") or ""
    # Boundary: a Ray whose insides are others still finds the cluster, after a longer wait.
    except Exception:
        return ""


def _no_connection(address: str, error: Exception) -> tuple[str, str]:
    reason = first_line(error, 200)
    if address == HERE:
        return "--executor ray", f"Ray cannot be started on this machine: {reason}"
    return (
        "--address",
        f"no Ray cluster at {address!r} ({reason}); expected auto, HOST:PORT or ray://HOST:10001 "
        "of one that is running (`ray status` tells; where it wants a token, set "
        "RAY_AUTH_MODE=token), or no address for a Ray of our own",
    )


def _ending(error: Exception) -> str:
    """How an actor ended, in one line."""
    lines = [COLORS.sub("", line).strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    if "creation task" in lines[0]:  # a traceback follows, and its last line says what it was
        return f"could not be made: {lines[-1]}"[:200]
    said = next((line for line in lines if "dead because" in line), lines[0])
    return said.removeprefix("The actor ")[:200]


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts its own handler in place of ours."""
    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if mine and handler is not None:
                signal.signal(number, handler)
