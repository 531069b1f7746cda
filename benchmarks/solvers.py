"""The cost of a solve against torchdiffeq's and torchode's: the same problem, in one process, on one thread.

    python benchmarks/solvers.py [repetitions] [--without-compile]
    python benchmarks/solvers.py [repetitions] --table

Counts (operations, reads, evaluations, bytes) are exact; times are processor times of this process, medians over
interleaved repetitions, and only their ratios mean something. f is timed inside the solve and taken out. Each row says
what was expected, what was measured, and whether the row holds.

The table has the times of whole solves relative to ours without compilation, beside further packages and JAX. All run
once before, so that compiling is left out, and must agree. torchdiffeq and torchode are in the extra ``dev``, diffrax
and torchdyn in ``bench``.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchdiffeq
import torchode
from _flow_bytes import flow_bytes
from _interleave import interleaved
from _solver_works import COLUMNS, OURS, TimeAndState, Work, installed, works
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from architectures import create_model
from architectures.costs.ledger import memory
from schemes import Node, solve
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.integration.compiled_step import NotCompiledWarning

TOL = 1e-5
SHORT, LONG = 2.0, 7.0
"""Two horizons: what a step costs is the difference of two solves over that of their steps."""
VIEWS = {
    "view", "reshape", "detach", "expand", "select", "slice", "unsqueeze", "squeeze", "t", "transpose", "permute",
    "alias", "as_strided", "_unsafe_view", "lift_fresh", "unbind", "split", "split_with_sizes", "diagonal", "unfold",
}  # fmt: skip
READS = {"_local_scalar_dense", "item", "equal", "is_nonzero"}


# What is counted and timed ---------------------------------------------------------------------------------


class Operations(TorchDispatchMode):
    """Operations that are no views, and reads of the host, while ``on``."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.count, self.reads = True, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if self.on and name in READS:
            self.reads += 1
        elif self.on and name not in VIEWS:
            self.count += 1
        return func(*args, **(kwargs or {}))


class VanDerPol(nn.Module):
    """Oscillators with mu = 2, (batch, 2); its own operations and time are kept apart."""

    def __init__(self, operations: Operations | None = None) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(2.0))
        self.operations, self.seconds = operations, 0.0

    def forward(self, t: Any, y: Tensor) -> Tensor:
        if self.operations is not None:
            self.operations.on = False
        begin = time.process_time()
        x, v = y[..., 0], y[..., 1]
        rates = torch.stack((v, self.mu * (1 - x * x) * v - x), -1)
        self.seconds += time.process_time() - begin
        if self.operations is not None:
            self.operations.on = True
        return rates


def ours(f: nn.Module, y0: Tensor, end: float) -> int:
    """Solve; the number of attempted steps."""
    grid = {"name": "adaptive", "rtol": TOL, "atol": TOL}
    work = solve(f, y0, [0.0, end], grid=grid, gradient="backprop").statistics.forward
    return work.accepted + work.rejected


def of_torchdiffeq(f: nn.Module, y0: Tensor, end: float) -> int:
    steps = 0

    def step(*_: Any) -> None:
        nonlocal steps
        steps += 1

    f.callback_step = step  # type: ignore[assignment]  # where torchdiffeq looks for it
    torchdiffeq.odeint(f, y0, torch.tensor([0.0, end]), rtol=TOL, atol=TOL, method="dopri5")
    return steps


def of_torchode(f: nn.Module, y0: Tensor, end: float) -> int:
    method = torchode.Dopri5(torchode.ODETerm(f))  # type: ignore[arg-type]  # torchode's names hide their types
    controller = torchode.IntegralController(atol=TOL, rtol=TOL, term=method.term)  # type: ignore[call-arg]  # likewise
    batch = y0.shape[0]
    problem = torchode.InitialValueProblem(
        y0=y0, t_start=torch.zeros(batch), t_end=torch.full((batch,), end), t_eval=None
    )
    solution = torchode.AutoDiffAdjoint(method, controller).solve(problem)  # type: ignore[arg-type]  # likewise
    return int(solution.stats["n_steps"].max())


