"""The command ``schemenet``. Torch is imported only after the command line is checked."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules import stopping
from lightning_modules.config.imports import OPTION, import_for_command, split_imports
from lightning_modules.launching.multi_process import RANK, RankError, serve
from lightning_modules.text import fitted, plural, printable, terminal_width, waiting
from schemes.errors import Problems, SchemenetError, not_taken, unknown
from schemes.plugins import is_installed

if TYPE_CHECKING:
    from lightning_modules.config.resolved import ResolvedConfig

RUN_FILE, FORK_SERVER = "run-file", "fork-server"  # what a comparison's own processes are started with
COMPLETE = "complete"  # what a shell's completion calls
FIGURE = ("figure", "plot")  # the second as the command was called before
HELP = ("-h", "--help")
LONGEST_LINE = 100_000  # characters of a message
FIGURES = {
    "classification": "spectrum", "regression": "spectrum", "density": "density", "energy": "density",
    "trajectory": "field", "series": "series",
}  # fmt: skip
"""A figure of a trained network of each task."""
OF_STEPS = ("spectrum", "field")
"""Those of a network whose flows have steps."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, or 2 for a mistake of the user, which is printed without a traceback."""
    _speak_plainly()
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that libraries begin import nothing from the current folder
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except SchemenetError as error:  # what it quotes may come from anywhere
        lines = (printable(line, LONGEST_LINE) for line in str(error).split("\n"))
        print("schemenet:", "\n".join(lines), file=sys.stderr)
        return 1 if isinstance(error, RankError) else 2
    except BrokenPipeError:  # who reads has enough of it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest is flushed to
        return 0
    except OSError as error:  # what the file system refuses, wherever that was
        print(f"schemenet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nschemenet: interrupted; the same command resumes", file=sys.stderr)
        return 130


def _speak_plainly() -> None:
    """Print warnings as one line without source code; SIGTERM and SIGHUP end the command like Ctrl-C.

    Text that the output cannot encode is escaped, and a stream that the shell has closed leads nowhere.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
    if threading.current_thread() is threading.main_thread():
        stopping.handle(signal.default_int_handler)


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == [RANK]:
        return serve(Path(arguments[1]))
    from lightning_modules import help

    if not arguments or arguments[0] in (*HELP, "help"):
        print(fitted(help.usage(), terminal_width()))
        return 0
    if arguments[0] in ("--version", "version"):
        from importlib.metadata import version

        print(f"schemenet {version('schemenet')}")
        return 0
    command, *rest = arguments
    if command == RUN_FILE:
        from lightning_modules.launching.job import run_file

        return run_file(rest)
    if command == FORK_SERVER:
        from lightning_modules.launching import fork_server

        return fork_server.serve()
    if command == COMPLETE:
        print("\n".join(help.completions(rest)))
        return 0
    if command.startswith("-"):
        after = "options come after the command, e.g. schemenet train --import my_parts"
        raise SchemenetError(f"{unknown('option', command, [*HELP, '--version'])}; {after}")
    if command not in (*help.COMMANDS, *FIGURE):
        raise SchemenetError(unknown("command", command, help.COMMANDS))
    names, rest = split_imports(rest)
    if command not in FIGURE:  # which reads its own
        _check_options(command, rest, [option.split()[0] for option, _ in help.COMMANDS[command].options])
    imports = import_for_command(names)
    if set(HELP) & set(rest):
        print(fitted(_help(command, [word for word in rest if word not in HELP]), terminal_width()))
        return 0
    return COMMANDS[command](rest, imports, arguments)


def _check_options(command: str, rest: list[str], options: list[str]) -> None:
    """Raise SchemenetError for words that look like options and are none of the command's."""
    known = list(dict.fromkeys([*options, OPTION, *HELP]))
    names = [word.partition("=")[0] for word in rest if word.startswith("--")]
    problems = Problems()
    problems.add(*(not_taken(command, name, known) for name in names if name not in known))
    problems.raise_if_any()


def _help(command: str, words: list[str]) -> str:
    from lightning_modules import help

    if command in FIGURE:
        from lightning_modules.plotting import command as plotting

        return plotting.USAGE
    return help.command_help(command, words)


