"""Checkpoints are read by content; a hostile or torn file is refused with its own message."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from harness import checkpoints
from harness.cli import app
from harness.errors import CheckpointError
from harness.weights.tensors import read_tensor


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "x", "hidden": 4}))
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a": np.ones((3,), np.float16),
        "empty": np.zeros((0, 4), np.int64),
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def message(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoints.fingerprint(folder)
    return str(caught.value)


def write_header(file: Path, header: object, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = len(text) if length is None else length
    file.write_bytes(size.to_bytes(8, "little") + text + data)


def test_tensors_are_found_and_read(model: Path):
    index = checkpoints.tensor_index(model)
    assert {name: (e.dtype, e.shape) for name, e in index.items()} == {
        "a": ("F16", (3,)),
        "b": ("F32", (2, 3)),
        "empty": ("I64", (0, 4)),
    }
    assert np.array_equal(read_tensor(index["b"]), np.arange(6, dtype=np.float32).reshape(2, 3))
    assert read_tensor(index["empty"]).shape == (0, 4)


def test_the_fingerprint_is_of_content_not_of_names(model: Path, tmp_path: Path):
    before = checkpoints.fingerprint(model)
    copy = tmp_path / "other name"
    model.rename(copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps({"_name_or_path": "y", "transformers_version": "9", **config})
    )
    assert checkpoints.fingerprint(copy) == before
    raw = bytearray((copy / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copy / "model.safetensors").write_bytes(raw)
    assert checkpoints.fingerprint(copy) != before


def test_the_fingerprint_sees_the_configuration(model: Path):
    before = checkpoints.fingerprint(model)
    (model / "config.json").write_text(json.dumps({"model_type": "x", "hidden": 8}))
    assert checkpoints.fingerprint(model) != before


def test_one_engine_serves_what_differs_only_in_what_a_trainer_leaves_behind(model: Path):
    before = checkpoints.architecture(model)
    config = json.loads((model / "config.json").read_text())
    for change in ({"use_cache": False}, {"dtype": "bfloat16"}, {"transformers_version": "9"}):
        (model / "config.json").write_text(json.dumps(config | change))
        assert checkpoints.architecture(model) == before
    (model / "config.json").write_text(json.dumps(config | {"hidden": 8}))
    assert checkpoints.architecture(model) != before


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD_FILES = {
    "shorter than a header": (b"\x01\x02", "it is torn"),
    "claims 10 TB of header": ((10**13).to_bytes(8, "little") + b"{}", "it is torn"),
    "claims 10 TB of tensor": (
        {"w": {"dtype": "F32", "shape": [2_500_000_000_000], "data_offsets": [0, 10**13]}},
        "tensor w ends at byte",
    ),
    "truncated data": (
        {"w": {**TENSOR, "shape": [4], "data_offsets": [0, 16]}},
        "tensor w ends at",
    ),
    "offsets do not fit the shape": ({"w": {**TENSOR, "shape": [3]}}, "claims 12 bytes"),
    "negative offset": (
        {"w": {**TENSOR, "data_offsets": [-8, 0]}},
        "tensor w has the data_offsets [-8, 0]; expected two whole numbers, 0 or more",
    ),
    "negative shape": ({"w": {**TENSOR, "shape": [-2]}}, "tensor w has the shape [-2]; expected"),
    "empty": (b"", "model.safetensors: is empty; it is torn"),
    "three offsets": ({"w": {**TENSOR, "data_offsets": [0, 8, 8]}}, "expected two whole numbers"),
    "infinite offset": (
        b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1e999]}}',
        "expected two whole numbers",
    ),
    "float offsets": ({"w": {**TENSOR, "data_offsets": [0.0, 8.0]}}, "expected two whole numbers"),
    "text offsets": ({"w": {**TENSOR, "data_offsets": ["0", "8"]}}, "expected two whole numbers"),
    "float shape": ({"w": {**TENSOR, "shape": [2.0]}}, "has the shape [2.0]; expected whole"),
    "true as shape": ({"w": {**TENSOR, "shape": [True, 2]}}, "has the shape [True, 2]; expected"),
    "text as shape": ({"w": {**TENSOR, "shape": "2"}}, "has the shape 2; expected whole"),
    "type that is a list": ({"w": {**TENSOR, "dtype": ["F32"]}}, "has the unknown type ['F32']"),
    "shape of 2^64": ({"w": {**TENSOR, "shape": [2**33, 2**33]}}, "larger than any file"),
    "shape of many numbers": ({"w": {**TENSOR, "shape": [2**63] * 100_000}}, "larger than any"),
    "overlap": ({"v": TENSOR, "w": TENSOR}, "expected "),
    "gap": ({"w": {**TENSOR, "shape": [1], "data_offsets": [4, 8]}}, "overlap or leave a gap"),
    "junk behind": ({"w": {**TENSOR, "shape": [1], "data_offsets": [0, 4]}}, "belongs to nothing"),
    "key twice": (
        b'{"w": %s, "w": %s}' % ((json.dumps(TENSOR).encode(),) * 2),
        "the header has the key w twice",
    ),
    "field twice": (
        b'{"w": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        "the header has the key dtype twice",
    ),
    "half a byte": ({"w": {"dtype": "F4", "shape": [1], "data_offsets": [0, 0]}}, "claims 1 bytes"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "w": TENSOR}, "no object of strings"),
    "UTF-16": (json.dumps({"w": TENSOR}).encode("utf-16"), "not that of a safetensors file"),
    "NaN in it": (b'{"w": {"dtype": NaN}}', "not that of a safetensors file"),
    "name that moves the cursor": ({"w\x1b[2J\n": {**TENSOR, "shape": [3]}}, "w\\x1b[2J\\n claims"),
    "unknown type": ({"w": {**TENSOR, "dtype": "Q7"}}, "tensor w has the unknown type Q7"),
    "no offsets": ({"w": {"dtype": "F32", "shape": [2]}}, "not that of a safetensors file"),
    "header is a list": ([1, 2], "not that of a safetensors file"),
    "header is not JSON": (b"\x00\xff\x00", "not that of a safetensors file"),
    "deep header": (b"[" * 100_000, "not that of a safetensors file"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_named_with_its_fault(model: Path, what: str):
    header, expected = BAD_FILES[what]
    file = model / "model.safetensors"
    if what in ("empty", "shorter than a header", "claims 10 TB of header"):
        file.write_bytes(header)
    else:
        write_header(file, header, b"\0" * 8)
    text = message(model)
    assert expected in text and "model.safetensors" in text
    if what != "key twice":  # of which the library takes the last
        with pytest.raises(SafetensorError), safe_open(file, "numpy"):
            pass


def test_pickles_are_refused_with_the_conversion(model: Path):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "pytorch_model.bin" in message(model) and "save_file" in message(model)


def test_an_empty_or_missing_folder_says_what_is_there(model: Path, tmp_path: Path):
    (model / "model.safetensors").unlink()
    assert "no *.safetensors here; the folder holds config.json" in message(model)
    assert "no such checkpoint folder" in message(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_a_broken_config_is_named(model: Path, text: str):
    (model / "config.json").write_text(text)
    assert "config.json" in message(model)


def sharded(model: Path) -> Path:
    save_file({"b": np.ones(2, np.float32)}, model / "model-2.safetensors")
    (model / "model.safetensors").rename(model / "model-1.safetensors")
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    return index


def test_shards_are_checked_against_their_index(model: Path):
    save_file({"a": np.ones(3, np.float16)}, model / "model.safetensors")
    index = sharded(model)
    assert set(checkpoints.tensor_index(model)) == {"a", "b"}
    (model / "model-2.safetensors").rename(model / "kept")
    assert "the index names model-2.safetensors, which the folder lacks" in message(model)
    (model / "kept").rename(model / "model-2.safetensors")
    index.write_text(
        json.dumps({"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}})
    )
    assert "1 tensors are in no shard, first c" in message(model)
    assert "1 tensors are not listed, first b" in message(model)
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    assert "not a plain file name" in message(model)
    index.write_text("{}")
    assert "not a shard index" in message(model)


def test_a_tensor_in_two_files_is_refused(model: Path):
    save_file({"b": np.ones(2, np.float32)}, model / "extra.safetensors")
    assert "tensor b is also in extra.safetensors" in message(model)


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself", "link to nothing"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_only_regular_files_are_opened(model: Path, kind: str, name: str):
    file = model / name
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(file if kind == "link to itself" else model / "nowhere")
    text = message(model)
    assert name in text and "put the file itself there" in text
    assert {"folder": "a folder", "pipe": "a pipe"}.get(kind, "leads nowhere") in text
    if name == "model.safetensors":
        for path in (model, *([] if kind == "folder" else [file])):
            result = CliRunner().invoke(app, ["components", str(path)])
            assert isinstance(result.exception, CheckpointError)
            assert "put the file itself there" in str(result.exception)


def test_an_index_without_tensors_is_said(model: Path):
    (model / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert "model.safetensors.index.json: lists no tensor" in message(model)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_no_file_escapes_as_a_traceback(model: Path, data: bytes):
    (model / "model.safetensors").write_bytes(data)
    try:
        checkpoints.tensor_index(model)
    except CheckpointError as error:
        assert error.problems
