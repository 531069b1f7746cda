"""What the controls allow to read into the differences between architectures, by rule."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_modules.comparing.statistics.rule import BASELINE, BETTER, NO_SPREAD, NOT_SEPARATED, RULE, WORSE
from lightning_modules.comparing.statistics.summary import Summary

CONTROL_FACTOR = 1.25  # a control whose error is within this factor of the baseline's says: nothing to separate here


def what_controls_show(summaries: Sequence[Summary], factor: float = CONTROL_FACTOR) -> list[str]:
    """A sentence for each control, and what follows from all of them."""
    baseline = next((s for s in summaries if s.verdict == BASELINE), None)
    controls = [s for s in summaries if s.arm.control]
    if not controls:
        return ["No control was run: whether this data set at this length separates architectures is not known."]
    if baseline is None or baseline.mean is None:
        return ["The baseline has no finished run: the controls cannot be judged."]
    said, fails, judged = [], [], []
    for s in controls:
        if s.mean is None:
            said.append(f"{s.arm.name} has no finished run: this control says nothing.")
            continue
        judged.append(s)
        times = s.mean / baseline.mean if baseline.mean else math.inf if s.mean else 1.0
        ratio = f"{times:.2f} times the baseline's error"
        if s.verdict == BETTER or times <= factor:
            fails.append(s.arm.name)
            near = "is better than" if s.verdict == BETTER else f"makes at most {factor:g} times the error of"
            said.append(f"{s.arm.name} {near} the baseline ({ratio}; {s.verdict}).")
        elif s.verdict in (NOT_SEPARATED, NO_SPREAD):
            said.append(f"{s.arm.name} is not separated from the baseline by these seeds ({ratio}).")
        else:
            kind = " is worse than the baseline" if s.verdict == WORSE else f": {s.verdict}"
            said.append(f"{s.arm.name}{kind} ({ratio}).")
    if fails:
        said.append(
            f"By rule, because of {' and '.join(fails)}: THIS DATA SET AT THIS LENGTH HARDLY SEPARATES"
            " ARCHITECTURES. A control with fewer steps and fewer parameters does as well or nearly so, and"
            " differences between the arms above are no evidence about schemes."
        )
    elif judged and all(s.verdict == WORSE for s in judged):
        said.append(
            f"The controls lose clearly ({RULE.describe_controls()}: this sentence needs"
            " every one of them), so the flows and their steps matter here and differences between schemes could"
            " show; that is a condition for reading the table, not a finding about any scheme."
        )
    elif judged:
        said.append(
            "The controls are not separated by enough seeds: it is open whether this data set separates schemes."
        )
    return said
