"""The words of drift: the few facts that explain a stage, each said only where it is proven."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.analysis.paired import PairedDifference
from harness.analysis.shifts import Shift, proven

if TYPE_CHECKING:
    from harness.analysis.drift import StageDrift

# Facts told of a stage beside its change: more would bury the ones that matter.
SHOWN_FACTS = 3
# Percent of a loss that must be of one part before that part is named.
TOLD_SHARE = 10
# Shifts that are told, in this order. Of one distribution (letters, counts) only the largest is:
# what one option gains the others lose.
_TOLD = (r"misfit_.*", r"says_[a-h]", r"says_yes", r"count_.*")
_ONE_DISTRIBUTION = (r"says_[a-h]", r"count_.*")


def sentence(found: StageDrift, later: Sequence[StageDrift] = ()) -> str:
    """The few facts that explain the held-out change of one stage.

    `later`: the same runs' later stages, in order, in which recovery is looked for.
    """
    who = found.path.strategy.name
    if len(found.path.strategy.runs) > len(found.path.runs):
        who += f"/{found.path.run}"
    facts = [
        _held_out_fact(found),
        *_loss_facts(found),
        *_choice_fact(found),
        *_trait_facts(found),
        *_probe_facts(found),
    ]
    if found.held_out.high < 0:
        facts += _recovery_fact(found, later)
    return f"{who}, after `{found.stage_name}`: " + "; ".join(facts)


def _held_out_fact(found: StageDrift) -> str:
    change = found.held_out
    if np.isnan(change.delta):
        return "held-out change NA (a cell is missing)"
    text = f"held-out {_pp(change.delta)} pp{_interval(change)}"
    return text if proven(change) else f"{text}, within chance"


def _loss_facts(found: StageDrift) -> Iterator[str]:
    """How much of the loss is form, and the benchmark that lost most."""
    if found.held_out.high < 0 and not np.isnan(found.form.delta):
        parts = [
            (found.superficial, "right answers in other words"),
            (found.wrong_kind, "answers of a type that does not fit"),
        ]
        named = [
            f"{words} {_pp(part.delta)}"
            for part, words in parts
            if 100 * part.delta / found.held_out.delta >= TOLD_SHARE
        ]
        yield _form(found.held_out, found.form, "the held-out loss", ", ".join(named))
    worst = f"`{found.worst}`"
    if found.worst_change.high < 0 and found.worst_form.high < 0:
        yield _form(found.worst_change, found.worst_form, f"the loss on {worst}")
    elif found.worst_change.high < 0:
        yield f"most on {worst}: {_pp(found.worst_change.delta)} pp{_interval(found.worst_change)}"


def _form(change: PairedDifference, form: PairedDifference, what: str, named: str = "") -> str:
    parts = f"{_pp(form.delta)} of {_pp(change.delta)} pp{_interval(form)}"
    if not form.high < 0:
        return f"none of {what} is proven to be format ({parts})"
    return f"{_share(form, change)} % of {what} is format ({parts}{': ' if named else ''}{named})"


def _share(part: PairedDifference, whole: PairedDifference) -> str:
    return f"{100 * min(1.0, max(0.0, part.delta / whole.delta)):.0f}"


def _choice_fact(found: StageDrift) -> Iterator[str]:
    """What free answering lost of what the likelihood of the options still tells."""
    given, known, gap = (
        found.shift(name) for name in ("generated_accuracy", "choice_accuracy", "choice_gap")
    )
    if not (given and known and given.change.high < 0):
        return
    text = (
        f"on questions with options {_pp(given.change.delta)} pp as answered and "
        f"{_pp(known.change.delta)} pp{_interval(known.change)} by the likelihood of the options"
    )
    if gap and gap.change.high < 0:
        share = _share(gap.change, given.change)
        text += f", so {share} % of that loss is format ({_pp(gap.change.delta)} pp"
        text += f"{_interval(gap.change)})"
    yield text


def _trait_facts(found: StageDrift) -> Iterator[str]:
    """The habits that changed most, those of the stage's own style and the mass first."""
    first = [f"misfit_{found.style}"] if found.style else []
    if found.style in ("integer", "decimal", ""):
        first = ["bare_number"]
    rest: list[str] = []
    for pattern in _TOLD:
        names = [s.measure for s in found.shifts if re.fullmatch(pattern, s.measure)]
        rest += names[:1] if pattern in _ONE_DISTRIBUTION else names
    # A bare number is an integer where none fits: one fact, told once.
    double = {"misfit_integer"} if "bare_number" in first else {"bare_number"}
    told = 0
    for name in dict.fromkeys([*first, *rest, "words"]):
        shift = found.shift(name)
        if told < SHOWN_FACTS and shift and shift.proven and name not in double:
            yield _words(shift, found.style)
            told += 1
    mass = found.shift("number_mass")
    if mass and mass.proven:
        yield f"number mass {_mass(mass)}"


