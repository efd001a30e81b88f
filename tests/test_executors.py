"""Several workers, one writer: the store is that of one engine, whatever dies on the way."""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from crew import CrewEngine, crew, raising, say
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
from hypothesis import given, settings
from hypothesis import strategies as st
from replay import ReplayEngine
from test_run import make_plan as paper_plan

from harness.errors import DataError, UserError
from harness.executors import Workers, devices, owed_cells
from harness.executors.local import LocalExecutor
from harness.executors.messages import Died, Event, Job, Said, Setup, TaskRequests, Up
from harness.executors.worker import Worker
from harness.plan import Benchmark, Plan
from harness.report.live import JsonLines, PlainLines, Quiet
from harness.run import Outcome, sweep
from harness.schedule import Costs
from harness.storage.store import Store
from harness.types import Checkpoint, Request

__all__ = ["store", "whole"]

# --- The driver, with workers in this process ----------------------------------------------------


class InMemory:
    """Workers without processes: each call of `events` lets one of them say one thing, or die."""

    def __init__(self, most: int, make: Callable[[], Any], rng: random.Random, deaths: int = 0):
        self.most, self.make, self.rng, self.deaths = most, make, rng, deaths
        self.workers: dict[int, Worker] = {}
        self.saying: dict[int, Iterator[Said]] = {}
        self.sent: list[Job] = []
        self.closed = False

    def start(self, worker: int) -> None:
        assert worker not in self.workers and worker < self.most
        self.workers[worker] = Worker(Setup(self.make, {}))
        self.saying[worker] = iter([Up("here", worker)])

    def send(self, worker: int, job: Job, requests: Sequence[Request]) -> None:
        assert worker not in self.saying, "it is busy"
        job, sent = pickle.loads(pickle.dumps((job, TaskRequests(job.cell.task, requests))))
        self.sent.append(job)
        self.workers[worker].learn(sent)
        self.saying[worker] = self.workers[worker].run(job)

    def events(self, seconds: float) -> Iterator[Event]:
        if not self.saying:
            return
        worker = self.rng.choice(sorted(self.saying))
        if self.deaths and self.rng.random() < 0.1:
            self.deaths -= 1
            self.discard(worker)
            yield Event(worker, Died("was killed by a test", "last words"))
            return
        said = next(self.saying[worker], None)
        if said is None:
            del self.saying[worker]
        else:
            yield Event(worker, said)
            # A job's last word: the worker is free.
            if type(said).__name__ in ("Up", "Finished", "Failed"):
                self.saying.pop(worker, None)

    def discard(self, worker: int) -> None:
        self.workers.pop(worker, None)
        self.saying.pop(worker, None)

    def stop(self, seconds: float) -> Iterator[Event]:
        return iter(())

    def close(self) -> None:
        self.closed = True


SWEEPS = {
    "seed": st.integers(0, 10**6), "n_workers": st.integers(1, 5), "deaths": st.integers(0, 12),
    "shard": st.sampled_from([0.0, 30.0]),
}  # fmt: skip


@given(**SWEEPS)
@settings(max_examples=2, deadline=None)
def test_the_store_is_that_of_one_engine_whatever_workers_die(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n_workers: int, deaths: int, shard: float
):
    play(tmp_path_factory.mktemp("drive"), seed, n_workers, deaths, shard)


@pytest.mark.slow
@given(**SWEEPS)
@settings(max_examples=40, deadline=None)
def test_the_same_for_many_sweeps(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n_workers: int, deaths: int, shard: float
):
    play(tmp_path_factory.mktemp("drive"), seed, n_workers, deaths, shard)


