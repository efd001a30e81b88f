"""Calibration: do the intervals, tests and verdicts of `harness.analysis` keep their promises?

Simulates studies whose truth is known and counts. Run it with `python benchmarks/calibration.py
[--repeats N] [--seed N]`; it prints one line per promise with the range that was promised, and
ends with exit code 1 if any is broken.

Samples of one image are correlated: half of the images lean towards losing, half towards gaining.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis import JudgeOptions, difference_between, recovery, verdict
from harness.analysis.paired import mean_value
from harness.analysis.scores import SCORED, BenchmarkScores, Stage, StageKey, StudyScores

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """How many samples on how many images, and how they change."""

    name: str
    sizes: NDArray[np.int64]
    """(G,) samples per image."""
    flips: float = 0.15
    lean: float = 0.5
    """How much more of an image's flips go one way: the correlation within images."""
    full: bool = True
    """Whether this is one of the designs the sharper promises are made for."""

    @property
    def groups(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


DESIGNS = (
    Design("858 x 8", np.full(858, 8)),
    Design("398 x 30", np.full(398, 30)),
    Design("500 x 18", np.full(500, 18)),
    Design("200 x 1", np.full(200, 1), lean=0.0, full=False),
    Design("1000 x 1, 2 % flips", np.full(1000, 1), flips=0.02, lean=0.0, full=False),
    Design("20 x 8", np.full(20, 8), full=False),
    Design("8 x 50", np.full(8, 50), full=False),
    Design("150 x 8, 1.2 % flips", np.full(150, 8), flips=0.012, lean=0.3, full=False),
    Design("50 images, 3 of them large", np.r_[60, 40, 30, np.full(47, 8)], full=False),
)

# (design, loss at the dip, true fraction that comes back); the last two losses are so small that
# chance decides whether a fraction is given at all.
RECOVERIES = (
    (DESIGNS[0], 0.10, 0.8),
    (DESIGNS[0], 0.02, 0.0),
    (DESIGNS[2], 0.03, 0.5),
    (Design("60 x 8", np.full(60, 8), full=False), 0.15, 0.7),
    (Design("60 x 8", np.full(60, 8), full=False), 0.02, 0.5),
    (Design("200 x 1", np.full(200, 1), lean=0.0, full=False), 0.02, 0.5),
)


def differences(rng: np.random.Generator, design: Design, delta: float) -> Floats:
    """(n,) -1, 0 or 1 per sample, with mean `delta` over many images."""
    lean = rng.choice([-1.0, 1.0], len(design.sizes))[design.groups] * design.lean
    lose = np.clip((design.flips - delta) / 2 + design.flips / 2 * lean, 0, 1)
    gain = np.clip((design.flips + delta) / 2 - design.flips / 2 * lean, 0, 1)
    draw = rng.random(len(design.groups))
    return np.where(draw < lose, -1.0, np.where(draw < lose + gain, 1.0, 0.0))


@dataclass(frozen=True)
class Rates:
    """Shares of the repeats."""

    rejected: float
    covered: float
    retained: float


def paired_rates(rng: np.random.Generator, design: Design, delta: float, repeats: int) -> Rates:
    """How often 0 is rejected, `delta` covered, and the verdict at margin 1 a pass."""
    rejected = covered = retained = 0
    for _ in range(repeats):
        found = mean_value(differences(rng, design, delta), design.groups)
        rejected += found.p_value < 0.05
        covered += found.low <= delta <= found.high
        retained += verdict(found, 1.0) in ("retained", "improved")
    return Rates(rejected / repeats, covered / repeats, retained / repeats)


def recovery_rate(
    rng: np.random.Generator, design: Design, loss: float, fraction: float, repeats: int
) -> tuple[float, int]:
    """(coverage of the true fraction where one is given, number of repeats where it is)."""
    covered = n_given = 0
    groups = design.groups
    for _ in range(repeats):
        lean = 1 + design.lean * rng.choice([-1.0, 1.0], len(design.sizes))[groups]
        base = rng.random(len(groups)) < 0.7
        noise = rng.random((2, len(groups)))
        lost = base & (noise[0] < (loss + 0.03) / 0.7 * lean)
        found = ~base & (noise[0] < 0.03 / 0.3)
        dip = (base & ~lost) | found
        back = np.where(lost, noise[1] < fraction * loss / (loss + 0.03), dip)
        swapped = rng.random(len(groups)) < 0.02  # changes that have nothing to do with the dip
        later = np.where(swapped, rng.permutation(back), back)
        result = recovery(base, dip, later, groups)
        if np.isfinite(result.fraction):
            n_given += 1
            covered += result.low <= fraction <= result.high
    return (covered / n_given if n_given else float("nan")), n_given


def run_rate(rng: np.random.Generator, n_runs: int, spread: float, repeats: int) -> float:
    """Coverage of a strategy's mean effect by intervals from `n_runs` runs."""
    effect, n_groups, per_group = -0.05, 100, 4
    groups = np.repeat(np.arange(n_groups), per_group)
    n = len(groups)
    base = StageKey("base", "0", 0)
    runs = [StageKey("s", str(r), 1) for r in range(n_runs)]
    covered = 0
    for _ in range(repeats):
        ease = rng.normal(0, 0.3, n_groups)[groups] + rng.normal(0, 0.6, n)
        values = np.empty((n, n_runs + 1))
        values[:, 0] = rng.random(n) < 0.7
        for r in range(n_runs):
            lose = effect + rng.normal(0, spread)
            moved = rng.random(n) < 0.1 + 0.02 * np.tanh(ease)
            drawn = rng.random(n) < 0.7
            kept = np.where(moved, drawn, values[:, 0])
            # An extra loss or gain on a random share, of the size of the run's true effect.
            share = min(1.0, abs(lose) / (0.7 if lose < 0 else 0.3))
            values[:, r + 1] = np.where(rng.random(n) < share, lose > 0, kept)
        bench = BenchmarkScores(
            "b", "held_out", "accuracy", np.arange(n).astype(object), groups, np.ones(n),
            np.zeros(n), (base, *runs), {"strict": values},
            np.full(values.shape, SCORED, np.uint8), np.zeros(values.shape, bool),
        )  # fmt: skip
        stages = (Stage(base, "base"), *(Stage(key, "one") for key in runs))
        scores = StudyScores("calibration", "", stages, {"b": bench})
        found = difference_between(scores, ["b"], [base], runs, JudgeOptions())
        covered += found.low <= effect <= found.high
    return covered / repeats


@dataclass(frozen=True)
class Promise:
    """A measured share and the range it has to lie in."""

    what: str
    value: float
    low: float
    high: float
    n_counted: int | None = None
    """Repeats that count, if not all."""

    def kept(self, repeats: int) -> bool:
        """Whether the share is in the range, up to two standard errors of the simulation."""
        repeats = repeats if self.n_counted is None else max(1, self.n_counted)
        middle = min(max(self.value, 0.01), 0.99)
        slack = 2 * np.sqrt(middle * (1 - middle) / repeats)
        return bool(self.low - slack <= self.value <= self.high + slack)


def promises(seed: int, repeats: int, *, few: bool = True) -> Iterator[Promise]:
    """Measure every promise; `few`: also the designs with few samples, groups or flips."""
    rng = np.random.default_rng(seed)
    for design in DESIGNS:
        if not (design.full or few):
            continue
        null = paired_rates(rng, design, 0.0, repeats)
        worse = paired_rates(rng, design, -0.01, repeats)
        low, high = (0.03, 0.07) if design.full else (0.0, 0.07)
        yield Promise(f"{design.name}: rejects a true null", null.rejected, low, high)
        low, high = (0.935, 0.965) if design.full else (0.93, 1.0)
        yield Promise(f"{design.name}: covers 0", null.covered, low, high)
        if design.flips > 0.012:
            yield Promise(f"{design.name}: covers -1", worse.covered, low, high)
            yield Promise(f"{design.name}: passes a true -1 at margin 1", worse.retained, 0, 0.05)
    for design, loss, fraction in RECOVERIES:
        if design.full or few:
            rate, n_given = recovery_rate(rng, design, loss, fraction, repeats)
            what = f"{design.name}: recovery of {fraction:.0%} after -{100 * loss:.0f}"
            yield Promise(what, rate, 0.93, 1.0, n_given)
    for n_runs in (3, 5, 8):
        for spread in (0.0, 0.02, 0.1):
            rate = run_rate(rng, n_runs, spread, repeats)
            yield Promise(f"{n_runs} runs, {100 * spread:.0f} points apart", rate, 0.93, 1.0)


def main() -> int:
    """Print all promises; 1 if one is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    broken = 0
    for promise in promises(chosen.seed, chosen.repeats):
        kept = promise.kept(chosen.repeats)
        broken += not kept
        expected = f"{100 * promise.low:.1f} to {100 * promise.high:.1f} %"
        word = "ok    " if kept else "BROKEN"
        print(f"{word} {100 * promise.value:5.1f} % ({expected})  {promise.what}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
