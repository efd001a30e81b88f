"""A judgement: everything a study says about its strategies, as frames, figures and sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from harness.analysis.figures import StrategyFigures, compare_strategies, figures_of
from harness.analysis.frames import deltas_frame, leaderboard_frame, point, scores_frame
from harness.analysis.matrix import Judged, label, scorer_of
from harness.analysis.multiple import minimum_detectable_effect
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import PairedDifference
from harness.analysis.recovery import score_interval
from harness.analysis.scores import FAILED, SCORED, StudyScores
from harness.analysis.sentences import comparison_sentence, sentence
from harness.analysis.strategies import Strategy, complete_benchmarks, strategies_of
from harness.errors import Problem, UserError, did_you_mean
from harness.types import OWN_METRIC


@dataclass(frozen=True, slots=True)
class Judgement:
    """The result of judging one study."""

    study: str
    scorer: str
    options: JudgeOptions
    scores: pd.DataFrame
    """`scores.csv`: one row per stage, benchmark and scorer."""
    deltas: pd.DataFrame
    """`deltas.csv`: one row per contrast and benchmark; role `mean` = held-out mean, run `mean` =
    mean over runs."""
    leaderboard: pd.DataFrame
    """`leaderboard.csv`: one row per strategy, best first."""
    strategies: tuple[StrategyFigures, ...]
    """The same and more as values: curves, dips, recovery."""
    figures: Mapping[str, Mapping[str, PairedDifference]]
    """strategy -> figure (names of the leaderboard without `_pp`, and those of the literature)."""
    comparisons: Mapping[str, Mapping[str, PairedDifference]]
    """strategy -> figure minus the baseline strategy's; empty without a baseline."""
    sentences: Mapping[str, str]
    """strategy -> what the numbers say."""
    comparison_sentences: Mapping[str, str]
    """strategy -> how it differs from the baseline strategy; empty without a baseline."""
    by_run: Mapping[str, Mapping[str, tuple[float, ...]]]
    """strategy -> figure (learning, heldout_final) -> its value in each run, as fractions."""
    minimum_detectable_pp: Mapping[str, float]
    """strategy -> smallest held-out change at the last stage that would be found (80 % power)."""
    notes: tuple[str, ...]
    """What a reader must know: missing cells, targets not learned, bases at chance, ..."""

    @property
    def judged_scores(self) -> pd.DataFrame:
        """The rows of `scores` that were judged: one per stage and benchmark."""
        return self.scores[self.scores["scorer"].isin([self.scorer, OWN_METRIC])]

    @property
    def scorers(self) -> str:
        """What benchmarks are judged by, in a word or two."""
        found = set(self.judged_scores["scorer"]) | {self.scorer}
        return ", ".join(sorted(found, key=lambda scorer: (scorer != self.scorer, scorer)))


