"""ANLS: average normalised Levenshtein similarity, the metric of DocVQA and InfographicVQA.

Source: https://arxiv.org/abs/1905.13648, equation 1, threshold 0.5. It forgives slips of reading
and therefore gives wrong digits credit too: that is the metric, not a fault. Mended against the
reference programs: distance and length are taken on the same text.
"""

from __future__ import annotations

from functools import lru_cache

from rapidfuzz.distance import Levenshtein

from harness.scoring.phrase import candidates, hedged
from harness.scoring.plain import fold, plain_gold, trim
from harness.types import Sample, Score

THRESHOLD = 0.5


@lru_cache(maxsize=65536)
def _even(text: str) -> str:
    return " ".join(fold(text).split())


def similarity(answer: str, gold: str) -> float:
    """1 - edit distance / longer length, 0 below the threshold; case and runs of spaces ignored.

    >>> similarity("2010", "2009"), similarity("2110", "2009"), similarity("", "")
    (0.5, 0.0, 0.0)
    """
    given, wanted = " ".join(fold(answer).split()), _even(gold)
    if not given:
        return 0.0
    # The cutoff lets rapidfuzz stop early; what it returns at or above it is exact.
    return Levenshtein.normalized_similarity(given, wanted, score_cutoff=THRESHOLD)


def strict(sample: Sample, response: str) -> Score:
    """ANLS of the response as it stands; a hedge is 0 however near one of its halves is."""
    value = 0.0
    if not hedged(response, sample.answers):
        value = max((similarity(response, gold) for gold in sample.answers), default=0.0)
    return Score(value, response.strip() or None, {"anls": value})


def lenient(sample: Sample, response: str) -> Score:
    """ANLS of the best reading of the response."""
    bare = trim(response)
    best, parsed = 0.0, None
    if bare and not hedged(response, sample.answers):
        for answer in (bare, *candidates(bare, sample.answers)):
            for gold in sample.answers:
                value = max(similarity(answer, gold), similarity(answer, plain_gold(gold)))
                if value > best:
                    best, parsed = value, answer
    return Score(best, parsed or bare or None, {"anls": best})
