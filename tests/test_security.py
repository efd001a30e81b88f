"""SECURITY.md promises only what a test holds."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_named_test_is_there():
    named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", TEXT)
    assert len(named) >= 20
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file()
        or (name and f"\ndef {name}(" not in (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert missing == []


def test_every_promise_names_its_test():
    promises = TEXT.partition("## Promises")[2].partition("## Not promised")[0]
    items = re.split(r"\n- ", promises)[1:]
    unheld = [item.splitlines()[0] for item in items if "`tests/" not in item]
    assert unheld == [
        "The network is used only for a hub id or a picture's address that the manifest or its data name."
    ]
