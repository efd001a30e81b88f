"""The worker's side of the probes: distributions of answers, read inside vLLM where they are whole.

vLLM hands out log-probabilities of at most 128 chosen tokens, at every step; a vocabulary has
over a thousand number tokens. So the sums are made by a logits processor and fetched with the
answers: class masses where an answer begins (nothing is changed), or every position of a probed
answer (which may be a forced one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from harness.engines.decoding import class_masses
from harness.engines.positions import ClassIndex, Position, force, read_positions
from harness.engines.vllm_worker import ReloadExtension
from harness.types import Probe

# Keys of `SamplingParams.extra_args`: the name under which a request's masses or positions are
# noted, and its probe, if it has one.
ASK = "forgeteval_mass"
PROBE = "forgeteval_probe"


class _Noted:
    """What the worker process was told to look for, and what it found since it was last asked."""

    def __init__(self) -> None:
        self.classes = ClassIndex({})
        self.masses: dict[str, dict[str, float]] = {}
        self.positions: dict[str, dict[int, Position]] = {}


# vLLM makes the processor and the extension by itself, both in its worker process: they meet here.
_NOTED = _Noted()


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request that is watched."""

    name: str
    probe: Probe | None
    limit: int
    """New tokens that it may have."""
    new: list[int]
    """Its new tokens so far: vLLM's own growing list."""


class Masses(LogitsProcessor):  # type: ignore[misc]
    """Notes what each asked request's distributions say, and forces the answers that are given."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        self._asked: dict[int, _Asked] = {}
        """Row of the batch -> its request."""

    def is_argmax_invariant(self) -> bool:
        """False, though little is changed: vLLM skips the others in greedy batches."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests as they come, go and change rows."""
        process_dict_updates(self._asked, batch_update, _wanted)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Read the watched rows of (rows, vocabulary) logits; only forced rows are changed.

        A long prompt is read in pieces and comes here once for each: the last one counts.
        """
        first = {row: a.name for row, a in self._asked.items() if not a.probe and not a.new}
        if first:
            masses = class_masses(logits[list(first)], _NOTED.classes)
            _NOTED.masses.update(zip(first.values(), masses, strict=True))
        # vLLM may run a step ahead of an answer that has ended.
        probed = {row: a for row, a in self._asked.items() if a.probe and len(a.new) < a.limit}
        if probed:
            _read(logits, probed)
        return logits


def _read(logits: torch.Tensor, probed: Mapping[int, _Asked]) -> None:
    asked = list(probed.values())
    probes = [a.probe for a in asked if a.probe]
    steps = [len(a.new) for a in asked]
    read = read_positions(logits[list(probed)], probes, steps, _NOTED.classes)
    for a, step, position in zip(asked, steps, read, strict=True):
        _NOTED.positions.setdefault(a.name, {})[step] = position
    forced = {
        row: a.probe.tokens[len(a.new)] for row, a in probed.items() if a.probe and a.probe.tokens
    }
    if forced:
        force(logits, list(forced), list(forced.values()))


class Extension(ReloadExtension):
    """Adds the methods of the probes to vLLM's worker."""

    def forgeteval_classes(self, classes: Mapping[str, Sequence[int]]) -> None:
        """The token ids of each class from now on; what was noted before is forgotten."""
        _NOTED.classes = ClassIndex(classes)
        _NOTED.masses.clear()
        _NOTED.positions.clear()

    def forgeteval_masses(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """The masses noted under these names, which are then forgotten."""
        return {name: _NOTED.masses.pop(name) for name in names if name in _NOTED.masses}

    def forgeteval_positions(self, names: Sequence[str]) -> dict[str, list[Position]]:
        """The positions noted under these names, in order, which are then forgotten."""
        found = {name: _NOTED.positions.pop(name) for name in names if name in _NOTED.positions}
        return {name: [by_step[k] for k in sorted(by_step)] for name, by_step in found.items()}


def extra_args(name: str, probe: Probe | None) -> dict[str, Any]:
    """What tells the processor of a request: plain values, because they cross processes."""
    return {ASK: name} if probe is None else {ASK: name, PROBE: asdict(probe)}


def _wanted(params: SamplingParams, prompt: list[int] | None, new: list[int]) -> _Asked | None:
    extra = params.extra_args or {}
    if ASK not in extra:
        return None
    probe = Probe(**extra[PROBE]) if PROBE in extra else None
    return _Asked(extra[ASK], probe, params.max_tokens or 0, new)
