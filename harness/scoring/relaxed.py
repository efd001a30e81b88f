"""Relaxed accuracy: ChartQA's metric, numbers within 5 %, other answers exactly.

Source: https://arxiv.org/abs/2203.10244, section 5.1. Mended against the reference programs:
thousands separators and currency signs are read, a gold of 0 is a number, and years must be
exact, because 5 % of a year is a century.
"""

from __future__ import annotations

import re
from functools import lru_cache

from harness.scoring import number
from harness.scoring.phrase import candidates, hedged, other_currency, same, strictly_same
from harness.scoring.plain import fold, plain, plain_gold, trim
from harness.types import Sample, Score

TOLERANCE = 0.05
_NUMBER = re.compile(r"[$€£¥]?\s?([-−+]?)[$€£¥]?\s?(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?\s?(%?)")
_YEAR = re.compile(r"1[5-9]\d\d|20\d\d")
_QUANTITY = re.compile(
    r"\b(?:how (?:many|much)|value|total|sum|average|mean|median|difference|ratio|number of"
    r"|amount|percent\w*|population|price|cost)\b",
    re.IGNORECASE,
)
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_SCALED = re.compile(r"(.*\d)\s*(thousand|million|billion|trillion)s?\b.*", re.DOTALL)
_MOST_DIGITS = 300


@lru_cache(maxsize=65536)
def _gold_value(text: str) -> tuple[float, bool] | None:
    return value_of(text)


def value_of(text: str) -> tuple[float, bool] | None:
    """(value, has a percent sign) of an answer that is a number; None for any other.

    >>> value_of("1,250.5"), value_of("62%"), value_of("-$3"), value_of("14 million")
    ((1250.5, False), (62.0, True), (-3.0, False), None)
    """
    match = _NUMBER.fullmatch(trim(text)) if len(text) <= _MOST_DIGITS and text.isascii() else None
    if not match or not (match[2] or match[3]):
        return None
    sign = "-" if match[1] in ("-", "−") else ""
    return float(f"{sign}{(match[2] or '0').replace(',', '')}{match[3] or ''}"), bool(match[4])


def near(given: float, gold: float) -> bool:
    """True within 5 % of the gold value; a gold of 0 asks for 0.

    >>> near(14.7, 14), near(14.8, 14), near(0.0, 0.0), near(0.01, 0.0)
    (True, False, True, False)
    """
    # A hair's breadth more: 14.7 is 5 % above 14, but not in binary fractions.
    return abs(given - gold) <= TOLERANCE * abs(gold) * (1 + 1e-9)


def _is_year(sample: Sample, gold: str) -> bool:
    return bool(_YEAR.fullmatch(trim(gold))) and not _QUANTITY.search(sample.question)


def _right(sample: Sample, given: tuple[float, bool], gold: str) -> bool:
    wanted = _gold_value(gold)
    if wanted is None:
        return False
    if _is_year(sample, gold):
        return given == wanted
    return near(given[0], wanted[0])


def _strictly_right(sample: Sample, response: str, gold: str) -> bool:
    if strictly_same(response, gold):
        return True
    given = value_of(response)
    return given is not None and _right(sample, given, gold)


def strict(sample: Sample, response: str) -> Score:
    """1 if both are numbers within 5 %, a % sign or none, or else equal but for case."""
    value = float(any(_strictly_right(sample, response, gold) for gold in sample.answers))
    return Score(value, trim(response) or None, {"relaxed_accuracy": value})


def _values(reading: str, gold: str) -> list[tuple[float, bool]]:
    """What a reading may state as a number: as written, a share for a percentage, with its scale.

    "14 million" is 14 where the chart counts in millions, and 14,000,000 where it does not.
    """
    stated = value_of(reading)
    if stated is None:
        value = number.read(reading)
        if value is None:
            return []
        stated = value, "%" in reading
    found = [stated]
    scaled = _SCALED.fullmatch(reading)
    if scaled:
        found.append((stated[0] * _SCALES[scaled[2]], False))
    wanted = _gold_value(gold)
    # A share is no whole number: "1" is not 100 %, nor is 500 % the count 5.
    share = wanted[0] if wanted and stated[1] else stated[0]
    if wanted and wanted[1] != stated[1] and not share.is_integer():
        found.append((stated[0] / 100 if stated[1] else stated[0] * 100, wanted[1]))
    return found


def _leniently_right(sample: Sample, response: str, gold: str) -> bool:
    if _strictly_right(sample, response, gold):
        return True
    if other_currency(plain(response), plain_gold(gold)):
        return False
    for reading in candidates(response, sample.answers):
        if same(reading, gold):
            return True
        if any(_right(sample, value, gold) for value in _values(reading, gold)):
            return True
    return False


def lenient(sample: Sample, response: str) -> Score:
    """1 if a reading of the response is within 5 % of the gold number, or says the same."""
    value = 0.0
    if plain(response) and not hedged(response, sample.answers):
        text = trim(fold(response))
        value = float(any(_leniently_right(sample, text, gold) for gold in sample.answers))
    return Score(value, trim(response) or None, {"relaxed_accuracy": value})
