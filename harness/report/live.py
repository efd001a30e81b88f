"""The live view of a sweep: one calm progress line for a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from harness.run import Watch

# Seconds between plain lines (logs of CI jobs, files).
PLAIN_SECONDS = 10.0


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

    def sealed(self) -> None:
        pass


class _Counting(Quiet):
    """Keeps the numbers that every view shows."""

    def __init__(self) -> None:
        self.total = self.done = self.failed = self.cells = self.cells_done = 0
        self.label = self.name = ""
        self.started = time.monotonic()

    def begin(self, n_requests: int, n_cells: int) -> None:
        self.total, self.cells = n_requests, n_cells
        self.started = time.monotonic()

    def checkpoint(self, label: str) -> None:
        self.label = label

    def task(self, name: str) -> None:
        self.name = name

    def answered(self, n: int, n_failed: int) -> None:
        self.done += n
        self.failed += n_failed

    def sealed(self) -> None:
        self.cells_done += 1

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
            where = f"{self.label}, {self.name}"
            self._say(f"{self.done:,}/{self.total:,} samples{pace}: {where}{failed}")

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)


class JsonLines(_Counting):
    """One JSON object per sealed cell on standard error, for programs that follow a sweep."""

    def sealed(self) -> None:
        super().sealed()
        event = {
            "event": "sealed", "checkpoint": self.label, "task": self.name,
            "cells": self.cells_done, "of": self.cells, "samples": self.done, "failed": self.failed,
            "samples_per_second": round(self.rate(), 1),
        }  # fmt: skip
        print(json.dumps(event), file=sys.stderr, flush=True)


class LiveLine(_Counting):
    """A progress bar with rate and estimate."""

    def __init__(self, progress: Progress) -> None:
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

    def answered(self, n: int, n_failed: int) -> None:
        super().answered(n, n_failed)
        failed = f" {self.failed} failed" if self.failed else ""
        self._progress.update(self._bar, advance=n, rate=f"{self.rate():.0f}/s{failed}")


@contextmanager
def watching(console: Console, mode: str = "auto") -> Iterator[Watch]:
    """`auto`: a bar on a terminal, lines elsewhere; or `plain`, `jsonl`, `quiet` as asked."""
    if mode == "quiet":
        yield Quiet()
    elif mode == "jsonl":
        yield JsonLines()
    elif mode == "plain" or not console.is_terminal:
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
        with Progress(*columns, console=console, transient=True) as progress:
            yield LiveLine(progress)