def play(tmp_path: Path, seed: int, n_workers: int, deaths: int, shard: float) -> None:
    """A sweep with deaths, then one without: the bytes are those of one engine."""
    one = Store(tmp_path / "one" / "study")
    sweep(make_plan(one, tmp_path / "ckpt"), one, "fixed", lambda: ReplayEngine(say), Quiet())
    store = Store(tmp_path / "many" / "study")
    plan = make_plan(store, tmp_path / "ckpt")
    executor = InMemory(n_workers, lambda: ReplayEngine(say), random.Random(seed), deaths)
    send = executor.send

    def checked_send(worker: int, job: Job, requests: Sequence[Request]) -> None:
        done = store.journal(job.cell.task, job.cell.signature).done
        assert not done.keys() & set(job.sample_ids), "a stored answer is asked for again"
        send(worker, job, requests)

    executor.send = checked_send  # type: ignore[method-assign]
    outcome = drive(plan, store, executor, Costs(1, 0.1, 0.01, shard=shard))
    assert executor.closed
    if not outcome.failures:  # three deaths in a row of one cell are its failure
        assert (outcome.n_answered, outcome.n_sealed) == (N_ANSWERS, N_CELLS)
    again = drive(make_plan(store, tmp_path / "ckpt"), store,
                  InMemory(2, lambda: ReplayEngine(say), random.Random(seed)))  # fmt: skip
    assert again.failures == []
    assert files_of(store) == files_of(one)


def test_what_an_earlier_run_answered_is_not_asked_again(store: Store, tmp_path: Path, whole):
    engine = ReplayEngine(say, stop_after=333)
    assert sweep(
        make_plan(store, tmp_path / "ckpt"), store, "fixed", lambda: engine, Quiet()
    ).interrupted
    asked: list[tuple[str, str]] = []

    def make() -> ReplayEngine:
        made = ReplayEngine(say)
        made.asked = asked
        return made

    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, InMemory(2, make, random.Random(0)))
    assert (outcome.n_answered, len(asked)) == (N_ANSWERS - 333, N_ANSWERS - 333)
    assert files_of(store) == whole


def test_a_journal_with_every_answer_is_sealed_without_an_engine(
    store: Store, tmp_path: Path, whole
):
    plan = make_plan(store, tmp_path / "ckpt", 1)
    sweep(plan, store, "fixed", lambda: ReplayEngine(say), Quiet())
    cell = plan.cells[0]
    sealed = store.cell_file(cell.task, cell.id)
    journal = store.journal(cell.task, cell.signature)
    predictions = list(journal.done.values())
    sealed.unlink()
    store.journal(cell.task, cell.signature).append(predictions)

    def no_engine() -> ReplayEngine:
        raise AssertionError("an engine was started for nothing")

    outcome = drive(
        make_plan(store, tmp_path / "ckpt", 1), store, InMemory(2, no_engine, random.Random(0))
    )
    assert (outcome.n_answered, outcome.n_sealed, outcome.failures) == (0, 1, [])


def test_a_checkpoint_that_cannot_be_loaded_is_reported_once_and_the_rest_is_done(store, tmp_path):
    executor = InMemory(2, lambda: ReplayEngine(say, broken=["f1"]), random.Random(0))
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, executor)
    assert outcome.n_sealed == 4 and outcome.exit_code == 6
    assert [f.what for f in outcome.failures] == ["s stage1"]
    assert "lm_head.weight is missing" in outcome.failures[0].why


def test_a_task_that_cannot_be_read_is_reported_once_and_the_rest_is_done(store, tmp_path):
    def load() -> Any:
        raise DataError("a", "column 'answer' is missing; found: question")

    plan = make_plan(store, tmp_path / "ckpt")
    broken = Benchmark(plan.benchmarks["a"].task, "held_out", "a" * 16, 200, load)
    plan = Plan({**plan.benchmarks, "a": broken}, plan.stages, plan.cells)
    outcome = drive(plan, store, InMemory(2, lambda: ReplayEngine(say), random.Random(0)))
    assert outcome.n_sealed == 3 and [f.what for f in outcome.failures] == ["a"]


class Poisoned(ReplayEngine):
    """Raises at one question of one checkpoint."""

    def generate(self, requests):
        for prediction in super().generate(requests):
            if (self.current.fingerprint, prediction.sample_id) == ("f1", "7"):
                raise RuntimeError("CUDA error: illegal memory access")
            yield prediction

    log_likelihood = generate


