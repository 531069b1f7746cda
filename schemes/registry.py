"""One kind of registry for everything that a user can name. Nothing here imports torch."""

from __future__ import annotations

import fnmatch
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from schemes.errors import Problems, SchemenetError, not_taken, unknown
from schemes.schema import REQUIRED, Parameter, Spec, objection, parameters_of

T = TypeVar("T", bound=Callable[..., Any])


def not_imported(*_: Any, **__: Any) -> Any:
    """The target of an entry that was read from the source: it cannot be called."""
    raise SchemenetError("this entry was read from the source and cannot be built; import its module first")


@dataclass(frozen=True)
class Entry:
    """What is registered under one name.

    Attributes:
        name: the name; a size (``resnet20`` of ``resnet``) has an entry of its own.
        family: the name that was registered with it: its own, or the one that it is a size of.
        parameters: the target's own parameters by their names.
        extends: the entry whose parameters are taken as well.
        without: those of them that are not.
        preset: the parameters that a size fixes.
        facts: what else the registration says.
        target: what builds it. Not compared: an entry that was read has none.
    """

    name: str
    family: str
    parameters: Mapping[str, Parameter]
    extends: str | None = None
    without: tuple[str, ...] = ()
    preset: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    target: Callable[..., Any] = field(default=not_imported, compare=False)


