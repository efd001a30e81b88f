"""A checkpoint as vLLM needs it: names and shapes that fit, an adapter's rank, a whole folder.

Compared before anything is loaded, because an engine does not survive a reload that fails.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoints import (
    PROCESSOR_FILES,
    TOKENIZER_FILES,
    file_stamps,
    read_config,
    tensor_index,
)
from harness.engines.layouts import canonical, shortened
from harness.errors import CheckpointError, Problem
from harness.types import Checkpoint
from harness.weights.adapters import beyond_lora

# The ranks that vLLM can be started with (its `MaxLoRARanks`).
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VISION = re.compile(r"vision|visual|projector|image_newline")
PROCESSING_FILES = (*TOKENIZER_FILES, *PROCESSOR_FILES)


@dataclass(frozen=True, slots=True)
class Weights:
    """What the live engine holds, by content."""

    folders: tuple[str, ...]
    shares: tuple[float, ...]
    stamps: tuple[Any, ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Weights:
        folders = (checkpoint.path, *(path for path, _ in checkpoint.blend))
        stamps = tuple(tuple(file_stamps(Path(folder))) for folder in folders)
        return cls(folders, tuple(share for _, share in checkpoint.blend), stamps)


def complete_folder(checkpoint: Checkpoint, temporary: Path) -> Path:
    """The checkpoint's folder, or one of links where the processor's files lie elsewhere."""
    if checkpoint.processor_path == checkpoint.path:
        return Path(checkpoint.path)
    for folder in (Path(checkpoint.path), Path(checkpoint.processor_path)):
        for file in folder.iterdir():
            wanted = folder == Path(checkpoint.path) or file.name in PROCESSING_FILES
            if wanted and file.is_file() and not (temporary / file.name).exists():
                (temporary / file.name).symlink_to(file.resolve())
    return temporary


def checked_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by layout-free name; folders of a blend must agree."""
    shapes = _shapes(checkpoint.path)
    for folder, _ in checkpoint.blend:
        refuse_differences(folder, shapes, _shapes(folder))
    return shapes


def _shapes(folder: str) -> dict[str, tuple[int, ...]]:
    entries = tensor_index(Path(folder)).values()
    shapes = {canonical(entry.name): entry.shape for entry in entries}
    config = read_config(Path(folder))
    text = config.get("text_config")
    if config.get("tie_word_embeddings", (text or {}).get("tie_word_embeddings", False)):
        # A tied head may be written or not: it is the embedding.
        shapes.pop("lm_head.weight", None)
    return shapes


def refuse_differences(
    folder: str, expected: Mapping[str, tuple[int, ...]], got: Mapping[str, tuple[int, ...]]
) -> None:
    """Raises CheckpointError naming tensors that are missing, too many or of another shape."""
    problems = [Problem(n, "missing from the checkpoint") for n in expected if n not in got]
    problems += [Problem(n, "the model has no such tensor") for n in got if n not in expected]
    problems += [
        Problem(name, f"shape {'x'.join(map(str, got[name]))}, expected "
                f"{'x'.join(map(str, shape))}")
        for name, shape in expected.items()
        if name in got and got[name] != shape
    ]  # fmt: skip
    if problems:
        raise CheckpointError(folder, shortened(problems))


def _beyond_vllm(config: Mapping[str, Any]) -> str:
    """What an adapter has that vLLM would die of, or leave out without a word; "" = nothing."""
    if kind := beyond_lora(config):
        return f"is {kind}; vLLM applies plain LoRA alone"
    parts = {
        "biases": config.get("lora_bias") or config.get("bias", "none") != "none",
        "whole modules (modules_to_save)": config.get("modules_to_save"),
    }
    found = [name for name, there in parts.items() if there]
    return f"has {' and '.join(found)}; vLLM applies plain LoRA alone" if found else ""


def lora_rank(checkpoint: Checkpoint) -> int:
    """Rank that the engine must be started with; 0 without an adapter. Raises CheckpointError."""
    if not checkpoint.adapter:
        return 0
    folder = Path(checkpoint.adapter)
    config = read_config(folder)
    what = _beyond_vllm(config)
    vision = [name for name in tensor_index(folder) if VISION.search(name)]
    if vision and not what:
        what = f"{vision[0]} lies outside the language model, where vLLM applies none"
    if what:
        cure = "merge the adapter into its base, or score it with --engine hf"
        raise CheckpointError(str(folder), f"{what}; {cure}")
    ranks = [config.get("r", 8), *(config.get("rank_pattern") or {}).values()]
    return max(LORA_RANKS[bisect.bisect_left(LORA_RANKS, min(max(ranks), LORA_RANKS[-1]))], 1)
