"""The registries of tasks, data sets, optimizers and other parts of a run. Nothing here imports torch."""

from schemes.registry import Registry

TASKS = Registry("task", "lightning_modules.tasks")
"""What networks are trained for: their losses and measures."""
DATA = Registry("data set", "lightning_modules.data", context=("seed",))
"""Data sets."""
TRAINERS = Registry("trainer", "lightning_modules.training.trainers", context=("folder", "callbacks", "logger"))
"""What builds the Lightning trainer."""
OPTIMIZERS = Registry(
    "optimizer", "lightning_modules.training.optimizers", context=("network", "total_steps", "trainer")
)
"""Optimizers with their schedules of the learning rate."""
LOGGERS = Registry(
    "logger",
    "lightning_modules.loggers",
    context=("folder", "about", "resumes"),
    builds="pytorch_lightning.loggers.Logger",
)
"""Where metrics are logged, in addition to the csv file; the fact ``requires`` names the packages that one needs."""
CALLBACKS = Registry(
    "callback",
    "lightning_modules.callbacks",
    context=("folder", "measure", "measures"),
    builds="pytorch_lightning.callbacks.Callback",
)
"""What is called during a training; a callback with the fact ``selects`` chooses an epoch by the validation split."""
LAUNCHERS = Registry("launcher", "lightning_modules.launching", context=("runs", "watch"))
"""What carries out the runs of a comparison or sweep; without any runs a launcher only checks its options."""
