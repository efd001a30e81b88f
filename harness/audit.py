"""The audit: which components a stage really changed, read from the weights.

Each stage is compared with the base and with the stage before it. What a strategy declares is
held against what moved: a run labelled "QKV only" that trained `o_proj` too is a mismatch, with
the tensors named.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import components
from harness.checkpoints import printable
from harness.errors import UserError
from harness.weights.adapters import UnreadableAdapter
from harness.weights.differences import Difference, difference
from harness.weights.moves import Move

if TYPE_CHECKING:  # two folders are compared without a manifest, in half the time to start
    from harness.manifest import Manifest, StageSpec

Status = Literal[
    "verified", "mismatch", "broken", "unreadable", "identical", "undeclared", "interpolated"
]
# Layers and tensors named in tables; everything is in the JSON.
SHOWN = 3
# The LLaVA repository trains its learned row separator with the language model.
_GOES_WITH_LLM = frozenset({"newline"})

Report = Callable[[str, int, int], None]
"""Called with (what is compared, bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Audited:
    """One stage, compared."""

    strategy: str
    run: str
    stage: int
    name: str
    declared: str | None
    """Component expression; None = the manifest says nothing."""
    status: Status
    problems: tuple[str, ...]
    """Why the status is `mismatch`, `broken` or `unreadable`; one line each."""
    differences: tuple[tuple[str, Difference], ...] = ()
    """("base" or "previous", difference)."""

    @property
    def passes(self) -> bool:
        """Whether nothing speaks against the stage being what it is said to be."""
        if self.declared is not None and self.status == "identical":
            return False
        return self.status not in ("mismatch", "broken", "unreadable")

    @property
    def moved(self) -> tuple[str, ...]:
        """Components with a tensor that moved from the base (else from the previous stage)."""
        names = {components.component_of(n) for _, d in self.differences[:1] for n in d.moves}
        return tuple(part for part in components.DISJOINT if part in names)

    @property
    def unmoved(self) -> tuple[str, ...]:
        """Declared tensors that are the base's still. Nothing speaks against a stage that has some:
        a LLaVA model takes its features before the vision tower's last norm, for example."""
        if self.declared is None or self.status not in ("verified", "mismatch"):
            return ()
        found = self.differences[0][1]
        if found.adapter:
            return ()
        return tuple(sorted(components.names(self.declared, found.tensors) - found.moves.keys()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know besides the status."""
        if not self.unmoved:
            return ()
        text = f"{_tensors(len(self.unmoved))} declared but did not move: {_some(self.unmoved)}"
        return (text,)


@dataclass(frozen=True, slots=True)
class ComponentMove:
    """How far one component moved; one row of `audit.csv`."""

    component: str
    tensors: int
    tensors_moved: int
    relative_norm: float | None
    """Frobenius norm of the change over that of the start, both over the tensors that moved."""
    largest: float | None
    """Largest absolute change of an element."""
    largest_layers: tuple[tuple[int, float], ...]
    """The layers that moved most: (layer, relative norm), largest first."""


def audit_pair(
    earlier: Path, later: Path, declared: str | None = None, report: Report | None = None
) -> Audited:
    """Compare two checkpoint folders. Raises CheckpointError, ComponentError."""
    if declared is not None:
        components.parse(declared)
    try:
        found = _compare(later.name, earlier, later, report)
    except UnreadableAdapter as error:
        return Audited("", "0", 1, later.name, declared, "unreadable", (str(error),))
    status, problems = judge(declared, [found])
    return Audited("", "0", 1, later.name, declared, status, problems, (("base", found),))


def audit_study(
    manifest: Manifest, folder: Path, base: Path, report: Report | None = None
) -> Iterator[Audited]:
    """Every stage of a study as it is compared, in the manifest's order.

    `folder`: what the manifest's paths are relative to; `base`: where its base lies. A checkpoint
    that cannot be read is `broken` and the rest goes on.
    """
    previous: Path | None = base
    line = ("", "")
    for stage, spec in manifest.stages():
        key = stage.key
        if (key.strategy, key.run) != line:
            line, previous = (key.strategy, key.run), base
        declared = manifest.strategies[key.strategy].component
        head = (key.strategy, key.run, key.stage, stage.name, declared)
        later = _folder(spec, folder)
        if later is None:
            yield Audited(*head, "interpolated", ())
            previous = None
            continue
        against = [("base", base)]
        if previous is not None and previous != base:
            against.append(("previous", previous))
        previous = later
        label = f"{key.strategy}@{key.stage}"
        try:
            found = [(what, _compare(label, start, later, report, base)) for what, start in against]
            yield Audited(*head, *judge(declared, [d for _, d in found]), tuple(found))
        except UnreadableAdapter as error:
            yield Audited(*head, "unreadable", (str(error),))
        except UserError as error:
            yield Audited(*head, "broken", (str(error),))


def judge(
    declared: str | None, differences: Sequence[Difference]
) -> tuple[Status, tuple[str, ...]]:
    """The status of a stage and what speaks against it.

    `differences`: against the base and, where there is one, the previous stage. Raises
    ComponentError where `declared` names nothing in this model.
    """
    broken = [line for found in differences for line in _structure(found)]
    stray: dict[str, Move] = {}
    tensors = {name for found in differences for name in found.tensors}
    allowed = tensors if declared is None else _allowed(declared, tensors)
    for found in differences:
        stray |= {name: move for name, move in found.moves.items() if name not in allowed}
    if broken:
        return "broken", tuple(dict.fromkeys(broken))
    if stray:
        named = sorted({components.component_of(name) for name in stray})
        head = f"declared {declared}, but {_tensors(len(stray))} of {', '.join(named)} moved"
        return "mismatch", (head, *map(printable, sorted(stray)))
    if any(found.identical for found in differences[-1:]):
        return "identical", ()
    if declared is None:
        return "undeclared", ()
    if not differences[-1].moves:
        return "mismatch", (f"declared {declared}, but no value changed",)
    idle = _idle(declared, differences[0])
    if idle:
        return "mismatch", tuple(f"declared {declared}, but nothing of {x} moved" for x in idle)
    return "verified", ()


def component_moves(found: Difference) -> list[ComponentMove]:
    """The difference by component, in a fixed order; only components that the model has."""
    by_part: dict[str, list[str]] = {}
    for name in found.tensors:
        by_part.setdefault(components.component_of(name), []).append(name)
    return [
        _component_move(
            part, len(by_part[part]), [found.moves[n] for n in by_part[part] if n in found.moves]
        )
        for part in components.DISJOINT
        if part in by_part
    ]


def rows(audited: Sequence[Audited]) -> list[dict[str, Any]]:
    """What `audit.csv` holds: a row per stage, comparison and component."""
    return [
        {
            "strategy": stage.strategy,
            "run": stage.run,
            "stage": stage.stage,
            "name": stage.name,
            "declared": stage.declared or "",
            "status": stage.status,
            "against": against,
            "component": moved.component,
            "tensors": moved.tensors,
            "tensors_moved": moved.tensors_moved,
            "relative_norm": moved.relative_norm,
            "largest_change": moved.largest,
            "largest_layers": " ".join(f"{k}:{norm:.3g}" for k, norm in moved.largest_layers),
        }
        for stage in audited
        for against, found in stage.differences
        for moved in component_moves(found)
    ]


def csv_text(audited: Sequence[Audited]) -> str:
    """`audit.csv`; numbers with 6 significant digits, NA where there is none."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows(audited):
        writer.writerow([_cell(row[column]) for column in COLUMNS])
    return sink.getvalue()


COLUMNS = (
    *("strategy", "run", "stage", "name", "declared", "status", "against", "component"),
    *("tensors", "tensors_moved", "relative_norm", "largest_change", "largest_layers"),
)


def record(audited: Sequence[Audited]) -> dict[str, Any]:
    """`audit.json`: every tensor that moved and everything that is wrong."""
    return {
        "schema": 1,
        "passes": all(stage.passes for stage in audited),
        "stages": [
            {
                "strategy": stage.strategy,
                "run": stage.run,
                "stage": stage.stage,
                "name": stage.name,
                "declared": stage.declared,
                "status": stage.status,
                "moved": list(stage.moved),
                "problems": list(stage.problems),
                "unmoved": list(stage.unmoved),
                "against": {what: _difference_record(found) for what, found in stage.differences},
            }
            for stage in audited
        ],
    }


def _folder(spec: StageSpec, folder: Path) -> Path | None:
    return None if spec.path is None else (folder / spec.path).absolute()


def _compare(
    label: str, earlier: Path, later: Path, report: Report | None, base: Path | None = None
) -> Difference:
    if report is None:
        return difference(earlier, later, base=base)
    return difference(earlier, later, lambda done, total: report(label, done, total), base=base)


def _allowed(declared: str, tensors: Set[str]) -> set[str]:
    allowed = components.names(declared, tensors)
    if any(term.name == "llm" and term.layers is None for term in components.parse(declared)):
        allowed |= {n for n in tensors if components.place(n).part in _GOES_WITH_LLM}
    return allowed


def _idle(declared: str, from_base: Difference) -> list[str]:
    """Summands of which not one tensor moved. (An adapter may have nowhere to put them.)"""
    if from_base.adapter:
        return []
    return [
        term
        for term in declared.split("+")
        if not components.names(term, from_base.tensors) & from_base.moves.keys()
    ]


def _structure(found: Difference) -> Iterator[str]:
    """What makes a checkpoint another model than its start, one line per kind."""
    for what, names in (
        ("missing", found.missing),
        ("added", found.added),
        ("hold NaN or Inf", found.not_finite),
    ):
        if names:
            yield f"{_tensors(len(names))} {what}: {_some(names)}"
    for one, other in found.doubled:
        yield f"two names for one tensor: {printable(one)} and {printable(other)}; keep one of them"
    for what, named in (("shape", found.reshaped), ("type", found.retyped)):
        if named:
            name, change = next(iter(named.items()))
            yield f"{_tensors(len(named))} of other {what}: {printable(name)} is {change}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(map(printable, names[:SHOWN]))}{more}"


def _tensors(count: int) -> str:
    return f"{count} tensor" + ("s" if count != 1 else "")


def _component_move(part: str, tensors: int, moves: Sequence[Move]) -> ComponentMove:
    layers: dict[int, list[Move]] = {}
    for move in moves:
        layer = components.place(move.name).layer
        if layer is not None:
            layers.setdefault(layer, []).append(move)
    norms = [(layer, norm) for layer, of in layers.items() if (norm := _norm(of)) is not None]
    norms.sort(key=lambda pair: (-pair[1], pair[0]))
    largest = [move.largest for move in moves if move.largest is not None]
    return ComponentMove(
        component=part,
        tensors=tensors,
        tensors_moved=len(moves),
        relative_norm=_norm(moves),
        largest=max(largest, default=None),
        largest_layers=tuple(norms[:SHOWN]),
    )


def _norm(moves: Sequence[Move]) -> float | None:
    known = [m for m in moves if m.sum_squares is not None and m.start_sum_squares]
    start = sum(move.start_sum_squares or 0.0 for move in known)
    return sqrt(sum(move.sum_squares or 0.0 for move in known) / start) if start else None


def _difference_record(found: Difference) -> dict[str, Any]:
    return {
        "identical": found.identical,
        "tensors": len(found.tensors),
        "moved": {
            name: {"relative_norm": move.relative_norm, "largest_change": move.largest}
            for name, move in sorted(found.moves.items())
        },
        "missing": list(found.missing),
        "added": list(found.added),
        "reshaped": dict(found.reshaped or {}),
        "retyped": dict(found.retyped or {}),
        "not_finite": list(found.not_finite),
        "doubled": [list(pair) for pair in found.doubled],
    }


def _cell(value: object) -> object:
    if value is None:
        return "NA"
    return f"{value:.6g}" if isinstance(value, float) else value
