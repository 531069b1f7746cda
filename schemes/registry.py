"""One kind of registry for everything that a user can name. Nothing here imports torch."""

from __future__ import annotations

import copy
import fnmatch
import functools
import importlib
import inspect
import pkgutil
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard, TypeVar

from schemes.errors import Problems, SchemenetError, located, not_taken, unknown
from schemes.plugins import load_installed
from schemes.schema import REQUIRED, Parameter, Spec, objection, parameters_of, unreadable

PACKAGES = ("schemes", "architectures", "lightning_modules")
"""Where the entries of the registries are, but for those from outside."""

VALUES = ("null", "None", "true", "false", "yes", "no", "on", "off", "nan", "inf")
"""Words that a config reads as values, and so as no name."""

FILLING = threading.RLock()
"""Taken while a registry is filled: another thread would see a part of its entries."""

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
        doc: its docstring, indentation removed.
    """

    name: str
    family: str
    parameters: Mapping[str, Parameter]
    extends: str | None = None
    without: tuple[str, ...] = ()
    preset: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    target: Callable[..., Any] = field(default=not_imported, compare=False)
    doc: str = field(default="", compare=False)

    @property
    def outside(self) -> bool:
        """Whether it was registered by another package than this one: a plugin, a script or a notebook."""
        return self.target is not not_imported and self.target.__module__.partition(".")[0] not in PACKAGES


class Registry(Mapping[str, Callable[..., Any]]):
    """Names to callables, filled when first used.

    Args:
        kind: what an entry is called in messages.
        home: the module, or the package with its folders, that registers the entries.
        context: parameters that come from what is built around an entry and are not the user's to set.
        skip: modules of the home that register nothing and are not imported.
        fill: how the entries come in: by importing the home, or by reading its source without torch
            (``lightning_modules.config.static_registry``).
        builds: the class of what is built, as ``module.Class``, where entries from outside are held to it.
    """

    def __init__(
        self,
        kind: str,
        home: str,
        context: tuple[str, ...] = (),
        skip: tuple[str, ...] = (),
        fill: Callable[[Registry], None] | None = None,
        builds: str | None = None,
    ) -> None:
        self.kind, self.home, self.context, self.skip, self.builds = kind, home, context, skip, builds
        self._fill = fill or import_home
        self._entries: dict[str, Entry] = {}
        self._aliases: dict[str, str] = {}
        self._started = self._filled = False

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

        Raises:
            SchemenetError: for a name that no config could say.
        """
        problems = Problems(f"{self.kind} ")
        for key in (name, *aliases, *(sizes or {})):
            if not isinstance(key, str) or not re.fullmatch(r"[^\W\d][\w-]*", key) or {key, key.lower()} & {*VALUES}:
                problems.add(f"{key!r}: expected a name of letters, digits and _, as in register('my_part')")
        problems.raise_if_any()

        def add(target: T) -> T:
            self.add(
                name, *aliases, parameters=parameters_of(target), target=target, doc=inspect.getdoc(target) or "",
                extends=extends, without=without, sizes=sizes, facts=facts,
            )  # fmt: skip
            return target

        return add

    def add(
        self,
        name: str,
        *aliases: str,
        parameters: Mapping[str, Parameter],
        target: Callable[..., Any] = not_imported,
        doc: str = "",
        extends: str | None = None,
        without: tuple[str, ...] = (),
        sizes: Mapping[str, Mapping[str, Any]] | None = None,
        facts: Mapping[str, Any],
    ) -> None:
        """Add an entry with its aliases and sizes, see :meth:`register`."""
        presets = {name: {}, **(sizes or {})}
        entries = {
            key: Entry(key, name, parameters, extends, without, p, facts, target, doc) for key, p in presets.items()
        }
        if entries[name].outside:
            self._prepare_for_outside(entries)
        for key in (*presets, *aliases):
            taken = self._entries.get(self._aliases.get(key, key))
            if taken is not None:
                raise SchemenetError(
                    f"{self.kind} {key!r} of {target.__module__} is already taken by {taken.target.__module__}"
                )
        self._entries |= entries
        self._aliases |= dict.fromkeys(aliases, name)

    def _prepare_for_outside(self, entries: Mapping[str, Entry]) -> None:
        """Check an entry from outside, and make room for one that is defined anew, as in a notebook's cell."""
        self._ensure_filled()
        entry = next(iter(entries.values()))
        problems = Problems(f"{self.kind} {entry.name!r} of {entry.target.__module__}: ")
        parameters = dict(entry.parameters)
        if entry.extends in entries:
            problems.add(f"extends={entry.extends!r}: expected another entry than itself")
        elif entry.extends is not None:
            parameters = problems.attempt(lambda: self.parameters(str(entry.extends)), "extends: ") or {}
            parameters = {**parameters, **entry.parameters}
        problems.add(*unreadable(p for p in entry.parameters.values() if p.name not in self.context))
        for key, preset in ((size.name, size.preset) for size in entries.values()):
            problems.add(*(not_taken(f"size {key!r}", k, parameters) for k in preset if k not in parameters))
            problems.add(*unreadable(replace(parameters[k], default=preset[k]) for k in preset if k in parameters))
        problems.add(
            *(
                f"{p.name}: expected a parameter that can be given by its name; leave out the / behind it"
                for p in inspect.signature(entry.target).parameters.values()
                if p.kind is p.POSITIONAL_ONLY
            )
        )
        problems.raise_if_any()
        before = self._entries.get(entry.name)
        if before is not None and _place(before.target) == _place(entry.target):
            self.remove(entry.name)

    @property
    def outside(self) -> list[Entry]:
        """The entries that other packages have registered so far. Nothing is imported for it."""
        return [entry for entry in self._entries.values() if entry.outside]

    def take_over(self, other: Registry) -> None:
        """Add the entries that another registry of the same kind has from outside, with their aliases."""
        self._ensure_filled()
        entries = {entry.name: entry for entry in other.outside}
        self._entries |= entries
        self._aliases |= {alias: name for alias, name in other._aliases.items() if name in entries}

    def remove(self, name: str) -> None:
        """Take an entry out with its sizes and aliases, so that its name can be registered again."""
        family = self.entry(name).family
        self._entries = {key: entry for key, entry in self._entries.items() if entry.family != family}
        self._aliases = {alias: key for alias, key in self._aliases.items() if key in self._entries}

    def _ensure_filled(self) -> None:
        if self._filled:
            return
        with FILLING:
            if not self._started:  # what fills it registers entries, and comes here again
                self._started = True
                self._fill(self)
                load_installed()
                self._filled = True

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

    def parameters_of_choice(self, choice: Spec) -> dict[str, Parameter]:
        """The parameters of what a choice builds: none for an object."""
        if isinstance(choice, str | Mapping):
            return self.parameters(self.check_spec(choice)[0])
        return dict(self.entry_of(choice).parameters)

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
            raise SchemenetError(f"{self.kind}: expected a name, or a mapping with 'name', got {spec!r}")
        self.check(name, arguments)
        return name, arguments

    def entry_of(self, choice: Spec) -> Entry:
        """The entry of a choice: the registered one, checked, or one that describes a class, a function or an object.

        The facts of the latter are those of its attributes that have the names of facts.
        """
        if isinstance(choice, str | Mapping):
            return self.entry(self.check_spec(choice)[0])
        if isinstance(choice, type) and not issubclass(choice, self._base):
            raise SchemenetError(f"{self.kind} {choice.__name__!r}: expected a {self.builds}, got another class")
        if _is_maker(choice):
            return Entry(_name(choice), _name(choice), parameters_of(choice), target=choice)
        return Entry(type(choice).__name__, type(choice).__name__, {}, target=lambda: copy.deepcopy(choice))

    def build(self, spec: Spec, **context: Any) -> Any:
        """Call the target of an entry.

        Args:
            spec: a name, or a mapping with ``name`` and parameters; these come before what a size fixes. A class or a
                function is called with what it takes of the context; of an object that is built a copy is made.
            context: further arguments, of which the entry gets those that it takes.

        Raises:
            SchemenetError: for a wrong spec, or a class, function or object from outside that is no such part.
        """
        named, arguments = isinstance(spec, str | Mapping), {}
        if named:
            name, arguments = self.check_spec(spec)
            entry, parameters = self.entry(name), self.parameters(name)
        else:
            entry = self.entry_of(spec)
            parameters = entry.parameters
        context = {key: value for key, value in context.items() if key in parameters}
        lists = {key: p.default for key, p in entry.parameters.items() if isinstance(p.default, list | dict)}
        preset = copy.deepcopy(dict(entry.preset))  # what is recorded stays as it is
        given = {**copy.deepcopy(lists), **context, **preset, **arguments}
        if missing := [key for key, p in parameters.items() if p.default is REQUIRED and key not in given]:
            raise SchemenetError(
                f"{self.kind} {entry.name!r}: {', '.join(missing)} missing; give a value, or a default"
            )
        try:
            built = entry.target(**given)
        except SchemenetError:
            raise
        except Exception as error:
            if entry.outside or not named:  # a ValueError is how others object to a value; the rest are their mistakes
                reason = str(error) if isinstance(error, ValueError) else located(error)
                raise SchemenetError(f"{self.kind} {entry.name!r}: {reason}") from error
            raise
        if (entry.outside or not named) and not isinstance(built, self._base):
            raise SchemenetError(f"{self.kind} {entry.name!r}: expected a {self.builds}, got {type(built).__name__}")
        return built

    @property
    def _base(self) -> type:
        """The class of what is built."""
        module, _, name = (self.builds or "builtins.object").rpartition(".")
        return getattr(importlib.import_module(module), name)

    def built(self, choice: Any) -> Any:
        """What a name, a mapping or a class describes, built; anything else is taken to be built already."""
        return self.build(choice) if isinstance(choice, str | Mapping | type) else choice

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