def _probe_facts(found: StageDrift) -> Iterator[str]:
    """What the distributions say on the same words, and in the reference study's form."""
    parts = []
    mass, kl, same = (
        found.shift(name) for name in ("forced_number_mass", "kl_forward", "top1_agreement")
    )
    if mass and mass.proven:
        parts.append(f"number mass {_mass(mass)}")
    if kl and kl.proven:
        parts.append(f"KL to the base {kl.after:.2f} nats{_interval(kl.change, '')}")
    if same and same.proven:
        parts.append(f"the base's token is the likeliest at {100 * same.after:.1f} % of positions")
    if parts:
        yield "on the base's own answers: " + ", ".join(parts)
    free = found.shift("free_number_mass")
    if free and free.proven:
        yield f"free-running, as the reference study measures: number mass {_mass(free)}"


def _mass(shift: Shift) -> str:
    return f"{shift.before:.2f} → {shift.after:.2f}{_interval(shift.change, '')}"


def _words(shift: Shift, style: str) -> str:
    before, after = (f"{100 * share:.1f}" for share in (shift.before, shift.after))
    kind, _, what = shift.measure.partition("_")
    if shift.measure == "bare_number":
        return f"{after} % of answers to other questions are bare numbers (base {before} %)"
    if shift.measure == "words":
        return f"answers of {after} words (base {before})"
    if kind == "says":
        asked = "yes/no questions" if what == "yes" else "choice questions"
        return f"{after} % of answers to {asked} say {what!r} (base {before} %)"
    if kind == "count":
        number = what.replace("_up", " or more")
        return f"{after} % of answers to counting questions say {number} (base {before} %)"
    like = ", the type just trained" if what == style else ""
    noun = what.replace("_", "/")
    return f"{after} % of answers are of type {noun} where it does not fit{like} (base {before} %)"


def _recovery_fact(found: StageDrift, later: Sequence[StageDrift]) -> Iterator[str]:
    """The next later stage that won held-out points back, and what became of the numbers."""
    back = next((stage for stage in later if stage.since.low > 0), None)
    if back is None:
        if later:
            yield "not recovered at a later stage"
        return
    text = f"recovered at `{back.stage_name}` ({_pp(back.since.delta)} pp{_interval(back.since)}"
    for name, title in (("bare_number", "bare numbers"), ("number_mass", "number mass")):
        then, now = found.shift(name), back.shift(name)
        if then and now and then.proven and then.change.delta > 0 and now.after < then.after:
            text += f"; {title} {100 * then.after:.1f} → {100 * now.after:.1f} %"
    yield f"{text})"


def _pp(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _interval(change: PairedDifference, unit: str = "pp") -> str:
    if not change.known:
        return ""
    if unit:
        return f" [{_pp(change.low)}, {_pp(change.high)}]"
    return f" [{change.low:+.2f}, {change.high:+.2f}]".replace("-", "−")
