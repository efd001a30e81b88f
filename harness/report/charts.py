"""Charts: what the report draws, as Vega-Lite specifications with words and numbers beside them.

Why Vega-Lite: one specification gives the page's SVG, the PNG of a paper and the data behind both,
and `vl-convert-python` renders it without a browser and without the network. The page holds the
drawn SVG, so it needs none of the library's JavaScript (about 1 MB, and code made at run time,
which a strict Content-Security-Policy forbids); tooltips read the labels that the marks carry.

Colours are those of the light theme; `harness.report.drawing` turns them into the page's variables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from harness.report import foreign_text
from harness.report.numerals import interval, plain, signed
from harness.report.view import BASE_LABEL, HELD_OUT, View

Spec = dict[str, Any]
Width = Literal["wide", "narrow"]
WIDTHS: tuple[Width, ...] = ("wide", "narrow")
# Pixels of a whole drawing, on a desk and on a phone: drawn as large as shown, since text that is
# scaled with a drawing cannot be read. HALF is for two drawings side by side.
PIXELS: Mapping[Width, int] = {"wide": 1040, "narrow": 340}
HALF: Mapping[Width, int] = {"wide": 520, "narrow": 340}

INK, MUTED, GRID, PAPER = "#1f2430", "#5f6877", "#e3e6eb", "#ffffff"
# Told apart with every common colour blindness by lightness and by the shapes beside them.
PALETTE = (
    "#c2482f", "#2467ab", "#26866a", "#7a55a8", "#a5750c", "#b03f7d", "#55687b", "#7b5740",
)  # fmt: skip
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke", "wedge")
ESSENTIAL, SUPERFICIAL = "#3b4656", "#e0a458"
# Answer types in a fixed order: wordy ones quiet, numeric ones loud, broken ones grey.
TYPE_COLOURS = {
    "letter": "#8fb3d9", "yes_no": "#5f8fc0", "phrase": "#9ccbb8", "sentence": "#5fa88c",
    "integer": "#c2482e", "decimal": "#dd7a55", "time": "#e9b08f",
    "refusal": "#a58fc2", "repetition": "#7d8794", "empty": "#b9c0c9",
}  # fmt: skip
LOSS, GAIN, LEVEL = "#b2402a", "#2a7f9e", "#f4f5f7"


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with what stands for it where it cannot be seen."""

    name: str
    """Of its files: letters, digits and hyphens."""
    title: str
    summary: str
    """The text alternative: what the chart shows, in a sentence or two with numbers."""
    spec: Callable[[Width], Spec]
    table: pd.DataFrame
    """The numbers drawn, as people read them."""
    note: str = ""
    """How to read it."""


def charts_of(view: View, types: pd.DataFrame | None = None) -> list[Chart]:
    """All charts that the study has data for. `types`: see `answer_types`."""
    found = [
        plane(view),
        course(view),
        multiples(view, "held_out"),
        multiples(view, "target"),
        heatmap(view),
        split(view),
        rates(view),
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
            "x": _number(row["heldout_final_pp"]),
            "x_low": _number(row["heldout_final_ci_low_pp"]),
            "x_high": _number(row["heldout_final_ci_high_pp"]),
            "y": _number(row["learning_pp"]),
            "y_low": _number(row["learning_ci_low_pp"]),
            "y_high": _number(row["learning_ci_high_pp"]),
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
                "its interval": [interval(p["y_low"], p["y_high"]) for p in points],
                "Held-out change (pp)": [signed(p["x"]) for p in points],
                "interval": [interval(p["x_low"], p["x_high"]) for p in points],
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
    colour = _strategy_colour(view, legend=False)
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
        _points(x, y, colour, _strategy_shape(view, legend=False), size=90),
        *(_names(x, y, colour, below=below) for below in (False, True)),
    ]  # fmt: skip
    values = [{**point, "below": _crowded(point, points)} for point in points]
    return _whole({"data": {"values": values}, "layer": layers}, width, height=340)


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
                        "delta": _number(row["delta_pp"]),
                        "low": _number(row["ci_low_pp"]),
                        "high": _number(row["ci_high_pp"]),
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
        _wide_table(view, rows, "Strategy", "strategy"),
        f"Zero is the base, {base} %. Bands are intervals.",
    )


