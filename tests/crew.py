"""Engines for tests that run in worker processes: they answer by rule, and die when told to.

Makers are functions of this module, so that they pickle by name; what they share across processes
lies in a folder: the log of all answers computed, and files that say who is to die.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from replay import ReplayEngine

from harness.types import Checkpoint, Prediction, Request


def say(checkpoint: Checkpoint, request: Request) -> str:
    """An answer that depends on the checkpoint and the question alone."""
    return f"{checkpoint.fingerprint} {request.sample_id}"


class CrewEngine(ReplayEngine):
    """Writes down each answer as it is computed; dies of what `folder` says."""

    identity: ClassVar = {"engine": "replay", "dtype": "float32", "library": "tests 0"}

    def __init__(self, folder: Path, wait: float = 0.0):
        super().__init__(say)
        self.folder, self.wait = folder, wait
        self.log = os.open(folder / "computed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def load(self, checkpoint: Checkpoint) -> None:
        super().load(checkpoint)
        self._die(f"load-{checkpoint.fingerprint}")
        with (self.folder / "loads").open("a") as stream:
            stream.write(f"{os.getpid()} {checkpoint.fingerprint}\n")

    def generate(self, requests: Sequence[Request]) -> Iterator[Prediction]:
        for request in requests:
            time.sleep(self.wait)
            self._die(f"ask-{self.current.fingerprint}-{request.parts[-1]}")
            line = f"{self.current.fingerprint} {request.parts[-1]} {request.sample_id}\n"
            os.write(self.log, line.encode())
            text = say(self.current, request)
            yield Prediction(request.sample_id, text=text, finish_reason="stop", n_tokens=1)

    log_likelihood = generate

    def _die(self, name: str) -> None:
        """SIGKILL while there is a file of that name: with a number in it, so often."""
        file = self.folder / name
        if file.exists():
            left = int(file.read_text() or 1_000_000)
            if left > 1:
                file.write_text(str(left - 1))
            else:
                file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def crew(folder: Path, wait: float = 0.0) -> partial[CrewEngine]:
    """The maker that workers are sent."""
    return partial(CrewEngine, folder, wait)


def raising(text: str) -> CrewEngine:
    """A maker whose engine cannot be made."""
    raise RuntimeError(text)
