"""The charts of drift: form against knowledge, bias towards numbers, kinds of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from harness.report import foreign_text
from harness.report.chart import (
    ESSENTIAL,
    INK,
    MUTED,
    PIXELS,
    SUPERFICIAL,
    TYPE_COLOURS,
    Chart,
    Spec,
    Width,
    bars_axis,
    by_strategy,
    columns_for,
    labelled_points,
    number,
    stage_axis,
    stage_table,
    strategy_colour,
    strategy_shape,
    themed,
)
from harness.report.numerals import plain, signed
from harness.report.view import BASE_LABEL, HELD_OUT, View


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
            "delta": number(row[column]),
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
        stage_table(view, rows, "Strategy", "strategy", "Part", "kind"),
        "A loss of form is forgiven by the lenient scorer: the answer is known and written "
        "otherwise. A loss of knowledge is not.",
    )


def _split_spec(view: View, rows: list[dict[str, Any]], kinds: Sequence[str], width: Width) -> Spec:
    columns = columns_for(len(view.strategies), width)
    y: Spec = {"field": "delta", "type": "quantitative", "title": "pp"}
    colour = {
        "field": "kind", "type": "nominal", "title": None, "sort": list(kinds),
        "scale": {"domain": list(kinds), "range": [ESSENTIAL, SUPERFICIAL]},
        "legend": {"orient": "top", "labelLimit": 0},
    }  # fmt: skip
    layers = [
        {"mark": {"type": "bar", "aria": True, "width": {"band": 0.72}},
         "encoding": {"x": bars_axis(view), "y": y, "color": colour,
                      "description": {"field": "says"}}},
        {"mark": {"type": "rule", "color": MUTED}, "encoding": {"y": {"datum": 0}}},
    ]  # fmt: skip
    return by_strategy(view, rows, layers, columns, width)


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
        stage_table(view, rows, "Rate", "rate", "Strategy", "strategy", value="pct"),
        "Bare numbers are answers that are a number and nothing else, to questions that do not "
        "ask for one.",
    )


RATE_NAMES = {
    "bare_number_rate": "bare-number answers",
    "number_mass_rate": "number-token probability",
}


def held_out_rates(view: View) -> list[dict[str, Any]]:
    """Mean over held-out benchmarks, then over runs, of each rate of `scores.csv`, in percent.

    A stage at which any of them is missing is left out, as everywhere.
    """
    scores = view.judgement.scores
    found = scores[scores["metric"].isin(RATE_NAMES) & (scores["role"] == "held_out")]
    by_run = _complete_means(found, ["metric", "strategy", "run", "stage"])
    means = _complete_means(by_run, ["metric", "strategy", "stage"])["score_pct"].dropna()
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


def _complete_means(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Means of `score_pct` by `key`; NaN where any part is."""
    groups = frame.groupby(key)["score_pct"]
    return groups.mean().where(groups.count() == groups.size()).to_frame()


def _rates_spec(
    view: View, rows: list[dict[str, Any]], metrics: Sequence[str], width: Width
) -> Spec:
    columns = min(len(metrics), 2) if width == "wide" else 1
    x, colour = stage_axis(view), strategy_colour(view)
    y: Spec = {"field": "pct", "type": "quantitative", "title": "%"}
    return themed(
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
                    labelled_points(x, y, colour, strategy_shape(view), size=42),
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
        stage_table(view, rows, "Strategy", "strategy", "Type", "type", value="pct"),
    )


def _types_spec(view: View, rows: list[dict[str, Any]], used: Sequence[str], width: Width) -> Spec:
    columns = columns_for(len(view.strategies), width)
    names = [kind.replace("_", "/") for kind in used]
    colour = {
        "field": "type", "type": "nominal", "title": None, "sort": names,
        "scale": {"domain": names, "range": [TYPE_COLOURS.get(kind, MUTED) for kind in used]},
        "legend": {"orient": "top", "columns": 5 if width == "wide" else 3},
    }  # fmt: skip
    layers = [
        {"mark": {"type": "bar", "aria": True, "width": {"band": 0.72}},
         "encoding": {"x": bars_axis(view), "color": colour, "order": {"field": "order"},
                      "y": {"field": "pct", "type": "quantitative", "title": "% of answers",
                            "scale": {"domain": [0, 100]}},
                      "description": {"field": "says"}}},
    ]  # fmt: skip
    return by_strategy(view, rows, layers, columns, width)
