"""Whole studies with hardly any data, holes and odd shapes: judged without a traceback."""

from __future__ import annotations

import json
import warnings

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis import JudgeOptions, judge
from harness.analysis.scores import MISSING, SCORED, BenchmarkScores, StudyScores
from harness.cli.compare import as_json
from harness.errors import UserError
from harness.report.csv_files import csv_text
from harness.report.tables import side_by_side, stage_tables
from harness.types import Stage, StageKey

ROLES = ("target", "held_out", "probe")


@st.composite
def studies(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    names = [f"b{i}" for i in range(draw(st.integers(1, 4)))]
    columns = [Stage(StageKey("base", "0", 0), "base")]
    for strategy in range(draw(st.integers(1, 2))):
        for run in range(draw(st.integers(1, 3))):
            for t in range(1, 1 + draw(st.integers(1, 4))):
                target = draw(st.sampled_from([*names, None, "elsewhere"]))
                columns.append(Stage(StageKey(f"s{strategy}", str(run), t), f"stage{t}", target))
    keys = tuple(stage.key for stage in columns)
    holes = draw(st.sampled_from([0.0, 0.02, 0.3]))
    graded = draw(st.booleans())
    benches = {}
    for name in names:
        n = draw(st.sampled_from([1, 2, 5, 30, 320]))
        raw = rng.random((n, len(keys)))
        values = raw if graded else 1.0 * (raw < rng.choice([0.0, 0.5, 0.98, 1.0]))
        values[rng.random(values.shape) < holes] = np.nan
        values[:, rng.random(len(keys)) < holes] = np.nan
        benches[name] = BenchmarkScores(
            benchmark=name,
            role=draw(st.sampled_from(ROLES)),
            metric="accuracy",
            sample_ids=np.arange(n).astype(object),
            groups=rng.integers(0, rng.integers(1, n + 1), n),
            weights=rng.uniform(0.5, 2, n) if draw(st.booleans()) else np.ones(n),
            chance=rng.random(n),
            columns=keys,
            values={"strict": values, "lenient": np.maximum(values, 0.5)},
            status=np.where(np.isnan(values), MISSING, SCORED).astype(np.uint8),
            unparsed=np.zeros(values.shape, bool),
            rates={"bare_number": raw},
        )
    return StudyScores("wild", "", tuple(columns), benches)


@given(studies(), st.booleans())
@settings(max_examples=15, deadline=None)
def test_any_study_is_judged_or_refused_in_words(scores, common_set):
    options = JudgeOptions(baseline="s0", max_dropped=0.5, common_set=common_set)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = judge(scores, options)
        except UserError as refused:
            assert "max-dropped" in str(refused)
            return
        for frame in (found.scores, found.deltas, found.leaderboard):
            assert "nan" not in csv_text(frame)
        json.dumps(as_json(found, []), allow_nan=False)
        side_by_side(found, 0, 4)
        for strategy in found.strategies:
            list(stage_tables(found, strategy))
    known = found.deltas.dropna(subset=["ci_low_pp"])
    assert (known.ci_low_pp <= known.delta_pp + 1e-9).all()
    assert (known.delta_pp <= known.ci_high_pp + 1e-9).all()
    assert set(found.deltas.verdict) <= {"improved", "retained", "regressed", "inconclusive", "NA"}
    assert all("nan" not in text for text in found.sentences.values())
