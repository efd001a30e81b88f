"""What was learned and forgotten, as weighted sums over the cells of a score matrix.

Nearly every figure of continual learning is linear in the mean scores S[t, b], so a figure is its
weights: `{(t, b): weight}`, t = 0 the base. One definition then serves for the number
(`evaluate`) and for its interval (`harness.analysis.contrasts`). `None` = the figure does not
exist for this course (one stage has no backward transfer), which is not zero.

Signs: positive is better, negative is forgetting. A stage counts each time it trained a target,
so a target taught twice has two terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.analysis.paired import Floats

Weights = Mapping[tuple[int, str], float]


@dataclass(frozen=True, slots=True)
class Course:
    """The order in which one run was taught."""

    trained: tuple[str | None, ...]
    """(T+1,) target of each stage; [0] is the base's and None, as for stages without a target."""
    held_out: tuple[str, ...]
    """Benchmarks that are meant not to be trained on."""

    @property
    def last(self) -> int:
        """T, the number of stages after the base."""
        return len(self.trained) - 1

    @property
    def lessons(self) -> list[tuple[int, str]]:
        """(k, t_k) of every stage that trained a target."""
        return [(k, target) for k, target in enumerate(self.trained) if k > 0 and target]

    def held_out_at(self, t: int) -> list[str]:
        """Held-out benchmarks after stage t: one that is also a target counts until its stage."""
        return [b for b in self.held_out if b not in self.trained[1 : t + 1]]


def evaluate(weights: Weights | None, scores: Callable[[int, str], float]) -> float:
    """The figure's value in the unit of `scores(t, b)`; NaN where it or a cell is missing."""
    if weights is None:
        return float("nan")
    return float(sum(w * scores(t, b) for (t, b), w in weights.items() if w != 0))


def mean_of(terms: Sequence[Weights]) -> Weights | None:
    """The average of several figures; None of none."""
    if not terms:
        return None
    total: dict[tuple[int, str], float] = {}
    for term in terms:
        for cell, weight in term.items():
            total[cell] = total.get(cell, 0.0) + weight / len(terms)
    return {cell: weight for cell, weight in total.items() if abs(weight) > 1e-15}


def change(b: str, start: int, end: int) -> Weights:
    """S[end, b] - S[start, b]."""
    return {(end, b): 1.0, (start, b): -1.0} if start != end else {}


def learning(course: Course) -> Weights | None:
    """Mean over k of S[k, t_k] - S[0, t_k]: what each stage taught, against the base."""
    return mean_of([change(b, 0, k) for k, b in course.lessons])


def immediate_learning(course: Course) -> Weights | None:
    """Mean over k of S[k, t_k] - S[k-1, t_k]."""
    return mean_of([change(b, k - 1, k) for k, b in course.lessons])


def target_forgetting(course: Course, learned: Sequence[int] | None = None) -> Weights | None:
    """Mean over k < T of S[T, t_k] - S[k, t_k]: GEM's backward transfer.

    `learned`: the stages that taught something; the others are left out. None: all.
    """
    kept = [(k, b) for k, b in course.lessons if learned is None or k in learned]
    return mean_of([change(b, k, course.last) for k, b in kept if k < course.last])


def target_overall(course: Course) -> Weights | None:
    """Mean over k of S[T, t_k] - S[0, t_k]: learned and kept."""
    return mean_of([change(b, 0, course.last) for _, b in course.lessons])


def forward_transfer(course: Course) -> Weights | None:
    """Mean over k >= 2 of S[k-1, t_k] - S[0, t_k], against the base's zero-shot score."""
    return mean_of([change(b, 0, k - 1) for k, b in course.lessons if k >= 2])


def held_out_change(course: Course, t: int) -> Weights | None:
    """`heldout_pp[t]`: mean over the held-out benchmarks of S[t, b] - S[0, b]."""
    return mean_of([change(b, 0, t) for b in course.held_out_at(t)])


def held_out_final(course: Course) -> Weights | None:
    """The held-out change after the last stage."""
    return held_out_change(course, course.last) if course.last else None


def held_out_mean(course: Course) -> Weights | None:
    """The mean of the held-out changes over stages 1 to T."""
    steps = [held_out_change(course, t) for t in range(1, course.last + 1)]
    return mean_of([step for step in steps if step is not None])


def held_out_sum(course: Course) -> Weights | None:
    """The sum of the held-out changes over stages 1 to T."""
    steps = [held_out_change(course, t) for t in range(1, course.last + 1)]
    n = sum(step is not None for step in steps)
    mean = held_out_mean(course)
    return None if mean is None else {cell: weight * n for cell, weight in mean.items()}


def average_accuracy(course: Course) -> Weights | None:
    """ACC: mean over targets of S[T, t_j]."""
    return mean_of([{(course.last, b): 1.0} for _, b in course.lessons])


def average_incremental_accuracy(course: Course) -> Weights | None:
    """MAA: mean over stages t of the mean over j <= t of S[t, t_j]."""
    steps = []
    for t, _ in course.lessons:
        step = mean_of([{(t, b): 1.0} for k, b in course.lessons if k <= t])
        steps += [step] if step else []
    return mean_of(steps)


