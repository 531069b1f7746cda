"""network = stem , ( flow , transition )* , head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from schemes.base import Coefficient
from schemes.flow import Flow


class Stage(nn.Module):
    """One resolution level: the transition into it, if any, and its flow, if any."""

    def __init__(self, transition: nn.Module | None, flow: Flow | None) -> None:
        super().__init__()
        self.transition, self.flow = transition, flow

    def forward(self, x: Tensor) -> Tensor:
        past: tuple[Tensor, ...] = ()
        if self.transition is not None:
            x, past = self.transition(x)
        return x if self.flow is None else self.flow(x, past)


class Network(nn.Module):
    """Stem, stages, and a head: ``finish`` (norm and ReLU), global average pooling, a linear classifier.

    (batch, in_chans, height, width) to (batch, num_classes). ``layout`` says in plain data what was built: steps and
    h of the flows, widths, inner widths, stem, norm, scheme.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: list[nn.Module],
        finish: nn.Module,
        num_features: int,
        num_classes: int,
        layout: dict[str, Any],
    ) -> None:
        super().__init__()
        self.num_features, self.num_classes, self.layout = num_features, num_classes, layout
        self.stem, self.stages, self.finish = stem, nn.ModuleList(stages), finish
        self.classifier = nn.Linear(num_features, num_classes)
        self.apply(initialise)

    @property
    def flows(self) -> list[Flow]:
        return [module for module in self.stages.modules() if isinstance(module, Flow)]

    def coefficients(self) -> dict[str, Coefficient]:
        """The learnable coefficients of the flows' schemes by name, flow and step: ``k/flow0/step3``."""
        found = ((i, coefficient) for i, flow in enumerate(self.flows) for coefficient in flow.scheme.coefficients())
        return {f"{coefficient.name}/flow{i}/step{coefficient.step}": coefficient for i, coefficient in found}

    def forward_features(self, x: Tensor) -> Tensor:
        """The state after the last flow and the finishing norm."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.finish(x)

    def forward_head(self, x: Tensor) -> Tensor:
        """Logits from features."""
        return self.classifier(x.mean(dim=(2, 3)) if x.dim() == 4 else x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def layout_of(
    flows: Sequence[Flow],
    *,
    widths: list[int],
    inner: list[int],
    stem: str,
    norm: str,
    scheme: str,
    field: str,
    gradient: str,
    noise: str = "none",
) -> dict[str, Any]:
    """What was built, in plain data, for tables."""
    return {
        "steps": [len(flow.nodes) for flow in flows],
        "h": sorted({flow.nodes[0].h for flow in flows}),
        "widths": widths,
        "inner": inner,
        "stem": stem,
        "norm": norm,
        "scheme": scheme,
        "field": field,
        "sharing": flows[0].bank.sharing if flows else None,
        "gradient": gradient,
        **({} if noise == "none" else {"noise": noise}),
    }


def initialise(module: nn.Module) -> None:
    """He initialisation by fan-out, N(0, 2 / (k k out)), for convolutions; norms start at 1 and 0.

    Reference: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
