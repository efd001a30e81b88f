"""Numbers: the quantity that an answer states, in digits or in English words to the thousands.

The words are read here and not by a library: text2num (the best kept one) reads cardinals well,
but it also turns "fifth" into a number, knows neither "a dozen" nor "none" nor "no dogs", and does
not say where a number stood, which the rules against hedges need ("at least 3", "3 or 4").
"""

from __future__ import annotations

import re
from functools import lru_cache

from harness.number_words import TO_TWENTY
from harness.scoring.plain import fold, has_second_thought, plain, trim
from harness.types import Sample, Score

_UNITS = {word: value for value, word in enumerate(TO_TWENTY[:20])}
_TENS_NAMES = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_TENS_NAMES.split(), start=2)}
_DIGIT = "|".join(list(_UNITS)[1:10])
_BELOW_20 = "|".join(list(_UNITS)[:0:-1])
_BELOW_100 = rf"(?:(?:{'|'.join(_TENS)})(?:[\s-]+(?:{_DIGIT}))?|{_BELOW_20})"
_HUNDREDS = rf"(?:{_BELOW_20}|a)[\s-]+hundred(?:(?:[\s-]+and)?[\s-]+{_BELOW_100})?"
_BELOW_1000 = rf"(?:{_HUNDREDS}|{_BELOW_100})"
_THOUSANDS = rf"(?:{_BELOW_1000}|a)[\s-]+thousand(?:,?(?:[\s-]+and)?[\s-]+{_BELOW_1000})?"
_DOZENS = rf"half a dozen|(?:(?:{_BELOW_100}|a) )?dozen|a (?:couple|pair)|a single"
_WORDS = rf"(?:{_DOZENS}|{_THOUSANDS}|{_BELOW_1000}|zero)"
_UNIT_MARKS = r"(?:[kmgc]?m|[km]?g|ml|l|km/h|kmh|mph|ft|in|px|x|k|h|hrs?|mins?|s|am|pm)"
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d++)(?:\.\d++)?(?!,?\d)"
_NUMBER = re.compile(
    rf"(?P<digits>(?:(?<![\w.)])[-−])?(?<![\w.,:/])(?:{_DIGITS}|\.\d++))"
    rf"(?:(?={_UNIT_MARKS}\b)|(?![a-z]))"
    rf"|(?<![\w-])(?P<words>{_WORDS})(?![\w]|-[a-z])"
    r"|(?P<zero>\b(?:none|nil|nought|nobody|no one|nothing)\b"
    r"(?! (?:knows?|(?:can|could) (?:tell|say|know|count|see)|(?:is|was) (?:sure|certain|clear))\b)"
    r"|(?:n't|\bnot) (?:(?:see|have|show|contain) )?any\b"
    r"|\bno (?!(?:idea|doubt|way|problem|longer|more|less|fewer|answer|one|clue"
    r"|comment|information|opinion|guess)\b)[a-z]+)\b"
)
# What stands before a number that is not the count: names, ordinals' labels, the pronoun "one".
_LABEL = re.compile(
    r"(?:\b(?:image|picture|photo|figure|fig|step|question|option|no|number|not|level|size)[ .#]*"
    r"|#)$"
)
_PRONOUN = re.compile(
    r"\b(?:the|this|that|which|each|every|any|some|another|first|second|last|next|other)\s+$"
)
_INDEFINITE = re.compile(
    r"\b(?:at least|at most|more than|less than|fewer than|over|under|up to|or more|or fewer"
    r"|or less|several|many|or so|between|either|and/or|or)\b|\d\s?\+"
)
_TOTAL = re.compile(
    r"\b(?:in total|total(?: number| count)?(?: of)?|altogether|(?:final )?answer|count)"
    r"(?: (?:is|are|of|would be|should be))?\s*[:=]?\s*"
)
_SENTENCE_END = re.compile(r"[.;!?](?:\s|$)|\n")
_LABEL_ROOM = 24  # characters before a number in which its label is looked for
# Beyond this a float is not exact, and no count is that large.
_MOST_DIGITS = 15
_IN_DIGITS = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?", re.ASCII)


def _value_of_words(words: str) -> float:
    """The value of one number in words, as `_WORDS` matches it.

    >>> _value_of_words("one thousand two hundred and twenty-one"), _value_of_words("two dozen")
    (1221.0, 24.0)
    """
    total = part = 0
    for word in re.split(r"[\s,-]+", words):
        if word in _UNITS:
            part += _UNITS[word]
        elif word in _TENS:
            part += _TENS[word]
        elif word == "hundred":
            part = (part or 1) * 100
        elif word == "thousand":
            total, part = total + (part or 1) * 1000, 0
        elif word == "dozen":
            part = 6 if words.startswith("half") else (part or 1) * 12
        elif word in ("couple", "pair"):
            part = 2
        elif word == "single":
            part = 1
    return float(total + part)


