"""Trainings and tables of weights_in_time.md: `python docs/depth_doubling.py [RUNS]`. A second call resumes.

For two budgets of training FLOPs and each seed: full depth; full depth with the learning rate's restarts of the others;
coarse to fine; and half the depth. Then, without further training, half the depth from the trained networks.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

import schemenet
from architectures.model import Model
from lightning_modules.comparing.statistics.paired import mean_and_sd
from lightning_modules.comparing.statistics.rule import RULE
from lightning_modules.evaluation.evaluate import test_metrics
from lightning_modules.training.batch_statistics import estimate_statistics
from lightning_modules.training.loading import TrainedRun

FOLDER = Path(__file__).with_name("weights_in_time")
SEEDS = range(8)
FULL, HALF = 8, 4
IMAGES = 1297  # for training
STATISTICS_BATCHES = 100

Phases = Sequence[tuple[int, int]]
"""Steps of each flow, with as many sets of weights, and the epochs with them."""

TRAININGS: Mapping[int, Mapping[str, Phases]] = {
    12: {
        "full": [(FULL, 12)],
        "full, restarts": [(FULL, 2), (FULL, 4), (FULL, 6)],
        "coarse to fine": [(2, 8), (4, 7), (FULL, 6)],
        "half": [(HALF, 12)],
        "half, equal FLOPs": [(HALF, 23)],
    },
    24: {
        "full": [(FULL, 24)],
        "full, restarts": [(FULL, 4), (FULL, 8), (FULL, 12)],
        "coarse to fine": [(2, 15), (4, 15), (FULL, 12)],
        "half": [(HALF, 24)],
        "half, equal FLOPs": [(HALF, 46)],
    },
}
"""By the epochs of full depth. Learning rate and schedule of each phase are those of the experiment."""

HALVED = ("full", "coarse to fine")
"""Trained networks of which half is kept."""

FAMILIES: Mapping[str, Sequence[str]] = {
    "full": ("full, restarts", "coarse to fine", "half, equal FLOPs"),
    "full, restarts": ("coarse to fine",),
    "half": tuple(f"{source}: projected" for source in HALVED),
    "half, equal FLOPs": tuple(f"{source}: projected" for source in HALVED),
    **{f"{source}: projected": tuple(f"{source}: every second, {h}" for h in ("h", "2h")) for source in HALVED},
}
"""Baselines, and what is compared with each."""


class Row(NamedTuple):
    """One trained or halved network."""

    budget: int
    seed: int
    arm: str
    train_gflops: float
    test_error: float
    test_loss: float


def rows(runs: Path) -> Iterator[Row]:
    """Train and halve all networks, those of the smaller budget first."""
    for budget, arms in TRAININGS.items():
        for seed in SEEDS:
            for arm, phases in arms.items():
                done = trained(place_of(runs, budget, seed, arm), seed, phases)
                flops = sum(
                    epochs * run.metrics["ledger"]["train_flops"] for run, (_, epochs) in zip(done, phases, strict=True)
                )
                yield row(budget, seed, arm, flops, done[-1].metrics)
                if arm in HALVED:
                    for how, metrics in halves(done[-1], seed):
                        yield row(budget, seed, f"{arm}: {how}", flops, metrics)


def place_of(runs: Path, budget: int, seed: int, arm: str) -> Path:
    """The folder of all phases of a training."""
    return runs / f"{budget}_epochs" / f"seed{seed}" / file_name(arm)


def file_name(words: str) -> str:
    return words.replace(", ", "_").replace(" ", "_")


def row(budget: int, seed: int, arm: str, flops: float, metrics: Mapping[str, Any]) -> Row:
    """Metrics as the csv has them; ``flops`` are those of one image."""
    error, loss = (float(f"{metrics[key]:.4g}") for key in ("test_error", "test_loss"))
    return Row(budget, seed, arm, round(flops * IMAGES / 1e9, 1), error, loss)


def trained(folder: Path, seed: int, phases: Phases) -> list[TrainedRun[Model]]:
    """The runs of all phases, each of which starts from weights and moments of the one before."""
    done: list[TrainedRun[Model]] = []
    for i, (steps, epochs) in enumerate(phases):
        words = [f"architecture.steps={steps}", f"sharing.size={steps}", f"seed={seed}", f"trainer.max_epochs={epochs}"]
        words += [f"trainer.check_test_every_n_epoch={epochs}", "trainer.progress_bar=false"]
        start = str(done[-1].path.parent) if done else None
        done.append(schemenet.train("experiment=depth_doubling", *words, folder=folder / f"phase{i}", start_from=start))
    return done


def halves(full: TrainedRun[Model], seed: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Half the depth of a trained network in three ways, statistics of batch norm estimated again.

    The L2 projection of the weights, which is the mean of two neighbours; and every second block of the network, with
    its step h as it was (so that half the time is left), or with 2h.
    """
    place = full.path.parent.parent
    torch.manual_seed(seed)
    for how, time in (("projected", 1.0), ("every second, h", 0.5), ("every second, 2h", 1.0)):
        folder = place / file_name(how)
        words = f"architecture.steps={HALF}", f"sharing.size={HALF}", f"grid.time={time}"
        result = schemenet.refine(full, *words, folder=folder)
        if how == "projected":
            yield f"{how}, as is", result["projected"]
            yield how, result["reestimated"]
        else:
            yield how, every_second(full, schemenet.load(folder))


