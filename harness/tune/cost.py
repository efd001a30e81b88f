"""What a training costs: seconds, peak memory, and energy where `codecarbon` is installed.

Nothing leaves the machine: codecarbon's offline tracker is used. It estimates energy from the
hardware; CO2 depends on the country too, which codecarbon's own configuration names
(`CODECARBON_COUNTRY_ISO_CODE=DEU` or `.codecarbon.config`). Without it CO2 stays unknown.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def measured(device: torch.device) -> Iterator[dict[str, Any]]:
    """Fills the cost fields of a StageRecord while its body trains."""
    cost: dict[str, Any] = {}
    tracker = _energy_tracker()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    try:
        yield cost
    finally:
        cost["train_seconds"] = round(time.perf_counter() - began, 3)
        cost |= _energy(tracker)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    else:
        # Kilobytes on Linux, bytes on macOS.
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    cost["peak_memory_gb"] = round(peak / 1e9, 3)


def _energy_tracker() -> Any:
    """codecarbon's tracker, started; None where it is not installed."""
    if importlib.util.find_spec("codecarbon") is None:
        return None
    codecarbon = importlib.import_module("codecarbon")
    # It speaks before it takes its own `log_level`.
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    tracker = codecarbon.OfflineEmissionsTracker(
        save_to_file=False, log_level="critical", allow_multiple_runs=True
    )
    tracker.start()
    return tracker


def _energy(tracker: Any) -> dict[str, float | None]:
    """What the tracker counted since it was started; codecarbon swallows its own failures."""
    if tracker is None:
        return {}
    co2 = tracker.stop()
    found = getattr(tracker, "final_emissions_data", None)
    if found is None or co2 is None:
        return {}
    # Without a country (or with an unknown one) codecarbon takes the world's average.
    return {
        "energy_kwh": float(found.energy_consumed),
        "co2_kg": float(co2) if found.country_name else None,
    }
