"""The step of `action.yml` that judges: import if asked, gate, report; the gate's exit code.

Everything comes from the environment (`INPUT_*`, `OUTPUT_FOLDER`), as GitHub hands it over. Only
the standard library is used here; the work is done by the `forgeteval` command.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

OUTCOMES = {0: "pass", 1: "regression", 3: "inconclusive"}
FORGETEVAL = (sys.executable, "-m", "harness")
OPTIONAL = ("baseline", "margin", "policy", "inconclusive", "scorer", "results")


def main() -> int:
    """Runs the step; returns the exit code of the job's verdict."""
    given = {
        name.removeprefix("INPUT_").lower(): value.strip()
        for name, value in os.environ.items()
        if name.startswith("INPUT_") and value.strip()
    }
    missing = [name for name in ("study", "candidate") if name not in given]
    if missing:
        print(f"::error::forgeteval: input {' and '.join(missing)} is required")
        return _finish({"outcome": "error", "exit-code": "2"}, 2)
    folder = Path(os.environ.get("OUTPUT_FOLDER") or "forgeteval-gate")
    folder.mkdir(parents=True, exist_ok=True)
    if "scores" in given:
        code = _run(import_command(given))
        if code:
            return _finish({"outcome": "error", "exit-code": str(code)}, code)
    junit = folder / "gate.xml"
    code = _run(gate_command(given, junit))
    outputs = {"outcome": OUTCOMES.get(code, "error"), "exit-code": str(code)}
    outputs["junit"] = str(junit) if junit.exists() else ""
    report = folder / "report.html"
    # A report is most wanted when the gate is shut; that it fails must not change the verdict.
    if given.get("report", "true").lower() != "false" and code in OUTCOMES:
        if _run(report_command(given, report)):
            print("::warning::forgeteval: the report could not be written; the verdict stands")
        else:
            outputs["report"] = str(report)
    return _finish(outputs, code)


def import_command(given: Mapping[str, str]) -> list[str]:
    """`forgeteval import`, replacing an earlier import of the same name.

    >>> import_command({"scores": "s.csv", "study": "mine"})[3:]
    ['import', '--study=mine', '--replace', '--', 's.csv']
    """
    command = [*FORGETEVAL, "import", f"--study={given['study']}", "--replace"]
    if "results" in given:
        command.append(f"--results={given['results']}")
    return [*command, "--", given["scores"]]


def gate_command(given: Mapping[str, str], junit: Path) -> list[str]:
    """`forgeteval gate` with the inputs that were given."""
    options = [f"--{name}={given[name]}" for name in OPTIONAL if name in given]
    command = [*FORGETEVAL, "gate", f"--candidate={given['candidate']}", f"--junit={junit}"]
    return [*command, *options, "--", given["study"]]


def report_command(given: Mapping[str, str], file: Path) -> list[str]:
    """`forgeteval report` of the same study, judged by the same scorer and margin."""
    options = [
        f"--{name}={given[name]}" for name in ("margin", "scorer", "results") if name in given
    ]
    return [*FORGETEVAL, "report", f"--out={file}", *options, "--", given["study"]]


def _run(command: list[str]) -> int:
    print(f"forgeteval {' '.join(command[len(FORGETEVAL) :])}", flush=True)
    return subprocess.run(command, check=False).returncode


def _finish(outputs: Mapping[str, str], code: int) -> int:
    """Hands the outputs over as GitHub reads them: one `name=value` per line."""
    if file := os.environ.get("GITHUB_OUTPUT"):
        with Path(file).open("a", encoding="utf-8") as stream:
            stream.writelines(f"{name}={value}\n" for name, value in outputs.items())
    return code


if __name__ == "__main__":
    sys.exit(main())
