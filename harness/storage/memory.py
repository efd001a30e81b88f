"""The memory: fingerprints kept between runs, made anew when the files behind them changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.storage.result_files import write_atomically


class Memory:
    """Fingerprints remembered between runs by what the file system says of their files."""

    def __init__(self, file: Path, *, verify: bool = False):
        self._file = file
        self._verify = verify
        self._known: dict[str, Any] = {}
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            known = None  # only time is lost
        if isinstance(known, dict):
            self._known = known
        self._changed = False

    def recall(self, key: str, stamps: object, compute: Callable[[], Any]) -> Any:
        """The remembered JSON value for `key` if `stamps` are unchanged, else `compute()`.

        A remembered value that is neither a text nor a pair of text and number was written by
        somebody else and is not believed.
        """
        stamp = hashlib.sha256(json.dumps(stamps, default=str).encode()).hexdigest()
        match self._known.get(key):
            case [known, (str() | [str(), int()]) as value] if known == stamp and not self._verify:
                return value
        value = compute()
        self._known[key] = [stamp, value]
        self._changed = True
        return value

    def save(self) -> None:
        """Writes what was learned."""
        if self._changed:
            write_atomically(self._file, json.dumps(self._known, indent=0).encode())