def _course_spec(view: View, rows: list[dict[str, Any]], width: Width) -> Spec:
    spec = _line_layers(view, "Change against the base (pp)", band=0.12)
    label = {
        "data": {"values": [{"place": BASE_LABEL, "delta": 0,
                             "text": f"base {plain(view.base_held_out_pct)} %"}]},
        "mark": {"type": "text", "align": "left", "dy": -8, "dx": 2, "color": MUTED},
        "encoding": {"x": _stage_axis(view), "y": {"field": "delta", "type": "quantitative"},
                     "text": {"field": "text"}},
    }  # fmt: skip
    spec["layer"].append(label)
    return _whole({"data": {"values": rows}, **spec}, width, height=340)


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
        lambda width: _multiples_spec(view, names, rows, width),
        _wide_table(view, rows, "Benchmark", "benchmark", "Strategy", "strategy"),
        "All share one scale. Zero is the base; bands are intervals.",
    )


def _multiples_spec(
    view: View, names: Sequence[str], rows: list[dict[str, Any]], width: Width
) -> Spec:
    columns = _columns(len(names), width)
    spec = _line_layers(view, "pp", band=0.08)
    spec |= {"width": (PIXELS[width] - 62) // columns - 18, "height": 130}
    return _themed(
        {
            "data": {"values": rows},
            "facet": {
                "field": "benchmark",
                "type": "nominal",
                "title": None,
                "sort": [foreign_text.name(name) for name in names],
                "header": {"labelFontSize": 12, "labelFontWeight": 600, "labelColor": INK,
                           "labelAnchor": "start"},
            },
            "columns": columns,
            "spacing": {"row": 16, "column": 18},
            "spec": spec,
        }
    )  # fmt: skip


def _line_layers(view: View, y_title: str, band: float) -> Spec:
    colour, shape = _strategy_colour(view), _strategy_shape(view)
    x = _stage_axis(view)
    y: Spec = {"field": "delta", "type": "quantitative", "title": y_title}
    return {
        "layer": [
            {"mark": {"type": "rule", "color": MUTED, "strokeWidth": 1},
             "encoding": {"y": {"datum": 0}}},
            {"mark": {"type": "area", "opacity": band, "line": False},
             "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"},
                          "color": colour}},
            {"mark": {"type": "line", "strokeWidth": 2},
             "encoding": {"x": x, "y": y, "color": colour}},
            _points(x, y, colour, shape, size=42),
        ]
    }  # fmt: skip


def _stage_axis(view: View) -> Spec:
    labels = [place.label for place in view.places]
    return {
        "field": "place",
        "type": "ordinal",
        "title": None,
        "scale": {"domain": labels, "type": "point", "padding": 0.25},
        "axis": {"labelAngle": 0 if _short(labels) else -35, "labelOverlap": False, "grid": False},
    }


def _short(labels: Sequence[str]) -> bool:
    return sum(len(label) for label in labels) <= 26


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
        _wide_table(view, rows, "Strategy", "strategy", "Benchmark", "benchmark"),
    )


MARKS = {"regressed": " ▼", "improved": " ▲", "retained": "", "inconclusive": " ?", "NA": ""}


def _heatmap_spec(view: View, rows: list[dict[str, Any]], width: Width) -> Spec:
    reach = max((abs(row["delta"]) for row in rows if row["delta"] is not None), default=1.0) or 1.0
    columns = 2 if width == "wide" else 1
    # Room for benchmark names on the left of each panel; a table needs no more than half a page.
    room = (min(PIXELS[width], 720) - 40) // columns - 90
    axis = {"title": None, "domain": False, "ticks": False}
    x = {"field": "place", "type": "ordinal", "sort": [p.label for p in view.places],
         "axis": {**axis, "labelAngle": -35, "orient": "bottom"}}  # fmt: skip
    y = {"field": "benchmark", "type": "nominal", "axis": axis,
         "sort": [foreign_text.name(name) for name in view.benchmarks]}  # fmt: skip
    return _themed(
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
                ],
            },
            "resolve": {"scale": {"x": "shared"}},
        }
    )  # fmt: skip


# --- Drift ---------------------------------------------------------------------------------------


