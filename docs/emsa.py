"""Tables, csv files and picture of emsa.md: `SCHEMENET_DATA=FOLDER python docs/emsa.py`, some 20 minutes on one core.

All methods train in one process and take turns, so that what else the machine does slows each of them. A training is
stopped by the CPU seconds that its own steps took.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.lines import Line2D
from torch import Tensor

from architectures.factory import create_model
from architectures.supervised_model import SupervisedModel
from lightning_modules.config.registries import DATA, OPTIMIZERS
from lightning_modules.data.loader import generator
from lightning_modules.plotting.style import COLOURS, font, legend, new_figure, tidy

FOLDER = Path(__file__).with_suffix("")
SEEDS = range(8)
TUNING_SEED = 100
TURN = 0.25
"""Seconds that a training has before the next one has its turn."""

ITERATIONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""After which the loss is measured, besides at shares of the seconds."""

COMPARED = (2, 5, 10, 20, 50)
"""Iterations of the table; the learning rates and rho of that table are those with the least loss after 20."""

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)

PLAIN: dict[str, Any] = {"weight_decay": 0.0, "schedule": "constant"}
METHODS = ("SGD", "Adam", "E-MSA")


class Problem(NamedTuple):
    """What is trained: data, network, samples of a batch (None for all), CPU seconds, and the values of rho to try."""

    data: dict[str, Any]
    options: dict[str, Any]
    batch: int | None
    seconds: float
    rhos: tuple[float, ...]

    def settings(self, method: str) -> list[dict[str, Any]]:
        """The settings of a method that are tried: six of each."""
        if method == "SGD":
            return [{"name": "sgd", "lr": lr, "momentum": m, **PLAIN} for m in (0.0, 0.9) for lr in (0.01, 0.03, 0.1)]
        if method == "Adam":
            return [{"name": "adamw", "lr": lr, **PLAIN} for lr in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)]
        return [{"name": "emsa", "rho": rho, "inner": inner} for inner in (3, 10) for rho in self.rhos]


PROBLEMS = {
    "sine": Problem({"name": "sine"}, {"hidden": 8, "steps": 10}, None, 6.0, (10.0, 30.0, 100.0)),
    "MNIST": Problem({"name": "mnist"}, {"hidden": 32, "steps": 4}, 500, 12.0, (0.3, 1.0, 3.0)),
}


class Row(NamedTuple):
    """The loss on the samples that are not trained on, after some iterations of one training."""

    problem: str
    tuned_for: str
    seed: int
    method: str
    setting: str
    iterations: int
    seconds: float
    loss: float
    error: float
    """Share of wrong classes; of a regression nan."""


class Samples(NamedTuple):
    """Training and evaluation samples, (inputs, targets) each, and what a network has to know of them."""

    train: tuple[Tensor, Tensor]
    evaluated: tuple[Tensor, Tensor]
    context: Mapping[str, Any]


def load(problem: Problem, validation: float | None) -> Samples:
    """All samples of a problem; with ``validation`` this share of the training set is what is evaluated."""
    data = DATA.build({**problem.data, "validation": validation}, seed=0)
    data.prepare_data()
    data.setup()
    parts = []
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
        inputs, targets = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        parts.append((inputs, targets))
    return Samples(*parts, data.context)


