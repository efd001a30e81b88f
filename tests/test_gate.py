"""The gate: verdicts, exit codes, and what it writes for people, CI servers and GitHub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.judge import judge
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import paired_difference
from harness.analysis.scores import (
    FAILED,
    MISSING,
    NOT_APPLICABLE,
    SCORED,
    BenchmarkScores,
    StudyScores,
)
from harness.errors import IncompatibleError, UserError
from harness.gate import Flip, GateResult, GateRow, judge_gate
from harness.pairing import find_stages, pair_stages
from harness.policy import Policy, check_policy, choose_policy
from harness.report import ci
from harness.types import Stage, StageKey

N = 2000
BASE_KEY = StageKey("base", "0", 0)


def key(strategy: str = "llm", stage: int = 1, run: str = "0") -> StageKey:
    return StageKey(strategy, run, stage)


def column(share: float, n: int = N) -> np.ndarray[Any, Any]:
    """0/1 scores whose mean is `share`, right ones first."""
    return (np.arange(n) < round(share * n)).astype(float)


class Words:
    """Texts that say where they come from."""

    def question(self, benchmark: str, sample_id: str) -> str:
        return f"question {sample_id}"

    def gold(self, benchmark: str, sample_id: str) -> str:
        return "gold"

    def response(self, stage: StageKey, benchmark: str, sample_id: str) -> str:
        return f"{stage.strategy}{stage.stage} says"


def bench(name: str, columns: Mapping[StageKey, Any], role: str = "held_out") -> BenchmarkScores:
    """A benchmark from its columns; None = a missing cell."""
    n = next(len(values) for values in columns.values() if values is not None)
    matrix = np.stack([np.full(n, np.nan) if v is None else v for v in columns.values()], axis=1)
    return BenchmarkScores(
        benchmark=name,
        role=role,
        metric="accuracy",
        sample_ids=np.array([f"s{i:04d}" for i in range(n)], object),
        groups=np.arange(n),
        weights=np.ones(n),
        chance=np.zeros(n),
        columns=tuple(columns),
        values={"strict": matrix},
        status=np.where(np.isnan(matrix), MISSING, SCORED).astype(np.uint8),
        unparsed=np.zeros(matrix.shape, bool),
        settings=("s",) * len(columns),
        signatures=tuple(str(k) for k in columns),
    )


def study(*benchmarks: BenchmarkScores) -> StudyScores:
    keys = benchmarks[0].columns
    stages = tuple(Stage(k, "base" if k.stage == 0 else f"skill{k.stage}") for k in keys)
    return StudyScores("mine", "m", stages, {b.benchmark: b for b in benchmarks}, {}, Words())


def simple(after: float, before: float = 0.8, **more: Any) -> StudyScores:
    """One benchmark that goes from `before` to `after`, N samples in the same order."""
    return study(bench("docs", {BASE_KEY: column(before), key(): column(after)}, **more))


def run_gate(
    scores: StudyScores, candidate: str = "llm", baseline: str | None = None, **policy: Any
) -> GateResult:
    pairing = pair_stages(scores, candidate, baseline)
    return judge_gate(scores, pairing, Policy(**policy), JudgeOptions())


# --- verdicts and exit codes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "policy", "what", "code"),
    [
        (0.8, {}, "retained", 0),
        (0.9, {}, "improved", 0),
        (0.7, {}, "regressed", 1),
        (0.793, {}, "inconclusive", 3),
        (0.793, {"inconclusive": "warn"}, "inconclusive", 0),
        (0.793, {"inconclusive": "pass"}, "inconclusive", 0),
        (0.78, {"margin": 5.0}, "retained", 0),
        (0.78, {"margin": 5.0, "strict": True}, "regressed", 1),
        (0.7, {"margins": {"docs": 15.0}}, "retained", 0),
    ],
)
def test_verdicts(after: float, policy: dict[str, Any], what: str, code: int) -> None:
    result = run_gate(simple(after), **policy)
    assert result.rows[0].what.split(";")[0] == what
    assert result.exit_code == code


def test_an_undecided_row_says_how_many_samples_decide() -> None:
    row = run_gate(simple(0.793)).rows[0]
    assert row.samples_needed is not None and row.samples_needed > N
    assert row.what == f"inconclusive; about {row.samples_needed:,} samples would decide"


def test_worst_first_and_the_mean_is_over_held_out_benchmarks() -> None:
    def one(name: str, after: float, role: str = "held_out") -> BenchmarkScores:
        return bench(name, {BASE_KEY: column(0.8), key(): column(after)}, role)

    scores = study(one("up", 0.9), one("down", 0.7), one("worse", 0.6), one("count", 0.9, "target"))
    result = run_gate(scores)
    assert [row.name for row in result.rows] == [
        "worse", "down", "mean of 3 held-out benchmarks", "count", "up",
    ]  # fmt: skip
    assert result.rows[2].difference.delta == pytest.approx((0.1 - 0.1 - 0.2) / 3)
    assert result.headline == "FAIL (3 regressed of 5)"
    p_values = {row.name: row.difference.p_value for row in result.rows if row.kind == "benchmark"}
    corrected = {row.name: row.p_holm for row in result.rows}
    assert corrected["down"] >= 2 * p_values["down"]
    assert np.isnan(corrected["mean of 3 held-out benchmarks"])


def test_without_held_out_benchmarks_the_mean_is_over_all() -> None:
    scores = study(
        *[bench(name, {BASE_KEY: column(0.8), key(): column(0.9)}, "target") for name in ("a", "b")]
    )
    assert run_gate(scores).rows[-1].name in ("mean of 2 benchmarks", "b")
    assert {row.kind for row in run_gate(scores).rows} == {"benchmark", "mean"}


def test_probes_count_only_where_named() -> None:
    scores = study(
        bench("docs", {BASE_KEY: column(0.8), key(): column(0.8)}),
        bench("probe", {BASE_KEY: column(0.8), key(): column(0.1)}, "probe"),
    )
    assert run_gate(scores).exit_code == 0
    assert run_gate(scores, required=["probe"]).exit_code == 1


def test_scores_by_another_scorer_are_named() -> None:
    one = bench("docs", {BASE_KEY: column(0.8), key(): column(0.9)})
    other = bench("chart", {BASE_KEY: column(0.8), key(): column(0.9)})
    other = replace(other, values={"lenient": other.values["strict"]})
    found = {row.name: row.what for row in run_gate(study(one, other)).rows}
    assert found["chart"] == "missing: no scores of llm@1 by 'strict', only by lenient"
    assert (
        "chart has no scores by 'strict', only by lenient; choose with --scorer"
        in judge(study(one, other)).notes
    )


def test_the_limit_behind_a_verdict_is_told_where_the_interval_hides_it() -> None:
    """Losses found at 95 % one-sided, of which the two-sided interval reaches over the margin."""
    told: dict[bool, int] = {}
    for share in np.arange(0.70, 0.80, 0.0025):
        few = {BASE_KEY: column(0.8, 200), key(): column(float(share), 200)}
        row = run_gate(study(bench("docs", few))).rows[0]
        hidden = row.what.startswith("regressed") and row.difference.high >= -0.01
        told[hidden] = told.get(hidden, 0) + 1
        limit = f"(one-sided limit {100 * row.difference.upper:+.2f})"
        assert (limit in row.what) == hidden
        assert not hidden or row.difference.upper < -0.01
    assert told.get(True) and told.get(False)


def test_example_flips_of_a_study_without_texts_are_samples_and_scores() -> None:
    flip = Flip("s7", "", "", "", "", 1.0, 0.0)
    assert ci.flip_line(flip) == "[s7] 1 to 0"
    spoken = ci.flip_line(replace(flip, question="what?", gold="red"))
    assert spoken == "[s7] 1 to 0 | what? | before:  | after:  | gold: red"


@pytest.mark.parametrize("inconclusive", ["fail", "warn", "pass"])
def test_what_was_not_measured_is_no_pass(inconclusive: str) -> None:
    scores = study(
        bench("docs", {BASE_KEY: column(0.8), key(): column(0.9)}),
        bench("chart", {BASE_KEY: column(0.8), key(): None}),
    )
    result = run_gate(scores, inconclusive=inconclusive)
    assert result.exit_code == 3
    assert {(row.name, row.what) for row in result.rows if row.outcome == "missing"} == {
        ("chart", "missing: no scores of llm@1"),
        ("mean of 2 held-out benchmarks", "missing: not all benchmarks measured (chart)"),
    }
    absent = run_gate(simple(0.9), required=["chart"], inconclusive=inconclusive)
    assert absent.exit_code == 3
    assert absent.rows[0].sentence == "chart: missing: the study has no such benchmark"


def test_failed_answers_are_no_pass() -> None:
    docs = bench("docs", {BASE_KEY: column(0.8), key(): column(0.8)})
    few, many = docs.status.copy(), docs.status.copy()
    values = docs.values["strict"].copy()
    values[:20, 1] = np.nan
    few[:20, 1] = FAILED
    result = run_gate(study(replace(docs, values={"strict": values}, status=few)))
    assert (result.exit_code, result.rows[0].difference.n_dropped) == (0, 20)
    values = values.copy()
    values[:200, 1] = np.nan
    many[:200, 1] = FAILED
    result = run_gate(study(replace(docs, values={"strict": values}, status=many)))
    assert result.exit_code == 3
    assert result.rows[0].what == "missing: 200 of 2,000 answers of llm@1 failed"


def test_samples_that_do_not_apply_are_nothing_to_worry_about() -> None:
    docs = bench("docs", {BASE_KEY: column(0.8), key(): column(0.8)})
    values, status = docs.values["strict"].copy(), docs.status.copy()
    values[:500], status[:500] = np.nan, NOT_APPLICABLE
    result = run_gate(study(replace(docs, values={"strict": values}, status=status)))
    assert (result.exit_code, result.rows[0].difference.n_samples) == (0, N - 500)


def test_incompatible_sides_are_refused_with_code_4() -> None:
    docs = bench("docs", {BASE_KEY: column(0.8), key(): column(0.8)})
    with pytest.raises(IncompatibleError, match="docs") as error:
        run_gate(study(replace(docs, settings=("hf", "vllm"))))
    assert error.value.code == 4
    values, status = docs.values["strict"].copy(), docs.status.copy()
    values[:500, 1], status[:500, 1] = np.nan, MISSING
    with pytest.raises(IncompatibleError, match="500 of 2000 samples"):
        run_gate(study(replace(docs, values={"strict": values}, status=status)))


def test_minimum_learning() -> None:
    scores = study(
        bench("count", {BASE_KEY: column(0.2), key(): column(0.5)}, "target"),
        bench("docs", {BASE_KEY: column(0.8), key(): column(0.8)}),
    )
    for asked, what, code in [
        (20.0, "learned enough", 0),
        (40.0, "learned too little", 1),
        (29.5, "inconclusive", 3),
    ]:
        result = run_gate(scores, minimum_learning={"count": asked})
        row = next(row for row in result.rows if row.kind == "learning")
        assert (row.name, row.what.split(";")[0], result.exit_code) == ("count learned", what, code)
    assert row.samples_needed is not None


def test_learning_is_against_the_base_whatever_the_baseline() -> None:
    keys = {BASE_KEY: column(0.2), key(stage=1): column(0.5), key(stage=2): column(0.5)}
    scores = study(bench("count", keys, "target"))
    result = run_gate(scores, "llm@2", "llm@1", minimum_learning={"count": 20.0})
    deltas = {row.kind: row.difference.delta for row in result.rows}
    assert deltas == {"benchmark": 0.0, "learning": pytest.approx(0.3)}


# --- naming checkpoints --------------------------------------------------------------------------


def many_stages() -> StudyScores:
    keys = [BASE_KEY]
    keys += [key("llm", t, run) for run in ("a", "b") for t in (1, 2)]
    keys += [key("odd/na@me", t) for t in (1, 2)]
    rng = np.random.default_rng(0)
    return study(bench("docs", {k: (rng.random(N) < 0.8).astype(float) for k in keys}))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("llm", [("llm", "a", 2), ("llm", "b", 2)]),
        ("llm@1", [("llm", "a", 1), ("llm", "b", 1)]),
        ("llm@skill1", [("llm", "a", 1), ("llm", "b", 1)]),
        ("llm@last", [("llm", "a", 2), ("llm", "b", 2)]),
        ("llm/b@1", [("llm", "b", 1)]),
        ("llm/a", [("llm", "a", 2)]),
        ("llm@0", [("base", "0", 0), ("base", "0", 0)]),
        ("base", [("base", "0", 0)]),
        ("odd/na@me", [("odd/na@me", "0", 2)]),
        ("odd/na@me@1", [("odd/na@me", "0", 1)]),
    ],
)
def test_names_of_checkpoints(spec: str, expected: list[tuple[str, str, int]]) -> None:
    found = [stage.key for stage in find_stages(many_stages(), spec).values()]
    assert [(k.strategy, k.run, k.stage) for k in found] == expected


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("lmm", "has no strategy or run 'lmm'; it has base, llm, odd/na@me; did you mean 'llm'?"),
        ("llm@7", "no stage '7' in llm run a, b; stages: 0 (base), 1 (skill1), 2 (skill2)"),
        ("llm@skil1", "did you mean 'skill1'?"),
        ("llm/c@1", "has no strategy or run 'llm/c'"),
    ],
)
def test_unknown_checkpoints_are_usage_errors(spec: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        find_stages(many_stages(), spec)
    assert text in str(error.value)
    assert error.value.code == 2


def test_a_checkpoint_is_not_compared_with_itself() -> None:
    with pytest.raises(UserError, match="is the baseline itself"):
        pair_stages(many_stages(), "llm@2", "llm")


def test_the_base_may_be_each_runs_own() -> None:
    own, last = key(stage=0), key(stage=1)
    scores = study(bench("docs", {own: column(0.8), last: column(0.7)}))
    for baseline in (None, "base", "llm@0"):
        assert run_gate(scores, "llm", baseline).baseline == "llm@0"


def test_runs_are_aggregated_and_paired_by_name() -> None:
    scores = many_stages()
    result = run_gate(scores, "llm@2", "llm@1")
    assert result.candidate == "llm@2 (2 runs)"
    assert result.rows[0].difference.n_runs == 2
    assert result.notes[0].startswith("means over 2 runs")
    alone = run_gate(scores, "llm/a@2", "llm/a@1")
    wide, narrow = result.rows[0].difference, alone.rows[0].difference
    assert wide.upper - wide.lower > narrow.upper - narrow.lower
    assert alone.notes[0].startswith("1 run: the intervals cover the choice of samples")
    assert run_gate(scores, "odd/na@me", "llm").notes[0].startswith("1 against 2 runs")


# --- policy --------------------------------------------------------------------------------------


def policy_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "gate.yaml"
    file.write_text(text)
    return file


def test_options_win_over_the_policy_file(tmp_path: Path) -> None:
    file = policy_file(tmp_path, "margin: 2\nmargins: {docs: 0.5}\ninconclusive: warn\n")
    chosen = choose_policy(file, margin=3.0, inconclusive=None, strict=None)
    assert (chosen.margin, chosen.inconclusive, chosen.strict) == (3.0, "warn", False)
    assert (chosen.margin_of("docs"), chosen.margin_of("other")) == (0.5, 3.0)
    assert choose_policy(policy_file(tmp_path, "")) == Policy()


def test_all_mistakes_of_a_policy_at_once(tmp_path: Path) -> None:
    text = "margn: 1\nmargin: -1\ninconclusive: maybe\nrequired: docs\nmargins: {docs: much}\n"
    with pytest.raises(UserError) as error:
        choose_policy(policy_file(tmp_path, text))
    lines = str(error.value)
    assert "5 problems" in lines
    assert "margn: unknown key; did you mean 'margin'?" in lines
    assert "margin: got -1, expected greater than or equal to 0" in lines
    assert "margins.docs: got 'much', expected a number" in lines


def test_a_key_of_a_policy_given_twice(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="margin: key given twice"):
        choose_policy(policy_file(tmp_path, "margin: 1\nmargin: 5\n"))
    assert choose_policy(policy_file(tmp_path, "# nothing yet\n")) == Policy()


@pytest.mark.parametrize("text", ["[1]", "a: [", "1: 2", "margin: .nan", "\x00", "? {a: b} : 1"])
def test_files_that_are_no_policy(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"gate\.yaml"):
        choose_policy(policy_file(tmp_path, text))
    with pytest.raises(UserError, match="no such file"):
        choose_policy(tmp_path / "absent.yaml")


def test_misspelt_benchmarks_of_a_policy() -> None:
    policy = Policy(
        margins={"dosc": 1.0}, required=["docz", "else"], minimum_learning={"docs": -1.0}
    )
    with pytest.raises(UserError) as error:
        check_policy(policy, simple(0.8), "gate.yaml")
    assert [problem.place for problem in error.value.problems] == [
        "margins.dosc", "required.docz", "minimum_learning.docs",
    ]  # fmt: skip
    assert "did you mean 'docs'?" in str(error.value)


# --- outputs -------------------------------------------------------------------------------------

NASTY = "a\x00\x1b[31m\n::error::x | <b> \"&' `code` ![i](http://x) @team #1 %0A " + "w" * 5000


def nasty_result(n_rows: int = 3, inconclusive: str = "fail") -> GateResult:
    """Foreign text wherever it can stand."""
    difference = paired_difference(column(0.8), column(0.7))
    flip = Flip(NASTY, NASTY, NASTY, NASTY, NASTY, 1.0, 0.0)
    outcomes = ("regression", "inconclusive", "pass", "missing")
    rows = tuple(
        GateRow(
            "benchmark", f"{NASTY[:40]}{i}", "held_out", outcomes[i % 4], "regressed", difference,
            1.0, lost=1, gained=2, flips=(flip,) * 3,
        )
        for i in range(n_rows)
    )  # fmt: skip
    rows = tuple(sorted(rows, key=lambda row: ["regression", "missing"].count(row.outcome) == 0))
    return GateResult(NASTY, NASTY, NASTY, NASTY, 0.95, inconclusive, rows, (NASTY,))  # type: ignore[arg-type]


def test_flips_show_the_largest_losses_first() -> None:
    row = run_gate(simple(0.7)).rows[0]
    assert (row.lost, row.gained) == (200, 0)
    assert row.flips[0] == Flip(
        "s1400", "question s1400", "base0 says", "llm1 says", "gold", 1.0, 0.0
    )
    assert len(row.flips) == 3
    assert [flip.score_after for flip in run_gate(simple(0.801)).rows[0].flips] == [1.0, 1.0]


def test_junit_counts_and_survives_any_text() -> None:
    text = ci.junit(nasty_result(8))
    root = ElementTree.fromstring(text)
    suite = root[0]
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "8", "failures": "4", "errors": "2", "skipped": "0",
    }  # fmt: skip
    assert [child.tag for case in suite for child in case].count("failure") == 4
    assert len(text) < 100_000
    warned = ElementTree.fromstring(ci.junit(nasty_result(8, "warn")))[0]
    assert (warned.get("failures"), warned.get("skipped")) == ("2", "2")


def test_markdown_has_no_live_markup() -> None:
    text = ci.markdown(nasty_result())
    table = [line for line in text.splitlines() if line.startswith("| ❌")]
    assert len(table) == 1
    assert table[0].count("|") == 11
    live = ["<b>", "![i]", "http://", " @team", "#1 ", "\x1b", "`"]
    assert [markup for markup in live if markup in text] == []


def test_summary_stays_below_githubs_limit(tmp_path: Path) -> None:
    big = nasty_result(3000)
    text = ci.markdown(big)
    assert 500_000 < len(text.encode()) < 1_000_000
    assert re.search(r"… [\d,]+ more rows or examples do not fit here", text)
    file = tmp_path / "summary"
    file.write_text("before\n" * 100)
    for _ in range(3):
        ci.append_summary(big, file)
    assert file.read_text().startswith("before\n")
    assert file.stat().st_size < 1_000_000


def test_annotations_at_most_ten_worst_first() -> None:
    lines = ci.annotation_lines(nasty_result(40))
    assert len(lines) == 11
    assert lines[10] == "20 more in the job summary"
    assert all(re.fullmatch(r"::error title=[^:,\n]*::[^\n]*", line) for line in lines[:10])
    assert all(len(line.encode()) < 4096 for line in lines)
    few = ci.annotation_lines(nasty_result(2, "warn"))
    assert [line.split(" ")[0] for line in few] == ["::error", "::warning"]
    assert len(ci.annotation_lines(nasty_result(2, "pass"))) == 1
    assert ci.annotation_lines(run_gate(simple(0.8))) == []


def test_no_line_for_the_terminal_is_a_command_or_breaks() -> None:
    for line, _ in ci.terminal_lines(nasty_result(4)):
        assert "\n" not in line
        assert "\x1b" not in line
        assert not line.lstrip().startswith(("::", "##["))


FAILING = run_gate(simple(0.7))


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec=None), max_size=60))
def test_any_name_and_answer_can_be_shown(text: str) -> None:
    row = replace(FAILING.rows[0], name=text, flips=(Flip(text, text, text, text, text, 1, 0),))
    result = replace(FAILING, rows=(row,), study=text, candidate=text)
    ElementTree.fromstring(ci.junit(result).encode())
    ci.markdown(result).encode()
    assert len(ci.annotation_lines(result)) == 1
    assert all(len(line.splitlines()) == 1 for line, _ in ci.terminal_lines(result))
    json.dumps(result.as_dict(), allow_nan=False)
