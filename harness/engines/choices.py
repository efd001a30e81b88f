"""Choice scoring: how likely each option is as the answer, read from one pass over the prompt.

A choice's score is the sum of the log-probabilities of its tokens after the prompt. Choices are
tokenized alone and appended, so that a prompt's tokens never depend on what is being compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from harness.engines.inputs import Row
from harness.engines.prompts import Prompter
from harness.errors import SampleError
from harness.types import Request


@dataclass(frozen=True, slots=True)
class Question:
    """A row to run once, and what to read from it: choices that differ in their last token."""

    row: Row
    places: range
    """Positions whose next-token distribution is read."""
    choices: Mapping[int, tuple[int, ...]]
    """Index of a choice -> its tokens, one per place."""


def choice_questions(row: Row, request: Request, prompter: Prompter) -> list[Question]:
    """The rows that tell all choices of a request: one for all options of one token.

    Raises SampleError when there are no choices, or one has no tokens.
    """
    if not request.choices:
        raise SampleError("the request has no choices to compare")
    by_prefix: dict[tuple[int, ...], dict[int, tuple[int, ...]]] = {}
    for index, text in enumerate(request.choices):
        tokens = tuple(prompter.continuation(text))
        by_prefix.setdefault(tokens[:-1], {})[index] = tokens
    return [
        Question(
            row=_extended(row, prefix),
            places=range(row.length - 1, row.length + len(prefix)),
            choices=choices,
        )
        for prefix, choices in by_prefix.items()
    ]


def _extended(row: Row, more: tuple[int, ...]) -> Row:
    """The row with text tokens appended; other per-token values continue with 0 (text)."""
    tokens = {}
    for name, tensor in row.tokens.items():
        values = more if name == "input_ids" else (0,) * len(more)
        tokens[name] = torch.cat([tensor, tensor.new_tensor(values)])
    return Row(tokens, row.side, row.picture, row.n_pictures, row.pixels)
