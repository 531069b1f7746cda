"""Schema: the typed signature of a registered entry says which parameters a user can set, and checks them.

So the signature of a registered class or function is user API: its parameters' names are keys of a config and words of
the command line, and its defaults are theirs. Annotations are kept as the source text that stands in the signature, so
that the same check serves a live function and one that was only read (``lightning_modules`` checks a config before
torch is imported). Therefore

- every parameter that a user can set has an annotation, made of the names in ``_WORDS`` alone;
- its default is a literal (a number, text, truth value, None, or a tuple of them), never a name or a call;
- a changed default changes what existing configs mean.
"""

from __future__ import annotations

import inspect
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Optional, Union, get_args, get_origin


class _AllButPlainData(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return not isinstance(instance, int | float | str | bytes | Sequence | Mapping | None)


class Part(metaclass=_AllButPlainData):
    """What Python code gives in place of a name: a class, a function, or an object that is built already.

    Every object is an instance, but for plain data.
    """


if TYPE_CHECKING:
    Spec = str | Mapping[str, Any] | object
else:
    Spec = str | Mapping[str, Any] | Part
"""A choice from a registry: a name, a mapping with ``name`` and parameters, or in Python code a :class:`Part`."""

LARGEST = 2**63
"""Whole numbers below it are what tensors, random generators and files can hold."""
LONGEST = 200  # characters of a value in a message

REQUIRED = inspect.Parameter.empty
_WORDS = {  # what an annotation may name
    "Any": Any, "Callable": Callable, "Literal": Literal, "Mapping": Mapping, "Sequence": Sequence, "Spec": Spec,
    "Optional": Optional, "Union": Union,
    **{kind.__name__: kind for kind in (int, float, bool, str, tuple, list, dict, object)},
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One parameter of an entry.

    Attributes:
        name: of the parameter.
        annotation: as text.
        default: ``REQUIRED`` where there is none.
        meaning: its description in the docstring, not compared.
    """

    name: str
    annotation: str
    default: Any = REQUIRED
    meaning: str = field(default="", compare=False)


@cache
def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The keyword parameters of a function or class; ``self`` and positional-only ones are left out.

    A class whose ``__init__`` takes ``**options`` passes them on to its base: it takes the base's parameters as well.
    """
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(function).parameters.values()
    bases = function.__mro__ if isinstance(function, type) else (function,)
    meanings = {k: m for base in reversed(bases) for k, m in meanings_in(inspect.cleandoc(base.__doc__ or "")).items()}
    parameters = {
        p.name: Parameter(p.name, _text(p.annotation), p.default, meanings.get(p.name, ""))
        for p in signature
        if p.kind in kinds
    }
    if isinstance(function, type) and any(p.kind is p.VAR_KEYWORD for p in signature) and function.__base__:
        return parameters | {k: p for k, p in parameters_of(function.__base__).items() if k not in parameters}
    return parameters


def meanings_in(doc: str) -> dict[str, str]:
    """The descriptions of parameters below ``Args:`` of a docstring whose indentation is removed."""
    block = re.search(r"^Args:\n(.*?)(?=\n\s*\n|\Z)", doc, re.DOTALL | re.MULTILINE)
    described = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", block[1] if block else "", re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "") for name, text in described}


def _text(annotation: Any) -> str:
    """An annotation as it stands in the source, also where the module does not postpone its evaluation."""
    if annotation is REQUIRED:
        return "Any"
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation).replace("typing.", "")


def unreadable(parameters: Iterable[Parameter]) -> list[str]:
    """Objections to parameters that no config could set: an annotation of other names, or a default that does not fit.

    The parameters of this package's entries are read from the source, which a test holds to the same rule.
    """
    objections = []
    for parameter in parameters:
        name, default = parameter.name, parameter.default
        problem = None
        try:
            problem = objection(None if default is REQUIRED else default, parameter.annotation)
        except Exception:  # the text of an annotation fails in any way
            objections.append(
                f"{name}: expected an annotation made of {', '.join(_WORDS)}, got {parameter.annotation!r}"
            )
        if default is not REQUIRED and not _is_literal(default):
            objections.append(f"{name}: expected a literal for its default, such as 1.0 or None, got {default!r}")
        elif default is not REQUIRED and problem is not None:
            objections.append(f"{name}: its default does not fit its annotation {parameter.annotation!r}: {problem}")
    return objections


def _is_literal(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_literal(item) for key, item in value.items())
    if isinstance(value, tuple | list):
        return all(map(_is_literal, value))
    return value is None or isinstance(value, str | int | float)


def objection(value: Any, annotation: str) -> str | None:
    """What is wrong with ``value`` where ``annotation`` is expected, as ``expected ..., got ...``; None if it fits."""
    expected = eval(annotation, {"__builtins__": {}}, _WORDS)
    if _fits(value, expected):
        return None
    shown = repr(value)
    if len(shown) > LONGEST:
        shown = f"{shown[:60]}... ({len(shown):,} characters)"
    if isinstance(value, int) and abs(value) >= LARGEST:
        shown += ", which is beyond 2^63"
    return f"expected {_describe(expected)}, got {shown}"


def _fits(value: Any, expected: Any) -> bool:
    origin: Any = get_origin(expected)
    arguments = list(get_args(expected))
    if expected is Any or expected is object:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in arguments)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if (origin or expected) in (tuple, list, Sequence):
        entry = arguments[0] if arguments else Any
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(v, entry) for v in value)
    if expected is None or expected is types.NoneType:
        return value is None
    if expected is float:
        return _fits(value, int) or (isinstance(value, float) and not math.isnan(value))
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
    return isinstance(value, origin or expected)


def _describe(expected: Any) -> str:
    origin: Any = get_origin(expected)
    arguments = list(get_args(expected))
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments if option is not Part)  # none in a config
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments)) if len(arguments) > 1 else repr(arguments[0])
    if (origin or expected) in (tuple, list, Sequence):
        return "a list [...]" + (f", each entry {_describe(arguments[0])}" if arguments else "")
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        types.NoneType: "null",
        Mapping: "a mapping",
    }
    return names.get(expected) or names.get(origin) or str(expected)
