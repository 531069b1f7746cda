"""A grid as a W&B sweep: the server distributes its points to agents, which run ``schemenet train``."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from lightning_modules.config.sweep_grid import Grid
from lightning_modules.storage.atomic_files import whole, writable

SWEEP = "sweep.yaml"


def begin(
    grid: Grid,
    folder: Path,
    metric: str,
    *,
    project: str | None = None,
    entity: str | None = None,
    config_dir: str | None = None,
) -> int:
    """Write ``sweep.yaml``, register it with W&B's server where one is reached, and print the next command.

    Args:
        grid: the keys with several values.
        folder: for ``sweep.yaml`` and the runs.
        metric: the column of the metrics that judges a run.
        project: W&B's project; None for the default.
        entity: W&B's entity; None for the user's.
        config_dir: the user's folder of configs.

    Returns:
        The exit status: 1 where no server was reached, else 0.
    """
    import yaml

    from lightning_modules.loggers.wandb import project as named
    from lightning_modules.loggers.wandb import settled_mode

    project = named(project)
    sweep = document(grid, folder, project, metric, config_dir)
    writable(folder)
    with whole(folder / SWEEP) as file:
        file.write(yaml.safe_dump(sweep, sort_keys=False, allow_unicode=True).encode())
    mode, why = settled_mode(None)
    if mode != "online":
        print(
            f"a W&B sweep needs W&B's server, but W&B {why or f'is {mode} by WANDB_MODE'}; it is written, and "
            f"`wandb sweep --project {project} {folder / SWEEP}` begins it"
        )
        return 1
    import wandb

    id = wandb.sweep(sweep, entity=entity, project=project)  # prints its address
    points = math.prod(len(values) for values in grid.axes.values())
    place = "/".join(filter(None, (entity or os.environ.get("WANDB_ENTITY"), project, id)))
    print(f"{points} runs; on every machine that is to train, as often as it has room: wandb agent {place}")
    return 0


def document(grid: Grid, folder: Path, project: str, metric: str, config_dir: str | None = None) -> dict[str, Any]:
    """The sweep in W&B's format; arguments as for :func:`begin`. Runs resume from their folders below ``folder``."""
    kept = [word for word in grid.fixed if not _is_of_a_whole_sweep(word.partition("=")[0])]
    place = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    return {
        "name": folder.name,
        "project": project,
        "method": "grid",
        "metric": {"name": metric, "goal": "minimize"},
        "command": [
            "${env}", "schemenet", "train", *(["--config-dir", config_dir] if config_dir else []), *kept,
            f"folder='{place}/'", "logger=wandb", f"logger.project={project}", "${args_no_hyphens}",
        ],
        "parameters": {key: {"values": [_value(word) for word in words]} for key, words in grid.axes.items()},
    }  # fmt: skip


def _is_of_a_whole_sweep(key: str) -> bool:
    return key in ("logger", "logger.project") or key.split(".")[0] in ("folder", "overwrite", "baseline", "launcher")


def _value(word: str) -> int | float | str:
    """A number where W&B's agent writes it on the command line unchanged; anything else stays text.

    None and True would be written as Python has them, which Hydra reads as text.
    """
    for kind in (int, float):
        try:
            value = kind(word)
        except ValueError:
            continue
        if str(value) == word and math.isfinite(value):
            return value
    return word
