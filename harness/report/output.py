"""Output: a report's files, written whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from harness.analysis import JudgeOptions
from harness.errors import ResultsError
from harness.report import drawing, latex, markdown
from harness.report.chart import WIDTHS
from harness.report.content import Content, Wanted, gather
from harness.report.html import Form, page
from harness.storage.result_files import write_atomically

Format = Literal["html", "md", "pdf-ready"]
SUFFIXES: Mapping[str, str] = {"html": ".html", "md": ".md", "pdf-ready": ".print.html"}
WATCH_SECONDS = 5
# A page under watch loads itself again; slower than it is built, so that reading is possible.
RELOAD_SECONDS = 30


def write(
    wanted: Wanted,
    options: JudgeOptions,
    target: Path,
    form: Format,
    figures: Path | None,
    *,
    reload: bool = False,
) -> list[Path]:
    """Write the report to `target` and its figures into `figures`; returns the files.

    Raises UserError for a study that cannot be judged, ResultsError for a place that cannot be
    written.
    """
    content = gather(wanted, options)
    if form == "md":
        text = markdown.text(content)
    else:
        printed = form == "pdf-ready"
        text = page(content, Form(printed, RELOAD_SECONDS if reload else 0))
    files = {target: text.encode("utf-8", "replace")}
    if figures is not None:
        files |= _figures(content, figures)
    for file, data in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, data)
        except OSError as error:
            raise ResultsError(str(file), f"cannot be written: {error.strerror}") from error
    return list(files)


def _figures(content: Content, folder: Path) -> dict[Path, bytes]:
    """Every chart in both widths as SVG and PNG, and the leaderboard for a paper."""
    files = {folder / "leaderboard.tex": latex.table(content.view.judgement.leaderboard).encode()}
    for name, chart in content.charts.items():
        for width in WIDTHS:
            spec = chart.spec(width)
            stem = name if width == "wide" else f"{name}-narrow"
            files[folder / f"{stem}.svg"] = drawing.svg(spec).encode("utf-8")
            files[folder / f"{stem}.png"] = drawing.png(spec)
    return files


def changes(folder: Path) -> Iterator[None]:
    """Once now, and again whenever the files that a report is made from have changed. Endless."""
    seen = None
    while True:
        state = state_of(folder)
        if state != seen:
            seen = state
            yield
        time.sleep(WATCH_SECONDS)


def state_of(folder: Path) -> frozenset[tuple[str, int, int]]:
    """What a watcher compares: name, size and time of the files a report is made from."""
    return frozenset(
        (file.name, stat.st_size, stat.st_mtime_ns)
        for pattern in (
            "study.json",
            "cells/*/*.parquet",
            "graded/*/*.parquet",
            "imported.parquet",
            "audit.csv",
        )
        for file in folder.glob(pattern)
        for stat in [file.stat()]
    )
