"""Checkpoints on disk: what tensors a model folder holds, read without torch and without trust.

A checkpoint is known by its content: `fingerprint` hashes the weights' bytes and the
architecture, never a name. Only safetensors are read; every header is checked against the size
of its file before anything is allocated, because a header is data from a stranger.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError, Problem

# safetensors' own limit on a header (its specification, "format").
MAX_HEADER_BYTES = 100_000_000
# Bits per element of the types safetensors knows.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
# How numpy reads them; bfloat16 and the 8-bit floats come as raw bits (numpy has no such types).
NUMPY_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "BF16": "<u2",
    "I32": "<i4", "U32": "<u4", "F32": "<f4", "F64": "<f8", "I64": "<i8", "U64": "<u8",
    "C64": "<c8", "F8_E5M2": "u1", "F8_E4M3": "u1", "F8_E8M0": "u1",
}  # fmt: skip
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
SAFE_CONVERSION = (
    "pickled weights run code when they are loaded; convert them where you trust them: "
    'python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('pytorch_model.bin', weights_only=True), 'model.safetensors', "
    "{'format': 'pt'})\""
)
# Keys of config.json that say nothing about the computation.
CONFIG_NOISE = frozenset({"_name_or_path", "transformers_version", "architectures_history"})
# Keys that training loops leave behind and engines decide for themselves.
RUNTIME_KEYS = frozenset({"use_cache", "dtype", "torch_dtype"})
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
)  # fmt: skip
PROCESSOR_FILES = (
    "processor_config.json", "preprocessor_config.json", "image_processor_config.json",
    "chat_template.json", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor's bytes lie."""

    name: str
    file: Path
    dtype: str
    """safetensors' type name, for example `F32`, `BF16`."""
    shape: tuple[int, ...]
    offset: int
    """First byte in `file`."""
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def printable(name: str) -> str:
    """A stranger's name as one line of text that does nothing to a terminal.

    >>> printable("a\\x1b[2J")
    'a\\\\x1b[2J'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name
    )


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a peft adapter instead of a whole model."""
    return (folder / "adapter_config.json").is_file()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up a checkpoint, in name order. A file is its own.

    Raises CheckpointError when there are none (naming pickles, if that is what there is) or when
    the shard index names files that are missing.
    """
    if folder.is_file():
        if folder.suffix == ".safetensors":
            return [folder]
        raise CheckpointError(str(folder), "is neither a folder nor a safetensors file")
    if not folder.is_dir():
        why = _not_regular(folder) if os.path.lexists(folder) else ""
        raise CheckpointError(str(folder), why or "no such checkpoint folder")
    index = folder / "model.safetensors.index.json"
    if is_adapter(folder):
        files = [folder / "adapter_model.safetensors"]
        files = [file for file in files if os.path.lexists(file)]
    elif index.is_file():
        shards = sorted(set(_weight_map(index).values()))
        if not shards:
            raise CheckpointError(
                str(index), "lists no tensor (weight_map is empty); save the checkpoint again, or"
                " delete this file if the folder's *.safetensors are all there is",
            )  # fmt: skip
        files = [folder / shard for shard in shards]
        missing = [file.name for file in files if not os.path.lexists(file)]
        if missing:
            raise CheckpointError(
                str(folder), f"the index names {', '.join(missing)}, which the folder lacks; "
                "copy the missing shards or save the checkpoint again",
            )  # fmt: skip
    else:
        files = sorted(folder.glob("*.safetensors"))
    if odd := [Problem(file.name, what) for file in files if (what := _not_regular(file))]:
        raise CheckpointError(str(folder), odd)
    if files:
        return files
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(str(folder), f"only {pickles[0]} found: {SAFE_CONVERSION}")
    holds = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
    raise CheckpointError(str(folder), f"no *.safetensors here; the folder holds {holds}")


def _not_regular(file: Path) -> str:
    """Why it cannot be opened as a file, or "". A pipe, for one, would be waited for for ever."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        link = "a link that leads nowhere" if file.is_symlink() else "out of reach"
        return f"is {link} ({error.strerror}); put the file itself there"
    if stat.S_ISREG(mode):
        return ""
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
    return f"is {kind}, not a file; put the file itself there"


