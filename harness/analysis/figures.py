"""The figures of a strategy: learning, forgetting, held-out change, recovery, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.analysis import forgetting
from harness.analysis.contrasts import CellWeights, add_weights, estimate
from harness.analysis.flips import Trajectories, trajectories
from harness.analysis.forgetting import Weights
from harness.analysis.matrix import Drift, Judged, Trait
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import PairedDifference, not_available
from harness.analysis.recovery import Recovery, recovery_of_contrasts
from harness.analysis.strategies import Run, Strategy

# A figure of a run; None = the run does not have it.
RunFigure = Callable[[Run], Weights | None]


@dataclass(frozen=True, slots=True)
class StrategyFigures:
    """What is said about one strategy, means over its runs."""

    strategy: Strategy
    figures: Mapping[str, PairedDifference]
    contrasts: Mapping[str, Sequence[CellWeights]]
    """What each figure sums up, by run: for differences between strategies."""
    curve: tuple[PairedDifference, ...]
    """Held-out change after stage 1, 2, ..."""
    worst_stage: str | None
    worst_benchmark: str | None
    dip: int | None
    """The stage after which recovery is measured."""
    recovery: Recovery | None
    """At the stage after the dip, of the held-out mean."""
    paths: Trajectories | None
    """Base, dip and the stage after it: held-out samples of all runs by what became of them."""
    recovery_note: str
    """Why there is no recovery to speak of, or how the dip was chosen."""
    learned: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """run -> stages that taught their target something."""
    notes: tuple[str, ...] = ()


def figures_of(judged: Judged, strategy: Strategy, options: JudgeOptions) -> StrategyFigures:
    """All figures of a strategy; NA figures are there, with the reason as their method."""
    level = options.level
    learned = {run.name: learned_stages(judged, run, level) for run in strategy.runs}
    worst = {
        run.name: forgetting.worst_stage(run.course, _means(judged, run)) for run in strategy.runs
    }
    lowest = _worst_benchmark(judged, strategy)
    definitions = {
        **_definitions(judged, learned, worst),
        "worst_benchmark": lambda run: forgetting.change(lowest, 0, run.last) if lowest else None,
        "balance": _balance,
    }
    contrasts = {name: by_run(strategy, figure) for name, figure in definitions.items()}
    figures = {name: estimate(judged, runs, level=level) for name, runs in contrasts.items()}
    drift, lenient = Drift(judged.scores), Judged(judged.scores, "lenient")
    figures["superficial"] = part(drift, contrasts["heldout_final"], options)
    figures["essential"] = part(lenient, contrasts["heldout_final"], options)
    mass = Trait(judged.scores, "number_mass")
    shifts = measured_shift(mass, strategy.runs, strategy.last)
    figures["number_mass"] = estimate(mass, shifts, level=level)
    curve = tuple(
        estimate(judged, by_run(strategy, lambda run, t=t: _at(run, t)), level=level)  # type: ignore[misc]
        for t in range(1, strategy.last + 1)
    )
    dip, note = find_dip(strategy, curve, options.dip)
    return StrategyFigures(
        strategy=strategy,
        figures=figures,
        contrasts=contrasts,
        curve=curve,
        worst_stage=_most_common(
            [run.stages[t].name for run in strategy.runs if (t := worst[run.name]) is not None]
        ),
        worst_benchmark=lowest,
        dip=dip,
        recovery=None if dip is None else recovery_at(judged, strategy, dip, dip + 1, level),
        paths=None if dip is None else _paths(judged, strategy, dip),
        recovery_note=note,
        learned=learned,
        notes=tuple(_not_learned(strategy, learned)),
    )


def part(judged: Judged, runs: Sequence[CellWeights], options: JudgeOptions) -> PairedDifference:
    """A part of a change, superficial or essential; by run, as `estimate`.

    NA where it would be of fewer samples than may be dropped: the parts of other samples than the
    change itself would not add up to it.
    """
    found = estimate(judged, runs, level=options.level)
    n_all = found.n_samples + found.n_dropped
    partial = found.n_dropped > options.max_dropped * n_all
    return not_available("too few samples") if partial else found


def _definitions(
    judged: Judged, learned: Mapping[str, Sequence[int]], worst: Mapping[str, int | None]
) -> dict[str, RunFigure]:
    """Figure -> its weights in a run. `learned`, `worst`: by run, stages known from the scores."""
    found: dict[str, RunFigure] = {
        name: lambda run, figure=figure: figure(run.course)  # type: ignore[misc]
        for name, figure in forgetting.FIGURES.items()
    }
    found["target_forgetting"] = lambda run: forgetting.target_forgetting(
        run.course, learned[run.name]
    )
    found["chaudhry_forgetting"] = lambda run: forgetting.chaudhry_forgetting(
        run.course, _means(judged, run)
    )
    # A curve with a missing cell has no minimum: its sum is NA for the same reason.
    found["heldout_worst"] = lambda run: (
        forgetting.FIGURES["heldout_sum"](run.course)
        if worst[run.name] is None
        else _at(run, worst[run.name])
    )
    return found


def by_run(strategy: Strategy, figure: RunFigure) -> list[CellWeights]:
    """A figure's contrast in each run that has it; empty if none has."""
    found = [(run, figure(run)) for run in strategy.runs]
    return [run.cells(weights) for run, weights in found if weights is not None]


