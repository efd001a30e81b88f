"""Scoring: from (sample, response) to a score between 0 and 1. Pure functions, no engine, no file.

`SCORERS[task][scorer]` is the way in. Four scorers, where they apply: `strict` (the documented
metric, without the reference programs' faults and without leniency), `lenient` (the best reading
of the answer), `lmm_cl` and `lmms_eval` (what those programs give, oddities included).
`FAMILIES[kind]` holds strict and lenient alone, for tasks that are declared without code.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.scoring import (
    anls,
    choice,
    clock,
    lmm_cl,
    lmms_eval,
    number,
    ocr,
    open_answer,
    phrase,
    relaxed,
    vqa,
    yes_no,
)
from harness.types import Scorer, ScorerName

__all__ = ["FAMILIES", "SCORERS"]

FAMILIES: Mapping[str, Mapping[ScorerName, Scorer]] = {
    "exact": {"strict": phrase.strict, "lenient": phrase.lenient},
    "choice": {"strict": choice.strict, "lenient": choice.lenient},
    "number": {"strict": number.strict, "lenient": number.lenient},
    "yes_no": {"strict": yes_no.strict, "lenient": yes_no.lenient},
    "time": {"strict": clock.strict, "lenient": clock.lenient},
    "vqa": {"strict": vqa.strict, "lenient": vqa.lenient},
    "anls": {"strict": anls.strict, "lenient": anls.lenient},
    "relaxed": {"strict": relaxed.strict, "lenient": relaxed.lenient},
    "ocr": {"strict": ocr.strict, "lenient": ocr.lenient},
    "letter_or_text": {
        "strict": open_answer.strict_letter_or_text,
        "lenient": open_answer.lenient_letter_or_text,
    },
    "pathology": {
        "strict": open_answer.strict_pathology,
        "lenient": open_answer.lenient_pathology,
    },
    "mmmu": {"strict": open_answer.strict_mmmu, "lenient": open_answer.lenient_mmmu},
}
"""Kind of answer -> strict and lenient scorer."""

_FAMILY_OF = {
    **dict.fromkeys(("cub200", "ai2d", "seedbench", "scienceqa", "mmstar", "mmbench"), "choice"),
    **dict.fromkeys(("pixmo_count", "countbench", "tallyqa"), "number"),
    **dict.fromkeys(("timeclock", "cococlock", "openimgclock"), "time"),
    **dict.fromkeys(("textvqa", "vqav2"), "vqa"),
    **dict.fromkeys(("docvqa", "infovqa"), "anls"),
    **dict.fromkeys(("pope", "mme"), "yes_no"),
    "pathvqa": "pathology",
    "chartqa": "relaxed",
    "realworldqa": "letter_or_text",
    "ocrbench": "ocr",
    "mmmu": "mmmu",
    "gqa": "exact",
}


def _scorers(task: str) -> Mapping[ScorerName, Scorer]:
    found: dict[ScorerName, Scorer] = dict(FAMILIES[_FAMILY_OF[task]])
    if task in lmm_cl.SCORERS:
        found["lmm_cl"] = lmm_cl.SCORERS[task]
    if task in lmms_eval.SCORERS:
        found["lmms_eval"] = lmms_eval.SCORERS[task]
    return found


SCORERS: Mapping[str, Mapping[ScorerName, Scorer]] = {task: _scorers(task) for task in _FAMILY_OF}
"""Task name -> scorer name -> scorer."""
