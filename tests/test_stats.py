"""Facts about intervals and tests: worked by hand, against published values, and by simulation."""

from __future__ import annotations

import math
from typing import Any

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


def test_a_ratio_of_means_is_worked_by_hand() -> None:
    # Means 2 and 4; variances of the means over the squares of the means 1/3/4 and 4/3/16: together 1/6.
    interval = stats.mean_ratio_interval([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    far = math.exp(2.7764451 * math.sqrt(1 / 6))  # t of 4 degrees of freedom: both sides are alike
    assert interval.value == pytest.approx(0.5)
    assert (interval.low, interval.high) == (pytest.approx(0.5 / far), pytest.approx(0.5 * far))
    assert stats.mean_ratio_interval([2.0] * 3, [1.0] * 4) == stats.Interval(2.0, 2.0, 2.0, 3, 0.95)
    assert stats.mean_ratio_interval([2.0], [1.0] * 4) == stats.Interval(2.0, None, None, 1, 0.0)


@pytest.mark.parametrize(
    ("n", "draw", "least", "most"),
    [
        (4, lambda rng, n: rng.normal(1, 0.1, n), 0.94, 0.98),
        (9, lambda rng, n: rng.exponential(1, n), 0.91, 0.96),
        (9, lambda rng, n: np.where(rng.random(n) < 0.2, 5.0, 0.5), 0.8, 0.9),
    ],
)
def test_a_ratio_of_means_is_held_by_its_interval(n: int, draw: Any, least: float, most: float) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        found = stats.mean_ratio_interval(draw(rng, n), draw(rng, n))
        held += found.low <= 1 <= found.high
    assert least < held / 1000 < most


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
        lambda: stats.mean_ratio_interval([1.0, 0.0], [1.0, 2.0]),
        lambda: stats.mean_ratio_interval([1.0, 2.0], []),
        lambda: stats.rank_test([1.0], []),
    ],
)
def test_a_sample_that_supports_no_answer_is_refused(call) -> None:
    with pytest.raises(ValueError, match=r".+"):
        call()


# --- by definition ----------------------------------------------------------------------------------


def below(k: int, n: int, p: float) -> float:
    """P(B < k) for B binomial (n, p), term by term."""
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k))


@settings(deadline=None)
@given(st.integers(2, 60), st.floats(0.01, 0.99), st.sampled_from([0.1, 0.5, 0.8, 0.95, 0.99]))
def test_a_quantile_interval_misses_as_much_as_allowed_and_no_less(
    n: int, q: float, confidence: float
) -> None:
    """The l-th and u-th of the values 1 to n: neither end could move in without missing too much."""
    interval = stats.quantile_interval(range(1, n + 1), q, confidence)
    assert interval.low is not None
    assert interval.high is not None
    lower, upper, allowed = int(interval.low), int(interval.high), (1 - confidence) / 2
    assert interval.value == pytest.approx(1 + (n - 1) * q)
    assert interval.low <= interval.value <= interval.high
    assert interval.coverage == pytest.approx(below(upper, n, q) - below(lower, n, q))
    rounding = 1e-9
    assert lower == 1 or below(lower, n, q) <= allowed + rounding
    assert below(lower + 1, n, q) >= allowed - rounding or lower + 1 > interval.value
    assert upper == n or 1 - below(upper, n, q) <= allowed + rounding
    assert 1 - below(upper - 1, n, q) >= allowed - rounding or upper - 1 < interval.value


@settings(deadline=None)
@given(st.integers(1, 80), st.data(), st.sampled_from([0.5, 0.9, 0.95]))
def test_the_ends_of_the_interval_of_a_share_solve_the_two_tails(
    n: int, data: st.DataObject, confidence: float
) -> None:
    """At the lower end so many or more are as rare as may be; at the upper end so many or fewer."""
    successes = data.draw(st.integers(0, n))
    interval = stats.proportion_interval(successes, n, confidence)
    assert (interval.value, interval.n, interval.coverage) == (successes / n, n, confidence)
    assert interval.low is not None
    assert interval.high is not None
    tail = pytest.approx((1 - confidence) / 2, abs=1e-6)
    assert (interval.low == 0) if successes == 0 else 1 - below(successes, n, interval.low) == tail
    assert (interval.high == 1) if successes == n else below(successes + 1, n, interval.high) == tail


