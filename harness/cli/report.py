"""`forgeteval report`: a study as one HTML file, as Markdown, or as figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

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
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A manifest, a results folder, or a name.")
    ] = "checkpoints.yaml",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; else in the study's folder.")
    ] = None,
    format_: Annotated[
        Format, typer.Option("--format", help="pdf-ready: one page to print, no samples.")
    ] = "html",
    figures: Annotated[
        Path | None, typer.Option(help="Folder for SVG, PNG and the LaTeX table.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder.")] = None,
    scorer: Annotated[
        str,
        typer.Option(
            help="Scorer to judge by. [default: strict; logged for imported logs]",
            show_default=False,
        ),
    ] = "",
    margin: Annotated[float, typer.Option(help="Loss that counts as retained (points).")] = 1.0,
    level: Annotated[float, typer.Option(help="Confidence of intervals.")] = 0.95,
    baseline: Annotated[
        str | None, typer.Option(help="Strategy that the others are compared with.")
    ] = None,
    dip: Annotated[str | None, typer.Option(help="Stage after which recovery is measured.")] = None,
    max_dropped: Annotated[
        float, typer.Option(help="Share of samples that may lack a score on one side.")
    ] = 0.05,
    common: Annotated[
        bool,
        typer.Option("--common", help="Missing cells: use the benchmarks that all stages have."),
    ] = False,
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
    import json

    from rich.console import Console

    from harness.analysis import JudgeOptions
    from harness.report import output
    from harness.report.content import Wanted
    from harness.study import study_folder

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
        if json_:
            print(json.dumps([{"file": str(f), "bytes": f.stat().st_size} for f in written]))
        else:
            size = target.stat().st_size / 1000
            console.print(f"wrote {target} ({size:,.0f} kB)", markup=False, highlight=False)
            if figures:
                text = f"wrote {figures}: {len(written) - 1} files"
                console.print(text, markup=False, highlight=False)

    if watch:
        _keep_building(build, folder, console, opened=open_, target=target)
        return
    build()
    if open_:
        typer.launch(target.absolute().as_uri())


def _keep_building(
    build: Callable[[], None], folder: Path, console: Console, *, opened: bool, target: Path
) -> None:
    """Build now and after every change of the study's files, until Ctrl-C."""
    import time

    from harness.report import output

    seen = None
    try:
        while True:
            state = output.state_of(folder)
            if state != seen:
                seen = state
                try:
                    build()
                except UserError as error:  # a sweep that has only begun; the next change may do
                    console.print(f"not yet: {error}", style="yellow", markup=False)
                else:
                    if opened:
                        typer.launch(target.absolute().as_uri())
                        opened = False
            time.sleep(output.WATCH_SECONDS)
    except KeyboardInterrupt:
        console.print("stopped watching")


def register(app: typer.Typer) -> None:
    """Adds `report`."""
    app.command(epilog=EXAMPLES)(report)
