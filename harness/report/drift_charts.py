"""The charts of drift: what of a change is form and what is knowledge, and kinds of answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.report import foreign_text
from harness.report.chart import (
    ESSENTIAL,
    INK,
    MUTED,
    PAPER,
    SUPERFICIAL,
    TYPE_COLOURS,
    Chart,
    Spec,
    Width,
    bars_axis,
    by_strategy,
    columns_for,
    number,
    stage_table,
    strategy_room,
)
from harness.report.numerals import interval, plain, signed
from harness.report.view import HELD_OUT, View

# Which of the two parts of a change is which, and its colour.
KNOWN, FORM = "knowledge", "form"
PART_COLOURS = {KNOWN: ESSENTIAL, FORM: SUPERFICIAL}
Row = dict[str, Any]


def split(view: View) -> Chart | None:
    """Held-out change taken apart into form (superficial) and knowledge (essential)."""
    names = {KNOWN: "knowledge (essential)", FORM: "form only (superficial)"}
    columns = {KNOWN: "essential", FORM: "superficial"}
    rows = [
        _part(view, strategy, int(row["to_stage"]), names[part], *_limits(row, column))
        for strategy in view.strategies
        for _, row in view.of(strategy, HELD_OUT).iterrows()
        for part, column in columns.items()
    ]
    return _taken_apart(
        view,
        ("split", "Form or knowledge"),
        names,
        rows,
        "A loss of form is forgiven by the lenient scorer: the answer is known and written "
        "otherwise. A loss of knowledge is not. Both add up to the change under the strict "
        "scorer; whiskers are intervals. An answer of the wrong kind (a number for a colour) is "
        "knowledge here; forgeteval drift tells it apart.",
    )


def choices(view: View) -> Chart | None:
    """Changes on held-out questions with options: still known by likelihood, or lost in form."""
    names = {KNOWN: "by the likelihood of the options", FORM: "form: the rest of the change"}
    measures = {KNOWN: "choice_accuracy", FORM: "choice_gap"}
    rows = [
        _part(view, strategy, int(row["stage"]), names[part], row["shift"], row["ci_low"],
              row["ci_high"])
        for strategy in view.strategies
        for part, measure in measures.items()
        for _, row in view.measured_of(strategy, measure).iterrows()
    ]  # fmt: skip
    return _taken_apart(
        view,
        ("choices", "Form or knowledge, by the likelihood of options"),
        names,
        rows,
        "Held-out questions with options, where each option's likelihood was compared as well "
        "(score --choices). What free answers lose and the likelihood still knows is form. Both "
        "add up to the change of the answers given; whiskers are intervals.",
    )


def _limits(row: pd.Series[Any], column: str) -> tuple[float, float, float]:
    value, low, high = (row[f"{column}{end}_pp"] for end in ("", "_ci_low", "_ci_high"))
    return float(value), float(low), float(high)


def _part(
    view: View, strategy: str, stage: int, kind: str, value: float, low: float, high: float
) -> Row:
    place = view.label_of(stage)
    who = foreign_text.name(strategy)
    return {
        "strategy": who,
        "stage": stage,
        "place": place,
        "kind": kind,
        "delta": number(value),
        "low": number(low),
        "high": number(high),
        "says": f"{who}; after {place}; {kind} {signed(value)} pp {interval(low, high)}",
    }


def _taken_apart(
    view: View, named: tuple[str, str], kinds: Mapping[str, str], rows: list[Row], note: str
) -> Chart | None:
    """The chart `named` (name, title) of two parts of one change; None where nothing is known.

    A stage of which one part alone is known is left out: its bars would not add up.
    """
    points: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["delta"] is not None:
            points.setdefault((row["strategy"], row["place"]), {})[row["kind"]] = row
    points = {at: parts for at, parts in points.items() if len(parts) == len(kinds)}
    rows = [row for row in rows if (row["strategy"], row["place"]) in points]
    if not points:
        return None
    (who, where), deepest = min(
        points.items(), key=lambda item: sum(part["delta"] for part in item[1].values())
    )
    parts = " and ".join(
        f"{signed(part['delta'])} pp {interval(part['low'], part['high'])} is {kind}"
        for kind, part in deepest.items()
    )
    return Chart(
        *named,
        f"At the deepest point ({who} after {where}) {parts}.",
        lambda width: _parts_spec(view, rows, kinds, width),
        stage_table(view, rows, "Strategy", "strategy", "Part", "kind"),
        note,
    )


def _parts_spec(view: View, rows: list[Row], kinds: Mapping[str, str], width: Width) -> Spec:
    columns = columns_for(len(view.strategies), width)
    names = list(kinds.values())
    x = bars_axis(view, strategy_room(columns, width))
    y: Spec = {"field": "delta", "type": "quantitative", "title": "pp"}
    beside = {"field": "kind", "type": "nominal", "sort": names}
    colour = {
        "field": "kind", "type": "nominal", "title": None, "sort": names,
        "scale": {"domain": names, "range": [PART_COLOURS[part] for part in kinds]},
        "legend": {"orient": "top", "labelLimit": 0, "columnPadding": 28,
                   "direction": "horizontal" if width == "wide" else "vertical"},
    }  # fmt: skip
    layers = [
        {"mark": {"type": "bar", "aria": True},
         "encoding": {"x": x, "xOffset": beside, "y": y, "color": colour,
                      "description": {"field": "says"}}},
        # On a ground of their own, so that they show on a dark bar as well.
        *({"mark": {"type": "rule", "color": ink, "strokeWidth": thick},
           "encoding": {"x": x, "xOffset": beside, "y": {**y, "field": "low"},
                        "y2": {"field": "high"}}}
          for ink, thick in ((PAPER, 4), (INK, 1.4))),
        {"mark": {"type": "rule", "color": MUTED}, "encoding": {"y": {"datum": 0}}},
    ]  # fmt: skip
    return by_strategy(view, rows, layers, columns, width)


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
         "encoding": {"x": bars_axis(view, strategy_room(columns, width)), "color": colour,
                      "order": {"field": "order"},
                      "y": {"field": "pct", "type": "quantitative", "title": "% of answers",
                            "scale": {"domain": [0, 100]}},
                      "description": {"field": "says"}}},
    ]  # fmt: skip
    return by_strategy(view, rows, layers, columns, width)