@settings(deadline=None)
@given(SAMPLES, st.randoms(use_true_random=False))
def test_a_quantile_does_not_depend_on_the_order_of_its_sample(values: list[float], random) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)
    assert stats.quantile_interval(shuffled, 0.9) == stats.quantile_interval(values, 0.9)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8), st.lists(st.integers(0, 9), min_size=1, max_size=8)
)
def test_the_rank_test_takes_no_side(a: list[int], b: list[int]) -> None:
    p = stats.rank_test(a, b)
    assert 0 < p <= 1
    assert stats.rank_test(b, a) == pytest.approx(p)
    # Only ranks count.
    assert stats.rank_test([10**i for i in a], [10**i for i in b]) == pytest.approx(p)


def test_more_confidence_is_a_wider_interval() -> None:
    values, other = [float(i * i % 37) for i in range(30)], [float(i * i % 41 + 1) for i in range(30)]
    for interval in (
        lambda confidence: stats.median_interval(values, confidence),
        lambda confidence: stats.proportion_interval(7, 30, confidence),
        lambda confidence: stats.ratio_interval(values, other, 1, confidence),
    ):
        narrow, wide = interval(0.5), interval(0.95)
        assert narrow.value == wide.value
        assert wide.low < narrow.low
        assert narrow.high < wide.high
        assert 0.5 <= narrow.coverage < 0.8 < 0.95 <= wide.coverage


def test_a_ratio_is_as_sure_as_its_less_sure_side() -> None:
    """Both sides are resampled: either one alone gives the interval its width."""
    spread, sure = [1.0, 2.0, 3.0, 4.0, 5.0], [3.0] * 5
    assert stats.ratio_interval(spread, sure, seed=1).low == pytest.approx(1 / 3)
    assert stats.ratio_interval(spread, sure, seed=1).high == pytest.approx(5 / 3)
    assert stats.ratio_interval(sure, spread, seed=1).low == pytest.approx(3 / 5)
    assert stats.ratio_interval(sure, spread, seed=1).high == pytest.approx(3)


def test_a_bootstrap_depends_on_its_seed_alone() -> None:
    a, b = [1 / i for i in range(3, 20)], [1 / i for i in range(2, 25)]
    found = [stats.ratio_interval(a, b, seed, resamples=3) for seed in (5, 5, 6)]
    assert found[0] == found[1] != found[2]


def test_a_bootstrap_of_few_resamples_sees_little_of_the_tails() -> None:
    a, b = [float(i) for i in range(1, 20)], [float(i) for i in range(1, 30)]
    few, many = stats.ratio_interval(a, b, seed=2, resamples=2), stats.ratio_interval(a, b, seed=2)
    assert few.value == many.value
    assert many.low < few.low < few.high < many.high