def _is_maker(choice: Spec) -> TypeGuard[Callable[..., Any]]:
    """Whether a choice is to be called: a class or a function, and no module that happens to be callable."""
    return isinstance(choice, type | functools.partial) or inspect.isroutine(choice)


def _name(maker: Any) -> str:
    return _name(maker.func) if isinstance(maker, functools.partial) else maker.__name__


def _place(target: Any) -> tuple[str, str]:
    return target.__module__, target.__qualname__


def import_home(registry: Registry) -> None:
    """Fill a registry by importing its home, each module of which registers its entries."""
    home = importlib.import_module(registry.home)
    for module in pkgutil.walk_packages(getattr(home, "__path__", ()), f"{registry.home}."):
        if module.name.rpartition(".")[2] not in registry.skip:
            importlib.import_module(module.name)


SCHEMES = Registry("scheme", "schemes.methods", builds="schemes.core.scheme.Scheme")
"""Numerical schemes."""
GRIDS = Registry("grid", "schemes.integration", builds="schemes.integration.grid.Grid")
"""Grids: which steps a flow takes."""
GRADIENTS = Registry("gradient mode", "schemes.gradients", builds="schemes.gradients.base.GradientMode")
"""Gradient modes: what is kept for backward."""
SHARINGS = Registry("sharing", "schemes.sharing", builds="schemes.sharing.base.Sharing")
"""Sharings: which weights serve at which evaluation of f."""
NOISES = Registry("noise", "schemes.noise", builds="schemes.noise.base.Noise")
"""Noise on the steps of a network in training."""
CONTROL_PROBLEMS = Registry("control problem", "schemes.control", builds="schemes.control.problem.ControlProblem")
"""Control problems with a known solution."""
CONTROL_METHODS = Registry("control method", "schemes.control")
"""Methods that find the best control."""


def single_step(scheme: str | Mapping[str, Any]) -> dict[str, Any]:
    """A scheme's spec, with one substep a step where the user has not chosen: the method as the textbook has it."""
    spec = dict(scheme) if isinstance(scheme, Mapping) else {"name": scheme}
    one = {"substeps": 1} if "substeps" in SCHEMES.options(spec["name"]) else {}
    return {**one, **spec}