def measured_shift(trait: Judged, runs: Sequence[Run], t: int, start: int = 0) -> list[CellWeights]:
    """The held-out change of a trait from stage `start` to t in each run that is so long.

    Not every benchmark has every trait: the mean is over those that have it in all these runs.
    """
    long = [run for run in runs if 0 < t <= run.last]
    names = [
        name
        for name in (long[0].course.held_out_at(t) if long else ())
        if all(
            name in run.course.held_out_at(t) and trait.has(name, run.key(place))
            for run in long
            for place in (start, t)
        )
    ]
    weights = forgetting.mean_of([forgetting.change(name, start, t) for name in names])
    return [run.cells(weights) for run in long] if weights else []


def learned_stages(judged: Judged, run: Run, level: float) -> list[int]:
    """The stages whose target improved over the base beyond chance (over samples, in this run).

    A stage that was not measured is kept: what depends on it is NA, not computed without it.
    """
    stages = []
    for k, target in run.course.lessons:
        gain = estimate(judged, [run.cells(forgetting.change(target, 0, k))], level=level)
        if np.isnan(gain.delta) or (gain.known and gain.low > 0):
            stages.append(k)
    return stages


def find_dip(
    strategy: Strategy, curve: Sequence[PairedDifference], declared: str | None
) -> tuple[int | None, str]:
    """(the dip's position, how it was chosen or why there is none)."""
    if declared is not None:
        places = {run.position(declared) for run in strategy.runs}
        if len(places) != 1 or None in places:
            return None, f"stage {declared!r} is not at one place in all runs of {strategy.name}"
        dip, note = places.pop(), f"dip declared: {declared}"
    else:
        deltas = [step.delta for step in curve]
        if not deltas or np.isnan(deltas).any():
            none = not any(run.course.held_out_at(run.last) for run in strategy.runs)
            return None, "no held-out benchmark" if none else "the held-out curve is not complete"
        dip = 1 + int(np.argmin(deltas))
        note = "the dip is the minimum of the same data, which inflates recovery"
    if dip is None or dip >= min(run.last for run in strategy.runs):
        return None, "the dip is the last stage: nothing comes after it"
    return dip, note


