"""What `compare` prints: strategies side by side, deltas by stage and benchmark, the sentences.

Made to read in 80 columns, in colour or without: a verdict is a colour and a sign. `+` improved,
`=` retained, `!` regressed, `?` inconclusive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis.figures import StrategyFigures
from harness.analysis.judge import Judgement
from harness.analysis.paired import PairedDifference
from harness.analysis.scores import StageKey
from harness.analysis.sentences import percent, points
from harness.report.base_alone import COLUMNS, NO_STAGES, base_scores, is_alone
from harness.types import HELD_OUT_MEAN, MEAN

STRATEGIES_PER_TABLE = 4
STAGES_PER_TABLE = 6
SIGNS = {"improved": "+", "retained": "=", "regressed": "!", "inconclusive": "?"}
STYLES = {"improved": "green", "retained": "", "regressed": "bold red", "inconclusive": "yellow"}
# Columns of the base's scores that hold numbers.
RIGHT = frozenset({"Base %", "Interval", "Samples"})
LEGEND = "+ improved   = retained   ! regressed   ? inconclusive   NA not available"

# (row label, figure)
FIGURE_ROWS = (
    ("learning", "learning"),
    ("target forgetting", "target_forgetting"),
    ("target overall", "target_overall"),
    ("held-out final", "heldout_final"),
    ("held-out worst", "heldout_worst"),
    ("held-out mean", "heldout_mean"),
    ("held-out sum", "heldout_sum"),
    ("  superficial", "superficial"),
    ("  essential", "essential"),
    ("balance", "balance"),
)


def print_judgement(console: Console, judgement: Judgement) -> None:
    """Everything that `compare` says to a person."""
    if is_alone(judgement):
        _print_base(console, judgement)
        return
    n_strategies = len(judgement.strategies)
    for start in range(0, n_strategies, STRATEGIES_PER_TABLE):
        console.print(side_by_side(judgement, start, start + STRATEGIES_PER_TABLE))
    for found in judgement.strategies:
        for table in stage_tables(judgement, found):
            console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    if judgement.scores.metric.str.endswith("_rate").any():
        console.print("rates are means over held-out benchmarks", style="dim")
    console.print()
    sentences = [*judgement.sentences.values(), *judgement.comparison_sentences.values()]
    for text in sentences:
        console.print(Text(text))
    console.print()
    for note in judgement.notes:
        console.print(Text(f"note: {note}", style="dim"))


def _print_base(console: Console, judgement: Judgement) -> None:
    """A study without strategies: the base's scores, and why there is nothing else."""
    title = f"{judgement.study}: the base, {100 * judgement.options.level:g} % interval"
    table = Table(title=title, title_justify="left", title_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in RIGHT else "left", overflow="fold")
    for row in base_scores(judgement):
        table.add_row(*map(Text, row))
    console.print(table)
    console.print(Text(NO_STAGES))
    for note in judgement.notes:
        console.print(Text(f"note: {note}", style="dim"))


