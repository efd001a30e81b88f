"""Score files of other people: what is kept, what is refused, and that nothing crashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.analysis.judge import judge
from harness.analysis.scores import FAILED, MISSING, SCORED, StageKey
from harness.errors import ResultsError
from harness.interop.score_files import import_scores, read_imported

ROWS = [
    {"strategy": "base", "stage": 0, "benchmark": "count", "sample_id": "a", "score": 0.0},
    {"strategy": "base", "stage": 0, "benchmark": "count", "sample_id": "b", "score": 1.0},
    {"strategy": "base", "stage": 0, "benchmark": "docs", "sample_id": "a", "score": 0.5},
    {"strategy": "llm", "stage": 1, "benchmark": "count", "sample_id": "a", "score": 1.0},
    {"strategy": "llm", "stage": 1, "benchmark": "count", "sample_id": "b", "score": 1.0},
    {"strategy": "llm", "stage": 1, "benchmark": "docs", "sample_id": "a", "score": 0.25},
]


def frame(**columns: Any) -> pd.DataFrame:
    """ROWS with further or replaced columns."""
    return pd.DataFrame(ROWS).assign(**columns)


def save(data: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".jsonl":
        data.to_json(path, orient="records", lines=True)
    elif path.suffix == ".csv":
        data.to_csv(path, index=False)
    else:
        data.to_parquet(path, index=False)
    return path


def refusal(tmp_path: Path, data: pd.DataFrame | str, name: str = "s.csv") -> str:
    """The error text of importing `data`; nothing may be left behind."""
    path = tmp_path / name
    if isinstance(data, str):
        path.write_text(data)
    else:
        save(data, path)
    with pytest.raises(ResultsError) as error:
        import_scores(path, "mine", tmp_path / "results")
    assert not (tmp_path / "results" / "mine").exists()
    return str(error.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_formats_say_the_same(tmp_path: Path, suffix: str) -> None:
    trained = ["", "", "", "count", "count", "count"]
    gold = ["1", "2", "x", "1", "2", "x"]
    data = frame(
        trained_on=trained,
        gold=gold,
        question=[f"q {s}" for s in "abaaba"],
        response=list("012345"),
        group=["g", "g", "", "g", "g", ""],
    )
    done = import_scores(save(data, tmp_path / f"s{suffix}"), "mine", tmp_path, base_model="m")
    assert (done.n_rows, done.n_failed, done.strategies) == (6, 0, ("llm",))
    scores = read_imported(tmp_path / "mine")
    assert (scores.study, scores.base_model) == ("mine", "m")
    assert list(scores.benchmarks) == ["count", "docs"]
    count, docs = scores.benchmarks.values()
    assert (count.role, docs.role) == ("target", "held_out")
    assert count.columns == (StageKey("base", "0", 0), StageKey("llm", "0", 1))
    np.testing.assert_array_equal(count.values["logged"], [[0, 1], [1, 1]])
    assert count.groups[0] == count.groups[1]
    np.testing.assert_array_equal(docs.values["logged"], [[0.5, 0.25]])
    assert [(s.name, s.trained_on) for s in scores.stages] == [("base", None), ("count", "count")]
    texts = scores.texts
    assert texts is not None
    assert texts.question("count", "b") == "q b"
    assert texts.gold("count", "b") == "2"
    assert texts.response(count.columns[1], "count", "b") == "4"
    assert texts.response(count.columns[0], "docs", "a") == "2"


def test_missing_and_failed_are_no_zeros(tmp_path: Path) -> None:
    data = frame(score=[0, 1, 0.5, None, 1, 0.25]).iloc[[0, 1, 2, 3, 5]]
    done = import_scores(save(data, tmp_path / "s.csv"), "mine", tmp_path)
    assert done.n_failed == 1
    count = read_imported(tmp_path / "mine").benchmarks["count"]
    assert count.status.tolist() == [[SCORED, FAILED], [SCORED, MISSING]]
    assert np.isnan(count.values["logged"][:, 1]).all()


def test_order_of_rows_means_nothing(tmp_path: Path) -> None:
    data = frame(question="q", run="0")
    folders = []
    for name, rows in {"one": data, "two": data.iloc[::-1]}.items():
        import_scores(save(rows, tmp_path / f"{name}.csv"), name, tmp_path)
        folders.append((tmp_path / name / "imported.parquet").read_bytes())
    assert folders[0] == folders[1]


def test_own_base_per_strategy_and_runs_in_natural_order(tmp_path: Path) -> None:
    rows = [
        {"strategy": s, "run": run, "stage": t, "benchmark": "b", "sample_id": i, "score": 1}
        for s in ("llm10", "llm2")
        for run in (10, 9)
        for t in (0, 1)
        for i in range(3)
    ]
    import_scores(save(pd.DataFrame(rows), tmp_path / "s.jsonl"), "mine", tmp_path)
    scores = read_imported(tmp_path / "mine")
    assert list(scores.runs()) == [("llm2", "9"), ("llm2", "10"), ("llm10", "9"), ("llm10", "10")]
    assert all([s.key.stage for s in steps] == [0, 1] for steps in scores.runs().values())


def test_drift_reads_the_responses(tmp_path: Path) -> None:
    """A gold answer's form says what was expected."""
    data = frame(gold=["1", "2", "red", "1", "2", "red"], response=["1", "2", "red", "3", "", "7"])
    import_scores(save(data, tmp_path / "s.csv"), "mine", tmp_path)
    rates = read_imported(tmp_path / "mine", traits=True).benchmarks
    assert rates["docs"].rates["phrase>integer"].tolist() == [[0, 1]]
    assert rates["docs"].rates["bare_number"].tolist() == [[0, 1]]
    assert "bare_number" not in rates["count"].rates
    np.testing.assert_array_equal(rates["count"].rates["integer>integer"], [[1, 1], [1, np.nan]])
    assert read_imported(tmp_path / "mine").benchmarks["docs"].rates == {}


