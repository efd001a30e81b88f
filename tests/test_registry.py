"""The registry: names, foreign packages called `tasks`, files, entry points, declared tasks."""

from __future__ import annotations

import doctest
import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from make_fixtures import cell, write

from harness import contract, registry
from harness.data import sources
from harness.errors import UserError
from harness.prompts import as_text, request_parts
from harness.registry import InlineTask
from harness.scoring import clock, number
from harness.types import Sample

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "module",
    [
        "data.subset", "errors", "natural_order", "prompts", "rows", "stage_lists",
        "study", "weights.tensors",
        "storage.signatures", "storage.store",
    ],
)  # fmt: skip
def test_doctests(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"harness.{module}"))
    assert results.attempted > 0
    assert results.failed == 0


def test_names_are_unique_and_in_order() -> None:
    names = registry.names()
    assert len(set(names)) == len(names)
    assert names[:5] == ("cub200", "pixmo_count", "pathvqa", "textvqa", "timeclock")
    assert [task.name for task in registry.all_tasks()] == list(names)
    targets = [task.name for task in registry.all_tasks() if task.role == "target"]
    assert targets[:5] == list(names[:5])


def test_every_adapter_is_a_short_file_with_its_facts() -> None:
    for file in (ROOT / "tasks").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 90, file.name
    for task in registry.all_tasks():
        assert task.licence and task.citation and task.chance and task.groups, task.name
        assert {"strict", "lenient"} <= set(task.scorers), task.name


def test_unknown_tasks_are_named_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        registry.task("doc_vqa")
    assert str(caught.value) == "unknown task 'doc_vqa'; did you mean 'docvqa'?"
    with pytest.raises(UserError, match="unknown task 'zzz'; known are cub200, "):
        registry.task("zzz")


@pytest.mark.parametrize("body", ["raise SystemExit('foreign')", "TASKS = ('evil',)"])
def test_a_foreign_package_called_tasks_does_no_harm(tmp_path: Path, body: str) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text(body)
    program = (
        "import sys; sys.path[:0] = [sys.argv[1], sys.argv[2]]\n"
        "from harness import registry\n"
        "print(registry.task('ai2d').sample.__module__, 'evil' in registry.names())"
    )
    command = [sys.executable, "-c", program, str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "_forgeteval_tasks.ai2d False\n"


def test_asking_for_one_task_imports_no_other() -> None:
    program = (
        "import sys; from harness import registry; registry.task('ai2d')\n"
        "print(sorted(m for m in sys.modules if m.startswith('tasks.')),"
        " {'torch', 'datasets', 'pandas'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "['tasks.ai2d'] set()\n"


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})


def task_file(folder: Path, name: str = "mine") -> Path:
    text = (ROOT / "tasks" / "ai2d.py").read_text().replace('name="ai2d"', f'name="{name}"')
    (folder / f"{name}.py").write_text(text)
    return folder / f"{name}.py"


@pytest.mark.usefixtures("empty")
def test_files_add_tasks(tmp_path: Path) -> None:
    (added,) = registry.register_file(task_file(tmp_path))
    assert registry.task("mine") is added
    assert registry.names()[-1] == "mine"
    assert len(registry.code_stamp(added)) == 64


