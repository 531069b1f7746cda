"""Dense networks, for vectors and for the two-dimensional sets."""

from __future__ import annotations

from typing import Literal

from torch import nn

from architectures.arguments import augmented, build_field, name_of, require, require_vector_field, scaled
from architectures.model import layout_of
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network, Stage
from schemes.core.node import Node
from schemes.flow import Flow
from schemes.registry import SCHEMES
from schemes.schema import Spec


@ARCHITECTURES.register("mlp", reads=("vector", "image"), task=("classification", "regression"))
def mlp(
    num_classes: int = 2,
    in_chans: int = 2,
    image_size: int | None = None,
    *,
    steps: int = 4,
    stem: Literal["linear", "none"] = "linear",
    augment: int = 0,
    hidden: int = 32,
    width: float = 1.0,
    inner: float = 1.0,
    field: Spec = "mlp",
    scheme: Spec = "forward_euler",
    sharing: Spec | None = None,
    grid: Spec = "uniform",
    gradient: Spec = "backprop",
    noise: Spec = "none",
) -> Network:
    r"""A stem, one flow of dense residual steps u_{n+1} = u_n + W_2 tanh(W_1 u_n), linear to the classes.

    Takes (batch, in_chans) vectors; images are flattened. As an ODE-Net: ``field=mlp_time sharing=shared
    grid.time=1.0``; the map from input to state is then a homeomorphism without stem and augmentation, and cannot
    separate what is nested (``data=spheres``).

    Args:
        num_classes: classes, or outputs of a regression.
        in_chans: length of the vectors, or channels of the images.
        image_size: in pixels; None for vectors.
        steps: of the flow.
        stem: "linear" to ``hidden``; with "none" the flow moves the points themselves.
        augment: zeros that are appended to the state; the classifier reads all of it.
        hidden: width of the state; with ``stem=none`` the width inside f.
        width: factor of ``hidden``.
        inner: further factor of the width inside f.
        field: f, a field on vectors.
        scheme: of the flow.
        sharing: of the weights between steps; None for the scheme's default.
        grid: of the flow.
        gradient: mode.
        noise: on the steps.

    Reference: Weinan E, "A Proposal on Machine Learning via Dynamical Systems", Commun. Math. Stat. 5, 2017;
    ``augment``: Dupont, Doucet, Teh, "Augmented Neural ODEs", NeurIPS 2019, arXiv:1904.01681.
    """
    require(steps=steps, hidden=hidden, width=width, inner=inner)
    require_vector_field(field)
    components = SCHEMES.build(scheme).components
    features = in_chans * (image_size or 1) ** 2
    wide = scaled([hidden], width, components)[0]
    inside = scaled([wide // components], inner)[0]
    total = augmented(wide if stem == "linear" else features, augment, components)
    part = total // components

    def make(node: Node) -> nn.Module:
        return build_field(field, channels=part, out=part, inner=inside)

    flow = Flow(make, steps, scheme, sharing, grid, gradient, noise=noise)
    entering = nn.Sequential(nn.Flatten(), nn.Linear(features, wide)) if stem == "linear" else nn.Flatten()
    layout = layout_of(
        [flow], widths=[total], inner=[inside], stem=f"linear to {wide}" if stem == "linear" else "none", norm="none",
        scheme=name_of(scheme), field=name_of(field), gradient=name_of(gradient), noise=name_of(noise), augment=augment,
    )  # fmt: skip
    return Network(entering, [Stage(None, flow, augment)], nn.Identity(), total, num_classes, layout)
