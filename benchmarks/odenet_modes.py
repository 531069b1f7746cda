"""The gradient modes of trained ODE-Nets, side by side on one set of weights and one batch of real images.

    python benchmarks/odenet_modes.py RUN... [--data-root FOLDER] [--repetitions N] [--csv FILE]

Each RUN is a folder of `schemenet train` whose network is an ODE-Net. Its error and its calls of f a batch are from the
run's own log. Bytes, step time and gradient error are measured here, of every mode on the weights of the first RUN and
on 128 training images: bytes of the flow alone (stem and head keep the same in all modes), the processor time of
forward and backward as a ratio to backprop's (median, interleaved, one thread), and the distance of the gradient of all
parameters from that of the exact flow (dopri8 in float64 at 1e-6), relative, in the Euclidean norm. Prints markdown;
--csv keeps the same rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from _flow_bytes import flow_bytes
from _rows import show
from torch import Tensor
from torch.nn import functional

from architectures.factory import create_model
from architectures.supervised.network import Network
from lightning_modules.config.registries import DATA
from lightning_modules.training.loading import load_run

EXACT = {"scheme": "dopri8", "grid": {"name": "adaptive", "rtol": 1e-6, "atol": 1e-6}, "gradient": "checkpoint"}


def gradient(network: Network, x: Tensor, labels: Tensor) -> Tensor:
    loss = functional.cross_entropy(network(x), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])


def epoch_mean(run: Path, column: str) -> str:
    with (run / "metrics.csv").open(newline="") as file:
        values = [row[column] for row in csv.DictReader(file) if row.get(column)]
    return f"{float(values[-1]):.1f}" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--data-root")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--csv", type=Path)
    arguments = parser.parse_args()
    if not arguments.runs:
        print("benchmarks/odenet_modes.py: no runs named, nothing is measured (docs/odenet.md says which)")
        return
    torch.set_num_threads(1)
    runs = {run: load_run(run, Network) for run in arguments.runs}
    first = runs[arguments.runs[0]]
    hyper = first.module.hparams
    config = first.config["data"] | ({"root": arguments.data_root} if arguments.data_root else {})
    data = DATA.build(config, seed=0)
    data.setup()
    pixels, labels = data.train_set.inputs, data.train_set.labels
    x, labels = data.on_after_batch_transfer((pixels[:128], labels[:128], None), 0)
    weights = first.network.state_dict()

    def network(**axes: Any) -> Network:
        made = create_model(hyper["architecture"], **data.context, **{**hyper["options"], **axes})
        made.load_state_dict(weights)
        return made.train()

    exact = gradient(network(**EXACT).double(), x.double(), labels)
    networks = {}
    for run in arguments.runs:
        options = runs[run].module.hparams["options"]
        axes = {axis: options[axis] for axis in ("scheme", "grid", "gradient") if options.get(axis) is not None}
        networks[run] = network(**axes)
    seconds: dict[Path, list[float]] = {run: [] for run in networks}
    for repetition in range(arguments.repetitions + 1):
        for run, made in networks.items():
            begin = time.process_time()
            gradient(made, x, labels)
            if repetition:
                seconds[run].append(time.process_time() - begin)
    medians = {run: statistics.median(times) for run, times in seconds.items()}
    plain = next((r for r, made in networks.items() if made.layout["gradient"] == "backprop"), arguments.runs[0])
    with torch.no_grad():
        state, _ = networks[plain].embed(x)

    print(f"torch {torch.__version__}, one thread, batch 128, medians of {arguments.repetitions}")
    rows = []
    for run, made in networks.items():
        kept, peak = flow_bytes(made.flows[0], state)
        gap = float((gradient(made, x, labels).double() - exact).norm() / exact.norm())
        rows.append(
            {
                "gradient": made.layout["gradient"],
                "scheme": made.layout["scheme"],
                "test error %": f"{100 * json.loads((run / 'result.json').read_text())['test_error']:.2f}",
                "NFE forward": epoch_mean(run, "nfe/forward/epoch"),
                "NFE backward": epoch_mean(run, "nfe/backward/epoch"),
                "kept, MB": f"{kept / 1e6:.1f}",
                "peak, MB": f"{peak / 1e6:.1f}",
                "step time": f"{medians[run] / medians[plain]:.2f}",
                "gradient error": f"{gap:.1e}",
            }
        )
    show(rows, arguments.csv)


if __name__ == "__main__":
    main()
