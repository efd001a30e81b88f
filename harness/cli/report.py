"""`forgeteval report`: a study as one HTML file, as Markdown, or as figures for a paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.options import (
    Baseline,
    Common,
    Dip,
    Level,
    Margin,
    MaxDropped,
    Results,
    Scorer,
    Study,
)
from harness.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

Format = Literal["html", "md", "pdf-ready"]

EXAMPLES = """
Examples:

    forgeteval report micro                            # results/micro -> results/micro/report.html

    forgeteval report checkpoints.yaml --open          # with pictures, in the browser

    forgeteval report micro --figures figures/         # every chart as SVG and PNG, a LaTeX table

    forgeteval report checkpoints.yaml --watch         # built again while a sweep runs
"""


def report(
    study: Study = "checkpoints.yaml",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; else in the study's folder.")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="pdf-ready: one page to print, no samples.")
    ] = "html",
    figures: Annotated[
        Path | None, typer.Option(help="Folder for SVG, PNG and the LaTeX table.")
    ] = None,
    results: Results = None,
    scorer: Scorer = "",
    margin: Margin = 1.0,
    level: Level = 0.95,
    baseline: Baseline = None,
    dip: Dip = None,
    max_dropped: MaxDropped = 0.05,
    common: Common = False,
    images: Annotated[
        bool, typer.Option("--images/--no-images", help="Thumbnails, if STUDY is a manifest.")
    ] = True,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Build again whenever results change; Ctrl-C ends.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Say what was written as JSON.")] = False,
) -> None:
    """Write a report: one file that opens from disk and needs no network."""
    from rich.console import Console

    from harness.analysis import JudgeOptions
    from harness.report import output
    from harness.report.content import Wanted
    from harness.study_folders import study_folder

    console = Console(stderr=True)
    folder = study_folder(study, results)
    file = Path(study)
    manifest = file if images and file.suffix in (".yaml", ".yml") else None
    wanted = Wanted(study, folder, results, manifest, samples=format_ == "html")
    options = JudgeOptions(
        scorer=scorer,
        level=level,
        margin_pp=margin,
        baseline=baseline,
        dip=dip,
        max_dropped=max_dropped,
        common_set=common,
    )
    target = out or folder / f"report{output.SUFFIXES[format_]}"

    def build() -> None:
        written = output.write(wanted, options, target, format_, figures, reload=watch)
        _say(written, figures, console, as_json=json_)

    if watch:
        _keep_building(build, folder, console, opened=open_, target=target)
        return
    build()
    if open_:
        typer.launch(target.absolute().as_uri())


def _say(written: list[Path], figures: Path | None, console: Console, *, as_json: bool) -> None:
    """Which files were written: the report, then its figures."""
    if as_json:
        print(json.dumps([{"file": str(f), "bytes": f.stat().st_size} for f in written]))
        return
    size = written[0].stat().st_size / 1000
    console.print(f"wrote {written[0]} ({size:,.0f} kB)", markup=False, highlight=False)
    if figures:
        text = f"wrote {figures}: {len(written) - 1} files"
        console.print(text, markup=False, highlight=False)


def _keep_building(
    build: Callable[[], None], folder: Path, console: Console, *, opened: bool, target: Path
) -> None:
    """Build now and after every change of the study's files, until Ctrl-C."""
    from harness.report import output

    try:
        for _ in output.changes(folder):
            try:
                build()
            except UserError as error:  # a sweep that has only begun; the next change may do
                console.print(f"not yet: {error}", style="yellow", markup=False)
                continue
            if opened:
                typer.launch(target.absolute().as_uri())
                opened = False
    except KeyboardInterrupt:
        console.print("stopped watching")


def register(app: typer.Typer) -> None:
    """Adds `report`."""
    app.command(epilog=EXAMPLES)(report)
