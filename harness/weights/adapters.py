"""A LoRA folder: what it adds to which tensor, read from its factors.

LoRA adds scale x B A to a weight and scale x bias to a bias, and may store whole tensors beside
(`modules_to_save`, `bias`). Whatever acts otherwise is refused by name: a norm that is almost right
would be worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.checkpoints import TensorEntry, printable, read_config, tensor_index
from harness.components import canonical
from harness.errors import CheckpointError
from harness.weights.tensors import floats, sizes

# Elements of an adapter's product formed at a time.
_PRODUCT_ELEMENTS = 1 << 17
CURE = (
    "the audit cannot read this kind of adapter; merge it into its base (peft's merge_and_unload(),"
    " then save_pretrained) and audit that folder"
)
# What peft writes for LoRA: factors of a linear layer or an embedding, and the bias of B.
_PART = re.compile(
    r"(?P<module>.+?)\.(?:(?P<factor>lora_[AB])\.(?P<kind>weight|bias)"
    r"|(?P<embedding>lora_embedding_[AB]))"
)
# Where peft keeps a module that it wraps, within that module's name.
_WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")
# Initialisations that leave the base as it is: B A begins as nothing. Others (pissa, olora, corda,
# loftq, lora_ga) take what they begin with out of the base.
_PLAIN_STARTS = frozenset({"true", "false", "none", "gaussian", "eva", "orthogonal", "mica"})
# Variants of LoRA under which the change is not scale x B A.
_VARIANTS: Mapping[str, str] = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "a router of adapters",
    "alora_invocation_tokens": "LoRA that only some tokens switch on",
    "layer_replication": "LoRA over repeated layers",
    "target_parameters": "LoRA of single parameters",
    "trainable_token_indices": "LoRA with trained tokens",
}
# `lora_alpha` of a configuration that does not say.
_PEFTS_ALPHA = 8
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})

Array = NDArray[np.float32]


class UnreadableAdapter(CheckpointError):
    """An adapter, sound or not, whose change cannot be computed from its factors."""

    def __init__(self, folder: Path, kind: str):
        super().__init__(str(folder), f"{kind}: {CURE}")


@dataclass(frozen=True, slots=True)
class Product:
    """What an adapter adds to one tensor: B A, or its transpose."""

    a: Array
    """rank x inputs (of an embedding: x tokens; of a bias: x 1)."""
    b: Array
    """outputs x rank, scaled."""
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor it is added to, in which a bias is a single column."""
        shape = (self.b.shape[0], self.a.shape[1])
        return shape[::-1] if self.transposed else shape

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.a).all() and np.isfinite(self.b).all())

    def same(self, other: Product) -> bool:
        """Whether the factors are equal: products of equal ones cancel to rounding error only."""
        return (
            (self.a.shape, self.b.shape) == (other.a.shape, other.b.shape)
            and bool((self.a == other.a).all())
            and bool((self.b == other.b).all())
        )

    def minus(self, other: Product) -> Product:
        """The difference, as one product."""
        a, b = np.vstack([self.a, other.a]), np.hstack([self.b, -other.b])
        return Product(a, b, self.transposed)

    def sum_squares(self) -> float:
        """Of all elements, without forming the product."""
        b, a = self.b.astype(np.float64), self.a.astype(np.float64)
        return max(float(((b.T @ b) * (a @ a.T)).sum()), 0.0)

    def largest(self) -> float:
        """Largest absolute element."""
        rows = max(1, _PRODUCT_ELEMENTS // max(self.a.shape[1], 1))
        parts = range(0, len(self.b), rows)
        return max(float(np.abs(self.b[i : i + rows] @ self.a).max()) for i in parts)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a LoRA folder holds, by the canonical path of the tensor it changes."""

    products: dict[str, Product] = field(default_factory=dict)
    whole: dict[str, TensorEntry] = field(default_factory=dict)
    """Tensors stored as they are, instead of the base's."""
    any_orientation: bool = False
    """Some of its layers store their weights transposed (`fan_in_fan_out`)."""


def read_adapter(folder: Path) -> Adapter:
    """Read a LoRA folder.

    Raises UnreadableAdapter for other kinds of adapters, CheckpointError for torn ones.
    """
    config = read_config(folder)
    if kind := beyond_lora(config):
        raise UnreadableAdapter(folder, kind)
    found = Adapter(any_orientation=bool(config.get("fan_in_fan_out")))
    factors: dict[str, dict[str, TensorEntry]] = {}
    for entry in tensor_index(folder).values():
        part = _PART.fullmatch(entry.name)
        if part is not None and entry.dtype in _FLOATS:
            name = part["embedding"] or f"{part['factor']}.{part['kind']}"
            factors.setdefault(part["module"], {})[name] = entry
        elif part is not None or ".lora_" in entry.name:
            kind = "DoRA" if "magnitude" in entry.name else f"a tensor {printable(entry.name)}"
            raise UnreadableAdapter(folder, kind)
        else:
            path = canonical(_WRAPPED.sub("", entry.name))
            if path in found.whole:
                text = f"{printable(entry.name)} and {printable(found.whole[path].name)} are one"
                raise CheckpointError(str(folder), f"{text} tensor; which of them counts?")
            found.whole[path] = entry
    _refuse_torn(folder, config, found)
    for module, parts in factors.items():
        for path, product in _products(folder, config, module, parts):
            if path in found.products:
                text = f"changes {printable(path)} twice, under two names"
                raise CheckpointError(str(folder), text)
            found.products[path] = product
    return found


def beyond_lora(config: Mapping[str, Any]) -> str:
    """What an adapter is, by its configuration, other than factors added to a base; "" = nothing.

    `DoRA (use_dora)`, `IA3`, `LoRA that began by changing the base (init_lora_weights: pissa)`.
    """
    kind = str(config.get("peft_type") or "LORA")
    if kind != "LORA":
        return printable(kind)
    for key, name in _VARIANTS.items():
        if config.get(key) not in (None, False, [], {}):
            return f"{name} ({key})"
    start = str(config.get("init_lora_weights"))
    if start.lower() not in _PLAIN_STARTS:
        return f"LoRA that began by changing the base (init_lora_weights: {printable(start)})"
    return ""


def _refuse_torn(folder: Path, config: Mapping[str, Any], found: Adapter) -> None:
    saved = config.get("modules_to_save") or []
    for module in saved if isinstance(saved, list) else [saved]:
        if not any(f".{module}." in f".{entry.name}" for entry in found.whole.values()):
            text = f"modules_to_save names {printable(str(module))}, of which it holds no tensor"
            raise CheckpointError(str(folder), f"{text}; save the adapter again")


def _products(
    folder: Path, config: Mapping[str, Any], module: str, parts: Mapping[str, TensorEntry]
) -> Iterator[tuple[str, Product]]:
    """(canonical path, what is added there) for one adapted module."""
    embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    names = (
        ("lora_embedding_A", "lora_embedding_B")
        if embedding
        else ("lora_A.weight", "lora_B.weight")
    )
    for name in names:
        if name not in parts:
            given, lost = next(iter(parts.values())).name, name.partition(".")[0]
            text = f"{printable(given)} has no {lost} beside it; save the adapter again"
            raise CheckpointError(str(folder), text)
    if "lora_A.bias" in parts or (embedding and len(parts) > 2):
        raise UnreadableAdapter(folder, f"a mixture of tensors at {printable(module)}")
    one, other = parts[names[0]], parts[names[1]]
    if len(one.shape) != 2 or len(other.shape) != 2:
        raise UnreadableAdapter(folder, f"LoRA of a convolution at {printable(module)}")
    a, b = floats(one), floats(other)
    if len(a) != b.shape[1] or not len(a):
        got = f"factors of {sizes(one.shape)} and {sizes(other.shape)}"
        text = f"{printable(module)} has {got}; expected one rank, at least 1, in both"
        raise CheckpointError(str(folder), text)
    scale = _scale(folder, config, module, len(a))
    yield canonical(f"{module}.weight"), Product(a, scale * b, transposed=embedding)
    if "lora_B.bias" in parts:
        bias = floats(parts["lora_B.bias"]).reshape(-1, 1)
        yield canonical(f"{module}.bias"), Product(np.ones((1, 1), np.float32), scale * bias)


def _scale(folder: Path, config: Mapping[str, Any], module: str, rank: int) -> np.float32:
    """alpha / rank; alpha as peft finds it: what `alpha_pattern` first matches, or `lora_alpha`."""
    alpha, inside = config.get("lora_alpha", _PEFTS_ALPHA), module.removeprefix("base_model.model.")
    try:
        for pattern, own in (config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", inside):
                alpha = own
                break
        scale = float(alpha) / (sqrt(rank) if config.get("use_rslora") else rank)
    except (TypeError, ValueError, AttributeError, OverflowError, re.error) as error:
        text = f"adapter_config.json has no usable lora_alpha or alpha_pattern: {error}"
        raise CheckpointError(str(folder), text) from None
    return np.float32(scale)
