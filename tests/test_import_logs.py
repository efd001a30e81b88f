"""Logs of lm-eval and lmms-eval: what is read from them, what is refused, and that it is by name."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from log_folders import lm_rows, lmms_rows, write_lm, write_lmms
from typer.testing import CliRunner

from harness.analysis import JudgeOptions, judge
from harness.analysis.drift import explain
from harness.analysis.scores import FAILED, MISSING, StageKey, StudyScores
from harness.cli import app
from harness.errors import UserError
from harness.interop.logs.rows import LogRow
from harness.interop.logs.study import ImportedLogs, import_logs, look
from harness.scoring.study import read_scores

BASE = [1, 1, 0, 1, 1, 0, 1, 1]
TUNED = [1, 0, 0, 1, 0, 0, 1, 1]
NAMES = {"base": BASE, "llm/1_count": TUNED}


def write_study(folder: Path, **tasks: Any) -> Path:
    """A base and one stage with the tasks `count` and `color`; `tasks` replaces rows by stage."""
    for name, scores in NAMES.items():
        write_lm(folder / name, {"count": lm_rows(scores), "color": lm_rows(scores)} | tasks)
    return folder


def bring(folder: Path, map_: dict[str, Any] | None = None) -> ImportedLogs:
    """Import a folder as the study `mine` beside it."""
    file = None
    if map_ is not None:
        file = folder.parent / "map.yaml"
        file.write_text(yaml.safe_dump(map_))
    return import_logs(look(folder, file), "mine", folder.parent / "results", replace=True)


def scores_of(folder: Path, **options: Any) -> StudyScores:
    return read_scores(folder.parent / "results" / "mine", **options)


def refusal(folder: Path, map_: dict[str, Any] | None = None) -> str:
    """The error text of importing `folder`; nothing may be left behind."""
    with pytest.raises(UserError) as error:
        bring(folder, map_)
    assert not (folder.parent / "results" / "mine").exists()
    return str(error.value)


def edit(file: Path, change: Any) -> None:
    """The rows of a sample file after `change(rows)`."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = change(rows) or rows
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sample_file(folder: Path, stage: str, task: str) -> Path:
    return next((folder / stage).glob(f"*samples_{task}*"))


# --- logs that the real programs wrote (see tests/make_log_fixtures.py) ----------------------------

FIXTURES = Path(__file__).parent / "fixtures" / "logs"
MICRO = ("micro_species", "micro_count", "micro_choice", "micro_color")
# folder -> (folders of the base and the stages, tasks with the metric and filter of their scores)
REAL: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, str | None]]]] = {
    "lm_eval": (
        ("checkpoints__base", "checkpoints__llm__seed0__1_species", "checkpoints__llm__seed0__2_count"),
        dict.fromkeys(MICRO, ("exact_match", "none")),
    ),
    "lmms_eval": (
        ("checkpoints__base", "seed0__1_species", "seed0__2_count"),
        dict.fromkeys(MICRO, ("exact_match", None)),
    ),
    "lm_eval_text": (
        ("text__0", "text__1", "text__2"),
        {"words_choice": ("acc", "none"), "words_number": ("exact_match", "strict-match")},
    ),
}  # fmt: skip


def raw_scores(name: str, task: str) -> list[dict[int, float]]:
    """[base, stage 1, stage 2] -> document -> score, read from the files with json alone."""
    folders, tasks = REAL[name]
    metric, wanted = tasks[task]
    found = []
    for folder in folders:
        (file,) = (FIXTURES / name / folder).glob(f"*samples_{task}*")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        found.append({r["doc_id"]: float(r[metric]) for r in rows if r.get("filter") == wanted})
    return found


@pytest.mark.parametrize("name", REAL)
def test_deltas_are_those_of_the_raw_files(tmp_path: Path, name: str) -> None:
    file = None
    if name == "lm_eval_text":
        file = tmp_path / "map.yaml"
        steps = [{"path": "text__1"}, {"path": "text__2"}]
        file.write_text(yaml.safe_dump({"base": "text__0", "strategies": {"s": steps}}))
    done = import_logs(look(FIXTURES / name, file), "mine", tmp_path / "results")
    assert {task.evaluator for task in done.tasks} == {
        "lmms-eval ?" if name == "lmms_eval" else "lm-eval 0.4.13"
    }
    scores = read_scores(tmp_path / "results" / "mine")
    deltas = judge(scores, JudgeOptions()).deltas
    for task in REAL[name][1]:
        base, *stages = raw_scores(name, task)
        for number, stage in enumerate(stages, start=1):
            row = deltas[
                (deltas.benchmark == task)
                & (deltas.contrast == "base_to_stage")
                & (deltas.to_stage == number)
            ]
            assert len(row) == 1
            expected = 100 * (np.mean(list(stage.values())) - np.mean(list(base.values())))
            assert row.iloc[0].delta_pp == pytest.approx(expected, abs=1e-9), (task, number)
            assert row.iloc[0].n_samples == len(base)


def test_real_logs_say_their_stages_by_name() -> None:
    plan = look(FIXTURES / "lm_eval")
    assert [(s.strategy, s.stage, s.trained_on) for s in plan.stages] == [
        ("base", 0, None),
        ("llm", 1, "micro_species"),
        ("llm", 2, "micro_count"),
    ]
    assert [task for task, role in plan.roles.items() if role == "target"] == list(MICRO[:2])


