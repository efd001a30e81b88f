"""`forgeteval tune`: narrow retraining, one component at a time, one skill after another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from harness.tune.sequence import SequencePlan

EXAMPLES = """
Examples:

    forgeteval tune --base models/qwen --component sa_proj --data task:pathvqa --out ft

    forgeteval tune --base models/qwen --component sa_proj --component mlp_gate_up
      --sequence cub200,pixmo_count,pathvqa --data 'train/{name}.parquet' --out ft

    forgeteval tune --base models/qwen --component mlp --lora-rank 256
      --sequence cub200,pixmo_count --out ft --seed 1

Then `forgeteval score ft/checkpoints.yaml`.
"""


Base = Annotated[Path, typer.Option(help="Checkpoint to start from: folder or hub id.")]
Component = Annotated[list[str], typer.Option(help="What trains; given again, another strategy.")]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Where the stages go.")]
Sequence = Annotated[
    str | None,
    typer.Option(help="Skills in order: comma-separated task names. Default: the data's."),
]
Data = Annotated[str, typer.Option(help="task:{name}, or a file; {name} stands for the skill.")]
Suite = Annotated[Path | None, typer.Option(help="Manifest whose suite the stages are scored on.")]
Split = Annotated[str, typer.Option(help="Split of the training rows.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Training samples per skill.")]
LearningRate = Annotated[
    float | None,
    # The name stands in the text too: a table of 80 columns cuts it.
    typer.Option(help="Peak; default 5e-6, with LoRA 5e-5. Scales --vision-learning-rate too."),
]
VisionLearningRate = Annotated[
    float | None,
    typer.Option(
        help="The vision tower's peak. Default: 2e-6 times what --learning-rate is of its default."
    ),
]
Epochs = Annotated[float, typer.Option(help="Passes over each skill's data.")]
MaxSteps = Annotated[int | None, typer.Option(min=1, help="Instead of epochs.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples per step.")]
MicroBatch = Annotated[
    int | None, typer.Option(min=1, help="Samples per forward pass; less memory.")
]
Seed = Annotated[int, typer.Option(min=0, help="Each seed is a run of its own.")]
GradientCheckpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Less memory, slower.")
]
LoraRank = Annotated[
    int | None, typer.Option(min=1, help="LoRA adapters on the component instead.")
]
LwF = Annotated[
    float | None, typer.Option(help="Learning without Forgetting: weight of distillation.")
]
SaveEvery = Annotated[int | None, typer.Option(min=1, help="Steps between states to resume from.")]


def tune(
    base: Base,
    component: Component,
    out: Out,
    sequence: Sequence = None,
    data: Data = "task:{name}",
    suite: Suite = None,
    split: Split = "train",
    limit: Limit = None,
    learning_rate: LearningRate = None,
    vision_learning_rate: VisionLearningRate = None,
    epochs: Epochs = 1.0,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = 16,
    micro_batch: MicroBatch = None,
    seed: Seed = 0,
    gradient_checkpointing: GradientCheckpointing = False,
    lora_rank: LoraRank = None,
    lwf: LwF = None,
    save_every: SaveEvery = None,
) -> None:
    """Train one component on one skill after another; everything else stays bit for bit.

    Leaves a folder per stage and a checkpoints.yaml that `forgeteval score` takes as it is.
    Stages that are there already are kept.
    """
    from rich.console import Console

    from harness.tune.recipe import Distillation, Lora, Recipe, learning_rates
    from harness.tune.sequence import SequencePlan, located

    rate, vision_rate = learning_rates(
        learning_rate, vision_learning_rate, lora=lora_rank is not None
    )
    recipe = Recipe(
        learning_rate=rate,
        vision_learning_rate=vision_rate,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        micro_batch=micro_batch,
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
        lora=Lora(rank=lora_rank) if lora_rank else None,
        # A 0 is not "none": it is checked like every number given.
        distillation=None if lwf is None else Distillation(weight=lwf),
        save_every=save_every,
    )
    skills = _skills(sequence, data)
    folder, hub = located(base)
    plan = SequencePlan(
        folder,
        tuple(dict.fromkeys(component)),
        skills,
        data,
        out,
        recipe,
        suite=suite,
        split=split,
        limit=limit,
        hub=hub,
    )
    _train(Console(), plan)


def _skills(sequence: str | None, data: str) -> tuple[str, ...]:
    """The skills named, or the one that the data names. Raises UserError."""
    from harness.errors import UserError

    if sequence is not None:
        skills = tuple(name.strip() for name in sequence.split(",") if name.strip())
        if not skills:
            raise UserError(
                "--sequence",
                f"got {sequence!r}, expected names of tasks; for example pathvqa,cub200",
            )
        return skills
    if "{name}" in data:
        raise UserError("--sequence", f"is needed with --data {data}; for example pathvqa,cub200")
    return (data.removeprefix("task:") if data.startswith("task:") else Path(data).stem,)


def _train(console: Console, plan: SequencePlan) -> None:
    """Runs the sequence under a progress bar; a line per stage says what it cost."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from harness.tune.recipe import StageRecord
    from harness.tune.sequence import run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        bar = bars.add_task("loading", total=None)

        def step(done: int, total: int, loss: float | None) -> None:
            shown = "training" if loss is None else f"training, loss {loss:.3f}"
            bars.update(bar, completed=done, total=total, description=shown)

        def stage(folder: str, record: StageRecord) -> None:
            bars.print(
                f"{folder}: {record.trainable_share:.2%} of the parameters, {record.steps} steps,"
                f" loss {record.loss:.3f}, {record.train_seconds:.0f} s,"
                f" {record.peak_memory_gb:.1f} GB",
                markup=False,
                highlight=False,
            )

        manifest = run(plan, stage, step)
    console.print(f"manifest: {manifest}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"next: forgeteval score {manifest}", markup=False, highlight=False, soft_wrap=True
    )


def register(app: typer.Typer) -> None:
    """Adds `tune`."""
    app.command(epilog=EXAMPLES)(tune)
