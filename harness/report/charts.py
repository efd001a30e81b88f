"""The charts of a report: learning against forgetting, and change stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.report import foreign_text
from harness.report.chart import (
    GAIN,
    INK,
    LEVEL,
    LOSS,
    MUTED,
    PAPER,
    PIXELS,
    Chart,
    Spec,
    Width,
    half_page,
    half_room,
    labelled_points,
    line_layers,
    line_panels,
    number,
    stage_axis,
    stage_table,
    strategy_colour,
    strategy_shape,
    themed,
)
from harness.report.drift_charts import answer_types, choices, split
from harness.report.measure_charts import measured
from harness.report.numerals import interval, plain, signed
from harness.report.view import BASE_LABEL, HELD_OUT, View


def charts_of(view: View, types: pd.DataFrame | None = None) -> list[Chart]:
    """All charts that the study has data for. `types`: see `answer_types`."""
    found = [
        plane(view),
        course(view),
        multiples(view, "held_out"),
        multiples(view, "target"),
        heatmap(view),
        split(view),
        choices(view),
        *measured(view),
        answer_types(view, types),
    ]
    return [chart for chart in found if chart is not None]


# --- Learning against forgetting -----------------------------------------------------------------


def plane(view: View) -> Chart | None:
    """Strategies by learning and held-out change, with intervals, front and checkpoint paths."""
    board = view.judgement.leaderboard
    points: list[dict[str, Any]] = [
        {
            "strategy": foreign_text.name(str(row["strategy"])),
            "x": number(row["heldout_final_pp"]),
            "x_low": number(row["heldout_final_ci_low_pp"]),
            "x_high": number(row["heldout_final_ci_high_pp"]),
            "y": number(row["learning_pp"]),
            "y_low": number(row["learning_ci_low_pp"]),
            "y_high": number(row["learning_ci_high_pp"]),
            "front": bool(row["pareto"]) if row["pareto"] is not None else False,
            "says": _plane_words(row),
        }
        for _, row in board.iterrows()
    ]
    points = [p for p in points if p["x"] is not None and p["y"] is not None]
    if not points:
        return None
    front = [p["strategy"] for p in points if p["front"]]
    listed = "; ".join(str(p["says"]) for p in points)
    return Chart(
        "plane",
        "Learning against forgetting",
        f"{listed}. Not dominated: {', '.join(front) or 'none'}.",
        lambda width: _plane_spec(view, points, width),
        pd.DataFrame(
            {
                "Strategy": [p["strategy"] for p in points],
                "Learning (pp)": [signed(p["y"]) for p in points],
                "Learning interval": [interval(p["y_low"], p["y_high"]) for p in points],
                "Held-out change (pp)": [signed(p["x"]) for p in points],
                "Held-out interval": [interval(p["x_low"], p["x_high"]) for p in points],
                "Not dominated": ["yes" if p["front"] else "no" for p in points],
            }
        ),
        "Up is more learned, right is less forgotten. Crosses are intervals; thin lines are the "
        "way of each strategy through its stages; the dashed line joins the strategies that no "
        "other one beats in both.",
    )


def _plane_words(row: pd.Series[Any]) -> str:
    learned = interval(row["learning_ci_low_pp"], row["learning_ci_high_pp"])
    kept = interval(row["heldout_final_ci_low_pp"], row["heldout_final_ci_high_pp"])
    return (
        f"{foreign_text.name(str(row['strategy']))}: learning {signed(row['learning_pp'])} pp "
        f"{learned}, held-out {signed(row['heldout_final_pp'])} pp {kept}"
    )


def checkpoint_paths(view: View) -> list[dict[str, Any]]:
    """Each strategy's way through the plane: at stage t the held-out change, and the mean gain of
    the targets taught so far at their own stage. Ends at the leaderboard's point."""
    scores = view.judgement.scores
    known = scores[["strategy", "stage", "trained_on"]].drop_duplicates()
    taught = {
        (str(strategy), int(stage)): str(target)
        for strategy, stage, target in known.itertuples(index=False, name=None)
        if target in view.benchmarks
    }
    steps: list[dict[str, Any]] = []
    for strategy in view.strategies:
        label = foreign_text.name(strategy)
        steps.append({"strategy": label, "stage": 0, "x": 0.0, "y": 0.0})
        gains: list[float] = []
        held_out = view.of(strategy, HELD_OUT).set_index("to_stage")["delta_pp"]
        for stage in held_out.index:
            target = taught.get((strategy, int(stage)))
            if target is not None:
                own = view.of(strategy, target).set_index("to_stage")["delta_pp"]
                gains.append(float(own.get(stage, np.nan)))
            if gains and np.isfinite([held_out[stage], *gains]).all():
                steps.append(
                    {"strategy": label, "stage": int(stage), "x": float(held_out[stage]),
                     "y": float(np.mean(gains))}
                )  # fmt: skip
    return steps


