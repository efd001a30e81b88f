"""The difference of two checkpoints, tensor by tensor, in the memory of a few megabytes.

Tensors are matched by their canonical path, so checkpoints in different layouts can be compared.
How far each one moved is measured in `harness.weights.moves`; an adapter's change from its factors
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoints import (
    TensorEntry,
    is_adapter,
    read_config,
    tensor_index,
)
from harness.components import canonical
from harness.errors import CheckpointError
from harness.weights.moves import Move, Report, measure, sum_squares
from harness.weights.tensors import read_tensor

# Elements of an adapter's product formed at a time.
_PRODUCT_ELEMENTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Difference:
    """What a checkpoint has that another has not, and the reverse. Names are canonical paths'."""

    tensors: tuple[str, ...]
    """Every tensor of the later checkpoint (of an adapter against its base: of the base)."""
    moves: Mapping[str, Move]
    """Tensors whose values differ, by name."""
    missing: tuple[str, ...] = ()
    """In the earlier checkpoint only."""
    added: tuple[str, ...] = ()
    """In the later checkpoint only."""
    reshaped: Mapping[str, str] | None = None
    """Name -> "3x4, was 3x5"."""
    retyped: Mapping[str, str] | None = None
    """Name -> "F32, was BF16"; their values are compared all the same."""
    not_finite: tuple[str, ...] = ()
    """Tensors of the later checkpoint that hold NaN or Inf."""
    adapter: bool = False
    """The later checkpoint is an adapter: biases, norms and the like have nowhere to move to."""

    @property
    def identical(self) -> bool:
        """Same tensors, same types, same bytes."""
        return not (self.moves or self.missing or self.added or self.reshaped or self.retyped)


def difference(earlier: Path, later: Path, report: Report | None = None) -> Difference:
    """Compare two checkpoints: whole models, or peft adapters over the same base.

    A checkpoint is a folder, which needs no configuration here, or one safetensors file.

    `later` may be an adapter whose `earlier` is its base. Raises CheckpointError.
    """
    if is_adapter(later):
        return _adapter_difference(earlier, later)
    if is_adapter(earlier):
        raise CheckpointError(
            str(later), f"is a whole model and {earlier.name} an adapter; compare it with a model"
        )
    before, after = _by_path(earlier), _by_path(later)
    tied = ties_embeddings(later)
    missing = [e.name for path, e in before.items() if path not in after and not _head(path, tied)]
    added = [e.name for path, e in after.items() if path not in before and not _head(path, tied)]
    pairs = [(before[path], after[path]) for path in before if path in after]
    reshaped = {b.name: f"{_shape(b)}, was {_shape(a)}" for a, b in pairs if a.shape != b.shape}
    retyped = {b.name: f"{b.dtype}, was {a.dtype}" for a, b in pairs if a.dtype != b.dtype}
    same_shape = [(a, b) for a, b in pairs if a.shape == b.shape]
    alone = [after[path] for path in after if path not in before]
    moves, broken = measure(same_shape, alone, report)
    return Difference(
        tensors=tuple(entry.name for entry in after.values()),
        moves=moves,
        missing=tuple(missing),
        added=tuple(added),
        reshaped=reshaped,
        retyped=retyped,
        not_finite=tuple(broken),
    )


def _by_path(folder: Path) -> dict[str, TensorEntry]:
    """Canonical path -> tensor, in the order of the files: reading is then sequential."""
    entries = sorted(tensor_index(folder).values(), key=lambda e: (str(e.file), e.offset))
    return {canonical(entry.name): entry for entry in entries}


def ties_embeddings(folder: Path) -> bool:
    """Whether a model's output head is its embeddings, as its configuration (if any) says."""
    if not (folder / "config.json").is_file():
        return False
    config = read_config(folder)
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return bool(config.get("tie_word_embeddings", inner))


def _head(path: str, tied: bool) -> bool:
    """A head tied to the embeddings may be stored or not: it is no tensor of its own."""
    return tied and path.startswith("lm_head.")


def _shape(entry: TensorEntry) -> str:
    return "x".join(map(str, entry.shape)) or "scalar"


def _adapter_difference(earlier: Path, later: Path) -> Difference:
    """An adapter against its base, or against the adapter of the stage before.

    The weights it adds to a layer are scale x B A; norms come from the small factors.
    """
    after = _factors(later)
    before = _factors(earlier) if is_adapter(earlier) else {}
    weights = {} if is_adapter(earlier) else _by_path(earlier)
    moves, lost, broken = {}, [], []
    for path, (name, a, b) in after.items():
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            broken.append(name)
        _, a0, b0 = before.get(path, (name, a[:0], b[:, :0]))
        squares = max(_product_squares(np.hstack([b, -b0]), np.vstack([a, a0])), 0.0)
        entry = weights.get(f"{path}.weight")
        if weights and entry is None:
            lost.append(name)
        start = None if entry is None else sum_squares(entry)
        # Equal factors cancel to rounding error, never to exactly nothing.
        if (before and a.shape == a0.shape and (a == a0).all() and (b == b0).all()) or not b.any():
            continue
        largest = _largest(np.hstack([b, -b0]), np.vstack([a, a0]))
        moves[name] = Move(name, squares, start, largest)
    others = [e.name for p, e in _by_path(later).items() if p.rpartition(".lora_")[1] == ""]
    return Difference(
        tensors=tuple(weights) or tuple(name for name, _, _ in after.values()),
        moves=moves,
        missing=tuple(name for path, (name, _, _) in before.items() if path not in after),
        added=(*lost, *others),
        not_finite=tuple(broken),
        adapter=True,
    )


def _factors(folder: Path) -> dict[str, tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Canonical path of the adapted module -> (shown name, A, scale x B)."""
    config = read_config(folder)
    entries = _by_path(folder)
    found = {}
    for path, entry in entries.items():
        module, mark, _ = path.partition(".lora_A.")
        if not mark:
            continue
        other = entries.get(path.replace(".lora_A.", ".lora_B."))
        if other is None:
            raise CheckpointError(str(folder), f"{entry.name} has no lora_B beside it")
        a = floats(entry)
        alpha = _alpha(config, entry.name.partition(".lora_A.")[0])
        scale = alpha / (sqrt(len(a)) if config.get("use_rslora") else len(a))
        found[module] = (f"{module}.weight", a, scale * floats(other))
    return found


def _alpha(config: Mapping[str, Any], module: str) -> float:
    """`lora_alpha`, or what `alpha_pattern` says for the module: a name, or the end of one."""
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            return float(alpha)
    return float(config.get("lora_alpha") or 1)


def floats(entry: TensorEntry) -> NDArray[np.float32]:
    """The whole tensor as float32; for floating point types up to 32 bits."""
    raw = read_tensor(entry)
    if entry.dtype == "BF16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.astype(np.float32)


def _product_squares(b: NDArray[np.float32], a: NDArray[np.float32]) -> float:
    """Sum of the squared elements of B A without forming it."""
    wide_b, wide_a = b.astype(np.float64), a.astype(np.float64)
    return float(((wide_b.T @ wide_b) * (wide_a @ wide_a.T)).sum())


def _largest(b: NDArray[np.float32], a: NDArray[np.float32]) -> float:
    rows = max(1, _PRODUCT_ELEMENTS // max(a.shape[1], 1))
    return max(float(np.abs(b[i : i + rows] @ a).max()) for i in range(0, len(b), rows))
