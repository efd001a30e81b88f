"""A chart: a Vega-Lite specification with the words and numbers that stand beside it.

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
from harness.report.view import View

Spec = dict[str, Any]
Width = Literal["wide", "narrow"]
WIDTHS: tuple[Width, ...] = ("wide", "narrow")
# Pixels of a whole drawing, on a desk and on a phone: drawn as large as shown, since text that is
# scaled with a drawing cannot be read. HALF is for two drawings side by side.
PIXELS: Mapping[Width, int] = {"wide": 1040, "narrow": 340}
HALF: Mapping[Width, int] = {"wide": 520, "narrow": 340}

# Between the names of two stages on an axis: text 13 pixels high, slanted by 35 degrees.
LABEL_PIXELS = 24

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


def stage_axis(view: View, room: int) -> Spec:
    """The stages as an axis of `room` pixels; where they are many, every second or tenth named."""
    labels = [place.label for place in view.places]
    step = -(-len(labels) * LABEL_PIXELS // max(room, 1))
    # Vega's own thinning takes the box around a slanted label, so it drops most that would fit.
    named = {} if step <= 1 else {"values": labels[::step]}
    return {
        "field": "place",
        "type": "ordinal",
        "title": None,
        "scale": {"domain": labels, "type": "point", "padding": 0.25},
        "axis": {"labelAngle": 0 if _short(labels) else -35, "labelOverlap": False, "grid": False,
                 **named},
    }  # fmt: skip


def _short(labels: Sequence[str]) -> bool:
    return sum(len(label) for label in labels) <= 26


def number(value: Any) -> float | None:
    """JSON has no NaN: a missing number is left out of the drawing."""
    return None if value is None or not np.isfinite(value) else float(value)


def labelled_points(x: Spec, y: Spec, colour: Spec, shape: Spec, size: int) -> Spec:
    """The marks that carry labels: everything else in a drawing is decoration to a reader."""
    return {
        "mark": {"type": "point", "filled": True, "size": size, "opacity": 1, "aria": True},
        "encoding": {"x": x, "y": y, "color": colour, "shape": shape,
                     "description": {"field": "says"}},
    }  # fmt: skip


def strategy_colour(view: View, *, legend: bool = True) -> Spec:
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


def strategy_shape(view: View, *, legend: bool = True) -> Spec:
    encoding = strategy_colour(view, legend=legend)
    # A ninth strategy repeats a colour, so it must not repeat the shape that goes with it.
    shapes = [SHAPES[(i + i // len(PALETTE)) % len(SHAPES)] for i in range(len(view.strategies))]
    return {**encoding, "scale": {"domain": encoding["scale"]["domain"], "range": shapes}}


def bars_axis(view: View, room: int) -> Spec:
    """`stage_axis` for bars, which stand in bands."""
    axis = stage_axis(view, room)
    return {
        "field": "place",
        "type": "ordinal",
        "title": None,
        "sort": axis["scale"]["domain"],
        "axis": {**axis["axis"], "labelAngle": -35},
    }


def columns_for(n: int, width: Width) -> int:
    """Panels in a row: four at most, and no row with one panel alone where three would share."""
    if width == "narrow":
        return min(n, 2)
    return 3 if n in (3, 5, 6, 9) else min(n, 4)


def _axes(n: int, columns: int) -> str:
    """A last row that is not full would show the shared axis of a panel that is not there."""
    return "independent" if n % columns else "shared"


def strategy_room(columns: int, width: Width) -> int:
    """Pixels of one panel of `by_strategy`."""
    return (PIXELS[width] - 60) // columns - 18


def by_strategy(
    view: View, rows: list[dict[str, Any]], layers: list[Spec], columns: int, width: Width
) -> Spec:
    return themed(
        {
            "data": {"values": rows},
            "facet": {"field": "strategy", "type": "nominal", "title": None,
                      "sort": [foreign_text.name(s) for s in view.strategies],
                      "header": {"labelFontWeight": 600, "labelFontSize": 12, "labelColor": INK,
                                 "labelAnchor": "start"}},
            "columns": columns,
            "spacing": {"row": 16, "column": 18},
            "spec": {"width": strategy_room(columns, width), "height": 150, "layer": layers},
            "resolve": {"axis": {"x": _axes(len(view.strategies), columns)}},
        }
    )  # fmt: skip


def line_layers(view: View, y_title: str, room: int) -> list[Spec]:
    """Lines over stages by strategy, with their intervals as bands; zero is the base."""
    # Bands lie over one another: the more strategies, the fainter each.
    band = min(0.14, 0.4 / len(view.strategies))
    colour, shape = strategy_colour(view), strategy_shape(view)
    x = stage_axis(view, room)
    y: Spec = {"field": "delta", "type": "quantitative", "title": y_title}
    return [
        {"mark": {"type": "rule", "color": MUTED, "strokeWidth": 1},
         "encoding": {"y": {"datum": 0}}},
        {"mark": {"type": "area", "opacity": band, "line": False},
         "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"},
                      "color": colour}},
        {"mark": {"type": "line", "strokeWidth": 2},
         "encoding": {"x": x, "y": y, "color": colour}},
        labelled_points(x, y, colour, shape, size=42),
    ]  # fmt: skip


def line_panels(
    view: View, rows: list[dict[str, Any]], field: str, width: Width, *, y_title: str = "pp"
) -> Spec:
    """A panel of lines for each value of `field`, in the order of the rows."""
    names = list(dict.fromkeys(str(row[field]) for row in rows))
    columns = columns_for(len(names), width)
    room = (PIXELS[width] - 62) // columns - 18
    return themed(
        {
            "data": {"values": rows},
            "facet": {
                "field": field,
                "type": "nominal",
                "title": None,
                "sort": names,
                "header": {"labelFontSize": 12, "labelFontWeight": 600, "labelColor": INK,
                           "labelAnchor": "start"},
            },
            "columns": columns,
            "spacing": {"row": 16, "column": 18},
            "spec": {
                "width": room,
                "height": 130,
                "layer": line_layers(view, y_title, room),
            },
            "resolve": {"axis": {"x": _axes(len(names), columns)}},
        }
    )  # fmt: skip


def half_room(width: Width) -> int:
    """Pixels of the drawing of `half_page`."""
    return HALF[width] - 60


def half_page(spec: Spec, width: Width, *, height: int) -> Spec:
    return themed({**spec, "width": half_room(width), "height": height})


def themed(spec: Spec) -> Spec:
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


def stage_table(
    view: View,
    rows: list[dict[str, Any]],
    *columns: str,
    value: str = "delta",
    digits: int = 1,
) -> pd.DataFrame:
    """Rows as people read them: stages side by side. `columns`: title, key, title, key, ...

    A row that is `shown` says itself what stands in its cell.
    """
    keys = dict(zip(columns[1::2], columns[::2], strict=True))
    write = signed if value == "delta" else plain
    table: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        cell = row.get("shown") or write(row[value], digits)
        if row["stage"] and "low" in row:
            cell += f" {interval(row['low'], row['high'], digits)}"
        if row.get("verdict"):
            cell += f" {row['verdict']}"
        table.setdefault(tuple(str(row[key]) for key in keys), {})[str(row["place"])] = cell
    shown = [p.label for p in view.places if any(p.label in cells for cells in table.values())]
    return pd.DataFrame(
        [[*who, *(cells.get(label, "NA") for label in shown)] for who, cells in table.items()],
        columns=[*keys.values(), *shown],
    )
