"""The worker's side of a weight swap: a checkpoint's tensors streamed into a live vLLM model.

vLLM loads this class into its worker process (`worker_extension_cls`). Reading here, rather than
letting vLLM read a folder, allows names to be translated and checkpoints to be interpolated on
the fly, without a second copy on disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm.model_executor.model_loader import register_model_loader
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader

from harness.checkpoints import tensor_index
from harness.engines.layouts import canonical, served_name

# vLLM's `load_format` for a start from what it cannot read by itself.
STREAMED = "forgeteval"


@register_model_loader(STREAMED)
class StreamedLoader(DefaultModelLoader):  # type: ignore[misc]
    """Starts an engine from translated or interpolated tensors.

    Not from random weights (`dummy`) and a reload: vLLM randomises as well what no checkpoint
    holds (how Qwen2.5-VL's pictures are normalised), and no reload brings that back.
    """

    def __init__(self, load_config: Any):
        given = load_config.model_loader_extra_config
        self._folders, self._shares = given["folders"], given["shares"]
        super().__init__(replace(load_config, model_loader_extra_config={}))

    def download_model(self, model_config: Any) -> None:
        """Everything is on the disk already."""

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        """What the default loader would read from files, name by name."""
        yield from tensors(self._folders, self._shares)


class ReloadExtension:
    """Adds the methods of a swap to vLLM's worker."""

    def forgeteval_reload(self, folders: Sequence[str], shares: Sequence[float]) -> None:
        """Load the first folder's weights, moved by `shares[i]` towards folder i + 1."""
        worker: Any = self
        worker.reload_weights(weights_iterator=tensors(folders, shares))
        _repack_tied_head(worker.model_runner.get_model())

    def forgeteval_features(self, scope: str) -> int:
        """Keep and serve image features under `scope`; the number of pictures encoded so far."""
        from harness.engines import vllm_features

        vllm_features.serve(scope)
        return vllm_features.encoded()


def tensors(folders: Sequence[str], shares: Sequence[float]) -> Iterator[tuple[str, Any]]:
    """(name as vLLM knows it, tensor) of the interpolated checkpoint, one at a time."""
    from safetensors import safe_open

    from harness.engines.blending import blended

    indexes = [
        {canonical(entry.name): entry for entry in tensor_index(Path(folder)).values()}
        for folder in folders
    ]
    opened: dict[Path, Any] = {}
    ordered = sorted(indexes[0].items(), key=lambda item: (str(item[1].file), item[1].offset))
    for key, first in ordered:
        values = []
        for index in indexes:
            entry = index[key]
            if entry.file not in opened:
                opened[entry.file] = safe_open(str(entry.file), framework="pt", device="cpu")
            values.append(opened[entry.file].get_tensor(entry.name))
        yield served_name(first.name), blended(values, shares).to(values[0].dtype)


def _repack_tied_head(model: Any) -> None:
    """Pack a tied output head again: vLLM's CPU backend keeps the first checkpoint's otherwise.

    A tied head is never "loaded", so nothing tells the backend that its weights changed; its
    answers would be silently those of the checkpoint that the engine started with.
    """
    language = getattr(model, "language_model", model)
    head = getattr(language, "lm_head", None)
    config = getattr(language, "config", None)
    if head is None or not getattr(config, "tie_word_embeddings", False):
        return
    method = getattr(head, "quant_method", None)
    if method is not None and head.weight.device.type == "cpu":
        method.process_weights_after_loading(head)