def side_by_side(judgement: Judgement, start: int, end: int) -> Table:
    """Strategies in columns, figures in rows, in points with the wider half of the interval."""
    shown = judgement.strategies[start:end]
    level = f"{100 * judgement.options.level:g} %"
    table = Table(
        title=f"{judgement.study}: points, ± {level} interval, scorer {judgement.scorers}",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("", no_wrap=True)
    for found in shown:
        table.add_column(found.strategy.name, justify="right", overflow="fold")
    for label, name in FIGURE_ROWS:
        figures = [found.figures[name] for found in shown]
        if label.startswith(" ") and all(np.isnan(figure.delta) for figure in figures):
            continue  # one of the two scorers was not used in this study
        table.add_row(label, *[plus_minus(figure) for figure in figures])
        if name == "heldout_worst":
            table.add_row("  after stage", *[found.worst_stage or "NA" for found in shown])
    table.add_row("worst benchmark", *[_worst(found) for found in shown])
    table.add_row("recovery", *[_recovery(found) for found in shown])
    table.add_row("  of the loss", *[_share(found) for found in shown])
    table.add_row("  same samples", *[_returned(found) for found in shown])
    regressed = judgement.leaderboard.set_index("strategy")["n_regressed"]
    table.add_row("regressed", *[_count(regressed[found.strategy.name]) for found in shown])
    detectable = judgement.minimum_detectable_pp
    table.add_row("detectable change", *[_size(detectable[found.strategy.name]) for found in shown])
    table.add_row("runs", *[str(len(found.strategy.runs)) for found in shown])
    if any(len(found.strategy.runs) > 1 for found in shown):
        for name, label in (("learning", "learning"), ("heldout_final", "held-out")):
            by_run = [judgement.by_run[found.strategy.name][name] for found in shown]
            table.add_row(f"  {label} by run", *[_range(values) for values in by_run])
    return table


def stage_tables(judgement: Judgement, found: StrategyFigures) -> Iterator[Table]:
    """Benchmarks in rows, stages in columns: the base's score, then deltas with their verdicts."""
    contrast = judgement.options.contrast or "base_to_stage"
    strategy = found.strategy
    rows = judgement.deltas
    run = MEAN if len(strategy.runs) > 1 else strategy.runs[0].name
    rows = rows[(rows.strategy == strategy.name) & (rows.run == run) & (rows.contrast == contrast)]
    cells = {(row.benchmark, row.role == MEAN, row.to_stage): row for row in rows.itertuples()}
    base = _base_scores(judgement, found)
    for start in range(1, strategy.last + 1, STAGES_PER_TABLE):
        steps = range(start, min(start + STAGES_PER_TABLE, strategy.last + 1))
        table = Table(
            title=f"{strategy.name}: {contrast.replace('_', ' ')}, points",
            title_justify="left",
            title_style="bold",
        )
        table.add_column("", overflow="fold", max_width=18)
        table.add_column("base %", justify="right")
        for t in steps:
            table.add_column(f"{t} {strategy.stage_name(t)}", justify="right", overflow="fold")
        stages = [strategy.longest.key(t).stage for t in steps]
        for name in dict.fromkeys(rows.benchmark[rows.role != MEAN]):
            marks = [_delta(cells.get((name, False, stage))) for stage in stages]
            table.add_row(Text(name), _score(base.get(name)), *marks)
        table.add_section()
        means = [_delta(cells.get((HELD_OUT_MEAN, True, stage))) for stage in stages]
        table.add_row("held-out mean", "", *means)
        for metric, values in _rates(judgement, found).items():
            label = f"{metric.removesuffix('_rate').replace('_', ' ')} %"
            shown = [_score(values.get(stage)) for stage in stages]
            table.add_row(label, _score(values.get(0)), *shown)
        yield table


def _base_scores(judgement: Judgement, found: StrategyFigures) -> Mapping[str, float]:
    """Benchmark -> score of the strategy's base in per cent, under the judged scorer."""
    key = found.strategy.runs[0].key(0)
    rows = judgement.judged_scores
    rows = rows[(rows.strategy == key.strategy) & (rows.run == key.run) & (rows.stage == key.stage)]
    return dict(zip(rows.benchmark, rows.score_pct, strict=True))


def _rates(judgement: Judgement, found: StrategyFigures) -> Mapping[str, Mapping[int, float]]:
    """Rate -> stage -> its mean over held-out benchmarks and runs, in per cent."""
    keys = {stage.key for run in found.strategy.runs for stage in run.stages}
    rows = judgement.scores
    rows = rows[
        rows.metric.str.endswith("_rate") & (rows.role == "held_out") & (rows.scorer == "NA")
    ]
    here = [key in keys for key in map(StageKey, rows.strategy, rows.run, rows.stage)]
    if not any(here):
        return {}
    means = rows[here].groupby(["metric", "stage"], as_index=False).score_pct.mean()
    rates: dict[str, dict[int, float]] = {}
    for metric, stage, value in zip(means.metric, means.stage, means.score_pct, strict=True):
        rates.setdefault(metric, {})[stage] = value
    return rates


def plus_minus(figure: PairedDifference) -> str:
    """`+14.1 ±2.1`; the wider side where the interval is lopsided."""
    if np.isnan(figure.delta):
        return "NA"
    if not figure.known:
        return f"{points(figure.delta)} ±NA"
    half = max(figure.high - figure.delta, figure.delta - figure.low)
    return f"{points(figure.delta)} ±{100 * half:.1f}"


def _worst(found: StrategyFigures) -> str:
    if found.worst_benchmark is None:
        return "NA"
    return f"{found.worst_benchmark} {points(found.figures['worst_benchmark'].delta)}"


def _recovery(found: StrategyFigures) -> str:
    if found.recovery is None or found.dip is None:
        return "NA"
    return f"{plus_minus(found.recovery.points)} at {found.strategy.stage_name(found.dip + 1)}"


def _share(found: StrategyFigures) -> str:
    back = found.recovery
    if back is None or np.isnan(back.fraction):
        return "NA"
    return f"{percent(back.fraction)} % [{percent(back.low)}, {percent(back.high)}]"


def _returned(found: StrategyFigures) -> str:
    """Of the samples lost at the dip, the share right again: recovery, not compensation."""
    if found.paths is None or found.recovery is None or np.isnan(found.recovery.fraction):
        return "NA"
    return f"{percent(found.paths.recovered_share)} % right again"


def _delta(row: object) -> Text:
    """A delta with its verdict's sign and colour."""
    value, word = getattr(row, "delta_pp", float("nan")), getattr(row, "verdict", "NA")
    if np.isnan(value):
        return Text("NA", style="dim")
    return Text(f"{points(value / 100)} {SIGNS.get(word, '')}", style=STYLES.get(word, ""))


def _score(value: float | None) -> str:
    return "NA" if value is None or np.isnan(value) else f"{value:.1f}"


def _size(value: float) -> str:
    return "NA" if np.isnan(value) else f"±{value:.1f}"


def _count(value: object) -> str:
    return "NA" if pd.isna(value) else str(int(value))  # type: ignore[call-overload]


def _range(values: Sequence[float]) -> str:
    known = [value for value in values if not np.isnan(value)]
    return f"{points(min(known))} to {points(max(known))}" if known else "NA"
