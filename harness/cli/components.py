"""`forgeteval components`: what a model is made of, read from the headers of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = """
Examples:

    forgeteval components models/llava-onevision

    forgeteval components models/qwen2.5-vl --component 'sa_proj[last:8]+mlp_gate_up'
"""


def components(
    model: Annotated[Path, typer.Argument(help="A checkpoint folder.", metavar="MODEL")],
    component: Annotated[
        list[str] | None,
        typer.Option(help="Also count this expression; may be given again."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable table.")] = False,
) -> None:
    """Table of a model's components: tensors, parameters and share. Loads no weights."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from harness import components as parts
    from harness.checkpoints import tensor_index

    shapes = {name: entry.shape for name, entry in tensor_index(model).items()}
    rows = parts.table(shapes)
    has_llm = any(parts.place(name).part in parts.COMPONENTS["llm"] for name in shapes)
    asked = [*(["llm"] if has_llm else []), *(component or ())]
    rows += [parts.row(expression, shapes) for expression in dict.fromkeys(asked)]
    if json_:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table("component", box=None)
    for heading in ("tensors", "parameters", "share"):
        table.add_column(heading, justify="right")
    for row in rows:
        # Escaped: rich would take the layers' brackets for its own.
        table.add_row(
            escape(row.component), f"{row.tensors:,}", f"{row.parameters:,}", f"{row.share:.1%}"
        )
    Console().print(table)


def register(app: typer.Typer) -> None:
    """Adds `components`."""
    app.command(epilog=EXAMPLES)(components)
