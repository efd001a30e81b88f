"""What reading token classes where answers begin adds to a sweep: with and without, in turn.

Prints shares of the time without (0.05 = 5 %), medians over pairs: `added_wall`, `added_cpu` and
`inside`. One engine answers everything; only the reading is switched. `inside` is the processor
time spent in the reading code itself, as a share of the rest: on a busy machine, where two runs of
the same differ by 10 %, it is the one to read.

    .venv/bin/python benchmarks/probe_cost.py hf CHECKPOINT data/*.parquet
    .venv/bin/python benchmarks/probe_cost.py vllm CHECKPOINT data/*.parquet
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from bare_loop import arguments, requests

from harness.engines import create
from harness.engines.positions import ClassIndex
from harness.types import Checkpoint, Request

PAIRS = 5
# The module whose `class_masses` an engine calls.
READS = {"hf": "decoding", "vllm": "vllm_reading"}


def switch(engine: Any, on: bool) -> None:
    """Read token classes or not, on an engine that is loaded with a checkpoint that has some."""
    if hasattr(engine, "_classes"):
        engine._classes = next(iter(engine._known_classes.values())) if on else ClassIndex({})
    else:
        engine._measures = on


class Inside:
    """Processor time spent in functions that are wrapped by it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, place: Any, name: str) -> None:
        """Replaces a function by itself with a clock."""
        function = getattr(place, name)

        def clocked(*arguments: Any, **more: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*arguments, **more)
            finally:
                self.seconds += time.thread_time() - began

        setattr(place, name, clocked)


def timed(engine: Any, asked: Sequence[Request], on: bool) -> tuple[float, float]:
    """(wall, processor) seconds of one sweep of the requests."""
    switch(engine, on)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = list(engine.generate(asked))
    spent = time.perf_counter() - wall, time.process_time() - cpu
    assert all((answer.class_mass is not None) == on for answer in answers)
    return spent


def main() -> None:
    kind, folder, files = arguments(__doc__)
    options: dict[str, Any] = {"threads": 1} if kind == "hf" else {"max_model_len": 512}
    engine: Any = create(kind, options)
    engine.load(Checkpoint(folder, "", folder))
    asked = requests(files)
    inside = Inside()
    inside.wrap(sys.modules[f"harness.engines.{READS[kind]}"], "class_masses")
    if kind == "vllm":
        inside.wrap(engine, "_noted")
    timed(engine, asked, True)  # pictures are processed now, as for every later checkpoint
    pairs, shares = [], []
    for number in range(PAIRS):
        order = (True, False) if number % 2 else (False, True)
        inside.seconds = 0.0
        found = {on: timed(engine, asked, on) for on in order}
        shares.append(inside.seconds / (found[True][1] - inside.seconds))
        pairs.append([found[True][k] / found[False][k] - 1 for k in (0, 1)])
        print(json.dumps({"wall": pairs[-1][0], "cpu": pairs[-1][1]}), file=sys.stderr)
    engine.close()
    result = {
        "engine": kind,
        "requests": len(asked),
        "added_wall": round(median(wall for wall, _ in pairs), 4),
        "added_cpu": round(median(cpu for _, cpu in pairs), 4),
        "inside": round(median(shares), 4),
        "pairs": [[round(value, 4) for value in pair] for pair in pairs],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