def split(view: View) -> Chart | None:
    """Held-out change taken apart into form (superficial) and knowledge (essential)."""
    labels = {place.stage: place.label for place in view.places}
    kinds = (
        ("knowledge (essential)", "essential_pp"),
        ("form only (superficial)", "superficial_pp"),
    )
    rows = [
        {
            "strategy": foreign_text.name(strategy),
            "stage": int(row["to_stage"]),
            "place": labels[int(row["to_stage"])],
            "kind": kind,
            "delta": _number(row[column]),
            "says": f"{foreign_text.name(strategy)}; after {labels[int(row['to_stage'])]}; "
            f"{kind} {signed(row[column])} pp",
        }
        for strategy in view.strategies
        for _, row in view.of(strategy, HELD_OUT).iterrows()
        for kind, column in kinds
    ]
    if not any(row["delta"] is not None for row in rows):
        return None
    points: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row["delta"] is not None:
            parts = points.setdefault((str(row["strategy"]), str(row["place"])), {})
            parts[str(row["kind"])] = float(row["delta"])
    (who, where), deepest = min(points.items(), key=lambda item: sum(item[1].values()))
    return Chart(
        "split",
        "Form or knowledge",
        f"At the deepest point ({who} after {where}) "
        + " and ".join(f"{signed(deepest.get(kind))} pp is {kind}" for kind, _ in kinds)
        + ".",
        lambda width: _split_spec(view, rows, [kind for kind, _ in kinds], width),
        _wide_table(view, rows, "Strategy", "strategy", "Part", "kind"),
        "A loss of form is forgiven by the lenient scorer: the answer is known and written "
        "otherwise. A loss of knowledge is not.",
    )


def _split_spec(view: View, rows: list[dict[str, Any]], kinds: Sequence[str], width: Width) -> Spec:
    columns = _columns(len(view.strategies), width)
    y: Spec = {"field": "delta", "type": "quantitative", "title": "pp"}
    colour = {
        "field": "kind", "type": "nominal", "title": None, "sort": list(kinds),
        "scale": {"domain": list(kinds), "range": [ESSENTIAL, SUPERFICIAL]},
        "legend": {"orient": "top", "labelLimit": 0},
    }  # fmt: skip
    layers = [
        {"mark": {"type": "bar", "aria": True, "width": {"band": 0.72}},
         "encoding": {"x": _bars_axis(view), "y": y, "color": colour,
                      "description": {"field": "says"}}},
        {"mark": {"type": "rule", "color": MUTED}, "encoding": {"y": {"datum": 0}}},
    ]  # fmt: skip
    return _by_strategy(view, rows, layers, columns, width)


def rates(view: View) -> Chart | None:
    """Drift rates on held-out benchmarks (bare numbers, number mass) by stage."""
    rows = held_out_rates(view)
    if not rows:
        return None
    metrics = list(dict.fromkeys(str(row["rate"]) for row in rows))
    top = max(rows, key=lambda row: float(row["pct"]))
    return Chart(
        "rates",
        "Bias towards numbers on held-out questions",
        f"Highest: {top['says'].replace('; ', ', ')}.",
        lambda width: _rates_spec(view, rows, metrics, width),
        _wide_table(view, rows, "Rate", "rate", "Strategy", "strategy", value="pct"),
        "Bare numbers are answers that are a number and nothing else, to questions that do not "
        "ask for one.",
    )


RATE_NAMES = {
    "bare_number_rate": "bare-number answers",
    "number_mass_rate": "number-token probability",
}


def held_out_rates(view: View) -> list[dict[str, Any]]:
    """Mean over held-out benchmarks, then over runs, of each rate of `scores.csv`, in percent."""
    scores = view.judgement.scores
    chosen = scores["metric"].isin(RATE_NAMES) & (scores["role"] == "held_out")
    found = scores[chosen].dropna(subset=["score_pct"])
    if found.empty:
        return []
    by_run = found.groupby(["metric", "strategy", "run", "stage"])["score_pct"].mean()
    means = by_run.groupby(level=["metric", "strategy", "stage"]).mean()
    rows = []
    for metric, title in RATE_NAMES.items():
        if metric not in means.index.get_level_values(0):
            continue
        for strategy in view.strategies:
            for place in view.places:
                value = means.get((metric, strategy, place.stage))
                if value is None and place.stage == 0:
                    value = means.get((metric, BASE_LABEL, 0))
                if value is None:
                    continue
                who = foreign_text.name(strategy)
                rows.append(
                    {"rate": title, "strategy": who, "stage": place.stage, "place": place.label,
                     "pct": float(value),
                     "says": f"{who}; {title}; after {place.label}; {plain(value)} %"}
                )  # fmt: skip
    return rows


