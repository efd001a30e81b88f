"""The report as Markdown: the sentences and tables, for a pull request or a wiki."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from harness.report import foreign_text
from harness.report.base_alone import NO_STAGES
from harness.report.content import Content
from harness.report.numerals import interval, plain, signed

# The charts whose numbers are in no other table here.
DRIFT_CHARTS = (
    "split", "choices", "rates", "forced", "divergence", "free-running", "answer-types",
)  # fmt: skip
_MARKUP = {character: f"\\{character}" for character in "\\`*_[]|#~"} | {
    "<": "&lt;",
    ">": "&gt;",
    "&": "&amp;",
    "\n": " ",
}


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line.

    >>> escape("a|b <script>")
    'a\\\\|b &lt;script&gt;'
    """
    return "".join(_MARKUP.get(character, character) for character in text)


def text(content: Content) -> str:
    """The whole report; charts are left to `--figures`."""
    parts = [f"# {escape(content.title)}", escape(content.lead), "## Headline"]
    parts += [
        f"- **{escape(card.strategy)}** ({card.verdict}): {escape(card.sentence)}"
        for card in content.cards
    ]
    parts += [escape(sentence) for sentence in content.comparisons]
    if content.base is not None:
        parts += [NO_STAGES, _table(content.base.columns, content.base.rows)]
    else:
        parts += _compared(content)
    parts.append("## Provenance")
    parts += [
        f"- smallest change that {escape(card.strategy)} would have shown: "
        f"{plain(card.detectable_pp)} pp"
        for card in content.cards
    ]
    parts += [f"- {escape(note)}" for note in content.provenance.notes]
    parts.append("\n".join(["```", *content.provenance.commands, "```"]))
    return "\n\n".join(parts) + "\n"


def _compared(content: Content) -> list[str]:
    """What there is of strategies: the leaderboard, costs, changes and drift."""
    parts = ["## Leaderboard (pp)"]
    keys = ["learning_pp", "target_forgetting_pp", "heldout_final_pp", "heldout_worst_pp",
            "superficial_pp", "essential_pp", "balance_pp"]  # fmt: skip
    board = content.view.judgement.leaderboard.to_dict("records")
    parts.append(
        _table(
            ["Strategy", *(key.removesuffix("_pp").replace("_", " ") for key in keys)],
            [
                [foreign_text.name(str(row["strategy"])), *(_figure(row, key) for key in keys)]
                for row in board
            ],
        )
    )
    if content.costs.rows:
        parts += ["## What training cost", _table(content.costs.columns, content.costs.rows)]
    parts.append("## Stage by benchmark (pp against the base)")
    for panel in content.heat:
        parts.append(f"### {escape(panel.strategy)}")
        rows = [
            [row.benchmark, *(f"{signed(cell.delta_pp)} {cell.mark}".strip() for cell in row.cells)]
            for row in panel.rows
        ]
        parts.append(_table(["Benchmark", *panel.stages], rows))
    for name in DRIFT_CHARTS:
        if name in content.charts:
            chart = content.charts[name]
            parts += [f"## {chart.title}", escape(chart.summary)]
            columns = [str(column) for column in chart.table.columns]
            parts.append(_table(columns, chart.table.astype(str).to_numpy().tolist()))
    return parts


def _figure(row: Mapping[Hashable, Any], key: str) -> str:
    """A figure of the leaderboard, with its limits where the file has them."""
    low, high = (f"{key.removesuffix('_pp')}_ci_{end}_pp" for end in ("low", "high"))
    limits = f" {interval(row[low], row[high])}" if low in row else ""
    return signed(row[key]) + limits


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(columns), ["---"] * len(columns), *map(list, rows)]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(cell: str) -> str:
    return cell if cell == "---" else escape(cell)
