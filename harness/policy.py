"""A policy: what a candidate checkpoint must hold before it may ship.

Policy file (YAML), all keys optional, all numbers in points:

    margin: 1.0                  # a loss smaller than this is accepted
    margins: {docvqa: 0.5}       # other margins for single benchmarks
    required: [docvqa, chartqa]  # benchmarks that must have been measured
    minimum_learning: {cub200: 10}   # a target must have gained this much over the base
    strict: false                # true: any proven loss is a regression, however small
    inconclusive: fail           # fail, warn or pass

Options of the command line win over the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.analysis.scores import StudyScores
from harness.errors import Problem, UserError, did_you_mean
from harness.yaml_files import problem_of, read_yaml

Inconclusive = Literal["fail", "warn", "pass"]


class Policy(BaseModel):
    """What a candidate must hold; the schema of a policy file (see the module)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    margin: float = Field(default=1.0, ge=0, le=100)
    margins: dict[str, float] = Field(default_factory=dict)
    required: list[str] = Field(default_factory=list)
    minimum_learning: dict[str, float] = Field(default_factory=dict)
    strict: bool = False
    inconclusive: Inconclusive = "fail"

    def margin_of(self, benchmark: str) -> float:
        """Points that `benchmark` may lose."""
        return self.margins.get(benchmark, self.margin)


def choose_policy(file: Path | None, **chosen: Any) -> Policy:
    """The policy in `file` (None: the defaults) with `chosen` on top (None = not given).

    Raises UserError with everything that is wrong.
    """
    where = "options" if file is None else str(file)
    data = {} if file is None else read_yaml(file, "like `margin: 1.0`", may_be_empty=True)
    given = {name: value for name, value in chosen.items() if value is not None}
    try:
        return Policy.model_validate(data | given)
    except ValidationError as error:
        raise UserError(where, [problem_of(e, Policy) for e in error.errors()]) from error


def check_policy(policy: Policy, scores: StudyScores, where: str) -> None:
    """Refuse benchmark names that are misspelt: everything a policy names, at once.

    `required` may name what the study lacks (that is `missing`, not an error) unless a benchmark
    of nearly that name is there.
    """
    known = list(scores.benchmarks)
    problems = []
    for key in ("margins", "minimum_learning", "required"):
        for name in getattr(policy, key):
            near = did_you_mean(name, known)
            if name not in known and (near or key != "required"):
                expected = "" if near else f"; it has {', '.join(known)}"
                problems.append(
                    Problem(f"{key}.{name}", f"the study has no such benchmark{near}{expected}")
                )
    for key in ("margins", "minimum_learning"):
        for name, value in getattr(policy, key).items():
            if not 0 <= value <= 100:
                problems.append(
                    Problem(f"{key}.{name}", f"got {value:g}, expected points, 0 to 100")
                )
    if problems:
        raise UserError(where, problems)
