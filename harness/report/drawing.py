"""Drawing: a chart's specification as SVG or PNG, and as SVG that is safe inside the page.

Everything is rendered here, at build time, by vl-convert (Vega-Lite in one wheel, no browser). SVG
for the page passes an allow-list: what is not known to be harmless is dropped, whatever a name in
the data may have become.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from harness.errors import UserError
from harness.report import chart as look
from harness.report.chart import Chart, Spec, Width

VEGA_LITE = "6.4"
PNG_SCALE = 2.0
_SVG = "{http://www.w3.org/2000/svg}"
_ELEMENTS = frozenset({"svg", "g", "path", "rect", "line", "text", "tspan", "clipPath", "defs"})
_ATTRIBUTES = frozenset(
    {
        "clip-path", "d", "dx", "dy", "fill", "fill-opacity", "font-size", "font-style",
        "font-weight", "height", "id", "opacity", "stroke", "stroke-dasharray",
        "stroke-dashoffset", "stroke-linecap", "stroke-linejoin", "stroke-miterlimit",
        "stroke-opacity", "stroke-width", "text-anchor", "transform", "viewBox", "width", "x",
        "x1", "x2", "y", "y1", "y2",
    }
)  # fmt: skip
_LOCAL_CLIP = re.compile(r"url\(#([\w-]+)\)")
# Colours of the specifications -> variables of the page, so that one drawing serves both themes.
VARIABLES = {
    look.INK: "ink",
    look.MUTED: "muted",
    look.GRID: "grid",
    look.PAPER: "paper",
    "white": "paper",
    look.ESSENTIAL: "essential",
    look.SUPERFICIAL: "superficial",
    **{colour: f"s{i}" for i, colour in enumerate(look.PALETTE)},
    **{colour: f"type-{kind}" for kind, colour in look.TYPE_COLOURS.items()},
}


def _renderer() -> Any:
    try:
        import vl_convert
    except ImportError:
        raise UserError(
            "report", "vl-convert-python is not installed; run `pip install vl-convert-python`"
        ) from None
    return vl_convert


def svg(spec: Spec) -> str:
    """A drawing as a file of its own."""
    return str(_renderer().vegalite_to_svg(spec, vl_version=VEGA_LITE))


def png(spec: Spec) -> bytes:
    """A drawing as pixels, twice as fine as the screen."""
    return bytes(_renderer().vegalite_to_png(spec, vl_version=VEGA_LITE, scale=PNG_SCALE))


def page_svg(chart: Chart, width: Width) -> str:
    """The drawing as a fragment of the page: allow-listed, in the page's colours and font."""
    source = ElementTree.fromstring(svg(chart.spec(width)))
    root = _kept(source, f"{chart.name}-{width}-")
    assert root is not None
    root.set("class", width)
    root.set("role", "group")
    root.set("aria-label", f"{chart.title}: marks")
    root.set("preserveAspectRatio", "xMidYMin meet")
    marks = [element for element in root.iter() if element.get("role") == "img"]
    for mark in marks[:1]:
        mark.set("tabindex", "0")
    return ElementTree.tostring(root, encoding="unicode")


def _kept(element: ElementTree.Element, prefix: str) -> ElementTree.Element | None:
    """The element with what is known to be harmless; None where it is not known at all."""
    tag = element.tag.removeprefix(_SVG)
    if tag not in _ELEMENTS or element.get("display") == "none":
        return None
    kept = ElementTree.Element(tag)
    for key, value in element.attrib.items():
        if key in _ATTRIBUTES:
            kept.set(key, _value(key, value, prefix))
    if element.get("role") == "graphics-symbol" and element.get("aria-label"):
        kept.set("role", "img")
        kept.set("class", "mark")
        kept.set("tabindex", "-1")
        kept.set("aria-label", element.get("aria-label", ""))
    kept.text = element.text
    for child in element:
        found = _kept(child, prefix)
        if found is not None:
            kept.append(found)
    if tag == "g" and len(kept) == 0:
        return None
    return kept


def _value(key: str, value: str, prefix: str) -> str:
    if key in ("fill", "stroke"):
        variable = VARIABLES.get(value)
        return value if variable is None else f"var(--{variable})"
    if key == "id":
        return prefix + value
    if key == "clip-path":
        return _LOCAL_CLIP.sub(lambda found: f"url(#{prefix}{found[1]})", value)
    return value
