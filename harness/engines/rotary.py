"""Rotary positions: what `get_rope_index` says of a batch, kept for the next checkpoint.

Qwen-VL and its like give picture tokens three coordinates each, worked out row by row in Python.
They follow from token ids and picture sizes alone, so every checkpoint of a study has the same.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch

# Batches of a study of 60,000 long prompts; what comes first stays, as with other inputs.
LIMIT_BYTES = 256 << 20


class RotaryMemo:
    """Stands in for a model's `get_rope_index`: the real one runs once for equal arguments."""

    def __init__(self, real: Any):
        self.computed = 0
        """How often the real one ran."""
        self._real = real
        self._accepted = inspect.signature(real).parameters
        self._known: dict[bytes, tuple[torch.Tensor, ...]] = {}
        self._room = LIMIT_BYTES

    def __call__(self, *arguments: Any, **options: Any) -> tuple[torch.Tensor, ...]:
        """(positions, deltas) as the real one returns them; the caller may change them."""
        key = self._key(arguments, options)
        if key not in self._known:
            self.computed += 1
            found = self._real(*arguments, **options)
            size = sum(tensor.numel() * tensor.element_size() for tensor in found)
            if size > self._room:
                return tuple(found)
            self._room -= size
            self._known[key] = tuple(found)
        return tuple(tensor.clone() for tensor in self._known[key])

    def _key(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> bytes:
        """Hash of the arguments by value. `generate` hands on options that the real one ignores."""
        digest = hashlib.sha256()
        given = dict(zip(self._accepted, arguments, strict=False)) | options
        for name in sorted(given.keys() & self._accepted.keys()):
            value = given[name]
            digest.update(f"{name} ".encode())
            if isinstance(value, torch.Tensor):
                digest.update(f"{value.dtype} {tuple(value.shape)} {value.device} ".encode())
                digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().data)
            else:
                digest.update(repr(value).encode())
        return digest.digest()


def remember_positions(model: Any) -> None:
    """Let the model's own rotary positions be remembered, where it has any."""
    if hasattr(model.base_model, "get_rope_index"):
        model.base_model.get_rope_index = RotaryMemo(model.base_model.get_rope_index)
