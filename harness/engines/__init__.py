"""Engines: what turns requests into predictions, one live process for all checkpoints of a study.

`create` starts nothing heavy until the first `load`. `identity` says what a signature must know
of an engine, and needs neither torch nor a started engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.engines.options import identity
from harness.types import Engine

__all__ = ["create", "identity"]


def create(kind: str, options: Mapping[str, Any] | None = None) -> Engine:
    """An engine of `kind` (`hf` or `vllm`) with a manifest's options (without `kind`).

    Raises UserError for an unknown kind, unknown options (with the nearest name), wrong values,
    or when the engine's library is not installed.
    """
    options = options or {}
    known = identity(kind, options)
    if kind == "hf":
        from harness.engines.hf import HFEngine
        from harness.engines.options import hf_options

        return HFEngine(hf_options(options), known)
    from harness.engines.options import vllm_options
    from harness.engines.vllm import VLLMEngine, engine_arguments

    return VLLMEngine(vllm_options(options, engine_arguments()), known)
