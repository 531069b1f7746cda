"""The spectrum of h df/dy of a trained network at the states of its test images.

A step is stable for u' = lambda u where z = h lambda lies in the scheme's region (``schemes.analysis.stability``).
Whether the lambda of a trained field lie there is measured: at the beginning of steps that the network takes, accepted
ones on an adaptive grid, with the h of that step. An eigenvalue describes small perturbations of one step and of one
frozen f; in a network with separate weights each step has another f, and non-normal Jacobians amplify by more.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from architectures.model import Model
from architectures.plain_network import PlainNetwork
from architectures.supervised.network import Network
from lightning_modules.config.registries import DATA
from lightning_modules.evaluation.visited_steps import recorded_steps
from lightning_modules.storage.atomic_files import write_json
from lightning_modules.storage.run_files import read_config
from lightning_modules.training.loading import checkpoint_in, load_run
from schemes.analysis.ritz_values import ritz, scaled_jacobian, spread_over
from schemes.core.node import Node
from schemes.core.state import State
from schemes.errors import SchemenetError

SAMPLES = 2  # test images
STEPS = 12  # of a network, at most, evenly over its depth
VECTORS = 60  # of Arnoldi's method; on 32x32 maps 30 resolve next to nothing
TOLERANCE = 0.05  # the largest residual, relative to the largest value of that Jacobian
FILE = "spectrum.json"


class Block(NamedTuple):
    """Eigenvalues of h df/dy at the beginning of one step, of all samples together."""

    flow: int
    step: int
    depth: float  # from 0 at the first step of the network to 1 at its last
    h: float
    values: tuple[complex, ...]


class Spectrum(NamedTuple):
    """Some steps of a network, and the least and the greatest value of each learned coefficient of its scheme."""

    blocks: tuple[Block, ...]
    coefficients: Mapping[str, tuple[float, float]]

    @property
    def values(self) -> list[complex]:
        return [value for block in self.blocks for value in block.values]


DRAWN = f"Ritz values at up to {STEPS} steps, for {SAMPLES} test images; residuals below {100 * TOLERANCE:g}%"
"""The points of a picture in one line; `CAPTION` has the details."""

CAPTION = (
    f"Ritz values of h df/dy at the beginning of up to {STEPS} steps, for {SAMPLES} test images: {VECTORS} steps of "
    f"Arnoldi's method, of which those are drawn whose residual is below {100 * TOLERANCE:g}% of the largest; the "
    "outside of the spectrum is found first, and on large feature maps nothing else"
)


def measured(folder: Path) -> Spectrum:
    """The spectrum of a run, computed once for its newest checkpoint and stored in the run folder if that is writable.

    Raises:
        SchemenetError: where there is no checkpoint, or the run's data set is not on this machine.
    """
    checkpoint = checkpoint_in(folder)
    state = checkpoint.stat()
    key = [state.st_size, state.st_mtime_ns, SAMPLES, STEPS, VECTORS, TOLERANCE]
    if (kept := _kept(folder / FILE, key)) is not None:
        return kept
    network = load_run(folder, Model).network.eval()
    if not isinstance(network, Network | PlainNetwork):
        raise SchemenetError("it solves through times that its data give, and has no steps of its own")
    inputs = images_of_test_set(json.dumps(read_config(folder).get("data"), sort_keys=True))
    result = spectrum(network, inputs)
    with contextlib.suppress(SchemenetError):  # in a folder that cannot be written to it is computed each time
        write_json(folder / FILE, {"of": key, **_plain(result)})
    return result


@lru_cache(maxsize=2)
def images_of_test_set(config: str) -> Tensor:
    """The first images of a test set, as the network gets them. Nothing is downloaded for a picture."""
    options = {**json.loads(config), "validation": None}  # with a validation split there is no test set
    data = DATA.build(options | ({"download": False} if "download" in options else {}), seed=0)
    data.check()
    data.setup()
    return data.first(SAMPLES)[0]


def spectrum(network: Network | PlainNetwork, inputs: Tensor) -> Spectrum:
    """The spectrum of a network at some inputs.

    Args:
        network: in evaluation mode; its precision is that of the computation.
        inputs: (batch, channels, height, width).
    """
    if not network.flows:
        raise SchemenetError("the network has no flow, and so no f whose spectrum could be drawn")
    if any(flow.sharing.of_stages for flow in network.flows):
        raise SchemenetError("own weights at each stage of a step: there is no single f whose spectrum this could be")
    steps = visited_states(network, inputs)
    blocks = []
    for i in spread_over(steps, STEPS):
        flow, node, y = steps[i]
        product, like = scaled_jacobian(network.flows[flow].bank, node, y)
        values = tuple(ritz(product, like, VECTORS).within(TOLERANCE))
        blocks.append(Block(flow, node.step, i / max(1, len(steps) - 1), float(node.h), values))
    learned: dict[str, list[float]] = {}
    for coefficient in network.coefficients().values():
        learned.setdefault(coefficient.name, []).append(float(coefficient.value.detach()))
    limits = {name: (min(values), max(values)) for name, values in learned.items()}
    return Spectrum(tuple(blocks), limits)


@torch.no_grad()
def visited_states(network: Network | PlainNetwork, inputs: Tensor) -> list[tuple[int, Node, State]]:
    """The state at the beginning of each step.

    Args:
        network: in evaluation mode.
        inputs: (batch, channels, height, width).

    Returns:
        The number of the flow, the node and the state of each step.
    """
    with recorded_steps(network) as flows:
        network(inputs)
    return [(i, step.node, step.before) for i, steps in enumerate(flows) for step in steps]


# In the run folder ------------------------------------------------------------------------------------------


def _plain(result: Spectrum) -> dict[str, Any]:
    blocks = [
        block._asdict() | {"values": [[value.real, value.imag] for value in block.values]} for block in result.blocks
    ]
    return {"blocks": blocks, "coefficients": dict(result.coefficients)}


def _kept(path: Path, key: list[Any]) -> Spectrum | None:
    """The stored spectrum if it is of this checkpoint and can be read; else None."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["of"] != key:
            return None
        blocks = tuple(
            Block(
                int(block["flow"]), int(block["step"]), float(block["depth"]), float(block["h"]),
                tuple(complex(float(re), float(im)) for re, im in block["values"]),
            )
            for block in stored["blocks"]
        )  # fmt: skip
        limits = {str(name): (float(low), float(high)) for name, (low, high) in stored["coefficients"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    finite = all(math.isfinite(abs(value)) for block in blocks for value in block.values)
    return Spectrum(blocks, limits) if finite else None