def test_large_integers_do_not_wrap() -> None:
    """Differences inside a quantile are taken in floating point, whatever the sample came in."""
    ends = np.array([-(2**63), 2**63 - 1, 2**63 - 1], np.int64)
    assert stats.quantile_interval(ends, 0.25).value == pytest.approx(0, abs=1e4)
    assert stats.median_interval(np.array([-128, 127], np.int8)).value == -0.5
    assert stats.ratio_interval(np.array([2**63 - 1] * 3), np.array([2**62] * 3), seed=0).value == 2


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: stats.quantile_interval([1.0, 2.0], 0.0), "between 0 and 1, got 0.0"),
        (lambda: stats.quantile_interval([1.0, 2.0], 1.0), "between 0 and 1, got 1.0"),
        (lambda: stats.quantile_interval([1.0, math.nan], 0.5), "all of them finite: got 2, 1 not finite"),
        (lambda: stats.median_interval([1.0, math.inf, math.inf]), "got 3, 2 not finite"),
        (lambda: stats.rank_test([1.0], []), "needs values.*got 0, 0 not finite"),
        (lambda: stats.proportion_interval(0, 0), "at least one case, got n=0"),
        (lambda: stats.ratio_interval([1.0, 2.0], [0.0, 1.0], seed=0), "positive base, got 0.0"),
    ],
)
def test_a_refusal_says_what_is_wrong(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


# --- many comparisons -------------------------------------------------------------------------------


def test_the_smallest_p_is_two_orders_of_all() -> None:
    assert [stats.least_rank_p(n, n) for n in (1, 2, 3, 4)] == [1.0, 1 / 3, 0.1, 2 / 70]
    assert stats.least_rank_p(2, 5) == 2 / 21
    assert stats.least_rank_p(0, 5) == 1.0
    assert stats.least_rank_p(6, 6) == stats.rank_test(range(6), range(10, 16))
    assert stats.least_rank_p(2000, 2000) == 0.0


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg() -> None:
    """The i-th smallest times n / i, and never above a larger one's."""
    assert stats.adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    assert stats.adjusted([0.03]) == [0.03]
    assert stats.adjusted([]) == []


# --- slopes -----------------------------------------------------------------------------------------


def autoregressive(rng: np.random.Generator, n: int, correlation: float) -> list[float]:
    """Noise of deviation 1 in which neighbours are correlated."""
    noise = [rng.normal()]
    for step in rng.normal(0, math.sqrt(1 - correlation**2), n - 1):
        noise.append(correlation * noise[-1] + step)
    return noise


def test_a_straight_line_has_its_slope_and_no_width() -> None:
    interval = stats.slope_interval([0, 1, 2, 4, 8], [5, 7, 9, 13, 21], seed=0)
    assert (interval.value, interval.n, interval.coverage) == (2, 5, 0.95)
    assert (interval.low, interval.high) == pytest.approx((2, 2))


def test_a_series_that_never_changes_has_no_slope_even_where_it_was_looked_at_twice() -> None:
    assert stats.slope_interval([0, 1, 1, 2, 2, 3], [5] * 6, seed=0).value == 0


def test_a_known_slope_lies_inside() -> None:
    x = np.arange(40.0)
    y = 3 - 0.5 * x + np.asarray(autoregressive(np.random.default_rng(1), 40, 0.5))
    interval = stats.slope_interval(x, y, seed=1)
    assert interval.low is not None
    assert interval.high is not None
    assert -0.7 < interval.low < -0.5 < interval.high < -0.3
    assert interval == stats.slope_interval(x, y, seed=1)
    assert interval != stats.slope_interval(x, y, seed=2)


def test_one_outlier_does_not_turn_a_slope() -> None:
    y = [2.0 * i for i in range(12)]
    y[11] = 1e6
    assert stats.slope_interval(range(12), y, seed=0).value == 2


def test_the_slope_is_the_median_of_all_pairs() -> None:
    """Of (0, 0), (1, 5), (1, 1), (3, 3) the pairs at different x have slopes 5, 1, 1, -1, 1."""
    x, y = np.array([0.0, 1, 1, 3]), np.array([0.0, 5, 1, 3])
    assert stats.slope_interval(x, y, seed=0).value == 1
    rows = np.stack([y, 2 * y, y + 7])
    assert stats._slopes(x, rows).tolist() == [1, 2, 1]


def test_an_interval_of_a_slope_follows_its_unit_and_ignores_its_offset() -> None:
    rng = np.random.default_rng(3)
    x, y = np.arange(20.0), rng.normal(size=20)
    plain, moved = stats.slope_interval(x, y, seed=1), stats.slope_interval(x + 50, 10 * y + 7, seed=1)
    assert (moved.value, moved.low, moved.high) == pytest.approx(
        (10 * plain.value, 10 * (plain.low or 0), 10 * (plain.high or 0))
    )


def test_two_places_give_a_slope_without_an_interval() -> None:
    assert stats.slope_interval([1, 1, 2], [0, 2, 4], seed=0) == stats.Interval(3.0, None, None, 3, 0.0)


def test_a_long_series_is_thinned_to_medians_of_neighbours() -> None:
    x = np.arange(5000.0)
    interval = stats.slope_interval(x, 2 * x, seed=0, resamples=20)
    assert (interval.value, interval.n) == (pytest.approx(2), 5000)
    assert stats._thinned(np.arange(600.0)).tolist() == [3 * i + 1 for i in range(200)]
    assert len(stats._thinned(np.arange(200.0))) == 200


def test_blocks_are_runs_of_neighbours_from_anywhere() -> None:
    drawn = stats._moving_blocks(7, 3, 400, np.random.default_rng(0))
    assert drawn.shape == (400, 7)
    assert (np.diff(drawn[:, 0:3]) == 1).all()
    assert (np.diff(drawn[:, 3:6]) == 1).all()
    assert set(drawn[:, 0]) == {0, 1, 2, 3, 4}
    assert set(drawn[:, 6]) == {0, 1, 2, 3, 4}
    assert (stats._moving_blocks(4, 9, 5, np.random.default_rng(0)) == np.arange(4)).all()


def test_residuals_are_centred_and_make_up_for_the_fit() -> None:
    left = stats._residuals(np.array([0.0, 1, 2, 3]), np.array([1.0, -1, 1, -1]), 0.0)
    assert left.tolist() == pytest.approx([math.sqrt(2), -math.sqrt(2), math.sqrt(2), -math.sqrt(2)])


@pytest.mark.parametrize(
    ("n", "correlation", "least", "most"),
    [
        (8, 0.0, 0.90, 1.0),
        (20, 0.0, 0.92, 1.0),
        (20, 0.5, 0.87, 0.98),
        (20, 0.8, 0.72, 0.92),
        (60, 0.8, 0.86, 1.0),
    ],
)
def test_how_often_an_interval_of_a_slope_holds_it(
    n: int, correlation: float, least: float, most: float
) -> None:
    """Near 95 % while neighbours are little correlated, less often where a short series drifts."""
    draws = 200
    rng = np.random.default_rng([n, round(10 * correlation)])
    x = np.arange(float(n))
    held = 0
    for seed in range(draws):
        y = 0.3 * x + np.asarray(autoregressive(rng, n, correlation))
        interval = stats.slope_interval(x, y, seed, resamples=100)
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= 0.3 <= interval.high
    assert least <= held / draws <= most


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([], [], "needs values"),
        ([1, 2], [1, math.nan], "not finite"),
        ([1, 2, 3], [1, 2], "as many x as y, got 3 and 2"),
        ([5, 5, 5], [1, 2, 3], "^a slope needs at least two different x$"),
    ],
)
def test_what_has_no_slope_is_refused(x: list[float], y: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        stats.slope_interval(x, y, seed=0)


@settings(deadline=None)
@given(st.lists(st.floats(1e-9, 1.0), max_size=20))
def test_p_values_of_a_family_are_corrected_for_their_number(p_values: list[float]) -> None:
    """Each times the size of the family over its rank, and never above that of a larger one."""
    n, ordered = len(p_values), sorted(p_values)
    by_definition = [
        min(1.0, *(p * n / rank for rank, p in enumerate(ordered, 1) if p >= own)) for own in p_values
    ]
    assert stats.adjusted(p_values) == pytest.approx(by_definition)


def test_a_line_through_three_points_has_an_interval_and_one_through_two_has_none() -> None:
    straight = stats.slope_interval([1, 2, 3], [5, 7, 9], seed=0)
    assert (straight.value, straight.low, straight.high, straight.coverage) == (2, 2, 2, 0.95)
    two = stats.slope_interval([1, 1, 2, 2], [5, 5, 7, 7], seed=0)
    assert (two.value, two.low, two.high, two.coverage) == (2, None, None, 0)


# --- slopes of values that move in steps ------------------------------------------------------------


def held(interval: stats.Interval, slope: float) -> bool:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low <= slope <= interval.high


@pytest.mark.parametrize("at", [1, 10, 19])
def test_a_single_step_may_be_the_slope_of_a_whole_series(at: int) -> None:
    """Most pairs are equal: the slope is 0, or nearly, but a line through both ends is not ruled out."""
    y = [0.0] * at + [1.0] * (20 - at)
    interval = stats.slope_interval(range(20), y, seed=0)
    assert held(interval, 0.0)
    assert held(interval, 1 / 19)


def test_no_slope_is_known_better_than_a_step_over_the_whole_series() -> None:
    x = np.arange(20.0)
    interval = stats.slope_interval(2 * x, 3 * np.floor(x / 7), seed=0)
    assert interval.low is not None
    assert interval.high is not None
    assert interval.high - interval.value >= 3 / 38
    assert interval.value - interval.low >= 3 / 38


@pytest.mark.parametrize("y", [[7.0] * 12, [0.5 * i for i in range(12)]], ids=["constant", "straight"])
def test_what_lies_on_a_line_is_as_sure_as_the_resolution_it_is_said_to_have(y: list[float]) -> None:
    slope = stats.slope_interval(range(12), y, seed=0)
    assert (slope.low, slope.high) == pytest.approx((slope.value, slope.value))
    known = stats.slope_interval(range(12), y, seed=0, resolution=0.11)
    assert known.value == slope.value
    assert known.low is not None
    assert known.high is not None
    assert known.value - known.low >= 0.01
    assert known.high - known.value >= 0.01
    assert known.high - known.low < 0.1


def test_a_resolution_finer_than_the_steps_that_are_seen_changes_nothing() -> None:
    y = np.floor(np.arange(20.0) / 6)
    assert stats.slope_interval(range(20), y, seed=1, resolution=0.5) == stats.slope_interval(
        range(20), y, seed=1
    )


@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 6])
def test_how_often_an_interval_holds_the_slope_of_a_line_that_is_seen_in_steps(
    steps: float, noise: float
) -> None:
    """A line that rises by so many steps in 20 samples, with noise of so many, rounded down."""
    draws = 60
    rng = np.random.default_rng([steps, round(10 * noise)])
    x = np.arange(20.0)
    good = 0
    for seed in range(draws):
        y = np.floor(steps / 19 * x + rng.uniform() + noise * rng.normal(size=20))
        good += held(stats.slope_interval(x, y, seed, resamples=60, resolution=1.0), steps / 19)
    assert good / draws >= 0.9
