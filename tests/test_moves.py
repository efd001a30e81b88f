"""How far tensors moved, against numpy on the whole tensors: any type, length and cut."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.checkpoints import tensor_index
from harness.errors import CheckpointError
from harness.weights import moves
from harness.weights.moves import measure, sum_squares

NUMPY = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I32": np.int32, "U8": np.uint8}


def stored(values: np.ndarray, dtype: str) -> tuple[bytes, np.ndarray]:
    """(the bytes of `values` as `dtype`, what those bytes mean)."""
    if dtype == "BF16":
        bits = values.astype(np.float32).view(np.uint32) >> 16
        return bits.astype(np.uint16).tobytes(), (bits << 16).view(np.float32).astype(float)
    kept = (values * 50 if dtype in ("I32", "U8") else values).astype(NUMPY[dtype])
    return kept.tobytes(), kept.astype(float)


def checkpoint(folder: Path, **tensors: tuple[str, tuple[int, ...], bytes]) -> Path:
    """A folder with a hand-made safetensors file: types that numpy has not, any alignment."""
    folder.mkdir()
    header, offset = {}, 0
    for name, (dtype, shape, raw) in tensors.items():
        offsets = [offset, offset + len(raw)]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        offset += len(raw)
    text = json.dumps(header).encode()
    data = b"".join(raw for _, _, raw in tensors.values())
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def moved(tmp_path: Path, before: tuple, after: tuple) -> tuple[dict, list[str]]:
    a = tensor_index(checkpoint(tmp_path / "a", w=before))["w"]
    b = tensor_index(checkpoint(tmp_path / "b", w=after))["w"]
    return measure([(a, b)], [])


@pytest.fixture(params=["whole", "in pieces"])
def cut(request, monkeypatch):
    """Windows, scans and chunks smaller than the tensors, and of sizes that do not divide them."""
    if request.param == "in pieces":
        monkeypatch.setattr(moves, "WINDOW_BYTES", 512)
        monkeypatch.setattr(moves, "CHUNK_BYTES", 128)


@pytest.mark.parametrize("count", [1, 2, 3, 1001])
@pytest.mark.parametrize(
    ("one", "other"),
    [(t, t) for t in ("F32", "F16", "BF16", "F64", "I32", "U8")]
    + [("BF16", "F32"), ("F32", "BF16"), ("F16", "BF16"), ("F64", "F32")],
)
def test_norms_and_maxima_are_numpys(tmp_path, cut, one, other, count):
    rng = np.random.default_rng(count)
    values = rng.uniform(0.5, 2, count) * (
        1 if "U8" in (one, other) else rng.choice([-1, 1], count)
    )
    changed = values.copy()
    # At the end alone: all the windows before it stay, and count in the norm of the start.
    changed[-1] *= 1.5
    (raw, start), (raw_after, end) = stored(values, one), stored(changed, other)
    found, broken = moved(tmp_path, (one, (count,), raw), (other, (count,), raw_after))
    assert broken == []
    move = found["w"]
    assert move.sum_squares == pytest.approx(((end - start) ** 2).sum(), rel=1e-5)
    assert move.start_sum_squares == pytest.approx((start**2).sum(), rel=1e-5)
    assert move.largest == pytest.approx(np.abs(end - start).max(), rel=1e-6)
    entry = tensor_index(tmp_path / "a")["w"]
    assert sum_squares(entry) == pytest.approx((start**2).sum(), rel=1e-5)


def test_equal_values_of_another_type_did_not_move(tmp_path, cut):
    values = np.random.default_rng(0).choice([-1.5, 0.25, 4.0], 333)
    halves, wide = stored(values, "BF16")[0], stored(values, "F32")[0]
    assert moved(tmp_path, ("BF16", (333,), halves), ("F32", (333,), wide)) == ({}, [])


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stays", [True, False])
def test_what_is_not_finite_is_named_whether_or_not_it_moved(tmp_path, cut, dtype, bad, stays):
    values = np.ones(700)
    values[-3] = np.copysign(np.nan, bad) if np.isnan(bad) else bad
    start = values if stays else np.ones(700)
    rows = [(dtype, (700,), stored(v, dtype)[0]) for v in (start, values)]
    found, broken = moved(tmp_path, *rows)
    assert broken == ["w"]
    assert set(found) == (set() if stays else {"w"})
    assert all(move.relative_norm is None for move in found.values())


def test_every_half_is_widened_exactly():
    halves = np.arange(1 << 16, dtype=np.uint16)
    found = moves._halves(halves.view(np.uint8), "F16", np.empty(1 << 16, np.float32))
    expected = halves.view(np.float16).astype(np.float32)
    expected = np.concatenate([expected[0::2], expected[1::2]])
    finite = np.isfinite(expected)
    assert (found[finite] == expected[finite]).all()
    assert (np.signbit(found) == np.signbit(expected)).all()
    assert (np.abs(found[~finite]) >= 1 << 16).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1])
def test_halves_that_are_not_finite_have_no_norm(tmp_path, cut, bad, where):
    values = [np.linspace(-1, 1, 301), np.linspace(-1, 2, 301)]
    values[where][150] = bad
    rows = [("F16", (301,), stored(v, "F16")[0]) for v in values]
    found, broken = moved(tmp_path, *rows)
    assert found["w"].sum_squares is None and found["w"].largest is None
    assert broken == ["w"] * where


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_what_stayed_and_is_not_finite_leaves_no_relative_norm(tmp_path, cut, dtype):
    before, after = np.linspace(-1, 1, 301), np.linspace(-1, 1, 301)
    before[0] = after[0] = np.inf
    after[300] = 3
    found, broken = moved(
        tmp_path, *((dtype, (301,), stored(v, dtype)[0]) for v in (before, after))
    )
    assert found["w"].relative_norm is None and broken == ["w"]
    entry = tensor_index(tmp_path / "a")["w"]
    assert sum_squares(entry) is None


def test_large_halves_have_a_norm(tmp_path, cut):
    values = np.full(301, 65504.0), np.full(301, -65504.0)
    found, broken = moved(tmp_path, *(("F16", (301,), stored(v, "F16")[0]) for v in values))
    assert found["w"].largest == 2 * 65504 and not broken
    assert found["w"].relative_norm == pytest.approx(2)


@pytest.mark.parametrize(("dtype", "bits"), [("F8_E4M3", 8), ("F4", 4), ("C64", 64)])
def test_types_that_cannot_be_subtracted_are_compared_as_bytes(tmp_path, cut, dtype, bits):
    raw = bytes(range(1, 97)) * 8
    count = len(raw) * 8 // bits
    other = raw[:-1] + b"\x01"
    found, broken = moved(tmp_path, (dtype, (count,), raw), (dtype, (count,), other))
    assert (found["w"].sum_squares, found["w"].largest, broken) == (None, None, [])
    (tmp_path / "again").mkdir()
    assert moved(tmp_path / "again", (dtype, (count,), raw), (dtype, (count,), raw)) == ({}, [])


def test_what_f16_cannot_hold_is_no_move(tmp_path, cut):
    """Hub copies of bfloat16 models are often F16, where weights below 1e-7 become 0."""
    values = np.random.default_rng(0).choice([3e-9, 1.25e-5, -0.5], 333)
    wide, meant = stored(values, "BF16")
    kept, held = stored(meant, "F16")
    assert (held != meant).any()
    assert moved(tmp_path, ("F16", (333,), kept), ("BF16", (333,), wide)) == ({}, [])


def test_an_unreadable_type_in_place_of_another_counts_as_moved(tmp_path, cut):
    found, _ = moved(tmp_path, ("F32", (8,), bytes(32)), ("F4", (8,), bytes(4)))
    assert found["w"].relative_norm is None


def test_nan_of_eight_bits_is_named(tmp_path):
    row = ("F8_E5M2", (4,), b"\x01\x02\xfe\x03")
    assert moved(tmp_path, row, row) == ({}, ["w"])


@pytest.mark.parametrize(
    ("dtype", "raw"),
    [
        ("F8_E4M3", b"\x01\x7f\x02"),
        ("F8_E4M3", b"\x01\xff\x02"),
        ("F8_E8M0", b"\x01\xff\x02"),
        ("C64", np.array([1, complex(0, np.nan)], np.complex64).tobytes()),
        ("C64", np.array([complex(-np.inf, 0), 1], np.complex64).tobytes()),
    ],
)
def test_nan_of_rare_types_is_named(tmp_path, dtype, raw):
    bits = {"C64": 8}.get(dtype, 1)
    row = (dtype, (len(raw) // bits,), raw)
    assert moved(tmp_path, row, row) == ({}, ["w"])
    (tmp_path / "retyped").mkdir()
    start = ("F32", row[1], bytes(4 * row[1][0]))
    assert moved(tmp_path / "retyped", start, row)[1] == ["w"]
    (tmp_path / "sound").mkdir()
    sound = (dtype, row[1], bytes([0x7E, 0xFE, 1] if bits == 1 else len(raw)))
    assert moved(tmp_path / "sound", sound, sound) == ({}, [])


@pytest.mark.parametrize(
    ("dtype", "start", "end", "step"),
    [
        (np.float64, 1.0, 1 + 2.0**-40, 2.0**-40),
        (np.float64, 1e60, 3e60, 2e60),
        (np.int64, 2**40, 2**40 + 1, 1),
        (np.int64, 2**62, 2**62 + 1, 1),
        (np.int64, -(2**63), 2**63 - 1, 2.0**64),
        (np.uint64, 2**63 + 1, 2**63, 1),
        (np.int32, 2**30, 2**30 + 1, 1),
    ],
)
def test_what_float32_cannot_hold_is_subtracted_in_full(tmp_path, cut, dtype, start, end, step):
    values = np.full(300, start, dtype)
    changed = values.copy()
    changed[-1] = end
    code = {"f": "F", "i": "I", "u": "U"}[values.dtype.kind] + str(8 * values.itemsize)
    found, broken = moved(tmp_path, *((code, (300,), v.tobytes()) for v in (values, changed)))
    assert broken == []
    assert found["w"].largest == step
    norm = step / (abs(float(start)) * np.sqrt(300))
    assert found["w"].relative_norm == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("size", [1e20, 3e37, 1e-25, 1e-19, 1e-40])
@pytest.mark.parametrize("other", [None, "F32", "F64"])
def test_squares_that_float32_cannot_hold(tmp_path, cut, dtype, size, other):
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 2, 1001) * size
    changed = values.copy()
    changed[-300:] *= -1.5
    (raw, start), (raw_after, end) = stored(values, dtype), stored(changed, other or dtype)
    rows = (dtype, (1001,), raw), (other or dtype, (1001,), raw_after)
    found, broken = moved(tmp_path, *rows)
    assert broken == []
    expected = np.sqrt(((end - start) ** 2).sum() / (start**2).sum())
    assert found["w"].relative_norm == pytest.approx(expected, rel=1e-5)
    assert found["w"].largest == pytest.approx(np.abs(end - start).max(), rel=1e-6)


def test_small_equal_values_of_another_type_did_not_move(tmp_path, cut):
    values = np.full(333, 1e-30)
    halves, meant = stored(values, "BF16")
    for dtype in ("F32", "F64"):
        (tmp_path / dtype).mkdir()
        rows = ("BF16", (333,), halves), (dtype, (333,), stored(meant, dtype)[0])
        assert moved(tmp_path / dtype, *rows) == ({}, [])


def test_tensors_without_elements_and_alone(tmp_path):
    empty = ("F32", (0, 3), b"")
    assert moved(tmp_path, empty, empty) == ({}, [])
    lone = checkpoint(tmp_path / "lone", x=("F32", (1,), np.float32(np.nan).tobytes()))
    assert measure([], [tensor_index(lone)["x"]]) == ({}, ["x"])


def test_a_file_that_shrank_is_said(tmp_path):
    row = ("F32", (9,), bytes(36))
    a, b = (tensor_index(checkpoint(tmp_path / n, w=row))["w"] for n in "ab")
    b.file.write_bytes(b.file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="ends inside tensor w"):
        measure([(a, b)], [])


@pytest.fixture
def processes(monkeypatch):
    """Workers are processes whatever the size."""
    if sys.platform != "linux":
        pytest.skip("processes are forked on Linux alone")
    monkeypatch.setattr(moves, "_WORTH_A_FORK", 0)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # workers must not take after us
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_processes_find_what_threads_find(tmp_path, cut, dtype, monkeypatch, request):
    rng = np.random.default_rng(0)
    before = checkpoint(
        tmp_path / "a",
        **{name: (dtype, (999,), stored(rng.normal(size=999), dtype)[0]) for name in "stay"},
    )
    after = shutil.copytree(before, tmp_path / "b")
    with (after / "model.safetensors").open("r+b") as stream:
        stream.seek(-999, os.SEEK_END)
        stream.write(stored(rng.normal(size=100), dtype)[0])
    one, other = tensor_index(before), tensor_index(after)
    pairs = [(one[name], other[name]) for name in one]
    in_threads = measure(pairs, [])
    assert len(in_threads[0]) == 1
    request.getfixturevalue("processes")
    assert measure(pairs, []) == in_threads


def test_a_worker_that_is_killed_is_said(tmp_path, processes, monkeypatch):
    row = ("F32", (9,), bytes(36))
    a, b = (tensor_index(checkpoint(tmp_path / n, w=row))["w"] for n in "ab")
    monkeypatch.setattr(moves, "_equal", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(CheckpointError, match="was killed; is there memory left"):
        measure([(a, b)], [])


def test_a_workers_error_is_the_users(tmp_path, processes):
    row = ("F32", (9,), bytes(36))
    a, b = (tensor_index(checkpoint(tmp_path / n, w=row))["w"] for n in "ab")
    b.file.write_bytes(b.file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="ends inside tensor w"):
        measure([(a, b)], [])


def test_what_is_done_is_reported_up_to_the_whole(tmp_path, cut):
    row = ("F32", (900,), bytes(3600))
    a, b = (tensor_index(checkpoint(tmp_path / n, w=row))["w"] for n in "ab")
    seen: list[tuple[int, int]] = []
    measure([(a, b)], [a], lambda *at: seen.append(at))
    assert seen == sorted(seen)
    assert seen[-1] == (7200, 7200)
