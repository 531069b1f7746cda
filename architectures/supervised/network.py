"""network = stem , ( flow , transition )* , head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from architectures.supervised_model import SupervisedModel
from schemes.errors import SchemenetError, unknown
from schemes.flow import Flow, Trajectory
from schemes.registry import GRADIENTS

Past = tuple[Tensor, ...]
"""What a flow gets besides the state: older states, or random numbers that a network drew for the batch."""

INSTEAD = "use torch.export.export or torch.compile"

POOLS = {"avg": lambda x: x.mean(dim=(2, 3)), "max": lambda x: x.amax(dim=(2, 3)), "": lambda x: x}
"""How a head pools feature maps."""


class Stage(nn.Module):
    """One resolution level: the transition into it, if any, and its flow, if any.

    Maps (state, past states) to (state, past states).

    Args:
        transition: from the states of the level before.
        flow: of this level.
        augment: zero channels that are appended to all states before the flow: trajectories that would cross in the
            dimensions of the state can then pass one another.

    Reference (augment): Dupont, Doucet, Teh, "Augmented Neural ODEs", NeurIPS 2019, arXiv:1904.01681.
    """

    def __init__(self, transition: nn.Module | None, flow: Flow | None, augment: int = 0) -> None:
        super().__init__()
        self.transition, self.flow, self.augment = transition, flow, augment

    def forward(self, carry: tuple[Tensor, Past]) -> tuple[Tensor, Past]:
        carry = self._enter(carry)
        return carry if self.flow is None else self.flow(*carry, remember=True)

    def trajectory(self, carry: tuple[Tensor, Past]) -> tuple[tuple[Tensor, Past], Trajectory | None]:
        """What ``forward`` returns, and the states of the flow, None without one."""
        carry = self._enter(carry)
        if self.flow is None:
            return carry, None
        path = self.flow.trajectory(*carry)
        return (path.states[-1], path.solver_state), path

    def _enter(self, carry: tuple[Tensor, Past]) -> tuple[Tensor, Past]:
        """The input of the flow."""
        if self.transition is not None:
            carry = self.transition(*carry)
        if self.augment:
            carry = self._widened(carry[0]), tuple(map(self._widened, carry[1]))
        return carry

    def _widened(self, x: Tensor) -> Tensor:
        return torch.cat((x, x.new_zeros(x.shape[0], self.augment, *x.shape[2:])), dim=1)


class Network(SupervisedModel):
    """Stem, stages, and a head: ``finish`` (norm and ReLU), global pooling, dropout, a linear classifier.

    Maps images (batch, in_chans, height, width) to logits (batch, num_classes). Has the methods and attributes of
    timm's models under timm's names; timm is not imported.

    Args:
        stem: from images to the first state.
        stages: the resolution levels.
        finish: norm and activation behind the last stage, or an identity.
        num_features: channels of the last state.
        num_classes: of the classifier; 0 for none.
        layout: see :class:`Model`.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Stage],
        finish: nn.Module,
        num_features: int,
        num_classes: int,
        layout: dict[str, Any],
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = num_features
        self.layout = layout
        self.drop_rate = 0.0
        self.stem, self.stages, self.finish = stem, nn.Sequential(*stages), finish
        self.reset_classifier(num_classes, "avg")
        self.apply(initialise)
        for flow in self.flows:
            flow.bank.set_zero_groups()

    @property
    def modules_between_flows(self) -> list[nn.Module]:
        """The modules around the flows, in order: the stem, the transitions, ``finish`` and the classifier."""
        transitions = (stage.transition for stage in self.stages if isinstance(stage, Stage))
        return [self.stem, *(module for module in transitions if module is not None), self.finish, self.classifier]

    # From inputs to logits ----------------------------------------------------------------------------------

    def embed(self, x: Tensor) -> tuple[Tensor, Past]:
        """The input of the first stage: the stem's output, and no past states."""
        if (reason := self._untraceable(x)) is not None:
            raise SchemenetError(reason)
        return self.stem(x), ()

    def _untraceable(self, x: Tensor) -> str | None:
        """Why this forward pass cannot be traced or exported; None where it can, or is not."""
        if isinstance(x, fx.Proxy):
            return f"torch.fx.symbolic_trace is not supported; {INSTEAD}"
        tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]  # public, but not in its module's list
        if (tracing or torch.compiler.is_exporting()) and any(flow.adaptive for flow in self.flows):
            return (
                "the steps of an adaptive grid depend on the input, and a graph has the same steps for all; use "
                "grid=uniform"
            )
        if tracing and torch.is_grad_enabled() and any(flow.gradient.recomputes for flow in self.flows):
            return "torch.jit.trace follows the gradient backprop only; trace under torch.no_grad()"
        return None

    def __prepare_scriptable__(self) -> nn.Module:
        """The hook of torch.jit.script before it compiles a module."""
        raise SchemenetError(f"torch.jit.script is not supported; {INSTEAD}")

    def forward_features(self, x: Tensor) -> Tensor:
        """The state after the last flow and the finishing norm."""
        x, _ = self.stages(self.embed(x))
        return self.finish(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The head.

        Args:
            x: features, (batch, channels, height, width) or (batch, channels).
            pre_logits: return the inputs of the classifier instead of the logits.
        """
        x = POOLS[self.global_pool](x) if x.dim() == 4 else x
        x = functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def trajectory(self, x: Tensor) -> list[Trajectory]:
        """The hidden states along depth with their times, one trajectory for each flow, in order.

        Args:
            x: inputs as of ``forward``.
        """
        carry, paths = self.embed(x), []
        for stage in self.stages:
            assert isinstance(stage, Stage)
            carry, path = stage.trajectory(carry)
            paths += [] if path is None else [path]
        return paths

    # The classifier -----------------------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier.

        Args:
            num_classes: 0 for none.
            global_pool: "avg", "max", or "" for none; None leaves it as it is.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in POOLS:
            raise SchemenetError(unknown("global_pool", pool, map(repr, POOLS)))
        if num_classes and not pool:
            raise SchemenetError(
                f"a classifier reads pooled features; global_pool='' needs num_classes=0, got {num_classes}"
            )
        like = next(self.parameters())
        self.global_pool, self.num_classes = pool, num_classes
        self.classifier: nn.Module = nn.Identity()
        if num_classes:
            self.classifier = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)

    # Features of each resolution level ----------------------------------------------------------------------

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Channels, reduction of the resolution and module of each stage's output; none where states are vectors."""
        pairs = list(zip(self.layout["widths"], self.layout["reductions"], strict=False))[: len(self.stages)]
        return [{"num_chs": w, "reduction": r, "module": f"stages.{i}"} for i, (w, r) in enumerate(pairs)]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The states after some stages, and the features.

        Args:
            x: images.
            indices: of the stages; None for all, a number n for the last n.
            norm: whether ``finish`` is applied to the state of the last stage.
            stop_early: run no stage after the last of ``indices``; the features are then that stage's state without
                ``finish``, as in timm's models.
            output_fmt: "NCHW".
            intermediates_only: return the states alone.

        Returns:
            The features and a list of states, (batch, channels, height, width) each.
        """
        if output_fmt != "NCHW":
            raise SchemenetError(f"output_fmt expected 'NCHW', got {output_fmt!r}")
        taken = self._indices(indices)
        carry, states, last = self.embed(x), [], len(self.stages) - 1
        run = max(taken, default=last) if stop_early else last
        for i, stage in enumerate(self.stages[: run + 1]):
            carry = stage(carry)
            if i in taken:
                states.append(self.finish(carry[0]) if norm and i == last else carry[0])
        if intermediates_only:
            return states
        return self.finish(carry[0]) if run == last else carry[0], states

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove the stages after the last of ``indices``.

        Args:
            indices: of the stages; None for all, a number n for the last n.
            prune_norm: remove ``finish``, which belongs to the last stage and is also removed with it.
            prune_head: remove the classifier.

        Returns:
            The indices as numbers from the front.
        """
        taken = self._indices(indices)
        kept = max(taken) + 1
        if prune_norm or kept < len(self.stages):
            self.finish = nn.Identity()
        self.stages = self.stages[:kept]
        if prune_head:
            self.reset_classifier(0)
        return taken

    def _indices(self, indices: int | Sequence[int] | None) -> list[int]:
        count = len(self.feature_info)
        requested = list(range(count))[-indices:] if isinstance(indices, int) else indices
        if not count:
            raise SchemenetError("has vectors for states and no feature maps")
        if wrong := [i for i in (requested or ()) if not -count <= i < count]:
            raise SchemenetError(f"stages are numbered 0 to {count - 1}, got {wrong[0]}")
        return [i % count for i in (range(count) if requested is None else requested)]

    # For optimisers and trainers ----------------------------------------------------------------------------

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Change the gradient ``backprop`` to ``checkpoint`` (each step recomputed in backward), or back.

        ``reversible`` and ``adjoint`` flows keep less than that already, and are not changed.
        """
        before, after = ("backprop", "checkpoint") if enable else ("checkpoint", "backprop")
        for flow in self.flows:
            if flow.gradient.name == before:
                flow.gradient = GRADIENTS.build(after)
                self.layout["gradient"] = after

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of layers for timm's layer-wise learning rates: by stage, or by field."""
        within = [
            (r"^stages\.(\d+)\.(?:transition|flow\.scheme)", (-1,)),
            (r"^stages\.(\d+)\.flow\.bank\.fields\.(\d+)", None),
        ]
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else within}


def initialise(module: nn.Module) -> None:
    """He initialisation by fan-out, N(0, 2 / (k k out)), for convolutions; norms start at 1 and 0.

    Reference: He, Zhang, Ren, Sun, "Delving Deep into Rectifiers", ICCV 2015, arXiv:1502.01852.
    """
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # on the meta device torch is slow
        fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
