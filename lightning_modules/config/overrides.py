"""Words of the command line: ``group=choice`` and ``key=value``, read by Hydra's grammar.

Where a key takes text only, such as a path, a word that the grammar rejects is taken literally.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from os import PathLike, fspath
from typing import Any

from lightning_modules.config.resolved import dotted
from lightning_modules.config.sections import SECTIONS, SHORT, keys_of
from lightning_modules.config.static_registry import REGISTRIES, static_registry
from lightning_modules.config.validate import ALIASES, AXES, KEYS, RECIPES
from schemes.errors import Problems, SchemenetError

LONGEST, DEEPEST = 10_000, 50
"""Characters of a word, and brackets within brackets: more would keep the grammar busy for minutes."""

TEXT = {"str", "str | None"}


def sort_words(words: Sequence[str], problems: Problems) -> tuple[dict[str, str], list[tuple[str, Any]]]:
    """The choices of groups, and the single values, of some words.

    Args:
        words: of the command line.
        problems: gets the mistakes.
    """
    groups: dict[str, str] = {}
    values: list[tuple[str, Any]] = []
    for word in words:
        if (parsed := problems.attempt(lambda word=word: _read(word))) is None:
            continue
        key, value = parsed
        if key not in (*REGISTRIES, *RECIPES):
            values.append((key, value))
        elif isinstance(value, str):
            groups[key] = value
        elif isinstance(value, Mapping) and isinstance(value.get("name"), str):
            groups[key] = value["name"]
            values += [(f"{key}.{option}", item) for option, item in value.items() if option != "name"]
        elif value is None and key in AXES:
            values.append((key, None))
        else:
            problems.add(f"{key}: expected one name, got {value!r}; parameters are set one by one, e.g. {key}.name=...")
    given = {key for key, _ in values}
    problems.add(
        *(f"{old} and {key} are one key; leave {old} out" for old, key in ALIASES.items() if {old, key} <= given)
    )
    return groups, [(ALIASES.get(key, key), value) for key, value in values]


def parse(word: str, example: str = "scheme=rk4 or trainer.max_epochs=2") -> Any:
    """Hydra's reading of one word.

    Args:
        word: ``key=value``.
        example: of what is expected, for the message.

    Raises:
        SchemenetError: with the word, what is expected and how text is quoted.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    shown = word if len(word) <= 80 else f"{word[:60]}... ({len(word):,} characters)"
    if len(word) > LONGEST or _depth(word) > DEEPEST:
        raise SchemenetError(
            f"cannot read {shown!r}: expected at most {LONGEST:,} characters, and {DEEPEST} brackets within brackets"
        )
    try:
        return OverridesParser.create().parse_override(word)
    except (HydraException, ValueError, RecursionError) as error:
        key, equals, value = word.partition("=")
        if isinstance(error, HydraException) and equals and key and len(word) <= 80:
            plain = quoted(value)
            hint = f"""; text with signs of the grammar is quoted, for the shell too: "{key}={plain}\""""
        else:
            hint = "; a number has too many digits" if type(error) is ValueError else ""
        raise SchemenetError(f"cannot read {shown!r}; expected key=value, e.g. {example}{hint}") from error


def quoted(text: str) -> str:
    """A text quoted for Hydra's grammar, with any characters."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"


def written(value: Any) -> str:
    """A value in Hydra's grammar: ``[1,2]``, ``null``, text in quotes where it has signs of the grammar."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}: {written(item)}' for key, item in value.items())}}}"
    if isinstance(value, PathLike):
        value = fspath(value)
    if isinstance(value, str) and (not value or set(value) & set(",[]{}()'\"=:#\\ ") or not value.isascii()):
        return quoted(value)
    return str(value)


def words_of(words: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """The words of the command line that stand for the arguments of a function.

    Args:
        words: such as ``scheme=rk4``.
        options: values by key; the keys of a group are a mapping, whose ``name`` is the choice.

    Raises:
        SchemenetError: for values that no command line and no config could hold.
    """
    problems = Problems()
    problems.add(*(f"expected words such as 'scheme=rk4', got {word!r}" for word in words if not isinstance(word, str)))
    problems.add(*(f"{key}: {reason}" for key, value in options.items() for reason in _not_plain(value)))
    problems.raise_if_any()
    words = list(words)
    for key, value in options.items():
        if not isinstance(value, Mapping):
            words.append(f"{key}={written(value)}")
            continue
        choice = {key: value["name"]} if key in REGISTRIES and "name" in value else {}
        rest = {name: item for name, item in value.items() if name != "name" or not choice}
        words += [f"{path}={written(item)}" for path, item in (*choice.items(), *dotted(rest, f"{key}."))]
    return words


def _not_plain(value: Any) -> Iterator[str]:
    """Objections to the classes and objects in a value: a run is recorded, and so made of names and plain data."""
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _not_plain(item)
    elif not isinstance(value, str | Number | PathLike | None):
        shown = value.__name__ if isinstance(value, type) else type(value).__name__
        yield (
            f"expected a name or plain data, got {'the class' if isinstance(value, type) else 'an object of'} {shown}; "
            "register its class and give the name, or build the network by create_model"
        )


def takes_text_only(key: str) -> bool:
    """Whether every choice of a key's group takes text under this key, and nothing else."""
    annotations = _annotations(key)
    return bool(annotations) and annotations <= TEXT


def _annotations(key: str) -> set[str]:
    """The annotations of a key, one for each kind of value that choices of its group take under it."""
    group, _, option = (key := ALIASES.get(key, key)).partition(".")
    if not option:
        return {keys[key].annotation for keys in KEYS.values() if key in keys}
    if group in SECTIONS:
        return {keys_of(group)[option].annotation} if option in keys_of(group) else set()
    if group not in REGISTRIES:
        return set()
    names = static_registry(group)
    options = (names.options(entry.name) for entry in names.families())
    return {taken[option].annotation for taken in options if option in taken}


def repeated(words: Sequence[str]) -> Iterator[str]:
    """Objections to keys that are given twice, in whatever form: which value is meant would be a guess."""
    first: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0].lstrip("+")
        key = ALIASES.get(key, key)
        key = f"{key}.name" if key in REGISTRIES else f"{key}.{SHORT[key]}" if key in SHORT else key
        if "=" in word and key in first:
            yield f"{first[key]} and {word}: one key is given twice; leave one of them out"
        first.setdefault(key, word)


def refuse_repeated(words: Sequence[str]) -> None:
    """Raise SchemenetError where words give a key twice."""
    problems = Problems()
    problems.add(*repeated(words))
    problems.raise_if_any()


def _read(word: str) -> tuple[str, Any]:
    """Key and plain value of a word."""
    key, _, text = word.partition("=")
    try:
        override = parse(word)
    except SchemenetError:
        if takes_text_only(key) and len(word) <= LONGEST:
            return key, text
        raise
    value = _plain(override.value())
    if takes_text_only(key) and not isinstance(value, str | None):
        return key, text
    if override.is_sweep_override() and any("Sequence[" in annotation for annotation in _annotations(key)):
        raise SchemenetError(f"{word!r}: a list is in brackets; write {key}=[{text}]")
    if override.is_delete() or override.is_sweep_override():
        raise SchemenetError(f"{word!r}: only key=value is understood here; several values are for `schemenet sweep`")
    return override.key_or_group, value


def _plain(value: Any) -> Any:
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _depth(word: str) -> int:
    deepest = depth = 0
    for sign in word:
        depth += (sign in "[{(") - (sign in "]})")
        deepest = max(deepest, depth)
    return deepest
