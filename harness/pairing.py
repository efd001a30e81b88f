"""A pairing: which checkpoints a gate puts side by side, run by run.

Checkpoints are named `NAME[/RUN][@STAGE]`: a strategy (or `base`), one of its runs, and a stage by
number or by name. Without a run all runs of the strategy are meant, without a stage the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.scores import BASE, Stage, StudyScores
from harness.errors import UserError, did_you_mean


@dataclass(frozen=True, slots=True)
class Pairing:
    """The checkpoints on both sides."""

    candidates: tuple[Stage, ...]
    """One per run."""
    bases: tuple[Stage, ...]
    """(as many) stage 0 of each candidate's run: what learning is measured against."""
    baselines: tuple[Stage, ...]
    paired: bool
    """Whether candidate i belongs to baseline i (else two independent sets of runs)."""


def find_stages(scores: StudyScores, spec: str) -> dict[str, Stage]:
    """run -> stage that `NAME[/RUN][@STAGE]` means; STAGE by number or name, the last by default.

    Without a run: that stage of every run. `base` is the shared base. Names that hold `@` or `/`
    themselves are tried as a whole first. Raises UserError that lists what there is.
    """
    name, _, wanted = spec.rpartition("@") if not _runs_of(scores, spec) else (spec, "", "")
    if not name:
        name, wanted = spec, ""
    runs = _runs_of(scores, name)
    if not runs:
        known = sorted({stage.key.strategy for stage in scores.stages})
        listed = f"; it has {', '.join(known)}"
        text = f"study {scores.study} has no strategy or run {name!r}{listed}"
        raise UserError(f"checkpoint {spec!r}", f"{text}{did_you_mean(name, known)}")
    found = {run: _stage_of(steps, wanted) for run, steps in runs.items()}
    missing = [run for run, stage in found.items() if stage is None]
    if missing:
        steps = runs[missing[0]]
        listing = ", ".join(f"{s.key.stage} ({s.name})" for s in steps)
        near = did_you_mean(wanted, [s.name for s in steps])
        raise UserError(
            f"checkpoint {spec!r}",
            f"no stage {wanted!r} in {name} run {', '.join(missing)}{near}; stages: {listing}",
        )
    return {run: stage for run, stage in found.items() if stage is not None}


def _runs_of(scores: StudyScores, name: str) -> dict[str, list[Stage]]:
    """run -> stages of the strategy `name`, or of `strategy/run`; empty if there is none."""
    if name == BASE:
        shared = [stage for stage in scores.stages if stage.key.strategy == BASE]
        return {"": shared} if shared else {}
    runs = scores.runs()
    found = {run: list(steps) for (strategy, run), steps in runs.items() if strategy == name}
    if found:
        return found
    return {
        run: list(steps) for (strategy, run), steps in runs.items() if f"{strategy}/{run}" == name
    }


def _stage_of(steps: Sequence[Stage], wanted: str) -> Stage | None:
    """The stage of a run called `wanted` ("" = the last); None if there is none."""
    if not wanted or wanted == "last":
        return steps[-1]
    by_number = [stage for stage in steps if str(stage.key.stage) == wanted]
    by_name = [stage for stage in steps if stage.name == wanted]
    # A target may be taught twice; its later stage is meant then, as `last` would be.
    return next(iter([*by_number, *by_name[::-1]]), None)


def pair_stages(scores: StudyScores, candidate: str, baseline: str | None) -> Pairing:
    """Put each run's candidate beside what it is compared with (None: its run's stage 0).

    A baseline of one run serves all runs; several runs are matched by name if all have a partner.
    Raises UserError.
    """
    theirs = find_stages(scores, candidate)
    runs = scores.runs()
    bases = {
        run: runs[stage.key.strategy, run][0] if (stage.key.strategy, run) in runs else stage
        for run, stage in theirs.items()
    }
    own_base = baseline is None or (baseline == BASE and not _runs_of(scores, BASE))
    ours = bases if own_base else find_stages(scores, baseline or BASE)
    if len(ours) == 1:
        ours = dict.fromkeys(theirs, next(iter(ours.values())))
    if {stage.key for stage in theirs.values()} & {stage.key for stage in ours.values()}:
        name = candidate.partition("@")[0]
        raise UserError(
            f"candidate {candidate!r}",
            f"is the baseline itself. Cure: name another stage, {name}@STAGE",
        )
    paired = theirs.keys() == ours.keys()
    return Pairing(
        candidates=tuple(theirs.values()),
        bases=tuple(bases.values()),
        baselines=tuple(ours[run] for run in theirs) if paired else tuple(ours.values()),
        paired=paired,
    )
