"""The picture and the csv of gradients_along_depth.md: `python docs/gradients_along_depth.py` writes both."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from architectures.factory import create_model
from lightning_modules.config.registries import DATA
from lightning_modules.evaluation.costates import FlowCostates, costates_along_depth
from lightning_modules.plotting.costate import LABEL, draw_norms, handle
from lightning_modules.plotting.style import COLOURS, Look, font, legend, new_figure, tidy

FOLDER = Path(__file__).with_suffix("")
DEPTHS = (20, 56)
SEEDS = (0, 1, 2)
SAMPLES = 128  # of the test set of data=digits
SETTINGS = {"batch norm": ("batch", "He"), "no norm": ("none", "He"), "no norm, smaller weights": ("none", "PyTorch")}
"""Norm, and the initial weights of convolutions: the project's, or PyTorch's default, sqrt(6) times smaller."""

LINES = {"plain": ("s", "--"), "resnet": ("o", "-")}


class Row(NamedTuple):
    """|a_n| at one state of one network."""

    network: str
    norm: str
    weights: str
    depth: int
    seed: int
    flow: int
    state: int
    costate: float


@cache
def samples() -> tuple[Tensor, Tensor]:
    """The first test images of data=digits with their labels."""
    data = DATA.build("digits", seed=0)
    data.setup()
    inputs, labels = data.first(SAMPLES)
    return inputs.double(), labels


def measure(name: str, norm: str, weights: str, depth: int | str, seed: int | str) -> list[FlowCostates]:
    """|a_n| along an untrained network in double precision."""
    torch.manual_seed(int(seed))
    network = create_model(name, depth=int(depth), norm=norm, in_chans=1, image_size=8, num_classes=10)
    if weights == "PyTorch":
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
    return costates_along_depth(network.double(), samples())


def mean_of(measured: Sequence[Sequence[FlowCostates]]) -> list[FlowCostates]:
    """The geometric mean of |a_n| over seeds."""
    return [
        FlowCostates(
            flows[0].times, tuple(map(_geometric_mean, zip(*(f.norms for f in flows), strict=True))), None, None
        )
        for flows in zip(*measured, strict=True)
    ]


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def rows_of(key: tuple[Any, ...], flows: Sequence[FlowCostates]) -> Iterator[Row]:
    """The rows of one network."""
    for i, flow in enumerate(flows):
        for n, norm in enumerate(flow.norms):
            yield Row(*key, i, n, float(f"{norm:.4g}"))


def main() -> None:
    """Measure, write, draw."""
    rows: list[Row] = []
    figure = new_figure(8.4, 7.6)
    for ax, depth in zip(figure.subplots(len(DEPTHS), 1), DEPTHS, strict=True):
        curves = []
        for (setting, (norm, weights)), colour in zip(SETTINGS.items(), COLOURS, strict=False):
            for name, (marker, line) in LINES.items():
                measured = []
                for seed in SEEDS:
                    measured.append(measure(name, norm, weights, depth, seed))
                    rows += rows_of((name, norm, weights, depth, seed), measured[-1])
                look = Look(colour, marker, "white" if name == "plain" else colour, line)
                curves.append((f"{name}, {setting}", look, mean_of(measured)))
        draw_norms(ax, curves)
        ax.set_title(f"depth {depth}", loc="left", fontsize=font(10), pad=16)
    figure.axes[-1].set_xlabel(LABEL)
    legend(figure, [handle(name, look) for name, look, _ in curves])
    tidy(figure)
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / "at_the_start.png", dpi=110, metadata={})
    with (FOLDER / "at_the_start.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)
    for key, ratio in ratios(rows).items():
        print(*key, f"{ratio:.2g}")


def ratios(rows: Sequence[Row]) -> dict[tuple[str, str, str, int], float]:
    """|a| at the first state of a network over |a| at its last, the geometric mean over seeds."""
    by_seed: dict[tuple[str, str, str, int], list[float]] = {}
    for _, group in groupby(rows, lambda row: row[:5]):
        states = list(group)
        by_seed.setdefault(states[0][:4], []).append(states[0].costate / states[-1].costate)
    return {key: _geometric_mean(values) for key, values in by_seed.items()}


if __name__ == "__main__":
    main()
