"""What an audit costs beside plainly reading both files: time and resident memory.

Writes synthetic checkpoints with the shapes of a language model (2 GB each by default), in
bfloat16, float16 and float32: one to start from, and ones of which nothing, one component
(`sa_proj`) or everything moved. Reading and comparing take turns; the table has the median of the
paired ratios.

    .venv/bin/python benchmarks/audit.py --json audit.json

Files are in the page cache throughout (each is read once before). Wall clock says what a user
waits, with as many processes as an audit takes; processor time says it on a busy machine. The
whole command, start of Python included, is held against `cat` of both files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.components import component_of
from harness.weights.differences import difference

HIDDEN, MLP, VOCABULARY = 2048, 5504, 32000
LAYER = {
    **{f"self_attn.{part}_proj.weight": (HIDDEN, HIDDEN) for part in "qkvo"},
    "mlp.gate_proj.weight": (MLP, HIDDEN),
    "mlp.up_proj.weight": (MLP, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, MLP),
    "input_layernorm.weight": (HIDDEN,),
}
CASES: dict[str, Callable[[str], bool]] = {
    "nothing": lambda name: False,
    "sa_proj": lambda name: component_of(name) == "sa_proj",
    "everything": lambda name: True,
}
DTYPES = {"BF16": 2, "F16": 2, "F32": 4}


def shapes(size: float, itemsize: int) -> dict[str, tuple[int, ...]]:
    """Tensors of a language model of about `size` bytes."""
    made: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    layer = 0
    while sum(map(prod, made.values())) * itemsize < size:
        made |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
        layer += 1
    return made


def write(folder: Path, dtype: str, size: float, moves: Callable[[str], bool]) -> Path:
    """A checkpoint folder; every element of a tensor that moves is another than in the start."""
    folder.mkdir(parents=True)
    header, offset = {}, 0
    for name, shape in shapes(size, DTYPES[dtype]).items():
        end = offset + prod(shape) * DTYPES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
    with (folder / "model.safetensors").open("wb") as sink:
        sink.write(len(text).to_bytes(8, "little") + text)
        for number, (name, of) in enumerate(header.items()):
            values = np.roll(noise, 977 * number) * np.float32(1.01 if moves(name) else 1)
            values = np.resize(values, prod(of["shape"]))
            if dtype == "BF16":
                values = (values.view(np.uint32) >> 16).astype(np.uint16)
            sink.write(values.astype(np.float16) if dtype == "F16" else values)
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    return folder


def read(folders: list[Path]) -> None:
    """The plain reading that an audit is held against: 8 MB at a time into one buffer."""
    buffer = bytearray(1 << 23)
    for folder in folders:
        with (folder / "model.safetensors").open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, processor) seconds, the workers' included."""
    began = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - began[0], sum(os.times()[:4]) - began[1]


def run(*words: str) -> None:
    """A command, its output thrown away."""
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)


def peak_megabytes(folders: list[Path]) -> float:
    """Peak resident memory of a process that does nothing else and its workers, 10^6 bytes (Linux).

    Every worker counted as the largest, and what they share counted in each: an upper bound.
    """
    # Not ru_maxrss of itself: on Linux that begins with the peak of the process that forked.
    program = (
        "import sys; from pathlib import Path; from resource import RUSAGE_CHILDREN, getrusage\n"
        "from harness.weights.differences import difference\n"
        "from harness.weights.moves import WORKERS\n"
        "difference(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "own = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
        "print(int(own) + WORKERS * getrusage(RUSAGE_CHILDREN).ru_maxrss)"
    )
    arguments = [sys.executable, "-c", program, *map(str, folders)]
    out = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return int(out.stdout) * 1024 / 1e6


def measure(folders: list[Path], repeats: int) -> dict[str, Any]:
    """One row of the table."""
    read(folders)
    pairs = [
        (seconds(lambda: read(folders)), seconds(lambda: difference(*folders)))
        for _ in range(repeats)
    ]
    row: dict[str, Any] = {"moved": len(difference(*folders).moves)}
    for clock, name in enumerate(("wall", "cpu")):
        row[f"read_{name}_s"] = statistics.median(plain[clock] for plain, _ in pairs)
        row[f"audit_{name}_s"] = statistics.median(ours[clock] for _, ours in pairs)
        row[f"{name}_ratio"] = statistics.median(
            ours[clock] / plain[clock] for plain, ours in pairs
        )
    files = [str(folder / "model.safetensors") for folder in folders]
    command = [sys.executable, "-m", "harness", "audit", *map(str, folders)]
    pairs = [
        (seconds(lambda: run("cat", *files)), seconds(lambda: run(*command)))
        for _ in range(repeats)
    ]
    row["command_wall_s"] = statistics.median(ours[0] for _, ours in pairs)
    row["command_to_cat"] = statistics.median(ours[0] / cat[0] for cat, ours in pairs)
    return row | {"peak_mb": peak_megabytes(folders)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--gb", type=float, default=2.0, help="size of a checkpoint, 10^9 bytes")
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--json", type=Path, help="also write the rows to this file")
    asked = options.parse_args()
    rows = []
    for dtype in DTYPES:
        for case, moves in CASES.items():
            with tempfile.TemporaryDirectory() as place:
                start = write(Path(place) / "start", dtype, asked.gb * 1e9, CASES["nothing"])
                stage = write(Path(place) / "stage", dtype, asked.gb * 1e9, moves)
                rows.append(
                    {"dtype": dtype, "case": case, **measure([start, stage], asked.repeats)}
                )
    if asked.json:
        text = json.dumps({"cpus": os.cpu_count(), "gb": asked.gb, "rows": rows}, indent=1)
        asked.json.write_text(text + "\n", encoding="utf-8")
    table = Table(*rows[0])
    for row in rows:
        cells = [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row.values()]
        table.add_row(*cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
