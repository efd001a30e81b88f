"""A signature: everything that made a number, as canonical text; its hash names the cell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

# Version of the files of a study; part of every signature.
SCHEMA_VERSION = 1
# Keys that name the model; all others must agree before two numbers are subtracted.
MODEL_KEYS = ("checkpoint", "processor")


def signature_text(signature: Mapping[str, object]) -> str:
    """The canonical string of a signature: `key:value|key:value`, keys in order.

    >>> signature_text({"task": "ai2d", "n": 10})
    'n:10|task:ai2d'
    """
    return "|".join(f"{key}:{signature[key]}" for key in sorted(signature))


def cell_id(signature: Mapping[str, object]) -> str:
    """The name of a cell: a hash of everything that made its numbers."""
    return hashlib.sha256(signature_text(signature).encode()).hexdigest()[:20]
