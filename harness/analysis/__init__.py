"""The statistics of a study: pure functions on arrays and frames; torch is never imported."""

from harness.analysis.multiple import holm, minimum_detectable_effect
from harness.analysis.paired import PairedDifference, mcnemar, paired_difference
from harness.analysis.verdicts import Verdict, samples_to_decide, verdict

__all__ = [
    "PairedDifference",
    "Verdict",
    "holm",
    "mcnemar",
    "minimum_detectable_effect",
    "paired_difference",
    "samples_to_decide",
    "verdict",
]
