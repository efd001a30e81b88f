"""`forgeteval convert`: checkpoints of the LLaVA repository into the transformers format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
Example:

    forgeteval convert ckpt/exp_sa-trained_on_cub200/checkpoint-360
      --base models/llava-onevision-hf --out ckpt/hf/sa/1_cub200

Convert the authors' own base as well and audit against that: a copy from the hub may be of another
type (F16), which counts as a change of its own.
"""


def convert(
    stage: Annotated[Path, typer.Argument(help="Folder in the LLaVA repository's format.")],
    base: Annotated[Path, typer.Option(help="The base in transformers format.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Convert once, and say what differs from the base: that is what was trained."""
    from rich.console import Console

    from harness.audit import component_moves
    from harness.weights.convert import convert as convert_stage

    console = Console()
    done = convert_stage(stage, base, out)
    moved = [m for m in component_moves(done.parity) if m.tensors_moved]
    parts = ", ".join(f"{m.component} ({m.tensors_moved} of {m.tensors} tensors)" for m in moved)
    broken = done.parity.not_finite
    warnings = []
    if broken:
        more = f" and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        # Converted all the same: the bytes are the stage's, and this is what they are.
        warnings.append(
            f"warning: {broken[0]}{more} of {stage} hold NaN or Inf; the training diverged or a "
            "save was torn, and its answers mean nothing: convert an earlier checkpoint"
        )
    console.print(
        f"{out}: {done.tensors} tensors, {done.rows_from_base} token rows from the base",
        f"differs from the base in: {parts or 'nothing'}",
        *warnings,
        sep="\n",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    """Adds `convert`."""
    app.command(epilog=EXAMPLES)(convert)
