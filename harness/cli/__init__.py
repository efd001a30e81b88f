"""The command line. Commands parse, call one function of the package, and print; no more.

Each command group is a module with `register(app)`; heavy imports stay inside command bodies so
that `--help` and a run with nothing to do are quick.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from rich.console import Console

from harness import __version__
from harness.cli import (
    audit,
    compare,
    components,
    convert,
    demo,
    doctor,
    drift,
    export,
    gate,
    importing,
    leaderboard,
    report,
    results,
    score,
    streams,
    tasks,
    tune,
)
from harness.errors import EXIT_INTERNAL, EXIT_OK, EXIT_USAGE, UserError

app = typer.Typer(
    name="forgeteval",
    help="Score every checkpoint of a fine-tuning run; say what was learned and forgotten.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 90},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"forgeteval {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    task_files: list[Path] = typer.Option(
        [],
        "--tasks",
        metavar="FILE",
        help="Python file with tasks of your own; may be given again.",
    ),
    version: bool = typer.Option(
        False, "--version", help="Print the version and stop.", callback=_version, is_eager=True
    ),
) -> None:
    if task_files:
        from harness import registry

        for file in task_files:
            registry.register_file(file)


for group in (
    demo, score, compare, gate, leaderboard, report, importing, export, tasks, audit, components,
    tune, convert, drift, results, doctor,
):  # fmt: skip
    group.register(app)


def main() -> None:
    """The `forgeteval` command: errors become one message and an exit code, never a traceback."""
    streams.guard()
    try:
        _run(sys.argv[1:])
        code: object = EXIT_OK
    except SystemExit as done:
        code = done.code
    if reason := streams.failure():
        _say(f"error: standard output: {reason}")
        code = code or EXIT_USAGE
    raise SystemExit(code)


def _run(words: list[str]) -> None:
    try:
        app(_tasks_first(words))
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(error.code)
    except Exception as error:  # the boundary: whatever is left is our fault, and says so
        _internal(error)


def _say(text: str) -> None:
    Console(stderr=True).print(text, style="red", markup=False, highlight=False)


def _tasks_first(words: list[str]) -> list[str]:
    """`--tasks FILE` concerns every command, so it may stand anywhere on the line.

    >>> _tasks_first(["score", "a.yaml", "--tasks", "my_task.py"])
    ['--tasks', 'my_task.py', 'score', 'a.yaml']
    """
    front, rest = [], list(words)
    while "--tasks" in rest[:-1]:
        at = rest.index("--tasks")
        front += rest[at : at + 2]
        del rest[at : at + 2]
    return front + rest


def _internal(error: Exception) -> None:
    import os
    import tempfile
    import traceback

    if os.environ.get("FORGETEVAL_TRACEBACK"):
        raise error
    with tempfile.NamedTemporaryFile(
        "w", prefix="forgeteval-", suffix=".log", delete=False
    ) as file:
        traceback.print_exception(error, file=file)
    text = f"internal error: {type(error).__name__}: {error}\nPlease report it with {file.name}"
    _say(text)
    sys.exit(EXIT_INTERNAL)