def every_second(full: TrainedRun[Model], half: TrainedRun[Model]) -> Mapping[str, Any]:
    """Metrics of a network of half the depth, with the weights of blocks 0, 2, ... of the full one."""
    for old, new in zip(full.network.flows, half.network.flows, strict=True):
        for k in range(HALF):
            new.bank.groups[k, 0].load_state_dict(old.bank.groups[2 * k, 0].state_dict())
    silent: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", devices=1, **silent)
    estimate_statistics(half.module, trainer, half.data, STATISTICS_BATCHES)
    return test_metrics(trainer, half.module, half.data)


def tables(results: Sequence[Row]) -> Iterator[str]:
    """Lines of two Markdown tables: means; and paired differences, with the rule of all reports."""
    of_budget: dict[int, dict[str, list[Row]]] = {}
    for each in results:
        of_budget.setdefault(each.budget, {}).setdefault(each.arm, []).append(each)
    yield f"| network |{''.join(f' {b} epochs: GFLOPs | test error % (sd) | test loss |' for b in of_budget)}"
    yield f"|---|{'---|---|---|' * len(of_budget)}"
    for arm in next(iter(of_budget.values())):
        yield f"| {arm} | {' | '.join(means(of_arm[arm]) for of_arm in of_budget.values())} |"
    yield ""
    yield f"| network | against |{''.join(f' {b} epochs: difference (95 %) | p | Holm | |' for b in of_budget)}"
    yield f"|---|---|{'---|---|---|---|' * len(of_budget)}"
    for baseline, family in FAMILIES.items():
        judged = [judgements(of_arm, baseline, family) for of_arm in of_budget.values()]
        for i, arm in enumerate(family):
            yield f"| {arm} | {baseline} | {' | '.join(each[i] for each in judged)} |"


def means(group: Sequence[Row]) -> str:
    """Cells of a network in the first table."""
    mean, sd = mean_and_sd([100 * each.test_error for each in group])
    loss, _ = mean_and_sd([each.test_loss for each in group])
    return f"{group[0].train_gflops:.0f} | {mean:.2f} ({sd:.2f}) | {loss:.3f}"


def judgements(of_arm: Mapping[str, Sequence[Row]], baseline: str, family: Sequence[str]) -> list[str]:
    """Cells of the networks that are compared with one baseline, in the second table."""
    pairs = {arm: differences(of_arm[arm], of_arm[baseline]) for arm in family}
    cells = []
    for arm, verdict in RULE.judge(pairs).items():
        low, high = RULE.interval(pairs[arm]) or (math.nan, math.nan)
        mean = math.fsum(pairs[arm]) / len(pairs[arm])
        ps = f"{verdict.p:.2g} | {verdict.adjusted:.2g}"
        cells.append(f"{mean:+.2f} ({low:+.2f} to {high:+.2f}) | {ps} | {verdict.label}")
    return cells


def differences(group: Sequence[Row], baseline: Sequence[Row]) -> list[float]:
    """Of test errors in % with one seed, rounded, so that as many wrong images are a tie."""
    return [round(100 * (a.test_error - b.test_error), 6) for a, b in zip(group, baseline, strict=True)]


@torch.no_grad()
def neighbour_distance(run: TrainedRun[Model]) -> float:
    """|v - w| / ((|v| + |w|) / 2) of the weights v and w of blocks 2k and 2k + 1, the mean over all pairs."""
    distances = []
    for flow in run.network.flows:
        weights = [torch.cat([p.flatten() for p in flow.bank.groups[k, 0].parameters()]) for k in range(FULL)]
        for v, w in zip(weights[::2], weights[1::2], strict=True):
            distances.append(float((v - w).norm() / ((v.norm() + w.norm()) / 2)))
    return math.fsum(distances) / len(distances)


def main(runs: Path) -> None:
    results = []
    for each in rows(runs):
        results.append(each)
        print(*each, sep=", ", flush=True)
    FOLDER.mkdir(exist_ok=True)
    with (FOLDER / "depth_doubling.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(results)
    print("", *tables(results), "", sep="\n")
    for budget, arms in TRAININGS.items():
        for arm in HALVED:
            last = f"phase{len(arms[arm]) - 1}"
            loaded = [schemenet.load(place_of(runs, budget, seed, arm) / last) for seed in SEEDS]
            mean = math.fsum(map(neighbour_distance, loaded)) / len(loaded)
            print(f"{budget} epochs, {arm}: weights of neighbouring blocks differ by {mean:.2g} of their size")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/depth_doubling"))
