"""Any module as a network: a model of the user's own that is trained and compared beside those made of flows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor, nn

from architectures.model import layout_of
from architectures.supervised_model import SupervisedModel
from schemes.errors import SchemenetError
from schemes.flow import Flow


class PlainNetwork(SupervisedModel):
    """A module that maps inputs to logits, or to numbers, as a network with a loss.

    Args:
        module: maps (batch, ...) to (batch, num_classes).
        num_classes: classes, or outputs of a regression.
    """

    def __init__(self, module: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.module, self.num_classes = module, num_classes
        self.layout = describe(self.flows, module)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.module(x)
        if isinstance(outputs, Tensor) and outputs.shape[1:2] != (self.num_classes,):
            raise SchemenetError(
                f"network {type(self.module).__name__}: expected outputs (batch, {self.num_classes}), as num_classes "
                f"says, got shape {tuple(outputs.shape)}"
            )
        return outputs


def describe(flows: list[Any], module: nn.Module) -> dict[str, Any]:
    """The layout of a network of somebody else's: ``widths`` are the outputs of each of its layers,
    and its stem and norm are not known.

    Args:
        flows: inside it.
        module: the network.
    """
    known = [flow for flow in flows if isinstance(flow, Flow)]

    def most_common(parts: list[Any]) -> str:
        return Counter(type(part).__name__ for part in parts).most_common(1)[0][0] if parts else "none"

    fields = [field for flow in known for field in flow.bank.fields]
    return layout_of(
        known, widths=[p.shape[0] for p in module.parameters() if p.dim() > 1], inner=[],
        stem="-", norm="-", scheme=most_common([flow.scheme for flow in known]),
        field=most_common(fields), gradient=most_common([flow.gradient for flow in known]).lower(),
    )  # fmt: skip
