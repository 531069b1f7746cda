"""The family of residual networks: one builder, whose axes are the arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from architectures.arguments import augmented, depth_of, name_of, require, scaled
from architectures.layers.norms import groups_in_words, norm_layer, norm_multiple
from architectures.layers.stems import REDUCTION
from architectures.layers.stems import described as stem_in_words
from architectures.layers.stems import stem as make_stem
from architectures.layers.transitions import CoupledTransition, Transition, shortcut
from architectures.model import layout_of
from architectures.registry import FIELDS
from architectures.supervised.network import Network, Stage
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.methods.explicit import ForwardEuler
from schemes.noise.base import Blocks
from schemes.registry import NOISES, SCHEMES
from schemes.schema import Spec


def blocks_of(depth: int | Sequence[int], convolutions: int, widths: Sequence[int]) -> list[int]:
    """Blocks of each stage: ``depth`` itself where it lists them, else the same number in each.

    As a number it counts the weighted layers, ``convolutions`` of them in a block, one in the stem and one in the head.
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


def residual_network(
    *,
    num_classes: int,
    in_chans: int,
    blocks: Sequence[int],
    steps: Sequence[int] | None = None,
    widths: Sequence[int] = (16, 32, 64),
    stem: str = "3x3",
    normalised_stem: bool = False,
    width: float = 1.0,
    inner: float = 1.0,
    inner_widths: Sequence[int] | None = None,
    field: Spec = "basic",
    activation: str = "pre",
    norm: str = "batch",
    transition: str = "D",
    history: str = "shortcut",
    coupled_transitions: bool = False,
    bare_entry: str = "first",
    scheme: Spec = "forward_euler",
    sharing: str | None = None,
    grid: Spec = "uniform",
    gradient: Spec = "backprop",
    statistics: str = "per_node",
    noise: Spec = "none",
    augment: int = 0,
) -> Network:
    """Stem, stages of residual blocks, head.

    ``blocks`` counts the blocks of each stage; where the resolution or the width changes the first of them is the
    transition, the others are the steps of the flow (``steps``, where given, sets these instead). ``widths`` are the
    widths of the flows before ``width`` multiplies them, ``inner_widths`` those inside the branch, fine-tuned by
    ``inner``; ``augment`` zero channels are appended to the state before each flow. ``field`` is the flows' f, and the
    transitions' where it can be strided (else ``basic``). With
    ``normalised_stem`` (norm and ReLU behind its convolution) the very first pre-activation branch omits its leading
    norm (``bare_entry`` "first": the first component's; "all": each component's).

    ``history`` says what the flow after a transition S(u_N) + F(u_N) is handed for the state before its first:
    "shortcut", S(u_N) (LM-ResNet's released code); "restart", nothing, so that its first step is plain; "project", the
    older state u_{N-1} of the flow before, by a strided 1x1 convolution of its own (nothing where there is none).
    """
    require(widths=widths, width=width, inner=inner)
    built_scheme = SCHEMES.build(scheme)
    components = built_scheme.components
    if coupled_transitions and components != 2:
        raise SchemenetError(
            f"couples two halves, and scheme {name_of(scheme)!r} has one component; use symplectic_euler or verlet, "
            "or architecture=resnet"
        )
    if history != "shortcut" and not built_scheme.accepts_past_states:
        raise SchemenetError(
            f"history={history}: scheme {name_of(scheme)!r} takes up no state before a flow's first; "
            "use history=shortcut, or scheme=linear_multistep"
        )
    shared = (sharing or built_scheme.sharing) == "shared"
    FIELDS.check_spec(field)
    field_options = FIELDS.defaults(name_of(field)) | (dict(field) if not isinstance(field, str) else {})
    groups = field_options.get("groups", 1)
    expansion = FIELDS.entry(name_of(field)).facts["expansion"]
    base = scaled(widths, width, components * norm_multiple(norm))
    entering_widths = [w * expansion for w in base]
    flow_widths = [augmented(w, augment, components, norm) for w in entering_widths]
    inner_base = inner_widths or [w // components for w in widths]
    inners = scaled(inner_base, width * inner, math.lcm(groups, norm_multiple(norm)))
    entry = base[0]
    projection = nn.ReLU if activation == "post" else lambda: None
    if FIELDS.entry(name_of(field)).facts.get("state") == "vector":
        raise SchemenetError(f"has images for states; field {name_of(field)!r} takes vectors")
    branch = field if "stride" in FIELDS.parameters(name_of(field)) else "basic"

    crosses = [i > 0 or out != entry for i, out in enumerate(entering_widths)]
    counts = list(steps) if steps is not None else [n - crossing for n, crossing in zip(blocks, crosses, strict=True)]
    total = sum(counts) + sum(crosses)
    on_branch = NOISES.build(noise)
    if on_branch.unsupported_reason(ForwardEuler()) is not None:
        on_branch = NOISES.build("none")  # a transition has one branch; noise that needs more leaves it alone

    stages: list[Stage] = []
    channels = entry
    remembered = False  # whether what precedes knows a state before the present one
    for i, (out, wide) in enumerate(zip(entering_widths, flow_widths, strict=True)):
        options: dict[str, Any] = {"order": activation, "norm": norm, "inner": inners[i]}
        stride = 1 if i == 0 else 2
        crossing: nn.Module | None = None
        past = remembered and not crosses[i]
        passed = sum(counts[:i]) + sum(crosses[:i])
        if crosses[i]:
            noisy = {"noise": on_branch, "blocks": Blocks(passed, total)}
            lead = not (normalised_stem and i == 0)
            if coupled_transitions:
                half, half_out = channels // components, out // components
                enter = FIELDS.build(branch, channels=half, out=half_out, stride=stride, lead=lead, **options)
                follow = FIELDS.build(branch, channels=half_out, out=half_out, **options)
                paths = tuple(shortcut(transition, half, half_out, stride, norm) for _ in range(2))
                crossing = CoupledTransition((enter, follow), (paths[0], paths[1]), **noisy)
            else:
                full = {**options, "inner": inners[i] * components}
                strided = FIELDS.build(branch, channels=channels, out=out, stride=stride, lead=lead, **full)
                path = shortcut(transition, channels, out, stride, norm)
                older = shortcut("C", channels, out, stride, norm) if history == "project" and remembered else None
                crossing = Transition(strided, path, projection(), history, older, **noisy)
                past = history == "shortcut" or older is not None

        def make(
            node: Node, i: int = i, width: int = wide // components, options: dict[str, Any] = options,
            first: bool = crossing is None,
        ) -> nn.Module:  # fmt: skip
            bare = normalised_stem and activation == "pre" and i == 0 and first and node.step == 0 and not shared
            bare = bare and (bare_entry == "all" or node.component == 0)
            return FIELDS.build(field, channels=width, out=width, lead=not bare, **options)

        flow = None
        if counts[i]:
            flow = Flow(
                make, counts[i], scheme, sharing, grid, gradient, statistics,
                past=int(past), projection=projection(),
                noise=noise, blocks=(passed + crosses[i], total),
            )  # fmt: skip
        stages.append(Stage(crossing, flow, augment))
        remembered = past or counts[i] > 0
        channels = wide
    finish = nn.Sequential(norm_layer(norm, channels), nn.ReLU()) if activation == "pre" else nn.Identity()
    flows = [stage.flow for stage in stages if stage.flow is not None]
    layout = layout_of(
        flows, widths=flow_widths, reductions=[REDUCTION[stem] * 2**i for i in range(len(flow_widths))], inner=inners,
        stem=stem_in_words(stem, entry, normalised_stem), norm=norm,
        norm_groups=groups_in_words(norm, [w // components for w in flow_widths]), scheme=name_of(scheme),
        field=name_of(field), gradient=name_of(gradient), noise=name_of(noise), augment=augment,
    )  # fmt: skip
    return Network(
        make_stem(stem, in_chans, entry, norm, normalised_stem), stages, finish, channels, num_classes, layout
    )
