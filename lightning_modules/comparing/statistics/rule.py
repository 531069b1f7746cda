"""The rule by which an arm is called better or worse, and the sentences that state it.

:data:`RULE` is the rule of all reports. Tables, page, terminal and documentation format what its methods return, so
that another rule changes verdicts and prose together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from lightning_modules.comparing.statistics.paired import all_equal, holm
from lightning_modules.comparing.statistics.sign_flip_test import (
    ALL_SUBSETS,
    DRAWN,
    least_p,
    ranked,
    sign_flip_interval,
    sign_flip_p,
)
from lightning_modules.text import plural

BASELINE = "baseline"
BETTER, WORSE, NOT_SEPARATED = "better", "worse", "not separated"
TOO_FEW = "too few seeds"
NO_PAIR = "no seed in common"
NO_SPREAD = "no spread"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one arm's differences, and the p it rests on, alone and adjusted for its family."""

    label: str
    p: float | None = None
    adjusted: float | None = None


@dataclass(frozen=True)
class SignFlipRule:
    """ "better" and "worse" need a two-sided sign-flip test whose Holm-adjusted p is at most ``alpha``.

    Where no outcome could have reached that with the pairs there are, the verdict is "too few seeds"; "not separated"
    says that an outcome could have. A run that diverged counts as worse than any finite error, so an arm that diverges
    more often than the baseline cannot be called better.

    Args:
        alpha: the probability of any false claim in a family of arms.
        fewest_for_claims: pairs below which a result is one of development, even where a p is small.
    """

    alpha: float = 0.05
    fewest_for_claims: int = 8

    name: ClassVar[str] = "sign-flip"
    correction: ClassVar[str] = "Holm"

    @property
    def level(self) -> float:
        """The level of the interval that belongs to the test."""
        return 1 - self.alpha

    @property
    def columns(self) -> tuple[str, str]:
        """Names of the columns for p and adjusted p in tables that programs read."""
        return f"{self.name.replace('-', '_')}_p", f"{self.correction.lower()}_p"

    # The decision -------------------------------------------------------------------------------------------

    def p(self, differences: Sequence[float]) -> float | None:
        """The p of one arm's differences, unadjusted; None without differences."""
        return sign_flip_p(differences)

    def least_p(self, pairs: int) -> float:
        """The smallest p that so many pairs can give."""
        return least_p(pairs)

    def interval(self, differences: Sequence[float]) -> tuple[float, float] | None:
        """The shifts that the test does not reject at ``alpha``; None where there are too few differences."""
        return sign_flip_interval(differences, self.level)

    def judge(self, differences: Mapping[str, Sequence[float]]) -> dict[str, Verdict]:
        """The verdicts on a family of arms.

        Args:
            differences: for each arm its paired differences to one baseline, arm minus baseline.
        """
        ps = {arm: p for arm, values in differences.items() if (p := self.p(values)) is not None}
        adjusted = holm(ps, len(differences))
        best_case = holm({arm: self.least_p(len(differences[arm])) for arm in ps}, len(differences))
        return {
            arm: Verdict(self._verdict(values, adjusted[arm], best_case[arm]), ps[arm], adjusted[arm])
            if values
            else Verdict(NO_PAIR)
            for arm, values in differences.items()
        }

    def _verdict(self, differences: Sequence[float], adjusted: float, best_case: float) -> str:
        if best_case > self.alpha:
            return TOO_FEW
        if all_equal(differences):
            return NO_SPREAD  # equal differences are no independent evidence: the seeds have changed nothing
        if adjusted > self.alpha:
            return NOT_SEPARATED
        return BETTER if sum(ranked(differences)) < 0 else WORSE

    def seeds_needed(self, arms: int) -> int:
        """The fewest pairs n with which m corrected arms can reach alpha: 2 m / 2^n <= alpha."""
        return max(1, math.ceil(math.log2(2 * max(1, arms) / self.alpha) - 1e-9))

    def seeds_for_claims(self, arms: int) -> int:
        """The pairs that a claim about so many arms takes."""
        return max(self.fewest_for_claims, self.seeds_needed(arms))

    # The sentences ------------------------------------------------------------------------------------------

    def describe_test(self, pairs: int) -> str:
        """The test that so many pairs are judged by."""
        if pairs <= ALL_SUBSETS:
            return f"exact two-sided {self.name} test"
        return f"two-sided {self.name} test on {DRAWN} drawn patterns"

    def describe_interval(self) -> str:
        """The interval of a difference."""
        return (
            f"the {self.level:.0%} {self.name} interval (Hartigan's typical values; none below {self.seeds_needed(1)}"
            " pairs)"
        )

    def describe(self, pairs: int, arms: int) -> str:
        """The two columns of p, and which one the verdict rests on.

        Args:
            pairs: the most pairs of any arm.
            arms: how many are compared with the baseline, controls not counted.
        """
        return (
            f"p: {self.describe_test(pairs)}; {self.correction}: adjusted for the {plural(arms, 'arm')} beside the"
            f" baseline, on which the verdict rests (at most {self.alpha:g}); controls are no part of that family."
        )

    def describe_briefly(self) -> str:
        """Interval and verdict, for a terminal."""
        return f"with its {self.name} interval; the verdict rests on the {self.correction}-adjusted p"

    def describe_controls(self) -> str:
        """How controls are judged."""
        return f"each by an exact {self.name} test of its own, uncorrected"

    def describe_reach(self, pairs: Sequence[int]) -> list[str]:
        """What these pairs of runs can and cannot show, in sentences.

        Args:
            pairs: how many pairs each arm has with the baseline.
        """
        m, n = len(pairs), max(pairs)
        needed, least = self.seeds_for_claims(m), self.least_p(n)
        if n == 0:
            return [f"No pair of runs is finished: nothing can be concluded; that takes {needed} seeds here."]
        some = "up to " * (min(pairs) < n) + plural(n, "pair")
        reach = f"2/2^{n} = {least:.2g}" if math.isclose(least, 2 / 2**n) else f"{least:.2g}"
        reach += f", by {self.correction}'s correction over {m} arms {min(1.0, m * least):.2g}" if m > 1 else ""
        if m * least > self.alpha:
            return [
                f"With {some} the {self.describe_test(n)} cannot go below {reach}: a difference of any size could be"
                f" luck, so nothing here is called better or worse. That takes {needed} seeds; the finished runs are"
                " kept when seeds are added."
            ]
        sentences = [
            f"{some[0].upper()}{some[1:]} of runs: the {self.describe_test(n)} can reach {reach}. A word needs"
            f' {self.alpha:g}. "Not separated" does not mean equal: an interval holds what these seeds do not exclude.'
        ]
        if m > 1:
            sentences.append(
                f"Words hold for the {m} arms together ({self.correction}). Each {self.level:.0%} interval stands for"
                ' its own arm, uncorrected, so one may exclude zero where the word is still "not separated".'
            )
        return sentences


RULE = SignFlipRule()
"""The rule of all reports."""
