"""Options that several commands share: the same name, the same meaning, said in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Study = Annotated[
    str, typer.Argument(metavar="MANIFEST|STUDY", help="A manifest, or a study's folder or name.")
]
Results = Annotated[
    Path | None, typer.Option(help="Folder of all studies; else the manifest's, or `results`.")
]
Scorer = Annotated[
    str,
    typer.Option(
        help="Scorer to judge by. [default: strict; logged for imported logs]", show_default=False
    ),
]
Baseline = Annotated[str | None, typer.Option(help="Strategy that the others are compared with.")]
Level = Annotated[float, typer.Option(help="Confidence of intervals and verdicts.")]
Margin = Annotated[float, typer.Option(help="Points that may be lost.")]
MaxDropped = Annotated[
    float, typer.Option(help="Share of samples that may lack a score on one side.")
]
Common = Annotated[
    bool,
    typer.Option("--common", help="Missing cells: use the benchmarks that all stages have."),
]
Dip = Annotated[
    str | None,
    typer.Option(
        help="Stage after which recovery is measured, declared beforehand. "
        "[default: the lowest, which inflates recovery]"
    ),
]
Tracker = Annotated[
    Literal["wandb", "mlflow", "trackio"] | None,
    typer.Option(help="Log every stage's scores through this library, if it is installed."),
]
