"""Standard output and error of a command: a reader that goes away or a full disk changes no work.

`forgeteval gate ... | head -1` must end with the gate's verdict, and a study whose output goes to a
full disk must still be scored. So a write that fails is no exception where it happens; `main` says
it once, at the end.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TextIO


class _Guarded(io.FileIO):
    """A file descriptor; after the first write that fails, what is written is dropped."""

    failure = ""
    """Why the first write failed; "" also for a reader that went away: it has what it wanted."""
    _lost = False

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]  # any buffer
        if self._lost:
            return size
        try:
            # None: a pipe that does not wait is full; the buffer above says so.
            return super().write(data)  # type: ignore[arg-type]
        except BrokenPipeError:
            self._lost = True
        except OSError as error:
            self._lost = True
            self.failure = error.strerror or str(error)
        return size


def guard() -> None:
    """Replaces the process's own standard output and error; streams of others are left alone."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # closed by whoever started the process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            setattr(sys, name, _guarded(stream))


def _guarded(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    raw = getattr(stream.buffer, "raw", stream.buffer)  # no buffer under `python -u`
    if type(raw) is not io.FileIO:
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Guarded(raw.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


def failure() -> str:
    """Why standard output could not be written, all of it flushed; "" where it could."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, _Guarded) else ""
