"""Several real engines on a real study: killed workers and writers leave the bytes of one engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from crew_study import alive
from test_sweep_micro import cells, forgeteval, n_files, place, score, whole

pytestmark = pytest.mark.slow
__all__ = ["place", "whole"]

WORKERS = {"local": "harness.executors.worker", "ray": "ray::Actor"}


def parents(pid: int) -> Iterator[int]:
    """The processes above `pid`."""
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return
        yield pid


def workers_of(driver: int, executor: str) -> list[int]:
    """The workers that a running `forgeteval score` has."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        pid = int(folder.name)
        if WORKERS[executor] in words and driver in parents(pid):
            found.append(pid)
    return found


def tables(results: Path) -> dict[str, bytes]:
    """The three CSV files."""
    done = forgeteval("compare", results / "shaken")
    assert done.returncode == 0, done.stderr
    names = ("scores.csv", "deltas.csv", "leaderboard.csv")
    return {name: (results / "shaken" / name).read_bytes() for name in names}


def bytes_of(results: Path) -> dict[str, bytes]:
    folder = results / "shaken"
    found = [
        folder / "study.json",
        *(folder / "cells").rglob("*.*"),
        *(folder / "samples").iterdir(),
    ]
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(found)}


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_an_undisturbed_sweep_leaves_every_byte_of_one_engine(place: Path, whole, executor: str):
    results = place / f"two-{executor}"
    score(place / "study.yaml", results, "--executor", executor, "--workers", "2")
    assert bytes_of(results) == bytes_of(place / "whole")
    assert tables(results) == tables(place / "whole")


@pytest.mark.parametrize("executor", ["local", "ray"])
def test_a_killed_worker_and_a_killed_driver_leave_the_same_tables(
    place: Path, whole, executor: str
):
    results = place / f"killed-{executor}"
    command = [sys.executable, "-m", "harness", "score", str(place / "study.yaml"), "--results",
               str(results), "--executor", executor, "--workers", "2"]  # fmt: skip
    said = (place / f"{executor}.out").open("w+")
    driver = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        wait_for(driver, lambda: n_files(results) >= 1 if (results / "shaken").exists() else False)
        victims = workers_of(driver.pid, executor)
        assert 1 <= len(victims) <= 2
        os.kill(victims[0], signal.SIGKILL)
        before = n_files(results)
        wait_for(driver, lambda: n_files(results) > before + 1)
        left = workers_of(driver.pid, executor)
    finally:
        driver.kill()
        driver.wait()
    until = time.monotonic() + 60
    while any(map(alive, left)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, left)), "a worker outlived its driver"
    assert len(cells(results)) < 12, "it was done before it could be killed"
    score(place / "study.yaml", results, "--executor", executor, "--workers", "2")
    assert cells(results) == whole
    assert tables(results) == tables(place / "whole")


# A cluster of two machines, as far as Ray knows; a line of input kills the second.
MACHINES = """
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
second = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
if input():
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
    input()
cluster.shutdown()
"""


def test_a_machine_that_dies_leaves_the_same_tables(place: Path, whole, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # Nobody else finds this cluster. Sockets want short paths.
    private = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", private)
    results = place / "machines"
    cluster = subprocess.Popen(
        [sys.executable, "-c", MACHINES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    said = (place / "machines.out").open("w+")
    try:
        address = cluster.stdout.readline().strip()
        command = [sys.executable, "-m", "harness", "score", str(place / "study.yaml"), "--results",
                   str(results), "--executor", "ray", "--address", address, "--workers", "2"]  # fmt: skip
        driver = subprocess.Popen(command, stdout=said, stderr=said)
        wait_for(driver, lambda: n_files(results) >= 1 if (results / "shaken").exists() else False)
        cluster.stdin.write("kill\n")
        cluster.stdin.flush()
        assert cluster.stdout.readline() == "killed\n"
        assert driver.wait(timeout=300) == 0
    finally:
        driver.kill()
        cluster.communicate("\n", timeout=60)
        shutil.rmtree(private, ignore_errors=True)
    said.seek(0)
    assert "Workers died" in said.read()
    assert cells(results) == whole
    assert tables(results) == tables(place / "whole")


def wait_for(driver: subprocess.Popen[bytes], seen) -> None:
    until = time.monotonic() + 300
    while not seen() and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    assert driver.poll() is None, "it ended before it was struck"


def test_a_dry_run_forecasts_from_what_was_measured(place: Path, whole):
    study = place / "study.yaml"
    done = forgeteval("score", study, "--results", place / "new", "--dry-run", "--workers", "2")
    assert "With several workers: time unknown" in done.stdout
    done = forgeteval(
        "score", study, "--results", place / "whole", "--dry-run", "--workers", "2", "--json"
    )
    assert "workers" not in json.loads(done.stdout)
    (place / "new" / ".cache").mkdir(parents=True, exist_ok=True)
    rates = (place / "whole" / ".cache" / "rates.json").read_text()
    (place / "new" / ".cache" / "rates.json").write_text(rates)
    done = forgeteval(
        "score", study, "--results", place / "new", "--dry-run", "--workers", "2", "--json"
    )
    forecast = json.loads(done.stdout)["workers"]
    assert forecast["n_workers"] == 2 and 4 <= forecast["n_loads"] <= 6
    assert 0 < forecast["bound"] <= forecast["seconds"] and 0 <= forecast["idle_share"] < 1
    done = forgeteval("score", study, "--results", place / "new", "--dry-run", "--workers", "2")
    said = " ".join(done.stdout.split())
    assert "With 2 workers: about" in said and "checkpoints are loaded" in said
