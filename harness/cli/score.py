"""`forgeteval score`: answer every owed request of a study, or of a folder of checkpoints."""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from harness.cli.options import Results
from harness.types import KINDS

if TYPE_CHECKING:
    from rich.console import Console

    from harness.executors import Workers as Crew
    from harness.run import Outcome
    from harness.study import OpenStudy

EXAMPLES = """
Examples:

    forgeteval score                                   # ./checkpoints.yaml

    forgeteval score study.yaml --only sa_proj@2

    forgeteval score demo/checkpoints/llm/4_clock      # one folder, default suite

    forgeteval score checkpoints --base models/llava-onevision      # stages found by name

    forgeteval score ft --base models/qwen --pattern '{strategy}/step{stage}-{trained_on}'

    forgeteval score study.yaml --dry-run --workers 8      # how long, and how well shared

    forgeteval score study.yaml --workers 4      # four GPUs of this machine

    forgeteval score study.yaml --executor ray --address auto --workers 32

    forgeteval score study.yaml --probe --choices      # and why scores fell
"""


class _ProbeForm(TyperCommand):
    """`--probe` alone means `--probe forced`: most people want no other form."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given: list[str] = []
        for place, arg in enumerate(args):
            given.append(arg)
            if arg == "--probe" and not set(args[place + 1 : place + 2]) & {*KINDS}:
                given.append("forced")
        return super().parse_args(ctx, given)


Target = Annotated[
    Path,
    typer.Argument(metavar="MANIFEST|DIR", help="A manifest, a checkpoint, or a folder of such."),
]
Engine = Annotated[str | None, typer.Option(help="hf or vllm; else the manifest's.")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="At most so many samples per task (by group).")
]
Only = Annotated[list[str] | None, typer.Option(help="STRATEGY[@STAGE]; may be given again.")]
Suite = Annotated[Path | None, typer.Option(help="For a folder: the manifest with the suite.")]
Base = Annotated[
    Path | None,
    typer.Option(metavar="MODEL", help="For a folder of stages: the model that was tuned."),
]
Pattern = Annotated[
    str | None,
    typer.Option(
        metavar="GLOB",
        help="For a folder of stages: their names, with {strategy}, {run}, {stage}, "
        "{trained_on}; `*` is anything.",
    ),
]
Verify = Annotated[bool, typer.Option(help="Read all weights again.")]
RetryFailed = Annotated[bool, typer.Option(help="Ask failed samples again.")]
RepeatBase = Annotated[
    bool, typer.Option(help="Score the base once more at the end: the noise floor.")
]
Probe = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[FORM]",
        help="Read distributions too: forced (on the base's answers) unless free-running "
        "(the reference study's form) is said; both may be given.",
    ),
]
ProbeSamples = Annotated[
    int | None, typer.Option(min=1, help="Samples per task that a probe reads; else 64.")
]
Choices = Annotated[
    bool, typer.Option(help="Score the likelihood of options too, where questions have some.")
]
CheckAgainst = Annotated[
    str | None,
    typer.Option(metavar="ENGINE", help="Score with this engine too; list answers that differ."),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Engines at once, each on its own GPU(s) or share of the cores."),
]
Executor = Annotated[
    Literal["local", "ray"],
    typer.Option(help="Workers on this machine, or the actors of a Ray cluster."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Of the Ray cluster: auto, HOST:PORT or ray://HOST:10001; else one of our own.",
    ),
]
DryRun = Annotated[bool, typer.Option(help="Print the plan and stop.")]
Progress = Annotated[
    Literal["auto", "plain", "jsonl", "quiet"],
    typer.Option(help="A bar on a terminal and lines elsewhere, or as asked."),
]
Quiet = Annotated[bool, typer.Option(help="No progress and no tables.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable outcome.")]


def score(
    manifest: Target = Path("checkpoints.yaml"),
    results: Results = None,
    engine: Engine = None,
    limit: Limit = None,
    only: Only = None,
    suite: Suite = None,
    base: Base = None,
    pattern: Pattern = None,
    verify: Verify = False,
    retry_failed: RetryFailed = False,
    repeat_base: RepeatBase = False,
    probe: Probe = None,
    probe_samples: ProbeSamples = None,
    choices: Choices = False,
    check_against: CheckAgainst = None,
    workers: Workers = None,
    executor: Executor = "local",
    address: Address = None,
    dry_run: DryRun = False,
    progress: Progress = "auto",
    quiet: Quiet = False,
    json_: Json = False,
) -> None:
    """Score a study: every checkpoint on every benchmark, on one live engine or on several."""
    from rich.console import Console

    from harness import executors, study
    from harness.diagnostics import kinds_of
    from harness.errors import EXIT_FAILED, EXIT_OK
    from harness.report.plan_tables import print_plan

    # SIGTERM (a scheduler's stop) ends a sweep as cleanly as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=json_, quiet=quiet)
    options = study.Options(
        results, suite, engine, limit, tuple(only or ()), verify, retry_failed, repeat_base,
        base, pattern, kinds_of(probe or (), choices, probe_samples),
        probe_samples,
    )  # fmt: skip
    crew = executors.Workers(executor, workers, address)
    crew.check()
    opened = study.open_study(manifest, options)
    if dry_run:
        print_plan(console, opened, crew, as_json=json_)
        raise typer.Exit(EXIT_FAILED if opened.plan.failures else EXIT_OK)
    shown = _Shown(console, "quiet" if quiet else progress, json_)
    outcome = _sweep(opened, crew, shown)
    if check_against and not outcome.exit_code:
        other = study.open_study(manifest, replace(options, engine=check_against, diagnostics=()))
        outcome = _sweep_again(opened, other, crew, shown)
    raise typer.Exit(outcome.exit_code)


@dataclass(frozen=True, slots=True)
class _Shown:
    """Where a sweep's progress and outcome go, and in which form."""

    console: Console
    progress: str
    as_json: bool


def _sweep(opened: OpenStudy, crew: Crew, shown: _Shown) -> Outcome:
    """Scores what is owed, and prints what was done."""
    from harness import study
    from harness.report.live import watching
    from harness.report.plan_tables import print_outcome

    with watching(shown.console, shown.progress) as watch:
        outcome = study.score(opened, watch, workers=crew)
    print_outcome(shown.console, opened, outcome, as_json=shown.as_json)
    return outcome


def _sweep_again(first: OpenStudy, second: OpenStudy, crew: Crew, shown: _Shown) -> Outcome:
    """Scores with a second engine, off the record, and prints which answers differ."""
    from harness import study
    from harness.agreement import disagreements
    from harness.report.live import watching
    from harness.report.plan_tables import print_agreement

    with watching(shown.console, shown.progress) as watch:
        outcome = study.score(second, watch, record=False, workers=crew)
    print_agreement(shown.console, disagreements(first, second), as_json=shown.as_json)
    return outcome


def register(app: typer.Typer) -> None:
    """Adds `score`."""
    app.command(epilog=EXAMPLES, cls=_ProbeForm)(score)