@pytest.mark.usefixtures("empty")
def test_faulty_task_files_say_what_and_where(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(UserError) as caught:
            registry.register_file(path)
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert message(tmp_path / "no.py") == (
        "no.py: no such file; --tasks expects a Python file with TASK or TASKS"
    )
    (tmp_path / "a.py").write_text("x = 1\n")
    assert message(tmp_path / "a.py").startswith("a.py: expected TASK = Task(...)")
    (tmp_path / "b.py").write_text("x = 1\n1 / 0\n")
    assert message(tmp_path / "b.py") == "b.py:2: ZeroDivisionError: division by zero"
    task_file(tmp_path, "pope")
    assert message(tmp_path / "pope.py") == "tasks: pope.py: task 'pope' exists (built in)"


def test_entry_points_add_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    theirs = dataclasses.replace(registry.task("ai2d"), name="theirs")

    def offer(*tasks: object) -> None:
        entries = [
            SimpleNamespace(name=f"e{k}", value=f"p:e{k}", load=lambda task=task: task)
            for k, task in enumerate(tasks)
        ]
        monkeypatch.setattr(registry, "entry_points", lambda group: entries)
        registry._installed.cache_clear()

    try:
        offer(theirs)
        assert registry.task("theirs") is theirs
        offer(SimpleNamespace(TASKS=(theirs,)))
        assert "theirs" in registry.names()
        offer(theirs, theirs)
        with pytest.raises(UserError, match=r"task 'theirs' exists \(entry point e0"):
            registry.names()
        offer(3)
        with pytest.raises(UserError, match=r"entry point e0 \(p:e0\): expected TASK"):
            registry.names()
    finally:
        registry._installed.cache_clear()


# --- declared in a manifest ------------------------------------------------------------------


def test_a_declared_task_needs_only_path_and_scorer(tmp_path: Path) -> None:
    rows = [{"image": cell(k), "question": f"q {k}?", "answer": a} for k, a in enumerate("ab")]
    write(tmp_path / "my.parquet", rows)
    task = registry.inline_task("my_vqa", InlineTask(path="my.parquet", scorer="exact"))
    samples = sources.load(task, base_dir=tmp_path)
    assert contract.check(task, samples).problems == ()
    assert [sample.id for sample in samples] == ["000000", "000001"]
    assert as_text(task.prompts["fixed"](samples[0]), samples[0]) == "q 0?"


def test_a_declared_task_with_everything(tmp_path: Path) -> None:
    columns = {
        "image": "img",
        "question": "ask",
        "answer": "gold",
        "id": "key",
        "group": "image_id",
        "choices": "options",
    }
    golds = ["B", "dog", 0]
    rows = [
        {
            "img": cell(1),
            "ask": "Which?",
            "gold": str(gold),
            "key": f"k{k}",
            "image_id": "i",
            "options": ["cat", "dog"],
        }
        for k, gold in enumerate(golds)
    ]
    write(tmp_path / "my.parquet", [{**row, "img": row["img"]} for row in rows])
    spec = InlineTask(
        path="my.parquet",
        scorer="choice",
        columns=columns,
        prompt="{question} {choices}\nLetter only.",
        max_new_tokens=8,
    )
    task = registry.inline_task("mine", spec)
    samples = sources.load(task, base_dir=tmp_path)
    assert contract.check(task, samples).problems == ()
    assert [sample.answers[0] for sample in samples] == ["B", "B", "A"]
    assert [sample.id for sample in samples] == ["k0", "k1", "k2"]
    assert {sample.group for sample in samples} == {"i"}
    prompt = task.prompts["fixed"](samples[0])
    assert request_parts(prompt, 1) == (0, "Which? A. cat\nB. dog\nLetter only.")
    assert task.decoding.max_new_tokens == 8


@pytest.mark.parametrize(
    ("scorer", "answer"),
    [
        ("exact", "red car"),
        ("number", "12"),
        ("yes_no", "no"),
        ("time", "10:08"),
        ("vqa", ["a cat"] * 10),
        ("anls", ["Jan 4", "1/4"]),
        ("relaxed", "3.5"),
    ],
)
def test_every_declared_scorer_keeps_the_contract(tmp_path: Path, scorer, answer) -> None:  # type: ignore[no-untyped-def]
    rows = [{"image": cell(1), "question": "What?", "answer": answer}]
    write(tmp_path / "my.parquet", rows)
    task = registry.inline_task("mine", InlineTask(path="my.parquet", scorer=scorer))
    assert contract.check(task, sources.load(task, base_dir=tmp_path)).problems == ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": "a", "scorer": "rouge"}, "'exact', 'choice'"),
        ({"path": "a"}, "Field required"),
        ({"path": "a", "scorer": "exact", "prompt": "{qestion}"}, "knows {question} and {choices}"),
        ({"path": "a", "scorer": "exact", "prompt": "Say it."}, "must contain {question}"),
        ({"path": "a", "scorer": "exact", "colums": {}}, "Extra inputs"),
        ({"path": "a", "scorer": "exact", "columns": {"img": "x"}}, "Extra inputs"),
        ({"path": "a", "scorer": "exact", "max_new_tokens": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_declarations_are_refused(spec: dict, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        InlineTask(**spec)
    assert message in str(caught.value)


def test_choices_must_hold_the_answer(tmp_path: Path) -> None:
    row = {"image": cell(1), "question": "Q?", "answer": "fox", "choices": ["cat", "dog"]}
    write(tmp_path / "my.parquet", [row])
    task = registry.inline_task("mine", InlineTask(path="my.parquet", scorer="choice"))
    message = "row 0: answer 'fox' is no letter, index or text of 2 options"
    with pytest.raises(UserError, match=message):
        sources.load(task, base_dir=tmp_path)


def declared(folder: Path, scorer: str, *golds: object, **more: object) -> tuple:  # type: ignore[type-arg]
    """A task over rows of these answers, and its samples."""
    lines = [
        json.dumps({"image": "p.png", "question": "Q?", "answer": gold, **more}) for gold in golds
    ]
    (folder / "my.jsonl").write_text("\n".join(lines))
    (folder / "p.png").write_bytes(cell(1)["bytes"])
    task = registry.inline_task("mine", InlineTask(path="my.jsonl", scorer=scorer))
    return task, sources.load(task, base_dir=folder)


@pytest.mark.parametrize(
    ("scorer", "gold", "read", "right", "wrong"),
    [
        ("yes_no", True, ("yes",), "Yes", "no"),
        ("yes_no", False, ("no",), "no", "yes"),
        ("yes_no", "true", ("yes",), "yes", "true"),
        ("yes_no", "N", ("no",), "No.", "n"),
        ("yes_no", "No", ("No",), "no", "yes"),
        ("yes_no", ["no", "yes"], ("no", "yes"), "yes", "maybe"),
        ("number", 3.5, ("3.5",), "3.5", "3"),
        ("number", -4, ("-4",), "-4", "4"),
        ("number", "1,000", ("1,000",), "1,000", "100"),
        ("number", "1000", ("1000",), "1,000", "1,00"),
        ("number", "three", ("3",), "3", "three"),
        ("number", "There are 3 dogs.", ("3",), "3.", "3 dogs"),
        ("number", ["3", "4"], ("3", "4"), "4", "5"),
        ("time", ["3:45", "4:00"], ("3:45", "4:00"), "4:00", "4:30"),
        ("time", "3:45 pm", ("15:45",), "3:45", "3:45 pm"),
    ],
)
def test_declared_golds_mean_what_they_say(
    tmp_path: Path, scorer, gold, read, right, wrong
) -> None:  # type: ignore[no-untyped-def]
    task, samples = declared(tmp_path, scorer, gold)
    assert samples[0].answers == read
    assert [task.scorers["strict"](samples[0], r).value for r in (right, wrong)] == [1.0, 0.0]
    assert task.scorers["lenient"](samples[0], right).value == 1.0
    assert contract.check(task, samples).problems == ()


def test_counts_and_times_keep_the_error_to_the_nearest_gold() -> None:
    count = number.lenient(Sample("q", "", ("3", "10")), "9")
    assert count.metrics == {"accuracy": 0.0, "squared_error": 1.0}
    face = clock.strict(Sample("q", "", ("3:45", "4:00")), "4:20")
    assert face.metrics == {"hour": 1.0, "minute": 0.0, "both": 0.0}


@pytest.mark.parametrize(
    ("scorer", "gold", "message"),
    [
        ("yes_no", "red", "answer 'red' is neither yes nor no (nor true or false)"),
        ("yes_no", ["yes", "red"], "answer 'red' is neither yes nor no"),
        ("number", "red", "answer 'red' is no number; expected one like 3, -4, 3.5, 1,000"),
        ("number", "3 or 4", "answer '3 or 4' is no number"),
        ("time", "red", "answer 'red' is no time; expected one like 15:45"),
        ("exact", "...", "answer '...' scores 0 under strict, expected 1"),
    ],
)
def test_golds_that_nothing_matches_are_refused(tmp_path: Path, scorer, gold, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError) as caught:
        declared(tmp_path, scorer, "no" if scorer == "yes_no" else "3:45", gold)
    assert f"row 1: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("gold", "choices", "expected"),
    [
        (1, ["4", "3", "2", "1"], "B"),
        (1.0, ["4", "3", "2", "1"], "B"),
        ([2], ["4", "3", "2", "1"], "C"),
        ("4", ["4", "3", "2", "1"], "A"),
        ("A", ["A", "B"], "A"),
        ("b", ["cat", "dog"], "B"),
        ("1", ["cat", "dog"], "B"),
        ("dog", ["cat", "dog"], "B"),
        ("1", ["4", "3", "2", "1"], "answer '1' is the text of option D and the index of option B"),
        ("A", ["B", "A"], "answer 'A' is the letter A and the text of option B; write the index"),
        ("x", ["x", "x"], "answer 'x' is the text of option A and the text of option B"),
        (["A", "B"], ["cat", "dog"], "names 2 options, expected one"),
        (2, ["cat", "dog"], "answer 2 is not one of 2 options"),
        ("2", ["cat", "dog"], "answer '2' is no letter, index or text of 2 options"),
    ],
)
def test_declared_choices(tmp_path: Path, gold, choices, expected) -> None:  # type: ignore[no-untyped-def]
    if len(expected) == 1:
        _, samples = declared(tmp_path, "choice", gold, choices=choices)
        assert samples[0].answers == (expected,)
        return
    with pytest.raises(UserError) as caught:
        declared(tmp_path, "choice", gold, choices=choices)
    assert "row 0: " in str(caught.value)
    assert expected in str(caught.value)