def _rates_spec(
    view: View, rows: list[dict[str, Any]], metrics: Sequence[str], width: Width
) -> Spec:
    columns = min(len(metrics), 2) if width == "wide" else 1
    x, colour = _stage_axis(view), _strategy_colour(view)
    y: Spec = {"field": "pct", "type": "quantitative", "title": "%"}
    return _themed(
        {
            "data": {"values": rows},
            "facet": {"field": "rate", "type": "nominal", "title": None, "sort": list(metrics),
                      "header": {"labelFontWeight": 600, "labelFontSize": 12, "labelColor": INK,
                                 "labelAnchor": "start"}},
            "columns": columns,
            "spec": {
                "width": (PIXELS[width] - 60) // columns - (20 if columns > 1 else 0),
                "height": 180,
                "layer": [
                    {"mark": {"type": "line", "strokeWidth": 2},
                     "encoding": {"x": x, "y": y, "color": colour}},
                    _points(x, y, colour, _strategy_shape(view), size=42),
                ],
            },
        }
    )  # fmt: skip


def answer_types(view: View, types: pd.DataFrame | None) -> Chart | None:
    """What kind of answer was given on held-out questions, by strategy and stage.

    `types`: columns strategy, stage, type, share_pct (shares of a stage sum to 100).
    """
    if types is None or types.empty:
        return None
    labels = {place.stage: place.label for place in view.places}
    known = list(dict.fromkeys([*TYPE_COLOURS, *types["type"]]))
    order = {kind: i for i, kind in enumerate(known)}
    rows: list[dict[str, Any]] = [
        {
            "strategy": foreign_text.name(str(row["strategy"])),
            "stage": int(row["stage"]),
            "place": labels[int(row["stage"])],
            "type": str(row["type"]).replace("_", "/"),
            "order": order[str(row["type"])],
            "pct": float(row["share_pct"]),
            "says": f"{foreign_text.name(str(row['strategy']))}; "
            f"after {labels[int(row['stage'])]}; "
            f"{str(row['type']).replace('_', '/')} {plain(row['share_pct'])} %",
        }
        for _, row in types.iterrows()
    ]
    used = [kind for kind in known if kind in set(types["type"])]
    base = {(row["strategy"], row["type"]): row["pct"] for row in rows if row["stage"] == 0}
    rises = [
        (row["pct"] - base.get((row["strategy"], row["type"]), 0.0), row)
        for row in rows
        if row["stage"] > 0
    ]
    summary = "Shares of answer types on held-out questions."
    if rises:
        rise, row = max(rises, key=lambda pair: pair[0])
        summary += (
            f" Largest rise: {row['type']} under {row['strategy']} after {row['place']}, "
            f"{signed(rise)} pp."
        )
    return Chart(
        "answer-types",
        "Kinds of answers given",
        summary,
        lambda width: _types_spec(view, rows, used, width),
        _wide_table(view, rows, "Strategy", "strategy", "Type", "type", value="pct"),
    )


def _types_spec(view: View, rows: list[dict[str, Any]], used: Sequence[str], width: Width) -> Spec:
    columns = _columns(len(view.strategies), width)
    names = [kind.replace("_", "/") for kind in used]
    colour = {
        "field": "type", "type": "nominal", "title": None, "sort": names,
        "scale": {"domain": names, "range": [TYPE_COLOURS.get(kind, MUTED) for kind in used]},
        "legend": {"orient": "top", "columns": 5 if width == "wide" else 3},
    }  # fmt: skip
    layers = [
        {"mark": {"type": "bar", "aria": True, "width": {"band": 0.72}},
         "encoding": {"x": _bars_axis(view), "color": colour, "order": {"field": "order"},
                      "y": {"field": "pct", "type": "quantitative", "title": "% of answers",
                            "scale": {"domain": [0, 100]}},
                      "description": {"field": "says"}}},
    ]  # fmt: skip
    return _by_strategy(view, rows, layers, columns, width)


# --- Shared parts --------------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    """JSON has no NaN: a missing number is left out of the drawing."""
    return None if value is None or not np.isfinite(value) else float(value)


