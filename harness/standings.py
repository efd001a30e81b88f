"""Standings: the strategies of several studies in one ranking, or a refusal to rank them together.

Strategies are ranked together only if they answered the same samples of the same benchmarks under
the same settings and scorer; base models may differ. Then the studies are joined into one, so that
ranks, Pareto flags and ties are computed over the union, and ties are paired by sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis import Judged, JudgeOptions, scorer_of, suite_settings
from harness.analysis.contrasts import check_overlap
from harness.analysis.figures import StrategyFigures, compare_strategies, figures_of
from harness.analysis.frames import leaderboard_frame
from harness.analysis.scores import MISSING, BenchmarkScores, Stage, StageKey, StudyScores
from harness.analysis.strategies import Strategy, complete_benchmarks, strategies_of
from harness.errors import IncompatibleError, Problem, UserError

TIED_WITH = "tied_with"
# What strategies are ranked by: the first that a suite can give.
FIGURES = ("balance", "heldout_final", "learning")
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Standings:
    """A ranking with what a reader must know of it."""

    frame: pd.DataFrame
    """The columns of `leaderboard.csv`, then `tied_with`: the rank of the best row that cannot be
    told from this one; NA where there is none above."""
    figure: str
    """What is ranked by: one of FIGURES."""
    level: float
    notes: tuple[str, ...]


def rank_studies(
    studies: Sequence[StudyScores],
    options: JudgeOptions,
    on_step: Callable[[int, int], None] | None = None,
) -> Standings:
    """Rank all strategies of all studies by balance (learning + final held-out change).

    Studies without targets are ranked by the held-out change, those without held-out benchmarks
    by learning.
    The order of the studies does not matter. `on_step(done, total)` is called as it goes on.
    Raises IncompatibleError (exit code 4) that says in what the studies differ, and UserError for
    studies of one name or without a strategy.
    """
    ordered = sorted(studies, key=lambda scores: scores.study)
    names = [scores.study for scores in ordered]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError("leaderboard", f"two studies are called {', '.join(twice)}")
    if not any(scores.runs() for scores in ordered):
        raise UserError("leaderboard", f"no strategy to rank in {', '.join(names)}")
    check_comparable(ordered, options)
    union = join(ordered)
    judged = Judged(union, scorer_of(union, options.scorer))
    judged.check_settings(union.benchmarks, None)
    usable = complete_benchmarks(judged) if options.common_set else None
    strategies = strategies_of(union, usable)
    _check_samples(judged, strategies, options)
    found = []
    for i, strategy in enumerate(strategies):
        found.append(figures_of(judged, strategy, options))
        if on_step:
            on_step(i + 1, len(strategies))
    frame = leaderboard_frame(judged, found, options)
    figure = _ranking_figure(union)
    if figure != FIGURES[0]:
        frame = _ranked_by(frame, figure)
    frame[TIED_WITH] = _ties(judged, found, frame, figure, options.level)
    split = frame["strategy"].str.partition("/")
    models = {scores.study: scores.base_model for scores in ordered}
    frame["study"], frame["strategy"] = split[0], split[2]
    frame["base_model"] = split[0].map(models)
    notes = [note for x in found for note in x.notes]
    n_missing = int(frame["n_missing"].sum())
    if n_missing and usable is None:
        cells = "1 cell" if n_missing == 1 else f"{n_missing} cells"
        text = f"{cells} missing: figures that need them are NA, --common leaves them out"
        notes.append(text)
    if all(len(strategy.runs) == 1 for strategy in strategies):
        notes.append("1 run each: ties and intervals cover the choice of samples, not of the run")
    return Standings(frame, figure, options.level, tuple(notes))


def _ranking_figure(scores: StudyScores) -> str:
    """One of FIGURES: what is missing is no reason to rank by something else."""
    roles = {bench.role for bench in scores.benchmarks.values()}
    taught = {stage.trained_on for stage in scores.stages} & scores.benchmarks.keys()
    if "held_out" not in roles and taught:
        return "learning"
    return "balance" if taught else "heldout_final"


# --- may they be compared? -----------------------------------------------------------------------


def check_comparable(studies: Sequence[StudyScores], options: JudgeOptions) -> None:
    """Raise IncompatibleError with every way in which a study differs from the first."""
    first, *others = studies
    problems = [
        Problem(f"{first.study} and {other.study}", text)
        for other in others
        for text in _differences(first, other, options)
    ]
    if problems:
        cure = "rank them apart, or score both under one manifest's suite and engine"
        raise IncompatibleError("leaderboard", [*problems, Problem("", cure)])


def _differences(one: StudyScores, other: StudyScores, options: JudgeOptions) -> Iterator[str]:
    scorers = [scorer_of(scores, options.scorer) for scores in (one, other)]
    if scorers[0] != scorers[1]:
        yield f"judged by scorer {scorers[0]!r} and {scorers[1]!r}"
    for here, there in ((one, other), (other, one)):
        lacking = [name for name in here.benchmarks if name not in there.benchmarks]
        if lacking:
            yield f"{', '.join(lacking)} only in {here.study}"
    made = [suite_settings(scores) for scores in (one, other)]
    for name in [name for name in one.benchmarks if name in other.benchmarks]:
        mine, theirs = one.benchmarks[name], other.benchmarks[name]
        if mine.role != theirs.role:
            yield f"{name} is {mine.role} and {theirs.role}"
        settings = [texts.get(name, "") for texts in made]
        if settings[0] != settings[1]:
            yield f"{name}: {_settings_difference(*settings)}"
        elif not _same_samples(mine, theirs):
            yield f"{name}: other samples, groups or weights"


def _settings_difference(one: str, other: str) -> str:
    """What differs between two `key:value|key:value` texts."""
    parts = [set(text.split("|")) for text in (one, other)]
    sides = [", ".join(sorted(own - both)) for own, both in (parts, parts[::-1])]
    return f"made with {sides[0] or 'less'} and with {sides[1] or 'less'}"


def _same_samples(one: BenchmarkScores, other: BenchmarkScores) -> bool:
    """Whether ids, groups and weights are the same, in whatever order."""
    if len(one.sample_ids) != len(other.sample_ids):
        return False
    a, b = np.argsort(one.sample_ids), np.argsort(other.sample_ids)
    groups = [pd.factorize(x.groups[order])[0] for x, order in ((one, a), (other, b))]
    return (
        bool((one.sample_ids[a] == other.sample_ids[b]).all())
        and bool((groups[0] == groups[1]).all())
        and bool(np.allclose(one.weights[a], other.weights[b]))
    )


def _check_samples(judged: Judged, strategies: Sequence[Strategy], options: JudgeOptions) -> None:
    """Raise IncompatibleError if a stage answered too few of the samples its base answered."""
    problems: dict[str, Problem] = {}
    for run in (run for strategy in strategies for run in strategy.runs):
        for t, name in product(range(1, run.last + 1), judged.scores.benchmarks):
            try:
                check_overlap(judged, name, [run.key(0), run.key(t)], options.max_dropped)
            except IncompatibleError as error:
                problems.setdefault(name, error.problems[0])
    if problems:
        raise IncompatibleError("leaderboard", list(problems.values()))


# --- joining -------------------------------------------------------------------------------------


def join(studies: Sequence[StudyScores]) -> StudyScores:
    """Comparable studies as one: strategies are called `study/strategy`, each with its own base."""
    stages: list[Stage] = []
    origin: list[tuple[int, StageKey]] = []
    for i, scores in enumerate(studies):
        for (strategy, run), steps in scores.runs().items():
            for step in steps:
                name = f"{scores.study}/{strategy}"
                stages.append(replace(step, key=StageKey(name, run, step.key.stage)))
                origin.append((i, step.key))
    keys = tuple(stage.key for stage in stages)
    return StudyScores(
        study=" + ".join(scores.study for scores in studies),
        base_model="",
        scorer=studies[0].scorer,
        stages=tuple(stages),
        benchmarks={
            name: _join_benchmark([scores.benchmarks[name] for scores in studies], keys, origin)
            for name in studies[0].benchmarks
        },
        components={
            f"{scores.study}/{strategy}": component
            for scores in studies
            for strategy, component in scores.components.items()
        },
        costs={
            f"{scores.study}/{strategy}": cost
            for scores in studies
            for strategy, cost in scores.costs.items()
        },
        audited={
            f"{scores.study}/{strategy}": status
            for scores in studies
            for strategy, status in scores.audited.items()
        },
    )


def _join_benchmark(
    parts: Sequence[BenchmarkScores],
    keys: tuple[StageKey, ...],
    origin: Sequence[tuple[int, StageKey]],
) -> BenchmarkScores:
    """The columns of all studies side by side, samples in the order of the first."""
    orders = [_order_like(parts[0], part) for part in parts]
    places = [{key: j for j, key in enumerate(part.columns)} for part in parts]
    scorers = [s for s in parts[0].values if all(s in part.values for part in parts)]

    def stack(matrices: Sequence[NDArray[Any]], fill: float) -> NDArray[Any]:
        empty = np.full(len(parts[0].sample_ids), fill)
        columns = [
            matrices[i][orders[i], places[i][key]] if key in places[i] else empty
            for i, key in origin
        ]
        return np.stack(columns, axis=1).astype(matrices[0].dtype)

    def made(texts: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        return tuple(
            texts[i][places[i][key]] if texts[i] and key in places[i] else "" for i, key in origin
        )

    return replace(
        parts[0],
        columns=keys,
        values={name: stack([part.values[name] for part in parts], np.nan) for name in scorers},
        status=stack([part.status for part in parts], MISSING),
        unparsed=stack([part.unparsed for part in parts], False),
        rates={},
        settings=made([part.settings for part in parts]),
        signatures=made([part.signatures for part in parts]),
    )


def _order_like(one: BenchmarkScores, other: BenchmarkScores) -> NDArray[np.intp]:
    """The rows of `other` in the order of `one`'s samples."""
    order = np.empty(len(one.sample_ids), np.intp)
    order[np.argsort(one.sample_ids)] = np.argsort(other.sample_ids)
    return order


