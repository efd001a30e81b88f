"""The whole program on real checkpoints: what was answered depends on nothing but the question.

A study of the shipped base and three shaken copies of it (no training, so that it is quick): one
differs in the language model, one in a single component, one in the vision tower too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

TASKS = ("micro_color", "micro_count", "micro_choice")


def shaken(base: Path, folder: Path, seed: int, part: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(tensors.items()):
        if part in name:
            noise = torch.randn(tensor.shape, generator=generator)
            tensors[name] = tensor + 0.9 * tensor.std() * noise
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from harness.micro.study import BASE_FOLDER, write_data

    folder = tmp_path_factory.mktemp("sweep")
    write_data(folder)
    shutil.copytree(BASE_FOLDER, folder / "ckpt/base")
    for k, part in enumerate(("layers", "gate_proj", ""), start=1):
        shaken(folder / "ckpt/base", folder / f"ckpt/{k}", k, part)
    manifest = {
        "study": "shaken",
        "base": "ckpt/base",
        "suite": {
            "targets": [TASKS[1]],
            "held_out": [TASKS[0], TASKS[2]],
            "sources": {name: {"path": f"data/{name}.parquet"} for name in TASKS},
            "limit": 24,
        },
        "strategies": {
            "s": {"stages": [{"path": f"ckpt/{k}", "trained_on": TASKS[1]} for k in (1, 2, 3)]}
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def forgeteval(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def score(manifest: Path, results: Path, *more: str) -> None:
    done = forgeteval("score", manifest, "--results", results, *more)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]


def cells(results: Path) -> dict[str, object]:
    """Everything stored but the last bits of probabilities, which a batch's shape may change."""
    import pyarrow.parquet as pq

    folder = results / "shaken" / "cells"
    found: dict[str, object] = {}
    for file in sorted(folder.rglob("*.parquet")):
        table = pq.read_table(file)
        metadata = json.loads(table.schema.metadata[b"forgeteval"])
        rows = table.drop_columns(["class_mass"]).to_pylist()
        found[str(file.relative_to(folder))] = (metadata["signature"], metadata["n"], rows)
    return found


def n_files(results: Path) -> int:
    return len(list((results / "shaken" / "cells").rglob("*.*")))


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, object]:
    score(place / "study.yaml", place / "whole")
    found = cells(place / "whole")
    assert len(found) == 12 and len({str(rows) for _, _, rows in found.values()}) > 9
    return found


def variant(place: Path, name: str, **changes: object) -> Path:
    manifest = yaml.safe_load((place / "study.yaml").read_text()) | changes
    file = place / f"{name}.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return file


@pytest.mark.parametrize("batch_size", [1, 7])
def test_answers_do_not_depend_on_the_batch_size(place: Path, whole, batch_size: int):
    engine = {"kind": "hf", "batch_size": batch_size}
    manifest = variant(place, f"batch{batch_size}", engine=engine)
    score(manifest, place / f"batch{batch_size}")
    assert cells(place / f"batch{batch_size}") == whole


def test_answers_do_not_depend_on_which_checkpoints_ran_before(place: Path, whole):
    """Each checkpoint in a fresh process gives the very cells of the sweep (weights swapped)."""
    for stage in ("1", "2", "3"):
        score(place / "study.yaml", place / f"alone{stage}", "--only", f"s@{stage}")
        alone = cells(place / f"alone{stage}")
        assert len(alone) == 6 and alone.items() <= whole.items()
    order = {"s": {"stages": [{"path": f"ckpt/{k}"} for k in (3, 1, 2)]}}
    score(variant(place, "order", strategies=order), place / "order")
    assert cells(place / "order") == whole


def test_answers_do_not_depend_on_which_tasks_ran_or_in_which_order(place: Path, whole):
    suite = {
        "held_out": [TASKS[2], TASKS[1]],
        "sources": {name: {"path": f"data/{name}.parquet"} for name in TASKS[1:]},
        "limit": 24,
    }
    strategies = {"s": {"stages": [{"path": "ckpt/1"}]}}
    manifest = variant(place, "tasks", suite=suite, strategies=strategies)
    score(manifest, place / "tasks")
    some = cells(place / "tasks")
    assert len(some) == 4 and some.items() <= whole.items()


def test_requests_in_another_order_get_the_same_answers(place: Path, whole):
    import pyarrow.parquet as pq

    data = place / "shuffled"
    data.mkdir()
    for name in TASKS:
        table = pq.read_table(place / f"data/{name}.parquet")
        order = list(range(table.num_rows))
        random.Random(1).shuffle(order)
        pq.write_table(table.take(order), data / f"{name}.parquet")
    suite = yaml.safe_load((place / "study.yaml").read_text())["suite"]
    suite["sources"] = {name: {"path": f"shuffled/{name}.parquet"} for name in TASKS}
    score(variant(place, "shuffle", suite=suite), place / "shuffle")
    ours = answers(place / "shuffle")
    assert ours == answers(place / "whole") and len(ours) == 12 * 24


def answers(results: Path) -> dict[tuple[str, str], str]:
    import pyarrow.parquet as pq

    found = {}
    for file in (results / "shaken" / "cells").rglob("*.parquet"):
        table = pq.read_table(file)
        signature = json.loads(table.schema.metadata[b"forgeteval"])["signature"]
        for row in table.to_pylist():
            found[signature["checkpoint"], row["sample_id"]] = row["text"]
    return found


def test_killed_again_and_again_ends_with_the_same_bytes(place: Path, whole):
    """kill -9 at random moments; then a last run does what is owed and the CSVs are the same."""
    results = place / "killed"
    manifest = place / "study.yaml"
    rng = random.Random(0)
    command = [sys.executable, "-m", "harness", "score", str(manifest), "--results", str(results)]
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        # Wait until it writes, so that the kill falls into the sweep and not into imports.
        before = len(cells(results)) if results.exists() else 0
        until = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < until:
            if (
                results.exists()
                and (results / "shaken/cells").exists()
                and len(cells(results)) > before
            ):
                break
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    score(manifest, results)
    assert cells(results) == whole
    for folder in ("whole", "killed"):
        done = forgeteval("compare", place / folder / "shaken")
        assert done.returncode == 0, done.stderr
    for name in ("scores.csv", "deltas.csv", "leaderboard.csv"):
        one, other = (place / f / "shaken" / name for f in ("whole", "killed"))
        assert one.read_bytes() == other.read_bytes()


def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(place: Path, whole):
    results = place / "stopped"
    command = [sys.executable, "-m", "harness", "score", str(place / "study.yaml"),
               "--results", str(results)]  # fmt: skip
    for stop in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        before = n_files(results)
        while process.poll() is None and n_files(results) == before:
            time.sleep(0.01)
        process.send_signal(stop)
        out, err = process.communicate(timeout=60)
        assert "Traceback" not in err
        assert process.returncode == 130 and "Go on with: forgeteval score" in out
    score(place / "study.yaml", results)
    assert cells(results) == whole


def test_a_second_run_says_that_nothing_is_owed(place: Path, whole):
    done = forgeteval("score", place / "study.yaml", "--results", place / "whole")
    assert "Nothing to do: all 12 cells of shaken are scored." in done.stdout
