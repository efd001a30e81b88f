"""What reading token classes where answers begin adds to a sweep: with and without, in turn.

Prints `{"engine": ..., "added_wall": ..., "added_cpu": ..., "pairs": [...]}`: shares of the time
without (0.05 = 5 %), the median over pairs. One engine answers everything; only the reading is
switched. Processor time is the one to read on a busy machine.

    .venv/bin/python benchmarks/probe_cost.py hf CHECKPOINT data/*.parquet
    .venv/bin/python benchmarks/probe_cost.py vllm CHECKPOINT data/*.parquet
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bare_loop import requests

from harness.engines import create
from harness.engines.positions import ClassIndex
from harness.types import Checkpoint, Request

PAIRS = 5


def switch(engine: Any, on: bool) -> None:
    """Read token classes or not, on an engine that is loaded with a checkpoint that has some."""
    if hasattr(engine, "_classes"):
        engine._classes = next(iter(engine._known_classes.values())) if on else ClassIndex({})
    else:
        engine._measures = on


def timed(engine: Any, asked: Sequence[Request], on: bool) -> tuple[float, float]:
    """(wall, processor) seconds of one sweep of the requests."""
    switch(engine, on)
    wall, cpu = time.perf_counter(), time.process_time()
    answers = list(engine.generate(asked))
    spent = time.perf_counter() - wall, time.process_time() - cpu
    assert all((answer.class_mass is not None) == on for answer in answers)
    return spent


def main() -> None:
    kind, folder, files = sys.argv[1], sys.argv[2], [Path(name) for name in sys.argv[3:]]
    options: dict[str, Any] = {"threads": 1} if kind == "hf" else {"max_model_len": 512}
    engine: Any = create(kind, options)
    engine.load(Checkpoint(folder, "", folder))
    asked = requests(files)
    timed(engine, asked, True)  # pictures are processed now, as for every later checkpoint
    pairs = []
    for number in range(PAIRS):
        order = (True, False) if number % 2 else (False, True)
        found = {on: timed(engine, asked, on) for on in order}
        pairs.append([found[True][k] / found[False][k] - 1 for k in (0, 1)])
        print(json.dumps({"wall": pairs[-1][0], "cpu": pairs[-1][1]}), file=sys.stderr)
    engine.close()
    result = {
        "engine": kind,
        "requests": len(asked),
        "added_wall": round(median(wall for wall, _ in pairs), 4),
        "added_cpu": round(median(cpu for _, cpu in pairs), 4),
        "pairs": [[round(value, 4) for value in pair] for pair in pairs],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
