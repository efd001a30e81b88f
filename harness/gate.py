"""The gate: may this checkpoint ship? A verdict per benchmark and for their mean; an exit code.

A candidate is compared with a baseline sample by sample. Every row has to show that the loss stays
within its margin ("no benchmark lost more than the margin": each at the level, no correction);
what cannot be shown either way is inconclusive, and what was not measured is missing. Neither is
ever counted as a pass of its own accord.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.analysis.contrasts import CellWeights, check_overlap, estimate
from harness.analysis.flips import flips
from harness.analysis.matrix import Judged, label, scorer_of
from harness.analysis.multiple import holm
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import PairedDifference, not_available
from harness.analysis.scores import FAILED, SCORED, Stage, StageKey, StudyScores
from harness.analysis.verdicts import samples_to_decide, verdict
from harness.errors import EXIT_INCONCLUSIVE, EXIT_OK, EXIT_REGRESSION, UserError
from harness.pairing import Pairing
from harness.policy import Inconclusive, Policy

Outcome = Literal["regression", "missing", "inconclusive", "pass"]
# Worst first.
OUTCOMES: tuple[Outcome, ...] = ("regression", "missing", "inconclusive", "pass")
EXAMPLES = 3
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Flip:
    """A sample whose answer got another score, with the words that show why."""

    sample_id: str
    question: str
    before: str
    after: str
    gold: str
    score_before: float
    score_after: float


@dataclass(frozen=True, slots=True)
class GateRow:
    """One judgement of the gate."""

    kind: Literal["benchmark", "mean", "learning"]
    name: str
    role: str
    outcome: Outcome
    what: str
    """The verdict in words, with what would decide it or why it is missing."""
    difference: PairedDifference
    margin_pp: float
    """The loss that is accepted; for `learning` the gain that is asked for."""
    lost: int | None = None
    """Answers right before and wrong after, in the first run; None for several benchmarks."""
    gained: int | None = None
    samples_needed: int | None = None
    """How many samples would decide an inconclusive row; None = not inconclusive, or unknown."""
    flips: tuple[Flip, ...] = ()
    p_holm: float = float("nan")
    """Of benchmarks: p-value against no change, corrected for their number. No verdict uses it:
    it answers "did some benchmark change?", not "is each within its margin?"."""

    @property
    def sentence(self) -> str:
        """The row as one line of text."""
        d = self.difference
        if np.isnan(d.delta):
            return f"{self.name}: {self.what}"
        interval = f" [{100 * d.low:+.2f}, {100 * d.high:+.2f}]" if d.known else ""
        asked = "minimum" if self.kind == "learning" else "margin"
        return (
            f"{self.name}: {100 * d.delta:+.2f} pp{interval}, {asked} {self.margin_pp:g} pp, "
            f"{d.n_samples:,} samples: {self.what}"
        )


@dataclass(frozen=True, slots=True)
class GateResult:
    """All rows, worst first."""

    study: str
    candidate: str
    baseline: str
    scorer: str
    level: float
    inconclusive: Inconclusive
    rows: tuple[GateRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 pass, 1 a regression, 3 something missing, or inconclusive where that fails."""
        found = {row.outcome for row in self.rows}
        if "regression" in found:
            return EXIT_REGRESSION
        if "missing" in found or ("inconclusive" in found and self.inconclusive == "fail"):
            return EXIT_INCONCLUSIVE
        return EXIT_OK

    @property
    def headline(self) -> str:
        """`PASS`, or how many rows are not."""
        counts = [
            f"{n} {words}"
            for outcome, words in (
                ("regression", "regressed"),
                ("missing", "missing"),
                ("inconclusive", "inconclusive"),
            )
            if (n := sum(row.outcome == outcome for row in self.rows))
        ]
        verdict = {EXIT_OK: "PASS", EXIT_REGRESSION: "FAIL"}.get(self.exit_code, "NOT DECIDED")
        return f"{verdict} ({', '.join(counts)} of {len(self.rows)})" if counts else verdict

    def as_dict(self) -> dict[str, Any]:
        """JSON values; NA is null."""
        return {
            "study": self.study,
            "candidate": self.candidate,
            "baseline": self.baseline,
            "scorer": self.scorer,
            "level": self.level,
            "inconclusive": self.inconclusive,
            "exit_code": self.exit_code,
            "headline": self.headline,
            "notes": list(self.notes),
            "rows": [_row_dict(row) for row in self.rows],
        }


