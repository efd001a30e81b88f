"""The schedule: few loads, no idle worker that could help, every request once; and its forecast."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.forecast import forecast
from harness.schedule import LOADS_ALLOWED, PATIENCE, SHARD_REQUESTS, Costs, Grant, Owed, Schedule

ROOT = Path(__file__).parents[1]
COSTS = Costs(start=60, swap=10, rates={"long": 0.5, "short": 0.1})


def study(n_checkpoints: int, kinds: int = 1, long: int = 2000, short: int = 300) -> list[Owed]:
    return [
        Owed(2 * k + j, f"c{k}", f"kind{k % kinds}", task, n)
        for k in range(n_checkpoints)
        for j, (task, n) in enumerate((("long", long), ("short", short)))
    ]


def drain(schedule: Schedule, worker: int) -> list[Grant]:
    found = []
    while grant := schedule.next(worker):
        found.append(grant)
    return found


def test_one_worker_loads_each_checkpoint_once_in_the_order_of_the_plan():
    schedule = Schedule(study(3), COSTS, 1)
    schedule.join(0)
    grants = drain(schedule, 0)
    assert [(g.cell, g.n, g.loads, g.starts) for g in grants] == [
        (0, 2000, True, True), (1, 300, False, False),
        (2, 2000, True, False), (3, 300, False, False),
        (4, 2000, True, False), (5, 300, False, False),
    ]  # fmt: skip
    assert schedule.n_loads == 3 and schedule.n_left == 0


def test_whole_checkpoints_are_dealt_before_one_is_shared():
    schedule = Schedule(study(2), COSTS, 3)
    for worker in range(3):
        schedule.join(worker)
    first, second, third = schedule.hand_out(range(3))
    assert (first.cell, second.cell) == (0, 2) and third.cell in (0, 1, 2, 3)
    assert third.loads and third.starts and schedule.n_loads == 3


def test_a_long_last_cell_is_handed_out_in_shards():
    schedule = Schedule([Owed(0, "c", "k", "long", 4000)], COSTS, 4)
    for worker in range(4):
        schedule.join(worker)
    grants = list(schedule.hand_out(range(4)))
    assert len(grants) == 4 and {g.cell for g in grants} == {0}
    assert all(SHARD_REQUESTS <= g.n <= 1000 for g in grants)
    assert sum(g.n for g in grants) + schedule.n_left == 4000


def test_no_shard_is_made_for_less_than_it_is_worth():
    schedule = Schedule([Owed(0, "c", "k", "short", 250)], COSTS, 4)  # 25 seconds
    schedule.join(0)
    schedule.join(1)
    (grant,) = schedule.hand_out([0, 1])
    assert grant.n == 250


def test_a_worker_does_not_load_for_what_others_have_done_by_then():
    schedule = Schedule(study(1, long=30, short=40), COSTS, 2)  # 19 s against a start of 60
    schedule.join(0)
    schedule.join(1)
    assert [grant.worker for grant in schedule.hand_out([0, 1])] == [0]


def test_workers_keep_to_an_architecture_while_it_lasts():
    found = forecast(study(8, kinds=2), COSTS, 2)
    assert found.n_starts == 2 and found.n_loads == 8


def test_an_architecture_that_nobody_serves_is_always_taken_up():
    owed = [*study(1), Owed(9, "other", "another kind", "short", 1)]
    assert forecast(owed, COSTS, 1).n_starts == 2


def test_what_a_dead_worker_held_is_taken_by_another():
    schedule = Schedule(study(1), COSTS, 1)
    schedule.join(0)
    grant = schedule.next(0)
    assert grant and grant.n == 2000
    schedule.leave(0)
    schedule.give_back(grant.cell, 1500)
    schedule.join(1)
    again = drain(schedule, 1)
    assert sum(g.n for g in again if g.cell == grant.cell) == 1500
    assert again[0].loads and again[0].starts


def test_dropped_cells_are_not_handed_out():
    schedule = Schedule(study(2), COSTS, 1)
    schedule.drop([0, 1, 3])
    schedule.join(0)
    assert [grant.cell for grant in drain(schedule, 0)] == [2]


def test_an_engine_that_died_has_to_be_started_for_the_same_checkpoint():
    schedule = Schedule(study(1), COSTS, 1)
    schedule.join(0)
    schedule.next(0)
    schedule.forget_weights(0)
    grant = schedule.next(0)
    assert grant and grant.loads and grant.starts


# --- Whatever dies -----------------------------------------------------------------------------


@st.composite
def studies(draw: st.DrawFn) -> list[Owed]:
    cells = draw(
        st.lists(
            st.tuples(
                st.integers(0, 5), st.sampled_from(["long", "short", "new"]), st.integers(1, 900)
            ),
            min_size=1, max_size=20,
        )
    )  # fmt: skip
    kinds = draw(st.integers(1, 2))
    return [Owed(k, f"c{c}", f"k{c % kinds}", task, n) for k, (c, task, n) in enumerate(cells)]


@given(studies(), st.integers(1, 6), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_every_request_is_answered_once_whatever_workers_die(
    owed: list[Owed], n_workers: int, rng: random.Random
):
    """Plays a sweep with deaths, dying engines and wrong expectations; nothing is left or twice."""
    schedule = Schedule(owed, COSTS, n_workers)
    answered: Counter[int] = Counter()
    running: dict[int, Grant] = {}
    up: set[int] = set()
    deaths = 0
    for _ in range(10_000):
        for worker in set(range(n_workers)) - up:
            schedule.join(worker)
            up.add(worker)
        for grant in schedule.hand_out([w for w in up if w not in running]):
            assert grant.worker not in running and grant.n > 0
            running[grant.worker] = grant
        check_nobody_idles_for_nothing(schedule, owed, [w for w in up if w not in running])
        if not running:
            break
        worker = rng.choice(sorted(running))
        grant = running.pop(worker)
        fate = rng.random() if deaths < 30 else 1.0
        if fate < 0.3:  # it dies after some answers
            deaths += 1
            kept = rng.randint(0, grant.n)
            answered[grant.cell] += kept
            if fate < 0.2:
                schedule.leave(worker)
                up.discard(worker)
            else:
                schedule.forget_weights(worker)
            schedule.give_back(grant.cell, grant.n - kept)
        else:
            answered[grant.cell] += grant.n
        if rng.random() < 0.1:
            schedule.learn(Costs(rng.uniform(0, 90), rng.uniform(0, 20), rng.uniform(0.001, 2)))
    assert answered == Counter({item.cell: item.n for item in owed})
    assert schedule.n_left == 0


def check_nobody_idles_for_nothing(schedule: Schedule, owed: list[Owed], idle: list[int]) -> None:
    """Whoever got nothing: all that is left is held by others who have done it before a load."""
    if not idle or not schedule.n_left:
        return
    for checkpoint in schedule._checkpoints.values():
        if not checkpoint.pool:
            continue
        holders = checkpoint.at or {
            number
            for number, worker in schedule._workers.items()
            if worker.architecture == checkpoint.architecture
        }
        assert holders, "work is left that nobody is going to do"
        assert not checkpoint.at & set(idle), "an idle worker holds a checkpoint that owes"
        costs = schedule.costs
        cheap = checkpoint.seconds / len(holders) <= PATIENCE * max(costs.start, costs.swap)
        assert cheap or schedule.n_loads >= schedule.allowed - len(schedule._checkpoints)


@given(studies(), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_loads_stay_within_what_is_allowed_and_time_within_that_of_one_worker(
    owed: list[Owed], n_workers: int
):
    found = forecast(owed, COSTS, n_workers)
    checkpoints = len({item.checkpoint for item in owed})
    assert checkpoints <= found.n_loads <= LOADS_ALLOWED * max(checkpoints, n_workers)
    assert found.bound <= found.seconds * (1 + 1e-9)
    kinds = len({item.architecture for item in owed})
    assert found.seconds <= forecast(owed, COSTS, 1).seconds + COSTS.start * kinds + 1e-6
    assert 0 <= found.idle_share < 1


# --- The study of benchmarks/scale.py ------------------------------------------------------------


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks" / "scale.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale"] = module
    spec.loader.exec_module(module)
    return module


def test_the_simulated_study_is_as_large_as_it_says(scale):
    sizes = scale.benchmarks()
    owed, _ = scale.study(sizes)
    assert len(sizes) == 22 and len({item.checkpoint for item in owed}) == 200
    assert sum(item.n for item in owed) == 200 * sum(sizes.values()) > 10_000_000


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_makespan_and_loads_up_to_64_workers(scale, noise: float):
    for found in scale.play((1, 7, 48, 63, 64), noise):
        assert found.bound * (1 - 1e-9) <= found.seconds <= 1.15 * found.bound, found
        # Against the strictest minimum: every checkpoint is loaded once.
        assert 200 <= found.n_loads <= 1.5 * 200, found
        assert found.n_starts == found.n_workers


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_loads_stay_within_bounds_beyond_where_it_scales(scale, noise: float):
    for found in scale.play((128, 256, 512, 1024), noise):
        assert found.n_loads <= 1.5 * found.fewest_loads, found
        assert found.fewest_loads == max(200, found.n_workers)
        assert found.seconds >= found.bound * (1 - 1e-9)


def test_the_table_is_printed_and_written(scale, tmp_path: Path, monkeypatch, capsys):
    import json

    monkeypatch.setattr(scale, "WORKERS", (1, 64))
    monkeypatch.setattr(sys, "argv", ["scale.py", "--json", str(tmp_path / "scale.json")])
    scale.main()
    assert "over the bound" in capsys.readouterr().out
    record = json.loads((tmp_path / "scale.json").read_text())
    assert [row["n_workers"] for row in record["as expected"]] == [1, 64]
