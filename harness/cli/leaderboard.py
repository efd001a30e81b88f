"""`forgeteval leaderboard`: several studies in one ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Common, Level, Margin, MaxDropped, Results, Scorer

EXAMPLES = """
Examples:

    forgeteval leaderboard mine theirs -o leaderboard.csv

    forgeteval leaderboard mine theirs --format md
"""


def leaderboard(
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY...", help="Studies: names, folders or manifests.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the leaderboard here.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="csv, md, json or tex; default: what the name of -o says."),
    ] = None,
    scorer: Scorer = "",
    level: Level = 0.95,
    margin: Margin = 1.0,
    max_dropped: MaxDropped = 0.05,
    common: Common = False,
    results: Results = None,
) -> None:
    """Rank the strategies of several studies; studies that cannot be compared are refused (4).

    Ranked by balance: what was learned plus what the held-out benchmarks gained or lost. Rows
    that cannot be told apart are marked as ties (`3=1`), the best trade-offs as Pareto. Without
    -o, `--format` prints to stdout in that form.
    """
    from rich.console import Console
    from rich.progress import Progress

    from harness.analysis.options import JudgeOptions
    from harness.report.csv_files import write_text
    from harness.report.leaderboard import FORMATS, legend, terminal_table
    from harness.scoring.study import read_scores
    from harness.standings import rank_studies
    from harness.study_folders import study_folder

    write = FORMATS[_form(form, output, list(FORMATS))]
    options = JudgeOptions(
        scorer=scorer, level=level, margin_pp=margin, max_dropped=max_dropped, common_set=common
    )
    folders = dict.fromkeys(study_folder(study, results).resolve() for study in studies)
    bars = Console(stderr=True)
    with Progress(console=bars, transient=True, disable=not bars.is_terminal) as progress:
        bar = progress.add_task("ranking", total=None)
        scores = [read_scores(folder) for folder in folders]
        standings = rank_studies(
            scores, options, lambda done, total: progress.update(bar, completed=done, total=total)
        )
    if output is not None:
        write_text(output, write(standings))
    elif form is not None:
        typer.echo(write(standings), nl=False)
        return
    console = Console()
    console.print(terminal_table(standings))
    for line in legend(standings):
        console.print(line, style="dim", markup=False, highlight=False)
    if output is not None:
        console.print(f"written to {output}", markup=False, highlight=False)


def _form(form: str | None, output: Path | None, known: list[str]) -> str:
    """The form asked for, or the one that the file's name says. Raises UserError."""
    from harness.errors import UserError, did_you_mean

    wanted = form or (output.suffix[1:].lower() if output is not None and output.suffix else "csv")
    if wanted not in known:
        place = "--format" if form else f"-o {output}"
        near = did_you_mean(wanted, known)
        raise UserError(place, f"got {wanted!r}, expected one of {', '.join(known)}{near}")
    return wanted


def register(app: typer.Typer) -> None:
    """Add `leaderboard` to the command line."""
    app.command(epilog=EXAMPLES)(leaderboard)
