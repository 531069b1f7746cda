"""Error against calls of f as the tolerance falls, of trained ODE-Nets that differ in the activation within f.

    python benchmarks/error_control.py RUN... [--csv FILE]

Each RUN is a folder of `schemenet train` on an adaptive grid, as `experiment=error_control_mnist` trains it. The flow
is solved in double precision at each tolerance, its error at the end taken against dopri8 at 1e-9 (panel a of
`schemenet figure error_control RUN`). Exponents are least squares fits of log error by log NFE, over all tolerances of
a run and over the last four. Steps are all that were tried, of a scheme that calls f twice to begin and then six times
a step (dopri5). Prints markdown; --csv keeps the same rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from _rows import show

from architectures.supervised.network import Network
from lightning_modules.plotting.error_control import IMAGES, Solved, errors, power
from lightning_modules.plotting.supervised import load_with_samples
from lightning_modules.training.loading import load_run


def exponent(solved: Sequence[Solved]) -> str:
    return f"{power([s.nfe for s in solved], [s.error for s in solved]):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    if not arguments.runs:
        print("benchmarks/error_control.py: no runs named, nothing is measured (docs/odenet.md says which)")
        return
    rows = []
    for run in arguments.runs:
        field = load_run(run, Network).config["field"]
        solved = errors(load_with_samples(run, IMAGES))
        rows += [
            {
                "activation": field.get("activation", "relu"),
                "rtol = atol": f"{s.tolerance:.0e}",
                "NFE": str(s.nfe),
                "steps": str((s.nfe - 2) // 6),
                "error": f"{s.error:.2e}",
                "exponent": exponent(solved),
                "exponent, last four": exponent(solved[-4:]),
            }
            for s in solved
        ]
    show(rows, arguments.csv)


if __name__ == "__main__":
    main()
