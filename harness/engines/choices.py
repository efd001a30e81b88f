"""Choice scoring: how likely each option is as the answer, read from one pass over the prompt.

A choice's score is the sum of the log-probabilities of its tokens after the prompt. Choices are
tokenized alone and appended, so that a prompt's tokens never depend on what is being compared;
those of a verbatim request are tokenized together with it, as lm-eval does.
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


def choice_questions(
    row: Row, request: Request, prompter: Prompter, limit: int | None = None
) -> list[Question]:
    """The rows that tell all choices of a request: one for all options of one token.

    `limit`: tokens that the model takes; of a longer text only the end is shown to it. Raises
    SampleError when there are no choices, or one has no tokens.
    """
    if not request.choices:
        raise SampleError("the request has no choices to compare")
    by_prefix: dict[tuple[int, ...], dict[int, tuple[int, ...]]] = {}
    for index, tokens in enumerate(prompter.choice_tokens(request)):
        by_prefix.setdefault(tokens[:-1], {})[index] = tokens
    questions = []
    for prefix, choices in by_prefix.items():
        extended = _extended(row, prefix)
        length = min(extended.length, limit or extended.length)
        if length <= len(prefix):
            raise SampleError(f"a choice has {len(prefix) + 1} tokens, the model takes {limit}")
        places = range(length - len(prefix) - 1, length)
        questions.append(Question(shortened_left(extended, length), places, choices))
    return questions


def shortened_left(row: Row, length: int) -> Row:
    """The last `length` tokens of a row. Only a row without pictures can lose tokens."""
    if row.length <= length:
        return row
    tokens = {name: tensor[-length:] for name, tensor in row.tokens.items()}
    return Row(tokens, row.side, row.picture, row.n_pictures, row.pixels)


def _extended(row: Row, more: tuple[int, ...]) -> Row:
    """The row with text tokens appended; other per-token values continue with 0 (text)."""
    tokens = {}
    for name, tensor in row.tokens.items():
        values = more if name == "input_ids" else (0,) * len(more)
        tokens[name] = torch.cat([tensor, tensor.new_tensor(values)])
    return Row(tokens, row.side, row.picture, row.n_pictures, row.pixels)
