"""The adaptive grid, whose steps the estimated error decides."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import VectorField
from schemes.errors import Problems, SchemenetError
from schemes.integration.adaptive_loop import AdaptiveLoop, InPrecisionOfState
from schemes.integration.grid import FlowGrid
from schemes.integration.loop import FieldOwner
from schemes.integration.per_sample_loop import PerSampleLoop
from schemes.integration.step_size_controller import ErrorControl, StepSizeSettings
from schemes.registry import GRIDS

LOOPS: dict[str, type[AdaptiveLoop]] = {"joint": AdaptiveLoop, "per_sample": PerSampleLoop}
"""By the batching of a solve."""


@GRIDS.register("adaptive")
class AdaptiveGrid(FlowGrid):
    r"""Steps of a size for which a pair of methods estimates an error of at most 1 in the norm

        || e / (atol + rtol max(|y_n|, |y_{n+1}|)) ||,   the root mean square over all entries of the batch

    Args:
        rtol: relative tolerance: a number, or a nest of numbers and tensors like the state.
        atol: absolute tolerance, like ``rtol``.
        time: T; a network integrates over [0, T].
        eval_rtol: ``rtol`` of a network in evaluation; None: the same.
        eval_atol: ``atol`` of a network in evaluation; None: the same.
        controller: the step size controller.
        first_step: size of the first step; None: Hairer's guess (one more evaluation of f).
        min_step: no step is shorter, but one that ends at a time at which a step must end. Steps of this size are
            accepted whatever their error, with a :class:`LeastStepWarning`.
        max_step: no step is longer.
        max_steps: attempts after which the solve stops with an error that says how far it came.
        seconds: wall-clock time after which it stops.
        safety: factor of the proposed size.
        shrink: least factor from one step size to the next.
        growth: greatest factor.
        step_t: times at which a step must end.
        jump_t: times at which f jumps.
        norm: replaces the norm: from a state to a number.

    Reference: Hairer, Nørsett, Wanner, "Solving Ordinary Differential Equations I", 2nd ed., Springer 1993, section
    II.4.
    """

    steps_known: ClassVar[bool] = False

    def __init__(
        self,
        rtol: object = 1e-3,
        atol: object = 1e-3,
        time: float = 1.0,
        eval_rtol: float | None = None,
        eval_atol: float | None = None,
        controller: Literal["I", "PI", "PID"] = "I",
        first_step: float | None = None,
        min_step: float = 0.0,
        max_step: float | None = None,
        max_steps: int = 10_000,
        seconds: float | None = None,
        safety: float = 0.9,
        shrink: float = 0.2,
        growth: float = 10.0,
        step_t: Sequence[float] = (),
        jump_t: Sequence[float] = (),
        norm: Callable | None = None,
    ) -> None:
        numbers = {
            "rtol": rtol, "atol": atol, "time": time, "eval_rtol": eval_rtol, "eval_atol": eval_atol,
            "first_step": first_step, "max_step": max_step, "seconds": seconds,
        }  # fmt: skip
        problems = Problems("grid 'adaptive': ")
        problems.add(
            *(
                f"{key} expected to be {'positive' if key not in TOLERANCES else 'at least 0'}, got {value}"
                for key, value in numbers.items()
                if isinstance(value, int | float) and not (value > 0 or (value == 0 and key in TOLERANCES))
            )
        )
        problems.add(
            *(
                f"{key} expected to be a number, got {value!r}"
                for key, value in {"rtol": rtol, "atol": atol}.items()
                if isinstance(value, str | None)
            )
        )
        if all(isinstance(tolerance, int | float) and tolerance == 0 for tolerance in (rtol, atol)):
            problems.add("rtol and atol cannot both be 0: no error would be small enough")
        if max_steps < 1:
            problems.add(f"max_steps expected to be at least 1, got {max_steps}")
        if not 0 <= min_step <= (math.inf if max_step is None else max_step):
            problems.add(f"min_step expected to be at least 0 and at most max_step={max_step}, got {min_step}")
        if not 0 < safety <= 1 or not 0 < shrink < 1 or not growth > 1:
            problems.add(
                f"expected 0 < safety <= 1, 0 < shrink < 1 and growth > 1, got safety={safety}, shrink={shrink}, "
                f"growth={growth}"
            )
        problems.raise_if_any()
        self.rtol, self.atol, self.time = rtol, atol, time
        self.eval_rtol, self.eval_atol = eval_rtol, eval_atol
        self.settings = StepSizeSettings(
            controller, first_step, min_step, max_step, max_steps, seconds, safety, shrink, growth, tuple(step_t),
            tuple(jump_t), norm,
        )  # fmt: skip

    def unsupported_reason(self, scheme: Scheme) -> str | None:
        if scheme.error_order is None:
            return (
                f"grid 'adaptive' needs a scheme that estimates its errors, and {type(scheme).__name__} does not; use "
                "dopri5, tsit5 or bosh3, or grid=uniform"
            )
        return None

    def unsupported_batching_reason(self) -> str | None:
        return None if self.settings.norm is None else "has a norm for each sample, and takes none from the user"

    def error_control(self) -> ErrorControl:
        return ErrorControl(self.settings, self.rtol, self.atol)

    def ending_steps(self, kinks: Sequence[float], jumps: Sequence[float]) -> AdaptiveGrid:
        if not (kinks or jumps):
            return self
        grid, settings = copy.copy(self), self.settings
        step_t, jump_t = (*settings.step_t, *kinks), (*settings.jump_t, *jumps)
        grid.settings = replace(settings, step_t=step_t, jump_t=jump_t)
        return grid

    def nodes(self, steps: int) -> tuple[Node, ...]:
        """None are known before the solve of a flow, whose state is one tensor."""
        for key, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not isinstance(value, int | float):
                raise SchemenetError(f"grid 'adaptive': {key} of a network expected to be a number, got {value!r}")
        return ()

    def visits(self, scheme: Scheme, nodes: Sequence[Node]) -> tuple[Node, ...]:
        """One node a component stands for all times: weights and statistics cannot belong to any of them."""
        return tuple(Node(0, 0.0, self.time, component=component) for component in range(scheme.components))

    def flow_loop(
        self, scheme: Scheme, f: VectorField, nodes: Sequence[Node], owner: FieldOwner, training: bool, **options: Any
    ) -> AdaptiveLoop:
        rtol, atol = self.tolerances(training)
        return AdaptiveLoop(
            scheme, InPrecisionOfState(f), [], owner, settings=self.settings, times=(0.0, self.time),
            rtol=rtol, atol=atol, **options,
        )  # fmt: skip

    def ivp_loop(
        self, scheme: Scheme, f: VectorField, owner: FieldOwner, times: Sequence[Any], batching: str
    ) -> AdaptiveLoop:
        rtol, atol = map(owner.spread, (self.rtol, self.atol))
        return LOOPS[batching](
            scheme, f, [], owner, settings=self.settings, times=times, rtol=rtol, atol=atol,
            callback=owner.step_callback(),
        )  # fmt: skip

    def end_time(self, nodes: Sequence[Node]) -> float:
        return self.time

    def tolerances(self, training: bool) -> tuple[Any, Any]:
        """rtol and atol in training, or in evaluation."""
        if training:
            return self.rtol, self.atol
        return (
            self.rtol if self.eval_rtol is None else self.eval_rtol,
            self.atol if self.eval_atol is None else self.eval_atol,
        )

    def for_evaluation(self) -> AdaptiveGrid:
        grid = copy.copy(self)
        grid.rtol, grid.atol = self.tolerances(training=False)
        return grid

    def check_precision(self, dtype: torch.dtype, stacklevel: int) -> None:
        warn_of_tolerance(self.rtol, self.atol, dtype, stacklevel + 1)

    def described(self, nodes: Sequence[Node]) -> tuple[str, str]:
        return "adaptive", f"rtol {self.rtol}, atol {self.atol}"


class ToleranceWarning(UserWarning):
    """The tolerance is finer than the state's precision resolves."""


def warn_of_tolerance(rtol: Any, atol: Any, dtype: torch.dtype, stacklevel: int = 3) -> None:
    """Warn a caller whose tolerances are below ten units in the last place."""
    if dtype not in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        return  # no precision to solve in
    least = 10 * torch.finfo(dtype).eps
    if isinstance(rtol, int | float) and isinstance(atol, int | float) and max(rtol, atol) < least:
        warnings.warn(
            f"rtol={rtol:g} and atol={atol:g} are below what {dtype} resolves (about {least:.1g}); use float64 or "
            "larger tolerances",
            ToleranceWarning,
            stacklevel=stacklevel,
        )


TOLERANCES = ("rtol", "atol", "eval_rtol", "eval_atol")
