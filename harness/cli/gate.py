"""`forgeteval gate`: may this checkpoint ship?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Level, MaxDropped, Results, Scorer, Study

if TYPE_CHECKING:
    from harness.gate import GateResult

EXAMPLES = """
Examples:

    forgeteval gate mine --candidate llm@2 --margin 1 --junit gate.xml

    forgeteval gate mine --candidate lora --baseline full@1 --policy gate.yaml

A policy file, all keys optional, numbers in points:

    margin: 1.0

    margins: {docvqa: 0.5}

    required: [docvqa, chartqa]

    minimum_learning: {cub200: 10}

    inconclusive: warn
"""


def gate(
    study: Study,
    candidate: Annotated[
        str,
        typer.Option(
            help="Checkpoint to judge: NAME[/RUN][@STAGE], stage by number or name, else the last; "
            "without a run all runs of the strategy."
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(help="Checkpoint to compare with, named likewise; default: the base."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="Points a benchmark may lose. [default: 1.0]")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Any proven loss is a regression, however small.")
    ] = False,
    inconclusive: Annotated[
        str | None,
        typer.Option(help="What an undecided benchmark does: fail, warn, pass. [default: fail]"),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            help="YAML: margin, margins, required, minimum_learning, strict, inconclusive."
        ),
    ] = None,
    scorer: Scorer = "",
    level: Level = 0.95,
    max_dropped: MaxDropped = 0.05,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Write Markdown here.")] = None,
    results: Results = None,
) -> None:
    """Judge a checkpoint against a baseline: one verdict per benchmark, worst first.

    Exit codes: 0 pass, 1 regression, 2 usage or configuration, 3 inconclusive or not measured,
    4 not comparable, 5 internal error. A benchmark without scores is never a pass, whatever
    `--inconclusive` says. Under GitHub Actions the summary is also appended to the job's, and
    annotations are printed.
    """
    from harness.analysis.options import JudgeOptions
    from harness.gate import judge_gate
    from harness.pairing import pair_stages
    from harness.policy import check_policy, choose_policy
    from harness.scoring.study import read_scores
    from harness.study_folders import study_folder

    options = JudgeOptions(scorer=scorer, level=level, max_dropped=max_dropped)
    rules = choose_policy(policy, margin=margin, strict=strict or None, inconclusive=inconclusive)
    scores = read_scores(study_folder(study, results))
    check_policy(rules, scores, str(policy or "options"))
    result = judge_gate(scores, pair_stages(scores, candidate, baseline), rules, options)
    _write_files(result, junit, summary)
    _print(result, as_json=json_)
    raise typer.Exit(result.exit_code)


def _write_files(result: GateResult, junit: Path | None, summary: Path | None) -> None:
    """JUnit and Markdown where asked, and the job summary where GitHub wants it."""
    import os

    from harness.errors import ResultsError
    from harness.report import ci
    from harness.storage.result_files import write_atomically

    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    try:
        if junit is not None:
            write_atomically(junit, ci.junit(result).encode())
        if summary is not None and (
            not step_summary or summary.resolve() != Path(step_summary).resolve()
        ):
            write_atomically(summary, ci.markdown(result).encode())
        if step_summary:
            ci.append_summary(result, Path(step_summary))
    except OSError as error:
        raise ResultsError(
            str(error.filename or ""), f"cannot be written: {error.strerror}"
        ) from error


def _print(result: GateResult, *, as_json: bool) -> None:
    """The result for people or programs; annotations go where they disturb neither."""
    import os

    from harness.report import ci

    if as_json:
        typer.echo(json.dumps(result.as_dict(), ensure_ascii=True, allow_nan=False))
    else:
        from rich.console import Console

        console = Console()
        for text, style in ci.terminal_lines(result):
            console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in ci.annotation_lines(result):
            typer.echo(line, err=as_json)


def register(app: typer.Typer) -> None:
    """Add `gate` to the command line."""
    app.command(epilog=EXAMPLES)(gate)
