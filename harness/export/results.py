"""Results in other people's forms: lm-eval's result files, or a Hugging Face dataset folder.

Everything comes from stored answers. Nothing here holds a time or a machine's path, so equal
results give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from harness import __version__
from harness.analysis.judge import judge
from harness.analysis.options import JudgeOptions
from harness.analysis.scores import (
    FAILED,
    MISSING,
    NOT_APPLICABLE,
    SCORED,
    BenchmarkScores,
    Stage,
    StudyScores,
)
from harness.report.words import WordReader, Words
from harness.scoring.study import read_scores
from harness.storage.result_files import write_atomically
from harness.storage.store import folder_name

STATUS = {MISSING: "missing", SCORED: "ok", FAILED: "failed", NOT_APPLICABLE: "not_applicable"}
# What stands where lm-eval writes a time.
STAMP = "forgeteval"
ANSWERS = pa.schema(
    [
        *((name, pa.string()) for name in ("study", "strategy", "run")),
        ("stage", pa.int32()),
        *((name, pa.string()) for name in ("stage_name", "trained_on", "benchmark", "role")),
        ("sample_id", pa.string()),
        ("group", pa.int64()),
        *((name, pa.string()) for name in ("question", "gold", "response", "status")),
    ]
)


@dataclass(frozen=True, slots=True)
class Answered:
    """A study's scores with the words behind them."""

    scores: StudyScores
    words: Mapping[str, Words]
    """By benchmark; questions in the order of its samples."""


def read_study(folder: Path) -> Answered:
    """The study in a results folder. Raises ResultsError."""
    scores = read_scores(folder)
    reader = WordReader(scores, folder)
    words = {
        name: reader.read(name, list(map(str, bench.sample_ids)), bench.columns)
        for name, bench in scores.benchmarks.items()
    }
    return Answered(scores, words)


# --- lm-eval -----------------------------------------------------------------------------------


