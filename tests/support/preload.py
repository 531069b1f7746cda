"""Importing this imports all that a run needs, so that processes that are forked afterwards begin at once."""

from __future__ import annotations

import torch
from sklearn import datasets

from lightning_modules.config.compose import compose
from lightning_modules.launching.fork_server import import_what_runs_need

torch.set_num_threads(1)
import_what_runs_need()
compose("train", [])
datasets.load_digits()
