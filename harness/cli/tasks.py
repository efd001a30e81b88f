"""`forgeteval tasks`: what benchmarks there are, whether their data fit, prompts and grades."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harness.data.sources import SourceOverride
    from harness.types import Task

HELP = """List the benchmarks, or look closer: `show`, `check`, `prompt`, `grade`.

Examples:

    forgeteval tasks

    forgeteval tasks --tasks my_task.py show my_task
"""
DATA_SUFFIXES = ("", ".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv")

Name = Annotated[str, typer.Argument(help="A task's name, as `forgeteval tasks` lists it.")]
Rows = Annotated[
    str, typer.Argument(metavar="ROWS.jsonl", help="JSON lines; - reads standard input.")
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="File to write, else standard output.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable.")]

group = typer.Typer(
    name="tasks", help=HELP, invoke_without_command=True, rich_markup_mode="markdown"
)


@group.callback()
def list_tasks(
    context: typer.Context,
    as_json: AsJson = False,
) -> None:
    """The table of all tasks."""
    from harness import registry

    if context.invoked_subcommand is None:
        tasks = registry.all_tasks()
        if as_json:
            _print_json([_facts(task) for task in tasks])
        else:
            _print_table(tasks)


@group.command()
def show(name: Name, as_json: AsJson = False) -> None:
    """Everything about one task: source, columns, prompts, scorers, headline.

    Example: forgeteval tasks show pathvqa
    """
    from rich.console import Console

    from harness import registry

    facts = _facts(registry.task(name))
    if as_json:
        _print_json(facts)
        return
    console = Console()
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        if text not in (None, ""):
            console.print(f"[bold]{key:15}[/] ", end="")
            console.print(str(text), markup=False, highlight=False)


@group.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Tasks; all without names.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH: where a task's data lie.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with a file or folder for each task, by its name.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Check only so many samples of each task.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Load the data of tasks and verify their contract, without a model.

    Columns, unique ids, gold answers score 1 and empty ones 0, images decode, one slot an image.

    Example: forgeteval tasks check pathvqa ai2d --source pathvqa=data/pathvqa --limit 200
    """
    from harness import registry

    places = _places(source or (), data)
    chosen = [registry.task(name) for name in names] if names else list(registry.all_tasks())
    absent: list[str] = []
    if data is not None and not names:
        absent = [task.name for task in chosen if task.name not in places]
        chosen = [task for task in chosen if task.name in places]
    reports = [_checked(task, places.get(task.name), limit) for task in chosen]
    if as_json:
        _print_json([*reports, *({"task": name, "ok": None} for name in absent)])
    else:
        _print_reports(reports, absent, data)
    if any(not report["ok"] for report in reports) or not reports:
        raise typer.Exit(2)


@group.command()
def prompt(
    name: Name,
    rows: Rows,
    profile: Annotated[str, typer.Option(help="fixed or lmm_cl.")] = "fixed",
    out: Out = None,
) -> None:
    """Add to each row the prompt that a model would get.

    A row has the sample's columns under `sample` or `doc`; images are not needed. A file without
    rows is refused (exit code 2).

    Example: forgeteval tasks prompt pixmo_count rows.jsonl --profile lmm_cl
    """
    from harness import row_files

    _write(row_files.prompts(_title(rows), _read(rows), name, profile), out)


@group.command()
def grade(
    name: Name,
    rows: Rows,
    scorer: Annotated[str, typer.Option(help="strict, lenient, lmm_cl or lmms_eval.")] = "strict",
    out: Out = None,
) -> None:
    """Grade answers that were made anywhere: adds `score`, `scores` and `parsed` to each row.

    A row has the sample's columns under `sample` or `doc` (images are not needed) and a
    `response`. The rows come out in their order. A file without rows is refused (exit code 2).

    Example: forgeteval tasks grade ai2d answers.jsonl --scorer lenient -o graded.jsonl
    """
    from harness import row_files

    _write(row_files.grade(_title(rows), _read(rows), name, scorer), out)


def _title(rows: str) -> str:
    return "standard input" if rows == "-" else rows


