"""Yaml from users and strangers: plain values, with every key once, and no more of them than were written.

PyYAML takes the last of two equal keys, builds lists that contain themselves, and lets a few aliases stand for billions
of values, which make every walk through them endless.
"""

from __future__ import annotations

from typing import Any

import yaml

from schemes.errors import SchemenetError

MOST_VALUES = 100_000
"""What a file may hold, each alias counted as what it stands for."""


def read_yaml(text: str, source: object) -> Any:
    """The content of a yaml text.

    Args:
        text: of a file or of a word of the command line.
        source: the name of the file, for messages.

    Raises:
        SchemenetError: where the text is no yaml, repeats a key, or has too many values.
    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if node is not None:
            _count(node, (), source, {})
        return yaml.safe_load(text)
    except RecursionError as error:
        raise SchemenetError(f"{source} cannot be read as yaml: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:  # a number of too many digits, a date that is none
        if isinstance(error, SchemenetError):
            raise
        reason = "a number has too many digits" if "digits" in str(error) else " ".join(str(error).split())
        raise SchemenetError(f"{source} cannot be read as yaml: {reason}") from error


def _count(node: yaml.Node, within: tuple[yaml.Node, ...], source: object, counted: dict[yaml.Node, int]) -> int:
    """The values in a node, itself included. Raises SchemenetError for too many, cycles and repeated keys."""
    if node in within:
        raise SchemenetError(f"{source}{_line(node)}: an alias stands for what contains it; write it out")
    if node in counted:
        return counted[node]
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in keys:
                raise SchemenetError(f"{source}{_line(key)}: the key {key.value!r} is given twice; leave one out")
            keys.add(str(key.value))
    total = 1 + sum(_count(part, (*within, node), source, counted) for part in parts)
    if total > MOST_VALUES:
        raise SchemenetError(f"{source}: its aliases stand for more than {MOST_VALUES:,} values; write them out")
    counted[node] = total
    return total


def _line(node: yaml.Node) -> str:
    return f", line {node.start_mark.line + 1}" if node.start_mark is not None else ""
