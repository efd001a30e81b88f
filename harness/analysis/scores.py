"""The scores of a study as arrays: what every function of `harness.analysis` starts from.

Built by `harness.scoring` from stored predictions or by `harness.interop` from other people's
files; from here on nothing knows where a number came from. Scores are fractions in [0, 1];
NaN = no score (missing, failed or not applicable: `status` says which).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.errors import Problem, UserError
from harness.types import BASE, HELD_OUT_MEAN, MEAN, OWN_METRIC, Stage, StageKey

__all__ = ["BASE", "BenchmarkScores", "Stage", "StageKey", "StudyScores", "Texts"]

# Whose scores a study is judged by where nobody names a scorer.
DEFAULT_SCORER = "strict"
# Values of `BenchmarkScores.status`.
MISSING, SCORED, FAILED, NOT_APPLICABLE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class BenchmarkScores:
    """All scores of one benchmark: samples in rows, stages in columns."""

    benchmark: str
    role: str
    metric: str
    sample_ids: NDArray[np.object_]
    """(n,) unique."""
    groups: NDArray[np.int64]
    """(n,) cluster codes: samples with equal codes share an image."""
    weights: NDArray[np.float64]
    """(n,) positive; the headline is the weighted mean (all ones for a plain mean)."""
    chance: NDArray[np.float64]
    """(n,) expected score of guessing."""
    columns: tuple[StageKey, ...]
    values: Mapping[str, NDArray[np.float64]]
    """scorer -> (n, n_columns) scores in [0, 1]."""
    status: NDArray[np.uint8]
    """(n, n_columns) MISSING, SCORED, FAILED or NOT_APPLICABLE."""
    unparsed: NDArray[np.bool_]
    """(n, n_columns) True where an answer was given but nothing could be read from it."""
    rates: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Further per-sample indicators, for example `bare_number`: (n, n_columns) in [0, 1] or NaN."""
    settings: tuple[str, ...] = ()
    """(n_columns,) signature of each column without its checkpoint: equal = comparable."""
    signatures: tuple[str, ...] = ()
    """(n_columns,) full signature of each column."""

    def judged_by(self, scorer: str) -> str:
        """The scorer that judges it where others are judged by `scorer`: its own, if it has one."""
        return OWN_METRIC if scorer not in self.values and OWN_METRIC in self.values else scorer


class Texts(Protocol):
    """The words behind the scores, read only for the few samples that are shown."""

    def question(self, benchmark: str, sample_id: str) -> str: ...
    def gold(self, benchmark: str, sample_id: str) -> str: ...
    def response(self, key: StageKey, benchmark: str, sample_id: str) -> str: ...


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """What one run of a strategy cost to train, as its stages' records say."""

    trainable_share: float
    """Largest of the stages; fraction of the model's parameters, in [0, 1]."""
    train_seconds: float
    """Sum over the stages; mean over the runs."""
    peak_memory_gb: float
    """Largest of all stages, 10^9 bytes."""
    energy_kwh: float | None = None
    """Sum over the stages, mean over the runs, as `codecarbon` estimates; None = not measured."""
    co2_kg: float | None = None
    """Likewise; None also where the country is not known."""


@dataclass(frozen=True, slots=True)
class StudyScores:
    """Everything that compare, gate, leaderboard and the report judge."""

    study: str
    base_model: str
    stages: tuple[Stage, ...]
    """Base first, then by strategy (manifest order), run, stage."""
    benchmarks: Mapping[str, BenchmarkScores]
    """In suite order: targets, held-out, probes."""
    components: Mapping[str, str] = field(default_factory=dict)
    """strategy -> declared component."""
    texts: Texts | None = None
    notes: tuple[str, ...] = ()
    """What a reader must know of how the scores were made, for example the noise floor."""
    ungraded: Mapping[str, str] = field(default_factory=dict)
    """benchmark -> why it is missing though it was answered, and the cure; one line."""
    costs: Mapping[str, TrainingCost] = field(default_factory=dict)
    """strategy -> cost, where every stage has a record of its training."""
    audited: Mapping[str, str] = field(default_factory=dict)
    """strategy -> what the audit of its stages found, for example `verified`."""
    scorer: str = DEFAULT_SCORER
    """Whose scores it is judged by unless another scorer is named."""

    def __post_init__(self) -> None:
        """Raises UserError for a name that would be taken for a mean."""
        runs = {stage.key.run for stage in self.stages}
        taken = [
            Problem(f"{what} {name!r}", "is what tables call a mean; give it another name")
            for what, name, there in (
                ("benchmark", HELD_OUT_MEAN, HELD_OUT_MEAN in self.benchmarks),
                ("run", MEAN, MEAN in runs),
            )
            if there
        ]
        if taken:
            raise UserError(f"study {self.study}", taken)

    def runs(self) -> Mapping[tuple[str, str], Sequence[Stage]]:
        """(strategy, run) -> its stages in order, base first (its own or the shared one)."""
        shared = [s for s in self.stages if s.key.strategy == BASE]
        found: dict[tuple[str, str], list[Stage]] = {}
        for stage in self.stages:
            if stage.key.strategy != BASE:
                found.setdefault((stage.key.strategy, stage.key.run), []).append(stage)
        for steps in found.values():
            steps.sort(key=lambda stage: stage.key.stage)
            if steps[0].key.stage != 0:
                steps[:0] = shared
        return found
