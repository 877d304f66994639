"""Statistics: intervals and tests for the figures, a thin layer over SciPy.

Every interval carries the coverage it really has, so that a figure from too few samples can be marked
instead of being shown as if it were sure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # whose parts are imported when they are first used: its statistics take a second

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
        ValueError: no values, one that is not finite, or `q` not between 0 and 1.
    """
    ordered = np.sort(_checked(values))
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, got {q}")
    n = len(ordered)
    value = float(np.quantile(ordered, q))
    if n == 1:
        return Interval(value, None, None, 1, 0.0)
    held = scipy.stats.binom(n, q)
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
        ValueError: no values, or one that is not finite.
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
    bounds = scipy.stats.binomtest(successes, n).proportion_ci(confidence, "exact")
    return Interval(successes / n, float(bounds.low), float(bounds.high), n, confidence)


def ratio_interval(
    a: Sample, b: Sample, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The ratio `median(a) / median(b)` and its percentile bootstrap interval (Efron, 1979).

    `a` and `b` are resampled independently. `coverage` is the confidence asked for; with fewer than
    about 10 values on a side the true one is lower. A side of one value gives no interval.

    Raises:
        ValueError: a side is empty or holds a value that is not finite, or `b` holds one that is not
            above 0.
    """
    above, below = _checked(a), _checked(b)
    if below.min() <= 0:
        raise ValueError(f"a ratio needs a positive base, got {below.min()}")
    value = float(np.median(above) / np.median(below))
    n = min(len(above), len(below))
    if n == 1:
        return Interval(value, None, None, 1, 0.0)
    bounds = scipy.stats.bootstrap(
        (above, below),
        _ratio_of_medians,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(value, float(bounds.low), float(bounds.high), n, confidence)


def mean_ratio_interval(a: Sample, b: Sample, confidence: float = 0.95) -> Interval:
    """The ratio `mean(a) / mean(b)` and its interval by the delta method on the logarithm, with Welch's t.

    For samples of a handful, where a bootstrap has too little to draw from. `coverage` is the confidence
    asked for. What simulation finds at 95 % with 4 to 20 values on a side: 95 to 96 % where they are normal,
    93 to 94 % where they are exponential, 84 to 94 % where a fifth is ten times as large as the rest. Where
    all values of each side are equal, so are the ends; a side of one value gives no interval.

    Raises:
        ValueError: a side is empty or holds a value that is not finite, or not above 0.
    """
    above, below = _checked(a), _checked(b)
    if min(above.min(), below.min()) <= 0:
        raise ValueError("a ratio of means needs positive values")
    value, n = float(above.mean() / below.mean()), min(len(above), len(below))
    if n == 1:
        return Interval(value, None, None, 1, 0.0)
    parts = [float(np.var(side, ddof=1) / len(side) / side.mean() ** 2) for side in (above, below)]
    if not any(parts):
        return Interval(value, value, value, n, confidence)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(above) - 1) + parts[1] ** 2 / (len(below) - 1))
    far = math.exp(float(scipy.stats.t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(sum(parts)))
    return Interval(value, value / far, value * far, n, confidence)


def rank_test(a: Sample, b: Sample) -> float:
    """Two-sided p-value of the Mann-Whitney U test: how well chance alone explains that `a` and `b` differ.

    Exact for small samples without ties, normal approximation otherwise (SciPy's `auto`). 1 when all
    values are equal.

    Raises:
        ValueError: a side is empty or holds a value that is not finite.
    """
    left, right = _checked(a), _checked(b)
    both = np.concatenate([left, right])
    if both.min() == both.max():
        return 1.0
    return float(scipy.stats.mannwhitneyu(left, right, alternative="two-sided", method="auto").pvalue)


def least_rank_p(n_a: int, n_b: int) -> float:
    """The smallest p-value that `rank_test` can truly reach with so many values on each side.

    Of all C(n_a + n_b, n_a) orders, two are as extreme as one side above the other: with 3 and 3 values
    p is never below 0.1, with 4 and 4 it can be 0.029.
    """
    return min(1.0, 2 / math.comb(n_a + n_b, n_a))


def adjusted(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family of comparisons, corrected for their number.

    Benjamini and Hochberg (Controlling the False Discovery Rate, 1995): of all that are called different
    at an adjusted p of at most 0.05, at most 5 % are expected to be so by chance; where nothing differs,
    the chance of calling anything different is at most 5 %. It holds for independent comparisons and for
    those that rise and fall together (Benjamini and Yekutieli, 2001), as the figures of one cell mostly
    do. Their own correction for any dependence whatever costs a further factor of 4 with 40 comparisons,
    which no affordable number of trials could pay.
    """
    if not p_values:
        return []
    return [float(p) for p in scipy.stats.false_discovery_control(p_values, method="bh")]


ROUNDING = 1e-9
"""Residuals that are this share of the values' range are those of a straight line in floating point."""

MOST_POINTS = 200
"""A longer series is thinned to so many points before its slope is taken: pairs grow with the square."""


def slope_interval(
    x: Sample,
    y: Sample,
    seed: int,
    block: int | None = None,
    confidence: float = 0.95,
    resamples: int = 500,
    resolution: float = 0.0,
) -> Interval:
    """The Theil-Sen slope of a series `y` over `x`, in the order it was sampled, and its interval.

    Neighbouring samples resemble each other, so the residuals are resampled in runs of `block`
    neighbours (moving blocks: Künsch, The Jackknife and the Bootstrap for General Stationary
    Observations, 1989). The interval is the slope +- Student's t times the deviation of the resampled
    slopes, with two degrees of freedom fewer than there are blocks. A block is a quarter of the series
    unless given: such wide intervals, which do not count on much independence, hold the slope far more
    often (Kiefer and Vogelsang, A New Asymptotic Theory for Heteroskedasticity-Autocorrelation Robust
    Tests, 2005). `coverage` is the confidence asked for. What simulation finds at 95 %, by the correlation
    of neighbours (0, 0.5, 0.8): 95, 88, 78 % with 8 samples, 96, 93, 83 % with 20, 97, 96, 93 % with 60;
    of a random walk some 60 %, however many. Fewer than 3 different `x` give no interval.

    Values that move in steps look surer than they are, most of all where many are equal. They are taken to
    be known to `resolution` at best, or to the smallest difference between any two of them where that is
    more and they do not lie on a straight line: as much is drawn at random and added to what is resampled,
    and neither end is nearer than one step over the whole series. What simulation then finds for a straight
    line that is seen in steps, with noise of 0 to 1 step: at least 94 %, with 1 to 20 steps in 8 to 60
    samples. A line that rises by less than a step in the whole series is held only with a `resolution`.

    Raises:
        ValueError: no values, one that is not finite, other lengths, or fewer than 2 different `x`.
    """
    at, values = _checked(x), _checked(y)
    if len(at) != len(values):
        raise ValueError(f"a slope needs as many x as y, got {len(at)} and {len(values)}")
    n = len(at)
    at, values = _thinned(at), _thinned(values)
    if at.min() == at.max():
        raise ValueError("a slope needs at least two different x")
    slope = float(_slopes(at, values[np.newaxis])[0])
    if len(np.unique(at)) < 3:
        return Interval(slope, None, None, n, 0.0)
    length = block or max(1, round(len(at) / 4))
    residuals = _residuals(at, values, slope)
    step, rng = max(resolution, _step(values, residuals)), np.random.default_rng(seed)
    drawn = residuals[_moving_blocks(len(at), length, resamples, rng)]
    drawn += rng.uniform(-step / 2, step / 2, drawn.shape)
    freedom = max(1.0, len(at) / length - 2)
    spread = float(scipy.stats.t.ppf((1 + confidence) / 2, freedom) * np.std(_slopes(at, drawn), ddof=1))
    half = max(spread, step / float(np.ptp(at)))
    return Interval(slope, slope - half, slope + half, n, confidence)


def _residuals(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], slope: float
) -> npt.NDArray[np.float64]:
    """What a line of this slope leaves of `y`: mean 0, and as large as before two values were fitted."""
    left = y - slope * x
    scaled: npt.NDArray[np.float64] = (left - left.mean()) * math.sqrt(len(x) / (len(x) - 2))
    return scaled


def _step(values: npt.NDArray[np.float64], residuals: npt.NDArray[np.float64]) -> float:
    """The smallest difference between two of the values; 0 where they lie on a line, but for rounding."""
    if np.ptp(residuals) <= ROUNDING * np.ptp(values):
        return 0.0
    return float(np.diff(np.unique(values)).min())


def _thinned(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Medians of neighbours, at most `MOST_POINTS` of them."""
    if len(values) <= MOST_POINTS:
        return values
    return np.array([np.median(part) for part in np.array_split(values, MOST_POINTS)])


def _moving_blocks(n: int, block: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices into a series of `n`, one row per resample, made of runs of `block` that begin anywhere."""
    block = min(block, n)
    starts = rng.integers(0, n - block + 1, (resamples, math.ceil(n / block)))
    runs = starts[:, :, np.newaxis] + np.arange(block)
    return runs.reshape(resamples, -1)[:, :n]


def _slopes(x: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The Theil-Sen slope over `x` of each row: the median slope of all pairs with different `x`."""
    first, second = np.triu_indices(len(x), 1)
    apart = x[first] != x[second]
    first, second = first[apart], second[apart]
    gaps = x[second] - x[first]
    return np.array([np.median((row[second] - row[first]) / gaps) for row in rows])


def _ratio_of_medians(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], axis: int = -1
) -> npt.NDArray[np.float64]:
    ratio: npt.NDArray[np.float64] = np.median(a, axis=axis) / np.median(b, axis=axis)
    return ratio


def _checked(values: Sample) -> npt.NDArray[np.float64]:
    sample = np.asarray(values, np.float64)
    strange = int(np.count_nonzero(~np.isfinite(sample)))
    if strange or not len(sample):
        raise ValueError(
            f"a sample needs values, all of them finite: got {len(sample)}, {strange} not finite"
        )
    return sample
