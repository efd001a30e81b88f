"""Checkpoints on disk: what tensors a model folder holds, read without torch and without trust.

A checkpoint is known by its content: `fingerprint` hashes the weights' bytes and the
architecture, never a name. Only safetensors are read; every header is checked against the size
of its file before anything is allocated, because a header is data from a stranger.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
        raise CheckpointError(str(folder), "no such checkpoint folder")
    index = folder / "model.safetensors.index.json"
    if is_adapter(folder):
        files = [folder / "adapter_model.safetensors"]
        files = [file for file in files if file.is_file()]
    elif index.is_file():
        shards = sorted(set(_weight_map(index).values()))
        files = [folder / shard for shard in shards]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise CheckpointError(
                str(folder), f"the index names {', '.join(missing)}, which the folder lacks; "
                "copy the missing shards or save the checkpoint again",
            )  # fmt: skip
    else:
        files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(str(folder), f"only {pickles[0]} found: {SAFE_CONVERSION}")
    holds = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
    raise CheckpointError(str(folder), f"no *.safetensors here; the folder holds {holds}")


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
                    twice = f"tensor {entry.name} is also in {entries[entry.name].file.name}"
                    problems.append(Problem(file.name, twice))
                entries[entry.name] = entry
        except CheckpointError as error:
            problems.extend(error.problems)
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not problems and not is_adapter(folder):
        problems.extend(_against_index(_weight_map(index), entries))
    if problems:
        raise CheckpointError(str(folder), problems)
    return entries


def read_header(file: Path) -> Iterator[TensorEntry]:
    """The tensors of one safetensors file. Raises CheckpointError on anything inconsistent."""

    def torn(text: str) -> CheckpointError:
        return CheckpointError("", [Problem(file.name, text)])

    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise torn(f"the header claims {length:,} bytes, the file has {size:,}; it is torn")
        if length > MAX_HEADER_BYTES:
            raise torn(f"the header claims {length:,} bytes, more than {MAX_HEADER_BYTES:,}")
        try:
            header = json.loads(stream.read(length))
            tensors = {k: v for k, v in header.items() if k != "__metadata__"}
            fields = [
                (name, str(t["dtype"]), tuple(map(int, t["shape"])), *map(int, t["data_offsets"]))
                for name, t in tensors.items()
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise torn("the header is not that of a safetensors file") from None
    data = 8 + length
    for name, dtype, shape, begin, end in fields:
        if dtype not in DTYPE_BITS:
            raise torn(f"tensor {name} has the unknown type {dtype}")
        nbytes = math.prod(shape) * DTYPE_BITS[dtype] // 8
        if min(shape, default=0) < 0 or begin < 0 or end - begin != nbytes:
            raise torn(f"tensor {name} claims {nbytes:,} bytes at an extent of {end - begin:,}")
        if data + end > size:
            raise torn(f"tensor {name} ends at byte {data + end:,}, the file has {size:,}")
        yield TensorEntry(name, file, dtype, shape, data + begin, nbytes)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json (adapter_config.json for an adapter). Raises CheckpointError."""
    file = folder / ("adapter_config.json" if is_adapter(folder) else "config.json")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(str(folder), f"{file.name} is missing") from None
    except (ValueError, OSError) as error:
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
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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
        found.append(Problem("index", f"{len(lost)} tensors are in no shard, first {lost[0]}"))
    if extra:
        found.append(Problem("index", f"{len(extra)} tensors are not listed, first {extra[0]}"))
    return found


def _meaningful(config: Any, noise: frozenset[str] = CONFIG_NOISE) -> Any:
    if isinstance(config, dict):
        return {k: _meaningful(v, noise) for k, v in config.items() if k not in noise}
    return [_meaningful(item, noise) for item in config] if isinstance(config, list) else config


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