SOLVERS: dict[str, Callable[[nn.Module, Tensor, float], int]] = {
    "ours": ours, "torchdiffeq": of_torchdiffeq, "torchode": of_torchode,
}  # fmt: skip


def report(row: str, expected: str, result: str, holds: bool | None) -> None:
    verdict = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[holds]
    print(f"{row}\n    wanted {expected}; found {result}: {verdict}", flush=True)


def medians(jobs: dict[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """The median of what each job returns, over repetitions in turn."""
    values: dict[str, list[float]] = {name: [] for name in jobs}
    for repetition in range(repetitions + 1):
        for name, job in jobs.items():
            value = job()
            if repetition:
                values[name].append(value)
    return {name: statistics.median(values) for name, values in values.items()}


def seconds(job: Callable[[], object]) -> float:
    begin = time.process_time()
    job()
    return time.process_time() - begin


# The rows --------------------------------------------------------------------------------------------------


def operations_and_reads(y0: Tensor) -> None:
    limits = {"ours": 40}
    for graph in (False, True):
        per_step, reads = {}, {}
        for name, run in SOLVERS.items():
            ends = []
            for end in (SHORT, LONG):
                with torch.set_grad_enabled(graph), Operations() as counted:
                    steps = run(VanDerPol(counted), y0, end)
                ends.append((counted.count, counted.reads, steps))
            (a, b, c), (d, e, g) = ends
            per_step[name], reads[name] = (d - a) / (g - c), (e - b) / (g - c)
        listed = ", ".join(f"{name} {value:.0f}" for name, value in per_step.items())
        row = f"operations a dopri5 step, views and f excluded, {'with' if graph else 'without'} grad"
        report(row, f"<= {limits['ours']}", listed, per_step["ours"] <= limits["ours"])
        if not graph:
            listed = ", ".join(f"{name} {value:.1f}" for name, value in reads.items())
            report("host reads a step", "1", listed, round(reads["ours"], 6) <= 1)


def loop_time(y0: Tensor, repetitions: int) -> None:
    def per_step(run: Callable[..., int]) -> Callable[[], float]:
        def measured() -> float:
            spent, steps = [], []
            for end in (SHORT, LONG):
                f = VanDerPol()
                begin = time.process_time()
                steps.append(run(f, y0, end))
                spent.append(time.process_time() - begin - f.seconds)
            return (spent[1] - spent[0]) / (steps[1] - steps[0])

        return measured

    with torch.no_grad():
        times = medians({name: per_step(run) for name, run in SOLVERS.items()}, repetitions)
    ratios = {name: times["ours"] / times[name] for name in ("torchdiffeq", "torchode")}
    report(
        "loop time a step, f excluded, 256 van der Pol oscillators",
        "<= 1/4 of torchdiffeq, <= 1/2 of torchode",
        f"{ratios['torchdiffeq']:.2f} of torchdiffeq, {ratios['torchode']:.2f} of torchode",
        ratios["torchdiffeq"] <= 0.25 and ratios["torchode"] <= 0.5,
    )


def overhead(flow: Flow, y: Tensor, repetitions: int, compiled: bool) -> None:
    """Forward of an ODE-Net's flow against as many calls of its bare f."""
    at = Node(0, 0.5, 0.0)

    def forward(flow: Flow) -> int:
        flow(y)
        return flow.forward_counts.evaluations

    def bare(f: Callable[[], Tensor]) -> Callable[[], float]:
        return lambda: seconds(lambda: [f() for _ in range(calls)])

    with torch.no_grad():
        calls = forward(flow)
        times = medians(
            {"bare": bare(lambda: flow.bank(at, y)), "solve": lambda: seconds(lambda: forward(flow))}, repetitions
        )
        ratio = times["solve"] / times["bare"]
        row = "total / (NFE x bare f), forward, ODE-Net field, batch 128"
        report(f"{row}, eager", "<= 1.15", f"{ratio:.3f}", ratio <= 1.15)
        if not compiled:
            report(f"{row}, captured, of captured bare f", "<= 1.05", "-", None)
            return
        captured = copy.deepcopy(flow)
        captured.compile_steps()
        t = torch.tensor(0.5)
        graph = torch.compile(lambda t, y: flow.bank(Node(0, t, 0.0), y), dynamic=False)
        forward(captured)
        times = medians(
            {"bare": bare(lambda: graph(t, y)), "solve": lambda: seconds(lambda: forward(captured))}, repetitions
        )
        ratio = times["solve"] / times["bare"]
        report(f"{row}, captured, of captured bare f", "<= 1.05", f"{ratio:.3f}", ratio <= 1.05)


class TheirFlow(nn.Module):
    """The same field, integrated by torchdiffeq."""

    def __init__(self, flow: Flow, odeint: Callable[..., Tensor]) -> None:
        super().__init__()
        self.bank, self.odeint = flow.bank, odeint
        self.grid: Any = flow.grid

    def forward(self, x: Tensor, past: Any = (), remember: bool = False) -> Any:
        field = TimeAndState(self.bank)
        tol = self.grid.rtol
        y = self.odeint(field, x, torch.tensor([0.0, 1.0]), rtol=tol, atol=tol, method="dopri5")[-1]
        return (y, ()) if remember else y


def training_step(network: Any, repetitions: int) -> None:
    """One step of the MNIST ODE-Net at initialisation, batch 128."""
    x, labels = torch.randn(128, 1, 28, 28), torch.randint(10, (128,))
    networks = {"ours": network}
    for name, odeint in (("adjoint", torchdiffeq.odeint_adjoint), ("backprop", torchdiffeq.odeint)):
        theirs = copy.deepcopy(network)
        stage = theirs.stages[-1]
        stage.flow = TheirFlow(stage.flow, odeint)
        networks[name] = theirs

    def step(model: nn.Module) -> Callable[[], float]:
        def once() -> None:
            model.zero_grad(set_to_none=True)
            functional.cross_entropy(model(x), labels).backward()

        return lambda: seconds(once)

    times = medians({name: step(model) for name, model in networks.items()}, repetitions)
    ratio = times["ours"] / times["adjoint"]
    report(
        "MNIST ODE-Net, tolerance 1e-3, a training step with checkpoint, against torchdiffeq's odeint_adjoint",
        "<= 0.8", f"{ratio:.2f} of its time", ratio <= 0.8,
    )  # fmt: skip
    ratio = times["ours"] / times["backprop"]
    with torch.no_grad():
        state, _ = network.embed(x)
    (kept, peak), (their_kept, their_peak) = (
        flow_bytes(networks[name].stages[-1].flow, state) for name in ("ours", "backprop")
    )
    whole = [memory(networks[name], (1, 28, 28), 128) for name in ("ours", "backprop")]
    outer = [whole[0][key] / whole[1][key] for key in ("bytes_kept", "peak_bytes")]
    report(
        "the same against torchdiffeq's backprop (bytes of the flow; stem and head keep the same for both)",
        "<= 1.35 x its time, <= 1/10 of its bytes kept, <= 1/3 of its peak bytes",
        f"{ratio:.2f} x its time, {kept / their_kept:.3f} of its bytes kept, {peak / their_peak:.2f} of its peak "
        f"(of the whole network: {outer[0]:.2f} and {outer[1]:.2f})",
        ratio <= 1.35 and kept <= 0.1 * their_kept and peak <= their_peak / 3,
    )


def output_times(y0: Tensor) -> None:
    counts = []
    for count in (2, 100):
        start = y0.clone().requires_grad_()
        grid = {"name": "adaptive", "rtol": TOL, "atol": TOL}
        solution = solve(VanDerPol(), start, torch.linspace(0, LONG, count), grid=grid, gradient="checkpoint")
        solution.values.square().sum().backward()
        counts.append((solution.statistics.forward.evaluations, solution.statistics.backward.evaluations))
    forward, backward = (b / a for a, b in zip(*counts, strict=True))
    report(
        "100 output times against 2: evaluations, forward and backward in checkpoint mode",
        "<= 1.1", f"{forward:.3f} and {backward:.3f}", max(forward, backward) <= 1.1,
    )  # fmt: skip


def reversible() -> None:
    kept = {}
    for steps in (8, 512):
        network = create_model(
            "odenet", in_chans=1, image_size=28, width=0.25, scheme="reversible_heun", gradient="reversible",
            grid={"name": "uniform", "steps": steps, "time": 1.0},
        )  # fmt: skip
        kept[steps] = memory(network, (1, 28, 28), 4)["bytes_kept"]
    report(
        "reversible: bytes kept with 512 steps against 8", "flat (1.0)", f"{kept[512] / kept[8]:.3f}",
        kept[512] <= 1.01 * kept[8],
    )  # fmt: skip


# The table -------------------------------------------------------------------------------------------------


def cells(work: Work, repetitions: int) -> list[str]:
    """A row of the table: the work, times relative to "eager", and how they stand to the limits."""
    jobs, first = {}, None
    for name, job in work.jobs.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", NotCompiledWarning)
                result = job()
        except (SchemenetError, NotCompiledWarning) as reason:
            print(f"{work.name}, {name}: {str(reason).splitlines()[0]}", file=sys.stderr, flush=True)
            continue
        jobs[name] = job
        if result is not None:
            result = np.asarray(result if not isinstance(result, Tensor) else result.detach())
            first = result if first is None else first
            gap = np.linalg.norm(result - first) / np.linalg.norm(first)
            assert gap < 1e-2, f"{work.name}: {name} differs from {next(iter(jobs))} by {gap:.1g}"
    rounds = max(3, round(repetitions * work.rounds))
    times = interleaved(jobs, rounds, warm_up=1, clock=time.process_time)
    fastest = min(times[name] for name in OURS if name in times)
    verdicts = []
    for other, limit in work.limits.items():
        if not installed(other):
            verdicts.append(f"<= {limit:g} x {other}: it is not installed")
        else:
            ratio = fastest / times[other]
            verdicts.append(f"<= {limit:g} x {other}: {ratio:.3g}, {'met' if ratio <= limit else 'not met'}")
    ratios = [f"{times[name]:.3g}" if name in times else "-" for name in COLUMNS]
    return [work.name, *ratios, "; ".join(verdicts)]


def table(repetitions: int) -> None:
    flow = create_model("odenet", in_chans=1, image_size=28).flows[0]
    headers = "work", *COLUMNS, "limits"
    print(f"| {' | '.join(headers)} |", "|---" * len(headers) + "|", sep="\n")
    for make in works(flow, torch.randn(128, 64, 6, 6)):
        print(f"| {' | '.join(cells(make(), repetitions))} |", flush=True)


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    repetitions = int(arguments[0]) if arguments else 20
    torch.set_num_threads(1)
    torch.manual_seed(0)
    versions = f"torch {torch.__version__}, torchdiffeq {torchdiffeq.__version__}"
    print(f"{versions}, one thread, medians of {repetitions} interleaved repetitions\n")
    if "--table" in sys.argv:
        table(repetitions)
        return
    y0 = torch.randn(256, 2)
    operations_and_reads(y0)
    loop_time(y0, repetitions)
    network = create_model("odenet", in_chans=1, image_size=28)
    overhead(network.flows[0], torch.randn(128, 64, 6, 6), repetitions, "--without-compile" not in sys.argv)
    training_step(network, max(3, repetitions // 4))
    output_times(y0)
    reversible()


if __name__ == "__main__":
    main()
