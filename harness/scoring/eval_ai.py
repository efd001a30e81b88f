"""The EvalAI answer normaliser as the reference programs run it, oddities included.

Only `lmms_eval` and `lmm_cl` use it; the strict and lenient scorers use `harness.scoring.vqa`,
which mends the faults. The oddities, each seen in `tests/golden/textvqa_val.jsonl`: at most 32
periods are removed; one comma between digits changes how *every* punctuation mark is treated;
an answer that is only an article becomes the empty string.
"""

from __future__ import annotations

import re
from functools import lru_cache

from harness.number_words import TO_TWENTY
from harness.scoring.contractions import CONTRACTIONS

_NUMBER_WORDS = {word: str(number) for number, word in enumerate(TO_TWENTY[:11])} | {"none": "0"}
_ARTICLES = frozenset({"a", "an", "the"})
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"\.(?!\d)")
# The program hands the flag re.UNICODE (32) to the argument that limits the replacements.
_MOST_PERIODS = 32


def punctuation(text: str) -> str:
    """`text` with marks removed (beside a space) or turned into spaces (inside a word).

    >>> punctuation("t-shirt (red)")
    't shirt red '
    >>> punctuation("1,000 t-shirts")
    '1000 tshirts'
    """
    number_has_comma = _COMMA_IN_NUMBER.search(text) is not None
    out = text
    for mark in _MARKS:
        if mark in text:
            beside_space = f"{mark} " in text or f" {mark}" in text
            out = out.replace(mark, "" if beside_space or number_has_comma else " ")
    return _PERIOD.sub("", out, count=_MOST_PERIODS)


def words(text: str) -> str:
    """`text` in lower case, number words to ten as digits, without articles, apostrophes repaired.

    >>> words("The Two dont")
    "2 don't"
    """
    kept = (_NUMBER_WORDS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in kept if word not in _ARTICLES)


@lru_cache(maxsize=65536)
def normalise_textvqa(text: str) -> str:
    """The whole chain as TextVQA applies it, commas and question marks removed first.

    >>> normalise_textvqa("Yes, it's 3.5?")
    "yes it 's 3.5"
    """
    plain = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    plain = plain.replace("\n", " ").replace("\t", " ").strip()
    return words(punctuation(plain))


@lru_cache(maxsize=65536)
def normalise_vqav2(text: str) -> str:
    """The chain as VQAv2 applies it: without TextVQA's first step.

    >>> normalise_vqav2("-4")
    '4'
    """
    return words(punctuation(text.replace("\n", " ").replace("\t", " ").strip()))
