"""OCRBench: the gold text must stand in the answer.

Source: https://arxiv.org/abs/2305.07895. Mended against the reference programs: the gold must
stand there as words of its own ("glove" does not contain "love"), must not be one of two
alternatives, and formulas (HME100k) are compared whole, because "x+y" stands in "2x+y" too.
"""

from __future__ import annotations

import re
from functools import lru_cache

from harness.scoring.phrase import gold_tokens, tokens
from harness.scoring.plain import (
    fold,
    has_second_thought,
    plain,
    plain_gold,
    readings,
    trim,
    without_reasoning,
)
from harness.types import Sample, Score

_HEDGE = re.compile(r"\b(?:or|either|not|never)\b|n't\b")
_SPACE = re.compile(r"\s+")
_MATH_MARKS = re.compile(r"\$+|\\[()\[\]]|\s+")
_BEFORE_HEDGE = re.compile(
    r"(?:\bor|\beither|/|\bnot|n't|\bnever|\bwithout)\s*(?:(?:an?|the)\s+)?[\"'(]*\Z"
)
_AFTER_HEDGE = re.compile(r"[\"'),]*\s*(?:or\b|/)")


def contains(text: str, gold: str) -> bool:
    """True if `gold` stands in `text` as words of its own and not as an alternative.

    >>> contains("the sign says love", "love"), contains("glove", "love")
    (True, False)
    >>> contains("love or hate", "love")
    False
    """
    if not gold:
        return False
    if has_second_thought(text) and not has_second_thought(gold):
        return False
    at = text.find(gold)
    while at != -1:
        end = at + len(gold)
        joined = (at > 0 and gold[0].isalnum() and text[at - 1].isalnum()) or (
            end < len(text) and gold[-1].isalnum() and text[end].isalnum()
        )
        # "2.5" does not stand in "2.50", nor "50" in "2.50".
        joined = joined or bool(
            (re.match(r"[.,]\d", text[end : end + 2]) and gold[-1].isdigit())
            or (re.match(r"\d[.,]\Z", text[max(0, at - 2) : at]) and gold[0].isdigit())
        )
        hedged = _AFTER_HEDGE.match(text, end) or _BEFORE_HEDGE.search(text[max(0, at - 24) : at])
        if not joined and not hedged:
            return True
        at = text.find(gold, at + 1)
    return False


@lru_cache(maxsize=65536)
def _even(text: str) -> str:
    return _SPACE.sub(" ", fold(text)).strip()


@lru_cache(maxsize=65536)
def _gold_words(gold: str) -> str:
    return " ".join(gold_tokens(gold))


def _formula(text: str) -> str:
    return _MATH_MARKS.sub("", text)


def _is_formula(sample: Sample) -> bool:
    return sample.doc.get("dataset") == "HME100k"


def strict(sample: Sample, response: str) -> Score:
    """1 if a gold stands in the response; formulas must be equal but for spaces and $ signs."""
    if _is_formula(sample):
        given = _formula(response)
        right = any(bool(given) and given == _formula(gold) for gold in sample.answers)
    else:
        text = _SPACE.sub(" ", without_reasoning(fold(response))).strip()
        right = any(contains(text, _even(gold)) for gold in sample.answers)
    return Score(float(right), trim(response) or None, {"accuracy": float(right)})


def lenient(sample: Sample, response: str) -> Score:
    """Like `strict` on plain text, punctuation ignored; a formula may have words before it."""
    text = plain(response)
    if _is_formula(sample):
        # Case counts in a formula, but an answer must not lose by capitals alone.
        pieces = {_formula(trim(piece)) for piece in (fold(response), text, *readings(text))}
        pieces |= {_formula(piece) for piece in re.findall(r"\$+([^$]+)\$+", fold(response))}
        right = any(_formula(trim(fold(gold))) in pieces - {""} for gold in sample.answers)
    else:
        words = "" if _HEDGE.search(text) or has_second_thought(text) else " ".join(tokens(text))
        whole = _SPACE.sub(" ", without_reasoning(fold(response))).strip()
        right = any(
            contains(whole, _even(gold))
            or contains(text, plain_gold(gold))
            or contains(words, _gold_words(gold))
            for gold in sample.answers
        )
    return Score(float(right), text or None, {"accuracy": float(right)})
