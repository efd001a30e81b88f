"""Adapters: a peft folder merged into the live model's weights.

Merging (rather than running the adapter beside the weights) keeps one code path for every stage
and costs nothing per token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.checkpoints import tensor_index
from harness.engines.layouts import shortened
from harness.errors import CheckpointError, Problem, first_line

# What peft raises for an adapter that does not fit.
REFUSALS = (ValueError, KeyError, TypeError, OSError, RuntimeError)
MISSING = "missing from the adapter"


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
        wrapped = get_peft_model(model, config)
    except REFUSALS as error:
        raise CheckpointError(str(folder), f"peft cannot apply it: {first_line(error)}") from None
    try:
        weights = load_peft_weights(str(folder), device="cpu")
        problems = _problems(wrapped, set_peft_model_state_dict(wrapped, weights))
    except KeyError as error:
        # How peft says that a module of `modules_to_save` is not there.
        problems = [Problem(str(error.args[0] if error.args else error), MISSING)]
    except REFUSALS as error:
        problems = [Problem("", f"peft cannot apply it: {first_line(error)}")]
    if problems:
        wrapped.unload()
        raise CheckpointError(str(folder), shortened(problems))
    wrapped.merge_and_unload(safe_merge=True)


def _problems(wrapped: Any, result: Any) -> list[Problem]:
    """Tensors without a place in the model, and places without a tensor.

    peft reports the base's own tensors as missing too. What is the adapter's it knows by a mark in
    the name, another one for each kind of adapter; buffers are made anew and not stored.
    """
    lost = [Problem(name, "the model has no such place") for name in result.unexpected_keys]
    mark = getattr(wrapped.base_model, "prefix", "lora_")
    own = {name for name, _ in wrapped.named_parameters(remove_duplicate=False)}
    missing = [name for name in result.missing_keys if mark in name and name in own]
    return lost + [Problem(name, MISSING) for name in missing]
