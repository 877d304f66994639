"""Statistics: intervals and tests for the figures, a thin layer over SciPy.

Every interval carries the coverage it really has, so that a figure from too few samples can be marked
instead of being shown as if it were sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Sample = Sequence[float] | npt.NDArray[np.number[Any]]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval, in the unit of the sample.

    `low` and `high` are None where the sample supports no interval; `coverage` is then 0. Otherwise it
    is the probability that such an interval holds the true value: below the confidence asked for, the
    sample was too small. `n` is the size of the sample (of the smaller one, for two).
    """

    value: float
    low: float | None
    high: float | None
    n: int
    coverage: float


def quantile_interval(values: Sample, q: float, confidence: float = 0.95) -> Interval:
    """The `q` quantile of `values` and its order-statistic interval, whatever their distribution.

    The quantile is the linear one (type 7 of Hyndman and Fan, Sample Quantiles in Statistical Packages,
    1996). The interval runs from the l-th to the u-th smallest value; it holds the true quantile with
    probability P(l <= B < u), B binomial(n, q) (David and Nagaraja, Order Statistics, 2003, section 7.1),
    and each end is missed with at most (1 - confidence) / 2 where the sample reaches that far. Where it
    does not, the interval ends at the smallest or largest value, and `coverage` says what is left.

    Raises:
        ValueError: no values, a value that is not a number, or `q` not between 0 and 1.
    """
    ordered = np.sort(_checked(values))
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, got {q}")
    n = len(ordered)
    value = float(np.quantile(ordered, q))
    if n == 1:
        return Interval(value, None, None, 1, 0.0)
    held = stats.binom(n, q)
    miss = (1 - confidence) / 2
    at = (n - 1) * q  # where the linear quantile lies, counted from 0
    lower = int(max(1, min(held.ppf(miss), np.floor(at) + 1)))
    upper = int(min(n, max(held.ppf(1 - miss) + 1, np.ceil(at) + 1)))
    coverage = float(held.cdf(upper - 1) - held.cdf(lower - 1))
    return Interval(value, float(ordered[lower - 1]), float(ordered[upper - 1]), n, coverage)


def median_interval(values: Sample, confidence: float = 0.95) -> Interval:
    """The median of per-trial values and its interval across trials.

    Fewer than 6 values cannot give 95 %: the interval is then their range, and its coverage
    1 - 2 * 0.5**n. One value gives no interval.

    Raises:
        ValueError: no values, or a value that is not a number.
    """
    return quantile_interval(values, 0.5, confidence)


def proportion_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """The share `successes / n` and its exact interval (Clopper and Pearson, 1934).

    `coverage` is the confidence asked for; the exact interval has at least that.

    Raises:
        ValueError: `n` is not positive, or `successes` is not between 0 and `n`.
    """
    if n < 1:
        raise ValueError(f"a share needs at least one case, got n={n}")
    bounds = stats.binomtest(successes, n).proportion_ci(confidence, "exact")
    return Interval(successes / n, float(bounds.low), float(bounds.high), n, confidence)


def ratio_interval(
    a: Sample, b: Sample, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The ratio `median(a) / median(b)` and its percentile bootstrap interval (Efron, 1979).

    `a` and `b` are resampled independently. `coverage` is the confidence asked for; with fewer than
    about 10 values on a side the true one is lower. A side of one value gives no interval.

    Raises:
        ValueError: a side is empty or holds a value that is not a number, or `b` holds one that is not
            above 0.
    """
    above, below = _checked(a), _checked(b)
    if below.min() <= 0:
        raise ValueError(f"a ratio needs a positive base, got {below.min()}")
    value = float(np.median(above) / np.median(below))
    n = min(len(above), len(below))
    if n == 1:
        return Interval(value, None, None, 1, 0.0)
    bounds = stats.bootstrap(
        (above, below),
        _ratio_of_medians,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(bounds.low), float(bounds.high), n, confidence)


def rank_test(a: Sample, b: Sample) -> float:
    """Two-sided p-value of the Mann-Whitney U test: how well chance alone explains that `a` and `b` differ.

    Exact for small samples without ties, normal approximation otherwise (SciPy's `auto`). 1 when all
    values are equal.

    Raises:
        ValueError: a side is empty or holds a value that is not a number.
    """
    left, right = _checked(a), _checked(b)
    both = np.concatenate([left, right])
    if both.min() == both.max():
        return 1.0
    return float(stats.mannwhitneyu(left, right, alternative="two-sided", method="auto").pvalue)


def _ratio_of_medians(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], axis: int = -1
) -> npt.NDArray[np.float64]:
    ratio: npt.NDArray[np.float64] = np.median(a, axis=axis) / np.median(b, axis=axis)
    return ratio


def _checked(values: Sample) -> npt.NDArray[np.float64]:
    sample = np.asarray(values, np.float64)
    if not len(sample) or np.isnan(sample).any():
        raise ValueError(f"a sample needs values, and only numbers, got {len(sample)} with NaN or none")
    return sample
