"""Last evaluation of a network that was trained with noise on its steps, with batch norm's statistics without noise.

In training batch norm averages over random steps; in evaluation the steps are those of the scheme, and activations are
distributed otherwise. So the statistics are re-estimated after training, without noise, and the network is evaluated
again. Both results are kept, and nothing is selected between them.
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
    """Re-estimate statistics and evaluate again, in each process of a run.

    Args:
        config: of the run.
        folder: of the run; its checkpoint gets the statistics.
        trainer: that has trained the network.
        module: with the network, whose statistics are changed.
        data: of the run.
        metrics: by name; those of the evaluation are replaced.

    Returns:
        Entries of the result: the replaced measures and ``statistics``; none for a network without noise or batch norm.
    """
    if not module.network.random_steps or not norms_with_statistics(module):
        return {}
    path = folder / CHECKPOINT
    checkpoint = load_plain(path)
    module.load_state_dict(checkpoint["state_dict"])  # averaged ones, where training ended in an earlier process
    whole = copy.copy(data)
    whole.trainer = None  # else each process would read its part; these batches are the same for all
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
