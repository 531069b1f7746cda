"""The residual networks: one design, whose axes are the fields of :class:`ResidualDesign`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

from torch import nn

from architectures.arguments import augmented, build_field, depth_of, field_facts, name_of, require, scaled
from architectures.layers.norms import groups_in_words, norm_layer, norm_multiple
from architectures.layers.stems import REDUCTION
from architectures.layers.stems import described as stem_in_words
from architectures.layers.stems import stem as make_stem
from architectures.layers.transitions import CoupledTransition, Transition, shortcut
from architectures.model import layout_of
from architectures.registry import FIELDS
from architectures.supervised.network import Network, Stage
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.methods.explicit import ForwardEuler
from schemes.noise.base import Blocks, Noise
from schemes.registry import NOISES, SCHEMES, SHARINGS
from schemes.schema import Spec
from schemes.sharing.base import Sharing


def blocks_of(depth: int | Sequence[int], convolutions: int, widths: Sequence[int]) -> list[int]:
    """The number of blocks of each stage.

    Args:
        depth: the blocks of each stage, or the number of weighted layers in all.
        convolutions: weighted layers in a block; stem and head have one each.
        widths: of the stages.

    Raises:
        SchemenetError: for a depth that no number of blocks has.
    """
    require(widths=widths)
    if not isinstance(depth, int):
        if len(depth) != len(widths) or min(depth) < 1:
            raise SchemenetError(
                f"depth expected to be one number of blocks for each of {len(widths)} stages (widths), got {depth!r}"
            )
        return list(depth)
    period = convolutions * len(widths)
    blocks, rest = divmod(depth - depth_of(0, period), period)
    if rest or blocks < 1:
        lower = max(1, blocks)
        raise SchemenetError(
            f"depth expected to be {period}n + 2 for {convolutions} layers in a block and {len(widths)} stages "
            f"(widths), got {depth}; the nearest are {depth_of(lower, period)} and {depth_of(lower + 1, period)}, or "
            "list the blocks of each stage"
        )
    return [blocks] * len(widths)


class Level(NamedTuple):
    """Sizes of one resolution level: the transition into it, if the resolution or the width changes, and its flow."""

    number: int
    channels: int
    """of the state that the level before hands over"""
    out: int
    """channels behind the transition"""
    width: int
    """channels of the flow's state: ``out`` and those that ``augment`` appends"""
    inner: int
    """channels inside a branch, of one component"""
    transition: bool
    steps: int
    """of the flow; 0 for none"""
    before: int
    """blocks of the levels before it, transitions among them"""

    @property
    def stride(self) -> int:
        return 1 if self.number == 0 else 2


