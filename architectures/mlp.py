"""Dense networks, for vectors and for the two-dimensional sets."""

from __future__ import annotations

from typing import Literal

from torch import nn

from architectures.network import Network, Stage, layout_of
from architectures.registry import ARCHITECTURES, FIELDS
from architectures.residual import name_of, require, scaled
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.node import Node
from schemes.registry import SCHEMES
from schemes.signature import Spec


@ARCHITECTURES.register("mlp", reads=("vector", "image"))
def mlp(
    num_classes: int = 2,
    in_chans: int = 2,
    image_size: int | None = None,
    *,
    steps: int = 4,
    hidden: int = 32,
    width: float = 1.0,
    inner: float = 1.0,
    field: Spec = "mlp",
    scheme: Spec = "forward_euler",
    sharing: Literal["per_step", "shared", "per_stage"] | None = None,
    grid: Spec = "uniform",
    gradient: Spec = "backprop",
    noise: Spec = "none",
) -> Network:
    r"""Linear to ``hidden``, one flow of dense residual steps u_{n+1} = u_n + W_2 tanh(W_1 u_n), linear to the classes.

    Takes (batch, in_chans) vectors; images are flattened. Any scheme, as everywhere.

    Reference: Weinan E, "A Proposal on Machine Learning via Dynamical Systems", Commun. Math. Stat. 5, 2017.
    """
    FIELDS.check_spec(field)
    require(steps=steps, hidden=hidden, width=width, inner=inner)
    if FIELDS.entry(name_of(field)).facts.get("state") != "vector":
        raise SchemenetError(f"has vectors for states; field {name_of(field)!r} takes images")
    components = SCHEMES.build(scheme).components
    total = scaled([hidden], width, components)[0]
    part = total // components
    inside = scaled([part], inner, 1)[0]

    def make(node: Node) -> nn.Module:
        return FIELDS.build(field, channels=part, out=part, inner=inside)

    flow = Flow(make, steps, scheme, sharing, grid, gradient, noise=noise)
    features = in_chans * (image_size or 1) ** 2
    stem = nn.Sequential(nn.Flatten(), nn.Linear(features, total))
    layout = layout_of(
        [flow], widths=[total], inner=[inside], stem=f"linear to {total}", norm="none", scheme=name_of(scheme),
        field=name_of(field), gradient=name_of(gradient), noise=name_of(noise),
    )  # fmt: skip
    return Network(stem, [Stage(None, flow)], nn.Identity(), total, num_classes, layout)
