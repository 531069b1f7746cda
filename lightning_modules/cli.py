"""The command ``schemenet``. Torch is imported only after the command line is checked."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules import stopping
from lightning_modules.config.imports import import_for_command, split_imports
from lightning_modules.launching.multi_process import RANK, RankError, serve
from schemes.errors import SchemenetError, unknown

if TYPE_CHECKING:
    from lightning_modules.config.resolved import ResolvedConfig

USAGE = """schemenet COMMAND ...

  train    [GROUP=NAME] [KEY=VALUE] ...   train one network, e.g. schemenet train scheme=rk4 data=mnist
  compare  [GROUP=NAME] [KEY=VALUE] ...   train several under one parameter budget and write an honest report
  compare  --runs FOLDER... [--baseline ARM] [--by KEY,...] [--out FOLDER]
                                          the same report of runs that are there already; nothing is trained
  sweep    [FILE.yaml] [KEY=A,B,...] ...  train every combination of values, e.g. schemenet sweep scheme=heun,rk4
                                          architecture.depth=20,32 'seed=range(5)'; with --wandb as a W&B sweep
  eval     RUN [KEY=VALUE] ...            test a trained network again; one with shared weights also under another
                                          scheme or step count, e.g. schemenet eval RUN scheme=rk4 grid.steps=8
  schemes  [NAME]                         the registry of schemes, or one with its equation
  models   [PATTERN | NAME]               the networks, or one with its options
  sample   RUN [n=1000] [seed=0] [out=FILE.csv]
                                          samples of a trained density, as csv or npy
  figure   WHAT NAME... [--out FILE]  a picture of schemes or of runs; `schemenet figure --help` lists them

Groups: architecture, scheme, field, grid, gradient, noise, data, trainer, optimizer, logger, experiment, debug;
for compare and sweep also launcher.
Keys of a group are set as trainer.max_epochs=2, scheme.k=zero, data.root=FOLDER, architecture.depth=32.
--config-dir FOLDER adds your own yaml files; --import MODULE, for every command, your own schemes, fields, networks
and data sets."""

RUN_FILE = "run-file"  # what a comparison's own processes are started with
COMMANDS = ("train", "compare", "sweep", "eval", "schemes", "models", "sample", "figure")
FIGURE = ("figure", "plot")  # the second as the command was called before


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, or 2 for a mistake of the user, which is printed without a traceback."""
    _speak_plainly()
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that libraries begin import nothing from the current folder
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except SchemenetError as error:
        print(f"schemenet: {error}", file=sys.stderr)
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
    """Print warnings as one line without source code; SIGTERM and SIGHUP end the command like Ctrl-C."""
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
    if threading.current_thread() is threading.main_thread():
        stopping.handle(signal.default_int_handler)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if arguments[0] in ("--version", "version"):
        from importlib.metadata import version

        print(f"schemenet {version('schemenet')}")
        return 0
    command, *rest = arguments
    names, rest = split_imports(rest)
    imports = import_for_command(names)
    if command not in (*COMMANDS, *FIGURE, RUN_FILE, RANK):
        raise SchemenetError(unknown("command", command, COMMANDS))
    if command in FIGURE:
        from lightning_modules.plotting import command as plotting

        if "-h" in rest or "--help" in rest:
            print(plotting.USAGE)
            return 0
        from lightning_modules.comparing.report.figures.alone import KINDS

        return plotting.figure(rest, KINDS)
    if "-h" in rest or "--help" in rest:
        print(USAGE)
        return 0
    if command in ("schemes", "models"):
        return _list(command, rest)
    if command == "eval":
        return _eval(rest)
    if command == "sample":
        from lightning_modules.evaluation.sample import sample

        return sample(rest)
    if command == RUN_FILE:
        from lightning_modules.launching.job import run_file

        return run_file(rest)
    if command == RANK:
        return serve(Path(rest[0]))
    if command == "compare" and "--runs" in rest:
        from lightning_modules.comparing.from_runs import compare_runs

        return compare_runs(rest, shlex.join(["schemenet", *arguments]))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir")
    if command == "sweep":
        parser.add_argument("--wandb", action="store_true")
    known, overrides = parser.parse_known_args(rest)
    overrides += imports
    if command == "sweep":
        from lightning_modules.config.sweep_grid import compose_grid

        grid, configs = compose_grid(overrides, known.config_dir)
        from lightning_modules.comparing import sweep

        if known.wandb:
            return sweep.hand_to_wandb(grid, configs, known.config_dir)
        return sweep.sweep(grid, configs, ["schemenet", *arguments])
    from lightning_modules.config.compose import compose
    from lightning_modules.config.overrides import refuse_repeated

    refuse_repeated(overrides)
    config = compose(command, overrides, known.config_dir)
    if command == "train":
        return _train(config)
    from lightning_modules.comparing.run import compare

    return compare(config, ["schemenet", *arguments])


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
        print(f"{describe_error(result)} after {result['epochs']} epochs ({result['status']}); {folder}")
    return 0 if result["status"] == "done" else 1


def _eval(rest: list[str]) -> int:
    if not rest or ("=" in rest[0] and not Path(rest[0]).exists()):
        raise SchemenetError("eval: expected a run folder or a checkpoint first, e.g. schemenet eval runs/train/NAME")
    from lightning_modules.config.overrides import refuse_repeated

    refuse_repeated(rest[1:])
    from lightning_modules.evaluation.evaluate import describe, evaluate

    print(describe(evaluate(Path(rest[0]), rest[1:])))
    return 0


def _list(command: str, rest: list[str]) -> int:
    from lightning_modules.config.static_registry import static_registry

    if len(rest) > 1:
        raise SchemenetError(f"{command}: expected at most one name, got {' '.join(rest)}")
    names = static_registry({"schemes": "scheme", "models": "architecture"}[command])
    if rest and rest[0] not in names and not set(rest[0]) & set("*?["):
        raise SchemenetError(unknown(names.kind, rest[0], names.all_names()))
    from lightning_modules.config import listings as tables

    print(getattr(tables, command)(*rest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
