"""The difference of two checkpoints, tensor by tensor, in the memory of a few megabytes.

Tensors are matched by their canonical path, so checkpoints in different layouts can be compared.
Bytes are read in chunks and compared first; norms are computed only for tensors that moved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoints import (
    NUMPY_DTYPES,
    TensorEntry,
    is_adapter,
    read_config,
    read_tensor,
    tensor_index,
)
from harness.components import canonical
from harness.errors import CheckpointError

# Two of these and their float copies stay inside a core's cache (a MiB took twice the time).
CHUNK_BYTES = 1 << 17
# Largest finite magnitude's bits + 1, by type: what NaN and Inf reach.
_NOT_FINITE = {"F32": 0x7F800000, "BF16": 0x7F80, "F16": 0x7C00}
_THREADS = min(4, os.cpu_count() or 1)

Report = Callable[[int, int], None]
"""Called with (bytes compared, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Move:
    """How far one tensor moved."""

    name: str
    """As in the later checkpoint's files."""
    sum_squares: float | None
    """Of the difference's elements; None where the type cannot be subtracted."""
    start_sum_squares: float | None
    """Of the earlier tensor's elements."""
    largest: float | None
    """Largest absolute difference of an element."""

    @property
    def relative_norm(self) -> float | None:
        """Frobenius norm of the difference over that of the earlier tensor; None = undefined."""
        if self.sum_squares is None or not self.start_sum_squares:
            return None
        return sqrt(self.sum_squares / self.start_sum_squares)


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

    @property
    def identical(self) -> bool:
        """Same tensors, same types, same bytes."""
        return not (self.moves or self.missing or self.added or self.reshaped or self.retyped)


def difference(earlier: Path, later: Path, report: Report | None = None) -> Difference:
    """Compare two checkpoint folders: whole models, or peft adapters over the same base.

    `later` may be an adapter whose `earlier` is its base. Raises CheckpointError.
    """
    if is_adapter(later):
        return _adapter_difference(earlier, later)
    if is_adapter(earlier):
        raise CheckpointError(
            str(later), f"is a whole model and {earlier.name} an adapter; compare it with a model"
        )
    before, after = _by_path(earlier), _by_path(later)
    tied = bool(_ties_embeddings(later))
    missing = [e.name for path, e in before.items() if path not in after and not _head(path, tied)]
    added = [e.name for path, e in after.items() if path not in before and not _head(path, tied)]
    pairs = [(before[path], after[path]) for path in before if path in after]
    reshaped = {b.name: f"{_shape(b)}, was {_shape(a)}" for a, b in pairs if a.shape != b.shape}
    retyped = {b.name: f"{b.dtype}, was {a.dtype}" for a, b in pairs if a.dtype != b.dtype}
    same_shape = [(a, b) for a, b in pairs if a.shape == b.shape]
    alone = [after[path] for path in after if path not in before]
    moves, broken = _measure(same_shape, alone, report)
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


def _ties_embeddings(folder: Path) -> bool:
    config = read_config(folder)
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return bool(config.get("tie_word_embeddings", inner))


def _head(path: str, tied: bool) -> bool:
    """A head tied to the embeddings may be stored or not: it is no tensor of its own."""
    return tied and path.startswith("lm_head.")


def _shape(entry: TensorEntry) -> str:
    return "x".join(map(str, entry.shape)) or "scalar"


def _measure(
    pairs: Sequence[tuple[TensorEntry, TensorEntry]],
    alone: Sequence[TensorEntry],
    report: Report | None,
) -> tuple[dict[str, Move], list[str]]:
    """Moves by name, and names of tensors that are not finite; on several threads."""
    total = sum(b.nbytes for _, b in pairs) + sum(entry.nbytes for entry in alone)
    jobs = [*pairs, *((entry, entry) for entry in alone)]
    thread = local()
    moves: dict[str, Move] = {}
    broken: list[str] = []
    done = 0
    with ExitStack() as files, ThreadPoolExecutor(_THREADS) as pool:
        opened: dict[Path, int] = {}
        for file in {entry.file for pair in jobs for entry in pair}:
            opened[file] = os.open(file, os.O_RDONLY)
            files.callback(os.close, opened[file])

        def compare(pair: tuple[TensorEntry, TensorEntry]) -> tuple[Move | None, bool]:
            if not hasattr(thread, "comparer"):
                thread.comparer = _Comparer(opened)
            comparer: _Comparer = thread.comparer
            return comparer(*pair)

        for (_, later), (move, finite) in zip(jobs, pool.map(compare, jobs), strict=True):
            if move is not None:
                moves[later.name] = move
            if not finite:
                broken.append(later.name)
            done += later.nbytes
            if report is not None:
                report(done, total)
    return moves, broken


class _Comparer:
    """Compares pairs of tensors chunk by chunk in buffers of its own (one per thread)."""

    def __init__(self, files: Mapping[Path, int]):
        self._files = files
        # Elements of the narrower type fill half of what those of the wider one do.
        self._buffers = [np.empty(CHUNK_BYTES * 8, np.uint8) for _ in range(2)]
        self._equal = np.empty(CHUNK_BYTES, np.bool_)
        self._bits = np.empty(CHUNK_BYTES, np.uint8)
        self._floats = [np.empty(CHUNK_BYTES, np.float32) for _ in range(3)]

    def __call__(self, earlier: TensorEntry, later: TensorEntry) -> tuple[Move | None, bool]:
        """(how it moved or None, whether all of the later one is finite)."""
        finite = True
        if earlier.dtype == later.dtype:
            moved = False
            for before, after in self._chunks(earlier, later):
                if earlier is not later and not self._same(before, after):
                    moved = True
                    break
                finite = finite and self._finite(after, later.dtype)
            if not moved:
                return None, finite
        return self._move(earlier, later)

    def _chunks(
        self, earlier: TensorEntry, later: TensorEntry
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """The bytes of the same elements of both tensors."""
        sizes = [entry.nbytes // max(entry.size, 1) for entry in (earlier, later)]
        step = CHUNK_BYTES // max(*sizes, 1)
        for first in range(0, later.size, step):
            count = min(step, later.size - first)
            before = self._read(0, earlier, first * sizes[0], count * sizes[0])
            if earlier is later:
                yield before, before
            else:
                yield before, self._read(1, later, first * sizes[1], count * sizes[1])

    def _read(self, slot: int, entry: TensorEntry, start: int, count: int) -> NDArray[np.uint8]:
        into = self._buffers[slot][:count]
        got = 0
        while got < count:
            more = os.preadv(self._files[entry.file], [into[got:].data], entry.offset + start + got)
            if more == 0:
                raise CheckpointError(str(entry.file), f"ends inside tensor {entry.name}")
            got += more
        return into

    def _same(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> bool:
        whole = len(before) // 8 * 8
        words = self._equal[: whole // 8]
        np.equal(before[:whole].view(np.uint64), after[:whole].view(np.uint64), out=words)
        return bool(words.all()) and bool((before[whole:] == after[whole:]).all())

    def _finite(self, raw: NDArray[np.uint8], dtype: str) -> bool:
        limit = _NOT_FINITE.get(dtype)
        if limit is None or not len(raw):
            return True
        kind = np.uint32 if dtype == "F32" else np.uint16
        bits = self._bits[: len(raw)].view(kind)
        np.bitwise_and(raw.view(kind), kind(0x7FFFFFFF if dtype == "F32" else 0x7FFF), out=bits)
        return bool(bits.max() < limit)

    def _move(self, earlier: TensorEntry, later: TensorEntry) -> tuple[Move | None, bool]:
        """Measures the whole tensor; None where the values are equal in another type."""
        squares = start = largest = 0.0
        for raw_before, raw_after in self._chunks(earlier, later):
            before = self._values(0, raw_before, earlier.dtype)
            after = self._values(1, raw_after, later.dtype)
            if before is None or after is None:
                return Move(later.name, None, None, None), True
            delta = self._floats[2][: len(before)]
            with np.errstate(invalid="ignore", over="ignore"):
                np.subtract(after, before, out=delta)
                squares += float(np.dot(delta, delta))
                start += float(np.dot(before, before))
                largest = max(largest, float(delta.max()), -float(delta.min()))
        if squares == 0.0 and largest == 0.0 and earlier.dtype != later.dtype:
            return None, True
        if np.isfinite(squares):
            return Move(later.name, squares, start, largest), True
        finite = all(self._finite(after, later.dtype) for _, after in self._chunks(earlier, later))
        return Move(later.name, None, None, None), finite

    def _values(self, slot: int, raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32] | None:
        """As float32 (exact for the 16-bit types); None for types that numpy cannot read."""
        if dtype == "F32":
            return raw.view(np.float32)
        if dtype.startswith("F8") or dtype not in NUMPY_DTYPES:
            return None
        if dtype == "BF16":
            bits = raw.view(np.uint16)
            wide = self._floats[slot][: len(bits)].view(np.uint32)
            wide[:] = bits
            np.left_shift(wide, 16, out=wide)
            return wide.view(np.float32)
        stored: NDArray[Any] = raw.view(NUMPY_DTYPES[dtype])
        values = self._floats[slot][: len(stored)]
        values[:] = stored
        return values


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
        start = None if entry is None else _sum_squares(entry)
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
    )


def _factors(folder: Path) -> dict[str, tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Canonical path of the adapted module -> (shown name, A, scale x B)."""
    config = read_config(folder)
    rank, alpha = float(config.get("r") or 1), float(config.get("lora_alpha") or 1)
    scale = alpha / (sqrt(rank) if config.get("use_rslora") else rank)
    entries = _by_path(folder)
    found = {}
    for path, entry in entries.items():
        module, mark, _ = path.partition(".lora_A.")
        if not mark:
            continue
        other = entries.get(path.replace(".lora_A.", ".lora_B."))
        if other is None:
            raise CheckpointError(str(folder), f"{entry.name} has no lora_B beside it")
        found[module] = (f"{module}.weight", floats(entry), scale * floats(other))
    return found


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
    rows = max(1, CHUNK_BYTES // max(a.shape[1], 1))
    return max(float(np.abs(b[i : i + rows] @ a).max()) for i in range(0, len(b), rows))


def _sum_squares(entry: TensorEntry) -> float:
    flat = read_tensor(entry).reshape(-1)
    total = 0.0
    for first in range(0, len(flat), CHUNK_BYTES):
        part = flat[first : first + CHUNK_BYTES]
        if entry.dtype == "BF16":
            values = (part.astype(np.uint32) << 16).view(np.float32)
        else:
            values = part.astype(np.float32)
        total += float(np.dot(values, values))
    return total
