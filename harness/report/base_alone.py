"""A study of a base alone: what is shown where strategies would be compared."""

from __future__ import annotations

from harness.analysis import Judgement
from harness.report import foreign_text
from harness.report.numerals import interval, plain

NO_STAGES = (
    "Only the base has scores: there are no stages yet to compare with it. "
    "Name strategies in the manifest and score again, or import their rows too."
)
COLUMNS = ("Benchmark", "Role", "Base %", "Interval", "Samples", "Scorer")


def is_alone(judgement: Judgement) -> bool:
    """Whether a study has no strategies, so that there is nothing to compare."""
    return not judgement.strategies


def base_scores(judgement: Judgement) -> list[tuple[str, ...]]:
    """The base's score of each benchmark under the judged scorer, as `COLUMNS` name it."""
    rows = judgement.judged_scores
    rows = rows[(rows["stage"] == 0) & ~rows["metric"].str.endswith("_rate")]
    return [
        (
            foreign_text.name(str(row["benchmark"])),
            str(row["role"]).replace("_", "-"),
            plain(row["score_pct"]),
            interval(row["ci_low_pct"], row["ci_high_pct"]).replace("+", ""),
            str(row["n_samples"]),
            foreign_text.name(str(row["scorer"])),
        )
        for _, row in rows.iterrows()
    ]
