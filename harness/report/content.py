"""Content: everything a report says, before it is given a form (HTML, Markdown, LaTeX)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis import JudgeOptions, judge, measured
from harness.analysis.scores import StudyScores, TrainingCost
from harness.report import foreign_text
from harness.report.answers import (
    MAX_CHARACTERS,
    MAX_ROWS,
    Answers,
    Chosen,
    changed_samples,
    choose,
    collect,
)
from harness.report.base_alone import COLUMNS, base_scores, is_alone
from harness.report.chart import Chart
from harness.report.charts import MARKS, charts_of
from harness.report.numerals import interval, plain, signed
from harness.report.provenance import Provenance, Table, provenance
from harness.report.thumbnails import Thumbnails, thumbnails
from harness.report.view import HELD_OUT, View
from harness.report.words import WordReader
from harness.scoring.study import read_diagnostics, read_scores

_SENTENCE_LIMIT = 2000
# Colour steps of the heatmap on each side of zero.
STEPS = 5
NO_PICTURES = Thumbnails("No pictures: name the manifest instead of the study to show them.")


@dataclass(frozen=True, slots=True)
class Card:
    """One strategy in the headline."""

    strategy: str
    colour: int
    """Its place in the palette."""
    component: str
    verdict: str
    learning_pp: float
    learning_limits: str
    held_out_pp: float
    held_out_limits: str
    sentence: str
    detectable_pp: float
    pareto: bool


@dataclass(frozen=True, slots=True)
class HeatCell:
    """One stage and benchmark: a change, its verdict, and how many samples turned."""

    stage: int
    delta_pp: float
    step: int
    """Colour: -STEPS (deepest loss of the study) to STEPS."""
    mark: str
    counts: str
    says: str


@dataclass(frozen=True, slots=True)
class HeatRow:
    benchmark: str
    role: str
    cells: Sequence[HeatCell]


@dataclass(frozen=True, slots=True)
class HeatPanel:
    """The stage x benchmark table of one strategy."""

    strategy: str
    colour: int
    stages: Sequence[str]
    rows: Sequence[HeatRow]


@dataclass(frozen=True)
class Content:
    """A report without a form."""

    view: View
    title: str
    lead: str
    """What was compared, in one sentence."""
    cards: Sequence[Card]
    comparisons: Sequence[str]
    base: Table | None
    """The base's scores where there are no stages yet to compare with it; else None."""
    charts: Mapping[str, Chart]
    heat: Sequence[HeatPanel]
    costs: Table
    """What a strategy cost to train beside what it learned and forgot; no rows: nobody knows."""
    flows: Table
    answers: Answers | None
    pictures: Thumbnails
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked a report of."""

    target: str
    """The study as named: manifest, folder or name."""
    study_dir: Path
    results: Path | None = None
    manifest: Path | None = None
    """Where pictures come from; None: none are shown."""
    samples: bool = True


def gather(wanted: Wanted, options: JudgeOptions) -> Content:
    """Read, judge and arrange a study. Raises UserError as `read_scores` and `judge` do."""
    scores = read_scores(wanted.study_dir)
    judgement = judge(scores, options)
    view = View(judgement, measured(read_diagnostics(scores, wanted.study_dir), options))
    pictures, answers = NO_PICTURES, None
    if wanted.samples:
        pictures, answers = _samples(wanted, scores, view)
    charts = charts_of(view, None if answers is None else answers.types)
    return Content(
        view=view,
        title=foreign_text.name(scores.study),
        lead=_lead(scores, view),
        cards=_cards(view),
        comparisons=[
            foreign_text.visible(text, _SENTENCE_LIMIT)
            for text in view.judgement.comparison_sentences.values()
        ],
        base=Table(COLUMNS, base_scores(view.judgement)) if is_alone(view.judgement) else None,
        charts={chart.name: chart for chart in charts},
        heat=_heat(view),
        costs=_costs(view, scores.costs),
        flows=_flows(view, answers),
        answers=answers,
        pictures=pictures,
        provenance=provenance(wanted.study_dir, scores, view, wanted.target, wanted.results),
    )


def _samples(wanted: Wanted, scores: StudyScores, view: View) -> tuple[Thumbnails, Answers]:
    """As many samples as fit: half as many where their texts are long, and so on."""
    reader = WordReader(scores, wanted.study_dir)
    max_rows = MAX_ROWS
    while True:
        chosen = choose(scores, view.judgement.scorer, max_rows)
        pictures = NO_PICTURES
        if wanted.manifest is not None:
            pictures = thumbnails(wanted.manifest, _most_wanted(scores, view, chosen))
        answers = collect(scores, reader, chosen, pictures.of)
        if answers.n_characters <= MAX_CHARACTERS or answers.n_shown <= len(scores.benchmarks):
            return pictures, _with_starts(answers, scores, view)
        max_rows = min(max_rows, answers.n_shown * len(scores.stages)) // 2


def _most_wanted(
    scores: StudyScores, view: View, chosen: Mapping[str, Chosen]
) -> dict[str, list[str]]:
    """benchmark -> shown sample ids, those that changed first."""
    wanted = {}
    for name, bench in scores.benchmarks.items():
        changed = changed_samples(bench, view.judgement.scorer)
        shown = chosen[name].shown
        order = np.concatenate([shown[changed[shown]], shown[~changed[shown]]])
        wanted[name] = [str(bench.sample_ids[i]) for i in order]
    return wanted


def _with_starts(answers: Answers, scores: StudyScores, view: View) -> Answers:
    """Each view of the browser opens after its strategy's dip, else at the last stage."""
    dips = {x.strategy.name: x.dip for x in view.judgement.strategies}
    runs = list(scores.runs())
    if not runs:
        return answers  # a base alone, where there is nothing else to open
    views = [
        {**found, "start": dips.get(strategy) or len(found["columns"]) - 1}
        for found, (strategy, _) in zip(answers.payload["views"], runs, strict=True)
    ]
    return replace(answers, payload={**answers.payload, "views": views})


