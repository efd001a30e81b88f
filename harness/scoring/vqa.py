"""VQA soft accuracy: an answer is as right as the annotators who gave it are many.

Source: https://visualqa.org/evaluation.html. The normaliser follows its description (case,
number words, articles, periods, contractions, punctuation) without the faults of the official
code that `harness.scoring.eval_ai` keeps: all periods go, every mark is treated alike, and an
answer that is only an article stays itself instead of matching the empty answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from harness.number_words import TO_TWENTY
from harness.scoring.contractions import CONTRACTIONS
from harness.scoring.phrase import candidates
from harness.scoring.plain import fold, plain, plain_gold
from harness.types import Sample, Score

_NUMBER_WORDS = {word: str(value) for value, word in enumerate(TO_TWENTY[:11])} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
_MARKS = str.maketrans(dict.fromkeys(';/[]"{}()=+\\_-><@`,?!', " "))
# Fewer annotators than this cannot agree in threes once one is left out.
_FEWEST = 4


def normalise(text: str) -> str:
    """The words of an answer as annotators' answers are compared.

    >>> normalise("The two t-shirts."), normalise("1,000"), normalise("a"), normalise("dont")
    ('2 t shirts', '1000', 'a', "don't")
    """
    text = _PERIOD.sub("", _COMMA.sub("", fold(text)))
    words = [_NUMBER_WORDS.get(word, word) for word in text.translate(_MARKS).split()]
    kept = [CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES]
    return " ".join(kept or words) or text.strip()


@lru_cache(maxsize=65536)
def _gold(text: str) -> str:
    return normalise(text)


@lru_cache(maxsize=65536)
def _plain_gold(text: str) -> str:
    return normalise(plain_gold(text))


def soft_accuracy(answer: str, golds: Sequence[str]) -> float:
    """Mean over annotators of min(1, agreeing others / 3); both sides normalised, in [0, 1].

    With fewer than four annotators (a data set of one's own): 1 if any of them agrees.

    >>> soft_accuracy("red", ["red"] * 3 + ["maroon"] * 7), soft_accuracy("red", ["red"])
    (0.9, 1.0)
    """
    agreeing = sum(gold == answer for gold in golds) if answer else 0
    if not agreeing or len(golds) < _FEWEST:
        return float(agreeing > 0)
    # Leaving out one who agrees, or one who does not.
    left_in, left_out = min(1.0, agreeing / 3), min(1.0, (agreeing - 1) / 3)
    return (agreeing * left_out + (len(golds) - agreeing) * left_in) / len(golds)


def strict(sample: Sample, response: str) -> Score:
    """Soft accuracy of the response as it stands."""
    answer = normalise(response.strip())
    value = soft_accuracy(answer, [_gold(gold) for gold in sample.answers])
    return Score(value, answer or None, {"soft_accuracy": value})


def lenient(sample: Sample, response: str) -> Score:
    """Soft accuracy of the best reading of the response."""
    golds = [_plain_gold(gold) for gold in sample.answers]
    whole = normalise(plain(response))
    best, parsed = soft_accuracy(whole, golds), whole
    if best < 1.0:
        for reading in candidates(response, sample.answers):
            answer = normalise(reading)
            value = soft_accuracy(answer, golds)
            if value > best:
                best, parsed = value, answer
    return Score(best, parsed or None, {"soft_accuracy": best})