def _plane_spec(view: View, points: list[dict[str, Any]], width: Width) -> Spec:
    colour = strategy_colour(view, legend=False)
    x: Spec = {
        "field": "x",
        "type": "quantitative",
        "title": "Held-out change at the last stage (pp)",
        "axis": {"tickCount": 8},
    }
    y: Spec = {"field": "y", "type": "quantitative", "title": "Learning (pp)"}
    cross = {"type": "rule", "strokeWidth": 1.4, "opacity": 0.75}
    layers: list[Spec] = [
        {
            "data": {"values": [{"at": 0}]},
            "mark": {"type": "rule", "color": MUTED, "strokeWidth": 1},
            "encoding": {"x": {"field": "at", "type": "quantitative"}},
        },
        {
            "data": {"values": [p for p in points if p["front"]]},
            "mark": {"type": "line", "color": MUTED, "strokeDash": [4, 4], "strokeWidth": 1.2},
            "encoding": {"x": x, "y": y, "order": {"field": "x", "type": "quantitative"}},
        },
        {
            "data": {"values": checkpoint_paths(view)},
            "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.4,
                     "point": {"size": 8, "opacity": 0.5}},
            "encoding": {"x": x, "y": y, "color": colour, "order": {"field": "stage"}},
        },
        {"mark": cross, "encoding": {"x": {**x, "field": "x_low"}, "x2": {"field": "x_high"},
                                     "y": y, "color": colour}},
        {"mark": cross, "encoding": {"x": x, "y": {**y, "field": "y_low"},
                                     "y2": {"field": "y_high"}, "color": colour}},
        labelled_points(x, y, colour, strategy_shape(view, legend=False), size=90),
        *(_names(x, y, colour, below=below) for below in (False, True)),
    ]  # fmt: skip
    values = [{**point, "below": _crowded(point, points)} for point in points]
    return half_page({"data": {"values": values}, "layer": layers}, width, height=340)


def _names(x: Spec, y: Spec, colour: Spec, *, below: bool) -> Spec:
    return {
        "transform": [{"filter": f"datum.below === {str(below).lower()}"}],
        "mark": {"type": "text", "align": "left", "dx": 8, "dy": 15 if below else -9,
                 "fontSize": 12, "fontWeight": 600},
        "encoding": {"x": x, "y": y, "text": {"field": "strategy"}, "color": colour},
    }  # fmt: skip


def _crowded(point: dict[str, Any], points: list[dict[str, Any]]) -> bool:
    """Whether another point close by lies higher, so that the name goes below."""
    reach = {axis: max(p[axis] for p in points) - min(p[axis] for p in points) for axis in "xy"}
    return any(
        other is not point
        and other["y"] >= point["y"]
        and other["y"] - point["y"] < 0.6 * reach["y"]
        and abs(other["x"] - point["x"]) < 0.25 * reach["x"]
        for other in points
    )


# --- Held-out mean and benchmarks, stage by stage ------------------------------------------------


def _stage_rows(view: View, benchmarks: Sequence[str]) -> list[dict[str, Any]]:
    """What a line over stages is drawn from: a zero at the base, then the changes."""
    labels = {place.stage: place.label for place in view.places}
    rows: list[dict[str, Any]] = []
    for benchmark in benchmarks:
        for strategy in view.strategies:
            who, what = foreign_text.name(strategy), foreign_text.name(benchmark)
            found = view.of(strategy, benchmark)
            if found.empty:
                continue
            rows.append({"strategy": who, "benchmark": what, "stage": 0, "place": BASE_LABEL,
                         "delta": 0.0, "low": 0.0, "high": 0.0,
                         "says": f"{who}; {what}; base"})  # fmt: skip
            for _, row in found.iterrows():
                stage = int(row["to_stage"])
                limits = interval(row["ci_low_pp"], row["ci_high_pp"])
                rows.append(
                    {
                        "strategy": who,
                        "benchmark": what,
                        "stage": stage,
                        "place": labels[stage],
                        "delta": number(row["delta_pp"]),
                        "low": number(row["ci_low_pp"]),
                        "high": number(row["ci_high_pp"]),
                        "verdict": row["verdict"],
                        "says": f"{who}; {what}; after {labels[stage]}; "
                        f"{signed(row['delta_pp'])} pp {limits}; {row['verdict']}",
                    }
                )
    return rows


def course(view: View) -> Chart | None:
    """The held-out mean after each stage against the base: the reference study's first figure."""
    rows = _stage_rows(view, [HELD_OUT])
    if not rows:
        return None
    base = plain(view.base_held_out_pct)
    for row in rows:
        row["says"] = row["says"].replace("; held_out;", "; held-out mean;")
    final = "; ".join(
        f"{foreign_text.name(s)} {signed(found.iloc[-1]['delta_pp'])} pp at the end, "
        f"lowest {signed(found['delta_pp'].min())} pp"
        for s in view.strategies
        if not (found := view.of(s, HELD_OUT)).empty
    )
    return Chart(
        "course",
        "Held-out mean after each stage",
        f"Change against the base ({base} %): {final}.",
        lambda width: _course_spec(view, rows, width),
        stage_table(view, rows, "Strategy", "strategy"),
        f"Zero is the base, {base} %. Bands are intervals.",
    )