def test_ids_stay_as_written(tmp_path: Path) -> None:
    text = "strategy,stage,benchmark,sample_id,score\nbase,0,b,007,1\nbase,0,b,7,0\n"
    (tmp_path / "s.csv").write_text("\ufeff" + text, encoding="utf-8")
    import_scores(tmp_path / "s.csv", "mine", tmp_path)
    scores = read_imported(tmp_path / "mine")
    assert scores.benchmarks["b"].sample_ids.tolist() == ["007", "7"]


def test_several_scorers(tmp_path: Path) -> None:
    data = pd.concat([frame(scorer="strict"), frame(scorer="lenient", score=1.0)])
    import_scores(save(data, tmp_path / "s.csv"), "mine", tmp_path)
    values = read_imported(tmp_path / "mine").benchmarks["docs"].values
    assert {name: matrix.tolist() for name, matrix in values.items()} == {
        "strict": [[0.5, 0.25]],
        "lenient": [[1.0, 1.0]],
    }


# --- refusals ------------------------------------------------------------------------------------


def test_wrong_columns(tmp_path: Path) -> None:
    data = frame().rename(columns={"benchmark": "benchmrak", "score": "Score"})
    text = refusal(tmp_path, data)
    assert "column benchmark: missing; rename the file's 'benchmrak'" in text
    assert "column score: missing; the file has 'Score': rename it" in text
    assert "columns expected: strategy, stage, benchmark" in text
    assert "unknown; did you mean 'response'?" in refusal(tmp_path, frame(responce="x"))


def test_unrelated_columns_are_left_aside_and_named(tmp_path: Path) -> None:
    done = import_scores(save(frame(model="x"), tmp_path / "s.csv"), "mine", tmp_path)
    assert done.ignored == ("model",)


def test_everything_wrong_in_one_error_with_its_rows(tmp_path: Path) -> None:
    data = frame(
        stage=[0, 0, "0.5", 1, "one", 1],
        score=["0", "1.5", "0.5", "-1", "good", "0.25"],
        sample_id=["a", "", "a", "a", "b", "a"],
    )
    text = refusal(tmp_path, data)
    assert "3 problems" not in text
    assert "expected a whole number from 0 (the base), got rows 4 ('0.5') and 6 ('one')" in text
    assert "column score: expected a number, got row 6 ('good')" in text
    assert "outside [0, 1] in rows 3 ('1.5') and 5 ('-1')" in text
    assert "column sample_id: empty in row 3" in text


def test_percents_are_recognised(tmp_path: Path) -> None:
    text = refusal(tmp_path, frame(score=[0, 100, 50, 100, 100, 25]))
    assert "These look like percents. Cure: divide the column by 100" in text


