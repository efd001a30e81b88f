"""The same checkpoints, pictures and questions through lm-eval's `hf-multimodal` and through ours.

Runs lm-eval as its users run it (one process per checkpoint, a task file over the same Parquet)
and `forgeteval score` (one process for all), on the base and some stages of the micro study, and
counts equal answers. Run after `make demo`:

    .venv/bin/python benchmarks/lm_eval_parity.py --json parity.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import yaml

TASK_CODE = """
import io
from PIL import Image


def pictures(doc):
    return [Image.open(io.BytesIO(doc["image"]["bytes"])).convert("RGB")]


def prompt(doc):
    marks = [f"{letter}. {text}" for letter, text in zip("AB", doc["choices"] or [])]
    return "<image>" + " ".join([doc["question"], *marks])
"""
# lm-eval needs the functions by reference; yaml tags are written by hand.
TASK_YAML = """
task: parity
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_image: !function parity_code.pictures
doc_to_text: !function parity_code.prompt
doc_to_target: answer
generation_kwargs: {{max_gen_toks: {tokens}, do_sample: false, until: []}}
metric_list: [{{metric: exact_match}}]
"""


def lm_eval_answers(checkpoint: Path, tasks: Path, batch: int) -> tuple[dict[str, str], float]:
    """Answers by sample id, and the seconds of the whole process."""
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "lm_eval", "--model", "hf-multimodal",
            "--model_args", f"pretrained={checkpoint},dtype=float32", "--tasks", "parity",
            "--include_path", str(tasks), "--apply_chat_template", "--batch_size", str(batch),
            "--device", "cpu", "--log_samples", "--output_path", out,
        ]  # fmt: skip
        started = time.perf_counter()
        run(command)
        seconds = time.perf_counter() - started
        file = next(Path(out).rglob("samples_parity_*.jsonl"))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {str(row["doc"]["id"]): row["resps"][0][0].strip() for row in rows}, seconds


def our_answers(manifest: Path, results: Path) -> tuple[list[dict[str, str]], float]:
    """Answers of every stage by sample id (base first), and the seconds of the whole process."""
    started = time.perf_counter()
    run([sys.executable, "-m", "harness", "score", str(manifest), "--results", str(results)])
    seconds = time.perf_counter() - started
    record = json.loads((results / "parity" / "study.json").read_text())
    answers = []
    for stage in record["stages"]:
        ((task, cell),) = stage["cells"].items()
        table = pq.read_table(results / "parity" / "cells" / task / f"{cell}.parquet")
        answers.append({row["sample_id"]: row["text"].strip() for row in table.to_pylist()})
    return answers, seconds


def run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, env=dict(os.environ, HF_HUB_OFFLINE="1")
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=Path("demo/checkpoints.yaml"))
    parser.add_argument("--task", default="micro_choice")
    parser.add_argument("--strategy", default="llm")
    parser.add_argument("--stages", type=int, nargs="*", default=[2, 4], help="beside the base")
    parser.add_argument("--batch", type=int, default=64, help="lm-eval's batch size")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    manifest = yaml.safe_load(options.study.read_text())
    folder = options.study.absolute().parent
    data = folder / manifest["suite"]["sources"][options.task]["path"]
    strategy = manifest["strategies"][options.strategy]
    steps = strategy.get("stages") or strategy["runs"][0]["stages"]
    paths = [folder / manifest["base"], *(folder / steps[k - 1]["path"] for k in options.stages)]
    with tempfile.TemporaryDirectory() as place:
        tasks = Path(place)
        (tasks / "parity_code.py").write_text(TASK_CODE)
        (tasks / "parity.yaml").write_text(TASK_YAML.format(data=data, tokens=6))
        study = {
            "study": "parity",
            "base": str(paths[0]),
            "suite": {"held_out": [options.task], "sources": {options.task: {"path": str(data)}}},
            "strategies": {"s": {"stages": [{"path": str(path)} for path in paths[1:]]}},
        }
        (tasks / "study.yaml").write_text(yaml.safe_dump(study))
        ours, our_seconds = our_answers(tasks / "study.yaml", tasks / "results")
        rows = []
        for path, answers in zip(paths, ours, strict=True):
            theirs, seconds = lm_eval_answers(path, tasks, options.batch)
            if theirs.keys() != answers.keys():
                raise SystemExit("the two programs saw different samples")
            rows.append(
                {
                    "checkpoint": "/".join(path.parts[-2:]),
                    "samples": len(answers),
                    "equal": sum(theirs[key] == text for key, text in answers.items()),
                    "lm_eval_seconds": round(seconds, 1),
                }
            )
    total = sum(row["lm_eval_seconds"] for row in rows)
    print(f"task {options.task}, float32, CPU; whole processes, batch {options.batch}\n")
    print("| checkpoint | samples | equal answers | lm-eval, s |\n|---|---|---|---|")
    for row in rows:
        print("| {checkpoint} | {samples} | {equal} | {lm_eval_seconds} |".format(**row))
    print(f"\nall {len(rows)}: lm-eval {total:.1f} s in {len(rows)} processes, "
          f"forgeteval {our_seconds:.1f} s in one")  # fmt: skip
    if options.json:
        record = {"task": options.task, "rows": rows, "forgeteval_seconds": round(our_seconds, 1)}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if any(row["equal"] != row["samples"] for row in rows):
        raise SystemExit("answers differ")


if __name__ == "__main__":
    main()
