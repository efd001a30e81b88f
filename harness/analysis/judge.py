"""A judgement: everything a study says about its strategies, as frames, figures and sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from harness.analysis.options import JudgeOptions
from harness.analysis.paired import PairedDifference
from harness.analysis.scores import StudyScores


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of judging one study."""

    study: str
    scorer: str
    options: JudgeOptions
    scores: pd.DataFrame
    """`scores.csv`: one row per stage, benchmark and scorer."""
    deltas: pd.DataFrame
    """`deltas.csv`: one row per contrast and benchmark; role `mean` = held-out mean, run `mean` =
    mean over runs."""
    leaderboard: pd.DataFrame
    """`leaderboard.csv`: one row per strategy, best first."""
    figures: Mapping[str, Mapping[str, PairedDifference]]
    """strategy -> figure (names of the leaderboard without `_pp`, and those of the literature)."""
    comparisons: Mapping[str, Mapping[str, PairedDifference]]
    """strategy -> figure minus the baseline strategy's; empty without a baseline."""
    sentences: Mapping[str, str]
    """strategy -> what the numbers say."""
    minimum_detectable_pp: Mapping[str, float]
    """strategy -> smallest held-out change at the last stage that would be found (80 % power)."""
    notes: tuple[str, ...]
    """What a reader must know: missing cells, targets not learned, bases at chance, ..."""


def judge(
    scores: StudyScores,
    options: JudgeOptions | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Judge a study. `on_step(done, total)` is called as it goes on.

    Raises UserError for an unknown scorer, baseline or dip; IncompatibleError (exit code 4) for
    numbers made in different ways or over different samples. Missing cells give NA.
    """
    raise NotImplementedError
