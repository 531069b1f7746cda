"""Numbers of a summary as people read them; what was not measured is "-"."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_modules.comparing.statistics import Summary

ABSENT = "-"


def human(number: float | None, unit: str = "") -> str:
    """219873 -> "219.9 k", 12.3e6 bytes -> "12.3 MB"; powers of ten, absent is "-"."""
    if number is None:
        return ABSENT
    for power, prefix in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")):
        scaled = number / power
        if abs(scaled) < 999.95 or prefix == "T":
            break
    digits = f"{scaled:.0f}" if not prefix and float(scaled).is_integer() else f"{scaled:.1f}"
    return f"{digits} {prefix}{unit}".rstrip()


def seconds(time: float | None) -> str:
    """0.0123 -> "12.3 ms"."""
    if time is None:
        return ABSENT
    return f"{time:.2f} s" if time >= 1 else f"{1e3 * time:.3g} ms"


def error(s: Summary) -> str:
    if s.mean is None:
        return f"{ABSENT} (0/{s.planned})"
    n = len(s.errors)
    spread = "" if s.sd is None else f" ± {100 * s.sd:.2f}"
    return f"{100 * s.mean:.2f}{spread} ({n if n == s.planned else f'{n}/{s.planned}'})"


def difference(s: Summary) -> str:
    if s.difference is None:
        return ABSENT
    interval = "" if s.low is None else f" [{100 * s.low:+.2f}, {100 * s.high:+.2f}]"
    return f"{100 * s.difference:+.2f}{interval}"


def verdict(s: Summary) -> str:
    """The verdict, starred where diverged runs had to be left out of the mean."""
    return s.verdict + ("*" if s.counts["diverged"] else "")


def cost(s: Summary, name: str, unit: str = "") -> str:
    found = s.costs.get(name)
    return human(None if found is None else found.mean, unit)


def evaluations(s: Summary, name: str, spread: bool = False) -> str:
    found = s.costs.get(name)
    if found is None:
        return ABSENT
    mean = f"{found.mean:.0f}" if found.mean == round(found.mean) else f"{found.mean:.1f}"
    return f"{mean} ({found.low:g} to {found.high:g})" if spread and found.low < found.high else mean


def ratio(times: float | None) -> str:
    return ABSENT if times is None else f"{times:.2f}×"


def plural(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def seeds_told(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
