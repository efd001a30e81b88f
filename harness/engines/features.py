"""Image features: what the vision tower and projector made of a picture, kept across checkpoints.

Keyed by the bytes of the vision weights and the picture's processed identity, so that a stage
that trained only the language model never pays the vision tower, and one that did can never be
served another's features.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.engines.inputs import Row, join


class Features:
    """Features per (vision weights, processor, picture set), bounded in bytes."""

    def __init__(self, model: Any, limit_bytes: int):
        base = model.base_model
        self._encode = getattr(base, "get_image_features", None)
        self.supported = bool(self._encode) and bool(model._supports_mm_encoder_outputs())
        """Whether this architecture takes features in place of pixels."""
        self.encoded = 0
        """How many picture sets went through the vision tower."""
        self._limit = limit_bytes
        self._used = 0
        self._scope = ""
        self._stacked = False
        self._known: dict[tuple[str, str], tuple[torch.Tensor, ...]] = {}

    def select(self, scope: str) -> None:
        """Serve the features of `scope` (vision weights + processor) from now on."""
        self._scope = scope

    def has(self, picture: str) -> bool:
        """Whether the pixels of this picture set can stay where they are."""
        return (self._scope, picture) in self._known

    def of(self, rows: Sequence[Row], device: torch.device, dtype: torch.dtype) -> Any:
        """`mm_encoder_outputs` for a batch of rows with pictures: their features in order.

        None where this architecture's features cannot be told apart by picture: it needs pixels.
        Rows whose features are not known must carry pixels. Raises the library's own error when
        the vision tower fails (out of memory among others).
        """
        fresh = {row.picture: row for row in rows if not self.has(row.picture)}
        made = self._make(list(fresh.values()), device, dtype) if fresh else {}
        if not self.supported:
            return None
        parts = [
            made[row.picture] if row.picture in made else self._known[(self._scope, row.picture)]
            for row in rows
        ]
        features = [f.to(device, non_blocking=True) for part in parts for f in part]
        # Some architectures hand on one tensor (pictures, tokens, width), most a list.
        pooled: Any = torch.stack(features) if self._stacked else features
        return {"image": BaseModelOutputWithPooling(pooler_output=pooled)}

    def _make(
        self, rows: Sequence[Row], device: torch.device, dtype: torch.dtype
    ) -> dict[str, tuple[torch.Tensor, ...]]:
        assert self._encode is not None
        tensors = join([{**row.side, **(row.pixels or {})} for row in rows])
        accepted = inspect.signature(self._encode).parameters
        arguments = {
            name: tensor.to(device, dtype) if tensor.is_floating_point() else tensor.to(device)
            for name, tensor in tensors.items()
            if name in accepted
        }
        pooled = self._encode(**arguments, return_dict=True).pooler_output
        self.encoded += len(rows)
        self._stacked = isinstance(pooled, torch.Tensor)
        output = list(pooled) if pooled is not None else []
        if len(output) != sum(row.n_pictures for row in rows):
            self.supported = False
            return {}
        made: dict[str, tuple[torch.Tensor, ...]] = {}
        for row in rows:
            made[row.picture] = tuple(output[: row.n_pictures])
            del output[: row.n_pictures]
            self._keep(row.picture, made[row.picture])
        return made

    def _keep(self, picture: str, features: tuple[torch.Tensor, ...]) -> None:
        size = sum(f.numel() * f.element_size() for f in features)
        if self._used + size > self._limit:
            self._forget_other_scopes()
        if self._used + size <= self._limit:
            self._used += size
            # A view into the batch's output would keep the whole batch alive.
            self._known[(self._scope, picture)] = tuple(f.detach().cpu().clone() for f in features)

    def _forget_other_scopes(self) -> None:
        for key in [key for key in self._known if key[0] != self._scope]:
            self._used -= sum(f.numel() * f.element_size() for f in self._known.pop(key))
