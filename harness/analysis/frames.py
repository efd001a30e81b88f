"""The frames behind `scores.csv`, `deltas.csv` and `leaderboard.csv`: their columns and rows.

Values here are points (`_pp`, `_pct`), NaN or None = NA. Rows come in a fixed order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.analysis.contrasts import CellWeights, estimate, part_of
from harness.analysis.figures import StrategyFigures, part, recovery_at
from harness.analysis.flips import flips
from harness.analysis.forgetting import change, mean_of, pareto
from harness.analysis.matrix import Drift, Judged, label, suite_settings
from harness.analysis.multiple import holm
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import PairedDifference
from harness.analysis.recovery import score_interval
from harness.analysis.scores import FAILED, BenchmarkScores, StudyScores
from harness.analysis.strategies import Run, Strategy, cell_counts, role_at
from harness.analysis.verdicts import verdict
from harness.errors import IncompatibleError, Problem
from harness.types import HELD_OUT_MEAN, MEAN

SCORES_COLUMNS = [
    "study",
    "strategy",
    "run",
    "stage",
    "stage_name",
    "trained_on",
    "benchmark",
    "role",
    "metric",
    "scorer",
    "n_samples",
    "n_groups",
    "n_unparsed",
    "n_failed",
    "score_pct",
    "ci_low_pct",
    "ci_high_pct",
    "chance_pct",
    "signature",
]
DELTAS_COLUMNS = [
    "study",
    "strategy",
    "run",
    "contrast",
    "from_stage",
    "to_stage",
    "benchmark",
    "role",
    "scorer",
    "n_samples",
    "n_groups",
    "n_dropped",
    "delta_pp",
    "ci_low_pp",
    "ci_high_pp",
    "p_value",
    "p_holm",
    "lost",
    "gained",
    "superficial_pp",
    "superficial_ci_low_pp",
    "superficial_ci_high_pp",
    "essential_pp",
    "essential_ci_low_pp",
    "essential_ci_high_pp",
    "recovery_fraction",
    "recovery_ci_low",
    "recovery_ci_high",
    "margin_pp",
    "verdict",
]
LEADERBOARD_COLUMNS = [
    "rank",
    "study",
    "base_model",
    "strategy",
    "components",
    "n_stages",
    "n_runs",
    "learning_pp",
    "learning_ci_low_pp",
    "learning_ci_high_pp",
    "target_forgetting_pp",
    "target_overall_pp",
    "heldout_final_pp",
    "heldout_final_ci_low_pp",
    "heldout_final_ci_high_pp",
    "heldout_worst_pp",
    "heldout_worst_stage",
    "heldout_mean_pp",
    "heldout_sum_pp",
    "worst_benchmark",
    "worst_benchmark_pp",
    "superficial_pp",
    "superficial_ci_low_pp",
    "superficial_ci_high_pp",
    "essential_pp",
    "essential_ci_low_pp",
    "essential_ci_high_pp",
    "recovery_fraction",
    "recovery_ci_low",
    "recovery_ci_high",
    "n_regressed",
    "pareto",
    "number_mass_shift",
    "balance_pp",
    "trainable_share",
    "train_seconds",
    "peak_memory_gb",
    "n_cells",
    "n_missing",
    "signature",
]

# Figures that the leaderboard shows in points.
POINTS = (
    "learning",
    "target_forgetting",
    "target_overall",
    "heldout_final",
    "heldout_worst",
    "heldout_mean",
    "heldout_sum",
    "worst_benchmark",
    "superficial",
    "essential",
    "balance",
)

Row = dict[str, object]


def scores_frame(judged: Judged, strategies: Sequence[Strategy], level: float) -> pd.DataFrame:
    """One row per stage, benchmark and scorer, and one per further rate; missing cells are NA."""
    scores = judged.scores
    runs = {stage.key: run for s in strategies for run in s.runs for stage in run.stages}
    positions = {s.key: t for run in runs.values() for t, s in enumerate(run.stages)}
    rows: list[Row] = []
    for stage in scores.stages:
        run = runs.get(stage.key) if positions.get(stage.key) else None
        for name, bench in scores.benchmarks.items():
            columns = {key: j for j, key in enumerate(bench.columns)}
            j = columns.get(stage.key)
            common: Row = {
                "study": scores.study,
                "strategy": stage.key.strategy,
                "run": stage.key.run,
                "stage": stage.key.stage,
                "stage_name": stage.name,
                "trained_on": stage.trained_on,
                "benchmark": name,
                "role": role_at(scores, name, run, positions.get(stage.key, 0)),
            }
            rows += [{**common, **row} for row in _cell_rows(bench, j, level)]
    return pd.DataFrame(rows, columns=SCORES_COLUMNS)


def _cell_rows(bench: BenchmarkScores, j: int | None, level: float) -> Iterator[Row]:
    """The rows of one cell: one per scorer, then one per rate."""
    chance = (
        100 * float(np.average(bench.chance, weights=bench.weights)) if len(bench.chance) else None
    )
    kinds = [(bench.metric, scorer, values, chance) for scorer, values in bench.values.items()]
    kinds += [(f"{name}_rate", "NA", values, None) for name, values in bench.rates.items()]
    for metric, scorer, matrix, guess in kinds:
        values = matrix[:, j] if j is not None else np.full(len(bench.sample_ids), np.nan)
        known = np.isfinite(values)
        mean, low, high = score_interval(values, bench.groups, bench.weights, level)
        made = bench.signatures[j] if j is not None and bench.signatures else ""
        yield {
            "metric": metric,
            "scorer": scorer,
            "n_samples": int(known.sum()),
            "n_groups": len(np.unique(bench.groups[known])),
            "n_unparsed": 0 if j is None else int(bench.unparsed[:, j].sum()),
            "n_failed": 0 if j is None else int((bench.status[:, j] == FAILED).sum()),
            "score_pct": 100 * mean,
            "ci_low_pct": 100 * low,
            "ci_high_pct": 100 * high,
            "chance_pct": guess,
            "signature": "|".join(filter(None, [made, f"scorer:{scorer}", f"level:{level:g}"])),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row of `deltas.csv` before it is computed: stages by position in their run."""

    contrast: str
    start: int
    end: int
    benchmark: str
    """A benchmark, or HELD_OUT_MEAN."""


