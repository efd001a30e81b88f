"""A subset: the samples of a task that a limited study scores, the same for every checkpoint.

Groups are put in an order that depends only on (seed, task, group), and whole groups are taken
until the limit is reached. So a subset does not depend on other tasks, on the order of rows or on
the machine; a smaller limit gives a part of a larger one; and samples that share an image stay
together, as the intervals assume. The last group may pass the limit (POPE: 18 questions an image).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def choose(task: str, groups: Sequence[str], limit: int | None, seed: int) -> list[int]:
    """Positions of the samples to score, ascending; all of them without a limit.

    `groups`: (n,) group of each sample, never empty.

    >>> choose("t", ["a", "a", "b"], 3, 0)
    [0, 1, 2]
    """
    if limit is None or limit >= len(groups):
        return list(range(len(groups)))
    members: dict[str, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(group, []).append(position)
    chosen: list[int] = []
    for group in sorted(members, key=lambda group: _rank(task, group, seed)):
        if len(chosen) >= limit:
            break
        chosen += members[group]
    return sorted(chosen)


def _rank(task: str, group: str, seed: int) -> bytes:
    content = "\0".join((str(seed), task, group))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()