def test_our_scorers_agree_with_the_real_logs(tmp_path: Path) -> None:
    """lm-eval's exact match and our strict score of the same responses."""
    done = import_logs(look(FIXTURES / "lm_eval"), "mine", tmp_path)
    for task in done.tasks:
        assert task.graded_by == task.task
        assert task.differ["strict"] == 0
        assert task.again["lenient"] >= task.again["strict"] == pytest.approx(task.logged)
        assert (task.grouped_by, task.n_documents) == ("picture", 12)


def test_lmms_eval_logs_no_documents(tmp_path: Path) -> None:
    done = import_logs(look(FIXTURES / "lmms_eval"), "mine", tmp_path)
    assert {task.why_not for task in done.tasks} == {"the log does not hold the documents"}
    assert {task.grouped_by for task in done.tasks} == {"picture"}


def test_why_documents_are_not_told_apart_by_their_hash() -> None:
    (file,) = (FIXTURES / "lmms_eval/checkpoints__base").glob("*samples_micro_choice*")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({row["doc_hash"] for row in rows}) == 1 < len(rows)


def test_both_programs_on_one_study_agree(tmp_path: Path) -> None:
    for name in ("lm_eval", "lmms_eval"):
        import_logs(look(FIXTURES / name), name, tmp_path)
    one, other = (read_scores(tmp_path / name) for name in ("lm_eval", "lmms_eval"))
    for task in MICRO:
        equal = one.benchmarks[task].values["logged"] == other.benchmarks[task].values["logged"]
        assert equal.mean() > 0.9, task


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(("write", "rows"), [(write_lm, lm_rows), (write_lmms, lmms_rows)])
def test_scores_by_document(tmp_path: Path, write: Any, rows: Any) -> None:
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        write(logs / name, {"count": rows(scores), "color": rows(scores[::-1])})
    done = bring(logs)
    assert (done.n_rows, done.n_failed) == (32, 0)
    scores = scores_of(logs)
    assert [(s.key, s.name, s.trained_on) for s in scores.stages] == [
        (StageKey("base", "0", 0), "base", None),
        (StageKey("llm", "0", 1), "count", "count"),
    ]
    assert {name: bench.role for name, bench in scores.benchmarks.items()} == {
        "count": "target",
        "color": "held_out",
    }
    np.testing.assert_array_equal(
        scores.benchmarks["count"].values["logged"], np.array([BASE, TUNED]).T
    )
    assert scores.scorer == "logged"
    texts = scores.texts
    assert texts is not None
    assert texts.question("count", "3") == "how many in picture 3?"
    assert texts.gold("count", "3") == "3"
    key = scores.stages[1].key
    assert [texts.response(key, "count", i) for i in ("0", "1")] == ["0", "red"]


