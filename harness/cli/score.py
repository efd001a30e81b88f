"""`forgeteval score`: answer every owed request of a study, or of a folder of checkpoints."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from harness.types import KINDS

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


def score(
    manifest: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST|DIR", help="A manifest, a checkpoint, or a folder of such."
        ),
    ] = Path("checkpoints.yaml"),
    results: Annotated[Path | None, typer.Option(help="Results folder.")] = None,
    engine: Annotated[str | None, typer.Option(help="hf or vllm; else the manifest's.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many samples per task (by group).")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="STRATEGY[@STAGE]; may be given again.")
    ] = None,
    suite: Annotated[
        Path | None, typer.Option(help="For a folder: the manifest with the suite.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="For a folder of stages: the model that was tuned."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            metavar="GLOB",
            help="For a folder of stages: their names, with {strategy}, {run}, {stage}, "
            "{trained_on}; `*` is anything.",
        ),
    ] = None,
    verify: Annotated[bool, typer.Option(help="Read all weights again.")] = False,
    retry_failed: Annotated[bool, typer.Option(help="Ask failed samples again.")] = False,
    repeat_base: Annotated[
        bool, typer.Option(help="Score the base once more at the end: the noise floor.")
    ] = False,
    probe: Probe = None,
    probe_samples: ProbeSamples = None,
    choices: Choices = False,
    check_against: CheckAgainst = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Engines at once, each on its own GPU(s) or share of the cores."),
    ] = None,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Workers on this machine, or the actors of a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of the Ray cluster: auto, HOST:PORT or ray://HOST:10001; else one of our own.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the plan and stop.")] = False,
    progress: Annotated[
        Literal["auto", "plain", "jsonl", "quiet"],
        typer.Option(help="A bar on a terminal and lines elsewhere, or as asked."),
    ] = "auto",
    quiet: Annotated[bool, typer.Option(help="No progress and no tables.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable outcome.")] = False,
) -> None:
    """Score a study: every checkpoint on every benchmark, on one live engine or on several."""
    from rich.console import Console

    from harness import study
    from harness.agreement import disagreements
    from harness.beside import kinds_of
    from harness.executors import Workers
    from harness.report.live import watching
    from harness.report.plan_tables import print_agreement, print_outcome, print_plan

    # SIGTERM (a scheduler's stop) ends a sweep as cleanly as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=json_, quiet=quiet)
    options = study.Options(
        results, suite, engine, limit, tuple(only or ()), verify, retry_failed, repeat_base,
        base, pattern, kinds_of(probe or (), choices, probe_samples),
        probe_samples,
    )  # fmt: skip
    crew = Workers(executor, workers, address)
    crew.check()
    opened = study.open_study(manifest, options)
    if dry_run:
        print_plan(console, opened, crew, as_json=json_)
        return
    with watching(console, "quiet" if quiet else progress) as watch:
        outcome = study.score(opened, watch, workers=crew)
    print_outcome(console, opened, outcome, as_json=json_)
    if check_against and not outcome.exit_code:
        other = study.open_study(manifest, replace(options, engine=check_against, beside=()))
        with watching(console, "quiet" if quiet else progress) as watch:
            outcome = study.score(other, watch, record=False, workers=crew)
        print_agreement(console, disagreements(opened, other), as_json=json_)
    raise typer.Exit(outcome.exit_code)


def register(app: typer.Typer) -> None:
    """Adds `score`."""
    app.command(epilog=EXAMPLES, cls=_ProbeForm)(score)
