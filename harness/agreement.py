"""Agreement: do two engines give the same answers to the same requests?"""

from __future__ import annotations

from dataclasses import dataclass

from harness.plan import Cell
from harness.scoring.grade import chosen
from harness.storage.store import Store
from harness.study import OpenStudy

# Disagreements shown in full.
MAX_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Agreement:
    """Counts over all cells that both engines sealed, and the first answers that differ."""

    first: str
    second: str
    n: int
    n_different: int
    examples: tuple[tuple[str, str, str, str, str], ...]
    """(checkpoint folder, task, sample id, first engine's answer, second engine's answer)."""


def disagreements(first: OpenStudy, second: OpenStudy) -> Agreement:
    """Compares the stored answers of one study under two engines, cell by cell."""
    cells = {
        (cell.checkpoint.fingerprint, cell.task): cell
        for cell in second.plan.cells
        if cell.kind is None
    }
    n, examples = 0, []
    for cell in first.plan.cells:
        other = cells.get((cell.checkpoint.fingerprint, cell.task))
        if cell.again or cell.kind or other is None:
            continue
        ours, theirs = _answers(first.store, cell), _answers(second.store, other)
        name = cell.checkpoint.path.rstrip("/").rpartition("/")[2]
        for sample_id in sorted(ours.keys() & theirs.keys()):
            n += 1
            if ours[sample_id] != theirs[sample_id]:
                examples.append((name, cell.task, sample_id, ours[sample_id], theirs[sample_id]))
    return Agreement(
        first.manifest.engine.kind,
        second.manifest.engine.kind,
        n,
        len(examples),
        tuple(examples[:MAX_EXAMPLES]),
    )


def _answers(store: Store, cell: Cell) -> dict[str, str]:
    if not store.is_sealed(cell.task, cell.id):
        return {}
    table = store.read_cell(cell.task, cell.id)[0]
    return {
        row["sample_id"]: chosen(row["text"], row["choice_scores"])
        if row["status"] == "ok"
        else f"failed: {row['reason']}"
        for row in table.to_pylist()
    }
