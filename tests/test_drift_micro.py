"""Drift on the committed micro study: three training runs per strategy, scored for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.analysis import forgetting
from harness.analysis.contrasts import estimate
from harness.analysis.drift import Explanation, explain
from harness.analysis.matrix import Trait
from harness.analysis.scores import StudyScores
from harness.scoring.study import read_scores

pytestmark = pytest.mark.slow

MICRO = Path(__file__).parents[1] / "results" / "micro"


@pytest.fixture(scope="module")
def scores() -> StudyScores:
    return read_scores(MICRO, traits=True)


@pytest.fixture(scope="module")
def found(scores: StudyScores) -> Explanation:
    return explain(scores)


def stage(found: Explanation, strategy: str, name: str):
    return next(s for s in found.stages if (s.path.strategy.name, s.stage_name) == (strategy, name))


def test_counting_raises_number_mass_under_llm_and_less_under_sa_proj(found: Explanation):
    llm = stage(found, "llm", "count").shift("number_mass")
    sa_proj = stage(found, "sa_proj", "count").shift("number_mass")
    assert llm and sa_proj and llm.change.low > 0
    assert sa_proj.change.delta < llm.change.delta and sa_proj.change.high < llm.change.delta
    bare = stage(found, "llm", "count").shift("bare_number")
    assert bare and bare.proven and bare.change.delta > 0


def test_the_bias_falls_at_the_next_stage_that_is_no_numeric_one(scores, found: Explanation):
    count = stage(found, "llm", "count")
    path = stage(found, "llm", "path").shift("number_mass")
    assert path and path.after < count.shift("number_mass").after
    names = count.path.first.course.held_out_at(3)
    fall = forgetting.mean_of([forgetting.change(name, 2, 3) for name in names])
    mass = Trait(scores, "number_mass")
    for run in count.path.runs:
        change = estimate(mass, [run.cells(fall)])
        assert change.high < 0, f"{run.name}: {change}"


def test_it_is_said_in_words_and_numbers(found: Explanation):
    by_stage = {s.split(": ")[0]: s for s in found.sentences()}
    count = by_stage["llm, after `count`"]
    mass = stage(found, "llm", "count").shift("number_mass")
    assert f"number mass {mass.before:.2f} → {mass.after:.2f} [+" in count
    assert "% of answers to other questions are bare numbers (base 0.0 %)" in count
    assert "% of the held-out loss is format (−" in count
    assert "number mass" not in by_stage["sa_proj, after `count`"]
    assert (
        "of type time where it does not fit, the type just trained"
        in (by_stage["llm, after `clock`"])
    )


def test_the_parts_of_a_loss_sum_up(found: Explanation):
    for s in found.stages:
        assert s.superficial.delta + s.essential.delta == pytest.approx(s.held_out.delta)
        assert s.superficial.delta + s.wrong_kind.delta == pytest.approx(s.form.delta)
        # Up to one sample: an empty or misread answer may be lenient's gain.
        assert s.held_out.delta <= s.form.delta + 0.02
