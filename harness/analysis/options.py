"""What a user may choose about a judgement. Each choice that changes a number is in `signature`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from harness.errors import Problem, UserError, did_you_mean

ContrastName = Literal["base_to_stage", "previous_to_stage", "learned_to_final", "dip_to_stage"]
CONTRASTS: tuple[ContrastName, ...] = get_args(ContrastName)


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """Choices of `compare`, `gate` and `leaderboard`; raises UserError for values out of range."""

    scorer: str = ""
    """Scorer whose scores are judged; "": the study's own (`strict`, or `logged` for imported
    logs). A study with one scorer only is judged by that one."""
    level: float = 0.95
    """Confidence of intervals and of the one-sided bounds of verdicts, in (0.5, 1)."""
    margin_pp: float = 1.0
    """A loss smaller than this (points) counts as retained."""
    strict: bool = False
    """Call every proven loss a regression, also one below the margin."""
    baseline: str | None = None
    """Strategy that the others are compared with; None: no comparison of strategies."""
    contrast: ContrastName | None = None
    """The only contrast to compute; None: all."""
    dip: str | None = None
    """Name of the stage (or of what it was trained on) after which recovery is measured, declared
    beforehand; None: the stage with the lowest held-out mean, which inflates recovery."""
    max_dropped: float = 0.05
    """Share of samples that may have a score on one side only, before comparing is refused."""
    common_set: bool = False
    """Where cells are missing: aggregate over the benchmarks that all strategies have (instead of
    refusing with NA)."""

    def __post_init__(self) -> None:
        problems = []
        if not 0.5 < self.level < 1:
            problems.append(Problem("level", f"got {self.level:g}, expected a share like 0.95"))
        if not 0 <= self.margin_pp <= 100:
            problems.append(Problem("margin", f"got {self.margin_pp:g}, expected points, 0 to 100"))
        if not 0 <= self.max_dropped <= 1:
            problems.append(Problem("max dropped", f"got {self.max_dropped:g}, expected 0 to 1"))
        if self.contrast is not None and self.contrast not in CONTRASTS:
            near = did_you_mean(self.contrast, CONTRASTS)
            known = ", ".join(CONTRASTS)
            problems.append(Problem("contrast", f"got {self.contrast!r}, expected {known}{near}"))
        if problems:
            raise UserError("options", problems)

    def signature(self, scorer: str) -> str:
        """The choices that change numbers of the leaderboard, in canonical form."""
        return "|".join(
            [
                f"scorer:{scorer}",
                f"level:{self.level:g}",
                f"margin:{self.margin_pp:g}{'!' if self.strict else ''}",
                f"dip:{self.dip or 'minimum'}",
                f"max_dropped:{self.max_dropped:g}",
                f"missing:{'common' if self.common_set else 'refuse'}",
            ]
        )
