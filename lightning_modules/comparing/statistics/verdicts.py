"""By which rule a comparison's words are chosen.

"better" and "worse" need an exact sign-flip test whose Holm-adjusted p is at most 0.05. Where no outcome could have
reached that with the pairs there are, the word is "too few seeds"; "not separated" says that an outcome could have.
A run that diverged counts as worse than any finite error, so an arm that diverges more often than the baseline cannot
be called better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_modules.comparing.statistics.paired import all_equal, holm
from lightning_modules.comparing.statistics.sign_flip_test import ALPHA, least_p, ranked, seeds_needed, sign_flip_p

BASELINE = "baseline"
BETTER, WORSE, NOT_SEPARATED = "better", "worse", "not separated"
TOO_FEW = "too few seeds"
NO_PAIR = "no seed in common"
NO_SPREAD = "no spread"

SEEDS_FOR_CLAIMS = 8


@dataclass(frozen=True)
class Verdict:
    """A word for one arm's differences, and the p it rests on, alone and among its family."""

    word: str
    p: float | None = None
    adjusted: float | None = None


def judge(differences: Mapping[str, Sequence[float]]) -> dict[str, Verdict]:
    """The verdicts on a family of arms by their paired differences to one baseline, arm minus baseline."""
    ps = {arm: p for arm, own in differences.items() if (p := sign_flip_p(own)) is not None}
    adjusted = holm(ps, len(differences))
    best_case = holm({arm: least_p(len(differences[arm])) for arm in ps}, len(differences))
    return {
        arm: Verdict(_word(own, adjusted[arm], best_case[arm]), ps[arm], adjusted[arm]) if own else Verdict(NO_PAIR)
        for arm, own in differences.items()
    }


def _word(differences: Sequence[float], adjusted: float, best_case: float) -> str:
    if best_case > ALPHA:
        return TOO_FEW
    if all_equal(differences):
        return NO_SPREAD  # equal differences are no independent evidence: the seeds have changed nothing
    if adjusted > ALPHA:
        return NOT_SEPARATED
    return BETTER if sum(ranked(differences)) < 0 else WORSE


def seeds_for_claims(comparisons: int) -> int:
    """Below this number of pairs a result is one of development, even where a p is small."""
    return max(SEEDS_FOR_CLAIMS, seeds_needed(comparisons))