def _read(rows: str) -> str:
    from harness.errors import DataError

    try:
        if rows == "-":
            return sys.stdin.buffer.read().decode("utf-8-sig")
        return Path(rows).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(_title(rows), f"not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise DataError(rows, str(error.strerror).lower()) from None


def _write(text: str, out: Path | None) -> None:
    from harness.errors import UserError

    if out is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(str(out), f"cannot be written: {error.strerror}") from None


def _places(sources: Iterable[str], data: Path | None) -> dict[str, SourceOverride]:
    """Task name -> where its data lie, from `--data` and `--source`."""
    from harness import registry
    from harness.data.sources import SourceOverride
    from harness.errors import UserError

    places: dict[str, SourceOverride] = {}
    if data is not None:
        if not data.is_dir():
            raise UserError(str(data), "no such folder")
        for name in registry.names():
            found = [path for end in DATA_SUFFIXES if (path := data / f"{name}{end}").exists()]
            if found:
                places[name] = SourceOverride(path=str(found[0].absolute()))
    for given in sources:
        name, equals, place = given.partition("=")
        if not equals or not place:
            raise UserError("--source", f"got {given!r}, expected NAME=PATH")
        registry.task(name)
        places[name] = SourceOverride(path=str(Path(place).absolute()))
    return places


def _checked(task: Task, place: SourceOverride | None, limit: int | None) -> dict[str, Any]:
    from harness import contract
    from harness.data import sources
    from harness.errors import UserError

    try:
        samples = sources.load(task, place, limit=limit)
        report = contract.check(task, samples)
    except UserError as error:
        where = _place(error.where, task, place)
        problems = [f"{where}{problem}" for problem in error.problems]
        return {"task": task.name, "ok": False, "n_samples": 0, "problems": problems}
    return {
        "task": task.name,
        "ok": not report.problems,
        "n_samples": report.n_samples,
        "n_groups": report.n_groups,
        "n_left_out": samples.left_out,
        "problems": [str(problem) for problem in report.problems],
    }


def _place(where: str, task: Task, place: SourceOverride | None) -> str:
    """What stands before a problem: the file as it was given, nothing for the task itself."""
    if where == task.name:
        return ""
    given = place.path if place else None
    return f"{given if given and Path(given).name == where else where}: "


def _print_reports(reports: list[dict[str, Any]], absent: list[str], data: Path | None) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    for report in reports:
        if report["ok"]:
            left = f", {report['n_left_out']:,} rows left out" if report["n_left_out"] else ""
            facts = f"{report['n_samples']:,} samples in {report['n_groups']:,} groups{left}"
            console.print(f"[green]ok[/]    {report['task']:16} {facts}")
        for problem in report["problems"]:
            console.print("[red]wrong[/]", end=" ")
            console.print(f"{report['task']:16} {problem}", markup=False)
    if absent:
        console.print(f"not in {data}: {', '.join(absent)}", markup=False)
    if not reports:
        console.print("nothing was checked", markup=False)


def _facts(task: Task) -> dict[str, Any]:
    """What is known of a task, for people and programs."""
    source = task.source
    head = task.headline
    return {
        "name": task.name,
        "title": task.title,
        "role": task.role,
        "n": task.n,
        "metric": task.metric,
        "chance": task.chance,
        "groups": task.groups,
        "source": source.hub or source.path or "local files",
        "config": source.config,
        "split": source.split,
        "revision": source.revision,
        "aliases": list(source.aliases),
        "columns": list(source.columns),
        "profiles": list(task.prompts),
        "scorers": list(task.scorers),
        "unit": head.unit,
        "combine": head.combine if head.unit else None,
        "macro": head.macro,
        "max_new_tokens": task.decoding.max_new_tokens,
        "languages": list(task.languages),
        "licence": task.licence,
        "citation": task.citation,
    }


def _print_table(tasks: Iterable[Task]) -> None:
    """Two lines a task: what is scored; where it comes from and under which licence."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    columns = "{:14.14} {:8} {:>7} {:18.18} {:10.10} {}"
    heads = columns.format("task", "role", "n", "metric", "chance", "groups")
    console.print(Text(heads, "bold"))
    console.print(Text(f"{'':14} source, licence", "dim"))
    for task in tasks:
        size = "" if task.n is None else f"{task.n:,}"
        facts = (task.name, task.role, size, task.metric, task.chance, task.groups)
        console.print(Text(columns.format(*facts).rstrip()))
        origin = f"{'':14} {task.source.hub or 'local files'}, {task.licence or 'no licence given'}"
        console.print(Text(origin, "dim"), no_wrap=True, overflow="ellipsis")


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def register(app: typer.Typer) -> None:
    """Adds the group `tasks`."""
    app.add_typer(group)
