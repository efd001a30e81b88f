"""`forgeteval import`: other people's graded answers become a study."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from harness.errors import EXIT_USAGE

if TYPE_CHECKING:
    from harness.interop.logs.study import ImportedLogs, Plan
    from harness.interop.score_files import Imported

EXAMPLES = """
Examples:

    forgeteval import scores.csv --study mine

    forgeteval import runs.parquet --study mine --base-model llava-ov-7b --replace

    forgeteval import lm_eval_out                      # shows what the names say

    forgeteval import lm_eval_out --study mine --yes

    forgeteval import logs --study mine --map map.yaml
"""


def import_file(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|DIR", help="Scores as .jsonl, .csv or .parquet; or a folder of logs."
        ),
    ],
    study: Annotated[
        str,
        typer.Option(
            help="Name of the study to make. [default: the file's or folder's]", show_default=False
        ),
    ] = "",
    results: Annotated[Path, typer.Option(help="Folder of all studies.")] = Path("results"),
    base_model: Annotated[
        str, typer.Option(help="Name of the base model, shown in the leaderboard.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an imported study of that name.")
    ] = False,
    map_file: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="Logs: which folder is which stage (YAML)."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Logs: take the stages as the names say.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print facts as JSON.")] = False,
) -> None:
    """Bring your own scores: one row per graded answer, or the logs of lm-eval and lmms-eval.

    Columns: strategy, stage (a whole number, 0 = the base), benchmark, sample_id, score (a
    fraction in [0, 1]; empty = the answer failed). Optional: run, stage_name, trained_on, role
    (target, held_out, probe), group (the image that samples share), question, response, gold,
    scorer. Rows of the base have the strategy `base`, or each strategy has its own stage 0.

    Logs: a folder with the results of lm-eval 0.4.5 to 0.4.13 or lmms-eval 0.3 to 0.7
    (`--log_samples`). Stages are read from folder names, or from a map.
    """
    from harness.errors import UserError
    from harness.interop.logs.study import import_logs, look, study_name
    from harness.interop.score_files import import_scores

    if not path.exists():
        raise UserError(str(path), "no such file or folder")
    name = study or study_name(path)
    if path.is_dir():
        plan = look(path, map_file, base_model)
        _agree(plan, name, json_, asked=map_file is None and not yes)
        _say_logs(import_logs(plan, name, results, replace=replace), json_)
        return
    if map_file is not None:
        raise UserError("--map", f"concerns a folder of logs; {path} is none")
    _say_scores(import_scores(path, name, results, base_model=base_model, replace=replace), json_)


def _say_scores(done: Imported, json_: bool) -> None:
    from harness.report.import_tables import scores_json, scores_lines

    if json_:
        typer.echo(json.dumps(scores_json(done), ensure_ascii=False))
        return
    for line in scores_lines(done):
        Console().print(line)


def _say_logs(done: ImportedLogs, json_: bool) -> None:
    from harness.report.import_tables import as_json, import_tables

    if json_:
        typer.echo(json.dumps(as_json(done), ensure_ascii=True))
        return
    console = Console()
    console.print(import_tables(done))
    console.print(
        f"{done.study}: {done.n_rows:,} logged scores of {len(done.plan.stages)} checkpoints in "
        f"{done.folder}" + (f", {done.n_failed:,} of them failed" if done.n_failed else ""),
        markup=False, highlight=False,
    )  # fmt: skip


def _agree(plan: Plan, study: str, json_: bool, *, asked: bool) -> None:
    """Shows what would be imported; if `asked`, a person must agree. Raises typer.Exit if not."""
    from harness.report.import_tables import plan_tables

    console = Console(stderr=json_)
    if not json_:
        console.print(plan_tables(plan))
    if asked and not _confirmed(plan, study, console, json_):
        raise typer.Exit(EXIT_USAGE)


def _confirmed(plan: Plan, study: str, console: Console, json_: bool) -> bool:
    """Whether a person says yes; without a person, how to say it is printed."""
    from harness.report.import_tables import map_text, plan_json

    if not json_ and sys.stdin.isatty() and console.is_terminal:
        return typer.confirm(f"Import these as the study {study!r}?")
    if json_:
        typer.echo(json.dumps({"study": study, "confirmed": False, **plan_json(plan)}))
    text = (
        "Nothing imported yet. If the names were read right, say it again with --yes; if not, "
        "correct this and give it with --map map.yaml:\n\n" + map_text(plan)
    )
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return False


def register(app: typer.Typer) -> None:
    """Add `import` to the command line."""
    app.command("import", epilog=EXAMPLES)(import_file)
