"""`forgeteval export`: our tasks for other programs, and a study's results for other eyes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.options import Results, Study

if TYPE_CHECKING:
    from harness.export.task_folders import Program

EXAMPLES = """
Examples:

    forgeteval export lm-eval my_tasks --manifest checkpoints.yaml

    forgeteval export results mine out --format dataset

    forgeteval export log mine --to mlflow
"""

group = typer.Typer(
    help="Hand our tasks and results to other programs.",
    epilog=EXAMPLES,
    no_args_is_help=True,
)
Json = Annotated[bool, typer.Option("--json", help="Print facts as JSON.")]
Tasks = Annotated[
    list[str] | None, typer.Argument(metavar="TASK...", help="Which tasks. [default: all]")
]
ManifestOption = Annotated[
    Path | None,
    typer.Option(help="Export its suite, with its local data, limit and prompt profile."),
]
Target = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")]


@group.command("lm-eval", epilog=EXAMPLES)
def lm_eval(
    target: Target, tasks: Tasks = None, manifest: ManifestOption = None, json_: Json = False
) -> None:
    """Write our tasks as `forgeteval_<task>` for `lm_eval --include_path DIR`.

    Run them with `--model hf-multimodal --apply_chat_template`: the scores `strict` and `lenient`
    are then those of `forgeteval score`, sample by sample.
    """
    _export("lm-eval", target, tasks or [], manifest, json_)


@group.command("lmms-eval", epilog=EXAMPLES)
def lmms_eval(
    target: Target, tasks: Tasks = None, manifest: ManifestOption = None, json_: Json = False
) -> None:
    """Write our tasks as `forgeteval_<task>` for `lmms_eval --include_path DIR`.

    Its format shows pictures before the words; tasks that place them inside the text are named.
    """
    _export("lmms-eval", target, tasks or [], manifest, json_)


@group.command(epilog=EXAMPLES)
def results(
    study: Study,
    target: Target,
    form: Annotated[
        Literal["lm-eval", "dataset"],
        typer.Option("--format", help="lm-eval's result files, or a Hugging Face dataset folder."),
    ] = "lm-eval",
    results: Results = None,
    json_: Json = False,
) -> None:
    """Write a study's answers and scores in a form that others read; equal results, equal bytes."""
    from harness.export.results import read_study, write_dataset, write_lm_eval
    from harness.study_folders import study_folder

    answered = read_study(study_folder(study, results))
    write = write_dataset if form == "dataset" else write_lm_eval
    _say([str(file) for file in write(answered, target)], [], json_)


@group.command(epilog=EXAMPLES)
def log(
    study: Study,
    to: Annotated[
        Literal["wandb", "mlflow", "trackio"], typer.Option(help="Whose library to log with.")
    ],
    results: Results = None,
) -> None:
    """Log every stage's scores to an experiment tracker: one run per training run, steps = stages.

    Where it goes is the tracker's own business (`WANDB_MODE`, `MLFLOW_TRACKING_URI`, ...).
    """
    from harness.export.trackers import log_scores
    from harness.scoring.study import read_scores
    from harness.study_folders import study_folder

    n = log_scores(read_scores(study_folder(study, results)), to)
    typer.echo(f"logged {n} runs to {to}")


def _export(
    program: Program, target: Path, names: list[str], file: Path | None, json_: bool
) -> None:
    from harness.export.task_folders import places, write
    from harness.manifest import read_manifest

    manifest = read_manifest(file, check_paths=False) if file else None
    folder = file.absolute().parent if file else Path.cwd()
    done = write(program, places(manifest, folder, names), target)
    _say([str(path) for path in done.files], list(done.notes), json_)


def _say(files: list[str], notes: list[str], json_: bool) -> None:
    if json_:
        typer.echo(json.dumps({"files": files, "notes": notes}, ensure_ascii=False))
        return
    for line in (*files, *(f"note: {note}" for note in notes)):
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Adds the group `export`."""
    app.add_typer(group, name="export")
