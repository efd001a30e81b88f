"""`forgeteval compare` as a user sees it: tables, files, JSON, messages, exit codes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from harness.analysis import JudgeOptions, judge
from harness.analysis.paired import PairedDifference, not_available
from harness.cli import app, main
from harness.cli.compare import as_json
from harness.errors import EXIT_INCOMPATIBLE, EXIT_USAGE, ResultsError, UserError
from harness.report.tables import plus_minus, print_judgement

FALL = {"llm": 0.3, "sa_proj": 0.02}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results with one imported study, `mine`."""
    folder = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    base = {b: rng.random(200) < 0.7 for b in ("count", "path", "chart", "doc")}
    lines = ["strategy,stage,stage_name,trained_on,benchmark,sample_id,score,group"]
    for strategy, fall in FALL.items():
        for stage, target in ((0, ""), (1, "count"), (2, "path")):
            for name, right in base.items():
                score = right.copy()
                if stage and name in ("chart", "doc"):
                    score &= rng.random(200) > fall * (1 if stage == 1 else 0.4)
                if stage and name in ("count", "path")[:stage]:
                    score |= rng.random(200) < 0.4
                step = f"{stage}_{target}" if stage else "base"
                lines += [
                    f"{strategy},{stage},{step},{target},{name},{name}{i},{int(x)},g{i // 2}"
                    for i, x in enumerate(score)
                ]
    (folder / "mine.csv").write_text("\n".join(lines))
    call = ["import", str(folder / "mine.csv"), "--study", "mine", "--results", str(folder)]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    return folder


def compare(results, *more):
    return CliRunner().invoke(
        app, ["compare", "mine", "--results", str(results), *more], env={"COLUMNS": "80"}
    )


def test_tables_fit_80_columns_and_say_what_the_files_say(results):
    done = compare(results, "--baseline", "sa_proj")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert max(len(line) for line in lines if "written to" not in line) <= 80
    rows = {r["strategy"]: r for r in csv.DictReader((results / "mine/leaderboard.csv").open())}
    shown = next(line for line in lines if "held-out final" in line)
    for strategy in FALL:
        value = float(rows[strategy]["heldout_final_pp"])
        assert f"{value:+.1f}".replace("-", "−") in shown
    text = " ".join(done.stdout.split())
    assert "llm: learned +" in text
    assert "llm against sa_proj: learning" in text
    assert "1 run of each: samples were varied, training runs were not" in text
    assert "llm: base to stage, points" in text
    assert "% right again" in text
    assert "written to" in text


def test_json_is_alone_on_stdout_and_has_no_nan(results):
    done = compare(results, "--json", "--dip", "1_count")
    found = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(word))
    assert found["scorer"] == "logged"
    assert {row["strategy"] for row in found["leaderboard"]} == set(FALL)
    llm = next(row for row in found["leaderboard"] if row["strategy"] == "llm")
    assert llm["recovery_ci_low"] < llm["recovery_fraction"] < llm["recovery_ci_high"]
    assert llm["number_mass_shift"] is None
    assert len(found["files"]) == 3
    assert set(found["sentences"]) == set(FALL)


def test_a_second_compare_writes_the_same_bytes(results):
    names = ("scores.csv", "deltas.csv", "leaderboard.csv")
    compare(results)
    first = [(results / "mine" / name).read_bytes() for name in names]
    compare(results)
    assert first == [(results / "mine" / name).read_bytes() for name in names]


def test_options_change_numbers(results):
    def interval(*more):
        rows = json.loads(compare(results, "--json", *more).stdout)["leaderboard"]
        return rows[0]["learning_ci_low_pp"], rows[0]["signature"]

    assert interval("--level", "0.8") > interval("--level", "0.95")
    only = json.loads(compare(results, "--json", "--contrast", "dip_to_stage").stdout)
    assert {row["contrast"] for row in only["deltas"]} == {"dip_to_stage"}
    strict = json.loads(compare(results, "--json", "--margin", "90").stdout)
    assert "regressed" not in {row["verdict"] for row in strict["deltas"]}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--contrast", "base_to_stge"), "did you mean 'base_to_stage'"),
        (("--baseline", "lmm"), "did you mean 'llm'"),
        (("--dip", "1_cout"), "did you mean '1_count'"),
        (("--level", "95"), "level: got 95, expected a share like 0.95"),
    ],
)
def test_mistakes_are_one_message(results, more, message):
    done = compare(results, *more)
    assert isinstance(done.exception, UserError)
    assert done.exception.code == EXIT_USAGE
    assert message in str(done.exception)


def test_samples_that_do_not_match_end_with_exit_code_4(results, monkeypatch, capsys):
    lines = (results / "mine.csv").read_text().splitlines()
    part = [x for x in lines if not (x.startswith("llm,2") and ",doc1" in x)]
    (results / "part.csv").write_text("\n".join(part))
    call = ["import", str(results / "part.csv"), "--study", "part", "--results", str(results)]
    assert CliRunner().invoke(app, call).exit_code == 0
    monkeypatch.setattr("sys.argv", ["forgeteval", "compare", "part", "--results", str(results)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == EXIT_INCOMPATIBLE
    told = " ".join(capsys.readouterr().err.split())
    assert "doc: 111 of 200 samples have a score at only one of" in told
    assert "expected at most 5%; score the rest, or raise --max-dropped" in told
    assert "Traceback" not in told


def test_an_unknown_study_is_named(results):
    done = CliRunner().invoke(app, ["compare", "mins", "--results", str(results)])
    assert isinstance(done.exception, ResultsError)
    assert "no study 'mins'" in str(done.exception)
    assert "did you mean 'mine'" in str(done.exception)


def test_a_table_shows_rates_runs_and_drift(results):
    from test_analysis_judge import study

    found = judge(study(runs=2, strategies=("s", "r")), JudgeOptions())
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_judgement(console, found)
    text = console.export_text()
    for label in ("superficial", "essential", "learning by run", "held-out by run", "bare number"):
        assert label in text
    assert max(map(len, text.splitlines())) <= 80
    assert json.dumps(as_json(found, []), allow_nan=False)


def test_plus_minus_shows_the_wider_side_and_na():
    lopsided = PairedDifference(-0.05, -0.08, -0.04, -0.07, -0.045, 0.01, 9, 9, "mcnemar mid-p")
    assert plus_minus(lopsided) == "−5.0 ±3.0"
    assert plus_minus(not_available("missing cell")) == "NA"


def test_a_base_alone_is_shown_and_said_to_be_alone(tmp_path):
    lines = ["strategy,stage,benchmark,sample_id,score"]
    lines += [f"base,0,{name},{i},{int(i < 3)}" for name in ("chart", "doc") for i in range(4)]
    file = tmp_path / "mine.csv"
    file.write_text("\n".join(lines))
    call = ["import", str(file), "--study", "mine", "--results", str(tmp_path)]
    assert CliRunner().invoke(app, call).exit_code == 0
    done = compare(tmp_path)
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "Only the base has scores: there are no stages yet to compare with it." in words
    for name in ("chart", "doc"):
        line = next(line for line in done.stdout.splitlines() if name in line)
        assert "75.0" in line and "4" in line
    assert "improved" not in done.stdout  # no legend of what is not there
