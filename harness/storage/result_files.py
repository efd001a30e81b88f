"""Result files: written whole or not at all, read with an error that names them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import ResultsError


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from the results folder. Raises ResultsError."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(file.parent.name, f"{file.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResultsError(f"{file.parent.name}/{file.name}", f"cannot be read: {why}") from None
    if not isinstance(value, dict):
        raise ResultsError(f"{file.parent.name}/{file.name}", "holds no JSON object")
    return value


def write_atomically(file: Path, data: bytes) -> None:
    """The file has the old content or the new, whatever happens: written aside, then renamed."""
    if not file.name:
        raise ResultsError(repr(str(file)), "names no file to write to")
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            aside.replace(file)
        finally:
            aside.unlink(missing_ok=True)
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """What the system refuses of `file` becomes one ResultsError; nothing written is lost."""
    try:
        yield
    except OSError as error:
        raise ResultsError(
            "/".join(file.parts[-2:]),
            f"cannot be written: {error.strerror or error}; mend that and run again, "
            "what was answered before is kept",
        ) from None
