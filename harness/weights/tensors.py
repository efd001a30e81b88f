"""A tensor on disk as a numpy array: mapped, not read."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoints import NUMPY_DTYPES, TensorEntry


def read_tensor(entry: TensorEntry) -> NDArray[Any]:
    """The tensor as a read-only memory map; BF16 and 8-bit floats as their raw bits."""
    dtype = np.dtype(NUMPY_DTYPES[entry.dtype])
    if entry.nbytes == 0:
        return np.zeros(entry.shape, dtype)
    mapped = np.memmap(entry.file, dtype, "r", entry.offset, (entry.size,))
    return mapped.reshape(entry.shape)


def sizes(shape: tuple[int, ...]) -> str:
    """A shape in words.

    >>> sizes((3, 4)), sizes(())
    ('3x4', 'scalar')
    """
    return "x".join(map(str, shape)) or "scalar"


def floats(entry: TensorEntry) -> NDArray[np.float32]:
    """The whole tensor as float32; for floating point types up to 32 bits."""
    raw = read_tensor(entry)
    if entry.dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)