class Training:
    """One network, trained by one method from one seed.

    Args:
        name: of the problem.
        tuned_for: "seconds", after which it ends, or "iterations", of which it takes as many as are compared.
        samples: of the problem.
        seed: of the initial weights and the batches.
        method: one of ``METHODS``.
        setting: one of its settings.
    """

    def __init__(
        self, name: str, tuned_for: str, samples: Samples, seed: int, method: str, setting: Mapping[str, Any]
    ) -> None:
        self.problem, self.samples = PROBLEMS[name], samples
        self.most = COMPARED[-1] if tuned_for == "iterations" else math.inf
        torch.manual_seed(seed)
        network = create_model("mlp", **samples.context, **self.problem.options)
        assert isinstance(network, SupervisedModel)
        self.network = network
        self.optimizer = OPTIMIZERS.build(dict(setting), network=network, total_steps=1)["optimizer"]
        words = " ".join(f"{k}={v:g}" for k, v in setting.items() if k in ("lr", "momentum", "rho", "inner"))
        self.key = (name, tuned_for, seed, method, words)
        self.batches = self._batches(seed)
        self.iterations, self.seconds = 0, 0.0
        self.marks = [share * self.problem.seconds for share in SHARES] if tuned_for == "seconds" else [math.inf]
        self.rows = [self._row()]

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, targets = self.samples.train
        if self.problem.batch is None:
            while True:
                yield inputs, targets
        for epoch in count():
            order = torch.randperm(len(inputs), generator=generator(seed, epoch))
            for places in order.split(self.problem.batch):
                yield inputs[places], targets[places]

    @property
    def runs(self) -> bool:
        """Whether it has seconds and iterations left, and a finite loss."""
        return bool(self.marks) and self.iterations < self.most and math.isfinite(self.rows[-1].loss)

    def turn(self) -> None:
        """Train until the turn is over."""
        end = self.seconds + TURN
        while self.runs and self.seconds < end:
            self._step()

    def _step(self) -> None:
        begin = time.process_time()
        batch = next(self.batches)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.network.loss(batch)
            loss.backward()
            return loss

        loss = self.optimizer.step(closure).item()
        self.seconds += time.process_time() - begin
        self.iterations += 1
        passed = [mark for mark in self.marks if mark <= self.seconds]
        self.marks = self.marks[len(passed) :]
        if passed or self.iterations in ITERATIONS or not math.isfinite(loss):
            self.rows.append(self._row())

    @torch.no_grad()
    def _row(self) -> Row:
        inputs, targets = self.samples.evaluated
        outputs = self.network(inputs)
        if targets.is_floating_point():
            loss, error = float(torch.nn.functional.mse_loss(outputs, targets)), math.nan
        else:
            loss = float(torch.nn.functional.cross_entropy(outputs, targets))
            error = float((outputs.argmax(1) != targets).double().mean())
        return Row(*self.key, self.iterations, round(self.seconds, 3), float(f"{loss:.4g}"), float(f"{error:.4g}"))


def train(trainings: Sequence[Training]) -> None:
    """Train all, each a turn after the other."""
    while any(training.runs for training in trainings):
        for training in trainings:
            training.turn()


def tuned(name: str) -> tuple[list[Row], dict[str, dict[str, dict[str, Any]]]]:
    """The settings that were tried, on a part of the training set that is held out.

    Returns:
        The last row of each with that after 20 iterations, and for both aims the best setting of each method.
    """
    samples = load(PROBLEMS[name], validation=0.2)
    rows: list[Row] = []
    best: dict[str, dict[str, dict[str, Any]]] = {"seconds": {}, "iterations": {}}
    for method in METHODS:
        settings = PROBLEMS[name].settings(method)
        trainings = [Training(name, "seconds", samples, TUNING_SEED, method, setting) for setting in settings]
        train(trainings)
        for aim, reached in {
            "seconds": [training.rows[-1] for training in trainings],
            "iterations": [at_iterations(training.rows, COMPARED[-2]) for training in trainings],
        }.items():
            losses = [row.loss if math.isfinite(row.loss) else math.inf for row in reached]
            best[aim][method] = settings[losses.index(min(losses))]
            rows += [row._replace(tuned_for=aim) for row in reached]
    return rows, best


def at_seconds(rows: Sequence[Row], seconds: float) -> Row:
    """The first row of one training after so many seconds; its last where it diverged before."""
    return next((row for row in rows if row.seconds >= seconds), rows[-1])


def at_iterations(rows: Sequence[Row], iterations: int) -> Row:
    """The row of one training after so many iterations; its last where it diverged before."""
    return next((row for row in rows if row.iterations == iterations), rows[-1])


def mean(values: Sequence[float]) -> float:
    """The geometric mean; inf where a training diverged."""
    finite = all(math.isfinite(value) for value in values)
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if finite else math.inf


