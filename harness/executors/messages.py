"""The messages between the one writer and its workers: small values that pickle.

A job goes out; what comes back is a stream of events. Requests travel apart from jobs, once per
worker and task, with their pictures as references to files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.plan import Cell
from harness.types import Engine, Prediction, Request


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker is told once."""

    make_engine: Callable[[], Engine]
    """Pickles by name: a function of a module, or a `functools.partial` of one."""
    identity: Mapping[str, str]
    """What the plan's signatures say of the engine; a worker with another one is refused."""


@dataclass(frozen=True, slots=True)
class Job:
    """Requests of one cell for one worker."""

    id: int
    cell: Cell
    sample_ids: tuple[str, ...]
    """Which of the task's requests to answer; all in the task's order."""
    witness: str = ""
    """Hash of the first readable picture of the task, where the writer could read one: a worker
    that cannot is on a machine that does not see the data."""


@dataclass(frozen=True, slots=True)
class TaskRequests:
    """All requests of cells that ask the same, sent before the first job that needs them."""

    task: str
    """`Cell.asks`: the task's name, unless a diagnostic of it is asked."""
    requests: Sequence[Request]


@dataclass(frozen=True, slots=True)
class Up:
    """The worker can take jobs; it has no engine yet."""

    node: str
    """The machine it is on."""
    pid: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """The job's checkpoint is the one that answers now."""

    seconds: float
    started: bool
    """On a new engine."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Some predictions of a job, in the order in which they were made."""

    predictions: Sequence[Prediction]


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is done."""

    seconds: float
    """Answering, without loading."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended early; the worker is ready for another one, on a new engine."""

    why: Literal["checkpoint", "engine", "task"]
    """What is at fault: the weights, an engine that died, or the task's data."""
    text: str
    loading: bool
    """Whether it happened while the checkpoint was being loaded."""
    logs: Mapping[str, str] = field(default_factory=dict)
    """file name -> what the engine raised, secrets removed."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """This worker cannot work on this study, on its machine; another one may."""

    text: str


@dataclass(frozen=True, slots=True)
class Died:
    """The worker's process is gone; nothing more comes from it."""

    text: str
    """In one line: how it ended, as far as can be told."""
    log: str = ""
    """The end of what it wrote to its standard error."""


Said = Up | Loaded | Answers | Finished | Failed | Unfit | Died


@dataclass(frozen=True, slots=True)
class Event:
    """What a worker said, and which."""

    worker: int
    said: Said
