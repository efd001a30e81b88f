"""Makes `tests/fixtures/logs`: what lm-eval and lmms-eval really write, small.

Both programs are run as their users run them, on the base and two stages of the micro study and on
a few of its questions, and lm-eval on a random text model too (log-likelihood metrics, two
filters). Nothing of what they wrote is changed but one key: `pretty_env_info`, the description of
the machine, is dropped from lm-eval's results files.

    .venv/bin/forgeteval demo --strategies llm --train-only --out demo
    uv venv --python 3.11 lmms
    uv pip install --python lmms/bin/python lmms-eval==0.7.3 torch==2.13.0 torchvision==0.28.0 \\
        'transformers>=5.16.1,<5.20' 'accelerate>=1.10' qwen-vl-utils decord 'filelock<3.20'
    .venv/bin/python tests/make_log_fixtures.py --demo demo --lmms lmms/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

FOLDER = Path(__file__).parent / "fixtures" / "logs"
# Paths of checkpoints below the demo's folder; how they are called is what an import must read.
STAGES = ("base", "llm/seed0/1_species", "llm/seed0/2_count")
PICTURE_TASKS = ("micro_count", "micro_species", "micro_choice", "micro_color")
N_PICTURES = 12

CODE = """
import io
from PIL import Image


def pictures(doc):
    return [Image.open(io.BytesIO(doc["image"]["bytes"])).convert("RGB")]


def question(doc, *_):
    marks = [f"{letter}. {text}" for letter, text in zip("AB", doc["choices"] or [])]
    return " ".join([doc["question"], *marks])


def prompt(doc):
    return "<image>" + question(doc)


def grade(doc, results):
    right = float(results[0].strip() == doc["answer"])
    return {"exact_match": right, "graded": {"question_id": doc["id"], "score": right}}
"""
HEAD = """
task: {task}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: data/{task}.parquet}}}}
test_split: test
output_type: generate_until
doc_to_target: answer
generation_kwargs: {{{limit}: 6, do_sample: false, until: []}}
"""
LM_EVAL = """
doc_to_image: !function micro_code.pictures
doc_to_text: !function micro_code.prompt
metric_list: [{metric: exact_match}]
"""
LMMS_EVAL = """
doc_to_visual: !function micro_code.pictures
doc_to_text: !function micro_code.question
process_results: !function micro_code.grade
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
# Text tasks in the shapes that lm-eval's own have: `arc_easy` (two metrics), `gsm8k` (two filters).
CHOICE = """
task: words_choice
dataset_path: json
dataset_kwargs: {data_files: {test: data/words.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: "{{choices.index(answer)}}"
doc_to_choice: choices
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""
NUMBERS = """
task: words_number
dataset_path: json
dataset_kwargs: {data_files: {test: data/words.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_gen_toks: 6, do_sample: false, until: []}
filter_list:
  - name: strict-match
    filter:
      - {function: regex, regex_pattern: "^(\\\\S+)$"}
      - {function: take_first}
  - name: flexible-extract
    filter:
      - {function: regex, regex_pattern: "(\\\\S+)", group_select: -1}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
metadata: {version: 3.0}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True, help="a folder of `forgeteval demo`")
    parser.add_argument("--lmms", type=Path, help="Python with lmms-eval 0.7.3")
    parser.add_argument("--only-lmms", action="store_true", help="leave lm-eval's logs alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_inputs(place, options.demo)
        for stage in STAGES if options.lmms is not None else ():
            lmms_eval(place, options.lmms.absolute(), f"checkpoints/{stage}")
        if not options.only_lmms:
            for stage in STAGES:
                lm_eval(place, "hf-multimodal", f"checkpoints/{stage}", PICTURE_TASKS, "lm_eval")
            for seed in range(3):
                tasks = ("words_choice", "words_number")
                lm_eval(place, "hf", f"text/{seed}", tasks, "lm_eval_text")
        for name in ("lm_eval", "lmms_eval", "lm_eval_text"):
            if (place / name).exists():
                keep(place / name, FOLDER / name)


def write_inputs(place: Path, demo: Path) -> None:
    """Checkpoints, data and task files under relative paths, so that no log names this machine."""
    (place / "checkpoints").symlink_to(demo.absolute() / "checkpoints")
    (place / "data").mkdir()
    for task in PICTURE_TASKS:
        table = pq.read_table(demo / "data" / f"{task}.parquet")
        pq.write_table(table.slice(0, N_PICTURES), place / "data" / f"{task}.parquet")
    words = [
        {"question": f"what color is {thing} ?", "choices": ["red", "green", "blue"], "answer": a}
        for thing, a in zip(
            ("one", "two", "three", "four", "five", "six", "seven", "eight"),
            ("red", "green", "blue", "red", "green", "blue", "red", "green"),
            strict=True,
        )
    ]
    text = "".join(json.dumps(row) + "\n" for row in words)
    (place / "data" / "words.jsonl").write_text(text)
    for folder, rest, limit in (
        ("lm_tasks", LM_EVAL, "max_gen_toks"),
        ("lmms_tasks", LMMS_EVAL, "max_new_tokens"),
    ):
        (place / folder).mkdir()
        (place / folder / "micro_code.py").write_text(CODE)
        for task in PICTURE_TASKS:
            head = HEAD.format(task=task, limit=limit)
            (place / folder / f"{task}.yaml").write_text(head + rest)
    (place / "lm_tasks" / "words_choice.yaml").write_text(CHOICE)
    (place / "lm_tasks" / "words_number.yaml").write_text(NUMBERS)
    write_text_models(place / "text")


def write_text_models(folder: Path) -> None:
    """Three random text models that read bytes: numbers 0 (the base) to 2."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({x: i for i, x in enumerate([*letters, "<end>"])}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, eos_token="<end>", pad_token="<end>"
    )
    for seed in range(3):
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, initializer_range=0.5,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(folder / str(seed))
        tokenizer.save_pretrained(folder / str(seed))


def lm_eval(place: Path, model: str, checkpoint: str, tasks: tuple[str, ...], out: str) -> None:
    run(
        place, sys.executable, "-m", "lm_eval", "--model", model,
        "--model_args", f"pretrained={checkpoint},dtype=float32", "--tasks", ",".join(tasks),
        "--include_path", "lm_tasks", "--batch_size", "12", "--device", "cpu", "--log_samples",
        *(["--apply_chat_template"] if model != "hf" else []), "--output_path", out,
    )  # fmt: skip


def lmms_eval(place: Path, python: Path, checkpoint: str) -> None:
    # Its own smallest picture is 200,000 pixels; this is the checkpoint's own size.
    arguments = (
        f"pretrained={checkpoint},device_map=cpu,attn_implementation=sdpa,"
        "min_pixels=2304,max_pixels=2304"
    )
    run(
        place, str(python), "-m", "lmms_eval", "--model", "qwen2_5_vl", "--model_args", arguments,
        "--tasks", ",".join(PICTURE_TASKS), "--include_path", "lmms_tasks", "--batch_size", "1",
        "--device", "cpu", "--log_samples", "--output_path", "lmms_eval",
    )  # fmt: skip


def run(place: Path, *command: str) -> None:
    quiet = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=place)
    # lmms-eval reports success whatever happens; without a folder nothing was logged.
    if done.returncode or not (place / command[-1]).exists():
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def keep(source: Path, target: Path) -> None:
    """The logs in the fixtures' folder, without lm-eval's description of the machine."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    for file in target.rglob("*.json"):
        text = file.read_text()
        record = json.loads(text)
        if record.pop("pretty_env_info", None) is not None:
            file.write_text(json.dumps(record, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