def _found(text: str) -> set[float]:
    """The numbers in a plain text, labels and pronouns left out; none beside a time or a share."""
    found = set()
    for match in _NUMBER.finditer(text):
        before = text[max(0, match.start() - _LABEL_ROOM) : match.start()]
        if match["zero"]:
            value = 0.0
        elif match["words"]:
            if match["words"] == "one" and _PRONOUN.search(before):
                continue
            value = _value_of_words(match["words"])
        else:
            digits = match["digits"].replace(",", "").replace("−", "-")
            if len(digits) > _MOST_DIGITS or text[match.end() : match.end() + 1] in ("/", ":"):
                return set()
            value = float(digits)
        if not _LABEL.search(before):
            found.add(value)
    return found


def read(response: str) -> float | None:
    """The one number that a response states; None for no number, several, or a bound.

    >>> read("There are twenty-one dogs."), read("a dozen"), read("No dogs."), read("1,000")
    (21.0, 12.0, 0.0, 1000.0)
    >>> read("3 or 4"), read("at least 3"), read("alone"), read("3rd"), read("1,00")
    (None, None, None, None, None)
    >>> read("2 black and 1 white dog, so the answer is 3")
    3.0
    """
    text = plain(response)
    value = _only_value(text)
    if value is None and "\n" in text:
        # A number alone on the first line, its explanation below.
        first, below = text.split("\n", 1)
        value = of_gold(first) if any(map(str.isalpha, below)) else None
    if value is None:
        # Several numbers: the one after the last "total" or "answer is" stands for all.
        cues = list(_TOTAL.finditer(text))
        if cues:
            value = _only_value(_SENTENCE_END.split(text[cues[-1].end() :])[0])
    return value


def _only_value(text: str) -> float | None:
    if not text or _INDEFINITE.search(text) or has_second_thought(text):
        return None
    values = _found(text)
    return values.pop() if len(values) == 1 else None


@lru_cache(maxsize=65536)
def of_gold(gold: str) -> float | None:
    """The value of an answer that is nothing but a number; None for any other text.

    >>> of_gold("3.0"), of_gold("Twelve"), of_gold("3 dogs")
    (3.0, 12.0, None)
    """
    text = plain(gold)
    match = _NUMBER.match(text)
    if not match or match.end() != len(text) or text.startswith("no "):
        return None
    return read(text)


@lru_cache(maxsize=65536)
def count_of_gold(gold: str) -> float | None:
    """The count that a gold answer states, alone or in a sentence.

    >>> count_of_gold("There are 3 dogs in this image.")
    3.0
    """
    return read(gold)


def written(value: float) -> str:
    """A value in digits: `3` for 3.0.

    >>> written(3.0), written(0.5)
    ('3', '0.5')
    """
    return str(int(value)) if value.is_integer() else repr(value)


def _score(sample: Sample, value: float | None) -> Score:
    """1 if the value is one of the golds; the error is that to the nearest gold."""
    golds = [gold for text in sample.answers if (gold := count_of_gold(text)) is not None]
    if value is None or not golds:
        return Score(0.0, None, {"accuracy": 0.0, "squared_error": None})
    right = float(value in golds)
    parsed = int(value) if value.is_integer() else value
    error = min((value - gold) ** 2 for gold in golds)
    return Score(right, parsed, {"accuracy": right, "squared_error": error})


def in_digits(text: str) -> float | None:
    """The value of a text that is a number in ASCII digits and nothing else; None for any other.

    >>> in_digits("-4"), in_digits("3.5"), in_digits("1,000"), in_digits("1,00"), in_digits("three")
    (-4.0, 3.5, 1000.0, None, None)
    """
    if not _IN_DIGITS.fullmatch(text) or len(text.replace(",", "")) > _MOST_DIGITS:
        return None
    return float(text.replace(",", ""))


def strict(sample: Sample, response: str) -> Score:
    """1 if the response is the number in ASCII digits and nothing else but a final period.

    A sign, a decimal part and commas at the thousands belong to a number; but a whole number has
    no decimal part, unless a gold is written with the same one.
    """
    # Full-width digits are what `fold` makes ASCII: the response itself must be in ASCII.
    text = trim(fold(response)) if response.isascii() else ""
    value = in_digits(text)
    if value is not None and value.is_integer() and "." in text and text not in sample.answers:
        value = None
    return _score(sample, value)


def lenient(sample: Sample, response: str) -> Score:
    """1 if the only number that the response states is a gold one."""
    return _score(sample, read(response))