def _row_dict(row: GateRow) -> dict[str, Any]:
    d = row.difference

    def points(share: float) -> float | None:
        return round(100 * share, 6) if np.isfinite(share) else None

    return {
        "kind": row.kind,
        "name": row.name,
        "role": row.role,
        "outcome": row.outcome,
        "what": row.what,
        "delta_pp": points(d.delta),
        "ci_low_pp": points(d.low),
        "ci_high_pp": points(d.high),
        "lower_bound_pp": points(d.lower),
        "upper_bound_pp": points(d.upper),
        "p_value": d.p_value if np.isfinite(d.p_value) else None,
        "p_holm": row.p_holm if np.isfinite(row.p_holm) else None,
        "method": d.method,
        "n_samples": d.n_samples,
        "n_groups": d.n_groups,
        "n_dropped": d.n_dropped,
        "margin_pp": row.margin_pp,
        "samples_needed": row.samples_needed,
        "lost": row.lost,
        "gained": row.gained,
        "flips": [
            {name: getattr(flip, name) for name in Flip.__dataclass_fields__} for flip in row.flips
        ],
    }


# --- judging -------------------------------------------------------------------------------------


def judge_gate(
    scores: StudyScores,
    pairing: Pairing,
    policy: Policy,
    options: JudgeOptions,
) -> GateResult:
    """Judge every benchmark that is no probe, the mean, and the learning that the policy asks for.

    The mean is over the held-out benchmarks; over all of them in a study that holds none out.
    Probes count where the policy names them. Of `options` the scorer, the level and the share of
    samples that may be dropped apply. Raises UserError when nothing can be judged, and
    IncompatibleError when the sides were made under different settings or on different samples.
    """
    judged = Judged(scores, scorer_of(scores, options.scorer))
    gate = _Gate(judged, pairing, policy, options)
    named = {*policy.required, *policy.margins}
    names = [n for n, b in scores.benchmarks.items() if b.role != "probe" or n in named]
    absent = [name for name in policy.required if name not in scores.benchmarks]
    if not names and not absent:
        raise UserError(f"study {scores.study}", "has no benchmark to judge")
    judged.check_settings([*names, *policy.minimum_learning], gate.keys)
    rows = [gate.benchmark(name) for name in names]
    corrected = holm([row.difference.p_value for row in rows])
    rows = [replace(row, p_holm=float(p)) for row, p in zip(rows, corrected, strict=True)]
    held_out = [row for row in rows if row.role == "held_out"]
    if len(rows) > 1:
        which = "held-out" if held_out else ""
        rows.append(gate.mean([row.name for row in held_out or rows], which))
    rows += [_missing("benchmark", name, "", "the study has no such benchmark") for name in absent]
    rows += [gate.learning(name, asked) for name, asked in policy.minimum_learning.items()]
    return GateResult(
        study=scores.study,
        candidate=_side(pairing.candidates),
        baseline=_side(pairing.baselines),
        scorer=judged.scorer,
        level=options.level,
        inconclusive=policy.inconclusive,
        rows=tuple(sorted(rows, key=_badness)),
        notes=(_runs_note(pairing), *scores.ungraded.values()),
    )


def _runs_note(pairing: Pairing) -> str:
    """What was varied, and what was not."""
    n, m = len(pairing.candidates), len({stage.key for stage in pairing.baselines})
    if n == 1 and m == 1:
        return "1 run: the intervals cover the choice of samples, not of the training run"
    if pairing.paired:
        return f"means over {n} runs: the intervals cover the choice of samples and of runs"
    return f"{n} against {m} runs that do not match by name: compared as independent sets"


