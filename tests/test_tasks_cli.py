"""`forgeteval tasks`: list, show, check with faulty data, prompt, grade."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from golden_tables import GOLDEN, SHARED, TASK_OF
from make_fixtures import picture, write
from typer.testing import CliRunner, Result

from harness import registry, row_files
from harness.cli import _tasks_first, app
from harness.cli.tasks import group
from harness.errors import UserError

DATA = Path(__file__).parent / "fixtures" / "data"
PROMPTS = Path(__file__).parent / "golden" / "prompts"


def run(*arguments: str | Path, given: str | None = None) -> Result:
    return CliRunner().invoke(group, [str(argument) for argument in arguments], input=given)


def ok(*arguments: str | Path, given: str | None = None) -> str:
    result = run(*arguments, given=given)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def refused(*arguments: str | Path, given: str | None = None) -> str:
    result = run(*arguments, given=given)
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    assert result.stdout == ""
    return str(result.exception)


def test_the_table_fits_80_columns_and_names_every_task() -> None:
    lines = ok().splitlines()
    assert max(map(len, lines)) <= 80
    for task in registry.all_tasks():
        assert any(line.startswith(task.name[:13]) for line in lines)
    facts = json.loads(ok("--json"))
    assert [row["name"] for row in facts] == list(registry.names())
    for key in ("role", "n", "metric", "chance", "groups", "source", "licence"):
        assert all(key in row for row in facts)


def test_show_tells_what_a_task_is() -> None:
    text = ok("show", "mme")
    assert "lmms-lab/MME" in text
    assert "mean_and_all" in text
    assert json.loads(ok("show", "mme", "--json"))["macro"] == "category"
    assert refused("show", "chart_qa") == "unknown task 'chart_qa'; did you mean 'chartqa'?"


def test_check_passes_on_all_fixtures() -> None:
    text = ok("check", "--data", DATA)
    assert text.count("ok ") == len([*Path(DATA).iterdir()])
    assert "1 rows left out" in text  # the video question of SEED-Bench
    assert "micro_color" in text.splitlines()[-1]


def broken(folder: Path, fault: str) -> Path:
    """POPE's fixture with one fault."""
    rows = pq.read_table(DATA / "pope.parquet").to_pylist()
    if fault == "renamed column":
        rows = [{"answr" if key == "answer" else key: row[key] for key in row} for row in rows]
    elif fault == "broken image":
        rows[2]["image"] = {"bytes": picture(1)[:50], "path": None}
    elif fault == "duplicated id":
        rows[3]["question_id"] = rows[2]["question_id"]
    elif fault == "missing answer":
        rows[1]["answer"] = None
    path = folder / "pope.parquet"
    write(path, rows)
    return path


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("renamed column", "columns: no column 'answer'; did you mean 'answr'?; found id, "),
        ("broken image", "sample adversarial-1: image 0: broken image: "),
        ("duplicated id", "row 3: has the id 'adversarial-1' of row 2"),
        ("missing answer", "row 1: has no answer"),
    ],
)
def test_check_names_the_fault_in_one_line(tmp_path: Path, fault: str, line: str) -> None:
    path = broken(tmp_path, fault)
    result = run("check", "pope", "--source", f"pope={path}")
    assert result.exit_code == 2
    assert len(result.stdout.splitlines()) == 1
    assert result.stdout.startswith(f"wrong pope             {line}")
    report = json.loads(run("check", "pope", "--source", f"pope={path}", "--json").stdout)
    assert (report[0]["ok"], len(report[0]["problems"])) == (False, 1)


@pytest.mark.parametrize(
    ("task", "column", "value"),
    [("mmbench", "answer", "Z"), ("mmstar", "answer", "Z"), ("mmmu", "options", "['only one']")],
)
def test_check_names_a_gold_letter_without_an_option(
    tmp_path: Path, task: str, column: str, value: str
) -> None:
    rows = pq.read_table(DATA / f"{task}.parquet").to_pylist()
    rows[0][column] = value
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    result = run("check", task, "--source", f"{task}={tmp_path / 'rows.parquet'}")
    assert result.exit_code == 2
    assert "is not one of" in result.stdout


