"""The score matrix: stages in rows, benchmarks in columns, with the counts beside the means.

`Judged` is a study seen through one scorer. It answers which cells are there and refuses to put
cells side by side that were made in different ways. A missing cell is never a zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from harness.analysis.paired import Floats
from harness.analysis.scores import MISSING, BenchmarkScores, StageKey, StudyScores
from harness.errors import IncompatibleError, Problem, UserError, did_you_mean
from harness.types import OWN_METRIC, ScorerName


@dataclass(frozen=True, slots=True)
class ScoreMatrix:
    """Mean scores, (n_stages, n_benchmarks); NaN = missing cell."""

    stages: tuple[StageKey, ...]
    benchmarks: tuple[str, ...]
    means: Floats
    """Fractions in [0, 1]."""
    n_samples: NDArray[np.int64]
    """Samples with a score behind each mean."""


def scorer_of(scores: StudyScores, name: str) -> str:
    """The scorer to judge by. Raises UserError for one that the study has not.

    "" stands for the study's own, or the only one there is. Where lm-eval graded everything, its
    own metric stands for every scorer of ours.
    """
    asked, name = name, name or scores.scorer
    known = sorted({scorer for bench in scores.benchmarks.values() for scorer in bench.values})
    if name in known:
        return name
    ours = not asked or (known == [OWN_METRIC] and name in get_args(ScorerName))
    if len(known) == 1 and ours:
        return known[0]
    near = did_you_mean(name, known)
    found = ", ".join(known) or "none"
    cure = "" if asked or near else "; choose one with --scorer"
    raise UserError(f"study {scores.study}", f"no scorer {name!r}, found: {found}{near}{cure}")


def suite_settings(scores: StudyScores) -> dict[str, str]:
    """benchmark -> how its numbers were made, checkpoint left out: equal = comparable."""
    return {
        name: " / ".join(sorted({bench.settings[j] for j in _present(bench)}))
        for name, bench in scores.benchmarks.items()
        if bench.settings
    }


def _present(bench: BenchmarkScores) -> list[int]:
    return [j for j in range(len(bench.columns)) if (bench.status[:, j] != MISSING).any()]


def label(key: StageKey) -> str:
    """How a stage is called in messages: `llm@2`, `llm/seed1@2`."""
    run = "" if key.run in ("", "0") else f"/{key.run}"
    return f"{key.strategy}{run}@{key.stage}"


class Judged:
    """The scores of a study under one scorer."""

    reach: float = 1.0
    """The largest size that a difference of two values can have."""
    signed: bool = False
    """Whether values have either sign, so that a mean of 0 does not say that all are."""

    def __init__(self, scores: StudyScores, scorer: str):
        self.scores = scores
        self.scorer = scorer
        self._rows: dict[str, Floats] = {}
        self._columns = {
            name: {key: j for j, key in enumerate(bench.columns)}
            for name, bench in scores.benchmarks.items()
        }

    def has(self, benchmark: str, key: StageKey) -> bool:
        """Whether any sample of the cell has a score."""
        return (benchmark, key) in self._means

    def mean(self, benchmark: str, key: StageKey) -> float:
        """The (weighted) mean score of a cell; NaN where it is missing."""
        return self._means.get((benchmark, key), float("nan"))

    @cached_property
    def _means(self) -> dict[tuple[str, StageKey], float]:
        means = {}
        for name, bench in self.scores.benchmarks.items():
            values = self.values(bench)
            known = np.isfinite(values)
            total = bench.weights @ known
            sums = bench.weights @ np.where(known, values, 0.0)
            for j in np.flatnonzero(total > 0):
                means[name, bench.columns[j]] = float(sums[j] / total[j])
        return means

    def values(self, bench: BenchmarkScores) -> Floats:
        """(n, n_columns) scores under the scorer; all NaN where it was not used."""
        found = bench.values.get(bench.judged_by(self.scorer))
        return np.full(bench.status.shape, np.nan) if found is None else found

    def elsewhere(self, bench: BenchmarkScores) -> str:
        """`by 'strict', only by lenient`: the scorers that were used instead; "" = this one was."""
        if not bench.values or bench.judged_by(self.scorer) in bench.values:
            return ""
        return f"by {self.scorer!r}, only by {', '.join(bench.values)}"

    def columns(self, benchmark: str, keys: Sequence[StageKey]) -> Floats:
        """(n, len(keys)) scores of the benchmark's samples at `keys`; absent stages are NaN.

        The transpose is contiguous: arithmetic over samples is quickest on `.T`.
        """
        stored = self._by_column(benchmark)
        rows = [self._columns[benchmark].get(key, -1) for key in keys]
        return np.asarray(stored[rows]).T

    def _by_column(self, benchmark: str) -> Floats:
        """(n_columns + 1, n): one contiguous row per column, and one of NaN for absent ones."""
        if benchmark not in self._rows:
            values = self.values(self.scores.benchmarks[benchmark])
            absent = np.full((1, len(values)), np.nan)
            self._rows[benchmark] = np.concatenate([values.T, absent])
        return self._rows[benchmark]

    def same_signature(self, benchmark: str, one: StageKey, other: StageKey) -> bool:
        """Whether two cells are one and the same (same weights under the same settings)."""
        bench = self.scores.benchmarks[benchmark]
        i, j = (self._columns[benchmark].get(key) for key in (one, other))
        if i is None or j is None or not bench.signatures:
            return False
        return bool(bench.signatures[i]) and bench.signatures[i] == bench.signatures[j]

    def check_settings(self, benchmarks: Iterable[str], keys: Iterable[StageKey] | None) -> None:
        """Raise IncompatibleError unless the given cells of each benchmark were made alike."""
        wanted = None if keys is None else set(keys)
        problems = []
        for name in benchmarks:
            bench = self.scores.benchmarks[name]
            if not bench.settings:
                continue
            by_settings: dict[str, StageKey] = {}
            for j in _present(bench):
                if wanted is None or bench.columns[j] in wanted:
                    by_settings.setdefault(bench.settings[j], bench.columns[j])
            if len(by_settings) > 1:
                (one, first), (two, second) = list(by_settings.items())[:2]
                text = f"{label(first)} was made with {one!r}, {label(second)} with {two!r}"
                problems.append(Problem(name, text))
        if problems:
            cure = Problem("", "score the stages again under one setting: forgeteval score")
            raise IncompatibleError(f"study {self.scores.study}", [*problems, cure])

    def matrix(self, stages: Sequence[StageKey], benchmarks: Sequence[str]) -> ScoreMatrix:
        """Means and counts of the given stages and benchmarks."""
        means = np.array([[self.mean(name, key) for name in benchmarks] for key in stages])
        counts = np.zeros(means.shape, dtype=np.int64)
        for b, name in enumerate(benchmarks):
            counts[:, b] = np.isfinite(self.columns(name, stages)).sum(axis=0)
        return ScoreMatrix(tuple(stages), tuple(benchmarks), means, counts)


class Drift(Judged):
    """Strict minus lenient scores: what is lost in form only. In [-1, 0] for any honest pair."""

    def __init__(self, scores: StudyScores):
        super().__init__(scores, "strict - lenient")

    def values(self, bench: BenchmarkScores) -> Floats:
        """(n, n_columns) differences of the two scorers; NaN where one was not used."""
        if "strict" in bench.values and "lenient" in bench.values:
            return np.asarray(bench.values["strict"] - bench.values["lenient"])
        return np.full(bench.status.shape, np.nan)


# Of rates that are no shares: nats have no upper end, a gap is a difference itself.
_REACHES = {"kl_forward": np.inf, "kl_reverse": np.inf, "choice_gap": 2.0}


class Trait(Judged):
    """One of the rates in a score's place: a trait of the answers or a token class's mass."""

    def __init__(self, scores: StudyScores, name: str):
        super().__init__(scores, name)
        self.reach = _REACHES.get(name.partition("@")[0], 1.0)
        self.signed = name == "choice_gap"

    def values(self, bench: BenchmarkScores) -> Floats:
        """(n, n_columns) values, mostly shares; all NaN where the benchmark does not have it."""
        if self.scorer in bench.rates:
            return bench.rates[self.scorer]
        return np.full(bench.status.shape, np.nan)
