"""A study that is only partly scored: what is missing is NA, and nothing is said in its place."""

from __future__ import annotations

import numpy as np

from harness.analysis import JudgeOptions, judge
from harness.analysis.scores import MISSING, SCORED, BenchmarkScores, StudyScores
from harness.types import Stage, StageKey


def half_scored(n: int = 400) -> StudyScores:
    """Two runs of two stages; run 1 has only its base."""
    stages = [Stage(StageKey("base", "0", 0), "base")]
    stages += [Stage(StageKey("s", run, k), f"t{k}", f"t{k}") for run in ("0", "1") for k in (1, 2)]
    columns = tuple(stage.key for stage in stages)
    there = [key.run == "0" for key in columns]
    rng = np.random.default_rng(0)
    benchmarks = {}
    for name, role in (("t1", "target"), ("t2", "target"), ("h", "held_out")):
        values = (rng.random((n, len(columns))) < 0.5).astype(float)
        values[:, 1:] = (
            np.maximum(values[:, 1:], values[:, :1]) if role == "target" else values[:, 1:]
        )
        values[:, ~np.array(there)] = np.nan
        status = np.where(np.isnan(values), MISSING, SCORED).astype(np.uint8)
        benchmarks[name] = BenchmarkScores(
            name, role, "accuracy", np.array([str(i) for i in range(n)], np.object_),
            np.arange(n), np.ones(n), np.zeros(n), columns, {"strict": values}, status,
            np.zeros((n, len(columns)), bool), {}, ("same",) * len(columns), tuple(map(str, columns)),
        )  # fmt: skip
    return StudyScores("half", "base", tuple(stages), benchmarks)


def test_what_needs_a_missing_cell_is_na_and_not_called_unlearned():
    judged = judge(half_scored(), JudgeOptions())
    figures = judged.figures["s"]
    for name in ("learning", "target_forgetting", "heldout_final", "heldout_worst", "heldout_sum"):
        assert np.isnan(figures[name].delta), name
    text = "\n".join(judged.notes)
    assert "6 cells missing (NA)" in text and "not learned" not in text
