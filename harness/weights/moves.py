"""Moves: how far tensors moved from one checkpoint to the next, measured chunk by chunk.

Both files are read side by side and compared as bytes, by a few processes at once. Arithmetic is
done only where bytes differ, so that a tensor that stayed costs little more than reading it.

Read into the same room again and again, not mapped: what is read lies in the cache when it is
compared, a mapping's pages cost more than the copy, and a file cut short is an error, not a signal.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoints import NUMPY_DTYPES, TensorEntry
from harness.errors import CheckpointError
from harness.processes import forked

# A worker's piece of work.
WINDOW_BYTES = 1 << 24
# Read at a time: few calls, and every pass over it finds it in a cache.
CHUNK_BYTES = 1 << 20
# More would wait for memory. Each holds less than 30 MB.
WORKERS = min(8, os.cpu_count() or 1)
# Bytes of a checkpoint from which processes gain more than they cost: hundredths of a second.
_WORTH_A_FORK = 1 << 26
# Windows handed to a worker together: handing over costs a tenth of what comparing one does.
_AT_ONCE = 4
# Signed and unsigned integers as wide as the type, and the bits of its infinity (where it has none,
# of its first NaN): as signed numbers the positive NaN and Inf are the largest, as unsigned
# numbers the negative ones. F8_E8M0 has no sign, C64 is two F32.
_BITS: Mapping[str, tuple[Any, Any, int]] = {
    "F8_E5M2": (np.int8, np.uint8, 0x7C),
    "F8_E4M3": (np.int8, np.uint8, 0x7F),
    "F8_E8M0": (np.uint8, np.uint8, 0xFF),
    "F16": (np.int16, np.uint16, 0x7C00),
    "BF16": (np.int16, np.uint16, 0x7F80),
    "F32": (np.int32, np.uint32, 0x7F80_0000),
    "C64": (np.int32, np.uint32, 0x7F80_0000),
    "F64": (np.int64, np.uint64, 0x7FF0_0000_0000_0000),
}
# Below this F16 has no numbers: what was BF16 or F32 before lost so much in it, and did not move.
_F16_GAP = 2.0**-24
# Sums of squares of a start and its difference below which neither they nor the end reach 2^16,
# where F16 ends: what was Inf or NaN in it is a number beyond that when it is widened.
_SURELY_FINITE = 2.0**30
# Sums of squares from here on come of squares that float32 holds to its full precision (a chunk has
# 2^20 of them at most); smaller and infinite ones are done again in float64.
_SURELY_PRECISE = 2.0**-100
# Types of which float32 loses too much, always done in float64; speed matters in none of them.
_WIDE = frozenset({"F64", "I64", "U64", "I32", "U32"})
# What can be subtracted.
_SUBTRACTABLE = frozenset(NUMPY_DTYPES) - {"F8_E5M2", "F8_E4M3", "F8_E8M0", "C64"}
# One pass that ends at the first difference and lets other threads run; numpy would write an
# array of answers first.
_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Pair = tuple[TensorEntry, TensorEntry]
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
    """Of the earlier tensor's elements; None where one of them is NaN or Inf."""
    largest: float | None
    """Largest absolute difference of an element."""

    @property
    def relative_norm(self) -> float | None:
        """Frobenius norm of the difference over that of the earlier tensor; None = undefined."""
        if self.sum_squares is None or not self.start_sum_squares:
            return None
        return sqrt(self.sum_squares / self.start_sum_squares)


