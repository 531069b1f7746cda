"""A run's network and what it was tested on, for pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from architectures.network import Network
from lightning_modules.registries import DATA
from lightning_modules.stored import checkpoint_in, module_of, read_checkpoint
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
    data = DATA.build(checkpoint["hyper_parameters"]["config"]["data"], seed=0)
    data.check()
    data.setup()
    inputs, labels = data.first(count)
    return Trained(network, inputs.double(), labels)
