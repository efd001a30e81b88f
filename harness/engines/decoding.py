"""Decoding: what is watched while an answer grows, and how its tokens become text.

Greedy, token by token; the penalties and temperatures that a checkpoint's generation config may
carry are not applied, so that all checkpoints and both engines decode alike.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from harness.engines.positions import ClassIndex, rounded
from harness.types import Decoding

NOT_NUMBERS = "the model's scores are not numbers (NaN or Inf)"


class NanWatch(LogitsProcessor):  # type: ignore[misc]
    """Remembers which rows ever had NaN among their scores; changes nothing."""

    def __init__(self) -> None:
        self.bad: torch.Tensor = torch.zeros(0, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        bad = (torch.isnan(scores) | torch.isposinf(scores)).any(dim=-1)
        self.bad = self.bad | bad if len(self.bad) else bad
        return scores


class FirstMass(LogitsProcessor):  # type: ignore[misc]
    """Keeps the probability of each token class where the answers begin; changes nothing."""

    def __init__(self, classes: ClassIndex):
        self._classes = classes
        self.masses: list[dict[str, float]] = []
        """One per row once the first token was scored."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not self.masses:
            self.masses = class_masses(scores, self._classes)
        return scores


def class_masses(scores: torch.Tensor, classes: ClassIndex) -> list[dict[str, float]]:
    """Probability of each token class in (rows, vocabulary) scores, row by row."""
    if not classes.names:
        return [{} for _ in range(len(scores))]
    sums, _ = classes.of(scores.float().softmax(-1))
    return [dict(zip(classes.names, row, strict=True)) for row in rounded(sums)]


class StopStrings(StoppingCriteria):  # type: ignore[misc]
    """Ends a row once its new text holds a stop string.

    `specials`: names of special tokens count as text, as lm-eval has it for its own prompts.
    """

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], prompt_width: int, *, specials: bool = False
    ):
        self._tokenizer = tokenizer
        self._skips = not specials
        self._stop = tuple(filter(None, stop))
        self._width = prompt_width

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        texts = self._tokenizer.batch_decode(
            input_ids[:, self._width :],
            skip_special_tokens=self._skips,
            clean_up_tokenization_spaces=False,
        )
        done = [any(stop in text for stop in self._stop) for text in texts]
        return torch.tensor(done, device=input_ids.device)


def answer_of(
    tokens: list[int],
    ends: Sequence[int],
    decoding: Decoding,
    tokenizer: Any,
    *,
    specials: bool = False,
) -> tuple[str, str, int]:
    """(text, finish reason, number of tokens with what ended it) of one row of new tokens.

    The text is cut before each stop string, one after another in their order; rows that ended
    early are padded, which is dropped. A row cut at `max_new_tokens` finishes with `length`.
    `specials`: as in `StopStrings`.
    """
    end = next((i for i, token in enumerate(tokens) if token in ends), None)
    if end is not None:
        tokens = tokens[: end + 1]
    stopped = _stopped(tokens, decoding, tokenizer, skips=not specials)
    tokens = tokens[:stopped]
    text = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    cut = text
    for stop in filter(None, decoding.stop):
        cut = cut.split(stop)[0]
    reason = "length" if end is None and stopped is None else "stop"
    return cut, reason, len(tokens)


def _stopped(tokens: list[int], decoding: Decoding, tokenizer: Any, *, skips: bool) -> int | None:
    """How many tokens it took until a stop string was said; None = none was.

    A batch goes on until its last row is done, so what follows is padding.
    """
    stops = tuple(filter(None, decoding.stop))

    def said(n: int) -> bool:
        text = tokenizer.decode(
            tokens[:n], skip_special_tokens=skips, clean_up_tokenization_spaces=False
        )
        return any(stop in text for stop in stops)

    if not stops or not said(len(tokens)):
        return None
    return bisect_left(range(len(tokens)), True, key=said)
