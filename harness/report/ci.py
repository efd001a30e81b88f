"""Outputs for continuous integration: a gate's result as JUnit XML, Markdown and annotations.

Questions, answers and names come from data sets and models, so none of them is trusted: XML loses
the characters it cannot hold, Markdown gets entities for everything that could be markup, workflow
commands are escaped as GitHub's own toolkit does it, terminals never see a control character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from harness.errors import EXIT_OK, EXIT_REGRESSION
from harness.gate import Flip, GateResult, GateRow

# GitHub refuses a step's summary above 1 MiB; the project's own limit is a round number below.
SUMMARY_LIMIT = 1_000_000
# GitHub shows at most ten annotations of a kind per step and drops the rest silently.
ANNOTATIONS = 10
TEXT_LIMIT = 200
_MESSAGE_LIMIT = 1000
# What XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# What Markdown or GitHub could read as more than text; quiet inside words (micro_count, llm@2).
_MARKUP = re.compile(
    r"""[\\`*\[\]<>|&#~$^{}]|(?<=www)\.|:(?=//)|(?<!\w)@|(?<![^\W_])_|_(?![^\W_])"""
)
# Control and format characters, halves of surrogate pairs, line and paragraph separators.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_WORDS = {
    "regression": "regressed",
    "inconclusive": "inconclusive",
    "missing": "missing",
    "pass": "pass",
}


def one_line(text: str, limit: int = TEXT_LIMIT) -> str:
    """Foreign text for one line of a terminal: no control characters, at most `limit` long.

    >>> one_line("3\\n\\x1b[31m birds")
    '3 [31m birds'
    """
    # Longer texts are cut before they are cleaned, since models can repeat themselves for ever.
    clean = _UNSEEN.sub(" ", text[: 4 * limit])
    clean = " ".join(clean.split())
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


# --- JUnit ---------------------------------------------------------------------------------------


def junit(result: GateResult) -> str:
    """JUnit XML: one test case per benchmark, mean and required learning.

    A regression is a failure, as is an inconclusive row where that fails the gate (else it is
    skipped); a missing row is an error.
    """
    suite = ElementTree.Element("testsuite")
    counts = {"failures": 0, "errors": 0, "skipped": 0}
    for row in result.rows:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_xml(f"forgeteval.{result.study}.{row.kind}"),
            name=_xml(row.name),
            time="0",
        )
        kind = _junit_kind(result, row)
        if kind is None:
            ElementTree.SubElement(case, "system-out").text = _xml(row.sentence)
            continue
        tag, count = kind
        counts[count] += 1
        element = ElementTree.SubElement(case, tag, message=_xml(row.sentence))
        if tag != "skipped":
            element.set("type", _WORDS[row.outcome])
        element.text = _xml("\n".join([row.sentence, *map(flip_line, row.flips)]))
    totals = {"tests": len(result.rows), **counts}
    for name, number in totals.items():
        suite.set(name, str(number))
    suite.set("name", _xml(f"{result.study}: {result.candidate} against {result.baseline}"))
    suite.set("time", "0")
    root = ElementTree.Element("testsuites", {k: str(v) for k, v in totals.items()}, time="0")
    root.set("name", "forgeteval gate")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _junit_kind(result: GateResult, row: GateRow) -> tuple[str, str] | None:
    """(element, counter) for a row that did not pass."""
    if row.outcome == "pass":
        return None
    if row.outcome == "missing":
        return "error", "errors"
    if row.outcome == "regression" or result.inconclusive == "fail":
        return "failure", "failures"
    return "skipped", "skipped"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def flip_line(flip: Flip) -> str:
    """An example flip as one line of plain text; of words only those that the study has."""
    words = {"": flip.question, "before: ": flip.before, "after: ": flip.after, "gold: ": flip.gold}
    start = f"[{one_line(flip.sample_id, 60)}] {flip.score_before:.3g} to {flip.score_after:.3g}"
    if not any(words.values()):
        return start
    return " | ".join([start, *(f"{name}{one_line(text)}" for name, text in words.items())])


# --- Markdown ------------------------------------------------------------------------------------


def markdown(result: GateResult, limit: int = SUMMARY_LIMIT) -> str:
    """The gate as Markdown of fewer than `limit` bytes: a verdict, a table, the example flips.

    Rows that do not fit are counted in the last line.
    """
    head = [
        f"## forgeteval gate: {result.headline}\n\n",
        f"{markdown_text(result.study)}: **{markdown_text(result.candidate)}** against "
        f"{markdown_text(result.baseline)}, scorer {markdown_text(result.scorer)}, "
        f"level {100 * result.level:g} %.\n\n",
        *[f"> {markdown_text(note, 500)}\n\n" for note in result.notes],
        "| | benchmark | role | delta (pp) | interval (pp) | margin (pp) | samples | lost | gained "
        "| what |\n|---|---|---|---:|---|---:|---:|---:|---:|---|\n",
    ]
    shown = [row for row in result.rows if row.flips]
    blocks = chain(head, map(_table_line, result.rows), "\n", map(_details, shown))
    return _fit(blocks, len(head) + len(result.rows) + 1 + len(shown), limit)


def _table_line(row: GateRow) -> str:
    icon = {"regression": "❌", "missing": "❌", "inconclusive": "❔", "pass": "✅"}[row.outcome]
    d = row.difference
    cells = [
        icon,
        markdown_text(row.name),
        row.role,
        _points(d.delta),
        f"{_points(d.low)} to {_points(d.high)}" if d.known else "NA",
        f"{row.margin_pp:g}",
        str(d.n_samples),
        *("" if n is None else str(n) for n in (row.lost, row.gained)),
        markdown_text(row.what),
    ]
    return f"| {' | '.join(cells)} |\n"


def _details(row: GateRow) -> str:
    lines = [f"<details><summary>{markdown_text(row.name)}: example flips</summary>\n\n"]
    titles = ("sample", "score", "question", "before", "after", "gold")
    lines.append(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|\n")
    for flip in row.flips:
        scores = f"{flip.score_before:.3g} to {flip.score_after:.3g}"
        cells = (flip.sample_id, scores, flip.question, flip.before, flip.after, flip.gold)
        lines.append(f"| {' | '.join(markdown_text(cell) for cell in cells)} |\n")
    return "".join([*lines, "\n</details>\n\n"])


def _points(share: float) -> str:
    return "NA" if share != share else f"{100 * share:+.2f}"


def _fit(blocks: Iterable[str], n_blocks: int, limit: int) -> str:
    """As many blocks as fit below `limit` bytes, and a line that counts the others."""
    tail = "\n… {:,} more rows or examples do not fit here.\n"
    room = limit - len(tail.encode()) - 20
    taken: list[str] = []
    for block in blocks:
        room -= len(block.encode())
        if room <= 0:
            return "".join(taken) + tail.format(n_blocks - len(taken))
        taken.append(block)
    return "".join(taken)


def markdown_text(text: str, limit: int = TEXT_LIMIT) -> str:
    """Foreign text that Markdown and HTML show as it is written: no link, tag, image or mention."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", one_line(text, limit)) or " "


def append_summary(result: GateResult, file: Path) -> None:
    """Append the Markdown to a job's summary; all of the file stays below GitHub's limit."""
    present = file.stat().st_size if file.exists() else 0
    text = markdown(result, SUMMARY_LIMIT - present) if present < SUMMARY_LIMIT - 500 else ""
    with file.open("a", encoding="utf-8") as stream:
        stream.write(text)


# --- annotations ---------------------------------------------------------------------------------


def annotation_lines(result: GateResult) -> list[str]:
    """GitHub workflow commands, worst first, at most ten; then one plain line, "N more"."""
    bad = [row for row in result.rows if row.outcome != "pass"]
    if result.inconclusive == "pass":
        bad = [row for row in bad if row.outcome != "inconclusive"]
    lines = [_annotation(result, row) for row in bad[:ANNOTATIONS]]
    if len(bad) > ANNOTATIONS:
        lines.append(f"{len(bad) - ANNOTATIONS} more in the job summary")
    return lines


def _annotation(result: GateResult, row: GateRow) -> str:
    level: Literal["error", "warning"] = "error"
    if row.outcome == "inconclusive" and result.inconclusive == "warn":
        level = "warning"
    title = _property(one_line(f"{row.name}: {_WORDS[row.outcome]}", 120))
    message = one_line(f"{result.study}, {result.candidate}: {row.sentence}", _MESSAGE_LIMIT)
    return f"::{level} title={title}::{_message(message)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


# --- terminal ------------------------------------------------------------------------------------


def terminal_lines(result: GateResult) -> list[tuple[str, str]]:
    """(line, rich style) for people. No line begins with foreign text, so that none can be a
    workflow command in a log that GitHub reads."""
    names = f"{result.study}: {result.candidate} against {result.baseline}"
    styles = {"regression": "red", "missing": "red", "inconclusive": "yellow", "pass": "green"}
    exit_styles = {EXIT_OK: "bold green", EXIT_REGRESSION: "bold red"}
    lines = [(f"gate {one_line(names)}, scorer {one_line(result.scorer, 60)}", "bold")]
    lines += [(f"note: {one_line(note, 500)}", "dim") for note in result.notes]
    for row in result.rows:
        lines.append(
            (f"{_WORDS[row.outcome]:>12}  {one_line(row.sentence, 500)}", styles[row.outcome])
        )
        lines += [(f"{'':14}{flip_line(flip)}", "dim") for flip in row.flips]
    lines.append((result.headline, exit_styles.get(result.exit_code, "bold yellow")))
    return lines
