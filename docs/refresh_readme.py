"""Writes real output into README.md: each block after `<!-- output: COMMAND -->` is what it prints.

.venv/bin/python docs/refresh_readme.py           # rewrite
.venv/bin/python docs/refresh_readme.py --check   # exit 1 when a block is out of date
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- output: (?P<command>.+?) -->\n```(?:text)?\n)(?P<body>.*?)(```)", re.S)


def output_of(command: str) -> str:
    """What a command prints in 80 columns; `| tail -n +N` and `| head -N` are understood.

    It runs on a copy of the results: commands that judge a study also write its files.
    """
    command, _, head = command.partition(" | head -")
    command, _, tail = command.partition(" | tail -n +")
    words = shlex.split(command)
    words[:1] = [sys.executable, "-m", "harness"]
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    with TemporaryDirectory() as place:
        shutil.copytree(ROOT / "results", Path(place) / "results")
        done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr}")
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    lines = lines[int(tail) - 1 :] if tail else lines
    return "\n".join(lines[: int(head)] if head else lines)


def refreshed(text: str) -> str:
    """The README with every output block made anew."""
    return BLOCK.sub(lambda m: f"{m[1]}{output_of(m['command'])}\n{m[4]}", text)


def main() -> None:
    old = README.read_text(encoding="utf-8")
    new = refreshed(old)
    if "--check" in sys.argv:
        sys.exit("README.md: its output blocks are out of date; run `make readme`" * (new != old))
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
