"""The page: a report as one HTML file that needs nothing but a browser.

Everything is inside: drawn charts, style, one script and the samples (JSON, compressed, read by
the browser's own DecompressionStream). The Content-Security-Policy names the hashes of that style
and that script and forbids all else, so a name or an answer that looks like code stays text even
if the escaping of a template were forgotten.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.report import drawing
from harness.report.base_alone import NO_STAGES
from harness.report.chart import WIDTHS
from harness.report.content import Content
from harness.report.numerals import interval, plain, signed
from harness.types import OWN_METRIC

if TYPE_CHECKING:
    from jinja2 import Environment

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Form:
    """How the page is to be used."""

    printed: bool = False
    """For paper or PDF: no script, everything unfolded, light."""
    reload_seconds: int = 0
    """The page loads itself again so often, while a sweep runs; 0 = never."""


def page(content: Content, form: Form | None = None) -> str:
    """The whole file as text. Equal content gives equal text."""
    form = form or Form()
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    script = "" if form.printed else (_FOLDER / "page.js").read_text(encoding="utf-8")
    drawings = {
        name: {width: drawing.page_svg(chart, width) for width in WIDTHS}
        for name, chart in content.charts.items()
        if name != "heatmap"  # the page has a table whose cells can be pressed
    }
    return _environment().get_template("page.html").render(
        content=content,
        form=form,
        style=style,
        script=script,
        policy=_policy(style, script),
        drawings=drawings,
        no_stages=NO_STAGES,
        samples="" if form.printed else _samples(content),
    )  # fmt: skip


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = signed
    environment.filters["plain"] = plain
    environment.filters["limits"] = interval
    environment.filters["exact"] = _exact
    return environment


def _exact(value: float) -> str:
    """A number as the CSV files write it: what a program that reads the page compares."""
    text = f"{value:.4f}"
    return {"-0.0000": "0.0000", "nan": "NA"}.get(text, text)


def _policy(style: str, script: str) -> str:
    allowed = f"script-src '{_hash(script)}'" if script else "script-src 'none'"
    return (
        f"default-src 'none'; {allowed}; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _samples(content: Content) -> str:
    """The samples as base64 of compressed JSON: no character of it can end an element."""
    if content.answers is None:
        return ""
    payload: dict[str, Any] = {
        **content.answers.payload,
        "scorer": content.view.judgement.scorer,
        "own": OWN_METRIC,
        "pictures": list(content.pictures.uris),
    }
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
    packed = gzip.compress(text.encode("utf-8", "replace"), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")