def _ranked_by(frame: pd.DataFrame, figure: str) -> pd.DataFrame:
    """The rows ranked as `leaderboard_frame` does, by another column."""
    points = frame[f"{figure}_pp"].astype(float).round(9)
    rank = points.rank(ascending=False, method="min", na_option="keep").astype("Int64")
    ranked = frame.assign(rank=rank).sort_values(["rank", "strategy"], na_position="last")
    return ranked.reset_index(drop=True)


def _ties(
    judged: Judged,
    found: Sequence[StrategyFigures],
    frame: pd.DataFrame,
    figure: str,
    level: float,
) -> pd.Series[int]:
    """For each row the rank of the best row from which its `figure` cannot be told.

    Rows are compared with the leaders above them: those that are tied with no better row.
    """
    figures = {x.strategy.name: x for x in found}
    leaders: list[tuple[int, StrategyFigures]] = []
    tied: list[int | None] = []
    for name, rank in zip(frame["strategy"], frame["rank"], strict=True):
        if pd.isna(rank):
            tied.append(None)
            continue
        mine = figures[name]
        match = None
        for leader_rank, leader in leaders:
            gap = compare_strategies(judged, leader, mine, level)[figure]
            if not gap.known or gap.low <= _ROUNDING:
                match = leader_rank
                break
        if match is None:
            leaders.append((int(rank), mine))
        tied.append(match)
    return pd.Series(tied, dtype="Int64")
