"""Matching networks to the budget of a comparison, by the options that set their size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from architectures.costs.budget import BASELINE, STEP_TIME, Budget
from architectures.costs.ledger import STATIC_COSTS, step_times
from architectures.costs.matching import check_known, match_budget
from architectures.factory import create_model
from architectures.model import Model
from lightning_modules.data.datamodule import SplitData
from lightning_modules.machine import one_thread


class Matching:
    """Matches one network after the other, the baseline first, whose cost may be the target.

    The attribute ``budget`` has a number for its target as soon as the baseline is known.

    Args:
        budget: what is to be met; None leaves every network as it is.
        data: the data set, for the shapes of the networks and the batch size.
        device: where step times are measured.
        existing: the comparison.json written before, if any. Step times cannot be measured twice with one result, so
            of such a budget the target and the options in it are kept.
    """

    def __init__(
        self, budget: Budget | None, data: SplitData, device: str, existing: Mapping[str, Any] | None = None
    ) -> None:
        self.budget, self.data, self.device = budget, data, device
        self._timed = budget is not None and budget.kind == STEP_TIME
        self._like: Model | None = None
        self._existing_knobs: Mapping[str, Any] = {}
        if budget is not None and self._timed and existing is not None and existing.get("budget") is not None:
            self._existing_knobs = {arm["name"]: arm.get("knobs", {}) for arm in existing["arms"]}
            self.budget = replace(budget, target=existing["budget"]["target"])

    @property
    def waits(self) -> bool:
        """Whether the target is the cost of a baseline that was not measured yet."""
        return self.budget is not None and self.budget.target == BASELINE

    @one_thread()
    def knobs(self, arm: str, architecture: str, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options by which a network meets the budget.

        Args:
            arm: its name, by which options of an existing comparison are found.
            architecture: its registered name.
            options: its other options.

        Returns:
            None of them for the baseline whose cost is the target, and without a budget.
        """
        if self.budget is None:
            return {}
        options = {**self.data.context, **options}
        if self._timed and self._like is None:
            self._like = self._network(architecture, options, self.device)
        if self.waits:
            self.budget = replace(self.budget, target=self._cost(self.budget.kind, architecture, options))
            return {}
        if arm in self._existing_knobs:
            return self._existing_knobs[arm]
        return match_budget(
            architecture, target=self._like or self.budget.target, kind=self.budget.kind, by=self.budget.by,
            tolerance=self.budget.tolerance, batch_size=self.data.batch_size, shape=tuple(self.data.shape), **options,
        )  # fmt: skip

    def _cost(self, kind: str, architecture: str, options: Mapping[str, Any]) -> float:
        network = self._like or self._network(architecture, options, "meta")
        check_known(network, kind, "the baseline")
        shape, batch_size = tuple(self.data.shape), self.data.batch_size
        if not self._timed:
            return STATIC_COSTS[kind](network, shape, batch_size)
        return step_times({BASELINE: network}, shape, batch_size, steps=9, warm_up=3)[BASELINE]["median_s"]

    def _network(self, architecture: str, options: Mapping[str, Any], device: str) -> Model:
        with torch.device(device):
            return create_model(architecture, **options)
