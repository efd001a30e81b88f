"""Figures of a score matrix: worked by hand, and the curve of the reference study."""

from __future__ import annotations

import numpy as np
import pytest

from harness.analysis import chance_adjusted, headroom_normalised, matrix_figures, pareto
from harness.analysis.forgetting import Course, evaluate, held_out_change, held_out_mean

# Two targets A, B taught in this order, one held-out benchmark H.
#                A    B    H
BY_HAND = [
    [10.0, 20.0, 70.0],  # base
    [50.0, 24.0, 60.0],  # after A
    [42.0, 66.0, 65.0],  # after B
]
EXPECTED = {
    "learning": ((50 - 10) + (66 - 20)) / 2,
    "immediate_learning": ((50 - 10) + (66 - 24)) / 2,
    "target_forgetting": 42 - 50,
    "target_overall": ((42 - 10) + (66 - 20)) / 2,
    "forward_transfer": 24 - 20,
    "heldout_final": 65 - 70,
    "heldout_mean": (-10 - 5) / 2,
    "heldout_sum": -10 - 5,
    "heldout_worst": -10,
    "worst_stage": 1,
    "worst_benchmark": 2,
    "worst_benchmark_change": -5,
    "average_accuracy": (42 + 66) / 2,
    "average_incremental_accuracy": (50 + (42 + 66) / 2) / 2,
    "chaudhry_forgetting": 42 - 50,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_three_by_three_by_hand(name):
    figures = matrix_figures(np.array(BY_HAND), [None, 0, 1], [2])
    assert set(figures) == set(EXPECTED)
    assert figures[name] == pytest.approx(EXPECTED[name])


def test_three_targets_by_hand():
    """No held-out benchmark; the best score of A comes after its own stage."""
    matrix = np.array([[0, 0, 0], [10, 3, 1], [14, 20, 5], [8, 17, 30]], dtype=float)
    figures = matrix_figures(matrix, [None, 0, 1, 2], [])
    assert figures["learning"] == pytest.approx(20)
    assert figures["target_forgetting"] == pytest.approx(((8 - 10) + (17 - 20)) / 2)
    assert figures["chaudhry_forgetting"] == pytest.approx(((8 - 14) + (17 - 20)) / 2)
    assert figures["forward_transfer"] == pytest.approx((3 + 5) / 2)
    assert figures["average_incremental_accuracy"] == pytest.approx((10 + 17 + 55 / 3) / 3)
    for name in ("heldout_final", "heldout_mean", "heldout_worst", "worst_stage"):
        assert np.isnan(figures[name])


def test_identical_stages_give_zero():
    figures = matrix_figures(np.full((4, 3), 55.0), [None, 0, 1, 0], [2])
    for name in set(EXPECTED) - {"worst_stage", "worst_benchmark", "average_accuracy"}:
        if name != "average_incremental_accuracy":
            assert figures[name] == pytest.approx(0, abs=1e-12)


def test_the_reference_curve_tells_the_four_variants_apart():
    """Held-out mean after each of five stages, from a base of 76.4 (arXiv:2510.08564 v1)."""
    curve = np.array([76.4, 75.8, 66.5, 74.4, 74.6, 66.9])
    figures = matrix_figures(curve[:, None], [None] * 6, [0])
    assert figures["heldout_final"] == pytest.approx(-9.5)
    assert figures["heldout_worst"] == pytest.approx(-9.9)
    assert figures["worst_stage"] == 2
    assert round(figures["heldout_mean"], 1) == -4.8
    assert figures["heldout_sum"] == pytest.approx(-23.8)


def test_one_stage_has_no_backward_or_forward_transfer():
    figures = matrix_figures(np.array([[10.0, 50.0], [30.0, 40.0]]), [None, 0], [1])
    assert figures["learning"] == 20
    for name in ("target_forgetting", "chaudhry_forgetting", "forward_transfer"):
        assert np.isnan(figures[name])


def test_a_missing_cell_is_na_only_where_it_is_needed():
    matrix = np.array(BY_HAND)
    matrix[1, 2] = np.nan
    figures = matrix_figures(matrix, [None, 0, 1], [2])
    assert np.isnan(
        [figures["heldout_mean"], figures["heldout_worst"], figures["worst_stage"]]
    ).all()
    assert figures["heldout_final"] == -5
    assert figures["learning"] == EXPECTED["learning"]


def test_a_task_taught_twice_counts_at_each_of_its_stages():
    matrix = np.array([[0.0], [10.0], [4.0], [12.0]])
    figures = matrix_figures(matrix, [None, 0, None, 0], [])
    assert figures["learning"] == pytest.approx((10 + 12) / 2)
    assert figures["target_forgetting"] == pytest.approx(12 - 10)


def test_a_held_out_benchmark_counts_until_it_is_taught():
    course = Course((None, "a", "h"), ("h", "g"))
    assert course.held_out_at(1) == ["h", "g"]
    assert course.held_out_at(2) == ["g"]
    scores = {("h", 0): 50, ("h", 1): 40, ("h", 2): 90, ("g", 0): 60, ("g", 1): 60, ("g", 2): 58}
    assert evaluate(held_out_change(course, 1), lambda t, b: scores[b, t]) == -5
    assert evaluate(held_out_change(course, 2), lambda t, b: scores[b, t]) == -2
    assert evaluate(held_out_mean(course), lambda t, b: scores[b, t]) == -3.5


def test_chance_and_headroom():
    assert chance_adjusted(0.25, 0.25) == 0
    assert chance_adjusted(1.0, 0.25) == 1
    assert np.isnan(chance_adjusted(1.0, 1.0))
    assert headroom_normalised(0.75, 0.5, 0.25) == -0.5
    assert headroom_normalised(0.75, 0.875, 0.25) == 0.5
    assert headroom_normalised(1.0, 1.0, 0.25) == 0
    assert np.isnan(headroom_normalised(0.25, 0.2, 0.25))
    assert np.isnan(headroom_normalised(0.28, 0.2, 0.25, base_low=0.24))


def test_pareto_front():
    learned = np.array([30.0, 25.0, 20.0, np.nan, 30.0])
    kept = np.array([-20.0, -1.0, -5.0, 0.0, -20.0])
    assert pareto(learned, kept) == [True, True, False, False, True]
