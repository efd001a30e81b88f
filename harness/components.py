"""Components: named sets of a model's parameters, told apart by where a parameter sits.

A parameter's name is a path. Its root says which tower it belongs to, its position inside that
tower which component; a substring is never enough, because vision towers have `self_attn.q_proj`
and `mlp.gate_proj` too. Checkpoints carry the same path under several layouts (transformers before
and after 4.52, in memory, the LLaVA repository, peft and DDP wrappers), so every question starts
from the canonical path that `canonical` returns. Names only: nothing here needs torch.

>>> component_of("model.visual.blocks.0.mlp.gate_proj.weight")
'vision'
>>> component_of("model.layers.0.mlp.gate_proj.weight")
'mlp_gate_up'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Protocol, TypeVar

from harness.errors import Problem, UserError, did_you_mean

# What a wrapper puts before the path: peft, DistributedDataParallel, torch.compile, and the
# `model.` of every transformers class with a head.
_WRAPPERS = frozenset({"base_model", "module", "_orig_mod", "model"})
_VISION_ROOTS = frozenset({"vision_tower", "visual", "vision_model", "vision_encoder"})
# `mm_projector` and `vision_resampler` are the LLaVA repository's, `connector` Idefics3's and
# SmolVLM's, `mlp1` InternVL's own.
_PROJECTOR_ROOTS = frozenset(
    {"multi_modal_projector", "mm_projector", "vision_resampler", "connector", "mlp1"}
)
# Inside the vision module of Qwen's models: what maps picture features to the language model.
_MERGERS = frozenset({"merger", "deepstack_merger_list"})
_LANGUAGE_ROOTS = frozenset({"language_model", "text_model"})
# Roots of a language model that has no module of its own (LLaVA repository, Qwen before 4.52).
_BARE_LANGUAGE = frozenset({"layers", "embed_tokens", "tok_embeddings", "norm", "lm_head"})
_STACKS = frozenset({"layers", "layer", "blocks"})

_ATTENTION = frozenset({"self_attn", "attention", "attn"})
_ATTENTION_PARTS = {
    "q_proj": "sa_q",
    "k_proj": "sa_k",
    "v_proj": "sa_v",
    "o_proj": "sa_o",
    "wo": "sa_o",
    "qkv_proj": "sa_fused",
    "wqkv": "sa_fused",
}
_MLP = frozenset({"mlp", "feed_forward", "block_sparse_moe"})
_MLP_PARTS = {
    "gate_proj": "mlp_gate",
    "w1": "mlp_gate",
    "up_proj": "mlp_up",
    "w3": "mlp_up",
    "gate_up_proj": "mlp_fused",
    "down_proj": "mlp_down",
    "w2": "mlp_down",
}

_SA_QKV = frozenset({"sa_q", "sa_k", "sa_v", "sa_fused"})
_SA = _SA_QKV | {"sa_o"}
_GATE_UP = frozenset({"mlp_gate", "mlp_up", "mlp_fused"})
_MLP_ALL = _GATE_UP | {"mlp_down", "mlp_other"}
_LLM = _SA | _MLP_ALL | {"embeddings", "norms", "head", "llm_other"}

# Component -> the parts it is made of. `full` is everything, unknown modules included.
COMPONENTS: Mapping[str, frozenset[str]] = {
    "full": _LLM | {"vision", "projector", "newline", "other"},
    "vision": frozenset({"vision"}),
    "projector": frozenset({"projector"}),
    "llm": _LLM,
    "sa_proj": _SA,
    "sa_qkv": _SA_QKV,
    "sa_vo": frozenset({"sa_v", "sa_o"}),
    "mlp": _MLP_ALL,
    "mlp_gate_up": _GATE_UP,
    "mlp_down": frozenset({"mlp_down"}),
    "embeddings": frozenset({"embeddings"}),
    "norms": frozenset({"norms"}),
    "head": frozenset({"head"}),
    # The learned row separator of LLaVA models: neither the study's projector nor its llm.
    "newline": frozenset({"newline"}),
}

# The partition that tables and audits show: each parameter counts in exactly one of these.
DISJOINT = (
    *("vision", "projector", "newline", "embeddings", "sa_proj", "mlp_gate_up", "mlp_down"),
    *("mlp_other", "norms", "head", "llm_other", "other"),
)
_SHOWN = dict.fromkeys(_SA, "sa_proj") | dict.fromkeys(_GATE_UP, "mlp_gate_up")

_TERM = re.compile(r"(?P<name>\w+)(?:\[(?P<range>[^\]]*)\])?")


class ComponentError(UserError):
    """A component expression that names nothing, or nothing in this model."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one parameter sits."""

    part: str
    """The finest unit, for example `sa_q`, `mlp_down`, `vision`; see `COMPONENTS`."""
    layer: int | None
    """Index in its stack of layers (of the vision tower or the language model); None = outside."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A range of layers, resolved once the number of layers is known."""

    start: int | None
    stop: int | None

    def __call__(self, count: int) -> range:
        """The layer indices meant in a stack of `count` layers."""
        return range(count)[slice(self.start, self.stop)]