@dataclass(frozen=True, slots=True)
class _Window:
    """The bytes of the same elements of two tensors (of one tensor with itself: no comparison)."""

    earlier: TensorEntry
    later: TensorEntry
    first: tuple[int, int]
    """First byte within the earlier and the later tensor."""
    count: tuple[int, int]

    @property
    def retyped(self) -> bool:
        return self.earlier.dtype != self.later.dtype

    @property
    def alone(self) -> bool:
        return self.earlier is self.later

    def chunks(self) -> Iterator[tuple[Bytes, Bytes]]:
        """Bytes of the same elements of both, good until the next are asked for.

        Raises CheckpointError where a file ends early.
        """
        sizes = [_size(entry) for entry in (self.earlier, self.later)] if self.retyped else [1, 1]
        elements = CHUNK_BYTES // max(sizes)
        with self._opened(0) as one, self._opened(1) as other:
            for done in range(0, self.count[1] // sizes[1], elements):
                left = [n // size - done for n, size in zip(self.count, sizes, strict=True)]
                now = min(elements, *left)
                after = self._read(other, 1, now * sizes[1])
                yield after if self.alone else self._read(one, 0, now * sizes[0]), after

    def _opened(self, which: int) -> io.FileIO:
        stream = io.FileIO((self.earlier, self.later)[which].file)
        stream.seek((self.earlier, self.later)[which].offset + self.first[which])
        return stream

    def _read(self, stream: io.FileIO, which: int, count: int) -> Bytes:
        chunk = _ROOM.bytes[which][:count]
        if stream.readinto(chunk.data) != count:
            entry = (self.earlier, self.later)[which]
            raise CheckpointError(str(entry.file), f"ends inside tensor {entry.name}")
        return chunk


class _Room(threading.local):
    """Room for two chunks, as stored and as float32; kept, as the system clears new room first."""

    def __init__(self) -> None:
        self.bytes = [np.empty(CHUNK_BYTES, np.uint8) for _ in range(2)]
        self.floats = [np.empty(CHUNK_BYTES, np.float32) for _ in range(2)]


_ROOM = _Room()


@dataclass(slots=True)
class _Sums:
    """What is known of a window, or of a whole tensor once its windows are added."""

    moved: bool = False
    finite: bool = True
    """Whether the later tensor is."""
    squares: float = 0.0
    start: float = 0.0
    """Of what moved; the rest of a tensor is added once it is known that the tensor moved."""
    largest: float = 0.0

    def add(self, other: _Sums) -> None:
        self.moved |= other.moved
        self.finite &= other.finite
        self.squares += other.squares
        self.start += other.start
        self.largest = max(self.largest, other.largest)


def measure(
    pairs: Sequence[Pair], alone: Sequence[TensorEntry], report: Report | None = None
) -> tuple[dict[str, Move], list[str]]:
    """Moves by name, and the names of later tensors that hold NaN or Inf.

    `pairs`: (earlier, later) tensors of equal shape; `alone`: later tensors without an earlier
    one. Raises CheckpointError where a file ends early.
    """
    jobs = [*pairs, *((entry, entry) for entry in alone)]
    windows = [(k, window) for k, pair in enumerate(jobs) for window in _windows(*pair)]
    try:
        sums = _measured(jobs, windows, report)
    except BrokenProcessPool:
        text = "a process that compared its weights was killed; is there memory left?"
        raise CheckpointError(str(jobs[0][1].file.parent), text) from None
    moves = {
        later.name: _move(earlier, later, whole)
        for (earlier, later), whole in zip(jobs, sums, strict=True)
        if whole.moved
    }
    broken = [later.name for (_, later), whole in zip(jobs, sums, strict=True) if not whole.finite]
    return moves, broken


def _measured(
    jobs: Sequence[Pair], windows: Sequence[tuple[int, _Window]], report: Report | None
) -> list[_Sums]:
    """What is known of each job's tensors. `windows`: (number of its job, window)."""
    total, done = sum(later.nbytes for _, later in jobs), 0
    sums = [_Sums() for _ in jobs]
    stayed: list[tuple[int, _Window]] = []
    with _pool(total) as pool:
        found = pool.map(_compare, (window for _, window in windows), chunksize=_AT_ONCE)
        for (k, window), part in zip(windows, found, strict=True):
            sums[k].add(part)
            if not part.moved:
                stayed.append((k, window))
            done += window.count[1]
            if report is not None:
                report(done, total)
        # The rest of a tensor that moved counts in the norm of its start.
        rest = [(k, window) for k, window in stayed if sums[k].moved]
        for (k, _), start in zip(
            rest, pool.map(_start, (w for _, w in rest), chunksize=_AT_ONCE), strict=True
        ):
            sums[k].start += start
    return sums


def _pool(total: int) -> Executor:
    """Workers for `total` bytes of a checkpoint.

    Processes, because threads would wait for the interpreter's lock between any two passes.
    """
    if total < _WORTH_A_FORK or sys.platform != "linux":
        return ThreadPoolExecutor(WORKERS)
    return forked(WORKERS)


def _windows(earlier: TensorEntry, later: TensorEntry) -> Iterator[_Window]:
    if earlier.dtype == later.dtype:
        for first in range(0, later.nbytes, WINDOW_BYTES):
            count = min(WINDOW_BYTES, later.nbytes - first)
            yield _Window(earlier, later, (first, first), (count, count))
        return
    sizes = _size(earlier), _size(later)
    step = WINDOW_BYTES // max(sizes)
    for begin in range(0, later.size, step):
        count = min(step, later.size - begin)
        yield _Window(
            earlier,
            later,
            (begin * sizes[0], begin * sizes[1]),
            (count * sizes[0], count * sizes[1]),
        )


def _size(entry: TensorEntry) -> int:
    """Bytes of an element."""
    return max(entry.nbytes // max(entry.size, 1), 1)


def _move(earlier: TensorEntry, later: TensorEntry, whole: _Sums) -> Move:
    known = {earlier.dtype, later.dtype} <= _SUBTRACTABLE and np.isfinite(whole.squares)
    if not known:
        return Move(later.name, None, None, None)
    start = whole.start if np.isfinite(whole.start) else None
    return Move(later.name, whole.squares, start, whole.largest)


def _compare(window: _Window) -> _Sums:
    types = window.earlier.dtype, window.later.dtype
    subtractable = set(types) <= _SUBTRACTABLE
    if window.retyped and not subtractable:
        return _Sums(moved=True, finite=_all_finite(window))
    found, same = _Sums(), 0
    for before, after in window.chunks():
        equal = not (found.moved or window.retyped) and _equal(before, after)
        same += equal * len(after)
        if equal or not subtractable:
            found.add(_Sums(moved=not equal, finite=_finite(after, types[1])))
        else:
            found.add(_subtract(before, after, types))
    if not found.moved:
        found.start = 0.0
    elif same:
        found.start += _start(replace(window, count=(same, same)))
    return found


def _all_finite(window: _Window) -> bool:
    """Of the later tensor alone."""
    if window.later.dtype not in _BITS:
        return True
    first, count = window.first[1], window.count[1]
    alone = replace(window, earlier=window.later, first=(first, first), count=(count, count))
    return all(_finite(raw, window.later.dtype) for _, raw in alone.chunks())


def _equal(before: Bytes, after: Bytes) -> bool:
    return before is after or not _memcmp(before.ctypes.data, after.ctypes.data, len(after))


def _finite(raw: Bytes, dtype: str) -> bool:
    if dtype not in _BITS or not len(raw):
        return True
    signed, unsigned, infinity = _BITS[dtype]
    sign = 1 << (8 * np.dtype(signed).itemsize - 1)
    return bool(raw.view(signed).max() < infinity and raw.view(unsigned).max() < infinity + sign)


def _subtract(before: Bytes, after: Bytes, types: tuple[str, str]) -> _Sums:
    """Of one chunk, whose bytes differ; in another type they always do, and the values count."""
    if not _WIDE.isdisjoint(types):
        return _subtract_wide(before, after, types)
    retyped = types[0] != types[1]
    readers = [_values if retyped else _reader(dtype) for dtype in types]
    with np.errstate(invalid="ignore", over="ignore"):
        start = readers[0](before, types[0], _ROOM.floats[0])
        end = readers[1](after, types[1], _ROOM.floats[1])
        delta = np.subtract(end, start, out=_ROOM.floats[1][: len(end)])
        if retyped and "F16" in types:
            delta[np.abs(delta) < _F16_GAP] = 0
        squares, begun = float(np.dot(delta, delta)), float(np.dot(start, start))
        largest = max(float(np.maximum.reduce(delta)), -float(np.minimum.reduce(delta)))
    finite = [True, True]
    if not (squares < _SURELY_FINITE and begun < _SURELY_FINITE):
        finite = [_finite(raw, dtype) for raw, dtype in zip((before, after), types, strict=True)]
    if all(finite) and not (_held(squares, delta) and _held(begun, start)):
        return _subtract_wide(before, after, types)
    return _Sums(
        moved=not retyped or squares != 0 or largest > 0,
        finite=finite[1],
        squares=squares if all(finite) else np.nan,
        start=begun,
        largest=largest,
    )


def _held(squares: float, values: Floats) -> bool:
    """Whether float32 could hold the sum of the squares of finite values."""
    return _SURELY_PRECISE <= squares < np.inf or (squares == 0 and not values.any())


def _subtract_wide(before: Bytes, after: Bytes, types: tuple[str, str]) -> _Sums:
    """As `_subtract`, in float64; 64-bit integers to the unit. A norm minds no sign."""
    finite = [_finite(raw, dtype) for raw, dtype in zip((before, after), types, strict=True)]
    retyped = types[0] != types[1]
    with np.errstate(invalid="ignore", over="ignore"):
        start, end = (_wide(raw, dtype) for raw, dtype in zip((before, after), types, strict=True))
        if types in (("I64", "I64"), ("U64", "U64")):
            one, other = (raw.view(NUMPY_DTYPES[types[0]]) for raw in (before, after))
            up = other > one
            one, other = one.view(np.uint64), other.view(np.uint64)
            delta = np.where(up, other - one, one - other).astype(np.float64)
        else:
            delta = np.abs(end - start)
        if retyped and "F16" in types:
            delta[delta < _F16_GAP] = 0
        squares, begun = float(np.dot(delta, delta)), float(np.dot(start, start))
        largest = float(np.maximum.reduce(delta))
    return _Sums(
        moved=not retyped or largest != 0,
        finite=finite[1],
        squares=squares if all(finite) else np.nan,
        start=begun,
        largest=largest,
    )


def _wide(raw: Bytes, dtype: str) -> NDArray[np.float64]:
    """The values as float64, in room of their own."""
    if dtype == "BF16":
        return _values(raw, dtype, _ROOM.floats[0]).astype(np.float64)
    return raw.view(NUMPY_DTYPES[dtype]).astype(np.float64)


def _reader(dtype: str) -> Callable[[Bytes, str, Floats], Floats]:
    return _halves if dtype in ("BF16", "F16") else _values


def _values(raw: Bytes, dtype: str, into: Floats) -> Floats:
    """As float32; exact for the 16-bit types."""
    if dtype == "F32":
        return raw.view(np.float32)
    stored = raw.view(NUMPY_DTYPES[dtype])
    if dtype == "BF16":
        bits = into[: len(stored)].view(np.uint32)
        bits[:] = stored
        np.left_shift(bits, 16, out=bits)
    else:
        into[: len(stored)] = stored
    return into[: len(stored)]


def _halves(raw: Bytes, dtype: str, into: Floats) -> Floats:
    """BF16 or F16 as float32, even places before odd ones: norms and maxima mind no order.

    Two places are read as one number of 32 bits, which takes half the time of reading each.
    """
    pairs = raw[: len(raw) // 4 * 4].view(np.uint32)
    bits, half = into.view(np.uint32), len(pairs)
    np.left_shift(pairs, 16, out=bits[:half])
    np.bitwise_and(pairs, 0xFFFF0000, out=bits[half : 2 * half])
    if len(raw) % 4:
        bits[2 * half] = np.uint32(raw[-2:].view(np.uint16)[0]) << 16
    values = into[: len(raw) // 2]
    if dtype == "F16":
        # The exponent has three bits less, and counts from 112 lower; numpy's own cast takes
        # several times as long. Inf and NaN become 2^16 and more.
        signed = values.view(np.int32)
        np.right_shift(signed, 3, out=signed)
        np.bitwise_and(values.view(np.uint32), 0x8FFFFFFF, out=values.view(np.uint32))
        np.multiply(values, np.float32(2.0**112), out=values)
    return values


def sum_squares(entry: TensorEntry) -> float | None:
    """Of all elements of one tensor; None where its type cannot be read, or one is NaN or Inf."""
    if entry.dtype not in _SUBTRACTABLE:
        return None
    total = sum(_start(window) for window in _windows(entry, entry))
    return total if np.isfinite(total) else None


def _start(window: _Window) -> float:
    """Sum of the squared elements of the earlier tensor in the window.

    0 if its type has no numbers that can be read, NaN if one of them is NaN or Inf.
    """
    dtype = window.earlier.dtype
    if dtype not in _SUBTRACTABLE:
        return 0.0
    alone = replace(
        window,
        later=window.earlier,
        first=(window.first[0], window.first[0]),
        count=(window.count[0], window.count[0]),
    )
    return sum(_squares(raw, dtype) for _, raw in alone.chunks())


def _squares(raw: Bytes, dtype: str) -> float:
    """Sum of the squared elements of one chunk; NaN if one of them is NaN or Inf."""
    with np.errstate(invalid="ignore", over="ignore"):
        if dtype not in _WIDE:
            values = _reader(dtype)(raw, dtype, _ROOM.floats[0])
            squares = float(np.dot(values, values))
            if _SURELY_PRECISE <= squares < _SURELY_FINITE:
                return squares
            if not _finite(raw, dtype):
                return np.nan
            if _held(squares, values):
                return squares
        elif not _finite(raw, dtype):
            return np.nan
        wide = _wide(raw, dtype)
        return float(np.dot(wide, wide))
