"""The live view of a sweep: one calm progress line for a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from harness.run import Watch

# Seconds between plain lines (logs of CI jobs, files).
PLAIN_SECONDS = 10.0
# Workers that a view names one by one; the others are counted.
SHOWN_WORKERS = 8


class Quiet:
    """Says nothing."""

    def begin(self, n_requests: int, n_cells: int) -> None:
        pass

    def checkpoint(self, label: str) -> None:
        pass

    def task(self, name: str) -> None:
        pass

    def answered(self, n: int, n_failed: int) -> None:
        pass

    def sealed(self, label: str = "", task: str = "") -> None:
        pass

    def worker(self, number: int, doing: str) -> None:
        pass


class _Counting(Quiet):
    """Keeps the numbers that every view shows."""

    def __init__(self) -> None:
        self.total = self.done = self.failed = self.cells = self.cells_done = 0
        self.label = self.name = ""
        self.workers: dict[int, str] = {}
        """What each of several workers is doing."""
        self.started = time.monotonic()

    def begin(self, n_requests: int, n_cells: int) -> None:
        # A sweep in parts says so at the beginning of each.
        self.total, self.cells = self.done + n_requests, self.cells_done + n_cells
        self.started = time.monotonic()

    def checkpoint(self, label: str) -> None:
        self.label = label

    def task(self, name: str) -> None:
        self.name = name

    def answered(self, n: int, n_failed: int) -> None:
        self.done += n
        self.failed += n_failed

    def sealed(self, label: str = "", task: str = "") -> None:
        self.cells_done += 1

    def worker(self, number: int, doing: str) -> None:
        if doing:
            self.workers[number] = doing
        else:
            self.workers.pop(number, None)

    def shown_workers(self) -> list[str]:
        """A line for each of several workers, up to a few; then how many more there are."""
        shown = [f"worker {k}: {doing}" for k, doing in sorted(self.workers.items())]
        more = len(shown) - SHOWN_WORKERS
        return [*shown[:SHOWN_WORKERS], *([f"and {more} more"] if more > 0 else [])]

    def rate(self) -> float:
        """Samples per second so far."""
        return self.done / max(time.monotonic() - self.started, 1e-9)


class PlainLines(_Counting):
    """A line now and then, for logs."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._last = 0.0

    def checkpoint(self, label: str) -> None:
        super().checkpoint(label)
        self._say(f"loading {label}")

    def answered(self, n: int, n_failed: int) -> None:
        super().answered(n, n_failed)
        if time.monotonic() - self._last > PLAIN_SECONDS or self.done == self.total:
            self._last = time.monotonic()
            pace = ""
            if self.done:
                left = (self.total - self.done) / self.rate()
                pace = f", {self.rate():.0f}/s, about {left:.0f} s left"
            failed = f", {self.failed} failed" if self.failed else ""
            where = self._where()
            self._say(f"{self.done:,}/{self.total:,} samples{pace}: {where}{failed}")

    def worker(self, number: int, doing: str) -> None:
        before = self.workers.get(number)
        super().worker(number, doing)
        if not doing and before:
            self._say(f"worker {number} is gone ({before})")
        elif doing.endswith(": loading"):
            self._say(f"worker {number}: loading {doing.removesuffix(': loading')}")

    def _where(self) -> str:
        workers = self.shown_workers()
        return "; ".join(workers) if workers else f"{self.label}, {self.name}"

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


class JsonLines(_Counting):
    """JSON objects on standard error, for programs that follow a sweep: one per sealed cell, and
    one whenever a worker of several begins something else."""

    def worker(self, number: int, doing: str) -> None:
        super().worker(number, doing)
        event = {"event": "worker", "worker": number, "doing": doing or "gone"}
        print(json.dumps(event), file=sys.stderr, flush=True)

    def sealed(self, label: str = "", task: str = "") -> None:
        super().sealed()
        event = {
            "event": "sealed", "checkpoint": label or self.label, "task": task or self.name,
            "cells": self.cells_done, "of": self.cells, "samples": self.done, "failed": self.failed,
            "samples_per_second": round(self.rate(), 1),
        }  # fmt: skip
        print(json.dumps(event), file=sys.stderr, flush=True)


class _BarAndWorkers(Progress):
    """A progress bar with a line below it for each of several workers."""

    lines: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield from (Text(f"  {line}", style="dim", overflow="ellipsis") for line in self.lines)


class LiveLine(_Counting):
    """A progress bar with rate and estimate."""

    def __init__(self, progress: _BarAndWorkers) -> None:
        super().__init__()
        self._progress = progress
        self._bar = progress.add_task("reading the plan", total=None, rate="", cells="")

    def begin(self, n_requests: int, n_cells: int) -> None:
        super().begin(n_requests, n_cells)
        self._progress.update(self._bar, total=n_requests, description="starting the engine")

    def checkpoint(self, label: str) -> None:
        super().checkpoint(label)
        self._progress.update(self._bar, description=f"{label}: loading")

    def task(self, name: str) -> None:
        super().task(name)
        self._progress.update(self._bar, description=f"{self.label}: {name}"[:34])

    def worker(self, number: int, doing: str) -> None:
        super().worker(number, doing)
        self._progress.lines = self.shown_workers()
        several = f"{len(self.workers)} workers, {self.cells_done}/{self.cells} cells"
        self._progress.update(self._bar, description=several)

    def answered(self, n: int, n_failed: int) -> None:
        super().answered(n, n_failed)
        failed = f" {self.failed} failed" if self.failed else ""
        self._progress.update(self._bar, advance=n, rate=f"{self.rate():.0f}/s{failed}")


@contextmanager
def watching(console: Console, mode: str = "auto") -> Iterator[Watch]:
    """`auto`: a bar on a terminal that can draw one, lines elsewhere; or as asked."""
    if mode == "quiet":
        yield Quiet()
    elif mode == "jsonl":
        yield JsonLines()
    elif mode == "plain" or not console.is_terminal or console.is_dumb_terminal:
        yield PlainLines(console)
    else:
        columns = (
            TextColumn("{task.description:<34}"),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
        )
        with _BarAndWorkers(*columns, console=console, transient=True) as progress:
            yield LiveLine(progress)
