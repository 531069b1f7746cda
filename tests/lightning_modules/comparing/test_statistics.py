"""The statistics of paired runs and the words that rest on them: by hand, by brute force, and by what must hold."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lightning_modules.comparing.statistics.paired import all_equal, bootstrap_interval, correlation, holm, wins
from lightning_modules.comparing.statistics.rule import SignFlipRule
from lightning_modules.comparing.statistics.sign_flip_test import least_p, ranked, sign_flip_interval, sign_flip_p

RULE = SignFlipRule()


def some(n: int, shift: float = 0.7) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n) + shift


# -------------------------------------------------------------------------------- the sign-flip test


@pytest.mark.parametrize("n", [1, 2, 3, 6, 9])
def test_sign_flip_counts_every_pattern(n):
    differences = some(n)
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=n)]
    assert sign_flip_p(differences) == np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)


@pytest.mark.parametrize("n", [3, 6, 8, 12])
@pytest.mark.parametrize("diverged", [(), (math.inf,), (-math.inf, math.inf)])
def test_sign_flip_is_scipys(n, diverged):
    differences = [*some(n - len(diverged)), *diverged]
    of_scipy = stats.permutation_test((ranked(differences),), np.mean, permutation_type="samples", n_resamples=math.inf)
    assert sign_flip_p(differences) == pytest.approx(of_scipy.pvalue, rel=1e-12)


def test_sign_flip_by_hand():
    assert sign_flip_p([1, 2, 3]) == 0.25
    assert sign_flip_p([1, 2, -3]) == 1.0
    assert sign_flip_p([5, 1, -2]) == 0.75  # |sums| 4, 2, 8, 6, each twice: 4, 6 and 8 are at least 4
    assert sign_flip_p([0.1] * 8) == 2 / 2**8
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([]) is None


def test_sign_flip_does_not_depend_on_order_sign_or_scale():
    differences = some(8, 0.4)
    p = sign_flip_p(differences)
    for same in (differences[::-1], -differences, 1e-9 * differences):
        assert sign_flip_p(same) == p


def test_a_diverged_run_is_worse_than_anything_finite():
    # Of eight patterns of the three finite signs, those with a sum >= 6 in favour of "worse": 1; twice that over 16.
    assert sign_flip_p([math.inf, 1, 2, 3]) == 2 / 16
    assert sign_flip_p([math.inf, -1, -2, -3]) == 1.0  # one divergence outweighs all that was won
    assert sign_flip_p([math.inf, 1, 2, 3]) == sign_flip_p([1e9, 1, 2, 3])
    assert sign_flip_p([math.inf] * 6) == 2 / 2**6
    assert sign_flip_p([math.inf, -math.inf, 1.0]) == sign_flip_p([1e9, -1e9, 1.0])


def test_many_differences_are_drawn_alike_every_time():
    differences = some(30, 0.5)
    p, interval = sign_flip_p(differences), sign_flip_interval(differences)
    assert (p, interval) == (sign_flip_p(differences), sign_flip_interval(differences))
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    assert interval == pytest.approx((low, high), abs=0.1)
    assert sign_flip_p([0.1] * 30) == pytest.approx(least_p(30), rel=1e-6)


# -------------------------------------------------------------------------------- its interval


def test_interval_by_hand():
    # Six differences: 63 means of subsets, k = floor(0.025 * 64) = 1: the smallest and the largest difference.
    assert sign_flip_interval([1, 2, 3, 4, 5, 6]) == (1, 6)
    # Seven: k = 3. Means of subsets from below: 1, (1+2)/2 = 1.5, and 2 from {2} and {1, 2, 3}.
    assert sign_flip_interval([1, 2, 3, 4, 5, 6, 7]) == (2, 6)
    assert sign_flip_interval([1, 2, 3, 4, 5]) is None
    assert sign_flip_interval([1, 2, 3], level=0.5) == (1.5, 2.5)  # k = 2 of 1, 1.5, 2, 2, 2, 2.5, 3
    assert sign_flip_interval([]) is None


@pytest.mark.parametrize("n", [6, 7, 8, 11, 25])
def test_interval_holds_what_the_test_does_not_reject(n):
    differences = some(n)
    low, high = sign_flip_interval(differences)
    inside = 1e-6 * (high - low)
    for end, outward in ((low, -inside), (high, inside)):
        assert sign_flip_p(differences - (end + outward)) <= 0.05
        assert sign_flip_p(differences - (end - outward)) > 0.05


@pytest.mark.parametrize("counts", [(3, 2, -4, 5, 12, 1, 6, 12), (-4, 6, 12, -5, 7, 12, 9, 11)])
def test_sums_that_cancel_on_paper_cancel_in_test_and_interval(counts):
    differences = [count * 1e-4 for count in counts]  # of which some sums are 1e-20 in binary
    assert sign_flip_p(differences) == 14 / 2**8
    assert sign_flip_interval(differences)[0] == 0.0
    assert sign_flip_interval([-value for value in differences])[1] == 0.0


def test_interval_moves_and_mirrors_with_the_data_and_holds_the_centre():
    differences = some(9)
    low, high = sign_flip_interval(differences)
    assert sign_flip_interval(differences + 3) == pytest.approx((low + 3, high + 3))
    assert sign_flip_interval(-differences) == pytest.approx((-high, -low))
    symmetric = np.concatenate([4 - differences, 4 + differences])
    low, high = sign_flip_interval(symmetric)
    assert (low + high) / 2 == pytest.approx(4)
    assert low < 4 < high


def test_interval_with_diverged_runs_is_open_on_their_side():
    low, high = sign_flip_interval([math.inf, 1, 2, 3, 4, 5, 6, 7])
    assert (math.isfinite(low), high) == (True, math.inf)
    assert sign_flip_interval([math.inf, -math.inf, 1, 2, 3, 4]) is None


# -------------------------------------------------------------------------------- beside the test


def test_bootstrap_is_scipys_and_always_the_same():
    differences = some(9)
    low, high = bootstrap_interval(differences)
    assert (low, high) == bootstrap_interval(differences)
    assert low < differences.mean() < high
    other = stats.bootstrap((differences,), np.mean, method="BCa", rng=np.random.default_rng(5)).confidence_interval
    assert (low, high) == pytest.approx((other.low, other.high), abs=0.1)


@pytest.mark.parametrize("differences", [[], [1, 2, 3, 4, 5], [0.1] * 8, [math.inf, 1, 2, 3, 4, 5, 6]])
def test_bootstrap_refuses_what_it_cannot_resample(differences):
    assert bootstrap_interval(differences) is None


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.4, "b": 0.9}) == pytest.approx({"a": 0.8, "b": 0.9})
    assert holm({"a": 0.01}, comparisons=3) == pytest.approx({"a": 0.03})
    assert holm({}) == {}


def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferroni():
    ps = dict(enumerate(np.random.default_rng(0).random(12) ** 3))
    adjusted = holm(ps)
    ranked = sorted(ps, key=ps.get)
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(ranked))
    assert all(ps[i] <= adjusted[i] <= min(1, 12 * ps[i]) for i in ps)
    assert max(adjusted.values()) <= 1


def test_wins_count_ties_half_and_diverged_runs_as_lost():
    assert wins([-1, -2, 0, 3, math.inf]) == 2.5


def test_correlation():
    a, b = [0.1, 0.4, 0.2, 0.9], [0.3, 0.2, 0.5, 0.8]
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert correlation([1, 2], [2, 1]) is None
    assert correlation([1, 1, 1], [1, 2, 3]) is None


def test_all_equal_up_to_rounding():
    assert all_equal([0.4 - 0.3, 0.2 - 0.1])
    assert not all_equal([0.1])
    assert not all_equal([0.1, 0.2])
    assert not all_equal([math.inf, math.inf])


# -------------------------------------------------------------------------------- words by rule


@pytest.mark.parametrize(("arms", "seeds"), [(1, 6), (2, 7), (3, 7), (4, 8), (6, 8), (7, 9), (12, 9), (13, 10)])
def test_seeds_needed_are_the_fewest_that_can_reach_a_word(arms, seeds):
    assert RULE.seeds_needed(arms) == seeds
    for n, word in ((seeds, "better"), (seeds - 1, "too few seeds")):
        verdicts = RULE.judge({f"arm{i}": [-1.0 - i - j for j in range(n)] for i in range(arms)})
        assert {verdict.label for verdict in verdicts.values()} == {word}


def test_claims_need_eight_seeds_and_nine_for_more_than_six_arms():
    assert [RULE.seeds_for_claims(m) for m in (1, 6, 7, 12)] == [8, 8, 9, 9]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([-1, -2, -3, -4, -5, -6], "better"),
        ([1, 2, 3, 4, 5, 6], "worse"),
        ([1, -2, 3, -4, 5, -6], "not separated"),
        ([-0.010, -0.011, -0.012], "too few seeds"),
        ([-0.5], "too few seeds"),
        ([], "no seed in common"),
        ([-0.25] * 6, "no spread"),
        ([math.inf, -1, -2, -3, -4, -5, -6, -7], "not separated"),  # seven wins do not make up for a divergence
        ([math.inf, 1, 2, 3, 4, 5, 6, 7], "worse"),
        ([math.inf] * 6, "worse"),
        ([-math.inf, -1, -2, -3, -4, -5], "better"),  # here the baseline diverged
    ],
)
def test_words_for_one_arm(differences, expected):
    assert RULE.judge({"arm": differences})["arm"].label == expected


def test_more_arms_need_more_and_arms_without_a_pair_count():
    seven = [-1, -2, -3, -4, -5, -6, -7]
    assert RULE.judge({"a": seven, "b": seven, "c": seven})["a"].label == "better"
    more = RULE.judge({"a": seven, "b": seven, "c": seven, "d": []})
    assert more["a"].adjusted == pytest.approx(4 * 2 / 2**7)
    assert more["a"].label == "too few seeds"
    assert more["d"].label == "no seed in common"


def test_an_arm_that_holm_reaches_only_after_others_is_not_called_too_short():
    """The eight pairs of b alone could not bear seven comparisons; behind arms with nine they can."""
    nine, eight = [-1.0 - i for i in range(9)], [-1.0 - i for i in range(8)]
    family = {f"a{i}": nine for i in range(6)} | {"b": eight}
    assert RULE.judge(family)["b"].label == "better"
    assert RULE.judge(family | {"b": [*eight[:-1], 9.0]})["b"].label == "not separated"


def test_another_level_judges_and_says_so():
    lenient = SignFlipRule(alpha=0.2, fewest_for_claims=1)
    four = {"arm": [-1, -2, -3, -4]}
    assert (RULE.judge(four)["arm"].label, lenient.judge(four)["arm"].label) == ("too few seeds", "better")
    assert lenient.interval(four["arm"]) == (-4, -1)
    assert (lenient.seeds_needed(1), lenient.seeds_for_claims(2)) == (4, 5)
    assert "at most 0.2" in lenient.describe(4, 1)
    assert "80%" in lenient.describe_interval()
    assert "none below 4 pairs" in lenient.describe_interval()
    assert "needs 0.2" in lenient.describe_reach([4])[0]
    assert "80%" in lenient.describe_reach([8, 8])[1]


def test_the_documentation_states_the_rule():
    text = (Path(__file__).parents[3] / "docs" / "comparing.md").read_text(encoding="utf-8")
    assert RULE.describe(8, 6) in text
    assert RULE.describe_test(8) in " ".join(text.split())
    words = dict(enumerate(["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))
    takes = f"one arm takes {words[RULE.seeds_needed(1)]} seeds"
    assert takes in " ".join(text.split())
