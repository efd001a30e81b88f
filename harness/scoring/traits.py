"""Traits: what a response is like, apart from being right. The raw material of drift diagnostics.

Each trait is a number in [0, 1] per sample, NaN where the question does not admit it, so that it
is averaged, paired and given intervals exactly like a score:

- `<expected>><given>` (`phrase>integer`): the answer is of type `given`; over questions that
  expect `expected`. Together they are the matrix of answer types.
- `misfit_<given>`: the answer is of type `given`, which fits neither the question nor a gold
  answer. Empty answers, repetitions and refusals never fit.
- `words`: length in words, in hundreds, at most 1.
- `says_a` to `says_h`: the letter named, over questions with options. `says_yes`: over yes/no
  questions. `count_0` to `count_9`, `count_10_up`: the number stated, over counting questions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from harness.scoring import number
from harness.scoring.answer_type import GivenType, classify
from harness.scoring.plain import plain
from harness.types import Sample

# The bare-number rate is read on all questions but those whose right answer is a number.
NUMERIC_TYPES = frozenset({"integer", "decimal", "time"})
GIVEN_TYPES: tuple[str, ...] = get_args(GivenType)
NEVER_FIT = frozenset({"empty", "repetition", "refusal"})
# Types that are no misfit for each other: a whole number is a decimal, a phrase may be a sentence
# to a scorer that finds it there (the sentence itself is still told apart in the matrix).
_LIKE = {"decimal": {"integer"}, "integer": {"decimal"}, "sentence": {"phrase"}}
LETTERS = "abcdefgh"
COUNTS = 10
_FIRST_LETTER = re.compile(r"[a-z]")

given_type = lru_cache(maxsize=1 << 16)(classify)


def traits_of(sample: Sample, response: str) -> dict[str, float]:
    """The traits of one answer; a name that is missing is not defined for the question.

    >>> found = traits_of(Sample("1", "What colour?", ("red",)), "3")
    >>> found["phrase>integer"], found["misfit_integer"], found["words"]
    (1.0, 1.0, 0.01)
    """
    given, expected = given_type(response), sample.answer_type
    fits = given not in NEVER_FIT and given in _fitting(sample)
    found = {f"{expected}>{kind}": float(kind == given) for kind in GIVEN_TYPES}
    found |= {f"misfit_{kind}": float(kind == given and not fits) for kind in GIVEN_TYPES}
    found["words"] = min(len(response.split()), 100) / 100
    text = plain(response)
    if expected == "letter":
        letter = _FIRST_LETTER.search(text) if given == "letter" else None
        found |= {f"says_{x}": float(bool(letter) and letter[0] == x) for x in LETTERS}  # type: ignore[index]
    elif expected == "yes_no":
        found["says_yes"] = float(text.startswith(("yes", "yeah", "yep")))
    elif expected == "integer":
        value = number.read(response)
        found |= {f"count_{n}": float(value == n) for n in range(COUNTS)}
        found[f"count_{COUNTS}_up"] = float(value is not None and value >= COUNTS)
    return found


def trait_columns(
    samples: Sequence[Sample], answers: Sequence[Sequence[str | None] | None]
) -> dict[str, NDArray[np.float64]]:
    """(n_samples, n_columns) values of every trait; `answers[j][i]` is column j's answer to i."""
    found: dict[str, NDArray[np.float64]] = {}
    for j, texts in enumerate(answers):
        for i, text in enumerate(texts or ()):
            if text is None:
                continue
            for name, value in traits_of(samples[i], text).items():
                if name not in found:
                    found[name] = np.full((len(samples), len(answers)), np.nan)
                found[name][i, j] = value
    return found


def _fitting(sample: Sample) -> set[str]:
    """Types that an answer to the question may have."""
    kinds: set[str] = {sample.answer_type, *(given_type(gold) for gold in sample.answers)}
    if sample.answer_type == "letter" and sample.choices:
        kinds |= {given_type(choice) for choice in sample.choices}
    return kinds | {like for kind in kinds for like in _LIKE.get(kind, ())}
