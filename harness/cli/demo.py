"""`forgeteval demo`: train the micro study, score it and compare; `forgeteval micro build-base`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
Examples:

    forgeteval demo                                    # four strategies, one run each

    forgeteval demo --runs 3                           # three training seeds per strategy

    forgeteval demo --strategies llm,mlp_gate_up --out /tmp/pair

    forgeteval demo --strategies full --seed 7         # the vision tower trains too
"""
BASE_EXAMPLES = """
Example:

    forgeteval micro build-base --out my_base          # minutes on two cores
"""


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the study is made.")] = Path(
        "demo"
    ),
    strategies: Annotated[
        str, typer.Option(help="Comma-separated components to train.")
    ] = "llm,sa_proj,mlp,mlp_gate_up",
    runs: Annotated[int, typer.Option(min=1, help="Training runs per strategy.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first run.")] = 0,
    train_only: Annotated[bool, typer.Option(help="Stop before scoring.")] = False,
) -> None:
    """Make a small real study from nothing, score every checkpoint, and judge it.

    Trains a tiny Qwen2.5-VL on four skills in sequence, once per strategy, on the CPU. A second
    call keeps what is there.
    """
    from rich.console import Console

    console = Console()
    manifest = _make(console, out, _strategies(strategies), runs, seed)
    if train_only:
        return
    _judge(manifest)


def _make(console: object, out: Path, strategies: tuple[str, ...], runs: int, seed: int) -> Path:
    """Test sets, stages and manifest, with a line per run as it grows."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from transformers.utils import logging

    from harness.micro import study

    assert isinstance(console, Console)
    logging.disable_progress_bar()  # one bar for the study, not one per folder read
    plan = study.StudyPlan(out, strategies, runs, seed)
    counts = {True: 0, False: 0}
    columns = (TextColumn("training {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        n_stages = len(strategies) * runs * 4
        bar = progress.add_task("", total=n_stages)

        def report(name: str, there: bool) -> None:
            counts[there] += 1
            progress.update(bar, advance=1, description=name)

        new_data = study.write_data(out)
        study.train(plan, report)
        manifest = study.write_manifest(plan)
        seconds = progress.tasks[0].elapsed or 0.0
    console.print(f"test sets: {'written to' if new_data else 'already in'} {out / 'data'}")
    trained = f"{counts[False]} trained in {seconds:.0f} s" if counts[False] else "none trained"
    console.print(f"stages: {trained}, {counts[True]} reused from {out / 'checkpoints'}")
    console.print(f"manifest: {manifest}")
    return manifest


def _strategies(text: str) -> tuple[str, ...]:
    """The components named, each once and known. Raises UserError."""
    from harness import components
    from harness.errors import UserError

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError("--strategies", "got nothing, expected for example llm,mlp_gate_up")
    for name in names:
        components.parse(name)
    return names


def _judge(manifest: Path) -> None:
    """Score and compare through the commands that any study goes through."""
    from harness.cli.compare import compare
    from harness.cli.score import score

    try:
        score(manifest)
    except typer.Exit as done:
        if done.exit_code:
            raise
    compare(str(manifest))


def build_base(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the base is written.")] = Path(
        "micro_base"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights and pictures.")] = 0,
) -> None:
    """Pre-train the micro study's base from random weights, as the shipped one was made."""
    from rich.console import Console
    from rich.progress import Progress
    from transformers.utils import logging

    from harness.micro.pretrain import PretrainRecipe, accuracy, pretrain

    console = Console()
    logging.disable_progress_bar()
    with Progress(console=console, transient=True) as progress:
        recipe = PretrainRecipe(seed=seed)
        bar = progress.add_task("pre-training", total=recipe.steps)
        model, processor = pretrain(
            recipe,
            lambda done, loss: progress.update(bar, completed=done, description=f"loss {loss:.3f}"),
        )
    model.save_pretrained(out)
    processor.save_pretrained(out)
    console.print(f"base written to {out}; right answers on fresh pictures:")
    for skill, share in accuracy(model, processor).items():
        console.print(f"  {skill:10s} {100 * share:5.1f} %")


def register(app: typer.Typer) -> None:
    """Adds `demo` and the group `micro`."""
    app.command(epilog=EXAMPLES)(demo)
    micro = typer.Typer(help="The micro study's own model.", no_args_is_help=True)
    micro.command("build-base", epilog=BASE_EXAMPLES)(build_base)
    app.add_typer(micro, name="micro")
