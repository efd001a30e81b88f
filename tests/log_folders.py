"""Result folders in the formats of lm-eval and lmms-eval, written from scores that a test chose.

What the real programs write is in `fixtures/logs`; these are for what no run can be made to write:
broken files, older versions, other layouts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = "2025-03-01T10-00-00.000001"
Doc = dict[str, Any]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def lm_rows(
    scores: Sequence[Any],
    metric: str = "exact_match",
    filters: Sequence[str] = ("none",),
    **more: Any,
) -> list[Doc]:
    """Rows as lm-eval writes them: one per document and filter. `more` replaces keys."""
    rows = []
    for i, score in enumerate(scores):
        question, answer = f"how many in picture {i}?", str(i % 5)
        for name in filters:
            response = answer if score else "red"
            rows.append(
                {
                    "doc_id": i,
                    "doc": {"id": f"q{i}", "question": question, "answer": answer},
                    "target": answer,
                    "arguments": {"gen_args_0": {"arg_0": question, "arg_1": {"until": []}}},
                    "resps": [[response]],
                    "filtered_resps": [response],
                    "filter": name,
                    "metrics": [metric],
                    "doc_hash": sha(f"{i}{score}"),
                    "prompt_hash": sha(question),
                    "target_hash": sha(answer),
                    metric: score,
                    **more,
                }
            )
    return rows


def lmms_rows(scores: Sequence[Any], metric: str = "exact_match", **more: Any) -> list[Doc]:
    """Rows as lmms-eval 0.5 to 0.7 writes them: no `doc`, no `resps` where they are equal."""
    rows = []
    for row in lm_rows(scores, metric):
        answer = row["filtered_resps"][0]
        rows.append(
            {
                "doc_id": row["doc_id"],
                "target": row["target"],
                "filtered_resps": answer,
                "doc_hash": "one and the same",
                "input": row["doc"]["question"],
                metric: row[metric],
                **more,
            }
        )
    return rows


def write_lm(
    folder: Path, tasks: Mapping[str, Sequence[Doc]], date: str = DATE, **facts: Any
) -> Path:
    """One run of lm-eval; `facts` are keys of the results file (None: no such key)."""
    record = _results(tasks, "lm_eval_version", "0.4.13") | facts
    return _write(folder, tasks, record, f"results_{date}.json", f"samples_{{}}_{date}.jsonl")


def write_lmms(
    folder: Path, tasks: Mapping[str, Sequence[Doc]], date: str = "20250301_100000", **facts: Any
) -> Path:
    """One run of lmms-eval."""
    record = _results(tasks, "lmms_eval_version", "0.7.3") | facts
    return _write(folder, tasks, record, f"{date}_results.json", f"{date}_samples_{{}}.jsonl")


def _results(tasks: Mapping[str, Sequence[Doc]], key: str, version: str) -> Doc:
    usual = {
        "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
        "doc_hash", "prompt_hash", "target_hash", "input",
    }  # fmt: skip
    results: dict[str, Doc] = {}
    for task, rows in tasks.items():
        values: dict[str, list[float]] = {}
        for row in rows:
            for metric in (name for name in row if name not in usual):
                column = values.setdefault(f"{metric},{row.get('filter', 'none')}", [])
                column += [row[metric]] if isinstance(row[metric], int | float) else []
        results[task] = {"alias": task}
        for name, column in values.items():
            results[task][name] = sum(column) / len(column) if column else "N/A"
            results[task][name.replace(",", "_stderr,")] = "N/A"
    return {
        "results": results,
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": dict.fromkeys(tasks, 0),
        "configs": {
            task: {"task": task, "generation_kwargs": {"until": []}, "doc_to_text": "<f at 0x7f>"}
            for task in tasks
        },
        "n-samples": {
            task: {"original": 1000, "effective": len({row.get("doc_id") for row in rows})}
            for task, rows in tasks.items()
        },
        "model_source": "hf",
        key: version,
    }


def _write(
    folder: Path, tasks: Mapping[str, Sequence[Doc]], record: Doc, results: str, samples: str
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    record = {name: value for name, value in record.items() if value is not None}
    (folder / results).write_text(json.dumps(record, indent=2))
    for task, rows in tasks.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / samples.format(task)).write_text(text)
    return folder
