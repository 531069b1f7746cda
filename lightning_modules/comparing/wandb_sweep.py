"""A grid as a W&B sweep: W&B's server gives out the points, agents train them by ``schemenet train``."""

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
    """Write ``sweep.yaml`` and give it to W&B's server, if there is one; say how to go on. Returns the exit status."""
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

    id = wandb.sweep(sweep, entity=entity, project=project)  # says where it is to be seen
    points = math.prod(len(values) for values in grid.axes.values())
    place = "/".join(filter(None, (entity or os.environ.get("WANDB_ENTITY"), project, id)))
    print(f"{points} runs; on every machine that is to train, as often as it has room: wandb agent {place}")
    return 0


def document(grid: Grid, folder: Path, project: str, metric: str, config_dir: str | None = None) -> dict[str, Any]:
    """The sweep in W&B's terms. Every run gets a folder of its own below ``folder``, by which it goes on."""
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
    """A number where it is written just so when W&B's agent makes a word of it again; anything else stays text.

    Python's None and True would come back as words that mean something else here.
    """
    for kind in (int, float):
        try:
            value = kind(word)
        except ValueError:
            continue
        if str(value) == word and math.isfinite(value):
            return value
    return word