def _points(x: Spec, y: Spec, colour: Spec, shape: Spec, size: int) -> Spec:
    """The marks that carry labels: everything else in a drawing is decoration to a reader."""
    return {
        "mark": {"type": "point", "filled": True, "size": size, "opacity": 1, "aria": True},
        "encoding": {"x": x, "y": y, "color": colour, "shape": shape,
                     "description": {"field": "says"}},
    }  # fmt: skip


def _strategy_colour(view: View, *, legend: bool = True) -> Spec:
    names = [foreign_text.name(s) for s in view.strategies]
    return {
        "field": "strategy",
        "type": "nominal",
        "title": None,
        "scale": {
            "domain": names,
            "range": [PALETTE[i % len(PALETTE)] for i in range(len(names))],
        },
        "legend": {"orient": "top", "labelLimit": 0} if legend else None,
    }


def _strategy_shape(view: View, *, legend: bool = True) -> Spec:
    encoding = _strategy_colour(view, legend=legend)
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(view.strategies))]
    return {**encoding, "scale": {"domain": encoding["scale"]["domain"], "range": shapes}}


def _bars_axis(view: View) -> Spec:
    axis = _stage_axis(view)
    return {
        "field": "place",
        "type": "ordinal",
        "title": None,
        "sort": axis["scale"]["domain"],
        "axis": {**axis["axis"], "labelAngle": -35},
    }


def _columns(n: int, width: Width) -> int:
    """Panels in a row: four at most, and no row with one panel alone where three would share."""
    if width == "narrow":
        return min(n, 2)
    return 3 if n in (3, 5, 6, 9) else min(n, 4)


def _by_strategy(
    view: View, rows: list[dict[str, Any]], layers: list[Spec], columns: int, width: Width
) -> Spec:
    room = (PIXELS[width] - 60) // columns - 18
    return _themed(
        {
            "data": {"values": rows},
            "facet": {"field": "strategy", "type": "nominal", "title": None,
                      "sort": [foreign_text.name(s) for s in view.strategies],
                      "header": {"labelFontWeight": 600, "labelFontSize": 12, "labelColor": INK,
                                 "labelAnchor": "start"}},
            "columns": columns,
            "spacing": {"row": 16, "column": 18},
            "spec": {"width": room, "height": 150, "layer": layers},
        }
    )  # fmt: skip


def _whole(spec: Spec, width: Width, *, height: int) -> Spec:
    return _themed({**spec, "width": HALF[width] - 60, "height": height})


def _themed(spec: Spec) -> Spec:
    text = {"labelColor": MUTED, "titleColor": MUTED, "labelFontSize": 11, "titleFontSize": 11}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": PAPER,
        "padding": 4,
        **spec,
        "config": {
            # The page's chart font has the same widths, so that the layout holds there too.
            "font": "Liberation Sans, Arial, Helvetica, sans-serif",
            "aria": True,
            "view": {"stroke": None},
            "axis": {**text, "gridColor": GRID, "domainColor": GRID, "tickColor": GRID,
                     "titleFontWeight": "normal", "labelPadding": 6, "titlePadding": 10,
                     "ticks": False, "aria": False},
            "legend": {**text, "labelColor": INK, "symbolSize": 70, "symbolOpacity": 1,
                       "aria": False},
            "header": {"labelColor": INK},
            "text": {"fontSize": 11, "color": INK, "aria": False},
            "rule": {"aria": False},
            "line": {"aria": False},
            "area": {"aria": False},
            "point": {"aria": False},
        },
    }  # fmt: skip


def _wide_table(
    view: View, rows: list[dict[str, Any]], *columns: str, value: str = "delta"
) -> pd.DataFrame:
    """Rows as people read them: stages side by side. `columns`: title, key, title, key, ..."""
    keys = dict(zip(columns[1::2], columns[::2], strict=True))
    write = signed if value == "delta" else plain
    table: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        cell = write(row[value])
        if row.get("verdict"):
            cell += f" {interval(row['low'], row['high'])} {row['verdict']}"
        table.setdefault(tuple(str(row[key]) for key in keys), {})[str(row["place"])] = cell
    shown = [p.label for p in view.places if any(p.label in cells for cells in table.values())]
    return pd.DataFrame(
        [[*who, *(cells.get(label, "NA") for label in shown)] for who, cells in table.items()],
        columns=[*keys.values(), *shown],
    )
