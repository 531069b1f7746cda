"""Numbers of a summary as people read them; what was not measured is "-"."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.metrics import Measure

ABSENT = "-"

LABELS = {
    "parameters": "parameters",
    "flow_parameters": "parameters in flows",
    "macs": "MACs",
    "train_flops": "training FLOPs",
    "nfe_forward": "NFE forward",
    "nfe_backward": "NFE backward",
    "bytes_kept": "bytes kept",
    "peak_bytes": "peak bytes",
    "step_time": "step time",
}
"""What the costs of a run are called in a report."""


def human(number: float | None, unit: str = "") -> str:
    """A number with a prefix of powers of ten: 219873 -> "219.9 k", 12.3e6 bytes -> "12.3 MB"; None is "-"."""
    if number is None:
        return ABSENT
    for power, prefix in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        scaled = number / power
        if abs(scaled) < 999.95 or prefix == "T":
            break
    digits = f"{scaled:.0f}" if not prefix and float(scaled).is_integer() else f"{scaled:.1f}"
    return f"{digits} {prefix}{unit}".rstrip()


def seconds(time: float | None) -> str:
    """A time with its unit: 0.0123 -> "12.3 ms"."""
    if time is None:
        return ABSENT
    return f"{time:.2f} s" if time >= 1 else f"{1e3 * time:.3g} ms"


def amount(name: str, value: float) -> str:
    """A cost with its unit: "219.9 k parameters", "31.2 M MACs", "60.0 MB kept", "120 ms a step"."""
    if name == "step_time":
        return f"{seconds(value)} a step"
    if name == "bytes_kept":
        return f"{human(value, 'B')} kept"
    return f"{human(value)} {LABELS.get(name, name)}"


def error(s: Summary) -> str:
    """Mean and standard deviation of the errors, and of how many runs."""
    if s.mean is None:
        return f"{ABSENT} (0/{s.planned})"
    n = len(s.errors)
    spread = "" if s.sd is None else f" ± {s.measure.number(s.sd)}"
    return f"{s.measure.number(s.mean)}{spread} ({n if n == s.planned else f'{n}/{s.planned}'})"


def difference(s: Summary) -> str:
    """The mean difference, with its interval where there is one."""
    difference = ABSENT if s.difference is None else s.measure.signed(s.difference)
    return difference if s.low is None or s.high is None else f"{difference} {interval(s.measure, s.low, s.high)}"


def interval(measure: Measure, low: float, high: float) -> str:
    """An interval of differences; a diverged run can take an end to infinity."""
    return f"[{measure.signed(low)}, {measure.signed(high)}]"


def verdict(s: Summary) -> str:
    """The verdict, starred where not every planned run of the arm is done."""
    return s.verdict + ("" if s.complete else "*")


def probability(p: float | None) -> str:
    return ABSENT if p is None else f"{p:.2g}"


def improvement(s: Summary) -> str:
    """ "0.88 (7/8)": the share of pairs that the arm wins, and of how many."""
    if s.wins is None or s.improvement is None:
        return ABSENT
    return f"{s.improvement:.2f} ({s.wins:g}/{len(s.differences)})"


def cost(s: Summary, name: str, unit: str = "") -> str:
    """A mean cost with a prefix and a unit."""
    cost = s.costs.get(name)
    return human(None if cost is None else cost.mean, unit)


def mean_and_sd(mean: float | None, sd: float | None) -> str:
    """A mean with its standard deviation, where there is one."""
    if mean is None:
        return ABSENT
    return f"{mean:.4g}" + (f" ± {sd:.2g}" if sd is not None else "")


def evaluations(s: Summary, name: str, spread: bool = False) -> str:
    """Mean evaluations of f; with ``spread`` also the least and the most."""
    cost = s.costs.get(name)
    if cost is None:
        return ABSENT
    mean = f"{cost.mean:.0f}" if cost.mean == round(cost.mean) else f"{cost.mean:.1f}"
    return f"{mean} ({cost.low:g} to {cost.high:g})" if spread and cost.low < cost.high else mean


def ratio(times: float | None) -> str:
    return ABSENT if times is None else f"{times:.2f}×"


def seed_list(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