def _badness(row: GateRow) -> tuple[int, float, str]:
    """Sort key: the worst outcome first, then the largest loss."""
    delta = row.difference.delta
    return OUTCOMES.index(row.outcome), -np.inf if np.isnan(delta) else float(delta), row.name


def _side(stages: Sequence[Stage]) -> str:
    """`llm@2`; several runs: `llm@2 (3 runs)` where they mean the same stage."""
    keys = list(dict.fromkeys(stage.key for stage in stages))
    if len(keys) == 1:
        return label(keys[0])
    numbers = {key.stage for key in keys}
    where = f"@{numbers.pop()}" if len(numbers) == 1 else ""
    return f"{keys[0].strategy}{where} ({len(keys)} runs)"


def _missing(
    kind: Literal["benchmark", "mean", "learning"], name: str, role: str, why: str
) -> GateRow:
    return GateRow(kind, name, role, "missing", f"missing: {why}", not_available(why), float("nan"))


@dataclass(frozen=True, slots=True)
class _Gate:
    """What every row is judged with."""

    judged: Judged
    pairing: Pairing
    policy: Policy
    options: JudgeOptions

    @property
    def keys(self) -> set[StageKey]:
        """Every checkpoint that takes part."""
        p = self.pairing
        return {stage.key for stage in (*p.candidates, *p.baselines, *p.bases)}

    def benchmark(self, name: str) -> GateRow:
        """The candidate against the baseline on one benchmark."""
        role = self.judged.scores.benchmarks[name].role
        margin = self.policy.margin_of(name)
        baselines = self.pairing.baselines
        if why := self._lacking(name, baselines):
            return replace(_missing("benchmark", name, role, why), margin_pp=margin)
        difference = self._difference([name], baselines, paired=self.pairing.paired)
        row = self._row("benchmark", name, role, difference, margin)
        keys = [baselines[0].key, self.pairing.candidates[0].key]
        before, after = self.judged.columns(name, keys).T
        counts = flips(before, after)
        shown = self._examples(name, before, after)
        return replace(row, lost=counts.lost, gained=counts.gained, flips=shown)

    def mean(self, names: Sequence[str], which: str) -> GateRow:
        """The mean over benchmarks; refused while one of them is missing."""
        noun = "benchmark" if len(names) == 1 else "benchmarks"
        title = f"mean of {len(names)} {which} {noun}" if which else f"mean of {len(names)} {noun}"
        gone = [name for name in names if self._lacking(name, self.pairing.baselines)]
        if gone:
            row = _missing("mean", title, "", f"not all benchmarks measured ({', '.join(gone)})")
            return replace(row, margin_pp=self.policy.margin)
        difference = self._difference(names, self.pairing.baselines, paired=self.pairing.paired)
        return self._row("mean", title, "", difference, self.policy.margin)

    def learning(self, name: str, asked_pp: float) -> GateRow:
        """Whether the target gained at least `asked_pp` points over the base."""
        role = self.judged.scores.benchmarks[name].role
        title = f"{name} learned"
        if why := self._lacking(name, self.pairing.bases):
            return replace(_missing("learning", title, role, why), margin_pp=asked_pp)
        difference = self._difference([name], self.pairing.bases, paired=True)
        outcome: Outcome = "inconclusive"
        if difference.known and difference.lower >= asked_pp / 100:
            outcome, what = "pass", "learned enough"
        elif difference.known and difference.upper < asked_pp / 100:
            outcome, what = "regression", "learned too little"
        needed = None
        if outcome == "inconclusive":
            # Gaining at least m is losing at most -m: decided by the same bounds.
            needed = samples_to_decide(difference, -asked_pp)
            what = _undecided(needed)
        return GateRow(
            "learning", title, role, outcome, what, difference, asked_pp, samples_needed=needed
        )

    def _row(
        self,
        kind: Literal["benchmark", "mean"],
        name: str,
        role: str,
        difference: PairedDifference,
        margin_pp: float,
    ) -> GateRow:
        said = verdict(difference, margin_pp, strict=self.policy.strict)
        outcome: Outcome = "pass" if said in ("improved", "retained") else "inconclusive"
        outcome = "regression" if said == "regressed" else outcome
        needed = samples_to_decide(difference, margin_pp) if outcome == "inconclusive" else None
        decided = outcome != "inconclusive"
        what = _decided(difference, margin_pp, said) if decided else _undecided(needed)
        return GateRow(
            kind, name, role, outcome, what, difference, margin_pp, samples_needed=needed
        )

    def _lacking(self, name: str, baselines: Sequence[Stage]) -> str:
        """Why the benchmark cannot be judged, or ""."""
        bench = self.judged.scores.benchmarks[name]
        for side in (*self.pairing.candidates, *baselines):
            if not self.judged.has(name, side.key):
                return f"no scores of {label(side.key)} {self.judged.elsewhere(bench)}".rstrip()
            status = bench.status[:, bench.columns.index(side.key)]
            failed, scored = int((status == FAILED).sum()), int((status == SCORED).sum())
            if failed > self.options.max_dropped * (failed + scored):
                return f"{failed:,} of {failed + scored:,} answers of {label(side.key)} failed"
        return ""

    def _difference(
        self, names: Sequence[str], before: Sequence[Stage], *, paired: bool
    ) -> PairedDifference:
        """The mean over benchmarks (and runs) of candidate minus `before`."""
        after = self.pairing.candidates
        for name in names:
            keys = [stage.key for stage in (*before, *after)]
            check_overlap(self.judged, name, keys, self.options.max_dropped)

        def side(stage: Stage, sign: int) -> dict[tuple[StageKey, str], float]:
            return {(stage.key, name): sign / len(names) for name in names}

        level = self.options.level
        if not paired:
            ups, downs = [side(s, 1) for s in after], [side(s, 1) for s in before]
            return estimate(self.judged, ups, against=downs, level=level)
        pairs: list[CellWeights] = [
            side(old, -1) | side(new, 1) for old, new in zip(before, after, strict=True)
        ]
        return estimate(self.judged, pairs, level=level)

    def _examples(self, name: str, before: Floats, after: Floats) -> tuple[Flip, ...]:
        """Up to three samples whose score changed: the largest losses, then the largest gains."""
        bench, texts = self.judged.scores.benchmarks[name], self.judged.scores.texts
        change = after - before
        changed = np.flatnonzero(np.isfinite(change) & (change != 0))
        gains = change[changed] > 0
        order = np.lexsort((bench.sample_ids[changed], -np.abs(change[changed]), gains))
        shown = []
        for i in changed[order[:EXAMPLES]]:
            sample = str(bench.sample_ids[i])
            words = ("", "", "", "")
            if texts is not None:
                words = (
                    texts.question(name, sample),
                    texts.response(self.pairing.baselines[0].key, name, sample),
                    texts.response(self.pairing.candidates[0].key, name, sample),
                    texts.gold(name, sample),
                )
            shown.append(Flip(sample, *words, float(before[i]), float(after[i])))
        return tuple(shown)


def _decided(difference: PairedDifference, margin_pp: float, said: str) -> str:
    """The verdict, with the one-sided limit that it follows from where the interval hides that."""
    margin = -margin_pp / 100
    if said == "regressed" and difference.high >= margin > difference.upper:
        return f"{said} (one-sided limit {100 * difference.upper:+.2f})"
    if said in ("improved", "retained") and difference.low < margin <= difference.lower:
        return f"{said} (one-sided limit {100 * difference.lower:+.2f})"
    return said


def _undecided(needed: int | None) -> str:
    return "inconclusive" + (f"; about {needed:,} samples would decide" if needed else "")
