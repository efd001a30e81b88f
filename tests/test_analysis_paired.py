"""Paired differences: against statsmodels, against symmetry, and where data are scarce."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.analysis import (
    PairedDifference,
    flips,
    holm,
    mcnemar,
    minimum_detectable_effect,
    paired_difference,
    samples_to_decide,
    superficial_essential,
    trajectories,
    verdict,
)


def scores(seed, n_groups=120, per_group=4, binary=True):
    """(before, after, groups) with correlated changes; group sizes vary."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), rng.integers(1, 2 * per_group, n_groups))
    n = len(groups)
    before = rng.random(n)
    after = np.clip(
        before + 0.2 * rng.normal(size=n_groups)[groups] + 0.1 * rng.normal(size=n), 0, 1
    )
    if binary:
        before, after = 1.0 * (before > 0.4), 1.0 * (after > 0.45)
    return before, after, groups


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_clustered_t_is_cluster_robust_regression(seed, binary):
    import statsmodels.api as sm

    before, after, groups = scores(seed, binary=binary)
    found = paired_difference(before, after, groups)
    assert found.method == "clustered t"
    n = len(groups)
    fit = sm.OLS(after - before, np.ones(n)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "df_correction": True}, use_t=True
    )
    assert found.delta == pytest.approx(fit.params[0], abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]), abs=1e-8)
    assert found.p_value == pytest.approx(fit.pvalues[0], abs=1e-8)
    assert found.n_groups == 120


def test_weights_are_those_of_weighted_regression():
    import statsmodels.api as sm

    before, after, groups = scores(5)
    weights = np.random.default_rng(0).uniform(0.5, 2, len(groups))
    found = paired_difference(before, after, groups, weights=weights)
    fit = sm.WLS(after - before, np.ones(len(groups)), weights=weights).fit(
        cov_type="cluster", cov_kwds={"groups": groups}, use_t=True
    )
    assert found.delta == pytest.approx(fit.params[0], abs=1e-10)
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]), abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_is_statsmodels(seed):
    from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

    lost, gained = np.random.default_rng(seed).integers(0, 30, 2)
    expected = reference_mcnemar([[3, lost], [gained, 4]], exact=True).pvalue
    assert mcnemar(int(lost), int(gained)) == pytest.approx(expected, abs=1e-8)
    assert mcnemar(int(lost), int(gained), mid_p=True) <= expected + 1e-12


def test_holm_is_statsmodels_and_leaves_nan_out():
    from statsmodels.stats.multitest import multipletests

    p = np.random.default_rng(0).random(30) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-8)
    with_gap = holm([0.01, np.nan, 0.04])
    assert with_gap[[0, 2]].tolist() == [0.02, 0.04]
    assert np.isnan(with_gap[1])


designs = st.tuples(
    st.integers(0, 10_000), st.sampled_from([3, 8, 40, 400]), st.sampled_from([1, 3, 8])
)


def random_scores(design, graded=False):
    seed, n_groups, per_group = design
    rng = np.random.default_rng(seed)
    n = n_groups * per_group
    before = rng.random(n) if graded else 1.0 * (rng.random(n) < 0.7)
    after = np.where(rng.random(n) < rng.choice([0.02, 0.2]), rng.random(n) < 0.4, before)
    return before, after.astype(float), rng.permutation(np.repeat(np.arange(n_groups), per_group))


@given(designs, st.booleans())
@settings(max_examples=60, deadline=None)
def test_swapping_before_and_after_negates_everything(design, graded):
    before, after, groups = random_scores(design, graded)
    there = paired_difference(before, after, groups)
    back = paired_difference(after, before, groups)
    assert back.delta == -there.delta
    assert back.method == there.method
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low), abs=1e-12)
    assert (back.lower, back.upper) == pytest.approx((-there.upper, -there.lower), abs=1e-12)
    assert back.p_value == pytest.approx(there.p_value, abs=1e-12)


