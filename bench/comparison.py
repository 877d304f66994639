"""Is A different from B? Many such questions at once, answered from per-trial values.

Nothing is called different by chance alone (rank test, corrected for the number of questions), nor for
being measurable but tiny (the smallest effect that counts), nor the same for want of trials.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from bench import stats

SMALLEST_EFFECT: Final = 0.05
"""Below a factor of 1.05, either way, nobody should choose one system over another."""

CONFIDENCE: Final = 0.95

Key = TypeVar("Key", bound=Hashable)
Values = npt.NDArray[np.float64]


class Word(enum.StrEnum):
    """The answer to one question."""

    DIFFERENT = "different"
    SAME = "same"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Difference(Generic[Key]):
    """How A stands to B in one figure.

    `a` and `b` are medians over `n_a` and `n_b` trials (None without any); `ratio` is `a / b` with the
    interval from `low` to `high`, each None where there is none. `p` is the rank test's, `p_adjusted` the
    same corrected for the whole family, 1 for a question that its data could never answer with
    `different`. `why` says on one line what stands behind `word`, where that is not plain.
    """

    key: Key
    n_a: int
    n_b: int
    a: float | None
    b: float | None
    ratio: float | None
    low: float | None
    high: float | None
    p: float
    p_adjusted: float
    word: Word
    why: str = ""


def compare(
    samples: Mapping[Key, tuple[stats.Sample, stats.Sample]],
    smallest_effect: float = SMALLEST_EFFECT,
    confidence: float = CONFIDENCE,
    seed: int = 1,
    resamples: int = 10_000,
) -> list[Difference[Key]]:
    """Compare A with B in every figure; `samples` gives the per-trial values of both. Never raises for data.

    `different`: the adjusted p is at most `1 - confidence`, the interval of the ratio excludes 1, and the
    effect, the larger of `ratio` and `1 / ratio`, is at least `1 + smallest_effect`. `same`: the whole
    interval lies inside that band, or all values are equal. Everything else is `unclear`.

    All questions that could be answered with `different` make one family, and `stats.adjusted` corrects
    for their number. Those that could not, for too few trials or because all values are equal, do not
    count: they cannot be called different by chance either (Tarone, A Modified Bonferroni Method for
    Discrete Data, 1990).

    Values that are not finite are left out, and `why` says so. Where a value is not above 0 a ratio means
    nothing: the rank test and the difference of the medians, as a share of the larger one, decide.
    """
    alpha = 1 - confidence + 1e-12  # 1 - 0.95 is a little more than 0.05, 1 - 0.9 a little less than 0.1
    pairs = {key: (_finite(a), _finite(b)) for key, (a, b) in samples.items()}
    ps = {key: _p(a, b) for key, (a, b) in pairs.items()}
    family = [key for key, (a, b) in pairs.items() if _answerable(a, b, alpha)]
    adjusted = dict(zip(family, stats.adjusted([ps[key] for key in family]), strict=True))
    judge = _Judge(smallest_effect, alpha, len(family))
    found = []
    for index, (key, (a, b)) in enumerate(pairs.items()):
        ratio = _ratio(a, b, seed + index, confidence, resamples)
        p_adjusted = adjusted.get(key, 1.0)
        word, reasons = judge.word(a, b, ratio, ps[key], p_adjusted)
        left_out = sum(map(len, samples[key])) - len(a) - len(b)
        if left_out:
            reasons = [*reasons, f"{left_out} values that are not finite were left out"]
        found.append(
            Difference(
                key, len(a), len(b), _median(a), _median(b),
                ratio.value if ratio else None, ratio.low if ratio else None, ratio.high if ratio else None,
                ps[key], p_adjusted, word, "; ".join(reasons),
            )
        )  # fmt: skip
    return found


def different(found: Iterable[Difference[Key]]) -> int:
    """How many were called different."""
    return sum(one.word is Word.DIFFERENT for one in found)


def trials_for(family: int, alpha: float = 1 - CONFIDENCE) -> int:
    """How many trials on each side can tell a lone difference among `family` questions."""
    n = 1
    while stats.least_rank_p(n, n) * family > alpha:
        n += 1
    return n


@dataclass(frozen=True)
class _Judge:
    """The rules by which all questions of a family are answered."""

    smallest_effect: float
    alpha: float
    family: int

    def word(
        self, a: Values, b: Values, ratio: stats.Interval | None, p: float, p_adjusted: float
    ) -> tuple[Word, list[str]]:
        if _too_few(a, b, self.alpha):
            return Word.UNCLEAR, [f"{len(a)} and {len(b)} trials can never tell, however far apart"]
        if _all_equal(a, b):
            return Word.SAME, ["all values are equal"]
        if ratio is None:
            return self._word_without_ratio(a, b, p, p_adjusted)
        assert ratio.low is not None
        assert ratio.high is not None
        band = 1 + self.smallest_effect
        if 1 / band <= ratio.low and ratio.high <= band:
            return Word.SAME, [f"within a factor of {band:g}"]
        doubts = list(self._doubts(len(a), len(b), p, p_adjusted))
        if ratio.low <= 1 <= ratio.high:
            doubts.append("the interval holds 1")
        if 1 / band < ratio.value < band:
            doubts.append(f"below the smallest effect that counts, a factor of {band:g}")
        return (Word.UNCLEAR, doubts) if doubts else (Word.DIFFERENT, [])

    def _word_without_ratio(
        self, a: Values, b: Values, p: float, p_adjusted: float
    ) -> tuple[Word, list[str]]:
        medians = float(np.median(a)), float(np.median(b))
        doubts = list(self._doubts(len(a), len(b), p, p_adjusted))
        if abs(medians[0] - medians[1]) < self.smallest_effect * max(map(abs, medians)) or not any(medians):
            doubts.append("the medians are too near to each other to count")
        word = Word.UNCLEAR if doubts else Word.DIFFERENT
        return word, [*doubts, "no ratio: a value is not above 0; rank test and medians alone"]

    def _doubts(self, n_a: int, n_b: int, p: float, p_adjusted: float) -> Iterator[str]:
        if p_adjusted <= self.alpha:
            return
        if p > self.alpha:
            yield f"chance explains it (p {p:.2g})"
            return
        words = f"chance among {self.family} comparisons explains it (p {p:.2g}, adjusted {p_adjusted:.2g})"
        if stats.least_rank_p(n_a, n_b) * self.family > self.alpha:
            words += f": {trials_for(self.family, self.alpha)} trials each would tell a lone difference"
        yield words


def _finite(values: stats.Sample) -> Values:
    sample = np.asarray(values, np.float64)
    return sample[np.isfinite(sample)]


def _p(a: Values, b: Values) -> float:
    """The rank test's p, which among ties is approximate, and never below what so few values support."""
    if not len(a) or not len(b):
        return 1.0
    return max(stats.rank_test(a, b), stats.least_rank_p(len(a), len(b)))


def _all_equal(a: Values, b: Values) -> bool:
    return len(np.unique(np.concatenate([a, b]))) < 2


def _too_few(a: Values, b: Values, alpha: float) -> bool:
    """Whether there are too few trials for the rank test ever to tell, or for an interval."""
    return min(len(a), len(b)) < 2 or stats.least_rank_p(len(a), len(b)) > alpha


def _answerable(a: Values, b: Values, alpha: float) -> bool:
    """Whether any order of these values could be called different."""
    return not _too_few(a, b, alpha) and not _all_equal(a, b)


def _ratio(a: Values, b: Values, seed: int, confidence: float, resamples: int) -> stats.Interval | None:
    """The ratio of the medians with its interval; None where a side is empty or a value not above 0."""
    if not len(a) or not len(b) or min(a.min(), b.min()) <= 0:
        return None
    return stats.ratio_interval(a, b, seed, confidence, resamples)


def _median(values: Values) -> float | None:
    return float(np.median(values)) if len(values) else None
