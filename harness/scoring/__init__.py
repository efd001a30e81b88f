"""Scoring: from (sample, response) to a score between 0 and 1. Pure functions, no engine, no file.

`SCORERS[task][scorer]` is the way in. Four scorers, where they apply: `strict` (the documented
metric), `lenient` (the best reading of the answer), `lmm_cl` and `lmms_eval` (what those programs
give, oddities included).
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.scoring import lmm_cl, lmms_eval
from harness.types import Scorer, ScorerName

_TASKS = (
    *("cub200", "pixmo_count", "pathvqa", "textvqa", "timeclock"),
    *("ai2d", "chartqa", "docvqa", "infovqa", "realworldqa", "seedbench", "scienceqa", "mmstar"),
    *("ocrbench", "mmmu", "pope", "gqa", "vqav2", "mme", "mmbench"),
    *("countbench", "tallyqa", "cococlock", "openimgclock"),
)


def _scorers(task: str) -> Mapping[ScorerName, Scorer]:
    found: dict[ScorerName, Scorer] = {}
    if task in lmm_cl.SCORERS:
        found["lmm_cl"] = lmm_cl.SCORERS[task]
    if task in lmms_eval.SCORERS:
        found["lmms_eval"] = lmms_eval.SCORERS[task]
    return found


SCORERS: Mapping[str, Mapping[ScorerName, Scorer]] = {task: _scorers(task) for task in _TASKS}
"""Task name -> scorer name -> scorer."""
