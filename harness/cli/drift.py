"""`forgeteval drift`: why scores fell; `forgeteval drift classes`: a tokenizer's token classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.options import Level, Results, Scorer, Study

if TYPE_CHECKING:
    from harness.analysis.drift import Correlation, Explanation

EXAMPLES = """
Examples:

    forgeteval drift micro

    forgeteval drift mine --scorer strict --json

    forgeteval drift classes checkpoints/base --class color=red,green,blue
"""
# Tokens of a class that are shown before the rest is only counted.
SHOWN_TOKENS = 12


class _StudyFirst(TyperGroup):
    """`forgeteval drift STUDY` beside `forgeteval drift classes MODEL`: a study is no command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["study", *args]
        return super().parse_args(ctx, args)


group = typer.Typer(
    cls=_StudyFirst,
    help="Say why scores fell: format, a bias of the answers, or knowledge.",
    epilog=EXAMPLES,
)


@group.command(epilog="Example:\n\n    forgeteval drift micro --json")
def study(
    study: Study = "checkpoints.yaml",
    results: Results = None,
    scorer: Scorer = "",
    level: Level = 0.95,
    json_: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Explain held-out changes strategy by strategy, stage by stage; writes `drift.csv`.

    The word `study` may be left out. Every fact is computed from stored answers, against the
    base, and told only where its interval excludes zero.
    """
    import json

    from rich.console import Console

    from harness.analysis.drift import explain
    from harness.analysis.options import JudgeOptions
    from harness.lmeval.settings import is_lm_eval
    from harness.record import read_record
    from harness.report.csv_files import csv_text, write_text
    from harness.scoring.study import read_scores
    from harness.study_folders import study_folder

    folder = study_folder(study, results)
    options = JudgeOptions(scorer=scorer, level=level)
    scores = read_scores(folder, traits=True)
    found = explain(scores, options)
    file = write_text(folder / "drift.csv", csv_text(found.table))
    # Other people's answers have no checkpoints here that could be read.
    record = read_record(folder)
    notes = list(scores.ungraded.values())
    if record["kind"] == "scored":
        theirs = all(is_lm_eval(row["name"]) for row in record["benchmarks"])
        notes += notes_of(found, options_left=not theirs)
    if json_:
        typer.echo(json.dumps(as_json(found, notes), indent=1, ensure_ascii=True))
        return
    console = Console()
    # A fact a line: a sentence of ten facts is read by nobody.
    facts = [line.replace("; ", "\n    ") for line in found.sentences()]
    correlations = map(correlation_sentence, found.correlations)
    for line in [*facts, *correlations, *notes]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {file}", markup=False, highlight=False, soft_wrap=True)


def as_json(found: Explanation, notes: list[str]) -> dict[str, Any]:
    """The explanation as JSON values; null = NA."""
    import json

    table = json.loads(found.table.to_json(orient="records", double_precision=6))
    return {
        "study": found.study,
        "sentences": found.sentences(),
        "notes": notes,
        "correlation": _values(found.correlation),
        "correlations": [_values(correlation) for correlation in found.correlations],
        "drift": table,
    }


def _values(found: Correlation) -> dict[str, Any]:
    values = {name: getattr(found, name) for name in ("rho", "low", "high", "p_value")}
    known = {name: value if value == value else None for name, value in values.items()}
    return {"measure": found.measure, "n": found.n, **known}


def notes_of(found: Explanation, *, options_left: bool = True) -> list[str]:
    """What was not measured of a study's checkpoints, and how to measure it.

    `options_left`: whether questions may have options that are not compared by likelihood anyway.
    """
    notes = []
    if "number_mass" not in found.measures:
        notes.append("the probability of numbers where answers begin was not measured")
    if not any(name.startswith("forced_") for name in found.measures):
        notes.append(
            "no probe was run: `forgeteval score --probe` reads every checkpoint on the base's own "
            "answers"
        )
    options = {"says_a", "says_yes"} & set(found.measures)
    if options_left and options and "choice_accuracy" not in found.measures:
        notes.append(
            "whether options are still known where answers went wrong was not asked: "
            "`forgeteval score --choices` compares their likelihoods"
        )
    return notes


def correlation_sentence(found: Correlation) -> str:
    """What the correlation says, with its interval and the number of points."""
    names = {
        "number_mass": "number mass",
        "bare_number": "bare-number rate",
        "forced_number_mass": "number mass on the base's own answers",
        "free_number_mass": "free-running number mass",
        "kl_forward": "KL to the base",
    }
    what = f"held-out change against shift of the {names[found.measure]}"
    points = f"n = {found.n} stages of runs"
    if found.rho != found.rho:
        return f"{what}: no correlation can be told ({points})"
    interval = f"[{found.low:+.2f}, {found.high:+.2f}]"
    text = f"{what}: Spearman {found.rho:+.2f} {interval}, {points}"
    return text.replace(" -", " −").replace("[-", "[−")


@group.command(epilog="Example:\n\n    forgeteval drift classes checkpoints/base --json")
def classes(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder with tokenizer.json.")],
    own: Annotated[
        list[str], typer.Option("--class", metavar="NAME=WORD,WORD", help="One more class.")
    ] = [],  # noqa: B006  # typer reads it and makes a new list
    json_: Annotated[bool, typer.Option("--json", help="All tokens as JSON.")] = False,
) -> None:
    """List the token classes whose probability is measured, found in a tokenizer's vocabulary."""
    import json

    from rich.console import Console
    from rich.table import Table

    from harness.errors import UserError
    from harness.token_classes import read_tokenizer, token_classes, token_texts, user_classes

    pairs = [text.partition("=") for text in own]
    if wrong := [text for text, (_, mark, _) in zip(own, pairs, strict=True) if not mark]:
        raise UserError("--class", f"got {wrong[0]!r}, expected NAME=WORD,WORD")
    patterns = user_classes({name: words.split(",") for name, _, words in pairs})
    tokenizer = read_tokenizer(model)
    texts, found = token_texts(tokenizer), token_classes(tokenizer, patterns)
    if json_:
        rows = {
            name: [{"id": token, "text": texts[token]} for token in ids]
            for name, ids in found.items()
        }
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=True))
        return
    table = Table("class", "tokens", "examples", title=f"{len(texts)} tokens of {model}")
    for name, ids in found.items():
        shown = " ".join(repr(texts[token]) for token in ids[:SHOWN_TOKENS])
        table.add_row(name, str(len(ids)), shown + (" ..." if len(ids) > SHOWN_TOKENS else ""))
    Console().print(table, markup=False)


def register(app: typer.Typer) -> None:
    """Add `drift` to the command line."""
    app.add_typer(group, name="drift")
