"""What holds for all tests: which modules a run imports, in which worker they run, no deadlines.

Each worker imports each module of tests that is collected, whatever it runs of it. So the modules
of which every test is slow stay out of the quick run, and no other module imports a heavy library
at its head: a test, or a fixture, imports it where it needs it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

QUICK = "not slow and not vllm"  # what `addopts` in pyproject.toml chooses
WHOLLY_SLOW = re.compile(r"^pytestmark = (\[\n?\s*)?pytest\.mark\.(slow|vllm)\b", re.M)
HEAVY = {"torch", "transformers", "vllm", "ray", "lm_eval", "datasets", "sklearn", "statsmodels"}
# Modules whose quick tests run tiny models: one worker runs them all, so that the other is spared
# the seconds that torch and transformers take to import.
WITH_TORCH = (
    "test_engine_hf.py", "test_probe_engines.py", "test_components_models.py", "test_convert.py",
    "test_micro_model.py", "test_micro_cli.py", "test_drift_mass.py", "test_export.py", "test_audit.py",
)  # fmt: skip
# The longest of the whole suite start first, so that none is what everybody waits for in the end.
LONGEST = (
    "test_sweep_micro.py", "test_scaling.py", "test_report_browser.py", "test_engine_vllm.py",
    "test_lm_eval_tasks.py", "test_memory.py", "test_probe_study.py", "test_tune.py",
    "test_executors.py", "test_printed_commands.py", "test_micro_cli.py", "test_export.py",
)  # fmt: skip


def is_quick(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == QUICK)


def is_wholly_slow(file: Path) -> bool:
    is_test = re.fullmatch(r"test_\w+\.py", file.name)
    return bool(is_test and WHOLLY_SLOW.search(file.read_text(encoding="utf-8")))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The quick run would import a module of slow tests only to choose none of them."""
    return (is_quick(config) and is_wholly_slow(collection_path)) or None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """In the quick run, a module that imports a heavy library while it is collected is an error."""
    before = HEAVY & sys.modules.keys()
    report: Any = yield
    come = sorted(HEAVY & sys.modules.keys() - before)
    if come and is_quick(collector.config) and not is_wholly_slow(collector.path):
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: imports {', '.join(come)} at its head"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(dict.fromkeys((*LONGEST, *WITH_TORCH)))}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, in the order of collection, and with one worker for torch if quick."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "torch" if is_quick(config) and file.endswith(WITH_TORCH) else file

    config.option.loadscopereorder = False
    return Scheduling(config, log)
