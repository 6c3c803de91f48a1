"""Statistics against hand-computed cases, exact enumeration and scipy's own bootstrap."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import bootstrap, rankdata, wilcoxon

from lightning_samseg.reports.statistics import (
    bootstrap_interval,
    holm,
    mean_over_seeds,
    standard_deviation,
    wilcoxon_p,
)


def test_holm_by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04: times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; the last may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_one_and_leaves_out_what_was_not_tested() -> None:
    corrected = holm([math.nan, 0.6, 0.5])
    assert math.isnan(corrected[0])
    assert corrected[1:] == [1.0, 1.0]
    assert holm([0.04, math.nan]) == pytest.approx([0.04, math.nan], nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_wilcoxon_is_the_exact_test(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(0.4, 1.0, 9)
    ranks = rankdata(np.abs(differences))
    observed = ranks[differences > 0].sum()
    centre = ranks.sum() / 2
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in itertools.product((0, 1), repeat=9)]
    expected = np.mean([abs(total - centre) >= abs(observed - centre) - 1e-9 for total in sums])
    assert wilcoxon_p(differences) == pytest.approx(expected)


@pytest.mark.parametrize(
    "differences",
    [
        [0.1],
        [0.0, 0.0, 2.0],
        [0.5, 0.5, -0.5, 1.0, 2.0, 2.0],
        [0.0, 0.0, -1.0, -1.0, 3.0],
        [1.0, 1.0, 1.0, 1.0],
        [1.0, -1.0],
    ],
)
def test_wilcoxon_with_ties_is_scipys(differences: list[float]) -> None:
    expected = wilcoxon(differences, zero_method="wilcox", method="auto").pvalue
    assert wilcoxon_p(np.array(differences)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [13, 14])
def test_the_last_number_of_pairs_that_is_enumerated(size: int) -> None:
    """Without ties SciPy has the same distribution by another way."""
    differences = np.random.default_rng(size).normal(0.3, 1.0, size)
    expected = wilcoxon(differences, method="exact").pvalue
    assert wilcoxon_p(differences) == pytest.approx(expected, abs=1e-12)


def test_wilcoxon_without_differences() -> None:
    assert wilcoxon_p(np.zeros(5)) == 1.0
    assert math.isnan(wilcoxon_p(np.array([])))
    # Zeros are left out: three positive differences can do no better than 2 / 2^3.
    assert wilcoxon_p(np.array([0.0, 0.0, 1.0, 2.0, 3.0])) == pytest.approx(0.25)


def test_bootstrap_interval_is_scipys_percentile_interval() -> None:
    differences = np.random.default_rng(1).gamma(2.0, 1.0, 40)
    low, high = bootstrap_interval(differences)
    reference = bootstrap((differences,), np.mean, n_resamples=10_000, method="percentile", rng=2).confidence_interval
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.03)
    assert (low, high) == bootstrap_interval(differences)


def test_bootstrap_interval_by_hand() -> None:
    # Two cases, 0 and 1: the mean is 0, 1/2 or 1 with 1/4, 1/2, 1/4, so both ends lie at the extremes.
    assert bootstrap_interval(np.array([0.0, 1.0])) == (0.0, 1.0)
    assert bootstrap_interval(np.full(7, 0.25)) == (0.25, 0.25)
    assert all(math.isnan(end) for end in bootstrap_interval(np.array([])))


def test_many_cases_are_drawn_in_parts_of_memory() -> None:
    low, high = bootstrap_interval(np.random.default_rng(3).standard_normal(2500), draws=2000)
    assert (low, high) == pytest.approx((-1.96 / 50, 1.96 / 50), abs=0.035)


def test_deviation_and_mean_leave_out_what_is_missing() -> None:
    assert standard_deviation([1.0, math.nan, 3.0]) == pytest.approx(math.sqrt(2))
    assert math.isnan(standard_deviation([1.0]))
    mean = mean_over_seeds([np.array([1.0, math.nan, math.nan]), np.array([3.0, 4.0, math.nan])])
    assert mean == pytest.approx([2.0, 4.0, math.nan], nan_ok=True)
