"""A view: a judgement arranged as the report shows it, with one row per strategy, stage, benchmark.

Every number is a number of `scores.csv`, `deltas.csv` or `leaderboard.csv`, or of the measures
behind `drift.csv`; where a strategy has several runs it is that of the mean over runs. Nothing is
estimated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from harness.analysis import Judgement
from harness.report import foreign_text
from harness.types import HELD_OUT_MEAN, MEAN

BASE_LABEL = "base"
HELD_OUT = HELD_OUT_MEAN


@dataclass(frozen=True, slots=True)
class Place:
    """A position in the sequence of stages: what stands on an axis."""

    stage: int
    label: str


@dataclass(frozen=True)
class View:
    """A judged study, ready to be drawn and written."""

    judgement: Judgement
    measures: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Held-out means of what was measured of answers, see `harness.analysis.measured`."""

    @cached_property
    def strategies(self) -> tuple[str, ...]:
        """In the study's order; a strategy's colour follows from its place here."""
        return tuple(figures.strategy.name for figures in self.judgement.strategies)

    @cached_property
    def benchmarks(self) -> Mapping[str, str]:
        """name -> role (`target`, `held_out`, `probe`) at the base, in suite order."""
        base = self.judgement.scores[self.judgement.scores["stage"] == 0]
        return dict(zip(base["benchmark"], base["role"], strict=True))

    def with_role(self, role: str) -> list[str]:
        """The benchmarks of a role, in suite order."""
        return [name for name, found in self.benchmarks.items() if found == role]

    @cached_property
    def changes(self) -> pd.DataFrame:
        """The rows `base_to_stage` of `deltas.csv`, mean over runs; `lost` and `gained` are summed.

        Rows whose `benchmark` is HELD_OUT are means over the held-out benchmarks.
        """
        deltas = self.judgement.deltas
        deltas = deltas[deltas["contrast"] == "base_to_stage"]
        several = set(deltas.loc[deltas["run"] == MEAN, "strategy"])
        overall = deltas[(deltas["run"] == MEAN) | ~deltas["strategy"].isin(several)]
        key = ["strategy", "to_stage", "benchmark"]
        single = deltas[deltas["run"] != MEAN]
        flips = single.groupby(key, as_index=False)[["lost", "gained"]].sum(min_count=1)
        joined = overall.drop(columns=["lost", "gained"]).merge(flips, on=key, how="left")
        return joined.reset_index(drop=True)

    def of(self, strategy: str, benchmark: str) -> pd.DataFrame:
        """The changes of one strategy and benchmark (or HELD_OUT), by stage."""
        return self._parts.get((strategy, benchmark), self.changes.iloc[:0])

    @cached_property
    def _parts(self) -> Mapping[tuple[str, str], pd.DataFrame]:
        ordered = self.changes.sort_values("to_stage", kind="stable")
        return {
            (str(s), str(b)): part for (s, b), part in ordered.groupby(["strategy", "benchmark"])
        }

    def measured_of(self, strategy: str, measure: str) -> pd.DataFrame:
        """One measure of one strategy by stage; no rows where it was not measured."""
        found = self.measures
        if found.empty:
            return found
        return found[(found["strategy"] == strategy) & (found["measure"] == measure)]

    @cached_property
    def stage_names(self) -> Mapping[tuple[str, int], str]:
        """(strategy, stage) -> its name, or all names where the runs have different orders."""
        rows = self.judgement.scores[["strategy", "stage", "stage_name"]].drop_duplicates()
        names: dict[tuple[str, int], list[str]] = {}
        for strategy, stage, name in rows.itertuples(index=False):
            names.setdefault((strategy, int(stage)), []).append(foreign_text.name(str(name)))
        return {key: "/".join(found) for key, found in names.items()}

    @cached_property
    def places(self) -> Sequence[Place]:
        """The positions on a stage axis, base first; named where all strategies agree."""
        last = max((int(stage) for stage in self.changes["to_stage"]), default=0)
        places = [Place(0, BASE_LABEL)]
        for stage in range(1, last + 1):
            names = {self.stage_names.get((s, stage)) for s in self.strategies} - {None}
            name = f" {names.pop()}" if len(names) == 1 else ""
            places.append(Place(stage, f"{stage}{name}"))
        return places

    def label_of(self, stage: int) -> str:
        """What stands on an axis for a stage."""
        return next(place.label for place in self.places if place.stage == stage)

    @cached_property
    def base_held_out_pct(self) -> float:
        """The base's mean over the held-out benchmarks, in percent; NaN where one is missing."""
        scores = self.judgement.judged_scores
        chosen = (scores["stage"] == 0) & (scores["role"] == "held_out")
        return float(scores.loc[chosen, "score_pct"].mean(skipna=False))

    def n_runs(self, strategy: str) -> int:
        """Training runs of a strategy."""
        return next(
            len(x.strategy.runs) for x in self.judgement.strategies if x.strategy.name == strategy
        )

    def final_verdict(self, strategy: str) -> str:
        """The verdict on the held-out mean at the last stage; `NA` where there is none."""
        rows = self.of(strategy, HELD_OUT)
        return "NA" if rows.empty else str(rows.iloc[-1]["verdict"])