def test_a_cell_that_engines_die_of_is_a_failure_and_the_rest_is_done(store, tmp_path):
    executor = InMemory(2, lambda: Poisoned(say), random.Random(0))
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, executor)
    assert sorted(f.what for f in outcome.failures) == ["s stage1, a", "s stage1, b"]
    why = outcome.failures[0].why
    assert why.startswith("engine: died with RuntimeError: CUDA error: illegal memory access; what")
    (named, *_) = [word for word in why.split() if word.startswith("logs/")]
    assert "Traceback" in (store.folder / named).read_text()
    assert outcome.n_sealed == 4 and outcome.n_restarts == 2
    # What was answered of the cells is kept.
    again = drive(
        make_plan(store, tmp_path / "ckpt"),
        store,
        InMemory(2, lambda: ReplayEngine(say), random.Random(0)),
    )
    assert again.n_sealed == 2 and again.n_answered <= 2 * 200 - 2 * 64


def test_an_engine_that_leaves_requests_unanswered_is_not_believed(store, tmp_path):
    class Silent(ReplayEngine):
        def generate(self, requests):
            yield from ()

    outcome = drive(
        make_plan(store, tmp_path / "ckpt", 1),
        store,
        InMemory(2, lambda: Silent(say), random.Random(0)),
    )
    assert {f.what for f in outcome.failures} == {"stage0, a", "stage0, b"}
    assert "engine: ended without answering 200 requests, the first '0'" in outcome.failures[0].why


def test_a_worker_whose_machine_does_not_see_the_files_is_not_used(store, tmp_path):
    class Blind(InMemory):
        def send(self, worker: int, job: Job, requests: Sequence[Request]) -> None:
            super().send(worker, job, requests)
            if worker == 0:
                gone = Checkpoint("/nowhere/ckpt", job.cell.checkpoint.fingerprint, "/nowhere/ckpt")
                cell = type(job.cell)(job.cell.task, gone, job.cell.signature, 200, True)
                self.saying[0] = self.workers[0].run(Job(job.id, cell, job.sample_ids))

    outcome = drive(
        make_plan(store, tmp_path / "ckpt"),
        store,
        Blind(2, lambda: ReplayEngine(say), random.Random(0)),
    )
    assert outcome.n_sealed == N_CELLS and outcome.failures == []
    (notice,) = outcome.notices
    assert notice == (
        "worker 0 on here: /nowhere/ckpt: no such folder on this machine; checkpoints and data "
        "must lie on a file system that all machines of the sweep see"
    )


def test_workers_with_another_library_are_refused_and_a_sweep_without_any_says_why(store, tmp_path):
    class Foreign(InMemory):
        def start(self, worker: int) -> None:
            super().start(worker)
            self.workers[worker] = Worker(Setup(self.make, {"library": "tests 1"}))

    with pytest.raises(UserError, match="another one than the study's: library is 'tests 0' and"):
        drive(
            make_plan(store, tmp_path / "ckpt"),
            store,
            Foreign(2, lambda: ReplayEngine(say), random.Random(0)),
        )


def test_a_worker_that_sees_other_pictures_is_not_used():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Picture:
        sha256: str

    plan_cell = paper_plan(Store(Path("nowhere")), 1).cells[0]
    checkpoint = Checkpoint("/", "f0", "/")
    cell = type(plan_cell)("a", checkpoint, plan_cell.signature, 1, True)
    worker = Worker(Setup(lambda: ReplayEngine(say), {}))
    request = Request("0", (0, "?"), (Picture("aa"),), None)  # type: ignore[arg-type]
    worker.learn(TaskRequests("a", [request]))
    assert type(list(worker.run(Job(1, cell, ("0",), "aa")))[-1]).__name__ == "Finished"
    worker = Worker(Setup(lambda: ReplayEngine(say), {}))
    worker.learn(TaskRequests("a", [request]))
    last = list(worker.run(Job(1, cell, ("0",), "bb")))[-1]
    assert "a: its pictures cannot be read on this machine" in last.text  # type: ignore[union-attr]


