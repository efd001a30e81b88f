"""The reference scorers give what the reference programs gave: every golden row and headline."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from golden_tables import GOLDEN, SHARED, TASK_OF

from harness.scoring import SCORERS
from harness.scoring.aggregates import Program, aggregate, stderr_clt
from harness.scoring.lmms_eval import mmbench_options, mmbench_prefetch, strip_reasoning
from harness.types import Sample, Score

Row = dict[str, Any]


def rows_of(name: str) -> list[Row]:
    with (GOLDEN / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def task_of(benchmark: str) -> str:
    name = benchmark.removesuffix("_lmmcl")
    return TASK_OF.get(name, name)


def program_of(row: Row) -> Program:
    return "lmms_eval" if row["reference"].startswith("lmms-eval") else "lmm_cl"


def score_of(row: Row, program: Literal["lmm_cl", "lmms_eval"], benchmark: str) -> Score:
    sample = Sample(id="", question="", answers=(), doc=row["sample"])
    return SCORERS[task_of(benchmark)][program](sample, row["response"])


BENCHMARKS = sorted(path.stem for path in GOLDEN.glob("*.jsonl") if path.stem[0] != "_")


def test_the_tables_are_complete() -> None:
    assert len(BENCHMARKS) == 26
    assert sum(len(rows_of(name)) for name in BENCHMARKS) == 2662


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_scores_are_those_of_the_program(benchmark: str) -> None:
    for row in rows_of(benchmark):
        score = score_of(row, program_of(row), benchmark)
        assert row["metric"] in score.metrics, row["id"]
        value = score.metrics[row["metric"]]
        assert value == (None if row["score"] is None else pytest.approx(row["score"], abs=1e-9)), (
            row["id"]
        )
        for name, other in row.get("other_metrics", {}).items():
            assert score.metrics[name] == pytest.approx(other, abs=1e-9), (row["id"], name)


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_readings_are_those_of_the_program(benchmark: str) -> None:
    for row in rows_of(benchmark):
        if "parsed" in row:
            score = score_of(row, program_of(row), benchmark)
            assert score.parsed == row["parsed"], row["id"]
        if "prefetch" in row:
            text = strip_reasoning(row["response"])
            # The table shows the first step before the program cuts out reasoning.
            if text == row["response"].strip():
                found = mmbench_prefetch(text, mmbench_options(row["sample"]))
                assert (found or False) == row["prefetch"], row["id"]


@pytest.mark.parametrize("benchmark", SHARED)
def test_the_fork_scores_alike_but_keeps_reasoning(benchmark: str) -> None:
    for row in rows_of(benchmark):
        value = score_of(row, "lmm_cl", benchmark).metrics[row["metric"]]
        expected = row.get("score_without_reasoning_strip", row["score"])
        assert value == pytest.approx(expected, abs=1e-9), row["id"]


ITEMS = {row["item"]: row for name in BENCHMARKS for row in rows_of(name)}


@pytest.mark.parametrize(
    "row", rows_of("_aggregates"), ids=lambda row: f"{row['benchmark']}:{row['metric']}"
)
def test_headlines_are_those_of_the_program(row: Row) -> None:
    items = row.get("items") or [ITEMS[item] for item in row["item_ids"]]
    program = program_of(row)
    scores = [score_of(item, program, row["benchmark"]) for item in items]
    docs = [item["sample"] for item in items]
    found = aggregate(program, task_of(row["benchmark"]), docs, scores)[row["metric"]]
    assert found.value == pytest.approx(row["value"], abs=1e-9)
    stderr = row.get("stderr_clt", "N/A")
    expected = None if stderr == "N/A" else pytest.approx(stderr, abs=1e-9)
    assert found.stderr_clt == expected


def test_headlines_need_samples_and_pairs() -> None:
    with pytest.raises(ValueError, match="pope: got 0 samples and 0 scores"):
        aggregate("lmms_eval", "pope", [], [])
    doc = {"category": "count", "question_id": "a.png"}
    with pytest.raises(ValueError, match=r"two questions on each image; a\.png has 1"):
        aggregate("lmms_eval", "mme", [doc], [Score(1.0)])
    assert stderr_clt([1.0]) is None
