"""The budget of a comparison: what each of its networks is changed in to meet it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning import LightningDataModule

from architectures.budget import check_known, match_budget
from architectures.costs import BASELINE, STEP_TIME, Budget
from architectures.factory import create_model
from architectures.ledger import COUNTED, step_times
from architectures.network import Network
from lightning_modules.running import data_context


class Matching:
    """Matches one network after the other; the baseline first, where its own cost is the target.

    ``budget`` has a number for its target as soon as the baseline is known. ``held`` are the options that were found
    before for networks by their names, and the target; with times, which no second measurement repeats, they hold.
    """

    def __init__(
        self, budget: Budget | None, data: LightningDataModule, device: str, held: Mapping[str, Any] | None = None
    ) -> None:
        self.budget, self.data, self.device = budget, data, device
        self._like: Network | None = None
        self._held: Mapping[str, Any] = {}
        if budget is not None and budget.kind == STEP_TIME and held is not None and held["budget"] is not None:
            self._held = {arm["name"]: arm["knobs"] for arm in held["arms"]}
            self.budget = replace(budget, target=held["budget"]["target"])

    @property
    def waits(self) -> bool:
        """Whether nothing can be matched before the baseline is known."""
        return self.budget is not None and self.budget.target == BASELINE

    def knobs(self, arm: str, architecture: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options by which a network meets the budget; none where it is the target, or there is no budget."""
        if self.budget is None:
            return {}
        if arm in self._held:
            return self._held[arm]
        options = {**data_context(self.data), **own}
        if self.waits:
            self._take_for_baseline(self.budget, architecture, options)
            return {}
        return match_budget(
            architecture, target=self._like or self.budget.target, kind=self.budget.kind, by=self.budget.by,
            tolerance=self.budget.tolerance, batch_size=self.data.batch_size, **options,
        )  # fmt: skip

    def _take_for_baseline(self, budget: Budget, architecture: str, options: Mapping[str, Any]) -> None:
        timed = budget.kind == STEP_TIME
        with torch.device(self.device if timed else "meta"):
            network = create_model(architecture, **options)
        check_known(network, budget.kind, "the baseline")
        shape, batch_size = tuple(self.data.shape), self.data.batch_size
        if timed:
            target = step_times({BASELINE: network}, shape, batch_size, steps=9, warm_up=3)[BASELINE]["median_s"]
            self._like = network
        else:
            target = COUNTED[budget.kind](network, shape, batch_size)
        self.budget = replace(budget, target=target)
