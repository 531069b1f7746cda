"""The command ``schemenet``. Nothing heavy is imported before the words on the command line are checked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from schemes.errors import SchemenetError, nearest

USAGE = """schemenet COMMAND ...

  train    [GROUP=NAME] [KEY=VALUE] ...   train one network, e.g. schemenet train scheme=rk4 data=mnist
  compare  [GROUP=NAME] [KEY=VALUE] ...   train several under one parameter budget and write an honest report
  schemes  [NAME]                         the registry of schemes, or one with its equation
  models   [PATTERN | NAME]               the networks, or one with its options

Groups: architecture, scheme, field, grid, gradient, data, trainer, optimizer, logger, experiment, debug.
Keys of a group are set as trainer.max_epochs=2, scheme.k=zero, data.root=FOLDER, architecture.depth=32.
--config-dir FOLDER adds your own yaml files."""

COMMANDS = ("train", "compare", "schemes", "models", "run-file")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, or 2 for a mistake of the user's, told without a traceback."""
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except SchemenetError as error:
        print(f"schemenet: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nschemenet: interrupted; what is finished is kept", file=sys.stderr)
        return 130


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        raise SchemenetError(f"no command {command!r}{nearest(command, COMMANDS)} known: {', '.join(COMMANDS[:-1])}")
    if "-h" in rest or "--help" in rest:
        print(USAGE)
        return 0
    if command in ("schemes", "models"):
        return _list(command, rest)
    if command == "run-file":
        from lightning_modules.comparing.runner import run_file

        return run_file(Path(rest[0]))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir")
    known, overrides = parser.parse_known_args(rest)
    from lightning_modules.composing import compose

    config = compose(command, overrides, known.config_dir)
    if command == "train":
        return _train(config)
    from lightning_modules.comparing.runner import compare

    return compare(config, ["schemenet", *arguments])


def _train(config: dict) -> int:
    from lightning_modules.composing import writable

    if config["folder"]:
        writable(Path(config["folder"]))
    from lightning_modules import running

    _, network = running.dry_build(config)
    folder = Path(config["folder"] or Path("runs", "train", running.run_name(config)))
    if (folder / running.RESULT).exists() and not config["overwrite"]:
        print(f"done already: {folder / running.RESULT} (overwrite=true trains again)")
        return 0
    writable(folder)
    from architectures.ledger import parameters

    layout = network.layout
    print(f"{running.run_name(config)}: {parameters(network):,} parameters")
    print(", ".join(f"{key} {value}" for key, value in layout.items()))
    result = running.train(config, folder)
    error = "no number" if result["test_error"] is None else f"{100 * result['test_error']:.2f} %"
    print(f"test error {error} after {result['epochs']} epochs ({result['status']}); {folder}")
    return 0


def _list(command: str, rest: list[str]) -> int:
    from lightning_modules import tables

    if len(rest) > 1:
        raise SchemenetError(f"{command}: expected at most one name, got {' '.join(rest)}")
    print(getattr(tables, command)(*rest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
