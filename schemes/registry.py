"""One kind of registry for everything that a user can name. Nothing here imports torch."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from schemes.errors import SchemenetError, not_taken, unknown
from schemes.schema import REQUIRED, Parameter, Spec, objection, parameters_of

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """A registered callable under one of its names; ``preset`` holds what a name with a size fixes."""

    name: str
    target: Callable[..., Any]
    extends: str | None = None
    without: tuple[str, ...] = ()
    preset: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class Registry(Mapping[str, Callable[..., Any]]):
    """Names to callables, found by importing a module, or every module of a package and its folders, when first asked.

    ``register(name, *aliases, extends=None, without=(), sizes={}, **facts)`` is a decorator. ``extends`` names the
    entry whose parameters are taken as well, but for those in ``without`` (the callable hands its ``**options`` on);
    ``sizes`` maps further names to the parameters that they fix; anything else is kept as a fact about the entry.
    ``context`` names parameters that come from what is built around an entry and are not the user's to set. Modules
    in ``skip`` register nothing here and are not imported.
    """

    def __init__(self, kind: str, home: str, context: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> None:
        self.kind, self.home, self.context, self.skip = kind, home, context, skip
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        self._filled = False

    def register(
        self,
        name: str,
        *aliases: str,
        extends: str | None = None,
        without: tuple[str, ...] = (),
        sizes: Mapping[str, Mapping[str, Any]] | None = None,
        **facts: Any,
    ) -> Callable[[T], T]:
        def add(target: T) -> T:
            for key, preset in {name: {}, **(sizes or {})}.items():
                self._claim(key, target)
                self._entries[key] = Entry(key, target, extends, without, preset, facts)
            for alias in aliases:
                self._claim(alias, target)
                self._aliases[alias] = name
            return target

        return add

    def _claim(self, name: str, target: Callable[..., Any]) -> None:
        taken = self._entries.get(self._aliases.get(name, name))
        if taken is not None:
            raise SchemenetError(
                f"{self.kind} {name!r} of {target.__module__} is already taken by {taken.target.__module__}"
            )

    def _fill(self) -> None:
        if not self._filled:
            self._filled = True
            home = importlib.import_module(self.home)
            for module in pkgutil.walk_packages(getattr(home, "__path__", ()), f"{self.home}."):
                if module.name.rpartition(".")[2] not in self.skip:
                    importlib.import_module(module.name)

    def entry(self, name: str) -> Entry:
        """The entry of a name or alias; an unknown one is answered with the near and the known names."""
        self._fill()
        key = self._aliases.get(name, name)
        if key not in self._entries:
            known = sorted([*self._entries, *self._aliases])
            raise SchemenetError(unknown(self.kind, name, known))
        return self._entries[key]

    def canonical(self, name: str) -> str:
        return self.entry(name).name

    def aliases(self, name: str) -> list[str]:
        self._fill()
        return [alias for alias, target in self._aliases.items() if target == name]

    def list(self, pattern: str = "*") -> list[str]:
        """The names that match a shell pattern, numbers inside names in their natural order."""
        self._fill()
        found = fnmatch.filter(self._entries, pattern)
        return sorted(found, key=lambda n: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", n)])

    def parameters(self, name: str) -> dict[str, Parameter]:
        """What an entry takes: its own parameters and those of the entry that it extends."""
        entry = self.entry(name)
        inherited = self.parameters(entry.extends) if entry.extends is not None else {}
        return {k: p for k, p in inherited.items() if k not in entry.without} | parameters_of(entry.target)

    def options(self, name: str) -> dict[str, Parameter]:
        """The parameters of an entry that are the user's to set."""
        return {key: p for key, p in self.parameters(name).items() if key not in self.context}

    def check(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that the entry does not take or whose type is wrong, all of them in one message."""
        parameters, wrong = self.options(name), []
        for key, value in arguments.items():
            if key not in parameters:
                wrong.append(not_taken(f"{self.kind} {name!r}", key, parameters))
            elif (problem := objection(value, parameters[key].annotation)) is not None:
                wrong.append(f"{self.kind} {name!r}: {key} {problem}")
        if wrong:
            raise SchemenetError("\n".join(wrong))

    def check_spec(self, spec: Spec) -> tuple[str, dict[str, Any]]:
        """Name and arguments of a spec, refused where they are wrong."""
        asked = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        if not isinstance(name := asked.pop("name", None), str):
            raise SchemenetError(f"a {self.kind} is given by its name or by a mapping with 'name', got {spec!r}")
        self.check(name, asked)
        return name, asked

    def build(self, spec: Spec, **context: Any) -> Any:
        """Call the entry that ``spec`` names with its parameters and with what the context adds.

        ``spec`` is a name or a mapping with ``name``. A size's own parameters give way to the user's. Of the context,
        only what the entry takes is handed over.
        """
        name, asked = self.check_spec(spec)
        entry, parameters = self.entry(name), self.parameters(name)
        context = {key: value for key, value in context.items() if key in parameters}
        return entry.target(**{**context, **entry.preset, **asked})

    def built(self, choice: Any) -> Any:
        """What a name or a mapping describes, built; anything else is taken to be built already."""
        return self.build(choice) if isinstance(choice, str | Mapping) else choice

    def defaults(self, name: str) -> dict[str, Any]:
        """What the user's parameters of an entry are where nothing is said."""
        own = {p.name: p.default for p in self.options(name).values() if p.default is not REQUIRED}
        return {**own, **self.entry(name).preset}

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._entries or name in self._aliases

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self.entry(name).target

    def __iter__(self) -> Iterator[str]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())


SCHEMES = Registry("scheme", "schemes.methods")
GRIDS = Registry("grid", "schemes.integration")
GRADIENTS = Registry("gradient mode", "schemes.gradients")
NOISES = Registry("noise", "schemes.noise")


def single_step(scheme: Spec) -> dict[str, Any]:
    """A scheme's spec, with one substep a step where the user has not chosen: the method as the textbook has it."""
    spec = dict(scheme) if isinstance(scheme, Mapping) else {"name": scheme}
    one = {"substeps": 1} if "substeps" in SCHEMES.options(spec["name"]) else {}
    return {**one, **spec}
