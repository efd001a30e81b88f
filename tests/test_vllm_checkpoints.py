"""What vLLM cannot serve is refused before an engine dies of it: no engine is needed to know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.engines.vllm_checkpoints import lora_rank
from harness.errors import CheckpointError
from harness.types import Checkpoint


def adapter(folder: Path, **config: Any) -> Checkpoint:
    """A folder with one LoRA factor of the language model."""
    folder.mkdir()
    header = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": {
        "dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32],
    }}  # fmt: skip
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(32)
    (folder / "adapter_model.safetensors").write_bytes(data)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, **config}))
    return Checkpoint("base", "mark", "base", str(folder))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"peft_type": "IA3"}, "is IA3; vLLM applies plain LoRA alone"),
        ({"use_dora": True}, "is DoRA (use_dora); vLLM applies plain LoRA alone"),
        ({"bias": "lora_only"}, "has biases"),
        ({"lora_bias": True, "modules_to_save": ["lm_head"]}, "has biases and whole modules"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "began by changing the base (init_lora_weights: pissa_niter_4)",
        ),
    ],
)
def test_adapters_that_vllm_does_not_apply(
    tmp_path: Path, config: dict[str, Any], expected: str
) -> None:
    with pytest.raises(CheckpointError) as refused:
        lora_rank(adapter(tmp_path / "a", **config))
    assert expected in str(refused.value)
    assert "merge the adapter into its base, or score it with --engine hf" in str(refused.value)


@pytest.mark.parametrize("start", [True, "gaussian", "orthogonal", "eva"])
def test_plain_lora_is_served(tmp_path: Path, start: object) -> None:
    config = {"init_lora_weights": start, "rank_pattern": {"k_proj": 12}}
    assert lora_rank(adapter(tmp_path / "a", **config)) == 16
