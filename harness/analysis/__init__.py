"""The statistics of a study: pure functions on arrays and frames; torch is never imported.

Numbers are fractions in here; frames and files hold points, with the unit in the column's name.
"""

from harness.analysis.contrasts import difference_between
from harness.analysis.drift_table import measured
from harness.analysis.flips import (
    Flips,
    Loss,
    Trajectories,
    flips,
    superficial_essential,
    trajectories,
)
from harness.analysis.forgetting import (
    Course,
    chance_adjusted,
    headroom_normalised,
    matrix_figures,
    pareto,
)
from harness.analysis.judge import Judgement, judge
from harness.analysis.matrix import Judged, ScoreMatrix, scorer_of, suite_settings
from harness.analysis.multiple import holm, minimum_detectable_effect
from harness.analysis.options import CONTRASTS, JudgeOptions
from harness.analysis.paired import PairedDifference, mcnemar, paired_difference
from harness.analysis.recovery import Recovery, recovery
from harness.analysis.verdicts import Verdict, samples_to_decide, verdict

__all__ = [
    "CONTRASTS",
    "Course",
    "Flips",
    "JudgeOptions",
    "Judged",
    "Judgement",
    "Loss",
    "PairedDifference",
    "Recovery",
    "ScoreMatrix",
    "Trajectories",
    "Verdict",
    "chance_adjusted",
    "difference_between",
    "flips",
    "headroom_normalised",
    "holm",
    "judge",
    "matrix_figures",
    "mcnemar",
    "measured",
    "minimum_detectable_effect",
    "paired_difference",
    "pareto",
    "recovery",
    "samples_to_decide",
    "scorer_of",
    "suite_settings",
    "superficial_essential",
    "trajectories",
    "verdict",
]