def tensor_index(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of a checkpoint by name, from the files' headers alone.

    Raises CheckpointError with all problems found: torn files, headers that claim bytes a file
    does not have, unknown types, tensors present twice or missing against the shard index.
    """
    entries: dict[str, TensorEntry] = {}
    problems: list[Problem] = []
    for file in weight_files(folder):
        try:
            for entry in read_header(file):
                if entry.name in entries:
                    other = entries[entry.name].file.name
                    twice = f"tensor {printable(entry.name)} is also in {other}"
                    problems.append(Problem(file.name, twice))
                entries[entry.name] = entry
        except CheckpointError as error:
            problems.extend(error.problems)
        except OSError as error:
            problems.append(Problem(file.name, f"cannot be read: {error.strerror}"))
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not problems and not is_adapter(folder):
        problems.extend(_against_index(_weight_map(index), entries))
    if problems:
        raise CheckpointError(str(folder), problems)
    return entries


def read_header(file: Path) -> Iterator[TensorEntry]:
    """The tensors of one safetensors file, in the header's order.

    At least as strict as the safetensors library: the tensors lie end to end and fill the file,
    numbers are whole, no key comes twice. Raises CheckpointError on anything else.
    """
    header, data, size = _header(file)
    entries = [
        _entry(file, name, fields, data)
        for name, fields in header.items()
        if name != "__metadata__"
    ]
    end = data
    for entry in sorted(entries, key=lambda e: (e.offset, e.nbytes)):
        name = printable(entry.name)
        if entry.offset + entry.nbytes > size:
            text = f"tensor {name} ends at byte {entry.offset + entry.nbytes:,}"
            raise _torn(file, f"{text}, the file has {size:,}")
        if entry.offset != end:
            text = f"tensor {name} begins at byte {entry.offset:,}, expected {end:,}"
            raise _torn(file, f"{text}: tensors overlap or leave a gap; save the file again")
        end += entry.nbytes
    if end != size:
        text = f"the last tensor ends at byte {end:,}, the file has {size:,}"
        raise _torn(file, f"{text}; what follows belongs to nothing, save the file again")
    yield from entries


def _torn(file: Path, text: str) -> CheckpointError:
    return CheckpointError("", [Problem(file.name, text)])


def _header(file: Path) -> tuple[dict[str, Any], int, int]:
    """(header, first byte of the data, size of the file)."""
    size = file.stat().st_size
    if size < 8:
        text = "is empty" if not size else f"has {size:,} bytes, too few for a header"
        raise _torn(file, f"{text}; it is torn")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > size - 8:
            text = f"the header claims {length:,} bytes, the file has {size:,}"
            raise _torn(file, f"{text}; it is torn")
        if length > MAX_HEADER_BYTES:
            raise _torn(file, f"the header claims {length:,} bytes, more than {MAX_HEADER_BYTES:,}")
        raw = stream.read(length)
    try:
        # Decoded here: `json` would take UTF-16 as well, which no other reader does.
        header = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except _Repeated as error:
        raise _torn(file, f"the header has the key {printable(str(error))} twice") from None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise _torn(file, "the header is not that of a safetensors file")
    metadata = header.get("__metadata__")
    if metadata is not None and not _strings(metadata):
        raise _torn(file, "the header's __metadata__ is no object of strings")
    return header, 8 + length, size


def _entry(file: Path, name: str, fields: object, data: int) -> TensorEntry:
    shown = f"tensor {printable(name)}"
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        text = "the header is not that of a safetensors file"
        raise _torn(file, f"{text}: {shown} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _torn(file, f"{shown} has the unknown type {_short(dtype)}")
    if not _whole_numbers(shape):
        raise _torn(
            file, f"{shown} has the shape {_short(shape)}; expected whole numbers, 0 or more"
        )
    if not _whole_numbers(offsets) or len(offsets) != 2:
        text = f"{shown} has the data_offsets {_short(offsets)}"
        raise _torn(file, f"{text}; expected two whole numbers, 0 or more")
    bits = DTYPE_BITS[dtype]
    for length in shape:
        bits *= length
        # Bound at each step: the product of a stranger's numbers may take hours.
        if bits >= _WORD:
            raise _torn(file, f"{shown} has the shape {_short(shape)}, larger than any file")
    begin, end = offsets
    if bits % 8 or end - begin != bits // 8:
        extent = f"{end - begin:,}"
        raise _torn(file, f"{shown} claims {-(-bits // 8):,} bytes at an extent of {extent}")
    return TensorEntry(name, file, dtype, tuple(shape), data + begin, bits // 8)


# safetensors' numbers are unsigned, of 64 bits.
_WORD = 1 << 64


def _whole_numbers(values: object) -> bool:
    """Whether it is a list of them as the format means: no float, no text, no true or false."""
    return isinstance(values, list) and all(type(v) is int and 0 <= v < _WORD for v in values)


def _strings(values: object) -> bool:
    return isinstance(values, dict) and all(type(v) is str for v in values.values())


def _short(value: object) -> str:
    text = printable(repr(value) if not isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:60]}..."


class _Repeated(ValueError):
    """A JSON object with a key twice: readers differ in which value counts."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = sorted(key for key, _ in pairs)
        raise _Repeated(next(one for one, other in pairwise(keys) if one == other))
    return found


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json (adapter_config.json for an adapter). Raises CheckpointError."""
    file = folder / ("adapter_config.json" if is_adapter(folder) else "config.json")
    if os.path.lexists(file) and (odd := _not_regular(file)):
        raise CheckpointError(str(folder), f"{file.name} {odd}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(str(folder), f"{file.name} is missing") from None
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(str(folder), f"{file.name} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(str(folder), f"{file.name} holds no JSON object")
    return config


def architecture(folder: Path) -> str:
    """Hash of what one live engine can serve: the configuration without names, versions, or what
    an engine sets itself."""
    return _digest(_meaningful(read_config(folder), CONFIG_NOISE | RUNTIME_KEYS))


def fingerprint(folder: Path) -> str:
    """Hash of the weights' bytes and the configuration (hex). Reads every byte: seconds per 10 GB.

    Two folders with equal fingerprints answer alike; names and times play no part.
    """
    tensor_index(folder)
    digest = hashlib.sha256(_digest(_meaningful(read_config(folder))).encode())
    for file in weight_files(folder):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def processor_fingerprint(folder: Path) -> str:
    """Hash of the tokenizer's and processor's files (hex): they decide what a prompt becomes."""
    digest = hashlib.sha256()
    for name in (*TOKENIZER_FILES, *PROCESSOR_FILES):
        file = folder / name
        if file.is_file():
            digest.update(name.encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()


def has_processor(folder: Path) -> bool:
    """Whether tokenizer and image processor are both here (a stage often lacks them)."""
    tokenizer = any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model"))
    processor = any((folder / n).is_file() for n in PROCESSOR_FILES[:2])
    return tokenizer and processor


def file_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """(name, size, modification time in ns) of what a fingerprint reads: a cheap key for it."""
    files = [*weight_files(folder), *folder.glob("*config.json")]
    stats = [(file.name, file.stat()) for file in sorted(files)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {str(tensor): str(shard) for tensor, shard in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise CheckpointError(str(index), f"not a shard index ({error})") from None
    outside = [shard for shard in shards.values() if Path(shard).name != shard]
    if outside:
        raise CheckpointError(str(index), f"the shard {outside[0]!r} is not a plain file name")
    return shards


def _against_index(index: Mapping[str, str], entries: Mapping[str, TensorEntry]) -> list[Problem]:
    lost = [name for name in index if name not in entries]
    extra = [name for name in entries if name not in index]
    found = []
    if lost:
        found.append(
            Problem("index", f"{len(lost)} tensors are in no shard, first {printable(lost[0])}")
        )
    if extra:
        found.append(
            Problem("index", f"{len(extra)} tensors are not listed, first {printable(extra[0])}")
        )
    return found


def _meaningful(config: Any, noise: frozenset[str] = CONFIG_NOISE) -> Any:
    if isinstance(config, dict):
        return {k: _meaningful(v, noise) for k, v in config.items() if k not in noise}
    return [_meaningful(item, noise) for item in config] if isinstance(config, list) else config


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
