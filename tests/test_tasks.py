"""Every task keeps its contract on the fixtures; prompts equal those of the reference programs."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import make_fixtures
import pytest
import yaml
from golden_tables import TASK_OF

from harness import contract, registry
from harness.data import sources
from harness.prompts import as_text, request_parts
from harness.requests import data_digest
from harness.types import Sample, Task

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "fixtures" / "data"
PROMPTS = Path(__file__).parent / "golden" / "prompts"
# What the programs send: `default` (lmms-eval 0.7.3), `as_released` (LMM_CL); `intended` is what
# LMM_CL's functions give when they get their settings as they were meant to.
PROFILE_OF_MODE = {"default": "fixed", "intended": "fixed", "as_released": "lmm_cl"}
NAMES = [maker.stem for maker in sorted(DATA.iterdir())]


def place(name: str) -> sources.SourceOverride:
    found = [path for path in (DATA / name, DATA / f"{name}.parquet") if path.exists()]
    return sources.SourceOverride(path=str(found[0]))


@pytest.mark.parametrize("name", NAMES)
def test_every_task_keeps_its_contract(name: str) -> None:
    task = registry.task(name)
    report = contract.check(task, sources.load(task, place(name)))
    assert report.problems == ()
    assert report.n_samples >= 2


def test_fixtures_cover_all_tasks_but_the_micro_study() -> None:
    others = {name for name in registry.names() if not name.startswith("micro_")}
    assert set(NAMES) == others
    assert len(others) == 24


def test_committed_fixtures_are_what_the_maker_writes(tmp_path: Path) -> None:
    make_fixtures.make(tmp_path)
    for name in NAMES:
        task = registry.task(name)
        made = sources.SourceOverride(path=str(tmp_path / Path(str(place(name).path)).name))
        fresh = data_digest(task, sources.load(task, made), "fixed")
        assert fresh == data_digest(task, sources.load(task, place(name)), "fixed"), name


def golden_prompts() -> list[tuple[str, dict]]:
    rows = []
    for file in sorted(PROMPTS.glob("*.jsonl")):
        if file.stem == "countbench_upstream":  # of no profile: lmms-eval's own wording
            continue
        name = TASK_OF.get(file.stem, file.stem)
        rows += [(name, json.loads(line)) for line in file.read_text().splitlines()]
    return rows


def test_prompts_equal_those_of_the_reference_programs() -> None:
    rows = [(name, row) for name, row in golden_prompts() if row["mode"] in PROFILE_OF_MODE]
    assert len(rows) == 117
    for name, row in rows:
        task = registry.task(name)
        sample = task.sample(row["doc"], 0)
        prompt = task.prompts[PROFILE_OF_MODE[row["mode"]]](sample)
        assert as_text(prompt, sample) == row["prompt"], row["id"]


def test_mmmu_pictures_stand_where_the_reference_puts_them() -> None:
    rows = [row for _, row in golden_prompts() if row["mode"] == "chat_messages"]
    assert len(rows) == 3
    task = registry.task("mmmu")
    for row in rows:
        parts = task.prompts["fixed"](task.sample(row["doc"], 0))
        pieces = [
            {"type": "image", "image": f"image_{part + 1}"}
            if isinstance(part, int)
            else {"type": "text", "text": part.strip()}
            for part in parts
            if not isinstance(part, str) or part.strip()
        ]
        assert pieces == row["messages"]


class Picture:
    """An image that nobody reads."""

    sha256 = "0" * 64


def sample(question: str, n_images: int = 1, choices: tuple[str, ...] = ()) -> Sample:
    return Sample("1", question, ("a",), tuple(Picture() for _ in range(n_images)), choices)


@pytest.mark.parametrize(
    ("question", "n_images", "slots"),
    [
        ("no mark", 2, [0, 1]),
        ("here <image> it is", 1, [0]),
        ("<image 2> before <image 1>", 2, [1, 0]),
        ("only <image 2>", 3, [0, 2, 1]),
        ("twice <image 1> <image 1>", 1, [0]),
        ("beyond <image 7>", 1, [0]),
    ],
)
def test_each_image_has_one_slot(question: str, n_images: int, slots: list[int]) -> None:
    asked = sample(question, n_images)
    prompt = registry.task("mmmu").prompts["fixed"](asked)
    parts = request_parts(prompt, n_images)
    assert [part for part in parts if isinstance(part, int)] == slots


def test_the_caption_of_countbench_is_not_shown() -> None:
    task = registry.task("countbench")
    for item in sources.load(task, place("countbench")):
        for write in task.prompts.values():
            assert item.doc["text"] not in as_text(write(item), item)


def faulty(task: Task, **changes: object) -> Task:
    return dataclasses.replace(task, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": {"fixed": lambda s: s.doc["text"]}}, "shows the caption"),
        ({"prompts": {"fixed": lambda s: ("no slot",)}}, "has 0 image slots for 1 images"),
        ({"prompts": {"fixed": lambda s: "<image> left"}}, "image mark left"),
        ({"scorers": {}}, None),
    ],
)
def test_check_names_what_a_task_does_wrong(changes: dict, message: str | None) -> None:
    task = faulty(registry.task("countbench"), **changes)
    samples = sources.load(task, place("countbench"))
    if message is None:
        with pytest.raises(KeyError):
            contract.check(task, samples)
        return
    problems = [str(problem) for problem in contract.check(task, samples).problems]
    assert any(message in problem for problem in problems)
    assert all("000000, 000001" in problem for problem in problems)


def test_check_sees_gold_answers_that_do_not_score() -> None:
    task = registry.task("countbench")
    yes_no = faulty(task, scorers=registry.task("pope").scorers)
    problems = contract.check(yes_no, sources.load(task, place("countbench"))).problems
    assert any("gold answer scores 0 under strict, expected 1" in str(p) for p in problems)


def test_facts_of_single_tasks() -> None:
    pixmo = registry.task("pixmo_count")
    original = {"label": "dogs", "count": 3, "image_url": "https://x", "image_sha256": "a" * 64}
    made = pixmo.sample(original, 0)
    assert (made.question, made.answers) == ("How many dogs are in this image?", ("3",))
    assert made.group == "a" * 64
    star = list(sources.load(registry.task("mmstar"), place("mmstar")))
    assert star[1].choices == ("Market, old", "Forest")
    assert star[0].group == star[1].group != star[2].group
    science = list(sources.load(registry.task("scienceqa"), place("scienceqa")))
    assert [round(item.chance, 3) for item in science] == [0.5, 0.333, 0.2]
    assert science[0].group == science[1].group
    bench = list(sources.load(registry.task("mmbench"), place("mmbench")))
    assert [item.doc["question_index"] for item in bench] == [12, 12, 13]
    assert [len(item.images) for item in sources.load(registry.task("mmmu"), place("mmmu"))] == [
        1,
        3,
        1,
    ]
    seed = sources.load(registry.task("seedbench"), place("seedbench"))
    assert (len(seed), seed.left_out) == (2, 1)


def test_golden_answers_of_every_fixture_are_of_the_stated_type() -> None:
    kinds = {
        name: {item.answer_type for item in sources.load(registry.task(name), place(name))}
        for name in ("ai2d", "pathvqa", "timeclock", "pixmo_count", "chartqa")
    }
    assert kinds == {
        "ai2d": {"letter"},
        "pathvqa": {"yes_no", "phrase", "integer"},
        "timeclock": {"time"},
        "pixmo_count": {"integer"},
        "chartqa": {"integer", "decimal", "yes_no", "phrase"},
    }


def test_the_page_of_tasks_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_tasks", ROOT / "docs" / "make_tasks.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    written = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert page.document() == written, "run .venv/bin/python docs/make_tasks.py"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The code blocks of docs/add-a-benchmark.md by language, in a folder with its data."""
    monkeypatch.setattr(registry, "_registered", {})
    text = (ROOT / "docs" / "add-a-benchmark.md").read_text(encoding="utf-8")
    rows = [
        {"id": "7", "image": make_fixtures.cell(1), "question": "Which leaf?", "answer": "oak"},
        {"id": "8", "image": make_fixtures.cell(1), "question": "Which tree?", "answer": "elm"},
    ]
    whole = [{**row, "photo": "p1"} for row in rows]
    make_fixtures.write(tmp_path / "data" / "leaves.parquet", whole)
    return dict(re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL))


def test_the_example_of_a_task_in_a_file_works(example: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(example["python"])
    (task,) = registry.register_file(tmp_path / "leaves.py")
    data = sources.SourceOverride(path="data/leaves.parquet")
    report = contract.check(task, sources.load(task, data, base_dir=tmp_path))
    assert (report.problems, report.n_samples, report.n_groups) == ((), 2, 1)


def test_the_example_of_a_task_in_a_manifest_works(example: dict[str, str], tmp_path: Path) -> None:
    declared = yaml.safe_load(example["yaml"])["suite"]["tasks"]
    assert list(declared) == ["leaves"]
    task = registry.inline_task("leaves", registry.InlineTask(**declared["leaves"]))
    report = contract.check(task, sources.load(task, base_dir=tmp_path))
    assert (report.problems, report.n_samples, report.n_groups) == ((), 2, 1)
