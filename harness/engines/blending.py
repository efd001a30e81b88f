"""Blending: one tensor from several checkpoints' tensors of the same name (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def blended(tensors: Sequence[Any], shares: Sequence[float]) -> Any:
    """The first tensor, moved by `shares[i]` towards tensor i + 1; float32 unless nothing moves.

    Where tensors are equal the result is exactly equal to them, and with one other tensor shares
    of 0 and 1 give exactly the first and the other: each half of the way starts at the end it is
    nearer to.
    """
    first = tensors[0]
    if not shares:
        return first
    start = first.float()
    if len(shares) == 1:
        return torch.lerp(start, tensors[1].float(), shares[0])
    moves = (s * (t.float() - start) for s, t in zip(shares, tensors[1:], strict=True))
    return sum(moves, start=start)