@dataclass(frozen=True, slots=True)
class Term:
    """One summand of an expression: a component, perhaps cut to a range of layers."""

    name: str
    layers: Layers | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of `forgeteval components`."""

    component: str
    tensors: int
    parameters: int
    share: float
    """Fraction of all parameters, in [0, 1]."""


Parameter = TypeVar("Parameter", covariant=True)


class Model(Protocol[Parameter]):
    """What `select` needs of a model: `torch.nn.Module` has it."""

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]: ...


@lru_cache(maxsize=65536)
def canonical(name: str) -> str:
    """The parameter's path without its layout: equal for the same tensor in every layout.

    >>> canonical("language_model.model.layers.3.mlp.up_proj.weight")
    'language_model.layers.3.mlp.up_proj.weight'
    >>> canonical("model.vision_tower.vision_tower.vision_model.post_layernorm.bias")
    'vision_tower.post_layernorm.bias'
    >>> canonical("model.mm_projector.2.bias")
    'multi_modal_projector.linear_2.bias'
    """
    path = name.split(".")
    while len(path) > 1 and path[0] in _WRAPPERS:
        path = path[1:]
    root, rest = path[0], path[1:]
    if root in _VISION_ROOTS:
        while len(rest) > 1 and rest[0] in _VISION_ROOTS:
            rest = rest[1:]
        return ".".join(["visual" if root == "visual" else "vision_tower", *rest])
    if root == "mm_projector":
        # The LLaVA repository's projector is Sequential(Linear, GELU, Linear).
        first = {"0": "linear_1", "2": "linear_2"}.get(rest[0], rest[0]) if rest else ""
        return ".".join(["multi_modal_projector", first, *rest[1:]])
    if root in _LANGUAGE_ROOTS:
        while len(rest) > 1 and rest[0] == "model":
            rest = rest[1:]
        if rest and rest[0] in {"lm_head", "output"}:
            return ".".join(["lm_head", *rest[1:]])
        return ".".join(["language_model", *rest])
    if root in _BARE_LANGUAGE and root != "lm_head":
        return ".".join(["language_model", *path])
    return ".".join(path)


@lru_cache(maxsize=65536)
def place(name: str) -> Place:
    """Where the parameter called `name` sits, in any layout.

    >>> place("model.language_model.layers.7.self_attn.q_proj.bias")
    Place(part='sa_q', layer=7)
    """
    root, *rest = canonical(name).split(".")
    if root in {"visual", "vision_tower"}:
        if rest and rest[0] in _MERGERS:
            return Place("projector", None)
        return Place("vision", _layer(rest))
    if root in _PROJECTOR_ROOTS:
        return Place("projector", None)
    if root == "image_newline":
        return Place("newline", None)
    if root == "lm_head":
        return Place("head", None)
    if root == "language_model":
        return Place(_language_part(rest), _layer(rest))
    return Place("other", None)


def component_of(name: str) -> str:
    """The component in `DISJOINT` that a parameter counts in.

    >>> component_of("vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight")
    'vision'
    """
    part = place(name).part
    return _SHOWN.get(part, part)


def parse(expression: str) -> tuple[Term, ...]:
    """Read `sa_proj`, `sa_proj+mlp_gate_up`, `mlp[0:4]`, `sa_proj[last:8]`, `sa_proj[5]`.

    `[last:8]` is the last 8 layers, `[first:8]` the first 8, otherwise Python's slices.
    Raises ComponentError with everything that is wrong.

    >>> parse("sa_proj[last:8]+projector")[0].layers
    Layers(start=-8, stop=None)
    """
    terms, problems = [], []
    for text in expression.split("+"):
        found = _TERM.fullmatch(text.strip())
        if found is None or found["name"] not in COMPONENTS:
            name = found["name"] if found else text.strip()
            problems.append(
                Problem(
                    "",
                    f"unknown component {name!r}{did_you_mean(name, list(COMPONENTS))}"
                    f" (known: {', '.join(COMPONENTS)})",
                )
            )
            continue
        layers = None
        if found["range"] is not None:
            layers = _layers(found["range"])
            if layers is None:
                problems.append(
                    Problem(
                        "",
                        f"layer range [{found['range']}] of {found['name']!r} cannot be read;"
                        " write [0:4], [last:8], [first:8] or [5]",
                    )
                )
                continue
        terms.append(Term(found["name"], layers))
    if problems:
        raise ComponentError(f"component {expression!r}", problems)
    return tuple(terms)


def names(component: str, all_names: Iterable[str]) -> set[str]:
    """Those of a model's parameter names that belong to `component` (an expression).

    Raises ComponentError where a term of it selects nothing in this model.
    """
    terms = parse(component)
    places = {name: place(name) for name in all_names}
    chosen: set[str] = set()
    problems = []
    for term in terms:
        inside = {name for name, where in places.items() if where.part in COMPONENTS[term.name]}
        if term.layers is not None:
            inside = _within(term.layers, {name: places[name].layer for name in inside})
        if not inside:
            problems.append(Problem("", _empty(term, places.values())))
        chosen |= inside
    if problems:
        raise ComponentError(f"component {component!r}", problems)
    return chosen


def select(model: Model[Parameter], component: str) -> list[Parameter]:
    """The parameters of a torch model that belong to `component`, in the model's order.

    Weights shared by two modules come once, where the model names them first: with tied
    embeddings `head` selects nothing and `embeddings` trains both. Raises ComponentError.
    """
    named = dict(model.named_parameters())
    wanted = names(component, named)
    return [parameter for name, parameter in named.items() if name in wanted]


def table(shapes: Mapping[str, Sequence[int]]) -> list[Row]:
    """What a model is made of, from tensor name -> shape; disjoint rows in a fixed order."""
    total = sum(prod(shape) for shape in shapes.values())
    found: dict[str, list[int]] = {}
    for name, shape in shapes.items():
        found.setdefault(component_of(name), []).append(prod(shape))
    return [
        Row(part, len(found[part]), sum(found[part]), sum(found[part]) / max(total, 1))
        for part in DISJOINT
        if part in found
    ]


def row(component: str, shapes: Mapping[str, Sequence[int]]) -> Row:
    """One component expression as a line of the table; raises ComponentError."""
    inside = names(component, shapes)
    total = sum(prod(shape) for shape in shapes.values())
    parameters = sum(prod(shapes[name]) for name in inside)
    return Row(component, len(inside), parameters, parameters / max(total, 1))


def _layer(path: Sequence[str]) -> int | None:
    for stack, index in pairwise(path):
        if stack in _STACKS and index.isdecimal():
            return int(index)
    return None


def _language_part(path: Sequence[str]) -> str:
    """`path` is relative to the language model: `layers.0.mlp.up_proj.weight`, `norm.weight`."""
    if path[:1] in (["embed_tokens"], ["tok_embeddings"]):
        return "embeddings"
    if path[:1] == ["norm"]:
        return "norms"
    if len(path) < 3 or path[0] != "layers":
        return "llm_other"
    block = path[2]
    # The first module inside the block that has a role; peft's `base_layer` and `lora_A`, expert
    # indices and `weight` stand behind or between.
    if block in _ATTENTION:
        if any(step.endswith("norm") for step in path[3:]):
            return "norms"
        return next((_ATTENTION_PARTS[s] for s in path[3:] if s in _ATTENTION_PARTS), "llm_other")
    if block in _MLP:
        return next((_MLP_PARTS[s] for s in path[3:] if s in _MLP_PARTS), "mlp_other")
    return "norms" if block.endswith("norm") else "llm_other"


def _layers(text: str) -> Layers | None:
    """`0:4`, `4:`, `-2:`, `last:8`, `first:8`, `5`; None = cannot be read."""
    end = re.fullmatch(r"\s*(last|first):(\d+)\s*", text)
    if end:
        count = int(end[2])
        if count == 0:
            return None
        return Layers(-count, None) if end[1] == "last" else Layers(0, count)
    if re.fullmatch(r"\s*\d+\s*", text):
        return Layers(int(text), int(text) + 1)
    if not re.fullmatch(r"\s*(-?\d+)?\s*:\s*(-?\d+)?\s*", text):
        return None
    start, stop = (int(bound) if bound.strip() else None for bound in text.split(":"))
    return Layers(start, stop)


def _within(layers: Layers, of: Mapping[str, int | None]) -> set[str]:
    count = max((index for index in of.values() if index is not None), default=-1) + 1
    meant = layers(count)
    return {name for name, index in of.items() if index is not None and index in meant}


def _empty(term: Term, places: Iterable[Place]) -> str:
    """Why `term` selects nothing, with the cure where there is one."""
    parts = [where for where in places if where.part in COMPONENTS[term.name]]
    if term.layers is not None and parts:
        layers = [where.layer for where in parts if where.layer is not None]
        if not layers:
            return f"{term.name!r} has no layers to take a range of"
        return f"the range selects none of the {max(layers) + 1} layers of {term.name!r}"
    if term.name == "head":
        return "this model has no head of its own (tied to the embeddings): use 'embeddings'"
    return f"this model has no parameters of {term.name!r}"
