"""Facts about comparisons: the words by hand, and how often they are wrong by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from bench import comparison
from bench.comparison import Difference, Word, compare

SIX = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2]


def scaled(factor: float, values: Sequence[float] = SIX) -> list[float]:
    return [factor * value for value in values]


def one(a: Sequence[float], b: Sequence[float]) -> Difference[str]:
    """The answer to a single question."""
    (found,) = compare({"it": (a, b)})
    return found


def test_a_clear_difference_is_called_so() -> None:
    found = one(scaled(1.2), SIX)
    assert (found.key, found.word, found.why, found.n_a, found.n_b) == ("it", Word.DIFFERENT, "", 6, 6)
    assert found.ratio == pytest.approx(1.2)
    assert found.a == pytest.approx(1.2 * 100.1)
    assert found.b == pytest.approx(100.1)
    assert found.p == found.p_adjusted == pytest.approx(2 / 924)
    assert found.low is not None
    assert found.high is not None
    assert 1.15 < found.low < 1.2 < found.high < 1.25


@pytest.mark.parametrize("factor", [1.2, 1.04, 1.0])
def test_sides_that_are_changed_over_get_the_same_word(factor: float) -> None:
    there, back = one(scaled(factor), SIX), one(SIX, scaled(factor))
    assert there.word is back.word
    assert (there.ratio or 0) * (back.ratio or 0) == pytest.approx(1)


def test_what_is_measurable_but_too_small_to_count_is_the_same() -> None:
    found = one(scaled(1.02), SIX)
    assert found.p_adjusted < 0.05
    assert (found.word, found.why) == (Word.SAME, "within a factor of 1.05")


def test_what_may_or_may_not_be_too_small_is_unclear() -> None:
    found = one(scaled(1.045), SIX)
    assert found.p_adjusted < 0.05
    assert found.word is Word.UNCLEAR
    assert found.why == "below the smallest effect that counts, a factor of 1.05"


def test_the_smallest_effect_is_the_callers_choice() -> None:
    (found,) = compare({"it": (scaled(1.2), SIX)}, smallest_effect=0.5)
    assert found.word is Word.SAME
    (found,) = compare({"it": (scaled(1.045), SIX)}, smallest_effect=0.01)
    assert found.word is Word.DIFFERENT


def test_wide_intervals_leave_it_unclear() -> None:
    found = one([80, 120, 95, 130, 70, 110], [100, 75, 125, 90, 105, 85])
    assert found.word is Word.UNCLEAR
    assert "chance explains it" in found.why
    assert "the interval holds 1" in found.why


@pytest.mark.parametrize(("n_a", "n_b"), [(3, 3), (1, 1), (1, 60), (2, 7), (3, 4)])
def test_too_few_trials_can_never_tell_however_far_apart(n_a: int, n_b: int) -> None:
    found = one([1000.0 + i for i in range(n_a)], [1.0 + i for i in range(n_b)])
    assert (found.word, found.p_adjusted) == (Word.UNCLEAR, 1.0)
    assert found.why == f"{n_a} and {n_b} trials can never tell, however far apart"


def test_ties_do_not_make_three_trials_tell() -> None:
    """The approximation that the rank test uses among ties would say 0.047."""
    found = one([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    assert found.p == pytest.approx(0.1)
    assert found.word is Word.UNCLEAR


def test_too_few_trials_are_not_the_same_either() -> None:
    assert one([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]).word is Word.UNCLEAR


def test_four_trials_can_tell() -> None:
    assert one(scaled(1.2, SIX[:4]), SIX[:4]).word is Word.DIFFERENT


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_equal_constants_are_the_same(value: float) -> None:
    found = one([value] * 6, [value] * 6)
    assert (found.word, found.p, found.why) == (Word.SAME, 1.0, "all values are equal")


def test_different_constants_are_different() -> None:
    found = one([3.0] * 6, [2.0] * 6)
    assert (found.word, found.low, found.high) == (Word.DIFFERENT, 1.5, 1.5)


def test_something_against_nothing_is_different_without_a_ratio() -> None:
    found = one([12, 9, 11, 10, 14, 8], [0.0] * 6)
    assert (found.ratio, found.low, found.high) == (None, None, None)
    assert (found.word, found.a, found.b) == (Word.DIFFERENT, 10.5, 0)
    assert "no ratio" in found.why


def test_values_around_nothing_are_unclear() -> None:
    found = one([0.1, -0.2, 0.3, -0.1, 0.2, 0.0], [-0.3, 0.2, 0.1, 0.0, -0.1, 0.3])
    assert (found.word, found.ratio) == (Word.UNCLEAR, None)
    assert "chance explains it" in found.why


def test_medians_that_are_both_nothing_are_not_different() -> None:
    found = one([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    assert found.word is Word.UNCLEAR
    assert "the medians are too near to each other to count" in found.why


def test_values_that_are_not_finite_are_left_out_and_told() -> None:
    found = one([*scaled(1.2), math.nan], [*SIX, math.inf])
    assert (found.word, found.n_a, found.n_b) == (Word.DIFFERENT, 6, 6)
    assert found.why == "2 values that are not finite were left out"


def test_no_values_at_all_are_unclear() -> None:
    found = one([], [math.nan] * 6)
    assert (found.word, found.a, found.b, found.ratio, found.p) == (Word.UNCLEAR, None, None, None, 1.0)


def test_nothing_to_compare_is_no_answer() -> None:
    assert compare({}) == []


def test_the_number_of_questions_is_paid_for() -> None:
    """Of 40 questions six trials cannot tell a lone difference; seven can, and two support each other."""
    seven = [*SIX, 100.1]
    alike = dict.fromkeys(range(2, 40), (SIX, SIX[::-1]))

    lone = compare({0: (scaled(1.2), SIX), 1: (SIX, SIX), **alike}, resamples=200)[0]
    assert lone.p == pytest.approx(2 / 924)
    assert lone.word is Word.UNCLEAR
    assert "among 40 comparisons" in lone.why
    assert "7 trials each would tell a lone difference" in lone.why

    pair = {0: (scaled(1.2), SIX), 1: (scaled(0.8), SIX)}
    assert comparison.different(compare({**pair, **alike}, resamples=200)) == 2

    more = {0: (scaled(1.2, seven), seven), **dict.fromkeys(range(1, 40), (seven, seven[::-1]))}
    assert compare(more, resamples=200)[0].word is Word.DIFFERENT


def test_questions_without_an_answer_cost_the_others_nothing() -> None:
    """Too few trials, or nothing but equal values: these can never be called different."""
    idle = {i: ([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]) for i in range(50)}
    equal = {100 + i: ([0.0] * 6, [0.0] * 6) for i in range(50)}
    found = {each.key: each for each in compare({1000: (scaled(1.2), SIX), **idle, **equal}, resamples=200)}
    assert found[1000].p_adjusted == found[1000].p
    assert comparison.different(found.values()) == 1


def test_how_many_trials_tell_a_lone_difference() -> None:
    assert [comparison.trials_for(family) for family in (1, 4, 40, 400)] == [4, 5, 7, 9]


def test_the_same_seed_gives_the_same_answer() -> None:
    rng = np.random.default_rng(0)
    samples = {i: (list(rng.lognormal(size=8)), list(rng.lognormal(size=8))) for i in range(3)}
    assert compare(samples, seed=4) == compare(samples, seed=4)
    assert compare(samples, seed=4) != compare(samples, seed=5)


VALUE = st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf]) | st.floats(1e-9, 1e9)
SIDE = st.lists(VALUE, max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(0, 9), st.tuples(SIDE, SIDE), max_size=6))
def test_every_question_is_answered_and_every_word_keeps_its_rule(
    samples: dict[int, tuple[list[float], list[float]]],
) -> None:
    found = compare(samples, resamples=50)
    assert [each.key for each in found] == list(samples)
    for each in found:
        assert 0 < each.p <= each.p_adjusted <= 1
        if each.word is Word.DIFFERENT:
            assert each.p_adjusted <= 0.05 + 1e-9
            if each.ratio is not None and each.low is not None and each.high is not None:
                assert each.low > 1 or each.high < 1
                assert not 1 / 1.05 < each.ratio < 1.05
        if each.word is Word.SAME and each.low is not None and each.high is not None:
            assert 1 / 1.05 <= each.low <= each.high <= 1.05
        if each.word is Word.UNCLEAR:
            assert each.why


# --- how often the words are wrong ------------------------------------------------------------------

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

NOISES: dict[str, Draw] = {
    "normal": lambda rng, size: 100 * (1 + 0.2 * np.clip(rng.normal(size=size), -4, 4)),
    "lognormal": lambda rng, size: rng.lognormal(0, 0.5, size),
    "heavy": lambda rng, size: 100 * np.exp(0.1 * rng.standard_t(2, size)),
}


def called_different(draw: Draw, n: int, family: int, families: int, ratio: float = 1.0) -> int:
    """How many comparisons of all are called different when B is A times `ratio`."""
    rng = np.random.default_rng([n, family])
    count = 0
    for seed in range(families):
        sides = draw(rng, (family, 2, n))
        samples = {i: (ratio * a, b) for i, (a, b) in enumerate(sides)}
        count += comparison.different(compare(samples, seed=seed, resamples=200))
    return count


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("n", [5, 6, 10])
@pytest.mark.parametrize(("family", "families"), [(1, 120), (4, 40), (40, 4)])
def test_where_nothing_differs_at_most_5_percent_are_called_different(
    noise: str, n: int, family: int, families: int
) -> None:
    """Whatever the noise and the number of trials; in larger families far fewer."""
    wrong = called_different(NOISES[noise], n, family, families)
    assert binomtest(wrong, family * families, 0.05, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(("family", "families"), [(1, 100), (4, 30), (40, 3)])
def test_a_real_effect_of_20_percent_is_found_most_of_the_time(family: int, families: int) -> None:
    def noise(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
        return 100 * (1 + 0.05 * rng.normal(size=size))

    found = called_different(noise, 6, family, families, ratio=1.2)
    assert found / (family * families) > 0.8


def test_a_real_effect_just_large_enough_is_hardly_ever_called_the_same() -> None:
    rng = np.random.default_rng(3)
    samples = {i: (105 + rng.normal(0, 2, 6), 100 + rng.normal(0, 2, 6)) for i in range(300)}
    same = sum(each.word is Word.SAME for each in compare(samples, resamples=200))
    assert binomtest(same, 300, 0.05, alternative="greater").pvalue > 0.01
