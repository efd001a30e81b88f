"""`forgeteval audit`: what checkpoints really changed, against what their strategies declare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from harness.audit import Audited, Report

EXAMPLES = """
Examples:

    forgeteval audit                                   # ./checkpoints.yaml

    forgeteval audit study.yaml --csv audit.csv

    forgeteval audit models/base ckpt/1_count --component mlp_gate_up

    forgeteval audit before.safetensors after.safetensors
"""


def audit(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST|A",
            help="A manifest, or a checkpoint: a folder or a safetensors file.",
        ),
    ] = Path("checkpoints.yaml"),
    later: Annotated[
        Path | None, typer.Argument(metavar="[B]", help="The checkpoint that came of A.")
    ] = None,
    component: Annotated[
        str | None, typer.Option(help="For two folders: the component that B says it tuned.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Everything, machine-readable.")] = False,
) -> None:
    """Compare each stage's weights with the base and the stage before it.

    Exit code 4 when a stage changed what it does not declare, changed nothing, is broken, or is an
    adapter of a kind that cannot be read from its factors. A study's audit is kept beside its
    results, where the report and the leaderboard find it.
    """
    import json

    from rich.console import Console

    from harness import audit as audits
    from harness.errors import EXIT_INCOMPATIBLE

    console = Console(stderr=json_)
    if later is not None:
        with _watched(console) as report:
            found: Sequence[Audited] = [audits.audit_pair(target, later, component, report)]
    else:
        found = _study(console, target, results)
    if csv is not None:
        csv.write_text(audits.csv_text(found), encoding="utf-8")
    if json_:
        print(json.dumps(audits.record(found), indent=1))
    else:
        _print(console, found)
    if not all(stage.passes for stage in found):
        raise typer.Exit(EXIT_INCOMPATIBLE)


def _study(console: Console, target: Path, results: Path | None) -> Sequence[Audited]:
    """Audits a manifest's stages and keeps the outcome in the study's folder."""
    import json

    from harness import audit as audits
    from harness.errors import UserError
    from harness.manifest import read_manifest
    from harness.resolver import base_folder
    from harness.storage.result_files import write_atomically
    from harness.study_folders import results_of

    if target.is_dir():
        raise UserError(
            str(target), "is a folder; give a manifest, or two checkpoint folders A and B"
        )
    if target.suffix not in (".yaml", ".yml"):
        raise UserError(
            str(target),
            "is no manifest; where a study's weights lie stands only in the manifest"
            " it was scored from: give that file",
        )
    manifest, folder = read_manifest(target), target.absolute().parent
    base = base_folder(manifest.base, folder)
    with _watched(console) as report:
        found = list(audits.audit_study(manifest, folder, base, report))
    study = results_of(manifest, folder, results)
    write_atomically(study / "audit.csv", audits.csv_text(found).encode())
    text = json.dumps(audits.record(found), indent=1, sort_keys=True)
    write_atomically(study / "audit.json", text.encode() + b"\n")
    return found


@contextmanager
def _watched(console: Console) -> Iterator[Report]:
    """Says what is compared, and how much of it is done, while a long audit goes on."""
    from rich.markup import escape

    with console.status("reading weights") as status:

        def report(what: str, done: int, total: int) -> None:
            status.update(f"{escape(what)}: {done / 1e9:.1f} of {total / 1e9:.1f} GB compared")

        yield report


def _print(console: Console, found: Sequence[Audited]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from harness.audit import component_moves
    from harness.checkpoints import printable

    table = Table("stage", "against", "moved", box=None)
    for heading in ("tensors", "rel. norm", "largest"):
        table.add_column(heading, justify="right")
    table.add_column("layers")
    for stage in found:
        label = f"{stage.strategy}@{stage.stage}" if stage.strategy else stage.name
        for against, difference in stage.differences:
            for moved in component_moves(difference):
                if moved.tensors_moved:
                    table.add_row(
                        escape(label),
                        against,
                        moved.component,
                        f"{moved.tensors_moved}/{moved.tensors}",
                        _number(moved.relative_norm),
                        _number(moved.largest),
                        " ".join(str(layer) for layer, _ in moved.largest_layers),
                    )
    if table.row_count:
        console.print(table)
    for stage in found:
        label = f"{stage.strategy} run {stage.run} stage {stage.stage}: " if stage.strategy else ""
        word = stage.status.upper() if not stage.passes else stage.status
        declared = f" (declared {stage.declared})" if stage.declared else ""
        style = None if stage.passes else "red"
        text = f"{label}{printable(stage.name)}: {word}{declared}"
        console.print(text, style=style, markup=False, highlight=False)
        for line in stage.problems:
            console.print(f"  {line}", style=style, markup=False, highlight=False)
        for line in stage.notes:
            console.print(f"  note: {line}", markup=False, highlight=False)


def _number(value: float | None) -> str:
    return "NA" if value is None else f"{value:.3g}"


def register(app: typer.Typer) -> None:
    """Adds `audit`."""
    app.command(epilog=EXAMPLES)(audit)
