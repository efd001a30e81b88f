"""Stage lists: what a manifest writes in short, spelled out stage by stage.

Plain values in, plain values out; whether they make sense is checked afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.types import BASE


def spelled_out(stages: Sequence[object]) -> list[object]:
    """Stages with `with: previous` as the folder meant, and a list of alphas as a stage each."""
    found: list[object] = []
    previous: object = BASE
    for index, stage in enumerate(stages):
        mix = stage.get("wise_ft") if isinstance(stage, dict) else None
        if not isinstance(stage, dict) or not isinstance(mix, dict):
            previous = stage.get("path") if isinstance(stage, dict) else None
            found.append(stage)
            continue
        if mix.get("with") == "previous":
            if previous is None:
                raise ValueError(
                    f"stages[{index}].wise_ft.with: got 'previous', but the stage before is itself"
                    " interpolated; name the folder to mix with"
                )
            if previous == mix.get("of"):
                raise ValueError(
                    f"stages[{index}].wise_ft.with: the stage before is `of` itself; put the"
                    " mix in its place, or name the folder to mix with"
                )
            mix = {**mix, "with": previous}
        previous = None
        found += _sweep(stage, mix, index)
    return found


def _sweep(stage: Mapping[str, Any], mix: Mapping[str, Any], index: int) -> list[object]:
    """One stage per alpha, named by it."""
    alphas = mix.get("alpha")
    if not isinstance(alphas, list):
        return [{**stage, "wise_ft": mix}]
    good = all(type(alpha) in (int, float) and 0 <= alpha <= 1 for alpha in alphas)
    if not good or not alphas or len(set(alphas)) < len(alphas):
        raise ValueError(
            f"stages[{index}].wise_ft.alpha: got {alphas!r:.60},"
            " expected numbers from 0 to 1, each once"
        )
    name = stage.get("name") or stage.get("trained_on") or "wise_ft"
    return [
        {**stage, "name": f"{name}-alpha{alpha:g}", "wise_ft": {**mix, "alpha": alpha}}
        for alpha in alphas
    ]


def last_target(name: str, targets: Sequence[str]) -> str | None:
    """The target named last in a folder name; the longest of those that end there.

    >>> last_target("trained_on_cub200_then_pixmo_count", ["cub200", "pixmo_count"])
    'pixmo_count'
    """
    ends = [(name.rfind(t) + len(t), len(t), t) for t in targets if t in name]
    return max(ends)[2] if ends else None
