"""What README and the docs print: code blocks and commands, as a reader would copy them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = (*sorted(DOCS.glob("*.md")), ROOT / "README.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)


def blocks(page: Path, heading: str | None = None) -> list[tuple[str, str]]:
    """(language, body) of each code block of a page, or of the section below one heading."""
    text = page.read_text(encoding="utf-8")
    if heading is not None:
        text = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [(kind, body) for kind, body in FENCE.findall(text)]


def lines(page: Path, heading: str | None = None) -> list[str]:
    """The shell lines: continued ones joined, without their comments."""
    return [
        re.split(r"\s+#", line)[0].strip()
        for kind, body in blocks(page, heading)
        if kind in ("", "bash")
        for line in body.replace("\\\n", " ").splitlines()
    ]


def commands(page: Path, heading: str | None = None) -> list[str]:
    """The lines that call forgeteval."""
    return [line for line in lines(page, heading) if line.startswith("forgeteval ")]
