"""Components are told apart by structure, in every layout that checkpoints come in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import components
from harness.components import COMPONENTS, DISJOINT, ComponentError, canonical, component_of

# In-memory names of transformers 5.19 (meta-device models), one line per kind, and the component.
LLAVA = {
    "model.image_newline": "newline",
    "model.vision_tower.embeddings.patch_embedding.weight": "vision",
    "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight": "vision",
    "model.vision_tower.encoder.layers.1.self_attn.out_proj.bias": "vision",
    "model.vision_tower.encoder.layers.1.mlp.fc1.weight": "vision",
    "model.vision_tower.post_layernorm.weight": "vision",
    "model.multi_modal_projector.linear_1.weight": "projector",
    "model.multi_modal_projector.linear_2.bias": "projector",
    "model.language_model.embed_tokens.weight": "embeddings",
    "model.language_model.layers.0.self_attn.q_proj.weight": "sa_proj",
    "model.language_model.layers.0.self_attn.q_proj.bias": "sa_proj",
    "model.language_model.layers.1.self_attn.o_proj.weight": "sa_proj",
    "model.language_model.layers.0.mlp.gate_proj.weight": "mlp_gate_up",
    "model.language_model.layers.1.mlp.up_proj.weight": "mlp_gate_up",
    "model.language_model.layers.1.mlp.down_proj.weight": "mlp_down",
    "model.language_model.layers.0.input_layernorm.weight": "norms",
    "model.language_model.norm.weight": "norms",
    "lm_head.weight": "head",
}
QWEN = {
    "model.visual.patch_embed.proj.weight": "vision",
    "model.visual.blocks.0.attn.qkv.bias": "vision",
    "model.visual.blocks.0.attn.proj.weight": "vision",
    "model.visual.blocks.1.mlp.gate_proj.weight": "vision",
    "model.visual.blocks.1.mlp.down_proj.bias": "vision",
    "model.visual.blocks.1.norm1.weight": "vision",
    "model.visual.merger.ln_q.weight": "projector",
    "model.visual.merger.mlp.0.weight": "projector",
    "model.visual.deepstack_merger_list.0.norm.weight": "projector",
    "model.language_model.embed_tokens.weight": "embeddings",
    "model.language_model.layers.0.self_attn.k_proj.bias": "sa_proj",
    "model.language_model.layers.0.self_attn.q_norm.weight": "norms",
    "model.language_model.layers.0.mlp.gate_proj.weight": "mlp_gate_up",
    "model.language_model.layers.0.mlp.experts.3.down_proj.weight": "mlp_down",
    "model.language_model.layers.0.mlp.gate.weight": "mlp_other",
    "model.language_model.norm.weight": "norms",
    "lm_head.weight": "head",
}
OTHERS = {
    # Idefics3 and SmolVLM
    "model.vision_model.encoder.layers.0.self_attn.q_proj.weight": "vision",
    "model.connector.modality_projection.proj.weight": "projector",
    "model.text_model.layers.2.self_attn.v_proj.weight": "sa_proj",
    # InternVL in transformers, and in its own repository
    "model.vision_tower.encoder.layer.0.attention.q_proj.weight": "vision",
    "mlp1.1.weight": "projector",
    "language_model.model.layers.0.attention.wqkv.weight": "sa_proj",
    "language_model.model.layers.0.feed_forward.w2.weight": "mlp_down",
    "language_model.output.weight": "head",
    # Gemma 3, Mistral 3, Mllama
    "model.multi_modal_projector.mm_input_projection_weight": "projector",
    "model.language_model.layers.0.pre_feedforward_layernorm.weight": "norms",
    "model.vision_tower.transformer.layers.0.attention.k_proj.weight": "vision",
    "model.vision_tower.transformer.layers.0.feed_forward.gate_proj.weight": "vision",
    "model.language_model.layers.3.cross_attn.q_proj.weight": "llm_other",
    # peft and DistributedDataParallel
    "base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.weight": "mlp_gate_up",
    "module.model.visual.blocks.0.mlp.up_proj.weight": "vision",
    # nothing we know
    "model.audio_tower.layers.0.self_attn.q_proj.weight": "other",
}


def llava_hub(name: str) -> str:
    """transformers before 4.52, as LLaVA checkpoints lie on the hub."""
    name = name.removeprefix("model.")
    name = re.sub(r"^vision_tower\.", "vision_tower.vision_model.", name)
    name = re.sub(r"^language_model\.", "language_model.model.", name)
    return name.replace("lm_head.", "language_model.lm_head.")


def llava_repository(name: str) -> str:
    name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
    name = name.replace("multi_modal_projector.linear_1", "mm_projector.0")
    name = name.replace("multi_modal_projector.linear_2", "mm_projector.2")
    return name.replace("model.language_model.", "model.")


def qwen_hub(name: str) -> str:
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


LAYOUTS = [
    (LLAVA, lambda name: name),
    (LLAVA, llava_hub),
    (LLAVA, lambda name: name.replace("vision_tower.", "vision_tower.vision_model.")),
    (LLAVA, llava_repository),
    (QWEN, lambda name: name),
    (QWEN, qwen_hub),
    (OTHERS, lambda name: name),
]


@pytest.mark.parametrize(("kinds", "rename"), LAYOUTS)
def test_each_parameter_has_its_component_in_every_layout(kinds, rename):
    assert {name: component_of(rename(name)) for name in kinds} == kinds


@pytest.mark.parametrize(("kinds", "rename"), LAYOUTS[:6])
def test_the_canonical_path_does_not_depend_on_the_layout(kinds, rename):
    assert [canonical(rename(name)) for name in kinds] == [canonical(name) for name in kinds]


def test_canonical_is_idempotent_and_keeps_tensors_apart():
    for kinds in (LLAVA, QWEN, OTHERS):
        paths = {canonical(name) for name in kinds}
        assert len(paths) == len(kinds)
        assert {canonical(path) for path in paths} == paths


@given(
    st.lists(
        st.sampled_from(
            ["model", "layers", "0", "mlp", "visual", "", "language_model", "mm_projector"]
        )
    )
)
def test_any_name_has_exactly_one_component(path):
    assert component_of(".".join(path)) in DISJOINT


def test_same_named_parameters_of_the_towers_are_told_apart():
    assert components.names("sa_proj", LLAVA) == {
        name for name, component in LLAVA.items() if component == "sa_proj"
    }
    assert components.names("mlp", QWEN) == {
        name for name, component in QWEN.items() if component.startswith("mlp")
    }


def test_llm_is_the_language_model_with_embeddings_head_and_norms():
    inside = components.names("llm", LLAVA)
    assert {LLAVA[name] for name in LLAVA if name not in inside} == {
        "vision",
        "projector",
        "newline",
    }
    assert components.names("full", LLAVA) == set(LLAVA)


def names_of_layers(count: int) -> list[str]:
    return [
        f"model.language_model.layers.{i}.{kind}.weight"
        for i in range(count)
        for kind in ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj")
    ] + ["model.language_model.norm.weight"]


@pytest.mark.parametrize(
    ("expression", "layers"),
    [
        ("sa_proj[last:8]", range(4, 12)),
        ("sa_proj[first:2]", range(2)),
        ("sa_proj[0:4]", range(4)),
        ("sa_proj[10:]", range(10, 12)),
        ("sa_proj[-1:]", range(11, 12)),
        ("sa_proj[5]", range(5, 6)),
        ("sa_proj[last:99]", range(12)),
    ],
)
def test_layer_ranges(expression, layers):
    chosen = components.names(expression, names_of_layers(12))
    assert chosen == {
        f"model.language_model.layers.{i}.self_attn.{p}_proj.weight" for i in layers for p in "qvo"
    }


def test_combinations_and_sub_projections():
    everything = names_of_layers(2)
    assert components.names("sa_qkv + sa_vo", everything) == components.names("sa_proj", everything)
    assert {n.split(".")[-2] for n in components.names("sa_vo+mlp_gate_up", everything)} == {
        "v_proj",
        "o_proj",
        "up_proj",
    }
    # A range cuts a whole-model component to what lies in layers.
    assert not any("norm" in name for name in components.names("llm[0:2]", everything))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("sa_porj", "component 'sa_porj': unknown component 'sa_porj'; did you mean 'sa_proj'?"),
        ("sa_proj+", "unknown component ''"),
        ("mlp[x:2]", "layer range [x:2] of 'mlp' cannot be read; write [0:4], [last:8]"),
        ("mlp[last:0]", "layer range [last:0] of 'mlp' cannot be read"),
        ("sa_proj[7:9]", "the range selects none of the 2 layers of 'sa_proj'"),
        ("norms[3]", "'norms' has no layers to take a range of"),
        ("head", "no head of its own (tied to the embeddings): use 'embeddings'"),
        ("vision", "this model has no parameters of 'vision'"),
        ("a+b", "component 'a+b': 2 problems"),
    ],
)
def test_errors_say_what_to_write(expression, message):
    with pytest.raises(ComponentError) as error:
        components.names(expression, names_of_layers(2))
    assert message in str(error.value)


def test_select_gives_the_models_parameters_in_order():
    class Model:
        def named_parameters(self):
            return ((name, name.upper()) for name in LLAVA)

    assert components.select(Model(), "head+projector") == [
        "MODEL.MULTI_MODAL_PROJECTOR.LINEAR_1.WEIGHT",
        "MODEL.MULTI_MODAL_PROJECTOR.LINEAR_2.BIAS",
        "LM_HEAD.WEIGHT",
    ]


def test_the_table_is_a_partition():
    shapes = dict.fromkeys(LLAVA, (3, 5))
    rows = components.table(shapes)
    assert sum(row.tensors for row in rows) == len(LLAVA)
    assert sum(row.parameters for row in rows) == 15 * len(LLAVA)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert components.row("llm", shapes).share == pytest.approx(
        1 - sum(r.share for r in rows if r.component in {"vision", "projector", "newline"})
    )


def test_every_documented_component_is_known():
    documented = "vision projector llm sa_proj mlp mlp_gate_up mlp_down embeddings norms head"
    assert set(documented.split()) <= set(COMPONENTS)
