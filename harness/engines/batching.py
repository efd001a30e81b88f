"""Batching: prompts of like lengths together, and questions on one picture side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.engines.inputs import Row
from harness.types import Request

# Prompts whose lengths share a bucket lie in one batch; within it, questions on one picture meet.
LENGTH_BUCKET = 16


@dataclass(frozen=True, slots=True)
class Job:
    """A request and its processed row."""

    request: Request
    row: Row


def batches(jobs: Sequence[Job], rows: int, tokens: Callable[[], int]) -> Iterator[list[Job]]:
    """Cut jobs into batches of one decoding, at most `rows` prompts and `tokens()` tokens each.

    Sorted by length, longest first (memory runs out at once or never), and by picture within
    similar lengths. A prompt longer than the budget makes a batch of its own.
    """

    def order(job: Job) -> tuple[object, ...]:
        decoding = job.request.decoding
        bucket = -(-job.row.length // LENGTH_BUCKET)
        verbatim = job.request.verbatim
        kind = (verbatim, decoding.max_new_tokens, decoding.stop)
        return (*kind, -bucket, job.row.picture, -job.row.length)

    batch: list[Job] = []
    longest = 0
    for job in sorted(jobs, key=order):
        longest = max(longest, job.row.length)
        if batch and (
            job.request.decoding != batch[0].request.decoding
            or job.request.verbatim != batch[0].request.verbatim
            or len(batch) == rows
            or _cost(len(batch) + 1, longest, job) > tokens()
        ):
            yield batch
            batch, longest = [], job.row.length
        batch.append(job)
    if batch:
        yield batch


def cost(batch: Sequence[Job]) -> int:
    """Tokens of a padded batch when every answer is as long as allowed."""
    return _cost(len(batch), max(job.row.length for job in batch), batch[0])


def _cost(rows: int, longest: int, job: Job) -> int:
    return rows * (longest + job.request.decoding.max_new_tokens)
