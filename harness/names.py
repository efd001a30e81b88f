"""A name: plain enough to be a folder, a cell of a CSV file and a word on the command line."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")
DEVICE_NAMES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))]
)


def check_name(name: str) -> str:
    """The name itself, or ValueError: names become folders, so they must be plain."""
    if not NAME.fullmatch(name) or ".." in name or name.lower().split(".")[0] in DEVICE_NAMES:
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise ValueError(
            f"got {shown!r}, expected a plain name: letters, digits, '.', '_', '+', '-', "
            "at most 80, starting with a letter or digit"
        )
    return name


Name = Annotated[str, AfterValidator(check_name)]
