"""Processes: forked workers that begin within milliseconds and end when they are told to.

A fork knows what its parent has loaded and registered; outside Linux it is not safe.
"""

from __future__ import annotations

import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def forked(count: int) -> ProcessPoolExecutor:
    """A pool of `count` forked workers. A worker that is killed raises BrokenProcessPool."""
    return ProcessPoolExecutor(count, get_context("fork"), _forget_handlers)


def _forget_handlers() -> None:
    """Handlers of the parent are none of a worker's: it would outlive a SIGTERM that they take.

    Ctrl-C goes to the whole group of processes; the one that waits for the workers ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
