"""Components of models that transformers itself builds, against the models' own modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import components
from harness.checkpoints import tensor_index

if TYPE_CHECKING:
    from torch import nn

TEXT = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
QWEN_TOWER = {
    "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48,
    "out_hidden_size": 32, "patch_size": 8, "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [1], "num_position_embeddings": 16,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
SIGLIP = {**TOWER, "model_type": "siglip_vision_model"}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2_vl": {"text_config": {**TEXT, "rope_parameters": ROPE}, "vision_config": QWEN_TOWER},
    "qwen3_vl": {"text_config": {**TEXT, "head_dim": 16}, "vision_config": QWEN_TOWER},
    "internvl": {
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**TOWER, "image_size": [16, 16], "patch_size": [8, 8]},
    },
    "idefics3": {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": TOWER},
    "smolvlm": {"text_config": {**TEXT, "model_type": "llama"}, "vision_config": TOWER},
    "gemma3": {
        "text_config": {**TEXT, "head_dim": 16},
        "vision_config": SIGLIP,
        "mm_tokens_per_image": 4,
    },
    "llava": {
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**TOWER, "model_type": "clip_vision_model"},
    },
    "mistral3": {
        "text_config": {**TEXT, "model_type": "mistral", "head_dim": 16},
        "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 16},
    },
}
VISION = ("visual", "vision_tower", "vision_model")
PROJECTOR = ("multi_modal_projector", "connector")
LANGUAGE = ("language_model", "text_model")
MERGERS = ("merger", "deepstack_merger_list")


@pytest.fixture(scope="module", params=MODELS)
def model(request) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(request.param, **MODELS[request.param])
    return transformers.AutoModelForImageTextToText.from_config(config)


def owned(model: nn.Module, *names: str) -> set[int]:
    """Identities of the parameters of those children of a module that it has."""
    children = dict(model.named_children())
    return {id(p) for name in names if name in children for p in children[name].parameters()}


def chosen(model: Any, component: str) -> set[int]:
    return {id(parameter) for parameter in components.select(model, component)}


def linears(model: Any, *leaves: str) -> Iterator[nn.Parameter]:
    """Parameters of the language model's modules that are called so."""
    text = next(module for name, module in model.model.named_children() if name in LANGUAGE)
    for name, module in text.named_modules():
        if name.rpartition(".")[2] in leaves:
            yield from module.parameters()


def test_the_towers_are_the_models_own_modules(model):
    body = model.model
    tower = next(module for name, module in body.named_children() if name in VISION)
    merger = owned(tower, *MERGERS)
    assert chosen(model, "vision") == owned(body, *VISION) - merger
    assert chosen(model, "projector") == owned(body, *PROJECTOR) | merger
    assert chosen(model, "llm") == owned(body, *LANGUAGE) | owned(model, "lm_head")
    everything = {id(parameter) for parameter in model.parameters()}
    assert chosen(model, "vision+projector+llm") == chosen(model, "full") == everything


def test_attention_and_mlp_are_the_language_models_own(model):
    for component, leaves in (
        ("sa_proj", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("sa_qkv", ("q_proj", "k_proj", "v_proj")),
        ("sa_vo", ("v_proj", "o_proj")),
        ("mlp", ("gate_proj", "up_proj", "down_proj")),
        ("mlp_gate_up", ("gate_proj", "up_proj")),
        ("mlp_down", ("down_proj",)),
        ("embeddings", ("embed_tokens",)),
    ):
        assert chosen(model, component) == {id(p) for p in linears(model, *leaves)}, component
    last = chosen(model, "sa_proj[last:1]")
    assert last < chosen(model, "sa_proj") and len(last) == len(chosen(model, "sa_proj")) // 2


def test_nothing_is_left_over(model):
    parts = {components.component_of(name) for name, _ in model.named_parameters()}
    assert not parts & {"other", "llm_other", "mlp_other"}


def test_the_saved_files_hold_the_same_components(model, tmp_path: Path):
    model.save_pretrained(tmp_path)
    saved = {name: entry.shape for name, entry in tensor_index(tmp_path).items()}
    live = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert components.table(saved) == components.table(live)
    assert {components.canonical(n) for n in saved} == {components.canonical(n) for n in live}
