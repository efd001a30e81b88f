"""Several studies in one ranking: what is refused, what is tied, and the forms it is written in."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import harness.cli
from harness.analysis import JudgeOptions, judge
from harness.analysis.frames import LEADERBOARD_COLUMNS
from harness.analysis.scores import SCORED, BenchmarkScores, StudyScores
from harness.errors import IncompatibleError, ResultsError, UserError
from harness.report.leaderboard import FORMATS, legend, terminal_table
from harness.standings import rank_studies
from harness.types import Stage, StageKey

N = 600


def study(name: str, seed: int = 0, model: str = "m", **shares: tuple[float, float]) -> StudyScores:
    """strategy=(share right on the target `count`, on the held-out `docs`) after one stage."""
    rng = np.random.default_rng(seed)
    base = {"count": 0.2, "docs": 0.8}
    keys = [StageKey("base", "0", 0), *(StageKey(s, "0", 1) for s in shares)]
    stages = [Stage(k, "count" if k.stage else "base", "count" if k.stage else None) for k in keys]
    # One ranking of samples by difficulty, so that strategies agree on most of them.
    ease = rng.permutation(N)
    benchmarks = {}
    for b, bench in enumerate(base):
        right = [base[bench], *(both[b] for both in shares.values())]
        matrix = np.stack([(ease < share * N).astype(float) for share in right], axis=1)
        benchmarks[bench] = BenchmarkScores(
            benchmark=bench,
            role=("target", "held_out")[b],
            metric="accuracy",
            sample_ids=np.array([f"s{i}" for i in range(N)], object),
            groups=np.arange(N),
            weights=np.ones(N),
            chance=np.zeros(N),
            columns=tuple(keys),
            values={"strict": matrix},
            status=np.full(matrix.shape, SCORED, np.uint8),
            unparsed=np.zeros(matrix.shape, bool),
            settings=("task:x|engine:hf",) * len(keys),
            signatures=tuple(f"{name}{k}" for k in keys),
        )
    return StudyScores(name, model, tuple(stages), benchmarks, {})


ONE = study("one", full=(0.7, 0.5), llm=(0.6, 0.78))
TWO = study("two", model="n", full=(0.69, 0.5), lora=(0.3, 0.8))


def change(scores: StudyScores, benchmark: str, **fields: Any) -> StudyScores:
    other = replace(scores.benchmarks[benchmark], **fields)
    return replace(scores, benchmarks={**scores.benchmarks, benchmark: other})


def names(frame: pd.DataFrame) -> list[str]:
    return [
        f"{study}/{name}" for study, name in zip(frame["study"], frame["strategy"], strict=True)
    ]


def test_ranks_ties_and_pareto_are_over_the_union() -> None:
    frame = rank_studies([ONE, TWO], JudgeOptions()).frame
    assert list(frame.columns) == [*LEADERBOARD_COLUMNS, "tied_with"]
    assert names(frame) == ["one/llm", "one/full", "two/full", "two/lora"]
    assert frame["rank"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(frame["balance_pp"], [38, 20, 19, 10], atol=0.2)
    assert frame["base_model"].tolist() == ["m", "m", "n", "n"]
    # two/full learned 1 point less and kept as much: dominated by one/full of the other study.
    assert frame["pareto"].tolist() == [True, True, False, True]


def test_ties_are_paired_by_sample() -> None:
    rng = np.random.default_rng(1)
    noise = rng.permutation(N)
    close = study("two", full=(0.695, 0.5))
    # The same gain, but on other samples: the difference of 0.5 points is lost in the noise.
    values = close.benchmarks["count"].values["strict"].copy()
    values[:, 1] = values[noise, 1]
    frame = rank_studies(
        [ONE, change(close, "count", values={"strict": values})], JudgeOptions()
    ).frame
    assert names(frame) == ["one/llm", "one/full", "two/full"]
    assert frame["tied_with"].isna().tolist() == [True, True, False]
    assert frame["tied_with"][2] == 2


def test_identical_strategies_tie() -> None:
    frame = rank_studies([ONE, replace(ONE, study="again")], JudgeOptions()).frame
    assert frame["rank"].tolist() == [1, 1, 3, 3]
    assert frame["tied_with"].fillna(0).tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize(
    ("bench", "order", "legend_says"),
    [
        ("docs", ["llm", "full"], "rank by held-out at the last stage (there are no targets)"),
        ("count", ["full", "llm"], "rank by learning (there are no held-out benchmarks)"),
    ],
)
def test_studies_are_ranked_by_what_they_have(
    bench: str, order: list[str], legend_says: str
) -> None:
    part = replace(ONE, benchmarks={bench: ONE.benchmarks[bench]})
    standings = rank_studies([part], JudgeOptions())
    assert standings.frame["strategy"].tolist() == order
    assert standings.frame["rank"].tolist() == [1, 2]
    assert standings.frame["tied_with"].isna().all()
    assert legend(standings)[0].startswith(legend_says)


def test_one_study_ranks_as_compare_does() -> None:
    alone = rank_studies([ONE], JudgeOptions()).frame.drop(columns="tied_with")
    pd.testing.assert_frame_equal(alone, judge(ONE).leaderboard, check_dtype=False)


def test_order_of_samples_does_not_matter() -> None:
    order = np.random.default_rng(2).permutation(N)
    two = TWO
    for name, bench in TWO.benchmarks.items():
        two = change(
            two,
            name,
            sample_ids=bench.sample_ids[order],
            values={"strict": bench.values["strict"][order]},
        )
    options = JudgeOptions()
    for write in FORMATS.values():
        assert write(rank_studies([two, ONE], options)) == write(rank_studies([ONE, TWO], options))


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            change(TWO, "docs", settings=("task:x|engine:vllm",) * 3),
            "one and two: docs: made with engine:hf and with engine:vllm",
        ),
        (change(TWO, "docs", role="target"), "docs is held_out and target"),
        (change(TWO, "docs", groups=np.arange(N) // 2), "docs: other samples, groups or weights"),
        (
            change(TWO, "docs", sample_ids=np.array([f"t{i}" for i in range(N)], object)),
            "docs: other samples",
        ),
        (
            replace(TWO, benchmarks={"docs": TWO.benchmarks["docs"]}),
            "count only in one",
        ),
        (
            change(
                change(TWO, "docs", values={"logged": TWO.benchmarks["docs"].values["strict"]}),
                "count",
                values={"logged": TWO.benchmarks["count"].values["strict"]},
            ),
            "judged by scorer 'strict' and 'logged'",
        ),
    ],
)
def test_studies_that_cannot_be_ranked_together(other: StudyScores, text: str) -> None:
    with pytest.raises(IncompatibleError) as error:
        rank_studies([other, ONE], JudgeOptions())
    assert text in str(error.value)
    assert error.value.code == 4


def test_stages_that_answered_too_little_are_not_ranked() -> None:
    docs = ONE.benchmarks["docs"]
    values = docs.values["strict"].copy()
    values[:100, 2] = np.nan
    torn = change(ONE, "docs", values={"strict": values})
    with pytest.raises(IncompatibleError, match="100 of 600 samples have no score"):
        rank_studies([torn], JudgeOptions())
    assert len(rank_studies([torn], JudgeOptions(max_dropped=0.2)).frame) == 2


def test_missing_cells_are_told_and_not_ranked() -> None:
    docs = ONE.benchmarks["docs"]
    values = docs.values["strict"].copy()
    values[:, 2] = np.nan
    torn = change(ONE, "docs", values={"strict": values})
    standings = rank_studies([torn], JudgeOptions())
    assert standings.frame["strategy"].tolist() == ["full", "llm"]
    assert standings.frame["rank"].isna().tolist() == [False, True]
    assert standings.notes[-2].startswith("1 cell missing: figures that need them are NA")


def test_a_missing_benchmark_is_no_reason_to_rank_by_learning() -> None:
    docs = ONE.benchmarks["docs"]
    values = docs.values["strict"].copy()
    values[:, 0] = np.nan
    standings = rank_studies([change(ONE, "docs", values={"strict": values})], JudgeOptions())
    assert standings.figure == "balance"
    assert standings.frame["rank"].isna().all()
    assert standings.frame["n_regressed"].isna().all()


def test_two_studies_of_one_name_and_none_to_rank() -> None:
    with pytest.raises(UserError, match="two studies are called one"):
        rank_studies([ONE, ONE], JudgeOptions())
    with pytest.raises(UserError, match="no strategy to rank in empty"):
        rank_studies([study("empty")], JudgeOptions())


# --- forms ---------------------------------------------------------------------------------------

NASTY = study("nasty", **{"=cmd|x": (0.7, 0.5), "a_b&c|<b>$": (0.6, 0.78)})


def test_a_folder_that_can_only_be_read_is_judged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = Path(shutil.copytree(Path(__file__).parents[1] / "results" / "micro", tmp_path / "m"))

    def refuse(judgement: Any, place: Path) -> list[Path]:
        raise ResultsError(str(place / "scores.csv"), "cannot be written: Read-only file system")

    monkeypatch.setattr("harness.report.csv_files.write_csv_files", refuse)
    monkeypatch.setattr(sys, "argv", ["forgeteval", "compare", str(folder), "--json"])
    with pytest.raises(SystemExit) as ended:
        harness.cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and "Read-only file system" in said.err
    assert json.loads(said.out)["leaderboard"]


def test_csv_has_no_formulas() -> None:
    text = FORMATS["csv"](rank_studies([NASTY], JudgeOptions()))
    frame = pd.read_csv(io.StringIO(text), keep_default_na=False)
    assert frame["strategy"].tolist() == ["a_b&c|<b>$", "'=cmd|x"]
    assert frame["recovery_fraction"].tolist() == ["NA", "NA"]


def test_json_is_valid_and_complete() -> None:
    whole = json.loads(FORMATS["json"](rank_studies([ONE, TWO], JudgeOptions())))
    assert [row["rank"] for row in whole["rows"]] == [1, 2, 3, 4]
    assert list(whole["rows"][0]) == [*LEADERBOARD_COLUMNS, "tied_with"]
    assert whole["rows"][0]["number_mass_shift"] is None


def test_markdown_and_latex_escape_names() -> None:
    standings = rank_studies([NASTY], JudgeOptions())
    table = [line for line in FORMATS["md"](standings).splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {line.count("|") for line in table} == {8}
    assert "<b>" not in "".join(table)
    latex = FORMATS["tex"](standings)
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) == 6 for row in rows)
    assert r"a\_b\&c|<b>\$" in latex


def test_the_terminal_table_fits_80_columns() -> None:
    long = study("a-study-with-quite-a-long-name", **{"strategy_" * 5: (0.7, 0.5)})
    standings = rank_studies([ONE, TWO, long], JudgeOptions())
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(terminal_table(standings))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "+40.0 ±" in "".join(lines)
    assert "strategy_" * 5 in "".join(line[4:29].strip() for line in lines)


def test_ties_are_explained() -> None:
    again = rank_studies([ONE, replace(ONE, study="again")], JudgeOptions())
    assert any(line.startswith("3=1 means") for line in legend(again))
    assert "| 1=1 | one/llm |" in FORMATS["md"](again)
    assert not any("means" in line for line in legend(rank_studies([ONE], JudgeOptions())))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["forgeteval", *args])
        with pytest.raises(SystemExit) as done:
            harness.cli.main()
        return done.value.code if isinstance(done.value.code, int) else 0

    for name, n, right in (("one", 40, 0.5), ("two", 40, 0.9), ("short", 30, 0.5)):
        rows = pd.concat(
            [
                pd.DataFrame(
                    {
                        "strategy": strategy,
                        "stage": int(strategy != "base"),
                        "benchmark": bench,
                        "trained_on": "count" if strategy != "base" else "",
                        "sample_id": np.arange(n),
                        "score": np.arange(n) < share * n,
                    }
                )
                for strategy, share in (("base", 0.2), ("llm", right))
                for bench in ("count", "docs")
            ]
        )
        rows.to_csv(f"{name}.csv", index=False)
        assert run("import", f"{name}.csv", "--study", name) == 0
    assert run("leaderboard", "one", "two", "-o", "out/l.csv") == 0
    first = (tmp_path / "out" / "l.csv").read_bytes()
    assert run("leaderboard", "two", "one", "results/two", "-o", "out/l.csv") == 0
    assert (tmp_path / "out" / "l.csv").read_bytes() == first
    capsys.readouterr()
    assert run("leaderboard", "one", "two", "--format", "json") == 0
    assert [row["study"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["two", "one"]
    assert run("leaderboard", "one", "two", "-o", "l.tex") == 0
    assert (tmp_path / "l.tex").read_text().startswith("%")
    assert run("leaderboard", "one", "short") == 4
    assert "one and short: count: made with n:40" in " ".join(capsys.readouterr().err.split())
    assert run("leaderboard", "one", "-o", "l.xlsx") == 2
    assert run("leaderboard", "one", "--format", "cvs") == 2
    assert "did you mean 'csv'?" in " ".join(capsys.readouterr().err.split())
