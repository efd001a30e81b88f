"""lm-eval's tasks in the place of ours: enough of a `Task` to be planned, judged and shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import DataError
from harness.types import Headline, Sample, Source, Task


def as_task(name: str, metric: str) -> Task:
    """A task of that name without prompts and scorers: lm-eval has them.

    Its samples are requests; those of one document are scored as one.
    """
    return Task(
        name=name,
        title=name,
        role="held_out",
        metric=metric,
        source=Source(hub="", split="", columns=()),
        sample=_no_rows,
        prompts={},
        scorers={},
        headline=Headline(unit="unit"),
        groups="first picture, else the document",
    )


def _no_rows(row: Mapping[str, Any], index: int) -> Sample:
    raise DataError("lm_eval", "its data are read by lm-eval, not from a source of ours")
