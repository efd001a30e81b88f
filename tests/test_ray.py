"""Ray: actors instead of processes, and nothing else is different. A real Ray on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from crew import CrewEngine, crew
from crew_study import (
    N_ANSWERS,
    N_CELLS,
    alive,
    computed,
    drive,
    files_of,
    make_plan,
    store,
    whole,
)

from harness.errors import UserError
from harness.executors import ray_cluster
from harness.executors.messages import Setup
from harness.executors.ray_cluster import Cluster, RayExecutor

__all__ = ["store", "whole"]


def of_ray(folder: Path, n: int = 2, wait: float = 0.0, address: str | None = None) -> RayExecutor:
    setup = Setup(crew(folder, wait), CrewEngine.identity)
    return RayExecutor(setup, Cluster(address, n), "hf", {"device": "cpu"})


def pids(folder: Path) -> list[int]:
    """Processes that loaded a checkpoint, in that order."""
    file = folder / "loads"
    lines = file.read_text().splitlines() if file.exists() else []
    return list(dict.fromkeys(int(line.split()[0]) for line in lines))


@pytest.mark.slow
def test_an_actor_killed_in_mid_cell_is_replaced_and_the_bytes_are_the_same(store, tmp_path, whole):
    executor = of_ray(tmp_path, wait=0.01)

    def strike() -> None:
        while len(pids(tmp_path)) < 2 or len(computed(tmp_path)) < 300:
            time.sleep(0.02)
        os.kill(pids(tmp_path)[0], signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, executor)
    thread.join()
    assert (outcome.n_sealed, outcome.failures, outcome.n_lost) == (N_CELLS, [], 1)
    assert len(pids(tmp_path)) >= 2
    assert files_of(store) == whole
    # Only what was in flight in the dead actor was computed twice.
    assert N_ANSWERS <= len(computed(tmp_path)) <= N_ANSWERS + 2 * 64


DRIVER = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from crew_study import drive, make_plan
from harness.storage.store import Store
from test_ray import of_ray
folder = Path(sys.argv[1])
store = Store(folder / "results" / "study")
drive(make_plan(store, folder / "ckpt"), store, of_ray(folder, wait=0.01))
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_no_actor_and_the_next_one_goes_on(store, tmp_path, whole):
    script = DRIVER.format(path=[str(Path(__file__).parent)])
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    try:
        while len(pids(tmp_path)) < 2 or len(computed(tmp_path)) < 300:
            assert driver.poll() is None
            time.sleep(0.02)
    finally:
        driver.kill()
        driver.wait()
    left = pids(tmp_path)
    until = time.monotonic() + 60
    while any(map(alive, left)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, left))
    n = len(computed(tmp_path))
    assert drive(make_plan(store, tmp_path / "ckpt"), store, of_ray(tmp_path)).failures == []
    assert files_of(store) == whole
    assert len(computed(tmp_path)) - n < N_ANSWERS - 100, "stored answers were asked for again"


# --- Without a cluster ---------------------------------------------------------------------------


def score(folder: Path, *arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    program = f"{code}\nimport sys\nfrom harness.cli import main\nmain()"
    command = [sys.executable, "-c", program, "score", "study.yaml", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from faults import write_place

    folder = tmp_path_factory.mktemp("ray")
    write_place(folder)
    return folder


HIDDEN = "import sys; sys.modules['ray'] = None"


def test_without_ray_a_message_says_what_to_install(study: Path):
    done = score(study, "--executor", "ray", code=HIDDEN)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert said == (
        "error: --executor ray: Ray is not installed; install it with: pip install "
        "'forgeteval[ray]'"
    )


def test_an_address_needs_the_ray_executor(study: Path):
    done = score(study, "--address", "auto", "--workers", "2")
    assert done.returncode == 2 and "--address: is for --executor ray" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:9", "127.0.0.1:9"])
def test_an_address_where_no_cluster_is(study: Path, address: str):
    if address == "auto" and shutil.which("ray") and Path("/tmp/ray/ray_current_cluster").exists():
        pytest.skip("a cluster runs on this machine")
    done = score(study, "--executor", "ray", "--address", address)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "Traceback" not in said
    assert f"error: --address: no Ray cluster at '{address}'" in said


@pytest.mark.slow
def test_a_cluster_that_died_is_given_up_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is the cluster that was started last here; its file outlives a kill."""
    services = pytest.importorskip("ray._private.services")
    monkeypatch.setattr(services, "find_gcs_addresses", set)  # another test's cluster is none
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "ray").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    with pytest.raises(UserError, match=r"no Ray cluster at 'auto' .*refused"):
        ray_cluster._knock("auto")


class NoRay:
    """What the executor asks of Ray before it makes an actor."""

    def __init__(self, **resources: float):
        self.resources = resources
        self.asked: dict[str, Any] = {}

    def init(self, **wanted: Any) -> None:
        self.wanted = wanted

    def shutdown(self) -> None:
        pass

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, kind: type) -> NoRay:
        return self

    def options(self, **asked: Any) -> NoRay:
        self.asked = asked
        return self


def placed(monkeypatch: pytest.MonkeyPatch, cluster: Cluster, kind: str, options: dict[str, Any],
           **resources: float) -> tuple[RayExecutor, NoRay]:  # fmt: skip
    ray = NoRay(**resources)
    monkeypatch.setattr(ray_cluster, "_imported", lambda: ray)
    monkeypatch.setattr("harness.executors.devices._installed", lambda name: name == "vllm")
    return RayExecutor(Setup(int, {}), cluster, kind, options), ray  # type: ignore[arg-type]


def test_an_actor_asks_for_the_gpus_of_its_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    wide = {"tensor_parallel_size": 4}
    executor, ray = placed(monkeypatch, Cluster("auto"), "vllm", wide, GPU=16, CPU=64)
    assert executor.most == 4 and ray.asked["num_gpus"] == 4
    # A cluster that can grow may be asked for more than it has now.
    executor, _ = placed(monkeypatch, Cluster("auto", 32), "vllm", wide, GPU=16, CPU=64)
    assert executor.most == 32
    executor, ray = placed(monkeypatch, Cluster("auto"), "hf", {}, CPU=8)
    assert executor.most == 8 and ray.asked["num_cpus"] == 1 and "num_gpus" not in ray.asked
    executor, ray = placed(monkeypatch, Cluster(), "hf", {}, CPU=8, GPU=2)
    assert executor.most == 2 and ray.wanted["address"] == "local"
    assert ray.wanted["include_dashboard"] is False and ray.wanted["log_to_driver"] is False


def test_no_gpus_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError) as error:
        placed(monkeypatch, Cluster(None, 2), "hf", {"device": "cuda"}, CPU=8, GPU=1)
    assert str(error.value) == (
        "--executor ray: 2 workers need 2 GPUs (1 each), this machine has 1; use --workers 1, or "
        "set engine.device to cpu"
    )


def test_ray_tells_nobody_about_the_run():
    assert os.environ.get("RAY_USAGE_STATS_ENABLED", "0") == "0"
    assert ray_cluster.SETTINGS["RAY_USAGE_STATS_ENABLED"] == "0"