def test_rows_may_stand_in_any_order(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    bring(logs)
    first = (tmp_path / "results/mine/imported.parquet").read_bytes()
    edit(sample_file(logs, "llm/1_count", "count"), lambda rows: rows[::-1])
    edit(sample_file(logs, "base", "color"), lambda rows: rows[3:] + rows[:3])
    bring(logs)
    assert (tmp_path / "results/mine/imported.parquet").read_bytes() == first


def test_a_judgement_goes_by_the_logged_scores(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    bring(logs)
    found = judge(scores_of(logs), JudgeOptions())
    assert found.scorer == "logged"
    row = found.deltas[(found.deltas.benchmark == "color") & (found.deltas.strategy == "llm")].iloc[
        0
    ]
    assert math.isclose(row.delta_pp, 100 * (np.mean(TUNED) - np.mean(BASE)))


def test_drift_reads_the_answers_types(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    bring(logs)
    scores = scores_of(logs, traits=True)
    rates = scores.benchmarks["color"].rates
    assert np.nanmean(rates["integer>phrase"][:, 1]) == np.mean(np.array(TUNED) == 0)
    assert "phrase where it does not fit" in " ".join(explain(scores).sentences()) or (
        explain(scores).table.measure.str.contains("misfit").any()
    )


def test_the_reference_studys_layout(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for chain, scores in {"cub200": BASE, "cub200_then_pixmocount": TUNED}.items():
        run = f"llava_sa_qwen-trained_on_{chain}__checkpoint-360"
        place = logs / "tune_sa" / f"after_training_on_{chain}" / run
        rows = [
            {**row, "resps": [row["resps"][0]], "input": row["doc"]["question"]}
            for row in lm_rows(scores, "acc")
        ]
        for row in rows:
            del row["filter"], row["metrics"]
            row["arguments"] = {"0": "max_new_tokens"}
        write_lmms(place, {"cub200": rows, "pixmocount": rows, "mmstar": rows})
    write_lmms(
        logs / "base" / "llava",
        {task: lm_rows(BASE, "acc") for task in ("cub200", "pixmocount", "mmstar")},
    )
    plan = look(logs)
    assert [(s.strategy, s.stage, s.trained_on) for s in plan.stages] == [
        ("base", 0, None),
        ("tune_sa", 1, "cub200"),
        ("tune_sa", 2, "pixmocount"),
    ]
    assert plan.roles == {"cub200": "target", "pixmocount": "target", "mmstar": "held_out"}
    bring(logs)
    assert list(scores_of(logs).benchmarks) == ["cub200", "pixmocount", "mmstar"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["out__base", "out__sa__1_count", "out__sa__2_path"], ["sa/0@1", "sa/0@2"]),
        (["llm__base", "llm__1_count"], ["llm/0@1"]),
        (["base", "llm_seed3_2_count", "llm/seed3/1_path"], ["llm/3@1", "llm/3@2"]),
        (["base", "full_stage1", "full_stage2_count"], ["full/0@1", "full/0@2"]),
        (
            ["Qwen__Qwen2.5-VL-7B-Instruct", "a-trained_on_x", "a-trained_on_x_then_y"],
            ["a/0@1", "a/0@2"],
        ),
        (["base", "a-trained_on_x/checkpoint-9", "a-trained_on_x/checkpoint-80"], ["a/0@1"]),
    ],
)
def test_names(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    for name in names:
        write_lm(tmp_path / "logs" / name, {"count": lm_rows(BASE)})
    stages = look(tmp_path / "logs").stages
    assert [f"{s.strategy}/{s.run}@{s.stage}" for s in stages[1:]] == expected
    assert stages[0].strategy == "base"


def test_a_map_says_everything(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name, scores in {"zero": BASE, "x": TUNED, "y": BASE, "z": TUNED}.items():
        rows = lm_rows(scores, filters=("strict-match", "flexible-extract"))
        for row in rows:
            row["points"] = row["exact_match"] * 4 if row["filter"] == "flexible-extract" else 0
        write_lm(logs / name, {"count": rows, "color": rows, "shape": rows, "extra": rows})
    done = bring(
        logs,
        {
            "base": "zero",
            "strategies": {
                "sa": [{"path": "x", "name": "one", "trained_on": "count"}],
                "full": {
                    "runs": [
                        {"seed": 7, "stages": [{"path": "y"}]},
                        {"name": "again", "stages": [{"path": "z"}]},
                    ]
                },
            },
            "targets": ["count"],
            "held_out": ["color"],
            "probes": ["shape"],
            "metrics": {"color": "points"},
            "filters": {"color": "flexible-extract"},
            "scales": {"color": 4},
            "base_model": "a model",
        },
    )
    scores = scores_of(logs)
    assert [str(s.key.strategy) + "/" + s.key.run for s in scores.stages] == [
        "base/0", "full/again", "full/7", "sa/0",
    ]  # fmt: skip
    assert {name: bench.role for name, bench in scores.benchmarks.items()} == {
        "count": "target", "color": "held_out", "shape": "probe",
    }  # fmt: skip
    assert scores.base_model == "a model"
    np.testing.assert_array_equal(scores.benchmarks["color"].values["logged"][:, 3], TUNED)
    color = next(task for task in done.tasks if task.task == "color")
    assert (color.metric, color.filter, color.full_mark) == ("points", "flexible-extract", 4)
    assert done.plan.left_out == ("extra",)


def test_strict_match_is_the_filter_unless_another_is_named(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name in NAMES:
        rows = lm_rows(BASE, filters=("flexible-extract", "strict-match"))
        for row in rows:
            row["exact_match"] = float(row["filter"] == "strict-match")
        write_lm(logs / name, {"gsm8k": rows})
    (task,) = bring(logs).tasks
    assert (task.filter, task.other_filters, task.logged) == (
        "strict-match",
        ("flexible-extract",),
        1,
    )


def test_rows_without_the_filters_name(tmp_path: Path) -> None:
    """lm-eval 0.4.5 and 0.4.6 write one block of rows per filter and name none."""
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        strict, flexible = lm_rows(scores), lm_rows([1] * 8)
        rows = [
            {k: v for k, v in row.items() if k not in ("filter", "metrics")}
            for row in (*strict, *flexible)
        ]
        figures = {"exact_match,strict-match": np.mean(scores), "exact_match,flexible-extract": 1.0}
        write_lm(logs / name, {"gsm8k": rows}, results={"gsm8k": figures}, lm_eval_version=None)
    (task,) = bring(logs).tasks
    assert (task.filter, task.other_filters, task.evaluator) == (
        "strict-match",
        ("flexible-extract",),
        "lm-eval ?",
    )
    np.testing.assert_array_equal(
        scores_of(logs).benchmarks["gsm8k"].values["logged"], np.array([BASE, TUNED]).T
    )
    edit(sample_file(logs, "base", "gsm8k"), lambda rows: rows[8:] + rows[:8])
    with pytest.raises(
        UserError, match="those taken for 'strict-match' do not give the results file's figure"
    ):
        bring(logs)


def test_values_as_objects_and_as_texts(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        rows = lm_rows(scores, "ocrbench_accuracy")
        for row in rows:
            row["ocrbench_accuracy"] = {"question_type": "x", "score": row["ocrbench_accuracy"]}
        texts = lm_rows(scores, "acc")
        for row in texts:
            row["acc"] = str(bool(row["acc"]))
        write_lm(logs / name, {"ocrbench": rows, "texts": texts})
    bring(logs)
    scores = scores_of(logs)
    for bench in scores.benchmarks.values():
        np.testing.assert_array_equal(bench.values["logged"][:, 0], BASE)


def test_unknown_metrics_are_settled_by_the_map(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        write_lm(logs / name, {"vet": lm_rows([50.0 * x for x in scores], "points", other=[1])})
        edit(
            sample_file(logs, name, "vet"),
            lambda rows: [row.update(more=1.0) for row in rows] and rows,
        )
        results = {"points,none": 1, "more,none": 1, "other,none": 1}
        record = json.loads(next((logs / name).glob("results*")).read_text())
        next((logs / name).glob("results*")).write_text(
            json.dumps(record | {"results": {"vet": results}})
        )
    map_ = {"base": "base", "strategies": {"llm": [{"path": "llm/1_count"}]}}
    assert "which of points, more is its score, and what is the full mark?" in refusal(logs, map_)
    (task,) = bring(logs, {**map_, "scales": {"points": 50}}).tasks
    assert (task.metric, task.full_mark) == ("points", 50)
    np.testing.assert_array_equal(scores_of(logs).benchmarks["vet"].values["logged"][:, 1], TUNED)
    (task,) = bring(logs, {**map_, "metrics": {"vet": "points"}, "scales": {"vet": 2000}}).tasks
    assert task.logged == pytest.approx(np.mean([BASE, TUNED]) * 50 / 2000)


@pytest.mark.parametrize(
    ("row", "response"),
    [
        ({"resps": [["a"]], "filtered_resps": ["b"]}, "a"),  # lm-eval; lmms-eval 0.3
        ({"resps": [["a", "other"]], "filtered_resps": ["b"]}, "a"),  # repeats
        ({"filtered_resps": ["b"]}, "b"),  # lmms-eval 0.5, 0.6
        ({"filtered_resps": "b"}, "b"),  # lmms-eval 0.7
        ({"resps": ["<think>x</think> b"], "filtered_resps": "b"}, "<think>x</think> b"),
        ({"filtered_resps": ""}, ""),
        ({"resps": [[""]], "filtered_resps": ["[invalid]"]}, ""),
        ({"filtered_resps": []}, ""),
        ({"filtered_resps": [["-2.0", "False"], ["-3.0", "False"]]}, ""),  # options not logged
    ],
)
def test_responses_in_every_shape(row: dict[str, Any], response: str) -> None:
    assert LogRow(1, "0", "none", row).response() == response


def test_halves_of_a_data_set(tmp_path: Path) -> None:
    """MME scores perception and cognition under two names; a document has one of them."""
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        rows = lmms_rows(scores, "mme_perception_score")
        for row in rows:
            value = row.pop("mme_perception_score")
            half = "mme_cognition_score" if row["doc_id"] % 2 else "mme_perception_score"
            row[half] = {"question_id": "x", "category": "c", "score": float(value)}
        write_lmms(
            logs / name,
            {"mme": rows},
            results={
                "mme": {"mme_perception_score,none": 1200.0, "mme_cognition_score,none": 300.0}
            },
        )
    (task,) = bring(logs).tasks
    assert task.metric == "mme_perception_score+mme_cognition_score"
    np.testing.assert_array_equal(scores_of(logs).benchmarks["mme"].values["logged"][:, 1], TUNED)


def test_a_choice_by_likelihood_shows_the_option(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        rows = lm_rows(scores, "acc", acc_norm=0.0, target="1")
        for row in rows:
            pairs = [["-9.0", "False"], ["-1.5", "True"]]
            row["resps"], row["filtered_resps"] = [[p] for p in pairs], pairs
            row["arguments"] = {
                f"gen_args_{k}": {"arg_0": "q", "arg_1": f" option {k}"} for k in (0, 1)
            }
        write_lm(logs / name, {"arc_easy": rows})
    (task,) = bring(logs).tasks
    assert (task.metric, task.other_metrics) == ("acc", ("acc_norm",))
    scores = scores_of(logs)
    assert scores.texts is not None
    assert scores.texts.response(scores.stages[0].key, "arc_easy", "0") == "option 1"
    assert scores.texts.gold("arc_easy", "0") == "option 1"


def test_responses_are_graded_again(tmp_path: Path) -> None:
    """Where a task of ours knows the benchmark; groups are then its own unit."""
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        rows = lm_rows(scores, "anls")
        for row in rows:
            row["doc"] |= {
                "questionId": row["doc_id"],
                "answers": [row["target"]],
                "docId": 1 + row["doc_id"] // 4,
            }
            row["resps"] = [[f"The answer is {row['target']}"]]
        write_lm(logs / name, {"docvqa_val": rows, "other": rows})
    docvqa, other = bring(logs).tasks
    assert (docvqa.graded_by, docvqa.n_groups, docvqa.grouped_by) == ("docvqa", 2, "document page")
    assert docvqa.again["lenient"] == 1 > docvqa.again["strict"]
    assert docvqa.differ["lenient"] == pytest.approx(1 - docvqa.logged)
    assert (other.graded_by, other.why_not, other.n_groups) == ("", "no task of ours", 8)
    bench = scores_of(logs).benchmarks["docvqa_val"]
    assert set(bench.values) == {"logged", "strict", "lenient"}
    assert len(set(bench.groups)) == 2


def test_pictures_are_told_apart_by_their_bytes(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        rows = lm_rows(scores)
        for row in rows:
            row["doc"]["image"] = {
                "bytes": "b'\\x89PNG" + "x" * 80 + str(row["doc_id"] // 2),
                "path": None,
            }
        write_lm(logs / name, {"count": rows})
    (task,) = bring(logs).tasks
    assert (task.n_groups, task.grouped_by) == (4, "picture")
    edit(
        sample_file(logs, "llm/1_count", "count"),
        lambda rows: rows[5]["doc"].update(image={"bytes": "b'\\x89PNG" + "y" * 80}),
    )
    with pytest.raises(
        UserError, match=r"task count, llm@1: other pictures than the base: document 5"
    ):
        bring(logs)


GOLDEN = Path(__file__).parent / "golden"
# What lmms-eval writes in a metric's place is an object with `score` in some tasks.
AS_OBJECTS = ("mme", "pope", "ocrbench", "seedbench", "mmstar")


def golden_rows(file: Path) -> list[dict[str, Any]]:
    """A golden table (what lmms-eval gave for an answer) as rows of an lmms-eval 0.3 log."""
    rows = []
    for i, line in enumerate(file.read_text(encoding="utf-8").splitlines()):
        item = json.loads(line)
        value = item["score"]
        if value is None or item["metric"] == "gpt_eval_score":
            continue
        if file.stem in AS_OBJECTS:
            value = {"question_id": i, "score": value}
        if item["metric"] == "mmmu_acc":
            value = {
                "id": i,
                "question_type": item["sample"]["question_type"],
                "answer": item["sample"]["answer"],
                "parsed_pred": [item["parsed"]],
            }
        rows.append(
            {
                "doc_id": i,
                "doc": item["sample"],
                "target": str(item["sample"].get("answer")),
                "resps": [[item["response"]]],
                "filtered_resps": [item["response"]],
                "input": item["sample"].get("question", ""),
                item["metric"]: value,
            }
        )
    return rows


def test_every_benchmark_of_lmms_eval_is_graded_again(tmp_path: Path) -> None:
    files = [f for f in GOLDEN.glob("[a-z]*.jsonl") if not f.stem.endswith("_lmmcl")]
    tasks = {file.stem: rows for file in files if (rows := golden_rows(file))}
    assert len(tasks) > 20
    for name in NAMES:
        write_lmms(tmp_path / "logs" / name, tasks, lmms_eval_version=None)
    done = {task.task: task for task in bring(tmp_path / "logs").tasks}
    assert {name: task.why_not for name, task in done.items() if task.why_not} == {}
    for file in files:
        if file.stem not in done:
            continue
        items = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        wanted = set(done[file.stem].metric.split("+"))
        given = [
            item["score"]
            for item in items
            if item["score"] is not None and item["metric"] in wanted
        ]
        assert done[file.stem].logged == pytest.approx(np.mean(given), abs=1e-9), file.stem


def test_documents_are_made_from_targets_where_that_is_proven(tmp_path: Path) -> None:
    """lmms-eval from 0.5 on logs no documents; its own scorer must give every logged score."""
    logs = tmp_path / "logs"
    tasks = {}
    for file in (GOLDEN / "docvqa_val.jsonl", GOLDEN / "ocrbench.jsonl", GOLDEN / "chartqa.jsonl"):
        rows = golden_rows(file)
        for row in rows:
            row["target"] = str(row["doc"].get("answers") or row["doc"]["answer"])
            del row["doc"]
        tasks[file.stem] = rows
    for name in NAMES:
        write_lmms(logs / name, tasks)
    docvqa, ocrbench, chartqa = (
        next(t for t in bring(logs).tasks if t.task == name)
        for name in ("docvqa_val", "ocrbench", "chartqa")
    )
    assert (docvqa.graded_by, chartqa.graded_by) == (
        "docvqa, from targets",
        "chartqa, from targets",
    )
    assert docvqa.grouped_by == "document"
    assert ocrbench.why_not == "the log does not hold the documents"
    with_documents = tmp_path / "other" / "logs"
    for name in NAMES:
        write_lmms(with_documents / name, {"docvqa_val": golden_rows(GOLDEN / "docvqa_val.jsonl")})
    (expected,) = bring(with_documents).tasks
    assert docvqa.again == expected.again
    # One score that the program would not have given, and nothing is graded.
    edit(sample_file(logs, "base", "chartqa"), lambda rows: rows[0].update(relaxed_overall=0.5))
    found = {task.task: task.graded_by for task in bring(logs).tasks}
    assert found == {"docvqa_val": "docvqa, from targets", "ocrbench": "", "chartqa": ""}


# --- several runs --------------------------------------------------------------------------------


def test_the_newest_complete_run_wins(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    later, latest = "2025-04-01T09-00-00.5", "2025-05-01T09-00-00.5"
    write_lm(logs / "base", {"count": lm_rows([0] * 8)}, later)
    write_lm(logs / "base", {"count": lm_rows([1] * 8)}, latest)
    (logs / "base" / f"results_{latest}.json").unlink()
    done = bring(logs)
    assert scores_of(logs).benchmarks["count"].values["logged"][:, 0].tolist() == [0] * 8
    notes = "\n".join(done.notes)
    assert f"base: run {latest} passed over: no results file of that date" in notes
    assert f"base: run {later} taken, an older run not (count)" in notes
    assert scores_of(logs).notes[1:] == done.notes
    facts = json.loads((tmp_path / "results/mine/study.json").read_text())
    assert facts["dates"]["base"]["count"] == later
    assert facts["logs"] == {"base": "base", "llm@1": "llm/1_count"}


def test_a_run_that_was_cut_short_is_no_run(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    file = sample_file(logs, "llm/1_count", "color")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))
    assert "(llm@1) holds 5 of 8 documents that its results file counts" in refusal(logs)
    write_lm(logs / "llm/1_count", {"color": lm_rows(BASE)}, "2024-01-01T00-00-00")
    bring(logs)
    assert scores_of(logs).benchmarks["color"].values["logged"][:, 1].tolist() == BASE


def test_a_task_that_a_stage_lacks_is_missing(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    sample_file(logs, "llm/1_count", "color").unlink()
    done = bring(logs)
    assert (scores_of(logs).benchmarks["color"].status[:, 1] == MISSING).all()
    notes = "\n".join(done.notes)
    assert "color: no log of llm@1: missing, not zero" in notes
    assert "llm@1: results without samples, left out: color" in notes


def test_a_stage_without_any_task(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    write_lm(logs / "llm/2_shape", {"shape": lm_rows(BASE)})
    map_ = {
        "base": "base",
        "strategies": {"llm": [{"path": "llm/1_count"}, {"path": "llm/2_shape"}]},
        "held_out": ["color"],
    }
    assert "llm@2 (llm/2_shape): has none of the tasks that are imported" in refusal(logs, map_)


def test_one_stage_in_several_folders(tmp_path: Path) -> None:
    """Pictures by one program, texts by another."""
    logs = tmp_path / "logs"
    for name, scores in NAMES.items():
        write_lm(logs / name / "text" / "m", {"gsm8k": lm_rows(scores)})
        write_lmms(logs / name / "pictures" / "last__m", {"count": lmms_rows(scores)})
    done = bring(logs)
    assert {t.task: t.evaluator for t in done.tasks} == {
        "count": "lmms-eval 0.7.3",
        "gsm8k": "lm-eval 0.4.13",
    }
    assert yaml.safe_load(yaml.safe_dump(done.plan.as_map()))["base"] == "base"


def test_no_score_is_a_failed_answer(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    file = sample_file(logs, "llm/1_count", "color")
    edit(
        file,
        lambda rows: (
            [rows[2].update(exact_match=math.nan), rows[4].update(exact_match=None)] and rows
        ),
    )
    done = bring(logs)
    assert done.n_failed == 2
    assert (scores_of(logs).benchmarks["color"].status[:, 1] == FAILED).sum() == 2
    assert "llm@1, color: no score for documents 2, 4: failed answers, in no mean" in done.notes


# --- refusals ------------------------------------------------------------------------------------


def change_last(stage: str, task: str, **values: Any) -> Any:
    return lambda logs: edit(sample_file(logs, stage, task), lambda rows: rows[7].update(values))


def cut(logs: Path) -> None:
    file = sample_file(logs, "base", "count")
    file.write_bytes(file.read_bytes()[:-40])


def repeat(logs: Path) -> None:
    edit(sample_file(logs, "base", "color"), lambda rows: [*rows, rows[0], rows[3]])


def write_text(stage: str, task: str, text: str) -> Any:
    return lambda logs: sample_file(logs, stage, task).write_text(text)


def version(logs: Path) -> None:
    write_lm(
        logs / "llm/1_count",
        {"count": lm_rows(TUNED), "color": lm_rows(TUNED)},
        lm_eval_version="0.4.5",
    )


def few_shot(logs: Path) -> None:
    write_lm(logs / "llm/1_count", {"count": lm_rows(TUNED)}, **{"n-shot": {"count": 5}})


def deep(logs: Path) -> None:
    sample_file(logs, "base", "count").write_text("[" * 100_000 + "]" * 100_000 + "\n")


def no_base(logs: Path) -> None:
    (logs / "base").rename(logs / "llm" / "2_color")


def no_task_of_base(logs: Path) -> None:
    sample_file(logs, "base", "count").unlink()


def other_metric(logs: Path) -> None:
    for stage in ("base", "llm/1_count"):
        rows = lm_rows(BASE, "judge_points")
        write_lm(logs / stage, {"count": rows, "color": lm_rows(BASE)})


def per_cent(logs: Path) -> None:
    write_lm(logs / "base", {"count": lm_rows([100.0 * x for x in BASE]), "color": lm_rows(BASE)})


def lower(logs: Path) -> None:
    for stage in ("base", "llm/1_count"):
        rows = lm_rows(BASE, "word_perplexity")
        write_lm(
            logs / stage, {"count": rows}, higher_is_better={"count": {"word_perplexity": False}}
        )


def pipe(logs: Path) -> None:
    os.mkfifo(logs / "base" / "samples_other_2025-03-01T10-00-00.000001.jsonl")


def link(logs: Path) -> None:
    outside = logs.parent / "secret.jsonl"
    outside.write_text("{}")
    (logs / "base" / "samples_other_2025-03-01T10-00-00.000001.jsonl").symlink_to(outside)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut, r"samples_count_\S+: \(base\) line 8: cut off in the middle"),
        (repeat, r"\(base\) documents 0, 3 stand in it twice"),
        (change_last("llm/1_count", "color", target="99"), r"task color, llm@1: other targets \(gold answers\) than the base: document 7"),
        (change_last("llm/1_count", "color", prompt_hash="a" * 64), r"task color, llm@1: other prompts than the base: document 7"),
        (change_last("llm/1_count", "color", doc_id=12), r"lacks documents of the base: document 7\. Cure: .*--limit"),
        (change_last("base", "count", doc_id=None), r"line 8: no key `doc_id`"),
        (change_last("base", "count", exact_match=1e400), r"task count, base: scores outside of 0 and the full mark: document 7"),
        (change_last("base", "count", exact_match=-0.5), r"scores outside of 0 and the full mark: document 7"),
        (write_text("base", "count", ""), r"\(base\) its sample file is empty"),
        (write_text("base", "count", '[1, 2]\n{"doc_id": 1}\n'), r"line 1: got list, expected an object"),
        (write_text("base", "count", '{"doc_id": ' + "9" * 6000 + "}\n"), r"line 1: no JSON that can be read"),
        (deep, r"line 1: no JSON that can be read: a number or nesting too large"),
        (version, r"llm@1: evaluator: lm-eval 0\.4\.5 here, lm-eval 0\.4\.13 at the base \(count, color\)\. Cure: .*accept: \[version\]"),
        (few_shot, r"llm@1: num_fewshot: 5 here, 0 at the base \(count\)"),
        (no_base, r"base: no folder is called so; which one holds the logs of the model before tuning\?"),
        (no_task_of_base, r"task count: the base has no log of it \(base\)"),
        (other_metric, r"task count: the full mark of its metric 'judge_points' is not known.*scales: \{count: 1\}"),
        (per_cent, r"task count, base: scores outside of 0 and the full mark: documents 0, 1, 3, 4, 6 and 1 more\. Cure: scales: \{count"),
        (lower, r"task count: no score per document in its rows"),
        (pipe, r"base/samples_other_\S+: is no plain file"),
        (link, r"base/samples_other_\S+: is a link out of the folder"),
    ],
)  # fmt: skip
def test_broken_logs_are_refused_by_name(tmp_path: Path, harm: Any, message: str) -> None:
    logs = write_study(tmp_path / "logs")
    harm(logs)
    text = refusal(logs)
    assert re.search(message, text), text


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    cut(logs)
    change_last("llm/1_count", "color", target="99")(logs)
    version(logs)
    text = refusal(logs)
    assert "base/samples_count_2025-03-01T10-00-00.000001.jsonl: (base) line 8: cut off" in text
    assert "llm@1: evaluator: lm-eval 0.4.5" in text
    sample_file(logs, "llm/1_count", "count").write_text("[]\n")
    for part in ("(base) line 8: cut off", "(llm@1) line 1: got list", "lm-eval 0.4.5"):
        assert part in refusal(logs)


def test_a_difference_can_be_answered_for(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    version(logs)
    map_ = {"base": "base", "strategies": {"llm": [{"path": "llm/1_count", "trained_on": "count"}]}}
    assert "accept: [version]" in refusal(logs, map_)
    done = bring(logs, {**map_, "accept": ["version"]})
    assert (
        "llm@1: evaluator: lm-eval 0.4.5 here, lm-eval 0.4.13 at the base (accepted; count, color)"
        in done.notes
    )


def test_another_library_is_told(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for name, number in {"base": "5.16.1", "llm/1_count": "5.17.0"}.items():
        write_lm(logs / name, {"count": lm_rows(BASE)}, transformers_version=number)
    note = "llm@1: library: transformers 5.17.0 here, transformers 5.16.1 at the base (count)"
    assert note in bring(logs).notes


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"bas": "base"}, ["bas: unknown key; did you mean 'base'?"]),
        ({"base": "bsae"}, ["base: no folder 'bsae'; did you mean 'base'?"]),
        ({"base": "../logs/base"}, ["base: got '../logs/base', expected a folder below logs/"]),
        ({"base": "/etc"}, ["base: got '/etc', expected a folder below logs/"]),
        ({"base": 7}, ["base: got 7, expected a text"]),
        ({"base": "llm/1_count"}, ["strategies.llm[0].path: 'llm/1_count' is already base"]),
        ({"strategies": {"llm": []}}, ["strategies.llm: expected at least one stage"]),
        ({"strategies": {"a/b": [{"path": "llm/1_count"}]}}, ["strategies.a/b", "expected a plain name"]),
        ({"strategies": {"llm": [{"path": "llm/1_count", "trained_on": "cont"}]}}, ["llm/1_count: trained_on: got 'cont'; did you mean 'count'?"]),
        ({"targets": ["count", "cout"], "held_out": ["count"]}, ["targets[1]: no task 'cout' in the logs; did you mean 'count'?", "held_out[0]: 'count' is already targets[0]"]),
        ({"scales": {"count": 0}}, ["scales.count: got 0"]),
        ({"scales": {"cont": 1}}, ["scales.cont: no such task in the logs; did you mean 'count'?"]),
        ({"metrics": {"count": "bleu"}}, ["metrics.count: no score per document called 'bleu'; the log has exact_match"]),
        ({"filters": {"count": "strict"}}, ["filters.count: no filter 'strict' in the log; it has 'none'"]),
        ({"accept": ["everything"]}, ["accept[0]: got 'everything', expected 'version', 'engine', 'settings' or 'pictures'"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_map(tmp_path: Path, change: dict[str, Any], messages: Sequence[str]) -> None:
    logs = write_study(tmp_path / "logs")
    map_ = {"base": "base", "strategies": {"llm": [{"path": "llm/1_count", "trained_on": "count"}]}}
    text = refusal(logs, map_ | change)
    for message in messages:
        assert message in text


def test_no_logs(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    assert "no logs in it; expected lm-eval's results_<date>.json" in refusal(tmp_path / "logs")
    write_lm(tmp_path / "logs" / "base", {"count": lm_rows(BASE)})
    sample_file(tmp_path / "logs", "base", "count").unlink()
    assert "run the evaluator with --log_samples" in refusal(tmp_path / "logs")


def test_hostile_names(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    write_lm(logs / "base", {"=cmd()": lm_rows(BASE)})
    assert "task '=cmd()': got '=cmd()', expected a plain name" in refusal(logs)


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    write_lm(logs / "x\x1b[31m", {"count": lm_rows(BASE)})
    write_lm(logs / "y", {"count": lm_rows(BASE)})
    assert "x?[31m: which stage of what is it?" in refusal(logs)


def test_a_linked_folder_is_not_followed(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    outside = write_lm(tmp_path / "outside", {"count": lm_rows(BASE)})
    (logs / "more").symlink_to(outside)
    assert "more: a link out of the folder: passed over" in bring(logs).notes


JUNK: tuple[Any, ...] = (
    None, True, 1e400, math.nan, -3, "x", [], {}, [[[]]], {"score": {}}, "\ud800", 10**400,
    {"bytes": 5}, ["-1", "True"], "9" * 400, [None],
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place below a JSON value."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@pytest.mark.parametrize("seed", range(24))
def test_no_damage_crashes_an_import(tmp_path: Path, seed: int) -> None:
    """Values and bytes replaced at random: an import is refused in words, or can be read."""
    random = np.random.default_rng(seed)
    logs = tmp_path / "logs"
    for name in NAMES:
        rows = lm_rows(BASE[:3], "anls")
        for row in rows:
            row["doc"] |= {
                "questionId": 1,
                "answers": ["1"],
                "docId": 5,
                "image": {"bytes": "x" * 80},
            }
        if seed % 2:
            write_lm(
                logs / name, {"docvqa_val": rows, "gsm8k": lm_rows([1, 0], filters=("a", "b"))}
            )
        else:
            write_lmms(logs / name, {"docvqa_val": rows, "count": lmms_rows([1, 0])})
    files = sorted(file for file in logs.rglob("*") if file.is_file())
    for _ in range(2):
        file = files[random.integers(len(files))]
        if random.random() < 0.2:
            text = bytearray(file.read_bytes())
            text[random.integers(len(text))] = random.integers(256)
            file.write_bytes(text)
            continue
        try:
            lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
            values = [json.loads(line) for line in lines]
        except ValueError:
            continue
        at = values[random.integers(len(values))]
        found = places(at)[1:]
        *path, last = found[random.integers(len(found))] if found else ((), None)
        for key in path:
            at = at[key]
        if found:
            at[last] = JUNK[random.integers(len(JUNK))]
        file.write_text("".join(json.dumps(value) + "\n" for value in values))
    try:
        bring(logs)
    except UserError as error:
        assert str(error)
    else:
        scores_of(logs, traits=True)


# --- the command ---------------------------------------------------------------------------------


def test_without_yes_nothing_is_done(tmp_path: Path) -> None:
    logs = write_study(tmp_path / "logs")
    results = str(tmp_path / "results")
    shown = CliRunner().invoke(app, ["import", str(logs), "--results", results])
    assert shown.exit_code == 2
    assert "--yes" in shown.output
    assert not (tmp_path / "results").exists()
    proposal = yaml.safe_load(shown.output[shown.output.index("base: base") :])
    assert proposal["strategies"] == {
        "llm": [{"path": "llm/1_count", "name": "count", "trained_on": "count"}]
    }
    (tmp_path / "map.yaml").write_text(yaml.safe_dump(proposal))
    runs = []
    for further in (["--yes"], ["--map", str(tmp_path / "map.yaml")]):
        command = [
            "import",
            str(logs),
            "--study",
            "mine",
            "--results",
            results,
            "--replace",
            "--json",
        ]
        done = CliRunner().invoke(app, [*command, *further])
        assert done.exit_code == 0, done.output
        runs.append(json.loads(done.stdout))
    assert runs[0]["tasks"] == runs[1]["tasks"]
    assert runs[0]["tasks"]["color"]["logged"] == pytest.approx(np.mean([BASE, TUNED]))


def test_a_map_concerns_folders(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("strategy")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "s.csv"), "--map", "m.yaml"])
    assert "concerns a folder of logs" in str(done.exception)


@pytest.mark.parametrize(
    "command",
    [
        ["compare"], ["leaderboard"], ["drift"], ["report"], ["gate", "--candidate", "llm@1", "--margin", "60"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_commands_work_on_imported_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    logs = write_study(tmp_path / "logs")
    bring(logs)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app, [command[0], "mine", *command[1:], "--results", str(tmp_path / "results")]
    )
    assert done.exit_code in (0, 3), done.output
