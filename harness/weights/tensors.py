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