def chaudhry_forgetting(course: Course, scores: Callable[[int, str], float]) -> Weights | None:
    """Mean over j < T of S[T, t_j] - max over j <= l < T of S[l, t_j].

    The maximum is chosen from the data, which makes it negative also where nothing changed (-0.6
    to -1.5 points on 765 samples): report it, never decide by it.
    """
    terms = []
    for j, b in course.lessons:
        if j < course.last:
            seen = [scores(stage, b) for stage in range(j, course.last)]
            if np.isnan(seen).any():
                terms.append(change(b, j, course.last))  # its missing cell makes the figure NA
            else:
                terms.append(change(b, j + int(np.argmax(seen)), course.last))
    return mean_of(terms)


def worst_stage(course: Course, scores: Callable[[int, str], float]) -> int | None:
    """The stage with the lowest held-out change (the first of equals); None if any is NA."""
    curve = [evaluate(held_out_change(course, t), scores) for t in range(1, course.last + 1)]
    if not curve or np.isnan(curve).any():
        return None
    return 1 + int(np.argmin(curve))


def worst_benchmark(course: Course, scores: Callable[[int, str], float]) -> str | None:
    """The held-out benchmark with the lowest change at the last stage; None if any is NA."""
    there = course.held_out_at(course.last) if course.last else []
    changes = [evaluate(change(b, 0, course.last), scores) for b in there]
    if not changes or np.isnan(changes).any():
        return None
    return there[int(np.argmin(changes))]


FIGURES: Mapping[str, Callable[[Course], Weights | None]] = {
    "learning": learning,
    "immediate_learning": immediate_learning,
    "target_forgetting": target_forgetting,
    "target_overall": target_overall,
    "forward_transfer": forward_transfer,
    "heldout_final": held_out_final,
    "heldout_mean": held_out_mean,
    "heldout_sum": held_out_sum,
    "average_accuracy": average_accuracy,
    "average_incremental_accuracy": average_incremental_accuracy,
}


def matrix_figures(
    matrix: Floats, trained: Sequence[int | None], held_out: Sequence[int]
) -> dict[str, float]:
    """All figures of one score matrix, without intervals.

    `matrix`: (T+1, n_benchmarks) scores, row 0 the base; NaN = missing. `trained`: (T+1,) column
    of each stage's target, [0] None. `held_out`: columns. The result is in the matrix's unit; NaN
    where a figure does not exist or needs a missing cell. `worst_stage` and `worst_benchmark` are
    row and column numbers.
    """
    names = tuple(None if b is None else str(b) for b in trained)
    course = Course(names, tuple(str(b) for b in held_out))

    def scores(t: int, b: str) -> float:
        return float(matrix[t, int(b)])

    figures = {name: evaluate(figure(course), scores) for name, figure in FIGURES.items()}
    figures["chaudhry_forgetting"] = evaluate(chaudhry_forgetting(course, scores), scores)
    stage, bench = worst_stage(course, scores), worst_benchmark(course, scores)
    nan = float("nan")
    figures["worst_stage"] = nan if stage is None else stage
    figures["heldout_worst"] = (
        nan if stage is None else evaluate(held_out_change(course, stage), scores)
    )
    figures["worst_benchmark"] = nan if bench is None else int(bench)
    figures["worst_benchmark_change"] = (
        nan if bench is None else evaluate(change(bench, 0, course.last), scores)
    )
    return figures


def chance_adjusted(score: float, chance: float) -> float:
    """(S - c) / (1 - c): 0 = guessing, 1 = perfect; NaN where guessing is always right.

    >>> chance_adjusted(0.625, 0.25)
    0.5
    """
    return (score - chance) / (1 - chance) if chance < 1 else float("nan")


def headroom_normalised(
    base: float, now: float, chance: float, base_low: float | None = None
) -> float:
    """A loss as a share of what could be lost, a gain as a share of what could be gained.

    Loss: (S_t - S_0) / (S_0 - c); gain: (S_t - S_0) / (1 - S_0). NaN when the base is at chance:
    its score, or the lower limit `base_low` of it, is not above chance.

    >>> headroom_normalised(0.75, 0.5, 0.25)
    -0.5
    """
    if not (base if base_low is None else base_low) > chance:
        return float("nan")
    if now < base:
        return (now - base) / (base - chance)
    return (now - base) / (1 - base) if base < 1 else 0.0


def pareto(learned: Floats, kept: Floats) -> list[bool]:
    """Which points (n,) no other beats: none is at least as good in both and better in one.

    A point with a NaN is never on the front and beats none.
    """
    points = np.column_stack([learned, kept])
    known = np.asarray(np.isfinite(points).all(axis=1))
    flags = []
    for i, point in enumerate(points):
        better = (points >= point).all(axis=1) & (points > point).any(axis=1) & known
        flags.append(bool(known[i] and not better.any()))
    return flags