def test_answers_that_nobody_asked_for_are_not_stored(store, tmp_path):
    class Chatty(ReplayEngine):
        def generate(self, requests):
            from dataclasses import replace

            for prediction in super().generate(requests):
                yield prediction
                yield replace(prediction, text="twice")
                yield replace(prediction, sample_id="another")

    plan = make_plan(store, tmp_path / "ckpt", 1)
    outcome = drive(plan, store, InMemory(1, lambda: Chatty(say), random.Random(0)))
    assert outcome.failures == [] and outcome.n_answered == 400
    rows = store.read_cell("a", plan.cells[0].id)[0].to_pylist()
    assert len(rows) == 200 and not any(row["sample_id"] == "another" for row in rows)


def test_workers_are_shown(store, tmp_path, capsys):
    from rich.console import Console

    watch = PlainLines(Console(width=200))
    drive(
        make_plan(store, tmp_path / "ckpt"),
        store,
        InMemory(2, lambda: ReplayEngine(say), random.Random(0)),
        watch=watch,
    )
    out = capsys.readouterr().out
    assert "worker 0: loading" in out and "worker 1: loading" in out
    assert "1,200/1,200 samples" in out
    other = Store(tmp_path / "other" / "study")
    drive(
        make_plan(other, tmp_path / "ckpt"),
        other,
        InMemory(2, lambda: ReplayEngine(say), random.Random(0)),
        watch=JsonLines(),
    )
    import json

    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    sealed = [e for e in events if e["event"] == "sealed"]
    assert [e["cells"] for e in sealed] == [1, 2, 3, 4, 5, 6]
    assert {(e["checkpoint"], e["task"]) for e in sealed} == {
        (c, t) for c in ("stage0", "s stage1", "s stage2") for t in "ab"
    }
    assert {e["worker"] for e in events if e["event"] == "worker"} == {0, 1}


# --- Processes -----------------------------------------------------------------------------------


def local(folder: Path, n: int = 2, wait: float = 0.0, make: Any = None) -> LocalExecutor:
    return LocalExecutor(Setup(make or crew(folder, wait), CrewEngine.identity), [{}] * n)


def test_processes_leave_the_store_of_one_engine(store: Store, tmp_path: Path, whole):
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, local(tmp_path))
    assert (outcome.n_answered, outcome.n_sealed, outcome.failures) == (N_ANSWERS, N_CELLS, [])
    assert files_of(store) == whole
    said = computed(tmp_path)
    assert len(said) == N_ANSWERS
    assert set(Counter(said).values()) == {2}  # both tasks ask the same questions
    loads = [line.split() for line in (tmp_path / "loads").read_text().splitlines()]
    assert len({pid for pid, _ in loads}) <= 2 and str(os.getpid()) not in {pid for pid, _ in loads}


@pytest.mark.slow
def test_a_cell_that_kills_its_workers_is_a_failure_and_the_rest_is_done(store, tmp_path, whole):
    (tmp_path / "ask-f1-question 7").write_text("")  # whoever asks this of f1 dies
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, local(tmp_path))
    assert sorted(f.what for f in outcome.failures) == ["s stage1, a", "s stage1, b"]
    assert (
        "worker: 3 in a row died of it; the last one was killed by SIGKILL"
        in outcome.failures[0].why
    )
    assert outcome.n_sealed == 4 and outcome.n_lost >= 6
    (tmp_path / "ask-f1-question 7").unlink()
    again = drive(make_plan(store, tmp_path / "ckpt"), store, local(tmp_path))
    assert again.failures == [] and files_of(store) == whole


@pytest.mark.slow
def test_a_checkpoint_that_kills_its_workers_is_one_failure(store, tmp_path):
    (tmp_path / "load-f1").write_text("")
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, local(tmp_path))
    assert [f.what for f in outcome.failures] == ["s stage1"] and outcome.n_sealed == 4


