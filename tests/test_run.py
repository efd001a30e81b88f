"""A sweep answers what is owed, once; survives interruption; reports what cannot run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from replay import ReplayEngine

from harness.errors import DataError
from harness.plan import Benchmark, Cell, Plan
from harness.report.live import PlainLines, Quiet
from harness.run import sweep
from harness.scoring import phrase
from harness.storage.signatures import cell_id
from harness.storage.store import Store
from harness.types import Checkpoint, Sample, Source, Stage, StageKey, Task

SAMPLES = [Sample(str(i), f"question {i}", ("red",), group=str(i // 2)) for i in range(200)]


def make_task(name: str) -> Task:
    return Task(
        name=name, title=name, role="held_out", metric="accuracy", source=Source("", "test", ()),
        sample=lambda row, index: SAMPLES[index], prompts={"fixed": lambda sample: sample.question},
        scorers={"strict": phrase.strict, "lenient": phrase.lenient},
    )  # fmt: skip


def make_plan(store: Store, n_checkpoints: int = 3, load=lambda: SAMPLES) -> Plan:
    benchmarks = {
        name: Benchmark(make_task(name), "held_out", name * 16, len(SAMPLES), load)
        for name in ("a", "b")
    }
    checkpoints = [Checkpoint(f"/ckpt/{k}", f"f{k}", "/ckpt/0") for k in range(n_checkpoints)]
    stages = [
        (Stage(StageKey("base" if k == 0 else "s", "0", k), f"stage{k}"), checkpoint)
        for k, checkpoint in enumerate(checkpoints)
    ]
    cells = []
    for checkpoint in checkpoints:
        for name in benchmarks:
            signature = {"checkpoint": checkpoint.fingerprint, "task": name, "scoring": "generate"}
            owed = not store.is_sealed(name, cell_id(signature))
            cells.append(Cell(name, checkpoint, signature, len(SAMPLES), owed))
    return Plan(benchmarks, stages, cells)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results" / "study")


def cells_of(store: Store) -> dict[str, bytes]:
    files = sorted((store.folder / "cells").rglob("*.*"))
    return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in files}


def red(checkpoint: Checkpoint, request) -> str:
    return f"{checkpoint.fingerprint} {request.sample_id}"


def test_every_owed_cell_is_answered_once_on_one_engine(store: Store):
    engine = ReplayEngine(red)
    outcome = sweep(make_plan(store), store, "fixed", lambda: engine, Quiet())
    assert (outcome.n_answered, outcome.n_sealed, outcome.failures) == (1200, 6, [])
    assert engine.loaded == ["f0", "f1", "f2"] and engine.closed
    assert len(set(engine.asked)) == 600 and len(engine.asked) == 1200
    table = store.read_cell("b", make_plan(store).cells[3].id)[0]
    assert table["sample_id"].to_pylist() == [s.id for s in SAMPLES]
    assert table["text"].to_pylist()[7] == "f1 7"


def test_a_second_sweep_starts_no_engine(store: Store):
    sweep(make_plan(store), store, "fixed", lambda: ReplayEngine(red), Quiet())

    def no_engine():
        raise AssertionError("an engine was started for nothing")

    outcome = sweep(make_plan(store), store, "fixed", no_engine, Quiet())
    assert outcome.n_answered == 0 and outcome.exit_code == 0


def test_interrupted_sweeps_end_with_the_same_bytes(store: Store, tmp_path: Path):
    whole = Store(tmp_path / "whole" / "study")
    sweep(make_plan(whole), whole, "fixed", lambda: ReplayEngine(red), Quiet())
    asked: list[tuple[str, str]] = []
    for stop in (3, 130, 333, 64, None):
        engine = ReplayEngine(red, stop_after=stop)
        outcome = sweep(make_plan(store), store, "fixed", lambda e=engine: e, Quiet())
        asked += engine.asked
        assert outcome.interrupted == (stop is not None)
        assert outcome.exit_code == (130 if outcome.interrupted else 0)
    assert cells_of(store) == cells_of(whole)
    assert len(asked) == 1200, "an answered request was asked again"


def test_a_checkpoint_that_cannot_be_loaded_is_reported_and_the_rest_is_done(store: Store):
    engine = ReplayEngine(red, broken=["f1"])
    outcome = sweep(make_plan(store), store, "fixed", lambda: engine, Quiet())
    assert outcome.n_sealed == 4
    assert [f.what for f in outcome.failures] == ["s stage1"]
    assert "lm_head.weight is missing" in outcome.failures[0].why
    assert outcome.exit_code == 6


def test_a_task_that_cannot_be_read_is_reported_and_the_rest_is_done(store: Store):
    def load() -> Sequence[Sample]:
        raise DataError("a", "column 'answer' is missing; found: question")

    plan = make_plan(store)
    broken = Benchmark(make_task("a"), "held_out", "a" * 16, 200, load)
    plan = Plan({**plan.benchmarks, "a": broken}, plan.stages, plan.cells)
    outcome = sweep(plan, store, "fixed", lambda: ReplayEngine(red), Quiet())
    assert outcome.n_sealed == 3 and {f.what for f in outcome.failures} == {"a"}


def test_failed_samples_are_stored_as_failures(store: Store):
    engine = ReplayEngine(lambda c, r: None if r.sample_id == "5" else "red")
    outcome = sweep(make_plan(store, 1), store, "fixed", lambda: engine, Quiet())
    assert outcome.n_failed == 2
    table, metadata = store.read_cell("a", make_plan(store, 1).cells[0].id)
    row = table.to_pylist()[5]
    assert (row["status"], row["text"], row["reason"]) == ("failed", "", "no picture")
    assert metadata["n_failed"] == 1


def test_plain_lines_name_checkpoint_rate_and_failures(store: Store, capsys):
    from rich.console import Console

    engine = ReplayEngine(lambda c, r: None if r.sample_id == "5" else "red")
    watch = PlainLines(Console(width=200))
    sweep(make_plan(store, 1), store, "fixed", lambda: engine, watch)
    out = capsys.readouterr().out
    assert "loading stage0" in out and "400/400 samples" in out and "2 failed" in out


class Mortal(ReplayEngine):
    """Dies in its own words after so many answers; `deaths` counts over all engines."""

    deaths = 0

    def __init__(self, lifetime: int, error: Exception):
        super().__init__(red)
        self.lifetime, self.error = lifetime, error

    def generate(self, requests):
        for prediction in super().generate(requests):
            if len(self.asked) > self.lifetime:
                Mortal.deaths += 1
                raise self.error
            yield prediction

    log_likelihood = generate

    def close(self):
        raise RuntimeError("a dead engine does not close")


def test_an_engine_that_dies_is_started_once_more_for_what_it_owes(store: Store, tmp_path: Path):
    whole = Store(tmp_path / "whole" / "study")
    sweep(make_plan(whole), whole, "fixed", lambda: ReplayEngine(red), Quiet())
    engines = iter([Mortal(150, RuntimeError("CUDA error: unspecified")), ReplayEngine(red)])
    outcome = sweep(make_plan(store), store, "fixed", lambda: next(engines), Quiet())
    assert (outcome.n_restarts, outcome.exit_code, outcome.n_answered) == (1, 0, 1200)
    assert cells_of(store) == cells_of(whole)


def test_an_engine_that_dies_again_fails_its_cell_and_the_rest_is_done(store: Store):
    poison = {"a": 2}

    def make() -> ReplayEngine:
        if poison["a"]:
            poison["a"] -= 1
            return Mortal(64, MemoryError())
        return ReplayEngine(red)

    outcome = sweep(make_plan(store), store, "fixed", make, Quiet())
    assert outcome.n_sealed == 5 and outcome.exit_code == 6
    (failure,) = outcome.failures
    assert failure.what == "stage0, a"
    assert failure.why == "engine: died with MemoryError; what it raised is in logs/f0-a.log"
    log = (store.folder / "logs" / "f0-a.log").read_text()
    assert "MemoryError" in log and "Traceback" in log
    outcome = sweep(make_plan(store), store, "fixed", lambda: ReplayEngine(red), Quiet())
    assert (outcome.n_answered, outcome.n_sealed, outcome.exit_code) == (72, 1, 0)


def test_an_engine_that_leaves_requests_unanswered_is_not_believed(store: Store):
    class Lazy(ReplayEngine):
        def generate(self, requests):
            yield from list(super().generate(requests))[: -2 if len(requests) > 2 else None]

    outcome = sweep(make_plan(store, 1), store, "fixed", lambda: Lazy(red), Quiet())
    assert outcome.failures == [] and outcome.n_restarts == 2  # the second engine answered the rest

    class Silent(ReplayEngine):
        def generate(self, requests):
            yield from ()

    plan = make_plan(Store(store.folder.parent / "other"), 1)
    outcome = sweep(
        plan, Store(store.folder.parent / "other"), "fixed", lambda: Silent(red), Quiet()
    )
    assert "engine: ended without answering 200 requests, the first '0'" in outcome.failures[0].why


def test_an_engine_that_cannot_be_started_fails_each_checkpoint_in_one_line(store: Store):
    def make():
        raise ImportError("libcudart.so.12: cannot open shared object file\nmore")

    outcome = sweep(make_plan(store), store, "fixed", make, Quiet())
    assert [f.what for f in outcome.failures] == ["stage0", "s stage1", "s stage2"]
    assert (
        "died with ImportError: libcudart.so.12: cannot open shared object file; what"
        in outcome.failures[0].why
    )


def test_tokens_are_not_written_to_results(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_averysecretword")

    def make():
        raise RuntimeError("401 for https://user:hf_averysecretword@host/model")

    outcome = sweep(make_plan(store), store, "fixed", make, Quiet())
    assert "https://user:<HF_TOKEN>@host" in outcome.failures[0].why
    files = [file for file in store.folder.rglob("*") if file.is_file()]
    assert files and all(b"averysecret" not in file.read_bytes() for file in files)


def test_empty_and_endless_answers_are_recorded_as_such(store: Store):
    from harness.scoring.answer_type import classify

    said = {"1": "", "2": "the cat " * 40, "3": " \n"}
    engine = ReplayEngine(lambda checkpoint, request: said.get(request.sample_id, "red"))
    outcome = sweep(make_plan(store, 1), store, "fixed", lambda: engine, Quiet())
    assert outcome.n_failed == 0 and outcome.failures == []
    rows = store.read_cell("a", make_plan(store, 1).cells[0].id)[0].to_pylist()[1:4]
    assert [(row["status"], row["text"]) for row in rows] == [
        ("ok", text) for text in said.values()
    ]
    assert [classify(row["text"]) for row in rows] == ["empty", "repetition", "empty"]


def test_programs_can_follow_a_sweep(store: Store, capsys):
    import json

    from rich.console import Console

    from harness.report.live import watching

    with watching(Console(), "jsonl") as watch:
        sweep(make_plan(store, 1), store, "fixed", lambda: ReplayEngine(red), watch)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(e["task"], e["cells"], e["samples"]) for e in events] == [("a", 1, 200), ("b", 2, 400)]
