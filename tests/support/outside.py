"""Modules that register parts, as a user has them, and registries as they were afterwards."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from lightning_modules.config.static_registry import REGISTRIES
from schemes import plugins
from schemes.registry import Registry

PARTS = '''
from torch import nn
from schemenet import FIELDS, SCHEMES, Scheme


@SCHEMES.register("{name}", "{name}_alias")
class Theta(Scheme):
    """A midpoint rule."""

    order, stages = 2, 2

    def __init__(self, theta: float = 0.5):
        super().__init__()
        self.theta = theta

    def step(self, f, node, y, solver_state):
        half = y + node.h * self.theta * f(node, y)
        return y + node.h * f(node.at(1, self.theta), half), solver_state


@FIELDS.register("{name}_field")
class TanhOfConvolution(nn.Module):
    """tanh of a convolution, and the time."""

    def __init__(self, channels: int, gain: float = 1.0):
        super().__init__()
        self.conv, self.gain = nn.Conv2d(channels, channels, 3, padding=1), gain

    def forward(self, t, y):
        return self.gain * (self.conv(y) + t).tanh()
'''


def write_parts(folder: Path, name: str) -> None:
    """Write the module ``name``, with a scheme of that name and a field ``name_field``."""
    (folder / f"{name}.py").write_text(PARTS.replace("{name}", name), encoding="utf-8")


@contextlib.contextmanager
def restored_registries() -> Iterator[None]:
    """What is imported and registered from outside within this context is gone behind it."""
    registries: list[Registry] = [registry for _, registry in REGISTRIES.values()]
    before = {id(registry): {entry.name for entry in registry.outside} for registry in registries}
    modules = set(sys.modules)
    try:
        yield
    finally:
        for registry in registries:
            for entry in registry.outside:
                if entry.name == entry.family and entry.name not in before[id(registry)]:
                    for target in {entry.target.__module__} - modules:
                        sys.modules.pop(target, None)
                    registry.remove(entry.name)
        plugins.load_installed.cache_clear()
