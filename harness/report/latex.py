"""The leaderboard as a LaTeX table (booktabs), names and all safe to compile."""

from __future__ import annotations

import pandas as pd

from harness.report import foreign_text
from harness.report.numerals import signed

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "−": "$-$", "⟨": "<", "⟩": ">",
}  # fmt: skip
_COLUMNS = (
    ("Learning", "learning_pp", "learning_ci"),
    ("Target forgetting", "target_forgetting_pp", ""),
    ("Held-out final", "heldout_final_pp", "heldout_final_ci"),
    ("worst", "heldout_worst_pp", ""),
    ("Superficial", "superficial_pp", "superficial_ci"),
    ("Essential", "essential_pp", "essential_ci"),
)


def escape(text: str) -> str:
    """Text that LaTeX prints and does not obey.

    >>> escape("mlp_gate & up")
    'mlp\\\\_gate \\\\& up'
    """
    return "".join(_SPECIAL.get(character, character) for character in foreign_text.name(text))


def table(leaderboard: pd.DataFrame) -> str:
    """A `tabular` of the figures in points, with intervals as small brackets."""
    lines = [
        "% made by forgeteval report; needs \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{l{'r' * len(_COLUMNS)}}}",
        "\\toprule",
        " & ".join(["Strategy", *(title for title, _, _ in _COLUMNS)]) + r" \\",
        "\\midrule",
    ]
    for _, row in leaderboard.iterrows():
        cells = [escape(str(row["strategy"]))]
        for _, key, limits in _COLUMNS:
            cell = escape(signed(row[key]))
            if limits:
                low, high = (escape(signed(row[f"{limits}_{end}_pp"])) for end in ("low", "high"))
                cell += f" {{\\scriptsize [{low}, {high}]}}"
            cells.append(cell)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])