def comparisons_of(run: Run, benchmarks: Sequence[str], dip: int | None) -> list[Comparison]:
    """All rows of one run, in their order."""
    rows = []
    for t in range(1, run.last + 1):
        names = [*benchmarks, *([HELD_OUT_MEAN] if run.course.held_out_at(t) else [])]
        rows += [Comparison("base_to_stage", 0, t, name) for name in names]
        rows += [Comparison("previous_to_stage", t - 1, t, name) for name in names]
        if dip is not None and t > dip:
            kept = run.course.held_out_at(t)
            rows += [Comparison("dip_to_stage", dip, t, name) for name in kept]
            rows += [Comparison("dip_to_stage", dip, t, HELD_OUT_MEAN)] if kept else []
    rows += [
        Comparison("learned_to_final", k, run.last, target)
        for k, target in run.course.lessons
        if k < run.last
    ]
    return rows


class DeltaRows:
    """Computes the rows of `deltas.csv` of a study, one strategy after another."""

    def __init__(self, judged: Judged, options: JudgeOptions):
        self.judged = judged
        self.options = options
        self.drift = Drift(judged.scores)
        self.lenient = Judged(judged.scores, "lenient")
        self.too_few: list[Problem] = []
        """Pairs of cells whose samples differ too much to be compared."""

    def of_strategy(self, strategy: Strategy, dip: int | None) -> list[Row]:
        """Rows of each run, then (several runs) of the mean over runs."""
        names = list(self.judged.scores.benchmarks)
        by_run = {
            run.name: [
                c
                for c in comparisons_of(run, names, dip)
                if self.options.contrast in (None, c.contrast)
            ]
            for run in strategy.runs
        }
        rows = []
        for run in strategy.runs:
            rows += self._with_holm([self._row(strategy, [run], c) for c in by_run[run.name]])
        if len(strategy.runs) > 1:
            first, *others = (by_run[run.name] for run in strategy.runs)
            shared = [c for c in first if all(c in rest for rest in others)]
            rows += self._with_holm([self._row(strategy, strategy.runs, c) for c in shared])
        return rows

    def _with_holm(self, rows: list[Row]) -> list[Row]:
        """Holm over the benchmarks and stages of one contrast of one run; means are not in it."""
        for contrast in {row["contrast"] for row in rows}:
            family = [r for r in rows if r["contrast"] == contrast and r["role"] != MEAN]
            p_values = np.array([row["p_value"] for row in family], dtype=np.float64)
            for row, adjusted in zip(family, holm(p_values), strict=True):
                row["p_holm"] = adjusted
        return rows

    def _row(self, strategy: Strategy, runs: Sequence[Run], c: Comparison) -> Row:
        is_mean = c.benchmark == HELD_OUT_MEAN
        weights = [
            run.cells(
                mean_of([change(b, c.start, c.end) for b in run.course.held_out_at(c.end)]) or {}
                if is_mean
                else change(c.benchmark, c.start, c.end)
            )
            for run in runs
        ]
        found = estimate(self.judged, weights, level=self.options.level)
        self._check_dropped(found, runs, c)
        first = runs[0]
        role = MEAN if is_mean else role_at(self.judged.scores, c.benchmark, first, c.end)
        single = len(runs) == 1 and np.isfinite(found.delta)
        changed = self._flips(first, c) if single else (None, None)
        row: Row = {
            "study": self.judged.scores.study,
            "strategy": strategy.name,
            "run": first.name if len(runs) == 1 else MEAN,
            "contrast": c.contrast,
            "from_stage": first.key(c.start).stage,
            "to_stage": first.key(c.end).stage,
            "benchmark": c.benchmark,
            "role": role,
            "scorer": self._scorer(c.benchmark),
            **interval_cells(found),
            "lost": changed[0],
            "gained": changed[1],
            **self._parts(weights),
            "margin_pp": self.options.margin_pp,
            "verdict": verdict(found, self.options.margin_pp, strict=self.options.strict),
        }
        if c.contrast == "dip_to_stage":
            name = None if is_mean else c.benchmark
            back = recovery_at(self.judged, runs, c.start, c.end, self.options.level, name)
            row |= {
                "recovery_fraction": back.fraction,
                "recovery_ci_low": back.low,
                "recovery_ci_high": back.high,
            }
        return row

    def _scorer(self, benchmark: str) -> str:
        """The scorer behind a row; of a mean, the study's."""
        bench = self.judged.scores.benchmarks.get(benchmark)
        return bench.judged_by(self.judged.scorer) if bench else self.judged.scorer

    def _parts(self, runs: Sequence[CellWeights]) -> Row:
        """The change taken apart: what the lenient scorer does not see of it, and what it does."""
        row = points_of("superficial", part(self.drift, runs, self.options))
        return row | points_of("essential", part(self.lenient, runs, self.options))

    def _flips(self, run: Run, c: Comparison) -> tuple[int, int]:
        """(lost, gained) samples, summed over the benchmarks of the row."""
        names = run.course.held_out_at(c.end) if c.benchmark == HELD_OUT_MEAN else [c.benchmark]
        keys = [run.key(c.start), run.key(c.end)]
        counts = [flips(*self.judged.columns(name, keys).T) for name in names]
        return sum(x.lost for x in counts), sum(x.gained for x in counts)

    def _check_dropped(self, found: PairedDifference, runs: Sequence[Run], c: Comparison) -> None:
        n_all = found.n_samples + found.n_dropped
        limit = self.options.max_dropped
        if len(runs) == 1 and c.benchmark != HELD_OUT_MEAN and found.n_dropped > limit * n_all:
            pair = f"{label(runs[0].key(c.start))} and {label(runs[0].key(c.end))}"
            text = f"{found.n_dropped} of {n_all} samples have a score at only one of {pair}"
            self.too_few.append(Problem(c.benchmark, text))

    def refuse_mismatch(self) -> None:
        """Raise IncompatibleError (exit code 4) if samples differed too much anywhere."""
        if self.too_few:
            limit = f"{self.options.max_dropped:.0%}"
            cure = f"expected at most {limit}; score the rest, or raise --max-dropped"
            shown = self.too_few[:10]
            if len(self.too_few) > len(shown):
                cure = f"and {len(self.too_few) - len(shown)} more; {cure}"
            where = f"study {self.judged.scores.study}"
            raise IncompatibleError(where, [*shown, Problem("", cure)])


