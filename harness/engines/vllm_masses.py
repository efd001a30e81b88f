"""The worker's side of the token-class probe: masses where answers begin, read inside vLLM.

vLLM hands out log-probabilities of at most 128 chosen tokens, at every step; a vocabulary has
over a thousand number tokens, and one step is wanted. So the sums are made where the whole
distribution is, by a logits processor that changes nothing, and fetched with the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from harness.engines.decoding import class_masses
from harness.engines.vllm_worker import ReloadExtension

# Key of `SamplingParams.extra_args` that asks for a request's masses under a name.
ASK = "forgeteval_mass"


class _Masses:
    """What the worker process was told to look for, and what it found since it was last asked."""

    def __init__(self) -> None:
        self.classes: Mapping[str, Sequence[int]] = {}
        self.found: dict[str, dict[str, float]] = {}


# vLLM makes the processor and the extension by itself, both in its worker process: they meet here.
_MASSES = _Masses()


class FirstMasses(LogitsProcessor):  # type: ignore[misc]
    """Notes the class masses of each asked request's first new token."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        self._asked: dict[int, tuple[str, list[int]]] = {}
        """Row of the batch -> (name, its new tokens so far: vLLM's own growing list)."""

    def is_argmax_invariant(self) -> bool:
        """False, though nothing is changed: vLLM skips the others in greedy batches."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as they come, go and change rows."""
        process_dict_updates(self._asked, batch_update, _wanted)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Read the rows that have no new token yet. `logits`: (rows, vocabulary), returned as is.

        A long prompt is read in pieces and comes here once for each: the last one counts.
        """
        rows = {row: name for row, (name, new) in self._asked.items() if not new}
        if rows:
            masses = class_masses(logits[list(rows)], _MASSES.classes)
            _MASSES.found.update(zip(rows.values(), masses, strict=True))
        return logits


class Extension(ReloadExtension):
    """Adds the methods of the probe to vLLM's worker."""

    def forgeteval_classes(self, classes: Mapping[str, Sequence[int]]) -> None:
        """The token ids of each class from now on."""
        _MASSES.classes = classes

    def forgeteval_masses(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """The masses found under these names, which are then forgotten."""
        return {name: _MASSES.found.pop(name) for name in names if name in _MASSES.found}


def _wanted(
    params: SamplingParams, prompt: list[int] | None, new: list[int]
) -> tuple[str, list[int]] | None:
    name = (params.extra_args or {}).get(ASK)
    return None if name is None else (name, new)
