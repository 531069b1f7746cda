"""The registries of tasks, data sets, optimizers and other parts of a run. Nothing here imports torch."""

from schemes.registry import Registry

TASKS = Registry("task", "lightning_modules.tasks")
DATA = Registry("data set", "lightning_modules.data", context=("seed",))
TRAINERS = Registry("trainer", "lightning_modules.training.trainers", context=("folder", "callbacks", "logger"))
OPTIMIZERS = Registry("optimizer", "lightning_modules.training.optimizers", context=("network", "total_steps"))
LOGGERS = Registry("logger", "lightning_modules.loggers.base", context=("folder", "about", "resumes"))
LAUNCHERS = Registry("launcher", "lightning_modules.launching", context=("runs", "watch"))
"""A launcher carries out the runs; without any runs it only checks its options."""