@given(designs)
@settings(max_examples=40, deadline=None)
def test_order_of_rows_and_names_of_groups_change_nothing(design):
    before, after, groups = random_scores(design)
    order = np.random.default_rng(1).permutation(len(groups))
    names = np.random.default_rng(2).permutation(10_000)
    one = paired_difference(before, after, groups)
    other = paired_difference(before[order], after[order], names[groups[order]])
    for field in ("delta", "low", "high", "lower", "upper", "p_value"):
        assert getattr(one, field) == pytest.approx(getattr(other, field), abs=1e-12)


# Eight groups of which the test says p < 0.05 and the one-sided limit said nothing.
@example(design=(1733, 40, 8), graded=True)
@given(designs, st.booleans())
@settings(max_examples=40, deadline=None)
def test_limits_are_ordered_and_agree_with_the_test(design, graded):
    found = paired_difference(*random_scores(design, graded))
    assert -1 <= found.low <= found.lower + 1e-12
    assert found.lower <= found.delta + 1e-12
    assert found.delta <= found.upper + 1e-12
    assert found.upper <= found.high + 1e-12 <= 1 + 1e-12
    assert (found.p_value < 0.05) == (not found.low <= 0 <= found.high)


def test_no_samples_and_all_nan_are_na():
    for before, after in (([], []), ([np.nan, 1], [1, np.nan])):
        found = paired_difference(before, after)
        assert found.method == "no samples"
        assert np.isnan(found.delta)
        assert verdict(found) == "NA"
    assert found.n_dropped == 2


def test_one_group_has_an_estimate_without_limits():
    found = paired_difference([1, 1, 0], [0, 1, 0], [7, 7, 7])
    assert found.delta == pytest.approx(-1 / 3)
    assert (found.method, found.known) == ("one group", False)
    assert verdict(found) == "inconclusive"
    assert samples_to_decide(found) is None


def test_samples_with_a_score_on_one_side_are_dropped_and_counted():
    before, after, groups = scores(1)
    before[:7] = np.nan
    after[5:9] = np.nan
    found = paired_difference(before, after, groups)
    clean = paired_difference(before[9:], after[9:], groups[9:])
    assert found.n_dropped == 7 - 2 + 2
    assert (found.delta, found.low) == (clean.delta, clean.low)


def test_no_change_in_few_samples_is_no_proof_of_no_change():
    few, many = np.ones(20), np.ones(1000)
    small = paired_difference(few, few)
    assert (small.delta, small.p_value, small.method) == (0.0, 1.0, "all equal")
    assert verdict(small) == "inconclusive"
    # An event of 1 - 0.05^(1/20) = 13.9 % is missed in 20 samples with probability 5 %.
    assert small.lower == pytest.approx(-(1 - 0.05 ** (1 / 20)))
    assert verdict(paired_difference(many, many)) == "retained"


def test_zero_variance_of_a_real_change():
    found = paired_difference(np.ones(400), np.zeros(400))
    assert (found.delta, found.low, found.method) == (-1.0, -1.0, "all equal")
    assert -1 < found.high < -0.98
    assert found.p_value < 0.001
    shift = paired_difference(np.full(400, 0.5), np.full(400, 0.6))
    assert shift.low < 0.1 < shift.high


def test_few_samples_of_single_images_use_mcnemar():
    before = np.r_[np.ones(60), np.zeros(40)]
    after = before.copy()
    after[:8] = 0
    found = paired_difference(before, after)
    assert found.method == "mcnemar mid-p"
    assert found.p_value == mcnemar(8, 0, mid_p=True)
    # 8 of 100: Clopper-Pearson 3.5 % to 15.2 %.
    assert found.low == pytest.approx(-0.152, abs=0.002)
    assert found.high < 0


def test_few_groups_use_sign_flips_and_five_cannot_reject():
    groups = np.repeat(np.arange(5), 100)
    before, after = np.ones(500), np.zeros(500)
    after[::3] = 1
    found = paired_difference(before, after, groups)
    assert found.method == "sign flips"
    assert found.p_value == 2 / 2**5
    assert (found.low, found.high) == (-1, 1)
    eight = paired_difference(np.ones(800), np.tile(after, 2)[:800], np.repeat(np.arange(8), 100))
    assert eight.p_value == 2 / 2**8
    assert eight.high < 0


