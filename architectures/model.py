"""Base class of all networks: flows, loss, and the layout that tables describe."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from schemes.core.scheme import Coefficient, scheme_parameters
from schemes.errors import SchemenetError
from schemes.flow import Flow, Trajectory
from schemes.ivp.trajectory_flow import TrajectoryFlow


class Evaluations(NamedTuple):
    """Numbers of evaluations of f: NFE. Those that backprop differentiates without evaluating again do not count."""

    forward: int
    backward: int


class Model(nn.Module, abc.ABC):
    """A network with flows, and the loss that training minimises.

    Attributes:
        layout: plain data for tables: ``steps``, ``h``, ``widths``, ``inner``, ``stem``, ``norm``, ``scheme``,
            ``field``, ``sharing``, ``gradient`` (see :func:`layout_of`).
    """

    layout: dict[str, Any]

    @property
    def flows(self) -> list[Any]:
        """The flows inside, in order: each a :class:`Flow` or a :class:`TrajectoryFlow`."""
        return [module for module in self.modules() if isinstance(module, Flow | TrajectoryFlow)]

    @property
    def random_steps(self) -> bool:
        """Whether steps are drawn at random in training, unlike in evaluation."""
        return any(flow.random_steps for flow in self.flows)

    @property
    def nfe(self) -> Evaluations:
        """The evaluations of f in the last forward pass, and in its backward pass."""
        flows = self.flows
        forward, backward = (
            sum(getattr(flow, counts).evaluations for flow in flows) for counts in ("forward_counts", "backward_counts")
        )
        return Evaluations(forward, backward)

    def coefficients(self) -> dict[str, Coefficient]:
        """The learnable coefficients of the flows' schemes by name, flow and step: ``k/flow0/step3``."""
        pairs = ((i, coefficient) for i, flow in enumerate(self.flows) for coefficient in flow.scheme.coefficients())
        return {f"{coefficient.name}/flow{i}/step{coefficient.step}": coefficient for i, coefficient in pairs}

    def no_weight_decay(self) -> set[str]:
        """The names of the schemes' own coefficients (k_n): decay would pull them towards another scheme."""
        return set(scheme_parameters(self))

    def trajectory(self, x: Tensor) -> list[Trajectory]:
        """The hidden states of the flows with their times; of networks with stages, one trajectory for each flow.

        Args:
            x: inputs as of ``forward``.

        Raises:
            SchemenetError: the network is of another kind.
        """
        raise SchemenetError(
            f"trajectory: {type(self).__name__} has no stages whose states could be given, as resnet and odenet have; "
            "network.flows has its flows, and flow.trajectory(y) the states of one"
        )

    @abc.abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch of its data set, a scalar: the mean over the samples."""

    @abc.abstractmethod
    def random_batch(self, shape: tuple[int, ...], batch_size: int) -> Any:
        """A random batch on the network's device, for counting the cost of a step; ``shape`` is that of a sample."""

    def like(self) -> dict[str, Any]:
        """``device`` and ``dtype`` of the weights, as arguments of a new tensor. Raises SchemenetError without any."""
        if (parameter := next(self.parameters(), None)) is None:
            raise SchemenetError("this network has no parameters, so there is nothing to train")
        return {"device": parameter.device, "dtype": parameter.dtype}


def layout_of(
    flows: Sequence[Flow],
    *,
    widths: list[int],
    reductions: Sequence[int] = (),
    inner: list[int],
    stem: str,
    norm: str,
    scheme: str,
    field: str,
    gradient: str,
    norm_groups: Sequence[str] = (),
    noise: str = "none",
    augment: int = 0,
) -> dict[str, Any]:
    """The layout of a network: plain data for tables. ``stem`` and ``field`` are words of the table's cells."""
    return {
        "steps": [flow.grid.described(flow.nodes)[0] for flow in flows],
        "h": sorted({flow.grid.described(flow.nodes)[1] for flow in flows}),
        "widths": widths,
        "reductions": list(reductions),
        "inner": inner,
        "stem": stem,
        "norm": norm,
        "scheme": scheme,
        "field": field,
        "sharing": flows[0].sharing.described if flows else None,
        "gradient": gradient,
        **({"norm_groups": list(norm_groups)} if norm_groups else {}),
        **({} if noise == "none" else {"noise": noise}),
        **({"augment": augment} if augment else {}),
    }


def layout_along(
    path: TrajectoryFlow | None,
    *,
    widths: list[int],
    inner: list[int],
    stem: str,
    field: str,
    scheme: str = "none",
) -> dict[str, Any]:
    """The layout, as of :func:`layout_of`, of a network whose flow is a :class:`TrajectoryFlow`; None for no flow."""
    if path is None:
        return {
            "steps": [], "h": [], "widths": widths, "reductions": [], "inner": inner, "stem": stem, "norm": "none",
            "scheme": scheme, "field": field, "sharing": None, "gradient": "backprop",
        }  # fmt: skip
    steps, h = path.grid.described(())
    return {
        "steps": [steps], "h": [h], "widths": widths, "reductions": [], "inner": inner, "stem": stem, "norm": "none",
        "scheme": scheme, "field": field, "sharing": "shared",
        "gradient": type(path.gradient).__name__.lower(),
    }  # fmt: skip