def test_long_lists_of_rows_are_cut(tmp_path: Path) -> None:
    rows = [
        {"strategy": "base", "stage": 0, "benchmark": "b", "sample_id": i, "score": 2}
        for i in range(5000)
    ]
    text = refusal(tmp_path, pd.DataFrame(rows), "s.jsonl")
    assert "lines 1 (2.0), 2 (2.0), 3 (2.0), 4 (2.0) and 4,996 more" in text.replace("'", "")
    assert len(text) < 400


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"role": ["", "", "", "target", "", "heldout"]}, "did you mean 'held_out'?"),
        ({"role": ["target", "", "", "probe", "", ""]}, "one benchmark has several roles: rows 2"),
        ({"group": ["g", "", "", "h", "", ""]}, "one sample has several groups: rows 2"),
        (
            {"trained_on": ["", "", "", "docs", "count", ""]},
            "one stage of one run has several: rows 5 ('docs') and 6 ('count')",
        ),
        ({"trained_on": ["", "", "", "counts", "", ""]}, "did you mean 'count'?"),
        ({"trained_on": "count"}, "stage 0 is the base and was trained on nothing"),
        (
            {"trained_on": ["", "", "", "docs", "", ""], "role": "held_out"},
            "held_out, but a stage was trained on that benchmark",
        ),
        ({"stage": 1}, "so its stage is 0; got rows 2 ('1'), 3 ('1') and 4 ('1')"),
        ({"run": list("012345")}, "strategy 'base' has several runs"),
        ({"strategy": "llm", "stage": [1, 1, 1, 2, 2, 2]}, "a stage without a base"),
        ({"sample_id": "a"}, "in rows 2 ('a'), 3 ('a'), 5 ('a') and 6 ('a')"),
        (
            {"benchmark": "held_out"},
            "column benchmark: 'held_out' is what tables call a mean: rows 2",
        ),
        ({"run": ["", "", "", "mean", "mean", "mean"]}, "column run: 'mean' is what tables call"),
        (
            {"stage_name": ["", "", "", "\x1b[2J", "\x1b[2J", "\x1b[2J"]},
            "column stage_name: a name with characters that cannot be shown (controls, text "
            "direction): rows 5 ('\\x1b[2J')",
        ),
        ({"strategy": [*["base"] * 3, *["x\u202ey"] * 3]}, "rows 5 ('x\\u202ey')"),
        ({"gold": list("123453")}, "one sample has several golds: rows 2 ('1'), 3 ('2'), 5 ('4')"),
        (
            {"question": ["q", "", "r", "p", "", "r"]},
            "one sample has several questions: rows 2 ('q')",
        ),
    ],
)
def test_rows_that_contradict_each_other(
    tmp_path: Path, columns: dict[str, object], expected: str
) -> None:
    assert expected in refusal(tmp_path, frame(**columns))


def test_chance_is_not_known_of_scores_from_a_file(tmp_path: Path) -> None:
    folder = import_scores(save(frame(), tmp_path / "s.csv"), "mine", tmp_path / "r").folder
    judged = judge(read_imported(folder))
    assert judged.scores["chance_pct"].isna().all()
    assert not any("at chance" in note for note in judged.notes)


