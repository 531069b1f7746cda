"""Help of the commands, lists of everything that has a name, and completion of words. Nothing here imports torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning_modules.config.compose import CONFIGS, REFINABLE, REVISABLE, choices
from lightning_modules.config.options_table import description, options_table, type_in_words, unmarked, written_default
from lightning_modules.config.sections import SECTIONS, keys_of
from lightning_modules.config.static_registry import NO_GROUPS, REGISTRIES, static_registry
from lightning_modules.config.validate import AXES, KEYS, RECIPES, groups_of
from lightning_modules.config.yaml_text import read_yaml
from lightning_modules.text import aligned, terminal_width
from schemes.errors import SchemenetError, unknown


class Command(NamedTuple):
    """A command: what follows its name, what it does, an example, and its own options beside the keys."""

    arguments: str
    summary: str
    example: str
    options: tuple[tuple[str, str], ...] = ()


CONFIG_OPTIONS = (
    ("--config-dir FOLDER", "yaml files of your own, in folders by group: FOLDER/experiment/mine.yaml"),
    ("--import MODULE", "a module of yours that registers schemes, fields, networks or data sets"),
    ("--print-config", "print the config with every default, as yaml, and do nothing else"),
    ("--dry-run", "build everything, print sizes and costs, and train nothing"),
)
COMMANDS: Mapping[str, Command] = {
    "train": Command(
        "[GROUP=NAME] [KEY=VALUE] ...", "train one network", "schemenet train scheme=rk4 data=mnist", CONFIG_OPTIONS
    ),
    "compare": Command(
        "[GROUP=NAME] [KEY=VALUE] ...", "train several networks under one budget, and write an honest report",
        "schemenet compare networks=[rk2,reversible] budget=0.22M seeds=8",
        (
            *CONFIG_OPTIONS,
            ("--runs FOLDER...", "the report of runs that are there already; nothing is trained"),
            ("--baseline ARM", "with --runs: what the others are compared with"),
            ("--by KEY,...", "with --runs: the keys that make arms of the runs"),
            ("--out FOLDER", "with --runs: where the report is written"),
        ),
    ),
    "sweep": Command(
        "[FILE.yaml] [KEY=A,B,...] ...", "train every combination of values",
        "schemenet sweep scheme=heun,rk4 architecture.depth=20,32 'seed=range(5)'",
        (*CONFIG_OPTIONS, ("--wandb", "register a W&B sweep, whose agents train")),
    ),
    "eval": Command(
        "RUN [KEY=VALUE] ...", "test a trained network again, also under another scheme, grid or data",
        "schemenet eval RUN scheme=rk4 grid.steps=8", CONFIG_OPTIONS[1:2],
    ),
    "refine": Command(
        "RUN [KEY=VALUE] ...", "a trained network over other steps, and in another basis of its weights",
        "schemenet refine RUN architecture.steps=16 sharing=basis sharing.size=8", CONFIG_OPTIONS[1:2],
    ),
    "sample": Command(
        "RUN [n=1000] [seed=0] [out=FILE.csv]", "samples of a trained density, as csv or npy",
        "schemenet sample RUN n=1000 out=samples.csv", CONFIG_OPTIONS[1:2],
    ),
    "export": Command(
        "RUN OUT.onnx | OUT.pt2", "a trained network as a file for ONNX or torch.export",
        "schemenet export RUN network.onnx", CONFIG_OPTIONS[1:2],
    ),
    "control": Command(
        "PROBLEM [KEY=VALUE] ... [--out FILE]",
        "the best control of a problem, by gradients through the solver or by Pontryagin's principle",
        "schemenet control car problem.distance=2 method=successive_approximations",
        (("--out FILE", "the picture, .png, .pdf or .svg; the numbers go beside it, as csv"), *CONFIG_OPTIONS[1:2]),
    ),
    "figure": Command(
        "WHAT NAME... [--out FILE] [--size WxH] [--font PT]", "a picture of schemes, of runs or of a comparison",
        "schemenet figure order heun rk4",
    ),
    "list": Command(
        "[WHAT [NAME]]", "everything that has a name: data, experiments, fields, optimizers, ...",
        "schemenet list data mnist", CONFIG_OPTIONS[:2],
    ),
    "schemes": Command("[NAME]", "the schemes, or one with its equation", "schemenet schemes heun"),
    "models": Command("[PATTERN | NAME]", "the networks, or one with its options", "schemenet models 'lm_*'"),
    "completion": Command(
        "bash | zsh | fish", "the completion script of a shell", 'source <(schemenet completion bash)'
    ),
}  # fmt: skip
"""The commands in the order of the help."""

OF_RUNS: Mapping[str, str] = {
    "eval": f"An evaluation can change {', '.join(REVISABLE)}.",
    "refine": f"A refinement can change {', '.join(REFINABLE)}; of the architecture its options.",
}
"""The commands whose config is that of a trained run, and what they can change in it."""

KEY_HELP: Mapping[str, str] = {
    "seed": "of the initial weights, the order of the data, and augmentation",
    "folder": "of the run or comparison; null: below runs/, named by what is run; with / at its end: below it",
    "overwrite": "begin anew where the folder has a run",
    "start_from": "a run or checkpoint whose trained steps are inserted between those of this network",
    "imports": "modules of your own, as by --import",
    "callbacks": "such as [early_stopping] or [{name: early_stopping, patience: 10}]",
    "networks": "the networks to compare with the baseline: NAME, SCHEME:NAME, or a scheme's name for its own network",
    "controls": "networks that show whether the data separates architectures at all",
    "baseline": "what the others are compared with",
    "budget": "trainable parameters, such as 0.22M; or budget.kind, budget.target, budget.by ...; or null",
    "tune": "equal tuning on a validation split: tune.lr, tune.seeds, tune.validation, tune.max_epochs; or null",
    "seeds": "how many, or a list of them",
    "arms": "options of single networks: arms.NAME.KEY=VALUE",
    "statistics_batches": "training batches from which the statistics of batch norm are estimated for other nodes",
}
"""What the keys of the commands mean."""

LISTED = (*REGISTRIES, *NO_GROUPS)
"""What ``schemenet list`` reads from the registries."""
PLURALS = {"noise": "noises", "architecture": "architectures", "data": "data", "debug": "debug"}
OTHER_NAMES = {"models": "architecture", "networks": "architecture"}


def usage() -> str:
    """The help of ``schemenet`` alone."""
    width = terminal_width() or 120
    rows = [["command", "what it does"], *([name, command.summary] for name, command in COMMANDS.items())]
    return "\n".join(
        [
            "usage: schemenet COMMAND ...", "", aligned(rows, width), "",
            "schemenet COMMAND --help    its keys and options; with scheme=NAME and others also those of NAME",
            "schemenet list WHAT         names to choose from; --version the version",
        ]
    )  # fmt: skip


def command_help(name: str, words: Sequence[str] = ()) -> str:
    """The help of one command.

    Args:
        name: of the command.
        words: of the command line; of what ``GROUP=NAME`` among them chooses, the options are listed.
    """
    command, width = COMMANDS[name], terminal_width() or 120
    parts = [f"usage: schemenet {name} {command.arguments}", f"{_capital(command.summary)}, e.g.\n  {command.example}"]
    if name in KEYS:
        chosen = _chosen(name, words)
        if name in OF_RUNS:
            parts.append(OF_RUNS[name])
        else:
            groups = [*groups_of(name), *RECIPES]
            rows = [[group, chosen.get(group) or "-", _names_in_short(group)] for group in groups]
            parts.append(aligned([["group", "chosen", "names (schemenet list GROUP)"], *rows], width))
        rows = [[key, type_in_words(parameter), KEY_HELP[key]] for key, parameter in KEYS[name].items()]
        parts.append(aligned([["key", "type", "what it is"], *rows], width))
        for group, choice in _given(words).items():
            if group in REGISTRIES and choice in static_registry(group):
                parts.append(f"{group}={choice}\n\n{options_table(static_registry(group), choice, group, width)}")
            elif group in SECTIONS:
                rows = [
                    [f"{group}.{key}", type_in_words(p), written_default(p.default), p.meaning]
                    for key, p in keys_of(group).items()
                ]
                parts.append(aligned([["key", "type", "default", "what it is"], *rows], width))
    if command.options:
        parts.append(aligned([["option", "what it does"], *map(list, command.options)], width))
    return "\n\n".join(parts)


def list_names(words: Sequence[str], config_dir: str | None = None) -> str:
    """The text of ``schemenet list``.

    Args:
        words: nothing for what can be listed, a group or its plural, and a name or a pattern in it.
        config_dir: a folder with yaml files of the user's own.

    Raises:
        SchemenetError: for a group or a name that is not known.
    """
    width = terminal_width()
    groups = [*LISTED, *RECIPES]
    if not words:
        rows = [[_plural(group), str(len(choices(group, config_dir, aliases=False)))] for group in groups]
        return aligned([["schemenet list ...", "names"], *rows], width)
    what, *rest = words
    known = {_plural(group): group for group in groups} | {group: group for group in groups} | OTHER_NAMES
    if what not in known:
        raise SchemenetError(unknown("list", what, known))
    if len(rest) > 1:
        raise SchemenetError(f"list: expected at most one name, got {' '.join(rest)}")
    group = known[what]
    if rest:
        return _one(group, rest[0], config_dir, width)
    rows = [
        [name, *_aliases(group, name), _first_line(group, name, config_dir)] for name in _distinct(group, config_dir)
    ]
    head = [group, *(["also"] if group in LISTED else []), "what it is"]
    if len(head) > 2 and all(row[1] == "-" for row in rows):
        head, rows = [head[0], head[2]], [[row[0], row[2]] for row in rows]
    return aligned([head, *rows], width)


def completions(words: Sequence[str]) -> list[str]:
    """What the last word of a command line can become.

    Args:
        words: behind ``schemenet``; the last one is being written, and may be empty.
    """
    *before, last = words or [""]
    if not before:
        return _begins(last, COMMANDS)
    command = before[0]
    if command == "list":
        groups = {_plural(group): group for group in (*LISTED, *RECIPES)}
        return _begins(last, groups if len(before) == 1 else choices(groups.get(before[1], "scheme"), aliases=False))
    if command == "completion":
        return _begins(last, ("bash", "zsh", "fish"))
    if command in ("schemes", "models"):
        return _begins(last, static_registry({"schemes": "scheme", "models": "architecture"}[command]))
    if command not in KEYS or last.startswith("-"):
        return _begins(
            last, [option.split()[0] for option, _ in COMMANDS[command].options] if command in COMMANDS else ()
        )
    group, equals, _ = last.partition("=")
    if group in ("networks", "baseline") and equals:
        head = last[: max(map(last.rfind, "=[,")) + 1]
        return _begins(last, [f"{head}{name}" for part in ("architecture", "scheme") for name in choices(part)])
    if equals:
        names = choices(group, aliases=False) if group in (*REGISTRIES, *RECIPES) else ()
        return _begins(last, [f"{group}={name}" for name in names])
    group, dot, _ = last.partition(".")
    if dot and group in REGISTRIES:
        chosen = _chosen(command, before[1:]).get(group)
        return _begins(last, [f"{group}.{key}=" for key in static_registry(group).options(chosen)] if chosen else ())
    keys = [*groups_of(command), *RECIPES, *KEYS[command]]
    dotted = [f"{key}." for key in groups_of(command)]
    return _begins(last, [*(f"{key}=" for key in keys), *dotted])


SHELLS = {
    "bash": """_schemenet() {
  local IFS=$'\\n'
  COMPREPLY=($(schemenet complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o default -F _schemenet schemenet""",
    "zsh": """_schemenet() {
  local -a names
  names=("${(@f)$(schemenet complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n $names[1] ]]; then compadd -Q -S '' -- $names; else _files; fi
}
compdef _schemenet schemenet""",
    "fish": """complete -c schemenet -a '(schemenet complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'""",
}
"""Completion scripts; each calls ``schemenet complete``."""


def completion_script(shell: str) -> str:
    """The script that a shell reads: ``source <(schemenet completion bash)``."""
    if shell not in SHELLS:
        raise SchemenetError(unknown("shell", shell, SHELLS))
    return SHELLS[shell]


# Parts of these texts


def _chosen(command: str, words: Sequence[str]) -> dict[str, str]:
    """The choice of each group: the command's defaults, and those of the words."""
    chosen: dict[str, str] = {}
    for file in ("base",) if command in OF_RUNS else (command, "base"):
        content = read_yaml((CONFIGS / f"{file}.yaml").read_text(encoding="utf-8"), file)
        for entry in content.get("defaults", ()) if isinstance(content, dict) else ():
            if isinstance(entry, dict):
                chosen |= {group: name for group, name in entry.items() if name is not None and group not in chosen}
    chosen |= _given(words)
    if (network := chosen.get("architecture")) is not None and network in static_registry("architecture"):
        defaults = static_registry("architecture").defaults(network)
        brought = {axis: defaults[axis] for axis in AXES if axis in defaults and axis not in chosen}
        chosen |= {axis: spec if isinstance(spec, str) else spec["name"] for axis, spec in brought.items() if spec}
    return chosen


def _given(words: Sequence[str]) -> dict[str, str]:
    pairs = (word.partition("=")[::2] for word in words if "=" in word)
    return {group: name for group, name in pairs if group in (*REGISTRIES, *RECIPES, *SECTIONS)}


def _names_in_short(group: str) -> str:
    names = _distinct(group, None)
    text = ", ".join(names)
    if len(text) <= 60:
        return text
    shown = next(count for count in range(len(names), 0, -1) if len(", ".join(names[:count])) <= 60)
    return f"{', '.join(names[:shown])}, ... ({len(names)})"


def _distinct(group: str, config_dir: str | None) -> list[str]:
    """The choices of a group, sizes of a network left out."""
    names = choices(group, config_dir, aliases=False)
    if group != "architecture":
        return names
    registry = static_registry(group)
    return [name for name in names if name not in registry or registry.entry(name).family == name]


def _aliases(group: str, name: str) -> Iterator[str]:
    if group in LISTED:
        names = static_registry(group)
        sizes = [e.name for e in map(names.entry, names) if name in names and e.family == name and e.name != name]
        yield ", ".join([*names.aliases(name), *([*sizes[:2], "..."] if len(sizes) > 3 else sizes)]) or "-"


def _first_line(group: str, name: str, config_dir: str | None) -> str:
    if group in LISTED and name in static_registry(group):
        return _sentence(static_registry(group).entry(name).doc)
    return _sentence(_comment(group, name, config_dir))


def _comment(group: str, name: str, config_dir: str | None) -> str:
    """The comment at the top of a yaml file."""
    folders = [CONFIGS, *([Path(config_dir)] if config_dir else [])]
    path = next((f / group / f"{name}.yaml" for f in reversed(folders) if (f / group / f"{name}.yaml").exists()), None)
    lines = [] if path is None else path.read_text(encoding="utf-8", errors="replace").splitlines()
    top = itertools.takewhile(lambda line: line.startswith("#"), lines)
    comments = [line.lstrip("# ") for line in top if "@package" not in line]
    return "\n".join(comments)


def _sentence(text: str) -> str:
    """The first sentence of a docstring, without its markup."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return unmarked(re.split(r"(?<=[.;:]) (?=[A-Z`(])|; ", paragraph)[0]).rstrip(".;:")


def _one(group: str, name: str, config_dir: str | None, width: int | None) -> str:
    known = choices(group, config_dir)
    if name not in known:
        raise SchemenetError(unknown(group, name, known))
    if group in RECIPES or name not in static_registry(group):
        folders = [CONFIGS, *([Path(config_dir)] if config_dir else [])]
        paths = [folder / group / f"{name}.yaml" for folder in reversed(folders)]
        return next(path for path in paths if path.exists()).read_text(encoding="utf-8", errors="replace").rstrip()
    names = static_registry(group)
    table = options_table(names, name, group, width)
    return f"{names.canonical(name)}\n\n{description(names.entry(name).doc)}\n\n{table}"


def _plural(group: str) -> str:
    return PLURALS.get(group, f"{group}s")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _begins(word: str, names: Any) -> list[str]:
    return [name for name in names if name.startswith(word)]
