"""Standard output that goes away or is full: the work is done, the exit code keeps its meaning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A command that says more than a pipe holds and ends with a verdict.
COMMAND = """
import sys, typer
from rich.console import Console
import harness.cli
def command(words):
    print("a" * 100_000)
    Console().print("b\\n" * 1000, highlight=False)
    typer.echo("c" * 100_000)
    print("done", file=sys.stderr)
    sys.exit({code})
harness.cli.app = command
harness.cli.main()
"""


def run(*arguments: str, stdout: int, **options: object) -> tuple[int, str]:
    """Exit code and standard error of Python with these arguments."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=60, **options,  # type: ignore[call-overload]
    )  # fmt: skip
    return done.returncode, done.stderr


def gone() -> int:
    """A pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("flags", [[], ["-u"]])
@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_reader_that_goes_away_leaves_the_exit_code(flags: list[str], code: int) -> None:
    writer = gone()
    assert run(*flags, "-c", COMMAND.format(code=code), stdout=writer) == (code, "done\n")
    os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(("code", "expected"), [(0, 2), (1, 1), (3, 3)])
def test_a_full_disk_is_said_once_when_the_work_is_done(code: int, expected: int) -> None:
    with Path("/dev/full").open("w") as full:
        told = run("-c", COMMAND.format(code=code), stdout=full.fileno())
    assert told == (expected, "done\nerror: standard output: No space left on device\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["tasks"], ["tasks", "--json"], ["--version"]])
def test_commands_on_a_full_disk(command: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        told = run("-m", "harness", *command, stdout=full.fileno())
    assert told == (2, "error: standard output: No space left on device\n")


def test_a_closed_output_is_no_error() -> None:
    shell = f"{sys.executable} -m harness tasks --json >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], cwd=ROOT, timeout=60).returncode == 0
