"""Phrases: short answers compared word by word, and token F1.

A phrase is right as a whole or not at all: a longer phrase that contains the gold one ("red wine"
for "red") is another answer. Hedges ("red or blue") are not answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from harness.scoring import number, yes_no
from harness.scoring.plain import fold, has_second_thought, plain, plain_gold, readings, trim
from harness.types import Sample, Score

_TOKEN = re.compile(
    r"(?:(?<![\w.])[-−])?(?:\d+(?:[.,:/]\d+)*|\.\d+)(?![^\W_])|[^\W_]+(?:'[^\W_]+)*|[%/+]"
)
_ARTICLES = frozenset({"a", "an", "the"})
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_HEDGE = re.compile(
    r"\bor\b|\beither\b|(?<![\d/:])(?<!km)/(?![\d/]|[hs]\b)"
    r"|\b(?:not sure|unsure|uncertain|don't know|do not know|cannot (?:tell|say|determine)"
    r"|can't (?:tell|say|determine)|could be|might be|may be)\b"
)
# Marks that make another answer of the same words: x > 5, C#, the grade A-. Arrows are none.
_SIGNS = re.compile(r"(?<![-=])>=?|<(?!-)=?|[≤≥≠]|(?<=[^\W_])#|(?<![\w'])[a-z][-−](?![\w-])")
_CURRENCIES = (
    re.compile(r"\$|\bdollars?\b|\busd\b"),
    re.compile(r"€|\beuros?\b|\beur\b"),
    re.compile(r"£|\bgbp\b|\bpounds? sterling\b"),
    re.compile(r"¥|\byen\b|\byuan\b"),
    re.compile(r"₹|\brupees?\b"),
)
_YES_NO = frozenset({"yes", "no"})


def tokens(text: str) -> tuple[str, ...]:
    """The words and numbers of a plain text without articles; all words where only those are.

    >>> tokens("the t-shirt costs 1,250.50 %"), tokens("a")
    (('t', 'shirt', 'costs', '1250.50', '%'), ('a',))
    """
    words = tuple(_TOKEN.findall(_THOUSANDS.sub("", text)))
    return tuple(word for word in words if word not in _ARTICLES) or words


@lru_cache(maxsize=65536)
def gold_tokens(text: str) -> tuple[str, ...]:
    """`tokens` of a gold answer, remembered."""
    return tokens(plain(text))


def is_hedge(text: str) -> bool:
    """True where a plain text offers alternatives or declines to say.

    >>> is_hedge("liver or kidney"), is_hedge("oral cavity"), is_hedge("on 1/4/87")
    (True, False, False)
    """
    return _HEDGE.search(text) is not None or has_second_thought(text)


def hedged(response: str, golds: Sequence[str]) -> bool:
    """True where `response` hedges and no gold does: "24/7" is no hedge if it is the answer."""
    text = plain(response)
    return is_hedge(text) and not any(is_hedge(plain_gold(gold)) for gold in golds)


def candidates(response: str, golds: Sequence[str]) -> tuple[str, ...]:
    """The readings of a response that may be compared with golds of their kind; () for a hedge.

    A yes/no answer or the only number of a longer answer is a reading where a gold is one.

    >>> candidates("Yes, there is a cat.", ["yes"])[-1]
    'yes'
    >>> candidates("There are 2 dogs", ["2"])[-1], candidates("red or blue", ["red"])
    ('2', ())
    """
    text = plain(response)
    if not text:
        return ()
    wanted = {plain_gold(gold) for gold in golds}
    if is_hedge(text) and not any(is_hedge(gold) for gold in wanted):
        return ()
    found = list(readings(text))
    if wanted & _YES_NO and (answer := yes_no.read(response)):
        found.append(answer)
    if any(number.of_gold(gold) is not None for gold in wanted):
        value = number.read(response)
        if value is not None:
            found.append(number.written(value))
    return tuple(dict.fromkeys(found))


def other_currency(text: str, gold: str) -> bool:
    """True where two plain texts both name a currency, and not the same one.

    >>> other_currency("€5", "$5"), other_currency("5", "$5"), other_currency("5 dollars", "$5")
    (True, False, False)
    """
    given, wanted = ([bool(c.search(t)) for c in _CURRENCIES] for t in (text, gold))
    return (
        any(given) and any(wanted) and not any(a and b for a, b in zip(given, wanted, strict=True))
    )


def _same_signs(reading: str, gold: str) -> bool:
    return _SIGNS.findall(reading) == _SIGNS.findall(gold) and not other_currency(reading, gold)


def same(reading: str, gold: str) -> bool:
    """True if two answers are the same words, or the same number in digits or words.

    >>> same("the liver", "Liver"), same("twelve", "12"), same("red wine", "red")
    (True, True, False)
    >>> same("x < 5", "x > 5"), same("c", "C#"), same("a", "A-"), same("€5", "$5"), same("5", "$5")
    (False, False, False, False, True)
    """
    words = tokens(reading)
    if words:
        if not _same_signs(reading, plain_gold(gold)):
            return False
        wanted = gold_tokens(gold)
        if words == wanted:
            return True
        # A unit may stand apart from its number: "5cm", "5 cm".
        joined = "".join(words)
        if joined[:1].isdigit() and joined == "".join(wanted):
            return True
        value = number.of_gold(reading)
        return value is not None and value == number.of_gold(gold)
    return bool(reading) and reading == plain_gold(gold)


def f1(response: str, gold: str) -> float:
    """Token F1 of SQuAD (https://arxiv.org/abs/1606.05250, 6.1), articles and case ignored.

    >>> f1("yes yes yes", "yes"), f1("", "yes")
    (0.5, 0.0)
    """
    given, wanted = Counter(tokens(plain(response))), Counter(gold_tokens(gold))
    shared = (given & wanted).total()
    return 2 * shared / (given.total() + wanted.total()) if shared else 0.0


def strictly_same(response: str, gold: str) -> bool:
    """Equality but for case, white space around and a period at the end.

    >>> strictly_same(" Yes. ", "yes"), strictly_same("the liver", "liver")
    (True, False)
    """
    text = trim(fold(response))
    return bool(text) and text == _strict_gold(gold)


@lru_cache(maxsize=65536)
def _strict_gold(gold: str) -> str:
    return trim(fold(gold))


def strict(sample: Sample, response: str) -> Score:
    """1 if the response is one of the golds, but for case and a final period."""
    value = float(any(strictly_same(response, gold) for gold in sample.answers))
    return Score(value, trim(response) or None, {"exact_match": value})


def lenient(sample: Sample, response: str) -> Score:
    """1 if a reading of the response says the same as one of the golds."""
    read = candidates(response, sample.answers)
    right = (r for r in read if any(same(r, gold) for gold in sample.answers))
    found = next(right, None)
    value = float(
        found is not None or any(strictly_same(response, gold) for gold in sample.answers)
    )
    return Score(value, found or (read[-1] if read else None), {"exact_match": value})
