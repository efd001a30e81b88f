"""Faults against a sweep, as a table: what struck, how often, and what was left.

    .venv/bin/python benchmarks/faults.py --kills 200

Nine kinds of faults on a study of 4 checkpoints x 2 tasks x 400 questions with an engine that
needs no torch (`tests/faults.py`). Exit code 1 if a byte was lost or an answer asked again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

SCRIPT = Path(__file__).parent.parent / "tests" / "faults.py"


def main() -> None:
    """Runs every scenario and prints one row each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200, help="How often kill -9 strikes.")
    arguments = parser.parse_args()
    began = time.monotonic()
    command = [sys.executable, str(SCRIPT), "--kills", str(arguments.kills)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    table = Table("fault", "times", "outcome", "what happened", box=None)
    for line in done.stdout.splitlines():
        row = json.loads(line)
        table.add_row(row["fault"], str(row["n"]), "good" if row["ok"] else "BAD", row["text"])
    console = Console()
    console.print(table)
    console.print(f"{time.monotonic() - began:.0f} s", highlight=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
