"""Conversion: a checkpoint in the LLaVA repository's format into the transformers format.

The base in transformers format gives configuration, processor and layout; the stage gives the
weights. Names are matched by canonical path, bytes are copied as they are, in the stage's own
type. The parity check is the base itself: what a stage did not train must have the base's values,
so a wrong match shows as a tensor that moved without reason.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from harness.checkpoints import NUMPY_DTYPES, TensorEntry, tensor_index
from harness.components import canonical
from harness.errors import CheckpointError, Problem
from harness.weights.differences import Difference, difference, ties_embeddings
from harness.weights.tensors import floats

CHUNK_BYTES = 1 << 22
SHOWN = 8
_TYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FLOATS = frozenset(_TYPE_NAMES)
_EMBEDDINGS, _HEAD = "language_model.embed_tokens.weight", "lm_head.weight"
# Rows for tokens that only the transformers format has (`<image>`, padding) are the base's.
_BY_TOKEN = frozenset({_EMBEDDINGS, _HEAD})
# Tables that older programs saved with the weights; models compute them when they are made.
_BUFFERS = (".rotary_emb.inv_freq", ".embeddings.position_ids")


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was written."""

    folder: Path
    tensors: int
    rows_from_base: int
    """Embedding and head rows that the stage lacks."""
    parity: Difference
    """The converted stage against the base: what moved is what was trained."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """One tensor to write: the stage's bytes, then the base's from where the stage ends."""

    name: str
    stage: TensorEntry
    base: TensorEntry

    @property
    def rows_from_base(self) -> int:
        """Rows that only the base has."""
        return (
            0 if self.base.shape == self.stage.shape else self.base.shape[0] - self.stage.shape[0]
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor as written, in the stage's type."""
        return self.base.size * (self.stage.nbytes // max(self.stage.size, 1))


def convert(stage: Path, base: Path, out: Path) -> Conversion:
    """Write `stage` (LLaVA repository) as a transformers folder `out`, laid out like `base`.

    Raises CheckpointError with every tensor that does not match, before anything is written, and
    never touches an existing `out`.
    """
    if out.exists():
        raise CheckpointError(str(out), "exists already; name another folder")
    pieces = _matched(stage, base)
    work = out.with_name(out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for file in sorted(base.iterdir()):
        if file.suffix in (".json", ".jinja", ".txt", ".model") and "index" not in file.name:
            shutil.copyfile(file, work / file.name)
    _declare_type(work / "config.json", {piece.stage.dtype for piece in pieces})
    _write(work / "model.safetensors", pieces)
    parity = difference(base, work)
    work.rename(out)
    return Conversion(out, len(pieces), sum(p.rows_from_base for p in pieces), parity)


def _matched(stage: Path, base: Path) -> list[_Piece]:
    """The base's tensors, each with the stage's of the same path."""
    given = _weights(stage)
    wanted = _weights(base)
    # Tied models save the head or leave it out, and the formats differ in which.
    if ties_embeddings(stage) and _EMBEDDINGS in given:
        if _HEAD in wanted:
            given.setdefault(_HEAD, given[_EMBEDDINGS])
        else:
            given.pop(_HEAD, None)
    problems = [
        Problem(e.name, "the base has no such tensor") for p, e in given.items() if p not in wanted
    ]
    pieces = []
    for path, like in wanted.items():
        own = given.get(path)
        if own is None:
            problems.append(Problem(like.name, "missing from the stage"))
        elif not _fits(path, own, like):
            got, expected = (f"{e.dtype} {list(e.shape)}" for e in (own, like))
            problems.append(Problem(own.name, f"got {got}, expected {expected}"))
        else:
            pieces.append(_Piece(like.name, own, like))
    if problems:
        more = len(problems) - SHOWN
        tail = [Problem("", f"and {more} more tensors")] if more > 0 else []
        raise CheckpointError(str(stage), [*problems[:SHOWN], *tail])
    return pieces


def _weights(folder: Path) -> dict[str, TensorEntry]:
    """The tensors of a folder by canonical path, without tables that are no weights."""
    entries = tensor_index(folder).values()
    return {canonical(e.name): e for e in entries if not e.name.endswith(_BUFFERS)}


def _fits(path: str, own: TensorEntry, like: TensorEntry) -> bool:
    if own.dtype not in _FLOATS or like.dtype not in _FLOATS:
        return own.dtype == like.dtype and own.shape == like.shape
    if path in _BY_TOKEN and len(own.shape) == len(like.shape) == 2:
        return own.shape[1] == like.shape[1] and own.shape[0] <= like.shape[0]
    return own.shape == like.shape


def _write(file: Path, pieces: list[_Piece]) -> None:
    """One safetensors file, bytes copied in chunks."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for piece in pieces:
        end = offset + piece.nbytes
        header[piece.name] = {
            "dtype": piece.stage.dtype,
            "shape": list(piece.base.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as sink:
        sink.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            _copy(piece.stage, sink)
            if piece.rows_from_base:
                rows = floats(piece.base)[piece.stage.shape[0] :]
                sink.write(_as_type(rows, piece.stage.dtype).tobytes())


def _copy(entry: TensorEntry, sink: BinaryIO) -> None:
    with entry.file.open("rb") as source:
        source.seek(entry.offset)
        left = entry.nbytes
        while left:
            part = source.read(min(CHUNK_BYTES, left))
            if not part:
                raise CheckpointError(str(entry.file), f"ends inside {entry.name}")
            sink.write(part)
            left -= len(part)


def _as_type(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """float32 as another of safetensors' types; BF16 rounded to nearest even, as its bits."""
    if dtype != "BF16":
        return values.astype(NUMPY_DTYPES[dtype])
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)


def _declare_type(file: Path, types: set[str]) -> None:
    """The configuration names the type that loaders choose: the stage's, where it has one."""
    names = {_TYPE_NAMES[name] for name in types if name in _TYPE_NAMES}
    if len(names) != 1:
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    if config.get(key) not in (None, *names):
        config[key] = names.pop()
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
