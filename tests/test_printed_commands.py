"""Every command of README and the docs is run as it is printed, on tiny models and data."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from log_folders import lm_rows, write_lm
from printed import DOCS, PAGES, ROOT, blocks, commands, lines
from replay import write_checkpoint
from tiny_models import make_checkpoint, noise_image
from typer.testing import CliRunner

from harness.cli import app
from harness.manifest import read_manifest

README = ROOT / "README.md"
FIXTURES = ROOT / "tests" / "fixtures"
BLOCKS = blocks(README, "Your own study")
SUITE, STRATEGIES = (body for kind, body in BLOCKS if kind == "yaml")
CHECKPOINTS = re.findall(r"path: (ckpt/[\w/]+)", STRATEGIES)
# What no test here runs, and why; `...` stands for any end.
ELSEWHERE = {
    "git clone <this repository> && cd forgeteval": "how a reader gets the page",
    "make demo": "test_micro_cli.py runs the demo",
    "pip install ...": "test_package.py and test_base_install.py install the package",
    "python3 -m venv fe && . fe/bin/activate": "an environment for what follows",
    "hf download ...": "another program, and a hub",
    "lm_eval --model hf-multimodal ...": "test_export.py gives lm-eval an exported task",
    "forgeteval tasks check cub200 ...": "asks a hub; test_tasks_cli.py checks local files",
    "forgeteval tasks check ai2d ...": "asks a hub; test_tasks_cli.py checks local files",
    "forgeteval tune --base models/llava-ov-7b ...": "days on a GPU; as README's, with more skills",
    "forgeteval convert CHECKPOINT ...": "test_convert.py converts what authors' code saved",
    "forgeteval convert ckpt/exp_sa-trained_on_cub200/checkpoint-360 ...": "the same",
    "forgeteval ... llava-ov-7b/checkpoints.yaml...": "of that study; as README's are",
}  # fmt: skip


def run(line: str, code: int = 0) -> str:
    """What a printed line prints; it must end with `code`."""
    program, *words = shlex.split(line)
    assert program == "forgeteval"
    result = CliRunner().invoke(app, words, env={"COLUMNS": "120"}, catch_exceptions=False)
    assert result.exit_code == code, f"{line}\n{result.output}"
    return result.output


# Models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What "Your own study" takes for granted: a model, training rows, and the suite's data."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("printed")
    make_checkpoint(folder / "models" / "qwen", "qwen2_5_vl")
    (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
    suite = yaml.safe_load(SUITE)["suite"]
    for name, source in suite["sources"].items():
        file = folder / source["path"]
        file.parent.mkdir(exist_ok=True)
        shutil.copy(FIXTURES / "data" / f"{name}.parquet", file)
    (folder / "train").mkdir()
    for number, name in enumerate(suite["targets"]):
        rows = [
            {
                "image": {"bytes": noise_image(100 * number + i, 40, 56).data, "path": f"{i}.png"},
                "question": f"{name}, picture {i}?",
                "answer": str(i % 3),
            }
            for i in range(20)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / "train" / f"{name}.parquet")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that for one test, which is there."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def study(place: Path) -> Path:
    """That, and README's manifest of checkpoints that are there already, as every page names it."""
    for number, folder in enumerate(CHECKPOINTS, start=1):
        make_checkpoint(place / folder, "qwen2_5_vl", number)
    for name in ("study.yaml", "my-study.yaml", "checkpoints.yaml"):
        (place / name).write_text(SUITE + STRATEGIES, encoding="utf-8")
    return place


@pytest.mark.slow
def test_the_commands_of_the_readme_make_a_study(place: Path) -> None:
    said: dict[str, str] = {}
    for line in commands(README, "Your own study"):
        command = line.split()[1]
        said[command] = said.get(command, "") + run(line)
    assert said.keys() == {"tune", "score", "compare", "drift", "audit", "report"}
    strategies = {"sa_proj", "mlp_gate_up", "llm"}
    for name in strategies:
        assert name in said["compare"]
        assert f"{name} run 0 stage 2: timeclock: verified (declared {name})" in said["audit"]
    # What was trained, verified and judged stands in one row per strategy.
    study = place / "results" / "ft"
    rows = list(csv.DictReader((study / "leaderboard.csv").open(encoding="utf-8")))
    assert {row["strategy"]: row["components"] for row in rows} == {
        name: f"{name}, verified" for name in strategies
    }
    shares = {row["strategy"]: float(row["trainable_share"]) for row in rows}
    assert 0 < shares["sa_proj"] < shares["mlp_gate_up"] < shares["llm"] < 1
    assert all(float(row["train_seconds"]) > 0 for row in rows)
    record = json.loads((study / "study.json").read_text())
    assert len(record["stages"]) == 1 + 3 * 2
    assert list(place.rglob("*.html"))
    # A folder of the stages, and one of them alone, were scored without a manifest of their own.
    assert {f.parent.name for f in place.rglob("study.json")} >= {"ft", "sa_proj"}
    # The page on strategies audits the same, and two folders without a manifest.
    shutil.copytree(place / "ft" / "sa_proj" / "seed0" / "1_pathvqa", place / "ckpt" / "1_pathvqa")
    for line in commands(DOCS / "strategies.md", "Audit"):
        assert "verified" in run(line)


