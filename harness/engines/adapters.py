"""Adapters: a peft folder merged into the live model's weights.

Merging (rather than running the adapter beside the weights) keeps one code path for every stage
and costs nothing per token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.checkpoints import tensor_index
from harness.errors import CheckpointError, Problem


def merge_adapter(model: Any, folder: Path) -> None:
    """Add the adapter in `folder` to `model`'s weights, in place.

    Raises CheckpointError when the adapter cannot be read, or when some of its tensors have no
    place in the model: a partly applied adapter would be scored as another model.
    """
    from peft import PeftConfig, get_peft_model
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    tensor_index(folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        wrapped = get_peft_model(model, config)
        weights = load_peft_weights(str(folder), device="cpu")
        result = set_peft_model_state_dict(wrapped, weights)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(str(folder), f"peft cannot apply it: {line}") from None
    lost = list(getattr(result, "unexpected_keys", []))
    missing = [name for name in getattr(result, "missing_keys", []) if "lora_" in name]
    wrapped.merge_and_unload(safe_merge=True)
    if lost or missing:
        problems = [Problem(name, "the model has no such place") for name in lost[:5]]
        problems += [Problem(name, "missing from the adapter") for name in missing[:5]]
        raise CheckpointError(str(folder), problems)