def judge(
    scores: StudyScores,
    options: JudgeOptions | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Judge a study. `on_step(done, total)` is called as it goes on.

    Raises UserError for an unknown scorer, baseline or dip; IncompatibleError (exit code 4) for
    numbers made in different ways or over different samples. Missing cells give NA.
    """
    options = options or JudgeOptions()
    scorer = scorer_of(scores, options.scorer)
    judged = Judged(scores, scorer)
    judged.check_settings(scores.benchmarks, None)
    usable = complete_benchmarks(judged) if options.common_set else None
    strategies = strategies_of(scores, usable)
    _check_names(scores, strategies, options)
    steps = 2 * len(strategies) + 2
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_step:
            on_step(done, steps)

    found = []
    for strategy in strategies:
        found.append(figures_of(judged, strategy, options))
        step()
    deltas = deltas_frame(judged, found, options, step)
    cells = scores_frame(judged, strategies, options.level)
    step()
    leaderboard = leaderboard_frame(judged, found, options)
    step()
    by_run = {x.strategy.name: _by_run(judged, x) for x in found}
    comparisons, compared = _comparisons(judged, found, options)
    return Judgement(
        study=scores.study,
        scorer=scorer,
        options=options,
        scores=cells,
        deltas=deltas,
        leaderboard=leaderboard,
        strategies=tuple(found),
        figures={x.strategy.name: x.figures for x in found},
        comparisons=comparisons,
        sentences={
            x.strategy.name: sentence(x, options, by_run[x.strategy.name]["heldout_final"])
            for x in found
        },
        comparison_sentences=compared,
        by_run=by_run,
        minimum_detectable_pp={
            x.strategy.name: 100 * detectable(x.figures["heldout_final"]) for x in found
        },
        notes=tuple(_notes(judged, found, options, usable)),
    )


def detectable(found: PairedDifference) -> float:
    """The smallest change that would be found with 80 % power where `found` was measured."""
    half = (found.high - found.low) / 2
    error = half / float(special.ndtri(0.5 + found.level / 2))
    return minimum_detectable_effect(error, level=found.level)


def _check_names(
    scores: StudyScores, strategies: Sequence[Strategy], options: JudgeOptions
) -> None:
    problems = []
    names = [strategy.name for strategy in strategies]
    if options.baseline is not None and options.baseline not in names:
        near = did_you_mean(options.baseline, names)
        text = f"got {options.baseline!r}, expected a strategy: {', '.join(names)}{near}"
        problems.append(Problem("baseline", text))
    tuned = [stage for stage in scores.stages if stage.key.stage]
    stages = sorted({stage.name for stage in tuned} | {stage.trained_on or "" for stage in tuned})
    if options.dip is not None and options.dip not in stages:
        near = did_you_mean(options.dip, stages)
        text = f"got {options.dip!r}, expected a stage: {', '.join(filter(None, stages))}{near}"
        problems.append(Problem("dip", text))
    if problems:
        raise UserError(f"study {scores.study}", problems)


def _by_run(judged: Judged, found: StrategyFigures) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(point(judged, [run]) for run in found.contrasts[name])
        for name in ("learning", "heldout_final")
    }


def _comparisons(
    judged: Judged, found: Sequence[StrategyFigures], options: JudgeOptions
) -> tuple[dict[str, dict[str, PairedDifference]], dict[str, str]]:
    base = next((x for x in found if x.strategy.name == options.baseline), None)
    if base is None:
        return {}, {}
    differences = {
        x.strategy.name: compare_strategies(judged, x, base, options.level)
        for x in found
        if x is not base
    }
    n_runs = {x.strategy.name: len(x.strategy.runs) for x in found}
    words = {
        name: comparison_sentence(
            name, base.strategy.name, both, (n_runs[name], len(base.strategy.runs))
        )
        for name, both in differences.items()
    }
    return differences, words


def _notes(
    judged: Judged,
    found: Sequence[StrategyFigures],
    options: JudgeOptions,
    usable: Sequence[str] | None,
) -> Iterator[str]:
    scores = judged.scores
    yield from scores.notes
    yield from scores.ungraded.values()
    if judged.scorer != (options.scorer or scores.scorer):
        yield f"judged by scorer {judged.scorer!r}, the only one in this study"
    missing = [
        f"{name} at {label(stage.key)}"
        for name in scores.benchmarks
        for stage in scores.stages
        if not judged.has(name, stage.key)
    ]
    if missing:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        yield f"{_count(len(missing), 'cell')} missing (NA): {shown}"
        if usable is None:
            yield "aggregates that need a missing cell are NA; --common uses the common set"
        else:
            left_out = [b for b in scores.benchmarks if b not in usable]
            yield f"aggregates are over the common set, without {', '.join(left_out)}"
    for name, bench in scores.benchmarks.items():
        if elsewhere := judged.elsewhere(bench):
            yield f"{name} has no scores {elsewhere}; choose with --scorer"
    if torn := list(_much_failed(scores, options.max_dropped)):
        shown = ", ".join(torn[:5]) + (", ..." if len(torn) > 5 else "")
        yield f"{_count(len(torn), 'cell')} without many of the answers, which failed: {shown}"
    for x in found:
        yield from x.notes
        if len({run.last for run in x.strategy.runs}) > 1:
            ends = ", ".join(f"run {run.name} at {run.last}" for run in x.strategy.runs)
            yield (
                f"{x.strategy.name}: its runs end at different stages ({ends}); "
                "figures of the last stage are means over these ends"
            )
    unknown = {
        s.trained_on
        for s in scores.stages
        if s.trained_on and s.trained_on not in scores.benchmarks
    }
    for name in sorted(unknown):
        yield f"target {name!r} is not in the suite: what its stage taught is not measured"
    yield from _at_chance(judged)
    if any(x.recovery is not None for x in found) and options.dip is None:
        yield "recovery is measured from the lowest stage, which inflates it; --dip declares one"


def _much_failed(scores: StudyScores, accepted: float) -> Iterator[str]:
    """Cells of which more than `accepted` failed: their means are of the other samples."""
    for name, bench in scores.benchmarks.items():
        failed, scored = ((bench.status == kind).sum(axis=0) for kind in (FAILED, SCORED))
        for key, n_failed, n_scored in zip(bench.columns, failed, scored, strict=True):
            if n_failed > accepted * (n_failed + n_scored):
                yield f"{name} at {label(key)} ({n_failed:,} of {n_failed + n_scored:,})"


def _at_chance(judged: Judged) -> Iterator[str]:
    """Benchmarks on which the base cannot be told from guessing."""
    for key in [s.key for s in judged.scores.stages if s.key.stage == 0]:
        for name, bench in judged.scores.benchmarks.items():
            chance = (
                float(np.average(bench.chance, weights=bench.weights)) if len(bench.chance) else 0
            )
            values = judged.columns(name, [key])[:, 0]
            low = score_interval(values, bench.groups, bench.weights, 0.95)[1]
            if chance > 0 and low <= chance:
                yield (
                    f"{name}: {label(key)} is at chance ({100 * chance:.0f} %), "
                    "so no loss can show and chance-adjusted scores are NA"
                )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
