"""`forgeteval import`: other people's graded answers become a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

EXAMPLES = """
Examples:

    forgeteval import scores.csv --study mine

    forgeteval import runs.parquet --study mine --base-model llava-ov-7b --replace
"""


def import_file(
    file: Annotated[Path, typer.Argument(help="Scores as .jsonl, .csv or .parquet.")],
    study: Annotated[str, typer.Option(help="Name of the study to make.")],
    results: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("results"),
    base_model: Annotated[
        str, typer.Option(help="Name of the base model, shown in the leaderboard.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an imported study of that name.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print facts as JSON.")] = False,
) -> None:
    """Bring your own scores: one row per graded answer.

    Columns: strategy, stage (a whole number, 0 = the base), benchmark, sample_id, score (a
    fraction in [0, 1]; empty = the answer failed). Optional: run, stage_name, trained_on, role
    (target, held_out, probe), group (the image that samples share), question, response, gold,
    scorer. Rows of the base have the strategy `base`, or each strategy has its own stage 0.
    """
    from harness.interop.score_files import import_scores

    done = import_scores(file, study, results, base_model=base_model, replace=replace)
    if json_:
        facts = {
            "study": done.study,
            "folder": str(done.folder),
            "n_rows": done.n_rows,
            "n_failed": done.n_failed,
            "strategies": done.strategies,
            "benchmarks": dict(done.benchmarks),
            "scorers": done.scorers,
            "ignored_columns": done.ignored,
        }
        typer.echo(json.dumps(facts, ensure_ascii=False))
        return
    console = Console()
    console.print(
        f"[bold]{escape(done.study)}[/]: {done.n_rows:,} rows in {escape(str(done.folder))}"
    )
    console.print(f"strategies: {escape(', '.join(done.strategies) or 'only the base')}")
    by_role = {
        role: [name for name, its in done.benchmarks.items() if its == role]
        for role in ("target", "held_out", "probe")
    }
    for role, names in by_role.items():
        if names:
            console.print(f"{role}: {escape(', '.join(names))}")
    if done.n_failed:
        console.print(f"[yellow]{done.n_failed:,} rows have no score: counted as failed answers[/]")
    if done.ignored:
        console.print(f"columns left aside: {escape(', '.join(done.ignored))}")


def register(app: typer.Typer) -> None:
    """Add `import` to the command line."""
    app.command("import", epilog=EXAMPLES)(import_file)