@pytest.mark.slow
def test_workers_that_are_killed_are_replaced_and_nothing_stored_is_asked_again(
    store, tmp_path, whole
):
    (tmp_path / "load-f0").write_text("1")
    (tmp_path / "ask-f2-question 150").write_text("2")
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, local(tmp_path))
    assert outcome.failures == [] and outcome.n_lost == 3
    assert files_of(store) == whole
    # In flight when it died: less than a group of answers that are flushed together.
    assert len(computed(tmp_path)) <= N_ANSWERS + 2 * 64


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_sweep_with_their_words(store, tmp_path):
    class Broken(LocalExecutor):
        def start(self, worker: int) -> None:
            super().start(worker)
            os.kill(self._processes[worker].process.pid, signal.SIGKILL)

    broken = Broken(Setup(crew(tmp_path), {}), [{}] * 2)
    with pytest.raises(UserError, match=r"worker . did not come up: it was killed by SIGKILL"):
        drive(make_plan(store, tmp_path / "ckpt"), store, broken)


@pytest.mark.slow
def test_an_engine_that_cannot_be_made_is_told_as_with_one_engine(store, tmp_path):
    make = partial(raising, "libcudart.so.12: cannot open shared object file")
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, local(tmp_path, make=make))
    assert {f.what for f in outcome.failures} == {"stage0", "s stage1", "s stage2"}
    assert "died with RuntimeError: libcudart.so.12" in outcome.failures[0].why


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_what_arrived_and_leaves_no_process(store, tmp_path, whole, number):
    executor = local(tmp_path, wait=0.005)
    pids: list[int] = []

    def strike() -> None:
        while not (tmp_path / "computed").exists() or len(computed(tmp_path)) < 300:
            time.sleep(0.01)
        pids.extend(known.process.pid for known in executor._processes.values())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=strike)
    thread.start()
    before = signal.getsignal(number)
    outcome = drive(make_plan(store, tmp_path / "ckpt"), store, executor)
    thread.join()
    assert outcome.interrupted and outcome.exit_code == 130
    assert signal.getsignal(number) is before
    assert len(pids) == 2 and not any(alive(pid) for pid in pids)
    # Everything computed arrived: workers hand over what they have before they end.
    assert outcome.n_answered == len(computed(tmp_path)) < N_ANSWERS
    assert drive(make_plan(store, tmp_path / "ckpt"), store, local(tmp_path)).failures == []
    assert len(computed(tmp_path)) == N_ANSWERS and files_of(store) == whole


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from crew_study import drive, make_plan
from harness.storage.store import Store
from test_executors import local
folder = Path(sys.argv[1])
store = Store(folder / "results" / "study")
drive(make_plan(store, folder / "ckpt"), store, local(folder, wait=0.005))
"""


@pytest.mark.slow
def test_workers_end_with_a_writer_that_was_killed(store, tmp_path, whole):
    script = KILLED.format(path=[str(Path(__file__).parent)])
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    try:
        while not (tmp_path / "computed").exists() or len(computed(tmp_path)) < 300:
            assert driver.poll() is None
            time.sleep(0.01)
    finally:
        driver.kill()
        driver.wait()
    pids = {int(line.split()[0]) for line in (tmp_path / "loads").read_text().splitlines()}
    until = time.monotonic() + 20
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(pids) == 2 and not any(map(alive, pids))
    assert drive(make_plan(store, tmp_path / "ckpt"), store, local(tmp_path)).failures == []
    assert files_of(store) == whole


# --- Devices and words ---------------------------------------------------------------------------


def test_each_worker_gets_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5, 6,7")
    monkeypatch.setattr(devices, "_installed", lambda name: name == "vllm")
    seen = devices.local_environments("vllm", {"tensor_parallel_size": 2}, 2)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["4,5", "6,7"]
    seen = devices.local_environments("hf", {}, 3)
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen] == ["4", "5", "6"]
    assert "CUDA_VISIBLE_DEVICES" not in devices.local_environments("hf", {"device": "cpu"}, 8)[0]


def test_more_workers_than_gpus_is_an_error_with_the_number_that_fits(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr(devices, "_installed", lambda name: name == "vllm")
    with pytest.raises(UserError) as error:
        devices.local_environments("vllm", {"tensor_parallel_size": 2}, 2)
    assert (
        str(error.value)
        == "--workers: 2 workers need 4 GPUs (2 each), this machine has 3; use --workers 1"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        UserError, match=r"this machine has 0; set engine.device to cpu, or use a machine with GPUs"
    ):
        devices.local_environments("hf", {"device": "cuda"}, 2)
    with pytest.raises(UserError, match="got 'cuda:1' with several workers"):
        devices.local_environments("hf", {"device": "cuda:1"}, 2)


def test_workers_on_cpus_share_the_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(devices, "cores", lambda: 16)
    assert devices.local_environments("hf", {}, 4)[3]["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "OMP_NUM_THREADS" not in devices.local_environments("hf", {}, 4)[3]


def test_what_does_not_go_together_is_said():
    with pytest.raises(UserError, match="--address: is for --executor ray"):
        Workers("local", 2, "auto").check()
    Workers("ray", None, "auto").check()
    assert Workers().alone and Workers(n=1).alone
    assert not Workers(n=2).alone and not Workers("ray", 1).alone


def test_owed_cells_count_what_is_answered(store: Store, tmp_path: Path):
    plan = make_plan(store, tmp_path / "ckpt")
    owed = owed_cells(plan, {plan.cells[1].id: 150})
    assert [item.n for item in owed] == [200, 50, 200, 200, 200, 200]
    assert [item.checkpoint for item in owed] == ["0", "0", "1", "1", "2", "2"]


def test_outcomes_name_lost_workers_and_notices(store, tmp_path, capsys):
    from types import SimpleNamespace

    from rich.console import Console

    from harness.report.plan_tables import print_outcome

    opened: Any = SimpleNamespace(
        store=store, plan=make_plan(store, tmp_path / "ckpt"), manifest=SimpleNamespace(study="x")
    )
    outcome = Outcome(n_answered=5, n_lost=2, notices=["worker 1 on gpu-2: no"])
    print_outcome(Console(width=200), opened, outcome, as_json=False)
    out = capsys.readouterr().out
    assert "Workers died 2 times; others took over what they owed." in out
    assert "not used: worker 1 on gpu-2: no" in out
    print_outcome(Console(), opened, outcome, as_json=True)
    assert '"workers_lost": 2' in capsys.readouterr().out


def test_a_terminal_shows_a_line_for_each_worker(monkeypatch):
    import io

    from rich.console import Console

    from harness.report.live import SHOWN_WORKERS, watching

    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    with watching(Console(file=out, force_terminal=True, width=100)) as watch:
        watch.begin(100, 2)
        for number in range(SHOWN_WORKERS + 3):
            watch.worker(number, f"llm count: task{number}")
        watch.worker(2, "")
        watch.answered(50, 1)
        watch.sealed("llm count", "task0")
        watch.worker(0, "llm clock: loading")
    said = out.getvalue()
    assert "worker 0: llm clock: loading" in said and "worker 8: llm count: task8" in said
    assert "10 workers, 1/2 cells" in said and "and 2 more" in said


def test_expectations_come_from_the_nearest_measurement(tmp_path: Path):
    import json

    from harness import rates

    file = tmp_path / "rates.json"
    assert rates.costs(file, "hf, local x 2", "hf") == Costs()
    four = {"start": 8.0, "swap": 2.0, "tasks": {"a": 0.5}}
    file.write_text(json.dumps({"hf, local x 4": four}))
    found = rates.costs(file, "hf, local x 2", "hf")
    assert (found.start, found.swap, found.request("a"), found.request("b")) == (8.0, 2.0, 0.5, 0.5)
    one = {"start": 6.0, "tasks": {"a": 0.2, "b": 0.4}}
    file.write_text(json.dumps({"hf": one, "hf, local x 4": four}))
    found = rates.costs(file, "hf, local x 2", "hf")
    assert (found.start, found.swap, found.request("c")) == (6.0, 6.0, pytest.approx(0.3))
    assert rates.costs(file, "hf, local x 4", "hf").start == 8.0
    assert rates.costs(file, "vllm, ray", "vllm") == Costs()
