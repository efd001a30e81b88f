"""Weights in place: the tensors of a checkpoint folder written into a live transformers model.

Names differ between a file and the model (published, transformers 4.52 and transformers 5
layouts): the library's own renaming rules translate them. What a file lacks, has too much of or
has in another shape is an error before a single value is written, because a partial checkpoint
would silently answer with the previous one's tensors.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from harness.checkpoints import TensorEntry, tensor_index
from harness.engines.blending import blended
from harness.engines.layouts import shortened
from harness.errors import CheckpointError, Problem

_FLOATS = ("F64", "F32", "F16", "BF16")

Plan = Mapping[str, TensorEntry]


class NeedsConversionError(Exception):
    """A file whose tensors must be merged or split: only a fresh start of the model can."""


class LiveWeights:
    """The named tensors of one model, and how a file's tensors find them."""

    def __init__(self, model: Any):
        self._model = model
        self._targets: dict[str, torch.Tensor] = dict(model.state_dict(keep_vars=True))
        shared: dict[tuple[int, tuple[int, ...]], list[str]] = defaultdict(list)
        for name, tensor in self._targets.items():
            shared[(tensor.data_ptr(), tuple(tensor.shape))].append(name)
        self._twins = {name: names for names in shared.values() for name in names}
        self._vision = _vision_names(model, self._targets)

    def plan(self, folder: Path) -> Plan:
        """Which tensor of the folder goes into which of the model's.

        Raises CheckpointError naming every missing, unexpected, wrongly shaped or quantized
        tensor; NeedsConversionError where the file's tensors are not the model's one by one.
        """
        found: dict[str, TensorEntry] = {}
        problems: list[Problem] = []
        for entry, name in self._renamed(tensor_index(folder).values()):
            target = self._targets.get(name)
            if target is None:
                if not _matches(name, self._model._keys_to_ignore_on_load_unexpected):
                    problems.append(Problem(entry.name, "the model has no such tensor"))
                continue
            if tuple(target.shape) != entry.shape:
                got, expected = _shape(entry.shape), _shape(target.shape)
                problems.append(Problem(entry.name, f"shape {got}, expected {expected}"))
            elif target.is_floating_point() != (entry.dtype in _FLOATS):
                problems.append(Problem(entry.name, f"type {entry.dtype}, expected {target.dtype}"))
            found[name] = entry
        for name in self._targets:
            if any(twin in found for twin in self._twins[name]):
                continue
            if not _matches(name, self._model._keys_to_ignore_on_load_missing):
                problems.append(Problem(name, "missing from the checkpoint"))
        if problems:
            raise CheckpointError(str(folder), shortened(problems))
        return found

    @torch.no_grad()
    def copy(self, plans: Sequence[Plan], shares: Sequence[float]) -> None:
        """Write the first plan's tensors, moved by `shares[i]` towards plan i + 1 (WiSE-FT).

        Interpolated in float32 as `blended` does: the end points are exact. Raises
        CheckpointError when tied tensors of a file differ.
        """
        for name, tensors in _aligned(plans):
            value = blended(tensors, shares)
            target = self._targets[name]
            self._refuse_untied(name, plans[0], value)
            target.copy_(value)

    def vision_hash(self) -> str:
        """Hash (hex) of every tensor that image features depend on, as they are in the model."""
        digest = hashlib.sha256()
        for name in self._vision:
            tensor = self._targets[name].detach().cpu().contiguous()
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def _renamed(self, entries: Iterable[TensorEntry]) -> Iterable[tuple[TensorEntry, str]]:
        # Made anew for each file: some of the rules remember which layout they have seen.
        rules = get_model_conversion_mapping(self._model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        prefix = self._model.base_model_prefix
        for entry in sorted(entries, key=lambda entry: entry.name):
            name, converted = rename_source_key(
                entry.name, renamings, converters, prefix, self._targets
            )
            if converted is not None:
                raise NeedsConversionError(entry.name)
            yield entry, name

    def _refuse_untied(self, name: str, plan: Plan, value: torch.Tensor) -> None:
        twins = [twin for twin in self._twins[name] if twin in plan]
        if len(twins) > 1 and name != twins[0]:
            target = self._targets[name]
            if not torch.equal(target.detach(), value.to(target)):
                text = f"differs from {twins[0]}, though the configuration ties them"
                raise CheckpointError(str(plan[name].file.parent), [Problem(name, text)])


def _aligned(plans: Sequence[Plan]) -> Iterable[tuple[str, list[torch.Tensor]]]:
    """(model name, its tensor in each plan), file by file, one tensor in memory at a time."""
    opened: dict[Path, Any] = {}
    ordered = sorted(plans[0].items(), key=lambda item: (str(item[1].file), item[1].offset))
    for name, _ in ordered:
        tensors = []
        for plan in plans:
            entry = plan[name]
            if entry.file not in opened:
                opened[entry.file] = safe_open(str(entry.file), framework="pt", device="cpu")
            tensors.append(opened[entry.file].get_tensor(entry.name))
        yield name, tensors


def _vision_names(model: Any, targets: Mapping[str, torch.Tensor]) -> list[str]:
    """Everything outside the language model and the output head, sorted.

    Everything at all where the library cannot tell the language model apart: then features are
    only shared by checkpoints that are equal.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    known = decoder is not None and decoder is not model and decoder is not model.base_model
    modules = [decoder, head] if known else []
    language = {id(p) for module in modules if module is not None for p in module.parameters()}
    return sorted(name for name, tensor in targets.items() if id(tensor) not in language)


def _matches(name: str, patterns: Iterable[str] | None) -> bool:
    return any(re.search(pattern, name) for pattern in patterns or ())


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "scalar"