@pytest.mark.slow
def test_the_page_on_drift(study: Path) -> None:
    *_, said = [run(line) for line in commands(DOCS / "drift.md")]
    assert "sa_proj, after `pathvqa`" in said and "KL to the base" in said


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray cluster that `--address auto` finds, and that nobody else on this machine finds."""
    ray = Path(sys.executable).parent / "ray"
    if not ray.exists():
        pytest.skip("Ray has no build for this machine")
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets want short paths
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    words = ["start", "--head", "--block", "--port=0", "--num-cpus=2", "--include-dashboard=false"]
    head = subprocess.Popen(
        [str(ray), *words, "--disable-usage-stats"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not list(folder.rglob("ray_current_cluster")):
            assert head.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        yield
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_several_workers(study: Path, cluster: None) -> None:
    heading = "Several GPUs, several machines"
    tables = []
    for line in dict.fromkeys([*commands(README, heading), *commands(DOCS / "scaling.md")]):
        said = run(line)
        if "--dry-run" in line:
            assert "9 of 9 cells owed" in said
            continue
        run("forgeteval compare study.yaml")
        tables.append((study / "results" / "mine" / "scores.csv").read_bytes())
        shutil.rmtree(study / "results")
    assert len(tables) == 3 and len(set(tables)) == 1


@pytest.mark.vllm
def test_the_engines_are_compared(study: Path) -> None:
    (line,) = commands(DOCS / "engines.md")
    assert "--check-against hf" in line
    run(line)


# No models -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def graded(stages: dict[tuple[str, int], int], *benchmarks: str) -> list[dict[str, Any]]:
    """(strategy, stage) -> of ten answers to each benchmark so many are right."""
    return [
        {"strategy": name, "stage": stage, "benchmark": benchmark, "sample_id": i,
         "score": int(i % 10 < right)}
        for (name, stage), right in stages.items() for benchmark in benchmarks for i in range(1000)
    ]  # fmt: skip


def test_the_manifest_of_the_readme_is_one(folder: Path) -> None:
    """The strategies shown complete the suite shown; so does every path of them."""
    for number, path in enumerate(["models/qwen", *CHECKPOINTS]):
        write_checkpoint(folder / path, number)
    (folder / "study.yaml").write_text(SUITE + STRATEGIES)
    manifest = read_manifest(folder / "study.yaml")
    assert [stage.trained_on for stage, _ in manifest.stages()] == ["pathvqa", "timeclock"]


def test_the_readme_on_ci(folder: Path) -> None:
    rows = graded({("base", 0): 7, ("new", 1): 8}, "docs")
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for line in commands(README, "In CI"):
        run(line)
    assert (folder / "gate.xml").is_file() and (folder / "gate.md").is_file()


def test_the_page_on_ci(folder: Path) -> None:
    page = DOCS / "ci.md"
    example = next(body for _, body in blocks(page) if body.startswith("strategy,"))
    rows = graded({("base", 0): 6, ("new", 1): 8}, "docvqa", "chartqa", "cub200")
    for row in rows:  # what is measured by the policy as learning is a target
        row["role"] = "target" if row["benchmark"] == "cub200" else "held_out"
        row["trained_on"] = "cub200" if row["stage"] else ""
    pq_rows = pa.Table.from_pylist(rows).to_pandas()
    assert set(example.splitlines()[0].split(",")) <= set(pq_rows.columns)
    pq_rows.to_csv(folder / "scores.csv", index=False)
    policy = next(body for _, body in blocks(page) if "minimum_learning" in body)
    (folder / "gate.yaml").write_text(policy)
    for line in [*commands(page, "Scores that you have"), *commands(page, "A policy")]:
        run(line)
    # A reviewer of a pull request finds the tables that are in it.
    run("forgeteval compare nightly")
    check = lines(page, "A repository of results")
    assert check[-1] == "git diff --exit-code -- results" and len(check) == 3
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "results"], ["commit", "-q", "-m", "a study"]):
        subprocess.run([*git, *words], check=True)
    for line in check[:-1]:
        run(line.replace("STUDY", "nightly"))
    assert subprocess.run(shlex.split(check[-1]), capture_output=True).returncode == 0


def test_logs_are_imported(folder: Path) -> None:
    for name in ("lm_eval", "lmms_eval"):
        shutil.copytree(FIXTURES / "logs" / name, folder / "runs")
        look, do = commands(README, "Logs and tasks you have")
        # The first shows what would be read, and is not yet done.
        assert "base" in run(look, code=2) and not (folder / "results").exists()
        assert "results/old" in run(do)
        shutil.rmtree(folder / "runs")
        shutil.rmtree(folder / "results")


def test_the_page_on_logs(folder: Path) -> None:
    shutil.copytree(FIXTURES / "logs" / "lm_eval", folder / "lm_eval_out")
    page = DOCS / "import-logs.md"
    body = next(body for _, body in blocks(page) if body.startswith("# map.yaml"))
    (folder / "map.yaml").write_text(body)
    names = re.findall(r"path: ([\w/]+)", body)
    for name in ["qwen-base", *names]:
        answers = [1, 0, 1, 1]
        tasks = {task: lm_rows(answers) for task in ("pixmocount", "pathvqa", "ai2d", "mmvet")}
        tasks["arc_easy"] = lm_rows(answers, "acc_norm")
        tasks["gsm8k"] = lm_rows(answers, filters=("strict-match", "flexible-extract"))
        write_lm(folder / "logs" / name, tasks)
    look, do, judge, with_map = commands(page)
    run(look, code=2)
    run(do)
    run(judge)
    assert (folder / "results" / "mine" / "leaderboard.csv").is_file()
    run(f"{with_map} --replace")  # the page has another study of that name above


def test_tasks_are_exported(folder: Path) -> None:
    written = {
        "study": "exported", "base": {"path": "base"},
        "suite": {
            "held_out": ["chartqa"],
            "sources": {"chartqa": {"path": str(FIXTURES / "data" / "chartqa.parquet")}},
        },
    }  # fmt: skip
    (folder / "checkpoints.yaml").write_text(yaml.safe_dump(written))
    (line,) = commands(DOCS / "lm-eval.md")
    run(line)
    assert (folder / "my_tasks" / "forgeteval_chartqa.yaml").is_file()


def test_the_machine_is_looked_at() -> None:
    assert "torch" in run("forgeteval doctor")
    assert "forgeteval doctor" in commands(DOCS / "reproduce.md")


RUN = {
    ("README.md", "Your own study"), ("README.md", "In CI"),
    ("README.md", "Logs and tasks you have"), ("README.md", "Several GPUs, several machines"),
    ("ci.md", "Scores that you have"), ("ci.md", "A policy"), ("ci.md", "A repository of results"),
    ("strategies.md", "Audit"), ("reproduce.md", "1. Install"),
}  # fmt: skip
RUN_WHOLE = {"drift.md", "engines.md", "import-logs.md", "scaling.md"}


def test_nothing_printed_is_left_out() -> None:
    """A new command in a page is either run above or named, with its reason."""
    patterns = [re.escape(text).replace(r"\.\.\.", ".*") for text in ELSEWHERE]
    run_above = {line for name, heading in RUN for line in commands(_page(name), heading)} | {
        line for name in RUN_WHOLE for line in commands(_page(name))
    }
    run_above |= {"git diff --exit-code -- results", *commands(DOCS / "lm-eval.md")}
    printed = {
        line
        for page in PAGES
        if page.name not in ("cli.md", "manifest.md")
        for line in lines(page)
        if re.match(r"(forgeteval|make|git|pip|python3?|hf|lm_eval) ", line)
    }
    left = {
        line
        for line in printed - run_above
        if not any(re.fullmatch(pattern, line) for pattern in patterns)
    }
    assert left == set()
    unused = [p for p in patterns if not any(re.fullmatch(p, line) for line in printed)]
    assert unused == [], "a reason for a command that no page prints"


def _page(name: str) -> Path:
    return README if name == "README.md" else DOCS / name