def _lead(scores: StudyScores, view: View) -> str:
    n_runs = len(scores.runs())
    counts = [
        _count(len(view.strategies), "strategy", "strategies"),
        _count(n_runs, "training run"),
        _count(len(view.with_role("target")), "target"),
        _count(len(view.with_role("held_out")), "held-out benchmark"),
    ]
    base = foreign_text.visible(scores.base_model, 200)
    start = f"{base}: " if base else ""
    return f"{start}{', '.join(counts)}. Judged by scorer {view.judgement.scorers}."


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"


def _cards(view: View) -> list[Card]:
    board = view.judgement.leaderboard
    colours = {name: i for i, name in enumerate(view.strategies)}
    cards = []
    for _, row in board.iterrows():
        strategy = str(row["strategy"])
        said = view.judgement.sentences[strategy].removeprefix(f"{strategy}: ")
        component = row["components"]
        cards.append(
            Card(
                strategy=foreign_text.name(strategy),
                colour=colours[strategy] % 8,
                component=foreign_text.name(component) if isinstance(component, str) else "",
                verdict=view.final_verdict(strategy),
                learning_pp=float(row["learning_pp"]),
                learning_limits=interval(row["learning_ci_low_pp"], row["learning_ci_high_pp"]),
                held_out_pp=float(row["heldout_final_pp"]),
                held_out_limits=interval(
                    row["heldout_final_ci_low_pp"], row["heldout_final_ci_high_pp"]
                ),
                sentence=foreign_text.visible(said[:1].upper() + said[1:], _SENTENCE_LIMIT),
                detectable_pp=view.judgement.minimum_detectable_pp[strategy],
                pareto=row["pareto"] is True or row["pareto"] == np.True_,
            )
        )
    return cards


