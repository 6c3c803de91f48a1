"""Paired statistics over cases."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import permutation_test, rankdata, wilcoxon

from lightning_samseg.reports.runs import FloatArray, nanmean

DRAWS = 10_000
LEVEL = 0.95
ENUMERATED = 13
"""So many pairs have 2^13 = 8192 signs, fewer than DRAWS: each is looked at, with ties, too."""


def standard_deviation(values: Sequence[float] | FloatArray) -> float:
    """Standard deviation of a sample (n - 1) of the values that are there; NaN of fewer than two."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(known.std(ddof=1)) if known.size > 1 else float("nan")


def mean_over_seeds(scores: Sequence[FloatArray]) -> FloatArray:
    """Mean of the scores of the same cases under several seeds, without the missing ones.

    Args:
        scores: One ``(cases,)`` or ``(cases, classes)`` a seed.

    Returns:
        The same shape, NaN where no seed has a score.
    """
    return nanmean(np.stack(scores), axis=0)


def wilcoxon_p(differences: FloatArray) -> float:
    """Two-sided p of the Wilcoxon signed-rank test that paired differences are symmetric about zero.

    Zeros are left out, as Wilcoxon has it; where all but one are zero, p is 1.

    Args:
        differences: ``(n,)``, no NaN.

    Returns:
        p in [0, 1]; NaN without any pair.
    """
    if differences.size == 0:
        return float("nan")
    known = differences[differences != 0]
    if known.size < 2:
        return 1.0  # one pair has either sign with 1/2
    if differences.size <= ENUMERATED:
        # As SciPy's wilcoxon does where there are ties, which ranks the pairs anew for each of the signs.
        ranks = np.copysign(rankdata(np.abs(known)), known)
        test = permutation_test((ranks,), np.sum, permutation_type="samples", vectorized=True, n_resamples=DRAWS)
        return float(test.pvalue)
    return float(wilcoxon(differences, zero_method="wilcox", alternative="two-sided", method="auto").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the smallest of m values times m, the next times m - 1, …; never falling, at most 1.

    Args:
        p_values: Of all comparisons of one family; NaN is no comparison and stays.

    Returns:
        Corrected values in the given order.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    corrected = [float("nan")] * len(p_values)
    highest = 0.0
    for rank, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        corrected[i] = highest
    return corrected


def bootstrap_interval(differences: FloatArray, draws: int = DRAWS, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences, cases drawn with replacement from a fixed seed.

    Args:
        differences: ``(n,)``, no NaN.
        draws: Number of resampled means.
        level: Share of them inside.

    Returns:
        Lower and upper end; NaN without any pair.
    """
    n = differences.size
    if n == 0:
        return float("nan"), float("nan")
    generator = np.random.default_rng(0)
    chunk = max(1, 2_000_000 // n)  # draws at a time, for memory
    means = np.concatenate(
        [
            differences[generator.integers(0, n, (min(chunk, draws - start), n))].mean(axis=1)
            for start in range(0, draws, chunk)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