def test_broken_files(tmp_path: Path) -> None:
    assert "no rows" in refusal(tmp_path, frame().iloc[:0])
    assert "line 2: not JSON" in refusal(tmp_path, '{"score": 1}\n{"score": \n', "s.jsonl")
    assert "line 1: got a JSON list" in refusal(tmp_path, "[1]\n", "s.jsonl")
    assert "broken parquet file" in refusal(tmp_path, "PAR1 no", "s.parquet")
    assert "unknown kind of file '.xlsx'" in refusal(tmp_path, "x", "s.xlsx")
    with pytest.raises(ResultsError, match="no such file"):
        import_scores(tmp_path / "absent.csv", "mine", tmp_path)
    (tmp_path / "latin.csv").write_bytes("strategy,stage,b\xe9nchmark\n".encode("latin-1"))
    with pytest.raises(ResultsError, match="not UTF-8"):
        import_scores(tmp_path / "latin.csv", "mine", tmp_path)


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".hidden", "x" * 101, "a\n", "-rf", "..", "con"]
)
def test_study_names_are_no_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(ResultsError, match="study name"):
        import_scores(save(frame(), tmp_path / "s.csv"), name, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    file = save(frame(), tmp_path / "s.csv")
    import_scores(file, "mine", tmp_path)
    with pytest.raises(ResultsError, match=r"there already\. Cure: --replace"):
        import_scores(file, "mine", tmp_path)
    save(frame(strategy=["base"] * 3 + ["new"] * 3), file)
    import_scores(file, "mine", tmp_path, replace=True)
    assert [s.key.strategy for s in read_imported(tmp_path / "mine").stages] == ["base", "new"]
    (tmp_path / "native" / "cells").mkdir(parents=True)
    (tmp_path / "native" / "study.json").write_text('{"schema": 1}')
    with pytest.raises(ResultsError, match=r"is no imported study\. Cure: choose another"):
        import_scores(file, "native", tmp_path, replace=True)
    assert (tmp_path / "native" / "cells").is_dir()
    assert not list(tmp_path.glob(".*"))


def test_a_study_changed_by_hand_is_refused(tmp_path: Path) -> None:
    import_scores(save(frame(), tmp_path / "s.csv"), "mine", tmp_path)
    rows = tmp_path / "mine" / "imported.parquet"
    rows.write_bytes(rows.read_bytes()[:100])
    with pytest.raises(ResultsError, match=r"imported.parquet: cannot be read"):
        read_imported(tmp_path / "mine")
    rows.unlink()
    with pytest.raises(ResultsError, match="is missing"):
        read_imported(tmp_path / "mine")
    (tmp_path / "mine" / "study.json").write_text('{"schema": 9, "kind": "imported"}')
    with pytest.raises(ResultsError, match="import the score file again"):
        read_imported(tmp_path / "mine")


# --- anything at all -----------------------------------------------------------------------------

WORDS = st.sampled_from(["base", "llm", "", " base", "a", "b", "target", "held_out", "0", "1", "é"])
VALUES = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.integers(0, 2),
    st.floats(0, 1),
    st.text(st.characters(codec=None), max_size=5),
    st.lists(st.integers(), max_size=2),
    st.just(10**400),
)
NAMES = st.sampled_from(
    [
        "strategy",
        "stage",
        "benchmark",
        "sample_id",
        "score",
        "run",
        "role",
        "trained_on",
        "group",
        "gold",
        "scorer",
        "response",
        "stages",
    ]
)
NEEDED = ("strategy", "stage", "benchmark", "sample_id", "score")
GOOD = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(["base", "llm"]),
        "stage": st.integers(0, 1),
        "benchmark": WORDS,
        "sample_id": VALUES,
        "score": VALUES,
    },
    optional={"role": WORDS, "trained_on": WORDS, "run": WORDS, "gold": VALUES, "group": WORDS},
)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def survives(file: Path, folder: Path) -> None:
    """The file is imported and can be read, or is refused with a text."""
    try:
        import_scores(file, "mine", folder, replace=True)
    except ResultsError as error:
        assert str(error)
        return
    scores = read_imported(folder / "mine")
    for benchmark in scores.benchmarks.values():
        for matrix in benchmark.values.values():
            assert ((matrix >= 0) & (matrix <= 1) | np.isnan(matrix)).all()


@FUZZ
@given(rows=st.lists(st.one_of(GOOD, st.dictionaries(NAMES, VALUES)), max_size=6))
def test_no_jsonl_crashes_the_importer(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    file = tmp_path / "s.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    survives(file, tmp_path)


@FUZZ
@given(text=st.text(alphabet='{}[]",:\n\\u0d8e strategybnchmk_dico01.5', max_size=200))
def test_no_text_crashes_the_importer(tmp_path: Path, text: str) -> None:
    for name in ("s.jsonl", "s.csv", "s.parquet"):
        (tmp_path / name).write_text(text)
        survives(tmp_path / name, tmp_path)


@FUZZ
@given(rows=st.lists(st.lists(VALUES, min_size=5, max_size=7), max_size=5), quote=st.booleans())
def test_no_csv_crashes_the_importer(tmp_path: Path, rows: list[list[object]], quote: bool) -> None:
    import csv

    file = tmp_path / "s.csv"
    with file.open("w", encoding="utf-8", errors="replace", newline="") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL)
        writer.writerow([*NEEDED, "role", "gold"])
        writer.writerows(rows)
    survives(file, tmp_path)


@FUZZ
@given(data=st.data())
def test_no_parquet_crashes_the_importer(tmp_path: Path, data: st.DataObject) -> None:
    import pyarrow as pa

    kinds = [pa.int8(), pa.float32(), pa.string(), pa.bool_(), pa.list_(pa.int8()), pa.date32()]
    kinds += [pa.null(), pa.decimal128(6, 2), pa.binary(), pa.dictionary(pa.int8(), pa.string())]
    examples = {"string": ["base", "llm"], "bool": [True, None], "int8": [0, 1], "float": [0.5, 1]}
    columns = {}
    for name in [*NEEDED, "gold", "role"]:
        kind = data.draw(st.sampled_from(kinds))
        columns[name] = pa.array(examples.get(str(kind), [None, None]), kind)
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    survives(tmp_path / "s.parquet", tmp_path)
