"""Local lm-eval tasks with data made from a seed: every form that a task's requests can have.

Metrics give partial credit, so that a tiny model of random weights does not score 0 everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.tiny_models import noise_image

CODE = """
import io
from PIL import Image


def pictures(doc):
    return [Image.open(io.BytesIO(one["bytes"])) for one in doc["images"]]


def shared_letters(gold, answer):
    return len(set(gold) & set(answer)) / max(1, len(set(gold) | set(answer)))


def process_text(doc, results):
    return {"shared": shared_letters(doc["answer"], results[0]), "length": len(results[0])}
"""

WORDS = ["red", "blue", "two dogs", "a cat", "seven", "ash tree", "no", "yes indeed", "Rome"]


def write_tasks(folder: Path, n: int = 8) -> Path:
    """Writes task files, their data and `code.py`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = Random(3)
    rows = [
        {
            "id": i,
            "question": f"What is {chance.choice(WORDS)} plus {chance.randint(1, 99)}?",
            "answer": chance.choice(WORDS),
            "options": chance.sample(WORDS, 4),
            "gold": chance.randrange(4),
            "left": f"The {chance.choice(WORDS)} is",
            "right": chance.choice(WORDS),
            "images": [
                {"bytes": noise_image(10 * i + k).read(), "path": None} for k in range(1 + i % 2)
            ],
        }
        for i in range(2 * n)
    ]
    plain = [{k: v for k, v in row.items() if k != "images"} for row in rows]
    for name, part in (("test", plain[:n]), ("train", plain[n:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text)
    pictured = [{k: row[k] for k in ("id", "question", "answer", "images")} for row in rows[:n]]
    pq.write_table(pa.Table.from_pylist(pictured), folder / "pictures.parquet")
    (folder / "code.py").write_text(CODE)
    data = {"test": str(folder / "test.jsonl"), "train": str(folder / "train.jsonl")}
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": data},
        "test_split": "test",
        "fewshot_split": "train",
        "metadata": {"version": 1.0},
    }
    shared = {"metric": "shared", "aggregation": "mean", "higher_is_better": True}
    length = {"metric": "length", "aggregation": "mean", "higher_is_better": True}
    accuracies = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in ("acc", "acc_norm")
    ]
    generated = {
        **common,
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "description": "Answer in a word.\n\n",
        "num_fewshot": 2,
        "process_results": "!function code.process_text",
        "generation_kwargs": {"until": ["e", "\n\n"], "max_gen_toks": 12, "do_sample": False},
        "filter_list": [
            {"name": "tail", "filter": [
                {"function": "regex", "regex_pattern": "([a-zA-Z]+)", "group_select": -1},
                {"function": "take_first"},
            ]},
            {"name": "whole", "filter": [{"function": "take_first"}]},
        ],
        "metric_list": [shared, length],
    }  # fmt: skip
    choice = {
        **common,
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}} ",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{gold}}",
        "metric_list": accuracies,
    }
    tasks = {
        "tiny_generate": generated,
        "tiny_choice": {**choice, "tag": ["tiny_tag"]},
        "tiny_mutual": {
            **choice,
            "metric_list": [*accuracies, {**accuracies[0], "metric": "acc_mutual_info"}],
            "num_fewshot": 1,
            "tag": ["tiny_tag"],
        },
        "tiny_cloze": {
            **common,
            "output_type": "loglikelihood",
            "doc_to_text": "{{left}}",
            "doc_to_target": "{{' ' + right}}",
            "metric_list": [
                {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
                accuracies[0],
            ],
        },
        "tiny_inputs": {
            **choice,
            "doc_to_text": "{{gold}}",
            "doc_to_choice": "{{options}}",
            "doc_to_target": "{{right}}",
            "metric_list": accuracies[:1],
        },
        "tiny_pictures": {
            "dataset_path": "parquet",
            "dataset_kwargs": {"data_files": {"test": str(folder / "pictures.parquet")}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_image": "!function code.pictures",
            "doc_to_text": "{% for one in images %}<image> {% endfor %}{{question}}",
            "doc_to_target": "{{answer}}",
            "process_results": "!function code.process_text",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 9, "do_sample": False},
            "metric_list": [shared],
        },
    }
    for name, task in tasks.items():
        text = yaml.safe_dump({"task": name, **task}, sort_keys=False)
        # Functions are named by a tag, which a dump writes as text.
        text = text.replace("'!function code.pictures'", "!function code.pictures")
        text = text.replace("'!function code.process_text'", "!function code.process_text")
        (folder / f"{name}.yaml").write_text(text)
    group = {"group": "tiny_group", "task": ["tiny_generate", "tiny_choice"]}
    (folder / "_group.yaml").write_text(yaml.safe_dump(group))
    return folder


def run_lm_eval(
    checkpoint: Path, folder: Path, tasks: list[str], **options: object
) -> dict[str, list[dict[str, object]]]:
    """task -> the sample rows of lm-eval's own run of its own model class on a checkpoint."""
    from lm_eval import simple_evaluate
    from lm_eval.models.hf_vlms import HFMultimodalLM
    from lm_eval.tasks import TaskManager

    model = HFMultimodalLM(str(checkpoint), dtype="float32", device="cpu", batch_size=1)
    found = {}
    for task in tasks:
        manager = TaskManager(include_path=str(folder), include_defaults=False)
        results = simple_evaluate(
            model=model, tasks=[task], task_manager=manager, bootstrap_iters=0, **options
        )
        found.update(results["samples"])
    return found
