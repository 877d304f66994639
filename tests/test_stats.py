"""Facts about intervals and tests: worked by hand, against published values, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import stats

SAMPLES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_fewer_than_six_trials_give_their_range_and_its_true_coverage(n: int) -> None:
    interval = stats.median_interval([float(10 * i) for i in range(n)])
    assert (interval.low, interval.high, interval.n) == (0, 10 * (n - 1), n)
    assert interval.coverage == pytest.approx(1 - 2 * 0.5**n)
    assert interval.coverage < 0.95


def test_six_trials_are_enough_for_95_percent() -> None:
    interval = stats.median_interval([6, 1, 5, 2, 4, 3])
    assert (interval.value, interval.low, interval.high, interval.n) == (3.5, 1, 6, 6)
    assert interval.coverage == pytest.approx(1 - 2 / 64)


def test_one_trial_gives_no_interval() -> None:
    assert stats.median_interval([7.0]) == stats.Interval(7.0, None, None, 1, 0.0)


def test_the_median_of_eleven_lies_between_the_second_and_the_tenth() -> None:
    # The sign test for n = 11: the tail P(B <= 1) = 12 / 2048, P(B <= 2) = 67 / 2048 > 0.025.
    interval = stats.median_interval(range(1, 12))
    assert (interval.low, interval.high) == (2, 10)
    assert interval.coverage == pytest.approx(1 - 2 * 12 / 2048)


def test_a_quantile_out_of_reach_of_its_sample_says_so() -> None:
    interval = stats.quantile_interval(range(10), 0.95)
    assert interval.high == 9
    # The true P95 lies above all ten values with probability 0.95**10.
    assert interval.coverage <= 1 - 0.95**10


def test_p95_of_a_thousand_samples_is_covered() -> None:
    interval = stats.quantile_interval(range(1000), 0.95)
    assert interval.value == pytest.approx(949.05)
    assert interval.coverage >= 0.95
    assert interval.low is not None
    assert interval.high is not None
    assert 930 < interval.low < 949 < interval.high < 965


@settings(deadline=None)
@given(SAMPLES, st.floats(0.001, 0.999), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_an_interval_holds_the_quantile_of_its_sample(
    values: list[float], q: float, confidence: float
) -> None:
    interval = stats.quantile_interval(values, q, confidence)
    assert interval.n == len(values)
    assert 0 <= interval.coverage <= 1
    if interval.low is None or interval.high is None:
        assert len(values) == 1
        return
    rounding = 1e-9 * max(map(abs, values))
    assert interval.low - rounding <= interval.value <= interval.high + rounding
    assert {interval.low, interval.high} <= set(values)
    # Either the confidence is reached, or the interval has reached an edge of the sample.
    at_an_edge = interval.low == min(values) or interval.high == max(values)
    assert interval.coverage >= confidence - 1e-12 or at_an_edge


@pytest.mark.parametrize(("n", "q"), [(6, 0.5), (15, 0.5), (100, 0.5), (100, 0.95), (10, 0.95), (4, 0.5)])
def test_the_stated_coverage_is_the_one_that_simulation_finds(n: int, q: float) -> None:
    draws = 1000
    rng = np.random.default_rng([n, round(q * 100)])
    truth = -math.log(1 - q)  # the q quantile of the exponential distribution
    held = 0
    for sample in rng.exponential(size=(draws, n)):
        interval = stats.quantile_interval(sample, q)
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= truth <= interval.high
    stated = interval.coverage
    assert abs(held / draws - stated) < 4 * math.sqrt(stated * (1 - stated) / draws)


def test_zero_failures_are_reported_with_their_bound() -> None:
    interval = stats.proportion_interval(24_000, 24_000)
    assert (interval.value, interval.high) == (1.0, 1.0)
    # Clopper and Pearson with no failure: the lower end solves p**n = 0.025.
    assert interval.low == pytest.approx(0.025 ** (1 / 24_000), abs=1e-12)


def test_the_exact_interval_of_a_share() -> None:
    # p solves the two binomial tails at 0.025; the widely tabulated values for 8 of 10.
    interval = stats.proportion_interval(8, 10)
    assert interval.value == 0.8
    assert (interval.low, interval.high) == (pytest.approx(0.4439, abs=5e-5), pytest.approx(0.9748, abs=5e-5))


def test_the_ratio_of_a_sample_that_is_twice_the_other() -> None:
    a, b = [2.0, 2.2, 1.8, 2.1, 1.9, 2.0], [1.0, 1.1, 0.9, 1.05, 0.95, 1.0]
    interval = stats.ratio_interval(a, b, seed=1)
    assert (interval.value, interval.n) == (2.0, 6)
    assert interval.low is not None
    assert interval.high is not None
    assert 1.6 < interval.low < 2 < interval.high < 2.5
    assert interval == stats.ratio_interval(a, b, seed=1)
    assert stats.ratio_interval([3.0], b, seed=1) == stats.Interval(3.0, None, None, 1, 0.0)


def test_the_ratio_of_medians_ignores_one_outlier() -> None:
    interval = stats.ratio_interval([3.0] * 10 + [1e6], [1.0] * 11, seed=0)
    assert (interval.value, interval.low, interval.high) == (3, 3, 3)


def test_equal_samples_have_the_ratio_one_without_width() -> None:
    interval = stats.ratio_interval([4.0] * 6, [4.0] * 6, seed=0)
    assert (interval.value, interval.low, interval.high) == (1, 1, 1)


def test_the_rank_test_of_separated_and_of_equal_samples() -> None:
    # All six above all six: 2 of the C(12, 6) = 924 orders are as extreme.
    assert stats.rank_test([7, 8, 9, 10, 11, 12], [1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 924)
    assert stats.rank_test([5, 5, 5], [5, 5]) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: stats.quantile_interval([], 0.5),
        lambda: stats.quantile_interval([1.0, math.nan], 0.5),
        lambda: stats.quantile_interval([1.0, 2.0], 1.0),
        lambda: stats.median_interval([]),
        lambda: stats.proportion_interval(0, 0),
        lambda: stats.proportion_interval(3, 2),
        lambda: stats.ratio_interval([1.0, 2.0], [0.0, 1.0], seed=0),
        lambda: stats.ratio_interval([], [1.0], seed=0),
        lambda: stats.rank_test([1.0], []),
    ],
)
def test_a_sample_that_supports_no_answer_is_refused(call) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()