def interval_cells(found: PairedDifference) -> Row:
    """The columns of `deltas.csv` that a difference fills."""
    return {
        "n_samples": found.n_samples,
        "n_groups": found.n_groups,
        "n_dropped": found.n_dropped,
        "delta_pp": 100 * found.delta,
        "ci_low_pp": 100 * found.low,
        "ci_high_pp": 100 * found.high,
        "p_value": found.p_value,
    }


def points_of(name: str, found: PairedDifference) -> Row:
    """A difference under a name: its columns in points."""
    return {
        f"{name}_pp": 100 * found.delta,
        f"{name}_ci_low_pp": 100 * found.low,
        f"{name}_ci_high_pp": 100 * found.high,
    }


def point(judged: Judged, runs: Sequence[CellWeights]) -> float:
    """A contrast's value without its interval, mean over runs; NaN where a cell is missing."""
    total = 0.0
    for run in runs:
        if not run or not all(judged.has(name, key) for key, name in run):
            return float("nan")
        for name in {name for _, name in run}:
            total += float(part_of(judged, name, [run], np.ones(1)).by_run[0]) / len(runs)
    return total if runs else float("nan")


def deltas_frame(
    judged: Judged,
    found: Sequence[StrategyFigures],
    options: JudgeOptions,
    on_step: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """All contrasts of all strategies; raises IncompatibleError where samples do not match."""
    maker = DeltaRows(judged, options)
    rows: list[Row] = []
    for figures in found:
        rows += maker.of_strategy(figures.strategy, figures.dip)
        on_step()
    maker.refuse_mismatch()
    return pd.DataFrame(rows, columns=DELTAS_COLUMNS)


def leaderboard_frame(
    judged: Judged, found: Sequence[StrategyFigures], options: JudgeOptions
) -> pd.DataFrame:
    """One row per strategy, ranked by balance (learning + final held-out change), NA last."""
    scores = judged.scores
    signature = f"suite:{suite_hash(scores)}|{options.signature(judged.scorer)}"
    rows = [_leaderboard_row(judged, figures, options, signature) for figures in found]
    frame = pd.DataFrame(rows, columns=LEADERBOARD_COLUMNS)
    if rows:
        learned = frame["learning_pp"].to_numpy(dtype=np.float64)
        kept = frame["heldout_final_pp"].to_numpy(dtype=np.float64)
        frame["pareto"] = pareto(learned, kept)
        rank = frame["balance_pp"].round(9).rank(ascending=False, method="min", na_option="keep")
        frame["rank"] = rank.astype("Int64")
        frame = frame.sort_values(["rank", "strategy"], na_position="last", kind="stable")
    return frame.reset_index(drop=True)


def _leaderboard_row(
    judged: Judged, found: StrategyFigures, options: JudgeOptions, signature: str
) -> Row:
    strategy, figures, back = found.strategy, found.figures, found.recovery
    n_cells, n_missing = cell_counts(judged, strategy)
    row: Row = {
        "study": judged.scores.study,
        "base_model": judged.scores.base_model,
        "strategy": strategy.name,
        "components": _components(judged.scores, strategy.name),
        "n_stages": strategy.last,
        "n_runs": len(strategy.runs),
        "heldout_worst_stage": found.worst_stage,
        "worst_benchmark": found.worst_benchmark,
        "recovery_fraction": back.fraction if back else None,
        "recovery_ci_low": back.low if back else None,
        "recovery_ci_high": back.high if back else None,
        "n_regressed": n_regressed(judged, strategy, options),
        "number_mass_shift": figures["number_mass"].delta,
        "n_cells": n_cells,
        "n_missing": n_missing,
        "signature": signature,
    }
    cost = judged.scores.costs.get(strategy.name)
    row["trainable_share"] = cost.trainable_share if cost else None
    row["train_seconds"] = cost.train_seconds if cost else None
    row["peak_memory_gb"] = cost.peak_memory_gb if cost else None
    for name in POINTS:
        row |= points_of(name, figures[name])
    return row


def _components(scores: StudyScores, strategy: str) -> str | None:
    """What the strategy declares and, where the weights were audited, what that found."""
    said = [scores.components.get(strategy), scores.audited.get(strategy)]
    return ", ".join(text for text in said if text) or None


def n_regressed(judged: Judged, strategy: Strategy, options: JudgeOptions) -> int | None:
    """Held-out benchmarks with the verdict `regressed` after the last stage.

    None without any, or where one was not measured.
    """
    names = set.intersection(*(set(run.course.held_out_at(run.last)) for run in strategy.runs))
    if not names or strategy.last == 0:
        return None
    found = [
        estimate(
            judged,
            [run.cells(change(name, 0, run.last)) for run in strategy.runs],
            level=options.level,
        )
        for name in sorted(names)
    ]
    if any(np.isnan(x.delta) for x in found):
        return None
    verdicts = [verdict(x, options.margin_pp, strict=options.strict) for x in found]
    return sum(v == "regressed" for v in verdicts)


def suite_hash(scores: StudyScores) -> str:
    """Short hash of the suite: benchmarks, their roles and how their numbers were made."""
    made: Mapping[str, str] = suite_settings(scores)
    parts = [f"{b}|{x.role}|{x.metric}|{made.get(b, '')}" for b, x in scores.benchmarks.items()]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()[:12]
