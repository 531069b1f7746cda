"""ODE-RNN: a hidden state that follows an ODE between observations and jumps at them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from architectures.arguments import name_of
from architectures.model import layout_along
from architectures.registry import ARCHITECTURES
from architectures.series.base import AcrossGaps, Autoregressive, State, vector_field
from schemes.ivp.trajectory_flow import TrajectoryFlow
from schemes.schema import Spec


class JumpFlow(nn.Module):
    """A state (batch, hidden) that follows an ODE through the gaps of each series and a GRU at its observations.

    Args:
        channels: of the series.
        hidden: width of the state.
        inner: width inside the field.
        field: f, a field on vectors.
        scheme: of the solves.
        grid: of each gap.
        gradient: mode.
    """

    def __init__(
        self, channels: int, hidden: int, inner: int, field: Spec, scheme: Spec, grid: Spec, gradient: Spec
    ) -> None:
        super().__init__()
        self.path = TrajectoryFlow(AcrossGaps(vector_field(field, hidden, inner)), scheme, grid, gradient)
        self.cell = nn.GRUCell(2 * channels, hidden)

    def through(self, state: Tensor, start: Tensor, gap: Tensor, accumulate: bool) -> Tensor:
        """The state after a gap.

        Args:
            state: (batch, hidden).
            start: the time at which the gap begins, (batch,).
            gap: its length, (batch,); negative ones lead back in time.
            accumulate: whether the evaluations of f are added to those of the gaps before.
        """
        return self.path(state, (0.0, 1.0), start, gap, accumulate=accumulate).values[-1]

    def jump(self, state: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The state after an observation; unchanged for a series in which no channel was observed.

        Args:
            state: (batch, hidden).
            values: (batch, channels).
            mask: 1 where a channel was observed, (batch, channels).
        """
        after = self.cell(torch.cat((values, mask), 1), state)
        return torch.where(mask.any(1, keepdim=True), after, state)


@ARCHITECTURES.register("ode_rnn", task="series")
class OdeRnn(Autoregressive):
    r"""A hidden state that is solved through each gap, and updated by a GRU at each observation.

        h' = f(t, h)  from t_{k-1} to t_k,   prediction of x_k = decoder(h(t_k)),   h(t_k) <- GRU([x_k, m_k], h(t_k))

    x_k are the values (0 where missing), m_k their mask. The gaps of all series are solved together, each from 0 to its
    length: a series alone equals itself in a batch to rounding; on an adaptive grid the batch has common steps and this
    holds to the tolerance. Begins at h(0) = 0; after the last observation the GRU reads the predictions. As published,
    for PhysioNet: 40 in the state, f of 3 layers of 50.

    Args:
        in_chans: channels of the series.
        field: f, a field on vectors.
        scheme: of the gaps.
        grid: of the gaps; ``grid.steps`` are those of one gap.
        gradient: mode.
        **options: as for :class:`architectures.series.base.Autoregressive`.

    Reference: Rubanova, Chen, Duvenaud, "Latent ODEs for Irregularly-Sampled Time Series", NeurIPS 2019,
    arXiv:1907.03907.
    """

    def __init__(
        self,
        in_chans: int = 2,
        *,
        field: Spec = "mlp",
        scheme: Spec = "rk4",
        grid: Spec = {"name": "uniform", "steps": 1},  # noqa: B006  read only
        gradient: Spec = "backprop",
        **options: Any,
    ) -> None:
        super().__init__(in_chans=in_chans, **options)
        self.flow = JumpFlow(in_chans, self.state, self.inside, field, scheme, grid, gradient)
        self.layout = layout_along(
            self.flow.path, widths=[self.state], inner=[self.inside], stem="none", field=name_of(field),
            scheme=name_of(scheme),
        )  # fmt: skip

    def advance(self, state: State, start: Tensor, gap: Tensor, accumulate: bool) -> State:
        return (self.flow.through(state[0], start, gap, accumulate),)

    def update(self, state: State, values: Tensor, mask: Tensor, ahead: Tensor) -> State:
        return (self.flow.jump(state[0], values, mask),)