def write_lm_eval(study: Answered, target: Path) -> list[Path]:
    """A folder per checkpoint with `results_*.json` and `samples_*.jsonl`."""
    files: list[Path] = []
    for stage in study.scores.stages:
        present = {
            name: column
            for name, bench in study.scores.benchmarks.items()
            if (column := _column(bench, stage)) is not None
        }
        if not present:
            continue
        folder = target / _stage_folder(study.scores, stage)
        summary = _summary(study.scores, stage, present)
        text = json.dumps(summary, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        files.append(folder / f"results_{STAMP}.json")
        write_atomically(files[-1], text.encode("utf-8", "replace"))
        for name, column in present.items():
            rows = _samples(study, name, stage, column)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            files.append(folder / f"samples_{_task_name(name)}_{STAMP}.jsonl")
            write_atomically(files[-1], lines.encode("utf-8", "replace"))
    return files


def _column(bench: BenchmarkScores, stage: Stage) -> int | None:
    """The column of a stage; None where it has no answer."""
    if stage.key not in bench.columns:
        return None
    j = bench.columns.index(stage.key)
    return j if (bench.status[:, j] != MISSING).any() else None


def _stage_folder(scores: StudyScores, stage: Stage) -> Path:
    """`<strategy>/<stage>_<name>`, with `run-<run>` between them where a strategy has several.

    Names of imported studies may hold anything: only plain characters become folders.
    """
    key = stage.key
    runs = {other.key.run for other in scores.stages if other.key.strategy == key.strategy}
    parts = [key.strategy, *([f"run-{key.run}"] if len(runs) > 1 else [])]
    parts.append(f"{key.stage}_{stage.name}")
    return Path(*(re.sub(r"[^A-Za-z0-9._+-]+", "-", part).lstrip(".") or "-" for part in parts))


def _task_name(name: str) -> str:
    """A benchmark as lm-eval's files name it: its own tasks under their own names."""
    return folder_name(name.removeprefix("lm_eval:"))


def _summary(scores: StudyScores, stage: Stage, present: Mapping[str, int]) -> dict[str, Any]:
    """What lm-eval writes as `results_*.json`, without times and machines."""
    results, counts, configs, higher = {}, {}, {}, {}
    for name, j in present.items():
        bench, task = scores.benchmarks[name], _task_name(name)
        row: dict[str, Any] = {"alias": task}
        for scorer, values in bench.values.items():
            known = np.isfinite(values[:, j])
            if not known.any():
                continue
            row[f"{scorer},none"] = float(
                np.average(values[known, j], weights=bench.weights[known])
            )
            row[f"{scorer}_stderr,none"] = _standard_error(values[known, j], bench.weights[known])
        results[task] = row
        effective = int((bench.status[:, j] == SCORED).sum())
        counts[task] = {"original": len(bench.sample_ids), "effective": effective}
        higher[task] = dict.fromkeys(bench.values, True)
        signature = bench.signatures[j] if bench.signatures else ""
        configs[task] = {
            "task": task,
            "metadata": {"metric": bench.metric, "role": bench.role, "signature": signature},
        }
    key = stage.key
    return {
        "results": results,
        "group_subtasks": {task: [] for task in results},
        "configs": configs,
        "versions": dict.fromkeys(results, 1.0),
        "n-shot": {task: _shots(config) for task, config in configs.items()},
        "higher_is_better": higher,
        "n-samples": counts,
        "config": {
            "model": "forgeteval",
            "model_args": {
                "study": scores.study,
                "base_model": scores.base_model,
                "strategy": key.strategy,
                "run": key.run,
                "stage": key.stage,
                "trained_on": stage.trained_on,
            },
        },
        "model_name": f"{scores.study}/{_stage_folder(scores, stage).as_posix()}",
        "model_source": "forgeteval",
        "forgeteval_version": __version__,
    }


def _shots(config: Mapping[str, Any]) -> int:
    found = re.search(r"\bnum_fewshot:(\d+)", config["metadata"]["signature"])
    return int(found[1]) if found else 0


def _standard_error(values: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> float | str:
    """lm-eval's, of a plain mean; `N/A` for one sample or unequal weights."""
    if len(values) < 2 or not np.allclose(weights, weights[0]):
        return "N/A"
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _samples(study: Answered, name: str, stage: Stage, j: int) -> Iterator[dict[str, Any]]:
    """lm-eval's sample rows. A failed answer has a row without metrics: it is no zero."""
    bench, words = study.scores.benchmarks[name], study.words[name]
    responses = words.responses[stage.key]
    for i, sample in enumerate(map(str, bench.sample_ids)):
        if bench.status[i, j] == MISSING:
            continue
        scores = {
            scorer: float(values[i, j])
            for scorer, values in bench.values.items()
            if np.isfinite(values[i, j])
        }
        response = responses[i]
        doc = {"id": sample, "group": int(bench.groups[i])}
        yield {
            "doc_id": i,
            "doc": doc,
            "target": words.golds[i],
            "arguments": {"gen_args_0": {"arg_0": words.questions[i]}},
            "resps": [[response]] if response is not None else [[]],
            "filtered_resps": [response] if response is not None else [],
            "filter": "none",
            "metrics": list(scores),
            "doc_hash": _hash(json.dumps(doc, sort_keys=True)),
            "prompt_hash": _hash(words.questions[i]),
            "target_hash": _hash(words.golds[i]),
            "status": STATUS[int(bench.status[i, j])],
            **scores,
        }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


# --- a dataset folder --------------------------------------------------------------------------


def write_dataset(study: Answered, target: Path) -> list[Path]:
    """A folder that `datasets.load_dataset(DIR)` reads: Parquet tables and a card."""
    judgement = judge(study.scores, JudgeOptions(scorer=_scorer(study.scores)))
    tables = {
        "answers": _answer_table(study),
        "scores": _frame_table(judgement.scores),
        "deltas": _frame_table(judgement.deltas),
    }
    files = []
    for name, table in tables.items():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        files.append(target / "data" / f"{name}.parquet")
        write_atomically(files[-1], sink.getvalue().to_pybytes())
    files.append(target / "README.md")
    write_atomically(files[-1], _card(study.scores, tables).encode("utf-8", "replace"))
    return files


def _scorer(scores: StudyScores) -> str:
    known = {name for bench in scores.benchmarks.values() for name in bench.values}
    return "strict" if "strict" in known or not known else sorted(known)[0]


def _answer_table(study: Answered) -> pa.Table:
    """One row per answer, one column per scorer (null: the scorer says nothing of it)."""
    scores = study.scores
    scorers = sorted({name for bench in scores.benchmarks.values() for name in bench.values})
    schema = pa.schema([*ANSWERS, *((name, pa.float64()) for name in scorers)])
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for name, bench in scores.benchmarks.items():
        words = study.words[name]
        for stage in scores.stages:
            j = _column(bench, stage)
            if j is None:
                continue
            for i in np.flatnonzero(bench.status[:, j] != MISSING).tolist():
                row = {
                    "study": scores.study,
                    "strategy": stage.key.strategy,
                    "run": stage.key.run,
                    "stage": stage.key.stage,
                    "stage_name": stage.name,
                    "trained_on": stage.trained_on,
                    "benchmark": name,
                    "role": bench.role,
                    "sample_id": str(bench.sample_ids[i]),
                    "group": int(bench.groups[i]),
                    "question": words.questions[i],
                    "gold": words.golds[i],
                    "response": words.responses[stage.key][i],
                    "status": STATUS[int(bench.status[i, j])],
                    **{s: _number(bench.values[s][i, j]) for s in scorers if s in bench.values},
                }
                for column, values in columns.items():
                    values.append(row.get(column))
    return pa.Table.from_pydict(columns, schema)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _frame_table(frame: pd.DataFrame) -> pa.Table:
    """A table of a judgement; `NA` becomes null."""
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def _card(scores: StudyScores, tables: Mapping[str, pa.Table]) -> str:
    """The dataset's README: a YAML header that the hub and `datasets` read, then words."""
    header = {
        "pretty_name": f"forgeteval: {scores.study}",
        "tags": ["forgeteval", "evaluation", "catastrophic-forgetting", "vision-language-models"],
        "configs": [
            {
                "config_name": name,
                "data_files": [{"split": "test", "path": f"data/{name}.parquet"}],
                **({"default": True} if name == "answers" else {}),
            }
            for name in tables
        ],
    }
    rows = "\n".join(
        f"| {_cell(name)} | {bench.role} | {_cell(bench.metric)} | {len(bench.sample_ids):,} |"
        for name, bench in scores.benchmarks.items()
    )
    stages = "\n".join(
        f"| {_cell(s.key.strategy)} | {_cell(s.key.run)} | {s.key.stage} | {_cell(s.name)} "
        f"| {_cell(s.trained_on or '')} |"
        for s in scores.stages
    )
    counts = "\n".join(f"- `{name}`: {table.num_rows:,} rows" for name, table in tables.items())
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---

# {_cell(scores.study)}

Every checkpoint of a fine-tuning study on every benchmark: what it answered and how that was
graded. Base model: {_cell(scores.base_model)}. Written by forgeteval {__version__}.

{counts}

In `answers` a score is a fraction in [0, 1]; null means that there is none (`status` says why:
`failed` answers are no zeros). `group` joins samples that share a picture: they are not
independent. `scores` and `deltas` are the tables of `forgeteval compare`, in points.

| benchmark | role | metric | samples |
|---|---|---|---|
{rows}

| strategy | run | stage | name | trained on |
|---|---|---|---|---|
{stages}

Questions and gold answers belong to the benchmarks' authors; their licences apply.
"""


def _cell(text: str) -> str:
    """A name that breaks no table: other people's words."""
    return re.sub(r"[|`<>\r\n]+", " ", text)
