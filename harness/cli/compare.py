"""`forgeteval compare`: what was learned, forgotten and recovered, strategy by strategy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Tracker,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from harness.analysis.judge import Judgement
    from harness.analysis.options import JudgeOptions
    from harness.errors import ResultsError

EXAMPLES = """
Examples:

    forgeteval compare                                  # the study of ./checkpoints.yaml

    forgeteval compare micro --baseline mlp_gate_up

    forgeteval compare mine --scorer lenient --margin 0.5 --dip counting --json
"""


def compare(
    study: Study = "checkpoints.yaml",
    results: Results = None,
    scorer: Scorer = "",
    baseline: Baseline = None,
    contrast: Annotated[
        str | None,
        typer.Option(
            help="The only contrast to compute and show: base_to_stage, previous_to_stage, "
            "learned_to_final or dip_to_stage. [default: all; base_to_stage is shown]"
        ),
    ] = None,
    dip: Dip = None,
    margin: Margin = 1.0,
    level: Level = 0.95,
    max_dropped: MaxDropped = 0.05,
    common: Common = False,
    log_to: Tracker = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the judgement as JSON.")] = False,
) -> None:
    """Compare all strategies of a study: tables here, CSV files beside its results.

    Writes `scores.csv`, `deltas.csv` and `leaderboard.csv` into the study's folder. Numbers made
    in different ways are refused with exit code 4.
    """
    from rich.console import Console

    from harness.analysis.options import JudgeOptions
    from harness.export.trackers import require
    from harness.report.tables import print_judgement
    from harness.study_folders import study_folder

    options = JudgeOptions(
        scorer=scorer,
        level=level,
        margin_pp=margin,
        baseline=baseline,
        contrast=contrast,  # type: ignore[arg-type]  # checked by JudgeOptions
        dip=dip,
        max_dropped=max_dropped,
        common_set=common,
    )
    if log_to is not None:
        require(log_to)
    folder = study_folder(study, results)
    console = Console(stderr=json_)
    with _Progress(console) as progress:
        judgement, files, error = _judge_and_write(folder, options, log_to, progress)
    if json_:
        typer.echo(json.dumps(as_json(judgement, files), indent=1, ensure_ascii=True))
    else:
        print_judgement(console, judgement)
    if error is not None:  # a folder that can only be read can be judged all the same
        raise error
    if not json_:
        names = ", ".join(file.name for file in files)
        text = f"written to {folder}: {names}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _judge_and_write(
    folder: Path, options: JudgeOptions, log_to: Tracker, progress: _Progress
) -> tuple[Judgement, list[Path], ResultsError | None]:
    """The judgement of a study, and the files that say it or why there are none."""
    from harness.analysis.judge import judge
    from harness.errors import ResultsError
    from harness.export.trackers import log_scores
    from harness.report.csv_files import write_csv_files
    from harness.scoring.study import read_scores

    progress("reading scores")
    scores = read_scores(folder)
    judgement = judge(scores, options, lambda done, total: progress("judging", done, total))
    progress("writing files")
    files, failed = [], None
    try:
        files = write_csv_files(judgement, folder)
    except ResultsError as error:
        failed = error
    if log_to is not None:
        progress(f"logging to {log_to}")
        log_scores(scores, log_to)
    return judgement, files, failed


def as_json(judgement: Judgement, files: list[Path]) -> dict[str, Any]:
    """The judgement as JSON values; null = NA."""
    return {
        "study": judgement.study,
        "scorer": judgement.scorer,
        "leaderboard": _records(judgement.leaderboard),
        "deltas": _records(judgement.deltas),
        "scores": _records(judgement.scores),
        "sentences": dict(judgement.sentences),
        "comparisons": dict(judgement.comparison_sentences),
        "minimum_detectable_pp": {
            name: value if value == value else None
            for name, value in judgement.minimum_detectable_pp.items()
        },
        "notes": list(judgement.notes),
        "files": [str(file) for file in files],
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=6))
    return rows


class _Progress:
    """A progress bar on a terminal; nothing elsewhere, where lines would only be in the way."""

    def __init__(self, console: Console):
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, what: str, done: int = 0, total: int = 0) -> None:
        self._bar.update(self._task, description=what, completed=done, total=total or None)


def register(app: typer.Typer) -> None:
    """Add `compare` to the command line."""
    app.command(epilog=EXAMPLES)(compare)