def _course_spec(view: View, rows: list[dict[str, Any]], width: Width) -> Spec:
    room = half_room(width)
    label = {
        "data": {"values": [{"place": BASE_LABEL, "delta": 0,
                             "text": f"base {plain(view.base_held_out_pct)} %"}]},
        "mark": {"type": "text", "align": "left", "dy": -8, "dx": 2, "color": MUTED},
        "encoding": {"x": stage_axis(view, room), "y": {"field": "delta", "type": "quantitative"},
                     "text": {"field": "text"}},
    }  # fmt: skip
    layers = [*line_layers(view, "Change against the base (pp)", room), label]
    return half_page({"data": {"values": rows}, "layer": layers}, width, height=340)


def multiples(view: View, role: str) -> Chart | None:
    """One small chart per benchmark of a role, lines by strategy."""
    names = view.with_role(role)
    rows = _stage_rows(view, names)
    if not rows:
        return None
    worst = min(
        (row for row in rows if row["delta"] is not None), key=lambda row: float(row["delta"])
    )
    words = "held-out" if role == "held_out" else role
    return Chart(
        f"multiples-{words}",
        f"Each {words} benchmark",
        f"{len(names)} benchmarks, change against the base in points. "
        f"The lowest is {worst['says'].replace('; ', ', ')}.",
        lambda width: line_panels(view, rows, "benchmark", width),
        stage_table(view, rows, "Benchmark", "benchmark", "Strategy", "strategy"),
        "All share one scale. Zero is the base; bands are intervals.",
    )


# --- Stage x benchmark ---------------------------------------------------------------------------


def heatmap(view: View) -> Chart | None:
    """Changes by stage and benchmark, a panel per strategy: the drawing for papers.

    The page itself shows this as a table whose cells can be pressed.
    """
    rows = [r for r in _stage_rows(view, list(view.benchmarks)) if r["stage"] > 0]
    if not rows:
        return None
    for row in rows:
        row["mark"] = f"{signed(row['delta'])}{MARKS.get(str(row['verdict']), '')}"
    n_lost = sum(row["verdict"] == "regressed" for row in rows)
    return Chart(
        "heatmap",
        "Stage by benchmark",
        f"{n_lost} of {len(rows)} stage and benchmark pairs regressed.",
        lambda width: _heatmap_spec(view, rows, width),
        stage_table(view, rows, "Strategy", "strategy", "Benchmark", "benchmark"),
    )


# A number such as −12.3 at the size of a heatmap's cells.
CELL_PIXELS = 24
MARKS = {"regressed": " ▼", "improved": " ▲", "retained": "", "inconclusive": " ?", "NA": ""}


def _heatmap_spec(view: View, rows: list[dict[str, Any]], width: Width) -> Spec:
    reach = max((abs(row["delta"]) for row in rows if row["delta"] is not None), default=1.0) or 1.0
    columns = 2 if width == "wide" else 1
    # Room for benchmark names on the left of each panel; a table needs no more than half a page.
    room = (min(PIXELS[width], 720) - 40) // columns - 90
    axis = {"title": None, "domain": False, "ticks": False}
    places = stage_axis(view, room)["axis"].get("values")
    named = {} if places is None else {"values": places}
    x = {"field": "place", "type": "ordinal", "sort": [p.label for p in view.places],
         "axis": {**axis, "labelAngle": -35, "orient": "bottom", **named}}  # fmt: skip
    # Numbers of cells that are narrower than they are would lie over one another.
    wide_enough = room // max(len(view.places) - 1, 1) >= CELL_PIXELS
    y = {"field": "benchmark", "type": "nominal", "axis": axis,
         "sort": [foreign_text.name(name) for name in view.benchmarks]}  # fmt: skip
    return themed(
        {
            "data": {"values": rows},
            "facet": {"field": "strategy", "type": "nominal", "title": None,
                      "sort": [foreign_text.name(s) for s in view.strategies],
                      "header": {"labelFontWeight": 600, "labelFontSize": 12, "labelColor": INK}},
            "columns": columns,
            "spec": {
                "width": room,
                "height": {"step": 24},
                "encoding": {"x": x, "y": y},
                "layer": [
                    {"mark": {"type": "rect", "stroke": PAPER, "strokeWidth": 2, "aria": True},
                     "encoding": {
                         "color": {"field": "delta", "type": "quantitative", "legend": None,
                                   "scale": {"domain": [-reach, 0, reach], "interpolate": "rgb",
                                             "range": [LOSS, LEVEL, GAIN]}},
                         "description": {"field": "says"}}},
                    {"mark": {"type": "text", "fontSize": 10},
                     "encoding": {
                         "text": {"field": "mark"},
                         "color": {"condition": {"test": f"abs(datum.delta) > {0.6 * reach}",
                                                 "value": PAPER}, "value": INK}}},
                ][: 2 if wide_enough else 1],
            },
            "resolve": {"scale": {"x": "shared"}},
        }
    )  # fmt: skip