def _heat(view: View) -> list[HeatPanel]:
    changes = view.changes
    reach = max((abs(delta) for delta in changes["delta_pp"] if np.isfinite(delta)), default=0.0)
    reach = reach or 1.0
    panels = []
    for i, strategy in enumerate(view.strategies):
        found = changes[changes["strategy"] == strategy]
        stages = sorted(int(stage) for stage in found["to_stage"].unique())
        names = [*view.benchmarks, *([HELD_OUT] if (found["benchmark"] == HELD_OUT).any() else [])]
        by_place = {(row["benchmark"], int(row["to_stage"])): row for _, row in found.iterrows()}
        rows = [
            HeatRow(
                "held-out mean" if name == HELD_OUT else foreign_text.name(name),
                "mean" if name == HELD_OUT else view.benchmarks[name],
                [
                    _heat_cell(view, by_place.get((name, stage)), strategy, stage, reach)
                    for stage in stages
                ],
            )
            for name in names
        ]
        titles = [f"{stage} {view.stage_names.get((strategy, stage), '')}" for stage in stages]
        panels.append(HeatPanel(foreign_text.name(strategy), i % 8, titles, rows))
    return panels


def _heat_cell(
    view: View, row: pd.Series[Any] | None, strategy: str, stage: int, reach: float
) -> HeatCell:
    if row is None or not np.isfinite(row["delta_pp"]):
        return HeatCell(stage, float("nan"), 0, "", "", "NA")
    delta = float(row["delta_pp"])
    lost, gained = row["lost"], row["gained"]
    known = bool(np.isfinite(lost) and np.isfinite(gained))
    counts = f"−{int(lost)} +{int(gained)}" if known else ""
    what = "held-out mean" if row["benchmark"] == HELD_OUT else str(row["benchmark"])
    turned = f", {int(lost)} samples lost, {int(gained)} gained" if known else ""
    named = view.stage_names.get((strategy, stage), "")
    return HeatCell(
        stage,
        delta,
        colour_step(delta, reach),
        MARKS.get(str(row["verdict"]), "").strip(),
        counts,
        f"{foreign_text.name(strategy)}, {foreign_text.name(what)}, after {stage} {named}: "
        f"{signed(delta)} pp {interval(row['ci_low_pp'], row['ci_high_pp'])}, "
        f"{row['verdict']}{turned}",
    )


def colour_step(delta_pp: float, reach: float) -> int:
    """The colour of a change, -STEPS to STEPS; `reach`: the largest change of the study.

    Steps grow with the square root, so that a loss of 2 points shows beside one of 90.

    >>> [colour_step(d, 90.0) for d in (-90, -11, -2, -0.1, 0, 2)]
    [-5, -2, -1, 0, 0, 1]
    """
    return int(np.sign(delta_pp) * np.rint(STEPS * np.sqrt(min(1.0, abs(delta_pp) / reach))))


def _costs(view: View, costs: Mapping[str, TrainingCost]) -> Table:
    columns = ["Strategy", "Parameters trained", "Seconds", "Peak memory, GB"]
    extra = {
        "Energy, kWh": [cost.energy_kwh for cost in costs.values()],
        "CO2, kg": [cost.co2_kg for cost in costs.values()],
    }
    shown = [title for title, values in extra.items() if any(v is not None for v in values)]
    rows = []
    for _, row in view.judgement.leaderboard.iterrows():
        cost = costs.get(str(row["strategy"]))
        if cost is None:
            continue
        energy = {"Energy, kWh": cost.energy_kwh, "CO2, kg": cost.co2_kg}
        rows.append(
            [
                foreign_text.name(str(row["strategy"])),
                f"{plain(100 * cost.trainable_share)} %",
                plain(cost.train_seconds, 0),
                plain(cost.peak_memory_gb),
                *("NA" if energy[title] is None else f"{energy[title]:.3g}" for title in shown),
                signed(row["learning_pp"]),
                signed(row["heldout_final_pp"]),
            ]
        )
    return Table([*columns, *shown, "Learning, pp", "Held-out final, pp"], rows)


def _flows(view: View, answers: Answers | None) -> Table:
    columns = ("Strategy", "After", "From", "To", "Answers", "Share of that kind at the base")
    if answers is None:
        return Table(columns, [])
    rows = [
        (
            foreign_text.name(str(row["strategy"])),
            f"{row['stage']} {view.stage_names.get((row['strategy'], row['stage']), '')}",
            str(row["before"]).replace("_", "/"),
            str(row["after"]).replace("_", "/"),
            str(row["n"]),
            f"{plain(row['share_pct'])} %",
        )
        for _, row in answers.flows.iterrows()
    ]
    return Table(columns, rows)
