"""The picture and the bound of one_dimension.md: `python docs/one_dimension.py [RUNS]`, after the page's sweep."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

import schemenet
from lightning_modules.config.registries import DATA
from lightning_modules.plotting.style import COLOURS, GREY, font, legend, new_figure, tidy

FOLDER = Path(__file__).with_suffix("")
POINTS = 400
TITLES = {"augment=0": "the line", "augment=1": "the plane"}


def monotone_bound() -> tuple[float, np.ndarray, np.ndarray]:
    """The monotone function that is nearest to the test set of data=sine in the mean square.

    Returns:
        Its RMSE, below which no monotone function comes; and the function, as x in ascending order and y.
    """
    data = DATA.build("sine", seed=0)
    data.setup()
    x, y = (part.double().numpy().ravel() for part in data.first(data.test_size))
    order = np.argsort(x)
    fits = [isotonic_regression(y[order], increasing=increasing).x for increasing in (True, False)]
    errors = [float(np.sqrt(np.mean((fit - y[order]) ** 2))) for fit in fits]
    best = int(np.argmin(errors))
    return errors[best], x[order], fits[best]


@torch.no_grad()
def main(runs: Path) -> None:
    """Print the bound, and draw the trained functions beside the sine."""
    bound, *monotone = monotone_bound()
    print(f"RMSE of the best monotone function: {bound:.4f}")
    x = torch.linspace(-math.pi, math.pi, POINTS)
    figure = new_figure(8.4, 3.9)
    for ax, (arm, title), colour in zip(figure.subplots(1, 2, sharey=True), TITLES.items(), COLOURS, strict=False):
        for folder in sorted((runs / arm).glob("seed*")):
            ax.plot(x, schemenet.load(folder).network(x[:, None]), c=colour, lw=1.2, alpha=0.7, zorder=3)
        ax.plot(x, x.sin(), c="black", lw=2.5, alpha=0.35)
        ax.plot(*monotone, c=GREY, lw=1.4, ls="--")
        ax.set_title(f"a flow of {title}", loc="left", fontsize=font(10))
        ax.set_xlabel("$x$")
    handles = [
        Line2D([], [], c="black", lw=2.5, alpha=0.35, label="sin x"),
        Line2D([], [], c=GREY, lw=1.4, ls="--", label=f"best monotone function, RMSE {bound:.3f}"),
        *(Line2D([], [], c=c, lw=1.2, label=arm) for arm, c in zip(TITLES, COLOURS, strict=False)),
    ]
    legend(figure, handles)
    tidy(figure)
    figure.savefig(FOLDER / "functions.png", dpi=110, metadata={})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/one_dimension"))