class Registry(Mapping[str, Callable[..., Any]]):
    """Names to callables, filled when first used.

    Args:
        kind: what an entry is called in messages.
        home: the module, or the package with its folders, that registers the entries.
        context: parameters that come from what is built around an entry and are not the user's to set.
        skip: modules of the home that register nothing and are not imported.
        fill: how the entries come in: by importing the home, or by reading its source without torch
            (``lightning_modules.config.static_registry``).
    """

    def __init__(
        self,
        kind: str,
        home: str,
        context: tuple[str, ...] = (),
        skip: tuple[str, ...] = (),
        fill: Callable[[Registry], None] | None = None,
    ) -> None:
        self.kind, self.home, self.context, self.skip = kind, home, context, skip
        self._fill = fill or import_home
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
        """A decorator that registers a callable.

        Args:
            name: its name.
            aliases: other names for the same entry.
            extends: the entry whose parameters are taken as well (the callable passes its ``**options`` on).
            without: parameters of that entry that are not taken.
            sizes: further names, and the parameters that each of them fixes.
            facts: anything else, kept with the entry.
        """

        def add(target: T) -> T:
            self.add(
                name, *aliases, parameters=parameters_of(target), target=target, extends=extends, without=without,
                sizes=sizes, facts=facts,
            )  # fmt: skip
            return target

        return add

    def add(
        self,
        name: str,
        *aliases: str,
        parameters: Mapping[str, Parameter],
        target: Callable[..., Any] = not_imported,
        extends: str | None = None,
        without: tuple[str, ...] = (),
        sizes: Mapping[str, Mapping[str, Any]] | None = None,
        facts: Mapping[str, Any],
    ) -> None:
        """Add an entry with its aliases and sizes, see :meth:`register`."""
        presets = {name: {}, **(sizes or {})}
        for key in (*presets, *aliases):
            taken = self._entries.get(self._aliases.get(key, key))
            if taken is not None:
                raise SchemenetError(
                    f"{self.kind} {key!r} of {target.__module__} is already taken by {taken.target.__module__}"
                )
        for key, preset in presets.items():
            self._entries[key] = Entry(key, name, parameters, extends, without, preset, facts, target)
        self._aliases |= dict.fromkeys(aliases, name)

    def remove(self, name: str) -> None:
        """Take an entry out with its sizes and aliases, so that its name can be registered again."""
        family = self.entry(name).family
        self._entries = {key: entry for key, entry in self._entries.items() if entry.family != family}
        self._aliases = {alias: key for alias, key in self._aliases.items() if key in self._entries}

    def _ensure_filled(self) -> None:
        if not self._filled:
            self._filled = True
            self._fill(self)

    def entry(self, name: str) -> Entry:
        """The entry of a name or alias; an unknown one is answered with the near and the known names."""
        self._ensure_filled()
        key = self._aliases.get(name, name)
        if key not in self._entries:
            raise SchemenetError(unknown(self.kind, name, self.all_names()))
        return self._entries[key]

    def canonical(self, name: str) -> str:
        """The name that an alias stands for; any other name is its own."""
        return self.entry(name).name

    def aliases(self, name: str) -> list[str]:
        """The other names of an entry."""
        self._ensure_filled()
        return [alias for alias, target in self._aliases.items() if target == name]

    def all_names(self) -> list[str]:
        """Every name with every alias, sorted."""
        self._ensure_filled()
        return sorted([*self._entries, *self._aliases])

    def families(self) -> list[Entry]:
        """The entries without their sizes, in the order of their registration."""
        self._ensure_filled()
        return [entry for entry in self._entries.values() if entry.name == entry.family]

    def list(self, pattern: str = "*") -> list[str]:
        """The names that match a shell pattern, numbers inside names in their natural order."""
        self._ensure_filled()
        return sorted(
            fnmatch.filter(self._entries, pattern),
            key=lambda n: [int(x) if x.isdigit() else x for x in re.split(r"(\d+)", n)],
        )

    def parameters(self, name: str) -> dict[str, Parameter]:
        """The parameters of an entry: its own and those of the entry that it extends."""
        entry = self.entry(name)
        inherited = self.parameters(entry.extends) if entry.extends is not None else {}
        return {k: p for k, p in inherited.items() if k not in entry.without} | dict(entry.parameters)

    def options(self, name: str) -> dict[str, Parameter]:
        """The parameters of an entry that are the user's to set."""
        return {key: p for key, p in self.parameters(name).items() if key not in self.context}

    def check(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that the entry does not take or whose type is wrong, all of them in one message."""
        parameters, problems = self.options(name), Problems()
        for key, value in arguments.items():
            if key not in parameters:
                problems.add(not_taken(f"{self.kind} {name!r}", key, parameters))
            elif (problem := objection(value, parameters[key].annotation)) is not None:
                problems.add(f"{self.kind} {name!r}: {key} {problem}")
        problems.raise_if_any()

    def check_spec(self, spec: Spec) -> tuple[str, dict[str, Any]]:
        """The name and the arguments of a spec. Raises SchemenetError where they are wrong."""
        arguments = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
        if not isinstance(name := arguments.pop("name", None), str):
            raise SchemenetError(f"a {self.kind} is given by its name or by a mapping with 'name', got {spec!r}")
        self.check(name, arguments)
        return name, arguments

    def build(self, spec: Spec, **context: Any) -> Any:
        """Call the target of an entry.

        Args:
            spec: a name, or a mapping with ``name`` and parameters; these come before what a size fixes.
            context: further arguments, of which the entry gets those that it takes.
        """
        name, arguments = self.check_spec(spec)
        entry, parameters = self.entry(name), self.parameters(name)
        context = {key: value for key, value in context.items() if key in parameters}
        return entry.target(**{**context, **entry.preset, **arguments})

    def built(self, choice: Any) -> Any:
        """What a name or a mapping describes, built; anything else is taken to be built already."""
        return self.build(choice) if isinstance(choice, str | Mapping) else choice

    def defaults(self, name: str) -> dict[str, Any]:
        """The defaults of the parameters of an entry that are the user's to set."""
        defaults = {p.name: p.default for p in self.options(name).values() if p.default is not REQUIRED}
        return {**defaults, **self.entry(name).preset}

    def __contains__(self, name: object) -> bool:
        self._ensure_filled()
        return isinstance(name, str) and (name in self._entries or name in self._aliases)

    def __getitem__(self, name: str) -> Callable[..., Any]:
        return self.entry(name).target

    def __iter__(self) -> Iterator[str]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self.list())


def import_home(registry: Registry) -> None:
    """Fill a registry by importing its home, each module of which registers its entries."""
    home = importlib.import_module(registry.home)
    for module in pkgutil.walk_packages(getattr(home, "__path__", ()), f"{registry.home}."):
        if module.name.rpartition(".")[2] not in registry.skip:
            importlib.import_module(module.name)


SCHEMES = Registry("scheme", "schemes.methods")
GRIDS = Registry("grid", "schemes.integration")
GRADIENTS = Registry("gradient mode", "schemes.gradients")
NOISES = Registry("noise", "schemes.noise")


def single_step(scheme: Spec) -> dict[str, Any]:
    """A scheme's spec, with one substep a step where the user has not chosen: the method as the textbook has it."""
    spec = dict(scheme) if isinstance(scheme, Mapping) else {"name": scheme}
    one = {"substeps": 1} if "substeps" in SCHEMES.options(spec["name"]) else {}
    return {**one, **spec}
