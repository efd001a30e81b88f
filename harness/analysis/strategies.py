"""A strategy as the statistics see it: its runs, each with stages in order and what was taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.contrasts import CellWeights
from harness.analysis.forgetting import Course, Weights
from harness.analysis.matrix import Judged
from harness.analysis.scores import Stage, StageKey, StudyScores
from harness.errors import ResultsError


@dataclass(frozen=True, slots=True)
class Run:
    """One sequence of stages, base first."""

    name: str
    stages: tuple[Stage, ...]
    course: Course

    @property
    def last(self) -> int:
        """Stages after the base."""
        return self.course.last

    def key(self, t: int) -> StageKey:
        """The column of the t-th stage, 0 = base."""
        return self.stages[t].key

    def cells(self, weights: Weights) -> CellWeights:
        """A figure's weights on this run's own columns."""
        return {(self.key(t), b): weight for (t, b), weight in weights.items()}

    def position(self, stage: str) -> int | None:
        """Where the stage of that name, or trained on that, comes; None if it does not."""
        for t, found in enumerate(self.stages):
            if t > 0 and stage in (found.name, found.trained_on):
                return t
        return None


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way of tuning, with all its runs."""

    name: str
    runs: tuple[Run, ...]

    @property
    def longest(self) -> Run:
        """The (first) run with the most stages; runs that were cut short have fewer."""
        return max(self.runs, key=lambda run: run.last)

    @property
    def last(self) -> int:
        """Stages after the base; of the longest run."""
        return self.longest.last

    def stage_name(self, t: int) -> str:
        """The name of stage t, with all names where the runs have different orders."""
        names = [run.stages[t].name for run in self.runs if t <= run.last]
        return "/".join(dict.fromkeys(names))


def strategies_of(scores: StudyScores, usable: Sequence[str] | None = None) -> list[Strategy]:
    """The strategies of a study in its order; `usable` benchmarks (None: all) count as held-out.

    Raises ResultsError for a strategy without a base.
    """
    names = [b for b in scores.benchmarks if usable is None or b in usable]
    held_out = tuple(b for b in names if scores.benchmarks[b].role == "held_out")
    runs: dict[str, list[Run]] = {}
    for (strategy, run), stages in scores.runs().items():
        if not stages or stages[0].key.stage != 0:
            raise ResultsError(
                f"study {scores.study}",
                f"strategy {strategy!r} has no base (stage 0) to compare with; score the base too",
            )
        trained = [s.trained_on if s.trained_on in names else None for s in stages]
        course = Course((None, *trained[1:]), held_out)
        runs.setdefault(strategy, []).append(Run(run, tuple(stages), course))
    return [Strategy(name, tuple(found)) for name, found in runs.items()]


def complete_benchmarks(judged: Judged) -> list[str]:
    """Benchmarks that no stage of any strategy lacks: the common set."""
    keys = [stage.key for stage in judged.scores.stages]
    return [b for b in judged.scores.benchmarks if all(judged.has(b, key) for key in keys)]


def role_at(scores: StudyScores, benchmark: str, run: Run | None, t: int) -> str:
    """`target`, `held_out` or `probe`: a held-out benchmark becomes a target once trained on."""
    role = scores.benchmarks[benchmark].role
    if run is not None and role == "held_out" and benchmark in run.course.trained[1 : t + 1]:
        return "target"
    return role


def cell_counts(judged: Judged, strategy: Strategy) -> tuple[int, int]:
    """(cells that the strategy should have, base included; how many of them are missing)."""
    keys = {stage.key for run in strategy.runs for stage in run.stages}
    cells = [(b, key) for b in judged.scores.benchmarks for key in keys]
    return len(cells), sum(not judged.has(b, key) for b, key in cells)


def by_name(strategies: Sequence[Strategy]) -> Mapping[str, Strategy]:
    """Strategies by their names."""
    return {strategy.name: strategy for strategy in strategies}
