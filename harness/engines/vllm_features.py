"""Image features in vLLM: what the vision tower made of a picture, kept across weight swaps.

vLLM empties its encoder cache when weights change, and every picture would go through the vision
tower again for each checkpoint, though narrow tuning never touched it. Its connector interface
(made for engines that encode for other engines) lets encoder outputs live outside that cache:
here in the same process, under the bytes of the weights that made them.

The scheduler and the worker each make a connector; both sides meet in `_KEPT`, so this serves
engines of one process only, that is one GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.config import ECTransferConfig
from vllm.distributed.ec_transfer.ec_connector.base import ECConnectorBase, ECConnectorMetadata

from harness.checkpoints import tensor_index
from harness.components import COMPONENTS, place
from harness.engines.layouts import canonical
from harness.weights.tensors import read_tensor

LIMIT = "limit_bytes"
# Options under which scheduler and worker would not share a process, or the connector is taken.
_FOREIGN = (
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size",
    "distributed_executor_backend", "ec_transfer_config",
)  # fmt: skip


def connector(arguments: Mapping[str, Any], limit_gb: float) -> ECTransferConfig | None:
    """vLLM's option that keeps features; None where they cannot be kept with these `arguments`."""
    if not limit_gb or any(arguments.get(name) not in (None, 1) for name in _FOREIGN):
        return None
    return ECTransferConfig(
        ec_connector=FeatureKeeper.__qualname__,
        ec_connector_module_path=FeatureKeeper.__module__,
        ec_role="ec_both",
        ec_connector_extra_config={LIMIT: int(limit_gb * 1e9)},
    )


def vision_digest(folders: Sequence[str], shares: Sequence[float]) -> str:
    """Hash (hex) of everything that image features depend on in a checkpoint.

    That is every tensor outside the language model, by its layout-free name. Where the ends of an
    interpolation agree in all of these, so does whatever lies between them.
    """
    ends = [_digest(Path(folder)) for folder in folders]
    if len(set(ends)) == 1:
        return ends[0]
    return hashlib.sha256(repr((ends, tuple(shares))).encode()).hexdigest()


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    entries = {canonical(entry.name): entry for entry in tensor_index(folder).values()}
    for name, entry in sorted(entries.items()):
        if place(entry.name).part not in COMPONENTS["llm"]:
            digest.update(f"{name} {entry.dtype} {entry.shape}".encode())
            digest.update(read_tensor(entry).reshape(-1).view("u1").data)
    return digest.hexdigest()


@dataclass(slots=True)
class _Kept:
    """The features of this process, bounded in bytes."""

    scope: str = ""
    """The vision weights that answer now."""
    encoded: int = 0
    """How many pictures went through the vision tower."""
    limit: int = 0
    used: int = 0
    known: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)

    def keep(self, picture: str, features: torch.Tensor) -> None:
        """What came first stays: a sweep asks in the same order for every checkpoint."""
        size = features.numel() * features.element_size()
        if self.used + size > self.limit:
            self._forget_other_scopes()
        if self.used + size <= self.limit:
            self.used += size
            # A view into the batch's output would keep the whole batch alive.
            self.known[self.scope, picture] = features.detach().to("cpu", copy=True)

    def _forget_other_scopes(self) -> None:
        for key in [key for key in self.known if key[0] != self.scope]:
            features = self.known.pop(key)
            self.used -= features.numel() * features.element_size()


_KEPT = _Kept()


def serve(scope: str) -> None:
    """Serve and keep the features of these vision weights from now on."""
    _KEPT.scope = scope


def encoded() -> int:
    """How many pictures went through the vision tower of this process's engine."""
    return _KEPT.encoded


@dataclass
class _Wanted(ECConnectorMetadata):  # type: ignore[misc]
    """Pictures whose features the worker shall put into vLLM's cache before the next step."""

    pictures: list[str]


class FeatureKeeper(ECConnectorBase):  # type: ignore[misc]
    """vLLM's connector to `_KEPT`: one object on the scheduler's side, one on the worker's."""

    def __init__(self, vllm_config: Any, role: Any):
        super().__init__(vllm_config, role)
        _KEPT.limit = vllm_config.ec_transfer_config.get_from_extra_config(LIMIT, 0)
        self._wanted: list[str] = []

    def has_cache_item(self, identifier: str) -> bool:
        """Whether this picture need not be encoded."""
        return (_KEPT.scope, identifier) in _KEPT.known

    def update_state_after_alloc(self, request: Any, index: int) -> None:
        """Room was made for a picture: note it where its features are here."""
        picture = request.mm_features[index].identifier
        if self.has_cache_item(picture):
            self._wanted.append(picture)

    def build_connector_meta(self, scheduler_output: Any) -> ECConnectorMetadata:
        """What was noted since the step before, for the worker."""
        wanted, self._wanted = self._wanted, []
        return _Wanted(wanted)

    def start_load_caches(self, encoder_cache: dict[str, torch.Tensor], **options: Any) -> None:
        """Put the wanted features into vLLM's cache."""
        for picture in self._get_connector_metadata().pictures:
            if picture not in encoder_cache:
                features = _KEPT.known[_KEPT.scope, picture]
                encoder_cache[picture] = features.to(_device(), non_blocking=True)

    def save_caches(
        self, encoder_cache: dict[str, torch.Tensor], mm_hash: str, **options: Any
    ) -> None:
        """A picture was encoded."""
        _KEPT.encoded += 1
        _KEPT.keep(mm_hash, encoder_cache[mm_hash])

    def shutdown(self) -> None:
        """The engine ends: the next one may be of another architecture."""
        _KEPT.known.clear()
        _KEPT.used = _KEPT.encoded = 0
        _KEPT.scope = ""


def _device() -> torch.device:
    from vllm.platforms import current_platform

    kind = str(current_platform.device_type)
    if current_platform.is_cuda_alike():
        return torch.device(kind, int(current_platform.current_device()))
    return torch.device(kind)
