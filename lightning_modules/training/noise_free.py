"""The last test of a network that was trained with noise on its steps, with statistics that saw no noise.

In training batch norm sees what random steps make of a batch, and keeps the average over the draws; in evaluation the
steps are those of the scheme, whose activations are distributed otherwise. So the statistics are estimated anew after
training, without noise, and the network is tested once more. Both numbers are kept, and nothing is chosen between them.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from architectures.model import Model
from lightning_modules.callbacks.solver_cost import SolverCostLogger
from lightning_modules.config.registries import TRAINERS
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.config.validate import EVAL_KEYS
from lightning_modules.data.datamodule import SplitData
from lightning_modules.metrics import BY_RUNNING
from lightning_modules.storage.run_files import CHECKPOINT
from lightning_modules.tasks.base import TaskModule
from lightning_modules.training.batch_statistics import estimate_statistics, norms_with_statistics, statistics_of
from lightning_modules.training.checkpointing import WholeCheckpoints, load_plain


def noise_free(
    config: ResolvedConfig,
    folder: Path,
    trainer: pl.Trainer,
    module: TaskModule[Model],
    data: SplitData,
    metrics: dict[str, float],
) -> dict[str, Any]:
    """Re-estimate statistics and test again, in each process of a run; the first one's checkpoint then holds them.

    Replaces the measures in ``metrics``. Returns what a result says of it beside them: the measures that they replace,
    and ``statistics``; nothing for a network that has no noise or no batch norm.
    """
    if not module.network.random_steps or not norms_with_statistics(module):
        return {}
    path = folder / CHECKPOINT
    checkpoint = load_plain(path)
    module.load_state_dict(checkpoint["state_dict"])  # averaged ones, where training ended in an earlier process
    whole = copy.copy(data)
    whole.trainer = None  # who reads a part of the batches only; these are the same for every process
    done = estimate_statistics(module, trainer, whole, EVAL_KEYS["statistics_batches"].default)
    again = TRAINERS.build(config["trainer"], folder=folder, callbacks=[SolverCostLogger()], logger=False)
    tested = again.validate(module, datamodule=data, verbose=False)[0]
    keys = [f"{data.eval_split}/{name}" for name in module.names]
    replaced = {f"{key.replace('/', '_', 1)}_{BY_RUNNING}": metrics.get(key) for key in keys}
    metrics.update({key: float(tested[key]) for key in keys})
    if trainer.is_global_zero:
        checkpoint["state_dict"].update({k: v.cpu() for k, v in statistics_of(module).items()})
        WholeCheckpoints().save_checkpoint(checkpoint, path)
    return {**replaced, "statistics": done}
