"""Open answers: questions whose golds are of several kinds (a letter, a number, yes, a phrase).

The only rule here is to read the kind off the gold; each kind is scored by its own module.
"""

from __future__ import annotations

import ast
import dataclasses
from functools import lru_cache

from harness.scoring import choice, phrase, relaxed, yes_no
from harness.scoring.plain import fold, plain_gold, trim
from harness.types import Sample, Score, Scorer


def _is_letter(gold: str) -> bool:
    text = trim(gold)
    return len(text) == 1 and text.isascii() and text.isalpha()


def _is_yes_no(gold: str) -> bool:
    return plain_gold(gold) in ("yes", "no")


def _letter_or_text(of_letter: Scorer, of_text: Scorer) -> Scorer:
    def scorer(sample: Sample, response: str) -> Score:
        return (of_letter if _is_letter(sample.answers[0]) else of_text)(sample, response)

    return scorer


strict_letter_or_text = _letter_or_text(choice.strict, phrase.strict)
"""RealWorldQA: a letter where the gold is one, else the text."""
lenient_letter_or_text = _letter_or_text(choice.lenient, phrase.lenient)
"""RealWorldQA: the option named where the gold is a letter, else a reading of the text."""


def _pathology(of_yes_no: Scorer, of_text: Scorer) -> Scorer:
    def scorer(sample: Sample, response: str) -> Score:
        gold = sample.answers[0]
        if _is_yes_no(gold):
            score = of_yes_no(sample, response)
            return dataclasses.replace(
                score, metrics={"yes_no_accuracy": score.value, "exact_match": None, "f1": None}
            )
        score = of_text(sample, response)
        overlap = max((phrase.f1(response, gold) for gold in sample.answers), default=0.0)
        metrics = {"yes_no_accuracy": None, "exact_match": score.value, "f1": overlap}
        return dataclasses.replace(score, metrics=metrics)

    return scorer


strict_pathology = _pathology(yes_no.strict, phrase.strict)
"""PathVQA: yes/no accuracy, or exact match and token F1, reported apart by the gold's kind."""
lenient_pathology = _pathology(yes_no.lenient, phrase.lenient)
"""PathVQA with the best reading of the response."""


@lru_cache(maxsize=65536)
def listed_golds(gold: str) -> tuple[str, ...]:
    """The members of a gold that is the text of a Python list (MMMU), else the gold itself.

    >>> listed_golds("['24/7', '3.429']"), listed_golds("0.32")
    (('24/7', '3.429'), ('0.32',))
    """
    if gold.startswith("[") and gold.endswith("]"):
        try:
            members = ast.literal_eval(gold)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return (gold,)
        return tuple(str(member) for member in members) or (gold,)
    return (gold,)


def _rounded(text: str) -> float | None:
    value = relaxed.value_of(text)
    return round(value[0], 2) if value else None


def _near_to_two_decimals(sample: Sample, reading: str) -> bool:
    given = _rounded(reading)
    return given is not None and any(given == _rounded(gold) for gold in sample.answers)


def _strict_open(sample: Sample, response: str) -> Score:
    """MMMU's open questions: numbers agree to two decimals, other golds are equal texts."""
    if _near_to_two_decimals(sample, response):
        return Score(1.0, trim(response), {"exact_match": 1.0})
    return phrase.strict(sample, response)


def _lenient_open(sample: Sample, response: str) -> Score:
    for reading in (trim(fold(response)), *phrase.candidates(response, sample.answers)):
        if _near_to_two_decimals(sample, reading):
            return Score(1.0, reading, {"exact_match": 1.0})
    return phrase.lenient(sample, response)


def _mmmu(of_letter: Scorer, of_text: Scorer) -> Scorer:
    def scorer(sample: Sample, response: str) -> Score:
        if sample.choices or sample.doc.get("question_type") == "multiple-choice":
            return of_letter(sample, response)
        golds = tuple(member for gold in sample.answers for member in listed_golds(gold))
        return of_text(dataclasses.replace(sample, answers=golds), response)

    return scorer


strict_mmmu = _mmmu(choice.strict, _strict_open)
"""MMMU: a letter for multiple choice, else any of the listed golds."""
lenient_mmmu = _mmmu(choice.lenient, _lenient_open)
"""MMMU with the best reading of the response."""
