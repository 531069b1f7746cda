"""A run's density, and the data that it is one of."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from architectures.density import DensityModel
from lightning_modules.data.densities import DensityData
from lightning_modules.stored import checkpoint_in, data_of, module_of, read_checkpoint, told_run
from schemes.errors import SchemenetError


class TrainedDensity(NamedTuple):
    """A trained network in evaluation mode, in double precision on the CPU, its data, set up, and what both are."""

    network: DensityModel
    data: DensityData
    told: str


def trained_density(place: Path) -> TrainedDensity:
    """What a run folder or a checkpoint holds. Raises SchemenetError where that is no density."""
    checkpoint = read_checkpoint(checkpoint_in(place))
    network = module_of(checkpoint).network
    config = checkpoint["hyper_parameters"]["config"]
    if not isinstance(network, DensityModel):
        raise SchemenetError(
            f"{str(place)!r} was trained on data={config['data']['name']}; expected a density, trained on plane, "
            "digits_density, table or energy"
        )
    return TrainedDensity(network.double().eval(), data_of(checkpoint), told_run(config))
