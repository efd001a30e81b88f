"""`forgeteval results check|prune`: is what lies in a results folder sound, and is it needed?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Results, Study

if TYPE_CHECKING:
    from harness.integrity import Finding

group = typer.Typer(help="Look after a results folder.", no_args_is_help=True)


@group.command(epilog="Example:\n\n    forgeteval results check micro --json")
def check(
    study: Study,
    results: Results = None,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable findings.")] = False,
) -> None:
    """Verify checksums, counts and signatures; tell what is missing, torn, stale or foreign.

    Exit code 0 when every cell is there and sound, 6 otherwise.
    """
    import json
    from collections import Counter

    from rich.console import Console

    from harness.errors import EXIT_FAILED
    from harness.integrity import check as look
    from harness.study_folders import study_folder

    folder = study_folder(study, results)
    findings = look(folder)
    counts = Counter(finding.kind for finding in findings)
    if json_:
        rows = [{"kind": f.kind, "file": str(f.file), "text": f.text} for f in findings]
        print(json.dumps({"counts": counts, "findings": rows}, indent=1))
    else:
        console = Console()
        _print(console, [finding for finding in findings if finding.kind != "ok"])
        summary = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        console.print(f"{folder.name}: {summary}", highlight=False)
    if counts.keys() - {"ok", "stale"}:
        raise typer.Exit(EXIT_FAILED)


@group.command(epilog="Example:\n\n    forgeteval results prune micro --yes")
def prune(
    study: Study,
    results: Results = None,
    yes: Annotated[bool, typer.Option("--yes", help="Really remove; else only show.")] = False,
) -> None:
    """Remove cells that the study no longer refers to, after showing them."""
    from rich.console import Console

    from harness.integrity import check as look
    from harness.integrity import removable
    from harness.study_folders import study_folder

    folder = study_folder(study, results)
    stale = removable(look(folder))
    console = Console()
    _print(console, stale)
    size = sum((folder / finding.file).stat().st_size for finding in stale)
    if yes:
        for finding in stale:
            (folder / finding.file).unlink()
    done = "removed" if yes else "would be removed; `--yes` removes them"
    console.print(f"{len(stale)} files, {size / 1e6:.1f} MB {done}", highlight=False)


def _print(console: object, findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    if not findings:
        return
    table = Table("what", "file", "why", box=None)
    for finding in findings:
        table.add_row(finding.kind, str(finding.file), finding.text)
    console.print(table)


def register(app: typer.Typer) -> None:
    """Adds `results`."""
    app.add_typer(group, name="results")