@dataclass(frozen=True, kw_only=True)
class ResidualDesign:
    """A residual network by its axes: stem, levels of residual blocks, head; :meth:`build` makes it.

    Args:
        num_classes: classes of the head; 0 for none.
        in_chans: channels of the images.
        blocks: the blocks of each level. Where the resolution or the width changes the first of them is the
            transition, the others are the steps of the flow.
        steps: the steps of each flow instead, whatever the transitions are.
        widths: widths of the flows before ``width`` multiplies them.
        inner_widths: widths inside a branch before ``width`` and ``inner`` multiply them; ``widths`` where not given.
        stem: a key of ``architectures.layers.stems.REDUCTION``.
        normalised_stem: norm and ReLU follow the stem's convolution. The very first pre-activation branch then omits
            its leading norm.
        without_leading_norm: of a coupled state, whether the "first" or "all" components omit it there.
        field: f of the flows, and of the transitions where it can be strided (else ``basic``).
        activation: "pre", or "post" with a ReLU after each step.
        transition: the shortcut of a transition (see ``architectures.layers.transitions.shortcut``).
        coupled_transitions: transitions couple the halves of the state, as RevNet's do.
        history: the state before its first that a flow gets behind a transition S(u_N) + F(u_N). "shortcut": S(u_N)
            (LM-ResNet's released code); "restart": none, so that the first step is plain; "project": the older state
            u_{N-1} of the flow before, by a strided 1x1 convolution of its own (none where there is none).
        augment: zero channels that are appended to the state before each flow.
    """

    num_classes: int = 10
    in_chans: int = 3
    blocks: Sequence[int]
    steps: Sequence[int] | None = None
    widths: Sequence[int] = (16, 32, 64)
    inner_widths: Sequence[int] | None = None
    width: float = 1.0
    inner: float = 1.0
    stem: str = "3x3"
    normalised_stem: bool = False
    without_leading_norm: Literal["first", "all"] = "first"
    field: Spec = "basic"
    activation: str = "pre"
    norm: str = "batch"
    transition: str = "D"
    coupled_transitions: bool = False
    history: str = "shortcut"
    scheme: Spec = "forward_euler"
    sharing: Spec | None = None
    grid: Spec = "uniform"
    gradient: Spec = "backprop"
    statistics: str = "per_node"
    noise: Spec = "none"
    augment: int = 0

    def build(self) -> Network:
        """The network with random weights. Raises SchemenetError where the axes do not fit together."""
        self._check()
        stages: list[Stage] = []
        remembered = False  # whether a state before the present one is known
        for level in self.levels:
            past = self._gets_past(level, remembered)
            transition = self._transition(level, remembered) if level.transition else None
            flow = self._flow(level, past) if level.steps else None
            stages.append(Stage(transition, flow, self.augment))
            remembered = past or flow is not None
        channels, norm = self.levels[-1].width, self.norm
        finish = nn.Sequential(norm_layer(norm, channels), nn.ReLU()) if self.activation == "pre" else nn.Identity()
        layout = self._layout([stage.flow for stage in stages if stage.flow is not None])
        stem = make_stem(self.stem, self.in_chans, self.levels[0].channels, norm, self.normalised_stem)
        return Network(stem, stages, finish, channels, self.num_classes, layout)

    @cached_property
    def _method(self) -> Scheme:
        return SCHEMES.build(self.scheme)

    @property
    def _groups(self) -> int:
        """Groups of a convolution inside a branch, where the field has some."""
        if not isinstance(self.field, str | Mapping):
            return 1
        given = self.field if isinstance(self.field, Mapping) else {}
        return (FIELDS.defaults(name_of(self.field)) | dict(given)).get("groups", 1)

    @property
    def _blocks(self) -> int:
        """Blocks of the whole network, transitions among them."""
        return sum(level.transition + level.steps for level in self.levels)

    @cached_property
    def _transition_noise(self) -> Noise:
        """A transition has one branch; noise that needs more leaves it alone."""
        noise = NOISES.build(self.noise)
        return noise if noise.unsupported_reason(ForwardEuler()) is None else NOISES.build("none")

    def _check(self) -> None:
        require(widths=self.widths, width=self.width, inner=self.inner)
        name = name_of(self.scheme)
        if self.coupled_transitions and self._method.components != 2:
            raise SchemenetError(
                f"couples two halves, and scheme {name!r} has one component; use symplectic_euler or verlet, "
                "or architecture=resnet"
            )
        if self.history != "shortcut" and not self._method.accepts_past_states:
            raise SchemenetError(
                f"history={self.history}: scheme {name!r} takes up no state before a flow's first; "
                "use history=shortcut, or scheme=linear_multistep"
            )
        if field_facts(self.field).state == "vector":
            raise SchemenetError(f"has images for states; field {name_of(self.field)!r} takes vectors")

    @cached_property
    def levels(self) -> list[Level]:
        """The sizes of each level."""
        components, multiple = self._method.components, norm_multiple(self.norm)
        base = scaled(self.widths, self.width, components * multiple)
        expansion = field_facts(self.field).expansion
        inner_base = self.inner_widths or [width // components for width in self.widths]
        inners = scaled(inner_base, self.width * self.inner, math.lcm(self._groups, multiple))
        levels, channels, before = [], base[0], 0
        for i, (inner, blocks) in enumerate(zip(inners, self.blocks, strict=True)):
            out = base[i] * expansion
            width, transition = augmented(out, self.augment, components, self.norm), i > 0 or out != base[0]
            steps = blocks - transition if self.steps is None else self.steps[i]
            levels.append(Level(i, channels, out, width, inner, transition, steps, before))
            channels, before = width, before + transition + steps
        return levels

    def _gets_past(self, level: Level, remembered: bool) -> bool:
        """Whether the flow of a level is handed a state before its first."""
        if not level.transition:
            return remembered
        return not self.coupled_transitions and (
            self.history == "shortcut" or (self.history == "project" and remembered)
        )

    def _transition(self, level: Level, remembered: bool) -> nn.Module:
        noise: dict[str, Any] = {"noise": self._transition_noise, "blocks": Blocks(level.before, self._blocks)}
        strides = "stride" in FIELDS.parameters_of_choice(self.field)
        components = self._method.components

        def branch(channels: int, out: int, inner: int, **options: Any) -> nn.Module:
            spec, sizes = self.field if strides else "basic", {"channels": channels, "out": out, "inner": inner}
            return build_field(spec, **sizes, activation_order=self.activation, norm=self.norm, **options)

        first = {"stride": level.stride, "leading_norm": not (self.normalised_stem and level.number == 0)}
        if self.coupled_transitions:
            sizes = level.channels // components, level.out // components
            branches = branch(*sizes, level.inner, **first), branch(sizes[1], sizes[1], level.inner)
            paths = self._shortcut(*sizes, level), self._shortcut(*sizes, level)
            return CoupledTransition(branches, paths, **noise)
        sizes = level.channels, level.out
        strided, path = branch(*sizes, level.inner * components, **first), self._shortcut(*sizes, level)
        projects = self.history == "project" and remembered
        older = shortcut("C", *sizes, level.stride, self.norm) if projects else None
        return Transition(strided, path, self._projection(), self.history, older, **noise)

    def _shortcut(self, channels: int, out: int, level: Level) -> nn.Module:
        return shortcut(self.transition, channels, out, level.stride, self.norm)

    def _projection(self) -> nn.Module | None:
        return nn.ReLU() if self.activation == "post" else None

    def _flow(self, level: Level, past: bool) -> Flow:
        return Flow(
            partial(self._field_at, level), level.steps, self.scheme, self.sharing, self.grid, self.gradient,
            self.statistics, past=int(past), projection=self._projection(), noise=self.noise,
            blocks=(level.before + level.transition, self._blocks),
        )  # fmt: skip

    def _field_at(self, level: Level, node: Node) -> nn.Module:
        """f at a node of a level's flow."""
        width = level.width // self._method.components
        return build_field(
            self.field, channels=width, out=width, inner=level.inner, activation_order=self.activation, norm=self.norm,
            leading_norm=not self._follows_norm(level, node),
        )  # fmt: skip

    def _follows_norm(self, level: Level, node: Node) -> bool:
        """Whether the stem's norm and ReLU stand right before the branch at a node, and serve it alone."""
        first = self.normalised_stem and level.number == 0 and not level.transition and node.step == 0
        sharing: Sharing = SHARINGS.build(self._method.sharing if self.sharing is None else self.sharing)
        component = self.without_leading_norm == "all" or node.component == 0
        return first and component and self.activation == "pre" and sharing.of_steps

    def _layout(self, flows: Sequence[Flow]) -> dict[str, Any]:
        levels, norm, components = self.levels, self.norm, self._method.components
        return layout_of(
            flows, widths=[level.width for level in levels],
            reductions=[REDUCTION[self.stem] * 2**level.number for level in levels],
            inner=[level.inner for level in levels],
            stem=stem_in_words(self.stem, levels[0].channels, self.normalised_stem), norm=norm,
            norm_groups=groups_in_words(norm, [level.width // components for level in levels]),
            scheme=name_of(self.scheme), field=name_of(self.field), gradient=name_of(self.gradient),
            noise=name_of(self.noise), augment=self.augment,
        )  # fmt: skip
