"""A run's network and what it was tested on, for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from architectures.network import Network
from lightning_modules.stored import checkpoint_in, data_of, module_of, read_checkpoint
from schemes.errors import SchemenetError


class Trained(NamedTuple):
    """A trained network in evaluation mode, and the first inputs that it was tested on with their labels."""

    network: Network
    inputs: Tensor
    labels: Tensor


def trained(folder: Path, count: int) -> Trained:
    """What a run folder holds, in double precision."""
    checkpoint = read_checkpoint(checkpoint_in(folder))
    network = module_of(checkpoint).network.double().eval()
    if not isinstance(network, Network):
        raise SchemenetError(
            f"{folder}: this picture is of networks that answer inputs with labels or numbers, and "
            f"{checkpoint['hyper_parameters']['architecture']!r} is none; `schemenet figure --help` lists others"
        )
    inputs, labels = data_of(checkpoint).first(count)
    return Trained(network, inputs.double(), labels)