def recovery_at(
    judged: Judged,
    strategy: Strategy | Sequence[Run],
    dip: int,
    t: int,
    level: float,
    benchmark: str | None = None,
) -> Recovery:
    """Recovery from stage `dip` to stage `t` of the held-out mean, or of one benchmark."""
    gains, losses = [], []
    for run in strategy.runs if isinstance(strategy, Strategy) else strategy:
        names = run.course.held_out_at(t) if benchmark is None else [benchmark]
        gain = forgetting.mean_of([forgetting.change(b, dip, t) for b in names])
        loss = forgetting.mean_of([forgetting.change(b, dip, 0) for b in names])
        if gain is not None and loss is not None:
            gains.append(run.cells(gain))
            losses.append(run.cells(loss))
    return recovery_of_contrasts(judged, gains, losses, level=level)


def _paths(judged: Judged, strategy: Strategy, dip: int) -> Trajectories:
    """Sample-level recovery: recovered or compensated for by other samples?"""
    counts = [
        trajectories(*judged.columns(name, [run.key(0), run.key(dip), run.key(dip + 1)]).T)
        for run in strategy.runs
        for name in run.course.held_out_at(dip + 1)
    ]
    return sum(counts, start=Trajectories(0, 0, 0, 0, 0, 0))


def compare_strategies(
    judged: Judged, one: StrategyFigures, other: StrategyFigures, level: float
) -> dict[str, PairedDifference]:
    """Every linear figure of `one` minus that of `other`.

    Runs of the same name and order (a seed) are paired; else the two sets of runs are
    independent. With one run on a side the limits cover the samples only, and `n_runs` is 1.
    """
    ours = {run.name: run.course.trained for run in one.strategy.runs}
    theirs = {run.name: run.course.trained for run in other.strategy.runs}
    found = {}
    for name, runs in one.contrasts.items():
        baseline = other.contrasts[name]
        if not runs or not baseline:
            found[name] = not_available("not defined", level=level)
        elif ours == theirs and len(runs) == len(baseline) == len(ours):
            order = [list(theirs).index(run) for run in ours]
            pairs = [
                add_weights(run, {cell: -w for cell, w in baseline[i].items()})
                for run, i in zip(runs, order, strict=True)
            ]
            found[name] = estimate(judged, pairs, level=level)
        else:
            found[name] = estimate(judged, runs, against=baseline, level=level)
    return found


def _balance(run: Run) -> Weights | None:
    """Learning plus the final held-out change: what the leaderboard ranks by."""
    learning = forgetting.learning(run.course)
    final = forgetting.held_out_final(run.course)
    if learning is None or final is None:
        return None
    return {cell: learning.get(cell, 0.0) + final.get(cell, 0.0) for cell in {**learning, **final}}


def _at(run: Run, t: int | None) -> Weights | None:
    return None if t is None or t > run.last else forgetting.held_out_change(run.course, t)


def _means(judged: Judged, run: Run) -> Callable[[int, str], float]:
    return lambda t, b: judged.mean(b, run.key(t))


def _worst_benchmark(judged: Judged, strategy: Strategy) -> str | None:
    """The held-out benchmark with the lowest mean change over runs at the last stage."""
    common = set.intersection(*(set(run.course.held_out_at(run.last)) for run in strategy.runs))
    if not common or strategy.last == 0:
        return None
    changes = []
    names = sorted(common)
    for name in names:
        values = [
            forgetting.evaluate(forgetting.change(name, 0, run.last), _means(judged, run))
            for run in strategy.runs
        ]
        changes.append(float(np.mean(values)))
    return None if np.isnan(changes).any() else names[int(np.argmin(changes))]


def _most_common(names: Sequence[str]) -> str | None:
    return max(dict.fromkeys(names), key=list(names).count) if names else None


def _not_learned(strategy: Strategy, learned: Mapping[str, Sequence[int]]) -> list[str]:
    notes = []
    for run in strategy.runs:
        missed = [f"{b} (stage {k})" for k, b in run.course.lessons if k not in learned[run.name]]
        if missed:
            where = strategy.name + (f", run {run.name}" if len(strategy.runs) > 1 else "")
            notes.append(
                f"{where}: not learned beyond chance, so left out of target forgetting: "
                + ", ".join(missed)
            )
    return notes
