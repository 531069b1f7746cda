"""The continuous normalising flow, its trace in closed form."""

from __future__ import annotations

from architectures.density.continuous import ContinuousDensity, continuous_density
from architectures.registry import ARCHITECTURES
from schemes.schema import Spec


@ARCHITECTURES.register("cnf", task=("density", "energy"))
def cnf(
    in_chans: int = 2,
    *,
    units: int = 32,
    time: float = 1.0,
    train_time: bool = False,
    width: float = 1.0,
    inner: float = 1.0,
    field: Spec = "planar",
    scheme: Spec = "dopri5",
    grid: Spec = "adaptive",
    gradient: Spec = "checkpoint",
) -> ContinuousDensity:
    r"""A density by the flow of a wide layer whose weights follow time, from noise at t = 0 to data at t = T.

        dx/dt = sum_m sigma_m(t) u_m(t) tanh(w_m(t).x + b_m(t)),    d log p/dt = -tr df/dx

    The trace is linear in the units and costs O(``units``); with another ``field`` it is exact as well, by one product
    with the Jacobian for each dimension.

    Args:
        in_chans: dimensions of the data.
        units: of the layer.
        time: T, where it is not trained, or at the start.
        train_time: whether T is trained.
        width: factor of ``units``.
        inner: factor of the width of the network that gives the weights at time t (32 in the authors' example).
        field: f, a field on vectors.
        scheme: of the flow.
        grid: of the flow.
        gradient: mode.

    Reference: Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", NeurIPS 2018,
    arXiv:1806.07366, section 4.
    """
    return continuous_density(
        in_chans, flows=1, units=units, width=width, inner=inner, field=field, time=time, train_time=train_time,
        trace="exact", scheme=scheme, grid=grid, gradient=gradient,
    )  # fmt: skip
