"""Yes and no: what a response to a question of two answers says."""

from __future__ import annotations

import re

from harness.scoring.plain import fold, has_second_thought, plain, plain_gold, readings, trim
from harness.types import Sample, Score

_WORDS = {
    **dict.fromkeys(("yes", "yeah", "yep", "yup", "true", "correct", "y"), "yes"),
    **dict.fromkeys(("no", "nope", "nah", "false", "incorrect", "n"), "no"),
}
_PHRASES = {
    **dict.fromkeys(("absolutely", "definitely", "certainly", "i think so"), "yes"),
    **dict.fromkeys(("not really", "i don't think so", "i do not think so"), "no"),
}
_YES = re.compile(r"(?:yes|yeah|yep|yup)(?![\w'-])")
# "no", "no, ..." and "no it isn't"; "no cat" is left to `_DENIED`.
_NO = re.compile(
    r"(?:nope|nah|no(?=\s*(?:$|[,.;:!\n(]|[-–—]\s|(?:it|there|this|that|he|she|they|the|i|we|you)\b)))"
    r"(?![\w'-])"
)
_OR = re.compile(r"\w+,?\s*(?:or\b|/)")
_DOUBT = r"[^.\n]*\b(?:but|maybe|perhaps|possibly|might|could|or)\b[^.\n]*"
_BOTH = re.compile(
    r"\byes\b.{0,12}\bno\b(?! doubt)|\bno\b.{0,12}\byes\b"
    rf"|\byes\b{_DOUBT}\bno\b(?! doubt)|\bno\b{_DOUBT}\byes\b",
    re.DOTALL,
)
_UNSURE = re.compile(
    r"\b(?:not (?:sure|certain|clear|possible to)|unsure|unclear|uncertain|maybe|perhaps|possibly"
    r"|cannot|can't|don't know|do not know|no idea|no way to|hard to|difficult to|impossible to"
    r"|it depends|either|or)\b"
)
_DENIED = re.compile(
    r"there (?:is|are|was|were) (?:no|none)\b"
    r"|(?:there|it|this|that|he|she|they|the \S+(?: \S+)?) "
    r"(?:(?:is|are|was|were|do|does|did|has|have|can|could)(?:n't| not)|(?:has|have) no)\b"
    r"|no (?!(?:idea|doubt|way|problem)\b)\S+(?: \S+){0,2}(?:\Z| (?:is|are|was|were|can be)\b)"
)
_AFFIRMED = re.compile(r"there (?:is|are|was|were) (?!no\b|not\b|none\b|n't)")


def read(response: str) -> str | None:
    """The word that a response says, "yes" or "no"; None where it says neither or both.

    >>> read("Yes, there is a cat."), read("There is no cat in the image."), read("yes or no")
    ('yes', 'no', None)
    >>> read("noon"), read("I'm not sure"), read("3")
    (None, None, None)
    """
    text = plain(response)
    if not text:
        return None
    if text in _WORDS or text in _PHRASES:
        return _WORDS.get(text) or _PHRASES[text]
    if _BOTH.search(text) or has_second_thought(text):
        return None
    for reading in readings(text):
        if _OR.match(reading):
            return None
        if _YES.match(reading):
            return "yes"
        if _NO.match(reading):
            return "no"
        if len(reading) > 1 and reading in _WORDS:
            return _WORDS[reading]
    if _UNSURE.search(text):
        return None
    if _DENIED.match(text):
        return "no"
    return "yes" if _AFFIRMED.match(text) else None


def strict(sample: Sample, response: str) -> Score:
    """1 if the response is the word itself, but for case and a final period."""
    word = trim(fold(response))
    parsed = word if word in ("yes", "no") else None
    value = float(parsed is not None and parsed == plain_gold(sample.answers[0]))
    return Score(value, parsed, {"accuracy": value})


def lenient(sample: Sample, response: str) -> Score:
    """1 if the response says yes or no, as the gold does."""
    parsed = read(response)
    value = float(parsed is not None and parsed == plain_gold(sample.answers[0]))
    return Score(value, parsed, {"accuracy": value})
