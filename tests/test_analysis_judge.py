"""Judging a whole study: runs, missing cells, mismatches, and the frames that leave it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.analysis import (
    JudgeOptions,
    difference_between,
    judge,
    paired_difference,
    recovery,
    scorer_of,
    suite_settings,
    superficial_essential,
)
from harness.analysis.frames import DELTAS_COLUMNS, LEADERBOARD_COLUMNS, SCORES_COLUMNS
from harness.analysis.scores import FAILED, MISSING, SCORED, BenchmarkScores, StudyScores
from harness.errors import EXIT_INCOMPATIBLE, IncompatibleError, ResultsError, UserError
from harness.report.csv_files import csv_text, neutralise, write_csv_files
from harness.types import Stage, StageKey

BASE = StageKey("base", "0", 0)
N = 400


def study(
    stages=("t0", "t1", "t0"), targets=("t0", "t1"), held_out=("h0", "h1"), strategies=("s",),
    runs=1, seed=0, scorers=("strict", "lenient"),
):  # fmt: skip
    """A study in which targets rise by 20 points and held-out falls by 10, then half returns."""
    rng = np.random.default_rng(seed)
    columns = [Stage(BASE, "base")]
    for strategy in strategies:
        for run in range(runs):
            columns += [
                Stage(StageKey(strategy, str(run), t), f"stage{t}", target)
                for t, target in enumerate(stages, 1)
            ]
    keys = tuple(stage.key for stage in columns)
    benches = {}
    for name in (*targets, *held_out):
        base = rng.random(N) < 0.6
        values = np.empty((N, len(keys)))
        for j, stage in enumerate(columns):
            moved = rng.random(N) < 0.05 * (j > 0)
            values[:, j] = np.where(moved, rng.random(N) < 0.6, base)
            if j and name in targets and name in stages[: stage.key.stage]:
                values[:, j] = np.where(rng.random(N) < 0.5, 1.0, values[:, j])
            if j and name in held_out:
                share = 0.2 if stage.key.stage == 1 else 0.1
                values[:, j] = np.where(np.arange(N) < share * N, 0.0, values[:, j])
        lenient = np.where(rng.random(values.shape) < 0.1 * (np.arange(len(keys)) > 0), 1.0, values)
        benches[name] = BenchmarkScores(
            benchmark=name,
            role="target" if name in targets else "held_out",
            metric="accuracy",
            sample_ids=np.array([f"{name}-{i}" for i in range(N)], dtype=object),
            groups=np.arange(N) // 2,
            weights=np.ones(N),
            chance=np.full(N, 0.25),
            columns=keys,
            values={k: {"strict": values, "lenient": lenient}.get(k, values) for k in scorers},
            status=np.full(values.shape, SCORED, np.uint8),
            unparsed=np.zeros(values.shape, bool),
            rates={"bare_number": 1.0 * (rng.random(values.shape) < 0.1)},
            settings=("made alike",) * len(keys),
            signatures=tuple(f"made alike|{key}" for key in keys),
        )
    return StudyScores("demo", "tiny", tuple(columns), benches, {"s": "llm"})


def with_bench(scores, name, **changes):
    benches = dict(scores.benchmarks)
    benches[name] = dataclasses.replace(benches[name], **changes)
    return dataclasses.replace(scores, benchmarks=benches)


def without_cells(scores, name, key, rows=slice(None), status=MISSING):
    """The study with the scores of some samples of a cell taken away."""
    bench = scores.benchmarks[name]
    j = bench.columns.index(key)
    values = {scorer: matrix.copy() for scorer, matrix in bench.values.items()}
    for matrix in values.values():
        matrix[rows, j] = np.nan
    marks = bench.status.copy()
    marks[rows, j] = status
    return with_bench(scores, name, values=values, status=marks)


def row_of(frame, **wanted):
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_superficial_and_essential_have_the_intervals_of_paired_differences():
    scores = study()
    deltas = judge(scores).deltas
    values, groups = scores.benchmarks["h0"].values, np.arange(N) // 2
    strict, lenient = values["strict"], values["lenient"]
    seen = 0
    for start, end, contrast in ((0, 1, "base_to_stage"), (1, 2, "previous_to_stage")):
        row = row_of(deltas, contrast=contrast, to_stage=end, benchmark="h0", role="held_out")
        loss = superficial_essential(
            (strict[:, start], strict[:, end]), (lenient[:, start], lenient[:, end]), groups
        )
        for name, part in (("superficial", loss.superficial), ("essential", loss.essential)):
            limits = row[f"{name}_pp"], row[f"{name}_ci_low_pp"], row[f"{name}_ci_high_pp"]
            assert limits == pytest.approx(100 * np.array([part.delta, part.low, part.high]))
            assert limits[1] < limits[0] < limits[2]
            seen += 1
    assert seen == 4


def test_superficial_and_essential_of_several_runs_hold_the_spread_of_the_runs():
    scores = study(runs=3)
    found = judge(scores)
    wide = row_of(
        found.deltas, run="mean", contrast="base_to_stage", to_stage=2, benchmark="held_out"
    )
    single = found.deltas[(found.deltas["contrast"] == "base_to_stage")
                          & (found.deltas["to_stage"] == 2)
                          & (found.deltas["benchmark"] == "held_out")
                          & (found.deltas["run"] != "mean")]  # fmt: skip
    assert len(single) == 3
    for name in ("superficial", "essential"):
        values = single[f"{name}_pp"].to_numpy(float)
        assert wide[f"{name}_pp"] == pytest.approx(values.mean())
        # At least the t interval of the three runs by themselves (t of 2 degrees at 97.5 %).
        half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
        assert wide[f"{name}_pp"] - wide[f"{name}_ci_low_pp"] >= half > 0
        last = found.figures["s"][name]
        row = row_of(found.leaderboard, strategy="s")
        assert row[f"{name}_ci_low_pp"] == pytest.approx(100 * last.low)
        assert row[f"{name}_ci_high_pp"] == pytest.approx(100 * last.high)


def test_one_scorer_has_no_superficial_part_and_no_limits_of_it():
    row = judge(study(scorers=("logged",))).deltas.iloc[0]
    cells = [row[f"{part}_{end}"] for part in ("superficial", "essential")
             for end in ("pp", "ci_low_pp", "ci_high_pp")]  # fmt: skip
    assert np.isnan(cells).all()


def test_parts_of_other_samples_than_the_change_are_not_told():
    scores = study()
    for name in ("h0", "h1"):
        lenient = scores.benchmarks[name].values["lenient"].copy()
        lenient[: N // 5, 1:] = np.nan
        values = {**scores.benchmarks[name].values, "lenient": lenient}
        scores = with_bench(scores, name, values=values)
    for found in (judge(scores), judge(scores, JudgeOptions(max_dropped=0.5))):
        told = found.options.max_dropped == 0.5
        row = row_of(found.deltas, contrast="base_to_stage", to_stage=3, benchmark="h0")
        board = found.leaderboard.iloc[0]
        assert np.isfinite([row.delta_pp, board.heldout_final_pp]).all()
        parts = [row.superficial_pp, row.essential_pp, board.superficial_pp, board.essential_pp]
        assert np.isfinite(parts).tolist() == [told] * 4


def test_runs_that_end_at_different_stages_are_noted():
    both = study(runs=2)
    ended = StageKey("s", "1", 3)
    scores = dataclasses.replace(both, stages=tuple(s for s in both.stages if s.key != ended))
    note = "s: its runs end at different stages (run 0 at 3, run 1 at 2); figures of the last stage"
    assert [n for n in judge(scores).notes if n.startswith(note)]
    assert not [n for n in judge(both).notes if "different stages" in n]


def test_frames_have_the_documented_columns_and_follow_the_arrays():
    scores = study()
    found = judge(scores)
    assert list(found.scores) == SCORES_COLUMNS
    assert list(found.deltas) == DELTAS_COLUMNS
    assert list(found.leaderboard) == LEADERBOARD_COLUMNS
    values = scores.benchmarks["h0"].values["strict"]
    expected = paired_difference(values[:, 0], values[:, 1], np.arange(N) // 2)
    row = row_of(
        found.deltas, contrast="base_to_stage", to_stage=1, benchmark="h0", role="held_out"
    )
    assert row.delta_pp == pytest.approx(100 * expected.delta)
    assert row.ci_low_pp == pytest.approx(100 * expected.low)
    assert row.p_value == pytest.approx(expected.p_value)
    assert row.superficial_pp + row.essential_pp == pytest.approx(row.delta_pp)
    assert (row.lost, row.gained) == (
        ((values[:, 0] == 1) & (values[:, 1] == 0)).sum(),
        ((values[:, 0] == 0) & (values[:, 1] == 1)).sum(),
    )
    assert row.verdict == "regressed"
    base = row_of(found.scores, strategy="base", benchmark="h0", scorer="strict")
    assert base.score_pct == pytest.approx(100 * values[:, 0].mean())
    assert base.chance_pct == 25
    assert "level:0.95" in base.signature


def test_the_mean_over_benchmarks_adds_variances():
    found = judge(study()).deltas
    where = {"contrast": "base_to_stage", "to_stage": 1}
    parts = [row_of(found, benchmark=b, role="held_out", **where) for b in ("h0", "h1")]
    mean = row_of(found, role="mean", **where)
    assert mean.delta_pp == pytest.approx(sum(p.delta_pp for p in parts) / 2)
    halves = [(p.ci_high_pp - p.ci_low_pp) / 2 for p in parts]
    assert (mean.ci_high_pp - mean.ci_low_pp) / 2 == pytest.approx(np.hypot(*halves) / 2)


def test_recovery_is_reported_with_limits_from_the_dip_on():
    found = judge(study())
    strategy = found.strategies[0]
    assert strategy.dip == 1
    row = row_of(found.deltas, contrast="dip_to_stage", to_stage=2, role="mean")
    assert row.from_stage == 1
    assert row.recovery_ci_low < row.recovery_fraction < row.recovery_ci_high
    assert 0.2 < row.recovery_fraction < 0.8
    best = found.leaderboard.iloc[0]
    assert best.recovery_fraction == pytest.approx(row.recovery_fraction)
    assert "recovers +" in found.sentences["s"]
    assert any("inflates" in note for note in found.notes)
    keys = [BASE, StageKey("s", "0", 1), StageKey("s", "0", 2)]
    n_lost = n_back = 0
    for name in ("h0", "h1"):
        values = study().benchmarks[name].values["strict"]
        lost = (values[:, 0] == 1) & (values[:, 1] == 0)
        n_lost, n_back = n_lost + lost.sum(), n_back + (lost & (values[:, 2] == 1)).sum()
    assert study().benchmarks["h0"].columns[:3] == tuple(keys)
    assert strategy.paths.recovered_share == pytest.approx(n_back / n_lost)
    declared = judge(study(), JudgeOptions(dip="stage1"))
    assert not any("inflates" in note for note in declared.notes)
    last = judge(study(), JudgeOptions(dip="stage3"))
    assert "recovery NA: the dip is the last stage" in last.sentences["s"]


def test_recovery_without_a_loss_is_na():
    rng = np.random.default_rng(0)
    base = rng.random(500) < 0.5
    result = recovery(base, base, rng.random(500) < 0.5)
    assert np.isnan(result.fraction)
    assert result.note == "the loss at the dip is not beyond chance"


def test_one_run_says_what_it_does_not_cover():
    found = judge(study())
    assert found.sentences["s"].endswith(
        "1 run: the interval covers the choice of samples, not of the training run."
    )
    compared = judge(study(strategies=("s", "r")), JudgeOptions(baseline="r"))
    text = compared.comparison_sentences["s"]
    assert "1 run of each: samples were varied, training runs were not" in text
    assert "better" not in text


def test_several_runs_add_their_spread():
    scores = study(runs=3)
    bench = scores.benchmarks["h0"]
    values = bench.values["strict"].copy()
    for j, key in enumerate(bench.columns):
        if key.run == "2":  # one run loses far more
            values[: N // 2, j] = 0
    scores = with_bench(scores, "h0", values={**bench.values, "strict": values})
    found = judge(scores)
    where = {"contrast": "base_to_stage", "to_stage": 3, "benchmark": "h0"}
    runs = [row_of(found.deltas, run=str(r), **where) for r in range(3)]
    mean = row_of(found.deltas, run="mean", **where)
    assert mean.delta_pp == pytest.approx(np.mean([row.delta_pp for row in runs]))
    spread = np.std([row.delta_pp for row in runs], ddof=1) / np.sqrt(3)
    assert mean.ci_high_pp - mean.delta_pp > 4.3 * spread  # t with 2 degrees of freedom
    assert "3 runs: the intervals cover samples and training runs" in found.sentences["s"]
    assert found.leaderboard.iloc[0].n_runs == 3


def test_runs_of_two_strategies_are_paired_by_name():
    """A seed effect that both strategies share cancels in their difference."""
    scores = study(strategies=("s", "r"), runs=3)
    bench = scores.benchmarks["h0"]
    values = bench.values["strict"].copy()
    for j, key in enumerate(bench.columns):
        if key.stage:
            values[N // 2 : N // 2 + 50 * int(key.run), j] = 0
    scores = with_bench(scores, "h0", values={**bench.values, "strict": values})
    found = judge(scores, JudgeOptions(baseline="r"))
    final = found.comparisons["s"]["heldout_final"]
    own = found.figures["s"]["heldout_final"]
    assert final.n_runs == 3
    assert final.high - final.low < (own.high - own.low) / 2
    assert "neither is better beyond chance" in found.comparison_sentences["s"]


def test_one_stage_has_na_backward_transfer():
    found = judge(study(stages=("t0",), targets=("t0",)))
    row = found.leaderboard.iloc[0]
    assert np.isnan(row.target_forgetting_pp)
    assert row.learning_pp > 10
    assert "recovery" not in found.sentences["s"]


def test_a_missing_cell_is_na_counted_and_refused_in_aggregates():
    scores = without_cells(study(), "h1", StageKey("s", "0", 3))
    found = judge(scores)
    row = found.leaderboard.iloc[0]
    assert (row.n_cells, row.n_missing) == (16, 1)
    assert np.isnan(row.heldout_final_pp)
    assert np.isnan(row.balance_pp)
    assert row.learning_pp > 10
    cell = row_of(found.deltas, contrast="base_to_stage", to_stage=3, benchmark="h1")
    assert (cell.verdict, cell.n_samples) == ("NA", 0)
    assert "1 cell missing (NA): h1 at s@3" in found.notes
    common = judge(scores, JudgeOptions(common_set=True))
    only = row_of(common.deltas, contrast="base_to_stage", to_stage=3, benchmark="h0")
    assert common.leaderboard.iloc[0].heldout_final_pp == pytest.approx(only.delta_pp)
    assert "aggregates are over the common set, without h1" in common.notes


def test_much_that_failed_everywhere_is_told():
    scores = study()
    for stage in scores.stages:
        scores = without_cells(scores, "h0", stage.key, slice(0, 100), FAILED)
    note = next(note for note in judge(scores).notes if "failed" in note)
    assert note.startswith(
        "4 cells without many of the answers, which failed: h0 at base@0 (100 of 400), h0 at s@1"
    )


def test_other_samples_are_intersected_counted_and_refused_above_the_limit():
    key = StageKey("s", "0", 2)
    few = judge(without_cells(study(), "h0", key, slice(0, 10), FAILED))
    row = row_of(few.deltas, contrast="base_to_stage", to_stage=2, benchmark="h0")
    assert (row.n_samples, row.n_dropped) == (N - 10, 10)
    failed = row_of(few.scores, strategy="s", stage=2, benchmark="h0", scorer="strict")
    assert failed.n_failed == 10
    many = without_cells(study(), "h0", key, slice(0, 100))
    with pytest.raises(IncompatibleError) as caught:
        judge(many)
    assert caught.value.code == EXIT_INCOMPATIBLE
    assert "h0: 100 of 400 samples have a score at only one of base@0 and s@2" in str(caught.value)
    assert "expected at most 5%; score the rest, or raise --max-dropped" in str(caught.value)
    allowed = judge(many, JudgeOptions(max_dropped=0.3))
    assert (
        row_of(allowed.deltas, contrast="base_to_stage", to_stage=2, benchmark="h0").n_dropped
        == 100
    )
    with pytest.raises(IncompatibleError, match="expected at most 5%"):
        difference_between(many, ["h0"], [BASE], [key], JudgeOptions())


def test_other_settings_are_refused():
    settings = ("made alike",) * 3 + ("another prompt",)
    with pytest.raises(IncompatibleError) as caught:
        judge(with_bench(study(), "h0", settings=settings))
    assert caught.value.code == EXIT_INCOMPATIBLE
    expected = "h0: base@0 was made with 'made alike', s@3 with 'another prompt'"
    assert expected in str(caught.value)


def test_a_target_not_learned_is_flagged_and_left_out():
    scores = study()
    bench = scores.benchmarks["t1"]
    values = np.repeat(bench.values["strict"][:, :1], 4, axis=1)
    found = judge(with_bench(scores, "t1", values={"strict": values, "lenient": values}))
    assert any("not learned beyond chance" in n and "t1 (stage 2)" in n for n in found.notes)
    t0 = scores.benchmarks["t0"].values["strict"].mean(axis=0)
    row = found.leaderboard.iloc[0]
    assert row.target_forgetting_pp == pytest.approx(100 * (t0[3] - t0[1]))


def test_a_base_at_chance_is_noted():
    scores = study()
    found = judge(with_bench(scores, "h0", chance=np.full(N, 0.6)))
    assert any("h0: base@0 is at chance (60 %)" in note for note in found.notes)


def test_a_held_out_benchmark_that_is_taught_is_held_out_only_before():
    scores = study(stages=("t0", "h1", "t0"))
    found = judge(scores)
    roles = found.scores[(found.scores.strategy == "s") & (found.scores.benchmark == "h1")]
    assert dict(zip(roles.stage, roles.role, strict=True)) == {
        1: "held_out",
        2: "target",
        3: "target",
    }
    final = row_of(found.deltas, contrast="base_to_stage", to_stage=3, benchmark="h0")
    assert found.leaderboard.iloc[0].heldout_final_pp == pytest.approx(final.delta_pp)


@pytest.mark.parametrize(("targets", "held_out"), [((), ("h0",)), (("t0",), ())])
def test_a_study_is_judged_on_what_it_has(targets, held_out):
    found = judge(study(stages=("t0", "t0"), targets=targets, held_out=held_out))
    row = found.leaderboard.iloc[0]
    assert np.isnan(row.learning_pp) == (not targets)
    assert np.isnan(row.heldout_final_pp) == (not held_out)
    words = found.sentences["s"]
    assert ("no target to learn" in words) == (not targets)
    assert ("no held-out benchmark to forget" in words) == (not held_out)


def test_the_same_checkpoint_differs_by_exactly_nothing():
    scores = study()
    bench = scores.benchmarks["h0"]
    key = bench.columns[1]
    first = bench.values["strict"][:, :1]
    same = with_bench(
        scores, "h0", values={"strict": np.repeat(first, 4, axis=1)}, signatures=("one",) * 4
    )
    found = difference_between(same, ["h0"], [BASE], [key], JudgeOptions())
    assert (found.low, found.high, found.method) == (0, 0, "same checkpoint")


def test_a_strategy_without_base_is_refused():
    scores = study()
    with pytest.raises(ResultsError, match="strategy 's' has no base"):
        judge(dataclasses.replace(scores, stages=scores.stages[1:]))


def test_scorers_and_options_are_checked_with_suggestions():
    assert scorer_of(study(scorers=("logged",)), "") == "logged"
    with pytest.raises(UserError, match=r"no scorer 'strict', found: logged"):
        scorer_of(study(scorers=("logged",)), "strict")
    with pytest.raises(UserError, match=r"no scorer 'strct'.*did you mean 'strict'"):
        judge(study(), JudgeOptions(scorer="strct"))
    with pytest.raises(UserError) as caught:
        JudgeOptions(level=95, margin_pp=-1, contrast="base_to_stag", max_dropped=5)  # type: ignore[arg-type]
    for text in (
        "level: got 95",
        "margin: got -1",
        "did you mean 'base_to_stage'",
        "max dropped: got 5",
    ):
        assert text in str(caught.value)
    with pytest.raises(UserError, match=r"baseline: got 'ss'.*did you mean 's'"):
        judge(study(), JudgeOptions(baseline="ss"))
    with pytest.raises(UserError, match=r"dip: got 'stag1'.*did you mean"):
        judge(study(), JudgeOptions(dip="stag1"))


def test_choices_that_change_a_number_change_its_signature():
    signatures = {
        judge(study(), options).leaderboard.signature[0]
        for options in (
            JudgeOptions(), JudgeOptions(scorer="lenient"), JudgeOptions(level=0.9),
            JudgeOptions(margin_pp=2), JudgeOptions(dip="stage1"), JudgeOptions(strict=True),
        )
    }  # fmt: skip
    assert len(signatures) == 6
    assert suite_settings(study()) == dict.fromkeys(("t0", "t1", "h0", "h1"), "made alike")


def test_a_contrast_can_be_chosen():
    found = judge(study(), JudgeOptions(contrast="learned_to_final"))
    assert set(found.deltas.contrast) == {"learned_to_final"}
    assert set(found.deltas.benchmark) == {"t0", "t1"}


def test_the_same_study_gives_the_same_bytes_in_any_row_order(tmp_path):
    scores = study(runs=2)
    order = np.random.default_rng(3).permutation(N)
    shuffled = {
        name: dataclasses.replace(
            bench,
            sample_ids=bench.sample_ids[order],
            groups=(1000 - bench.groups)[order],
            weights=bench.weights[order],
            chance=bench.chance[order],
            values={k: v[order] for k, v in bench.values.items()},
            status=bench.status[order],
            unparsed=bench.unparsed[order],
            rates={k: v[order] for k, v in bench.rates.items()},
        )
        for name, bench in scores.benchmarks.items()
    }
    one = write_csv_files(judge(scores), tmp_path / "one")
    again = write_csv_files(judge(scores), tmp_path / "again")
    other = write_csv_files(
        judge(dataclasses.replace(scores, benchmarks=shuffled)), tmp_path / "other"
    )
    for a, b, c in zip(one, again, other, strict=True):
        assert a.read_bytes() == b.read_bytes() == c.read_bytes()
    text = (tmp_path / "one/scores.csv").read_text()
    assert "bare_number_rate,NA," in text
    assert "\r" not in text


def test_cells_that_spreadsheets_would_run_are_neutralised():
    import pandas as pd

    for start in "=+-@\t\r":
        assert neutralise(f"{start}cmd") == f"'{start}cmd"
    frame = pd.DataFrame({"name": ["=HYPERLINK()", None], "delta_pp": [-1.5, np.nan]})
    frame["flag"], frame["p_value"] = [True, False], [1e-7, 0.25]
    assert csv_text(frame).splitlines() == [
        "name,delta_pp,flag,p_value",
        "'=HYPERLINK(),-1.5000,true,1e-07",
        "NA,NA,false,0.25",
    ]


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        write_csv_files(judge(study()), tmp_path / "file" / "results")
