"""Answer types: what kind of text a response is, whatever was asked.

The drift diagnostics compare it with what the question asked for: a model that counts where it
should name answers in the wrong *type* long before anybody looks at its scores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from harness.scoring import clock, number
from harness.scoring.plain import fold, plain, trim

GivenType = Literal[
    "letter",
    "yes_no",
    "integer",
    "decimal",
    "time",
    "phrase",
    "sentence",
    "refusal",
    "repetition",
    "empty",
]

_LETTER = re.compile(r"[(\[]?[a-z][)\]]?[.:)]?|[(\[][a-z][)\]].*|[a-z][.:)]\s.*", re.DOTALL)
_YES_NO = re.compile(r"(?:yes|no|yeah|yep|nope)")
_WRITTEN = re.compile(r"[$€£¥]?\s?[-−]?\d[\d,]*(\.\d+)?\s?%?")
_BARE_DIGITS = re.compile(r"[-−]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.\d+)?")
_NO_DIGITS = re.compile(r"[a-z\s-]+")
_NOT_NUMBER_WORDS = frozenset(
    {"none", "nil", "nought", "nobody", "no one", "nothing", "not any"}
    | {"a pair", "a couple", "a single"}
)
_REFUSAL = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|sorry,|as an ai\b"
    r"|i (?:cannot|can't|can not|won't)\b"
    r"|(?:unable|impossible|not possible) to (?:determine|tell|see|answer|say|identify)"
    r"|(?:cannot|can't) be (?:determined|answered|identified|seen)"
    r"|i do(?: not|n't) (?:know|see any image|have))"
)
_WORD = re.compile(r"\w+")
_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|shows?|depicts?|appears?|seems?|can|does|do|there's|it's)\b"
)
_LONGEST_CYCLE = 8
_FEWEST_ROUNDS = 4
_NUMERIC_WORDS = 5
_PHRASE_WORDS = 9


def is_bare_number(response: str) -> bool:
    """True where a response is digits or a number word and nothing else but a final period.

    >>> is_bare_number("3"), is_bare_number("Twenty-one."), is_bare_number("1,000")
    (True, True, True)
    >>> is_bare_number("3 dogs"), is_bare_number("3:45"), is_bare_number("none")
    (False, False, False)
    """
    text = trim(fold(response))
    if _BARE_DIGITS.fullmatch(text):
        return True
    if not _NO_DIGITS.fullmatch(text) or text in _NOT_NUMBER_WORDS:
        return False
    return number.of_gold(text) is not None


def is_repetition(words: Sequence[str]) -> bool:
    """True where a run of up to eight words comes four times in a row and fills half the answer.

    >>> is_repetition("the cat the cat the cat the cat".split()), is_repetition(["very"] * 3)
    (True, False)
    """
    for cycle in range(1, _LONGEST_CYCLE + 1):
        run = longest = 0
        for at in range(cycle, len(words)):
            run = run + 1 if words[at] == words[at - cycle] else 0
            longest = max(longest, run)
        length = longest + cycle
        if length >= _FEWEST_ROUNDS * cycle and 2 * length >= len(words):
            return True
    return False


def classify(response: str) -> GivenType:
    """The type of a response.

    >>> [classify(r) for r in ("B", "(B) a cat", "Yes.", "seven", "3.5", "3:45 pm", "  ")]
    ['letter', 'letter', 'yes_no', 'integer', 'decimal', 'time', 'empty']
    >>> [classify(r) for r in ("a red bus", "There is a red bus.", "I'm sorry, I can't see it.")]
    ['phrase', 'sentence', 'refusal']
    """
    text = plain(response)
    words = _WORD.findall(text)
    if not words:
        return "empty"
    if is_repetition(words):
        return "repetition"
    if _YES_NO.fullmatch(text):
        return "yes_no"
    if _LETTER.fullmatch(text):
        return "letter"
    if len(words) <= _NUMERIC_WORDS and (numeric := _numeric_type(text)):
        return numeric
    if _REFUSAL.search(text):
        return "refusal"
    verb = _VERB.search(text) is not None
    return "sentence" if len(words) > _PHRASE_WORDS or (verb and len(words) > 2) else "phrase"


def _numeric_type(text: str) -> GivenType | None:
    written = _WRITTEN.fullmatch(text)
    if written:
        return "decimal" if written[1] else "integer"
    if is_bare_number(text):
        return "integer"
    return "time" if clock.is_time(text) else None
