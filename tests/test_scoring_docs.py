"""The examples in the docstrings of `harness.scoring` are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import harness.scoring

# These two join scores to a study: they need the whole harness and have tests of their own.
ELSEWHERE = {"grade", "study"}
MODULES = sorted(module.name for module in pkgutil.iter_modules(harness.scoring.__path__))


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ELSEWHERE])
def test_examples(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(f"harness.scoring.{name}"))
    assert failed == 0