def test_rare_changes_in_clusters_do_not_pass_for_none():
    groups = np.repeat(np.arange(100), 5)
    before, after = np.ones(500), np.ones(500)
    after[[3, 77]] = 0
    found = paired_difference(before, after, groups)
    assert found.method == "rare differences"
    assert found.delta == -0.004
    assert found.low < -0.01  # two events may be more than seven: Poisson limits
    assert found.high >= 0


def test_one_huge_group_counts_as_few():
    groups = np.r_[np.zeros(900, int), np.arange(1, 101)]
    rng = np.random.default_rng(0)
    before, after = 1.0 * (rng.random(1000) < 0.7), 1.0 * (rng.random(1000) < 0.7)
    assert paired_difference(before, after, groups).method == "sign flips"


@pytest.mark.parametrize(
    ("lower", "upper", "strict", "expected"),
    [
        (0.001, 0.02, False, "improved"),
        (-0.009, 0.002, False, "retained"),
        (-0.009, -0.002, False, "retained"),
        (-0.009, -0.002, True, "regressed"),
        (-0.03, -0.011, False, "regressed"),
        (-0.03, 0.02, False, "inconclusive"),
        (-0.01, 0.02, False, "inconclusive"),
        (float("nan"), float("nan"), False, "inconclusive"),
    ],
)
def test_verdicts(lower, upper, strict, expected):
    found = PairedDifference(-0.005, lower, upper, lower, upper, 0.5, 100, 100, "clustered t")
    assert verdict(found, 1.0, strict=strict) == expected


def test_samples_to_decide_shrinks_the_interval_to_the_margin():
    found = PairedDifference(0.0, -0.025, 0.025, -0.02, 0.02, 1.0, 500, 500, "clustered t")
    assert samples_to_decide(found, 1.0) == 2000  # half the half-width: four times the samples
    exactly = PairedDifference(-0.01, -0.03, 0.01, -0.03, 0.01, 1.0, 500, 500, "clustered t")
    assert samples_to_decide(exactly, 1.0) is None


def test_minimum_detectable_effect_of_the_reference_design():
    """Eight benchmarks, 15 % flips: 1.7 points with 500 samples each."""
    error = np.sqrt(8 * 0.15 / 500) / 8
    assert 100 * minimum_detectable_effect(error) == pytest.approx(1.7, abs=0.05)


def test_flips_and_trajectories():
    base, dip, later = [1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [1, 0, 1, 0, 1, 0]
    assert flips(base, dip) == flips([1, 1, 1, 0, 0, 0, np.nan], [0, 0, 1, 1, 0, 0, 1])
    counted = flips(base, dip)
    assert (counted.lost, counted.gained, counted.net, counted.rate) == (2, 1, -1, 0.5)
    paths = trajectories(base, dip, later)
    assert (paths.recovered, paths.lost, paths.kept) == (1, 1, 1)
    assert (paths.transient, paths.gained, paths.other) == (1, 1, 1)
    assert (paths.recovered_share, paths.gained) == (0.5, 1)
    assert np.isnan(trajectories([0], [0], [1]).recovered_share)
    assert np.isnan(flips([], []).rate)


def test_superficial_and_essential_add_up_to_the_strict_change():
    before, after, groups = scores(3)
    lenient_after = np.maximum(after, np.random.default_rng(0).random(len(after)) < 0.3)
    loss = superficial_essential((before, after), (before, lenient_after), groups)
    strict = paired_difference(before, after, groups)
    assert loss.superficial.delta + loss.essential.delta == pytest.approx(strict.delta)
    assert loss.superficial.delta < 0
    assert loss.essential.low <= loss.essential.delta <= loss.essential.high


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"before \(2,\) and after \(3,\) must be \(n,\) alike"):
        paired_difference([1, 0], [1, 0, 1])
