"""Exports: our tasks in lm-eval's and lmms-eval's hands, results in other people's forms."""

from __future__ import annotations

import hashlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from harness.cli import app
from harness.export.adapters import Adapter, Place, marked
from harness.export.results import read_study, write_dataset, write_lm_eval
from harness.export.trackers import log_scores, means
from harness.scoring.study import read_scores
from harness.storage.store import Store
from tests.lm_eval_tasks import run_lm_eval
from tests.report_study import make_study
from tests.tiny_models import make_checkpoint, noise_image

DATA = Path(__file__).parent / "fixtures" / "data"
# One of each form: words, letters, several pictures inside the text, options, yes and no, groups.
NAMES = ["pathvqa", "chartqa", "mmmu", "scienceqa", "pope", "gqa", "textvqa"]


def run(*words: object) -> Any:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of built-in tasks and one that is declared, over local data."""
    folder = tmp_path_factory.mktemp("export")
    rows = [
        {"image": {"bytes": noise_image(i).read()}, "question": f"Which {i}?", "answer": "red"}
        for i in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "mine.parquet")
    found = {name: next(p for p in DATA.iterdir() if p.stem == name) for name in NAMES}
    written = {
        "study": "exported",
        "base": {"path": "base"},
        "suite": {
            "held_out": [*NAMES, "colours"],
            "limit": 3,
            "sources": {name: {"path": str(path)} for name, path in found.items()},
            "tasks": {"colours": {"path": "mine.parquet", "scorer": "exact"}},
        },
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(written))
    return file


# --- tasks -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_lm_eval_gives_an_exported_task_the_scores_of_our_sweep(manifest: Path) -> None:
    folder = manifest.parent
    make_checkpoint(folder / "base", "qwen2_5_vl", 1)
    assert run("score", manifest, "--results", folder / "results").exit_code == 0
    assert run("export", "lm-eval", folder / "out", "--manifest", manifest).exit_code == 0
    names = [*NAMES, "colours"]
    theirs = run_lm_eval(
        folder / "base", folder / "out", [f"forgeteval_{name}" for name in names],
        apply_chat_template=True, fewshot_as_multiturn=True,
    )  # fmt: skip
    store = Store(folder / "results" / "exported")
    cells = json.loads((store.folder / "study.json").read_text())["stages"][0]["cells"]
    scores = read_scores(store.folder)
    for name in names:
        rows = theirs[f"forgeteval_{name}"]
        ours = store.predictions(name, cells[name])
        assert [row["doc"]["id"] for row in rows] == list(ours)
        assert [row["resps"][0][0] for row in rows] == [p.text for p in ours.values()]
        for scorer, values in scores.benchmarks[name].values.items():
            if scorer in ("strict", "lenient"):
                assert [row.get(scorer, np.nan) for row in rows] == pytest.approx(
                    values[:, 0].tolist(), nan_ok=True
                )


def test_an_exported_folder_is_thin_and_the_same_each_time(manifest: Path, tmp_path: Path) -> None:
    done = run("export", "lm-eval", tmp_path / "a", "--manifest", manifest, "--json")
    assert done.exit_code == 0, done.output
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    names = [*NAMES, "colours"]
    assert files == sorted(["forgeteval_tasks.py", *(f"forgeteval_{n}.yaml" for n in names)])
    run("export", "lm-eval", tmp_path / "b", "--manifest", manifest)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    text = (tmp_path / "a" / "forgeteval_chartqa.yaml").read_text()
    assert "process_results: !function forgeteval_tasks.grade" in text
    assert "!function forgeteval_tasks.pictures" in text


def test_named_tasks_alone_are_exported(manifest: Path, tmp_path: Path) -> None:
    assert run("export", "lm-eval", tmp_path, "pope", "--manifest", manifest).exit_code == 0
    assert [p.name for p in tmp_path.glob("*.yaml")] == ["forgeteval_pope.yaml"]
    done = run("export", "lm-eval", tmp_path, "mme", "--manifest", manifest)
    assert "no task 'mme' to export; there are pathvqa, chartqa" in str(done.exception)


def test_an_adapter_accepts_the_gold_answer_and_no_empty_one(manifest: Path) -> None:
    place = Place("pathvqa", str(manifest.parent), (("path", str(DATA / "pathvqa.parquet")),))
    opened = Adapter(place)
    for row in opened.rows():
        assert row["text"].count("<image>") == len(opened.pictures(row["index"])) == 1
        assert opened.grade(row["index"], row["answer"])["strict"] == 1.0
        assert opened.grade(row["index"], "")["strict"] == 0.0


def test_words_that_look_like_a_mark_are_refused() -> None:
    with pytest.raises(Exception, match="has <image> among its words"):
        marked((0, "what does <image> mean?"), "t", "1")


def test_lmms_eval_tasks_hold_prompts_and_say_what_its_format_cannot(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run("export", "lmms-eval", tmp_path, "mmmu", "chartqa", "--manifest", manifest)
    assert done.exit_code == 0, done.output
    assert "mmmu: " in done.output and "prompts with pictures inside the text" in done.output
    rows = [
        json.loads(line)
        for line in (tmp_path / "data" / "forgeteval_chartqa.jsonl").read_text().splitlines()
    ]
    assert len(rows) == 3
    assert "<image>" not in rows[0]["text"]
    # lmms-eval calls the module's functions with a row of that file.
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("forgeteval_tasks", None)
    module = __import__("forgeteval_tasks")
    assert module.text(rows[0]) == rows[0]["text"]
    assert len(module.visuals(rows[0])) == 1
    assert module.grade(rows[0], [rows[0]["answer"]])["strict"] == 1.0
    sys.modules.pop("forgeteval_tasks", None)


# --- results -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("results"), runs=1, samples=8, strategies=2)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return total.hexdigest()


def test_results_as_lm_eval_writes_them(study: Path, tmp_path: Path) -> None:
    answered = read_study(study)
    files = write_lm_eval(answered, tmp_path / "a")
    write_lm_eval(read_study(study), tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    scores = answered.scores
    summaries = [file for file in files if file.name == "results_forgeteval.json"]
    assert len(summaries) == len(scores.stages)
    for stage, file in zip(scores.stages, summaries, strict=True):
        summary = json.loads(file.read_text())
        for name, bench in scores.benchmarks.items():
            if name not in summary["results"]:
                continue
            j = bench.columns.index(stage.key)
            lines = (file.parent / f"samples_{name}_forgeteval.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            for scorer, values in bench.values.items():
                logged = [row[scorer] for row in rows if scorer in row]
                assert logged == values[np.isfinite(values[:, j]), j].tolist()
                known = [row[scorer] for row in rows if scorer in row]
                if known and np.ptp(bench.weights) == 0:
                    assert summary["results"][name][f"{scorer},none"] == pytest.approx(
                        np.mean(known)
                    )


def test_a_dataset_folder_is_read_by_its_own_library(study: Path, tmp_path: Path) -> None:
    answered = read_study(study)
    write_dataset(answered, tmp_path / "a")
    write_dataset(answered, tmp_path / "b")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    header = (tmp_path / "a" / "README.md").read_text().split("---")[1]
    assert [c["config_name"] for c in yaml.safe_load(header)["configs"]] == [
        "answers", "scores", "deltas",
    ]  # fmt: skip
    table = pq.read_table(tmp_path / "a" / "data" / "answers.parquet")
    n = sum(int((b.status != 0).sum()) for b in answered.scores.benchmarks.values())
    assert table.num_rows == n
    failed = table.filter(pa.compute.equal(table["status"], "failed"))
    assert failed["strict"].null_count == failed.num_rows


@pytest.mark.slow
def test_a_dataset_folder_loads(study: Path, tmp_path: Path) -> None:
    import datasets

    write_dataset(read_study(study), tmp_path / "out")
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)
    assert loaded["test"].num_rows > 0
    assert datasets.load_dataset(str(tmp_path / "out"), "deltas", cache_dir=cache)["test"].num_rows


# --- trackers ----------------------------------------------------------------------------------


def test_a_missing_tracker_is_named_with_its_cure(study: Path) -> None:
    for words in (
        ["export", "log", str(study), "--to", "wandb"],
        ["compare", str(study), "--log-to", "trackio"],
    ):
        done = run(*words)
        assert "is not installed; pip install " in str(done.exception)
        assert done.exception.code == 2  # type: ignore[union-attr]


def test_every_stage_is_a_step_of_its_run(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with MLflow's functions, which is not installed here."""
    logged: list[tuple[str, object]] = []

    class Run:
        def __enter__(self) -> None: ...
        def __exit__(self, *_: object) -> None: ...

    def start_run(run_name: str) -> Run:
        logged.append(("run", run_name))
        return Run()

    module = types.ModuleType("mlflow")
    module.set_experiment = lambda name: logged.append(("experiment", name))  # type: ignore[attr-defined]
    module.start_run = start_run  # type: ignore[attr-defined]
    module.log_params = lambda facts: None  # type: ignore[attr-defined]
    module.log_metrics = lambda values, step: logged.append((str(step), values))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    scores = read_scores(study)
    assert log_scores(scores, "mlflow") == len(scores.runs())
    steps = [what for what, _ in logged if what.isdigit()]
    assert len(steps) == sum(map(len, scores.runs().values()))
    first = next(values for what, values in logged if what == "0")
    assert first == means(scores, scores.stages[0])