def test_check_takes_counts_stored_as_floats(tmp_path: Path) -> None:
    rows = pq.read_table(DATA / "countbench.parquet").to_pylist()
    rows = [{**row, "number": float(row["number"])} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert ok("check", "countbench", "--source", f"countbench={tmp_path / 'rows.parquet'}")


@pytest.mark.parametrize(
    ("task", "column", "value", "said"),
    [
        ("mmmu", "options", "['a', 'b'", "row 0: column 'options' holds \"['a', 'b'\", expected a"),
        ("mmmu", "options", "[" * 9999, "row 0: column 'options' holds '[[["),
        ("ai2d", "answer", "²", "row 0: answer '²' is no index of 4 options, expected a number"),
        ("mmbench", "index", "²", "row 0: column 'index' holds '²', expected a whole number"),
        ("vqav2", "answers", ["yes"], "row 0: column 'answers' lists str, expected objects with"),
    ],
)
def test_check_names_the_column_of_a_bad_value(
    tmp_path: Path, task: str, column: str, value: object, said: str
) -> None:
    rows = pq.read_table(DATA / f"{task}.parquet").to_pylist()[:1]
    rows[0][column] = value
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    result = run("check", task, "--source", f"{task}={tmp_path / 'rows.parquet'}")
    assert (result.exit_code, said in result.stdout) == (2, True), result.output


def test_check_names_the_path_that_is_not_there(tmp_path: Path) -> None:
    result = run("check", "pope", "--source", f"pope={tmp_path}/x.parquet")
    assert result.exit_code == 2
    assert f"{tmp_path}/x.parquet: no such file or folder; its folder is empty" in result.stdout


@pytest.mark.parametrize("command", ["grade", "prompt"])
@pytest.mark.parametrize("given", ["", "\n \n"])
def test_a_file_without_rows_is_refused(command: str, given: str) -> None:
    message = "standard input: no rows; expected a JSON object in each line"
    assert refused(command, "pope", "-", given=given) == message


def test_check_refuses_what_it_cannot_find(tmp_path: Path) -> None:
    assert refused("check", "--data", tmp_path / "no").endswith("no: no such folder")
    assert refused("check", "--source", "pope") == "--source: got 'pope', expected NAME=PATH"
    assert "unknown task 'pop'" in refused("check", "--source", "pop=x")
    result = run("check", "--data", tmp_path)
    assert (result.exit_code, "nothing was checked" in result.stdout) == (2, True)


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


ASKED = {"question": "Is it?", "answer": "yes", "category": "random", "question_id": "1"}


def test_grade_adds_to_rows_and_keeps_their_order(tmp_path: Path) -> None:
    given = lines(
        {"sample": ASKED, "response": "Yes.", "mine": [1]},
        {"doc": ASKED, "response": "no"},
        {"sample": ASKED, "response": None},
    )
    text = ok("grade", "pope", "-", "--scorer", "lmms_eval", given=given)
    rows = [json.loads(line) for line in text.splitlines()]
    assert rows[0] == {
        "sample": ASKED,
        "response": "Yes.",
        "mine": [1],
        "score": 0.0,
        "scores": rows[0]["scores"],
        "parsed": "yes.",
    }
    assert rows[0]["scores"]["pope_accuracy"] == 0.0
    assert [row["score"] for row in rows] == [0.0, 0.0, None]
    strict = ok("grade", "pope", "-", given=given)
    assert [json.loads(line)["score"] for line in strict.splitlines()] == [1.0, 0.0, None]
    (tmp_path / "rows.jsonl").write_text(given)
    assert ok("grade", "pope", tmp_path / "rows.jsonl", "-o", tmp_path / "out") == ""
    assert (tmp_path / "out").read_text() == strict


def test_grade_names_every_bad_line() -> None:
    given = lines(
        {"sample": ASKED, "response": "yes"},
        {"sample": ASKED, "respones": "yes"},
        {"row": 1, "response": "yes"},
        {"sample": {"question": "Is it?"}, "response": "yes"},
        {"sample": ASKED, "response": 3},
        [],
    )
    assert refused("grade", "pope", "-", given=given + "\n{\n") == (
        "standard input: 6 problems\n"
        "  line 2: no key 'response'; did you mean 'respones'?\n"
        "  line 3: no object under 'sample' or 'doc'; found row, response\n"
        "  line 4: no column 'category'; found question\n"
        "  line 5: response is int, expected text\n"
        "  line 6: got list, expected an object\n"
        "  line 8: not JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))"
    )
    many = refused("grade", "pope", "-", given="[]\n" * 40)
    assert many.endswith("and 30 more lines")


def test_grade_refuses_scorers_and_files_that_are_not_there(tmp_path: Path) -> None:
    message = "gqa: has no scorer 'lmm_cl'; it has strict, lenient, lmms_eval"
    assert refused("grade", "gqa", "-", "--scorer", "lmm_cl", given="") == message
    assert refused("grade", "gqa", tmp_path / "no").endswith("no: no such file or directory")
    (tmp_path / "latin").write_bytes(b"\xff")
    assert refused("grade", "gqa", tmp_path / "latin").endswith("latin: not UTF-8 at byte 0")


def test_grade_survives_wild_text() -> None:
    given = lines({"sample": ASKED, "response": "\ud800 \u2028 yes"})  # escaped by json
    row = json.loads(ok("grade", "pope", "-", "--scorer", "lenient", given=given))
    assert row["response"] == "\ud800 \u2028 yes"


@pytest.fixture
def deaf() -> Iterator[None]:
    """This process takes SIGTERM and goes on, as one does that scored something."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


def test_several_processes_grade_as_one(monkeypatch: pytest.MonkeyPatch, deaf: None) -> None:
    given = lines(*({"sample": ASKED, "response": f"yes {k}"} for k in range(50)))
    alone = row_files.grade("x", given, "pope", "strict")
    monkeypatch.setattr(row_files, "LINES_A_PROCESS", 7)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert row_files.grade("x", given, "pope", "strict") == alone
    with pytest.raises(UserError, match="line 51: got list"):
        row_files.grade("x", given + "[]\n", "pope", "strict")
    monkeypatch.setattr(row_files, "_grade_lines", die)
    with pytest.raises(UserError, match="a process that read it was killed"):
        row_files.grade("x", given, "pope", "strict")


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_prompt_gives_what_a_model_would_get(tmp_path: Path) -> None:
    file = PROMPTS / "pixmocount.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for mode, profile in (("as_released", "lmm_cl"), ("intended", "fixed")):
        asked = [row for row in rows if row["mode"] == mode]
        bare = lines(*({"sample": row["doc"], "id": row["id"]} for row in asked))
        text = ok("prompt", "pixmo_count", "-", "--profile", profile, given=bare)
        got = [json.loads(line) for line in text.splitlines()]
        assert [row["prompt"] for row in got] == [row["prompt"] for row in asked]
        assert [row["id"] for row in got] == [row["id"] for row in asked]
    assert "no prompt profile 'x'; it has fixed, lmm_cl" in refused(
        "prompt", "pixmo_count", "-", "--profile", "x", given=""
    )


def test_every_fixture_row_can_be_graded_without_its_image() -> None:
    for name in ("cub200", "textvqa", "mmmu", "mmbench", "docvqa", "pixmo_count"):
        table = pq.read_table(DATA / f"{name}.parquet").to_pylist()
        bare = [{k: v for k, v in row.items() if not k.startswith("image")} for row in table]
        given = lines(*({"sample": row, "response": ""} for row in bare))
        graded = row_files.grade("x", given, name, "strict").splitlines()
        assert [json.loads(row)["score"] for row in graded] == [0.0] * len(table)


def test_a_task_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    shutil.copy(Path(__file__).parent.parent / "tasks" / "gqa.py", tmp_path / "mine.py")
    text = (tmp_path / "mine.py").read_text().replace('name="gqa"', 'name="my_gqa"')
    (tmp_path / "mine.py").write_text(text)
    data = DATA / "gqa"
    for words in (["tasks"], ["tasks", "check", "my_gqa", "--source", f"my_gqa={data}"]):
        given = _tasks_first([*words, "--tasks", str(tmp_path / "mine.py")])
        done = CliRunner().invoke(app, given)
        assert done.exit_code == 0, done.output
        assert "my_gqa" in done.output


def test_output_goes_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO(ok("grade", "pope", "-", given=lines({"sample": ASKED, "response": "x"})))
    assert len(out.readlines()) == 1
    assert capsys.readouterr().err == ""


def golden_tables() -> list[tuple[str, str]]:
    """(file, reference scorer) of every table."""
    pairs = []
    for file in sorted(GOLDEN.glob("[a-z]*.jsonl")):
        first = json.loads(file.read_text().splitlines()[0])
        pairs.append((file.stem, "lmm_cl" if "LMM_CL" in first["reference"] else "lmms_eval"))
        if file.stem in SHARED:
            pairs.append((file.stem, "lmm_cl"))
    return pairs


@pytest.mark.parametrize(("stem", "scorer"), golden_tables())
def test_grade_reproduces_the_reference_programs(stem: str, scorer: str) -> None:
    bare = stem.removesuffix("_lmmcl")
    text = (GOLDEN / f"{stem}.jsonl").read_text()
    expected = [json.loads(line) for line in text.splitlines()]
    graded = row_files.grade(stem, text, TASK_OF.get(bare, bare), scorer)
    compared = 0
    for want, line in zip(expected, graded.splitlines(), strict=True):
        score = want["score"]
        if score is None:
            continue
        if scorer == "lmm_cl":
            score = want.get("score_without_reasoning_strip", score)
        assert json.loads(line)["scores"][want["metric"]] == pytest.approx(score, abs=1e-9)
        compared += 1
    assert compared > 50
