"""One sentence per strategy: the words follow the numbers, never the other way round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.analysis.figures import StrategyFigures
from harness.analysis.options import JudgeOptions
from harness.analysis.paired import PairedDifference
from harness.analysis.verdicts import verdict

# Typographic signs in texts for people.
SIGNS = str.maketrans({"-": "−", "i": "∞", "n": None, "f": None})
ONE_RUN = "1 run: the interval covers the choice of samples, not of the training run"


def points(value: float) -> str:
    """A fraction as signed points: `+14.1`, `−0.5`, `NA`."""
    if np.isnan(value):
        return "NA"
    rounded = round(100 * value, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as per cent: `62`, `−15`, `∞` for a limit that does not exist, `NA`."""
    if np.isnan(share):
        return "NA"
    return (f"{100 * share:.0f}" if np.isfinite(share) else str(share)).translate(SIGNS)


def with_interval(found: PairedDifference) -> str:
    """`+14.1 pp [+12.0, +16.2]`, or `NA` with the reason."""
    if np.isnan(found.delta):
        return f"NA ({found.method})"
    if not found.known:
        return f"{points(found.delta)} pp [no interval: {found.method}]"
    return f"{points(found.delta)} pp [{points(found.low)}, {points(found.high)}]"


def sentence(found: StrategyFigures, options: JudgeOptions, by_run: Sequence[float]) -> str:
    """What the numbers say about one strategy. `by_run`: its final held-out change in each run."""
    parts = [_learning(found), _held_out(found, options), _recovery(found)]
    return f"{found.strategy.name}: " + "; ".join([*filter(None, parts), runs_phrase(by_run)]) + "."


def runs_phrase(by_run: Sequence[float]) -> str:
    """What the intervals cover, and how far the runs are apart."""
    if len(by_run) <= 1:
        return ONE_RUN
    known = [value for value in by_run if not np.isnan(value)]
    spread = f"; held-out by run {', '.join(points(value) for value in known)}" if known else ""
    return f"{len(by_run)} runs: the intervals cover samples and training runs{spread}"


def _learning(found: StrategyFigures) -> str:
    gain = found.figures["learning"]
    if not found.strategy.runs[0].course.lessons:
        return "no target to learn"
    if gain.known and gain.low <= 0 <= gain.high:
        return f"learned nothing beyond chance: {with_interval(gain)}"
    return f"learned {with_interval(gain)}"


def _held_out(found: StrategyFigures, options: JudgeOptions) -> str:
    final, worst = found.figures["heldout_final"], found.figures["heldout_worst"]
    if not any(run.course.held_out for run in found.strategy.runs):
        return "no held-out benchmark to forget"
    word = verdict(final, options.margin_pp, strict=options.strict)
    text = f"held-out {with_interval(final)} at the last stage"
    if word != "NA":
        text += f", {word}"
    if found.worst_stage is not None and not np.isnan(worst.delta):
        text += f" (worst {points(worst.delta)} after {found.worst_stage})"
    return text


def _recovery(found: StrategyFigures) -> str:
    if found.strategy.last < 2:
        return ""
    back = found.recovery
    if back is None or found.dip is None:
        return f"recovery NA: {found.recovery_note}"
    dip, after = found.strategy.stage_name(found.dip), found.strategy.stage_name(found.dip + 1)
    if np.isnan(back.fraction):
        return f"recovery after {dip} NA: {back.note}"
    share = (
        f"{percent(back.fraction)} % [{percent(back.low)}, {percent(back.high)}] "
        f"of the loss after {dip}"
    )
    if back.points.low > 0:
        return f"recovers {with_interval(back.points)} at {after}, {share}"
    if back.points.high < 0:
        return f"falls further at {after}: {with_interval(back.points)}"
    return f"no recovery beyond chance at {after}: {with_interval(back.points)}"


def comparison_sentence(
    one: str, other: str, differences: Mapping[str, PairedDifference], n_runs: tuple[int, int]
) -> str:
    """How two strategies differ, and what was varied; never `better` on one run of each."""
    balance = differences["balance"]
    text = (
        f"{one} against {other}: learning {with_interval(differences['learning'])}, "
        f"held-out at the last stage {with_interval(differences['heldout_final'])}, "
        f"balance {with_interval(balance)}"
    )
    ours, theirs = n_runs
    counts = f"{ours} runs of each" if ours == theirs else f"{ours} and {theirs} runs"
    counts = counts.replace("1 runs of", "1 run of")
    if min(n_runs) == 1:
        return (
            f"{text}; {counts}: samples were varied, training runs were not, so another seed may "
            "turn it round."
        )
    if not balance.known or balance.low <= 0 <= balance.high:
        return f"{text}; over {counts} neither is better beyond chance."
    winner = one if balance.delta > 0 else other
    return f"{text}; over {counts} {winner} is better."
