"""Rotary positions: what `get_rope_index` says of a batch, kept for the next checkpoint.

Qwen-VL and its like give picture tokens three coordinates each, worked out row by row in Python.
They follow from token ids and picture sizes alone, so every checkpoint of a study has the same.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch

SIDE_BY_SIDE = (
    "transformers cannot place pictures that stand side by side without a token between them; "
    "put words or line breaks there, use `apply_chat_template: true`, or vLLM"
)
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
        """(positions, deltas) as the real one returns them; the caller may change them.

        Raises ValueError for pictures that the real one takes for one.
        """
        given = dict(zip(self._accepted, arguments, strict=False)) | options
        key = self._key(given)
        if key not in self._known:
            self.computed += 1
            try:
                found = self._real(*arguments, **options)
            except (RuntimeError, StopIteration):
                if _side_by_side(given):
                    raise ValueError(SIDE_BY_SIDE) from None
                raise
            size = sum(tensor.numel() * tensor.element_size() for tensor in found)
            if size > self._room:
                return tuple(found)
            self._room -= size
            self._known[key] = tuple(found)
        return tuple(tensor.clone() for tensor in self._known[key])

    def _key(self, given: dict[str, Any]) -> bytes:
        """Hash of the arguments by value. `generate` hands on options that the real one ignores."""
        digest = hashlib.sha256()
        for name in sorted(given.keys() & self._accepted.keys()):
            value = given[name]
            digest.update(f"{name} ".encode())
            if isinstance(value, torch.Tensor):
                digest.update(f"{value.dtype} {tuple(value.shape)} {value.device} ".encode())
                digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy().data)
            else:
                digest.update(repr(value).encode())
        return digest.digest()


def _side_by_side(given: dict[str, Any]) -> bool:
    """Whether there are fewer runs of picture tokens than pictures. Left padding counts as text."""
    kinds, grids = given.get("mm_token_type_ids"), given.get("image_grid_thw")
    if kinds is None or grids is None:
        return False
    shown = torch.nn.functional.pad((kinds == 1).int(), (1, 0))
    return int((shown.diff(dim=1) == 1).sum()) < len(grids)


def remember_positions(model: Any) -> None:
    """Let the model's own rotary positions be remembered, where it has any."""
    if hasattr(model.base_model, "get_rope_index"):
        model.base_model.get_rope_index = RotaryMemo(model.base_model.get_rope_index)