def runs_of(rows: Sequence[Row], name: str, aim: str, method: str) -> list[list[Row]]:
    """The rows of each training of a method, in the order of the seeds."""
    chosen = [row for row in rows if (row.problem, row.tuned_for, row.method) == (name, aim, method)]
    return [[row for row in chosen if row.seed == seed] for seed in sorted({row.seed for row in chosen})]


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of the page's tables: geometric means over the seeds at equal seconds, and at equal iterations."""
    lines: list[str] = []
    shares = SHARES[::2]
    for name, problem in PROBLEMS.items():
        at = [f"{share * problem.seconds:.2g} s" for share in shares]
        lines += _head([f"{name}, loss at", *at, "iterations", *(["test error"] if name == "MNIST" else [])])
        for method in METHODS:
            runs = runs_of(rows, name, "seconds", method)
            cells = [f"{mean([at_seconds(run, s * problem.seconds).loss for run in runs]):.2g}" for s in shares]
            cells.append(f"{mean([run[-1].iterations for run in runs]):.0f}")
            if name == "MNIST":
                cells.append(f"{100 * sum(run[-1].error for run in runs) / len(runs):.2f} %")
            lines.append(_line([f"{method}, {runs[0][0].setting}", *cells]))
        lines += ["", *_head([f"{name}, loss after", *map(str, COMPARED), "seconds of an iteration, over SGD's"])]
        seconds = {}
        for method in METHODS:
            runs = runs_of(rows, name, "iterations", method)
            seconds[method] = mean([run[-1].seconds / run[-1].iterations for run in runs])
            cells = [f"{mean([at_iterations(run, n).loss for run in runs]):.2g}" for n in COMPARED]
            cells.append(f"{seconds[method] / seconds['SGD']:.2g}")
            lines.append(_line([f"{method}, {runs[0][0].setting}", *cells]))
        lines.append("")
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|---" * len(cells) + "|"]


def wins(rows: Sequence[Row], name: str, aim: str, other: str) -> int:
    """The number of pairs in which E-MSA has the smaller loss at the end, or after 20 iterations."""
    ends = [
        [
            (run[-1] if aim == "seconds" else at_iterations(run, COMPARED[-2])).loss
            for run in runs_of(rows, name, aim, m)
        ]
        for m in ("E-MSA", other)
    ]
    return sum(emsa < loss or not math.isfinite(loss) for emsa, loss in zip(*ends, strict=True))


def draw(rows: Sequence[Row]) -> None:
    """The losses against seconds and against iterations, each with the settings tuned for it."""
    figure = new_figure(8.4, 6.6)
    axes = figure.subplots(2, 2)
    for line, name in zip(axes, PROBLEMS, strict=True):
        for ax, aim in zip(line, ("seconds", "iterations"), strict=True):
            for method, colour in zip(METHODS, COLOURS, strict=False):
                for run in runs_of(rows, name, aim, method):
                    points = [(getattr(row, aim), row.loss) for row in run if row.iterations]
                    ax.loglog(*zip(*points, strict=True), c=colour, lw=1, alpha=0.6)
            ax.set_title(f"{name}, tuned for {aim}", loc="left", fontsize=font(10))
        line[0].set_ylabel("test loss")
    axes[1][0].set_xlabel("CPU seconds")
    axes[1][1].set_xlabel("iterations")
    legend(figure, [Line2D([], [], c=c, label=method) for method, c in zip(METHODS, COLOURS, strict=False)])
    tidy(figure)
    figure.savefig(FOLDER / "loss.png", dpi=110, metadata={})


def write(file: str, rows: Sequence[Row]) -> None:
    """A csv file of rows."""
    with (FOLDER / file).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


def main() -> None:
    """Tune, train, write, draw."""
    torch.set_num_threads(1)
    FOLDER.mkdir(exist_ok=True)
    tuning: list[Row] = []
    rows: list[Row] = []
    for name in PROBLEMS:
        tried, best = tuned(name)
        tuning += tried
        samples = load(PROBLEMS[name], validation=None)
        for aim in best:
            for seed in SEEDS:
                pairs = best[aim].items()
                trainings = [Training(name, aim, samples, seed, method, setting) for method, setting in pairs]
                train(trainings)
                rows += [row for training in trainings for row in training.rows]
                write("tuning.csv", tuning)
                write("results.csv", rows)
    draw(rows)
    print(*table(rows), sep="\n")
    for name in PROBLEMS:
        for aim in ("seconds", "iterations"):
            for other in METHODS[:2]:
                print(f"{name}, {aim}: E-MSA has the smaller loss than {other} in {wins(rows, name, aim, other)} pairs")


if __name__ == "__main__":
    main()
