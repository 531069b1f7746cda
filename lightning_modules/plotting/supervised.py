"""A trained network that answers inputs, with the first samples of its test set."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from architectures.supervised.network import Network
from lightning_modules.data.datamodule import SplitData
from lightning_modules.training.loading import load_run


class NetworkWithSamples(NamedTuple):
    """A network in evaluation mode, in double precision, and inputs of its test set with their labels or targets."""

    network: Network
    inputs: Tensor
    labels: Tensor


def load_with_samples(folder: Path, count: int) -> NetworkWithSamples:
    """The network of a run folder with samples of its test set.

    Args:
        folder: a run folder.
        count: the first so many samples, or all where they are fewer.
    """
    run = load_run(folder, Network)
    inputs, labels = run.test_data(SplitData).first(count)
    return NetworkWithSamples(run.network.double().eval(), inputs.double(), labels)
