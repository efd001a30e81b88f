"""Layouts: one model's tensors under the different names that writers of checkpoints give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.errors import Problem

# Names shown of a long list of problems; the rest is counted.
SHOWN = 8
# transformers 5 writes LLaVA vision towers without `vision_model.`; vLLM 0.32 reads them with it.
_VISION_TOWER = re.compile(r"^((?:model\.)?vision_tower\.)(?!vision_model\.)")
# Path components that the three layouts of one model (published, transformers 4.52 and 5) put in
# or leave out.
_OPTIONAL = frozenset({"model", "language_model", "vision_model"})


def served_name(name: str) -> str:
    """The name under which vLLM finds a tensor.

    >>> served_name("vision_tower.embeddings.x")
    'vision_tower.vision_model.embeddings.x'
    """
    return _VISION_TOWER.sub(r"\1vision_model.", name)


def canonical(name: str) -> str:
    """A tensor's name without what differs between layouts of one architecture.

    >>> canonical("language_model.model.layers.0.x") == canonical("model.language_model.layers.0.x")
    True
    """
    return ".".join(part for part in name.split(".") if part not in _OPTIONAL)


def shortened(problems: Sequence[Problem]) -> list[Problem]:
    """The first few problems and a count of the others."""
    if len(problems) <= SHOWN:
        return list(problems)
    return [*problems[:SHOWN], Problem("", f"and {len(problems) - SHOWN} more tensors")]