def _config_options(rest: list[str], *flags: str) -> tuple[argparse.Namespace, list[str]]:
    """The options of a command that composes a config, and its other words."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir")
    for flag in ("--print-config", "--dry-run", *flags):
        parser.add_argument(flag, action="store_true")
    return parser.parse_known_args(rest)


def _import_torch() -> None:
    """Import what takes seconds, and say so; done when the words of a command are checked."""
    with waiting("importing PyTorch and Lightning"):
        importlib.import_module("pytorch_lightning")


def _train_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    from lightning_modules.config.compose import compose
    from lightning_modules.config.overrides import refuse_repeated

    options, words = _config_options(rest)
    refuse_repeated(words)
    config = compose("train", [*words, *imports], options.config_dir)
    if options.print_config:
        return _print_config(config.complete)
    _import_torch()
    if options.dry_run:
        from lightning_modules.comparing.plan import describe_network

        print(describe_network(config))
        return 0
    return _train(config)


def _compare_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    if "--runs" in rest:
        _import_torch()
        from lightning_modules.comparing.from_runs import compare_runs

        return compare_runs(rest, shlex.join(["schemenet", *arguments]))
    from lightning_modules.config.compose import compose
    from lightning_modules.config.overrides import refuse_repeated

    options, words = _config_options(rest)
    refuse_repeated(words)
    config = compose("compare", [*words, *imports], options.config_dir)
    if options.print_config:
        return _print_config(dict(config))
    _import_torch()
    if options.dry_run:
        from lightning_modules.comparing.plan import make_plan

        print(make_plan(config).sizes_table())
        return 0
    from lightning_modules.comparing.run import compare

    return compare(config, ["schemenet", *arguments])


def _sweep_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    from lightning_modules.config.sweep_grid import compose_grid

    options, words = _config_options(rest, "--wandb")
    grid, configs = compose_grid([*words, *imports], options.config_dir)
    if options.print_config:
        return _print_config({name: config.complete for name, config in configs.items()})
    _import_torch()
    from lightning_modules.comparing import sweep

    if options.dry_run:
        print(sweep.planned(grid, configs).sizes_table())
        return 0
    if options.wandb:
        return sweep.hand_to_wandb(grid, configs, options.config_dir)
    return sweep.sweep(grid, configs, ["schemenet", *arguments])


def _print_config(config: dict[str, Any]) -> int:
    import yaml

    print(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120), end="")
    return 0


def _sample_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    _import_torch()
    from lightning_modules.evaluation.sample import sample

    return sample(rest)


def _export_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    _import_torch()
    from lightning_modules.evaluation.export import export_command

    return export_command(rest)


def _figure_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    from lightning_modules.comparing.report.figures.alone import KINDS
    from lightning_modules.plotting import command as plotting

    return plotting.figure(rest, KINDS)


def _control_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    from lightning_modules.plotting.control_command import control

    return control(rest)


def _list_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    from lightning_modules import help

    options, words = _config_options(rest)
    print(fitted(help.list_names(words, options.config_dir), terminal_width()))
    return 0


def _completion_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    from lightning_modules import help

    print(help.completion_script(rest[0] if rest else ""))
    return 0


def _train(config: ResolvedConfig) -> int:
    from lightning_modules.commands import train_config
    from lightning_modules.machine import process_rank
    from lightning_modules.storage.run_files import RESULT
    from lightning_modules.training.run_folder import FAILED, describe_error

    first = process_rank() == 0  # of the processes that torchrun or srun has begun
    new, folder, result = train_config(config, lambda line: print(line, flush=True) if first else None)
    if not new:
        print(f"done already: {folder / RESULT} (overwrite=true trains again)")
        return 0
    if "reason" in result:
        remedy = "; with a higher limit the same command resumes" if result["status"] == FAILED else ""
        print(f"schemenet: {result['status']} {result['reason']}{remedy}; {folder}", file=sys.stderr)
        return 1
    if first:
        epochs = plural(result["epochs"], "epoch")
        print(f"{describe_error(result)} after {epochs} ({result['status']}); {folder}")
        print(f"next: {'; '.join(_next_commands(config, folder, result))}")
    return 0 if result["status"] == "done" else 1


def _next_commands(config: ResolvedConfig, folder: Path, result: dict[str, Any]) -> list[str]:
    """What can be done with a run that is done: its test by ``eval``, and a figure where it has one."""
    from lightning_modules.metrics import task_of
    from lightning_modules.storage.run_files import BEST_CHECKPOINT

    commands = {"eval": folder / BEST_CHECKPOINT if result.get("chosen") else folder}
    figure, layout = FIGURES[task_of(config["data"]["name"])], result["layout"]
    if figure not in OF_STEPS or (layout["steps"] and layout["sharing"] != "per_stage"):
        commands[f"figure {figure}"] = folder
    imports = [f"--import {name}" for name in config.get("imports", ()) if not is_installed(name)]
    return [" ".join(["schemenet", name, shlex.quote(str(of)), *imports]) for name, of in commands.items()]


def _eval_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    if not rest or ("=" in rest[0] and not Path(rest[0]).exists()):
        raise SchemenetError("eval: expected a run folder or a checkpoint first, e.g. schemenet eval runs/train/NAME")
    from lightning_modules.config.overrides import refuse_repeated

    refuse_repeated(rest[1:])
    _import_torch()
    from lightning_modules.evaluation.evaluate import describe, evaluate

    print(describe(evaluate(Path(rest[0]), rest[1:])))
    return 0


def _refine_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    if not rest or ("=" in rest[0] and not Path(rest[0]).exists()):
        raise SchemenetError(
            "refine: expected a run folder or a checkpoint first, e.g. schemenet refine runs/train/NAME"
        )
    from lightning_modules.config.overrides import refuse_repeated

    refuse_repeated(rest[1:])
    _import_torch()
    from lightning_modules.evaluation.refine import describe, refine_run

    print(describe(refine_run(Path(rest[0]), rest[1:])))
    return 0


def _registry_command(rest: list[str], imports: list[str], arguments: list[str]) -> int:
    command = arguments[0]
    from lightning_modules.config.static_registry import static_registry

    if len(rest) > 1:
        raise SchemenetError(f"{command}: expected at most one name, got {' '.join(rest)}")
    names = static_registry({"schemes": "scheme", "models": "architecture"}[command])
    if rest and rest[0] not in names and not set(rest[0]) & set("*?["):
        raise SchemenetError(unknown(names.kind, rest[0], names.all_names()))
    from lightning_modules.config import listings as tables

    print(fitted(getattr(tables, command)(*rest), terminal_width()))
    return 0


COMMANDS: dict[str, Callable[[list[str], list[str], list[str]], int]] = {
    "train": _train_command,
    "compare": _compare_command,
    "sweep": _sweep_command,
    "eval": _eval_command,
    "refine": _refine_command,
    "sample": _sample_command,
    "export": _export_command,
    "figure": _figure_command,
    "plot": _figure_command,
    "control": _control_command,
    "list": _list_command,
    "schemes": _registry_command,
    "models": _registry_command,
    "completion": _completion_command,
}
"""Each gets its words, the word that names imported modules, and the whole command line."""


if __name__ == "__main__":
    sys.exit(main())
