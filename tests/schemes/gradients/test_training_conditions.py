"""Gradient modes under fire: conditions of a training step x modes, each cell held against a loop written by hand.

A condition makes a flow, or a network around one, runs a training step under that condition and says what it leaves
behind. With every mode that must be what autograd leaves of a plain loop: output, random state and buffers to the bit,
gradients to rounding, no gradient where there is none. What cannot work is refused, and stands in ``REFUSALS``.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from architectures.costs.ledger import LiveBytes
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.registry import GRADIENTS
from tests.support.problems import Noisy, Run, Tanh, assert_same, batch, gradients, train, weighted
from tests.support.training_conditions import CONDITIONS, RECOMPUTING, ModeCase, WithSpare, x

MODE_CASES = [
    ModeCase("backprop", "heun"),
    ModeCase("checkpoint", "heun"),
    ModeCase("reversible", "symplectic_euler"),
    ModeCase("reversible", "leapfrog"),
    ModeCase("reversible", "verlet"),
    ModeCase("adjoint", "verlet"),
]
"""The adjoint of a symmetric method is its derivative: that of Verlet's has the truth that the other modes have.

With other schemes it is right to their order, which ``test_adjoint.py`` measures.
"""

TOLERANCES = {
    ("autocast_to_bfloat16", "adjoint"): 2e-2,
    "autocast_to_bfloat16": 1e-5,
    "autocast_with_cached_casts": 2e-2,
    ("half_precision_streams", "adjoint"): 5e-2,
}
"""Rounding of other kinds: of float32, and of bfloat16 (the adjoint evaluates f at states that it has solved for)."""

REFUSALS: dict[str, tuple[tuple[str, ...], str]] = {
    "double_backward": (
        RECOMPUTING,
        "'{mode}' gives first derivatives only; second derivatives (create_graph=True) need gradient=backprop",
    ),
    **dict.fromkeys(
        ("func_grad", "func_vmap", "func_jvp", "forward_mode"),
        (
            RECOMPUTING,
            "'{mode}' is differentiated by backward() and torch.autograd.grad alone; ",
        ),
    ),
    "lazy_layers_without_one": (RECOMPUTING, "'{mode}': lazy layers have no parameters yet; run the network once"),
    "f_reads_a_tensor_that_is_no_parameter": (
        RECOMPUTING,
        "f depends on a tensor of shape () that needs a gradient and is no parameter of the flow",
    ),
    "half_precision_streams": (("reversible",), "'reversible' cannot invert steps in torch.bfloat16"),
}
"""All that does not work: the condition, the modes, the message."""


REVERSIBLE = itertools.cycle(case for case in MODE_CASES if case.mode == "reversible")
CELLS = [
    (name, case)
    for name in CONDITIONS
    for case in (*(case for case in MODE_CASES if case.mode != "reversible"), next(REVERSIBLE))
]
"""Each condition with each mode. Conditions do not depend on the scheme, so the reversible ones take turns."""


def test_every_mode_has_a_case() -> None:
    assert {case.mode for case in MODE_CASES} == set(GRADIENTS)


@functools.cache
def left_by_hand(name: str, scheme: str) -> list[Run | Tensor | None]:
    return flat(CONDITIONS[name](ModeCase("by hand", scheme)))


def flat(left: Any) -> list[Run | Tensor | None]:
    return [leaf for part in left for leaf in flat(part)] if isinstance(left, list | tuple) else [left]


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize(
    ("name", "case"), CELLS, ids=lambda value: value if isinstance(value, str) else "-".join(value)
)
def test_every_mode_leaves_what_a_plain_loop_leaves(name: str, case: ModeCase) -> None:
    modes, message = REFUSALS.get(name, ((), ""))
    if case.mode in modes:
        with pytest.raises(SchemenetError, match=re.escape(message.format(mode=case.mode))):
            CONDITIONS[name](case)
        return
    tolerance = TOLERANCES.get((name, case.mode)) or TOLERANCES.get(name, 1e-10)
    for one, other in zip(flat(CONDITIONS[name](case)), left_by_hand(name, case.scheme), strict=True):
        if isinstance(one, Run):
            assert_same(one, other, tolerance)
        elif one is None:
            assert other is None
        else:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


# Changes between forward and backward


@pytest.mark.parametrize("case", MODE_CASES, ids="-".join)
@pytest.mark.parametrize("what", ["parameter", "input", "output"])
def test_a_change_in_place_before_backward_is_noticed_or_does_not_matter(what: str, case: ModeCase) -> None:
    """Never a wrong gradient; the weights take part in all of them."""
    flow, start = case(Tanh), 1 * x()
    start.retain_grad()
    output = flow(start)
    loss = weighted(output)
    with torch.no_grad():
        {"parameter": next(flow.parameters()), "input": start, "output": output}[what].mul_(2)
    noticed = ""
    try:
        loss.backward()
    except RuntimeError as error:
        noticed = str(error)
    if noticed or what == "parameter":
        assert re.search("modified (by an )?inplace", noticed)
        return
    expected = train(ModeCase("by hand", case.scheme)(Tanh), x())
    assert_same(Run(expected.output, expected.random, gradients(flow, start), {}), expected)


# Memory


ONE_EACH = list({case.mode: case for case in MODE_CASES}.values())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("case", ONE_EACH, ids="-".join)
def test_60_steps_leave_nothing_behind_but_their_losses(case: ModeCase) -> None:
    """Also while the losses are kept, and with them their graphs."""
    flow, start, losses = case(steps=1), batch(), []
    with LiveBytes() as alive:
        for step in range(60):
            flow.zero_grad()
            losses.append(weighted(flow(start)))
            losses[-1].backward()
            if step == 20:
                early = alive.live
    assert alive.live - early == 39 * losses[0].nbytes


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("case", MODE_CASES, ids="-".join)
def test_a_forward_without_a_backward_leaves_nothing_behind(case: ModeCase) -> None:
    flow, start = case(), x()
    with LiveBytes([start, *flow.parameters(), *flow.buffers()]) as alive:
        output = flow(start)
        assert alive.live > output.nbytes
        del output
    assert alive.live == 0


# Two processes


SETTINGS = {
    "DDP": Noisy,
    "DDP with no_sync": Noisy,
    "DDP with find_unused_parameters": WithSpare,
    "DDP with static_graph": WithSpare,
    "fully_shard of the flow": Noisy,
    "fully_shard of the network": Noisy,
    "fully_shard of fields": Tanh,
    "FSDP with flat parameters": Noisy,
}
"""How two processes train, and on which field. SyncBatchNorm takes no tensors on a CPU, so it has no row."""
HIDDEN = ("fully_shard of fields", "FSDP with flat parameters")
"""While f runs, the parameters are not those of the flow: refused where f is evaluated again."""


def in_parallel(setting: str, flow: Flow) -> nn.Module:
    mesh, network = init_device_mesh("cpu", (2,)), nn.Sequential(flow)
    match setting.split():
        case ["DDP", *options]:
            return DistributedDataParallel(network, **{name: True for name in options[1:] if name != "no_sync"})
        case ["FSDP", *_]:
            return FullyShardedDataParallel(network, device_id=torch.device("cpu"))
        case [*_, what]:
            for module in {"flow": [flow], "network": [network], "fields": flow.bank.fields}[what]:
                fully_shard(module, mesh=mesh)
    return network


def train_in_parallel(setting: str, case: ModeCase, rank: int) -> list[Tensor | None]:
    """What two steps on two batches each leave: the second one meets what the first one left."""
    flow = case(SETTINGS[setting])
    network = in_parallel(setting, flow)
    torch.manual_seed(rank)
    for step in range(2):
        network.zero_grad()
        for part in range(2):
            waits = setting == "DDP with no_sync" and part == 0
            with network.no_sync() if waits else contextlib.nullcontext():
                weighted(network(batch(seed=4 * step + 2 * part + rank).requires_grad_())).backward()
    gradients = [p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad for p in network.parameters()]
    return [*gradients, *flow.buffers(), torch.get_rng_state()]


def parallel_worker(rank: int, folder: str, settings: tuple[str, ...]) -> None:
    """One of two processes: says of each cell whether it leaves what the loop by hand leaves."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    told = {}
    for setting in settings:
        expected = {
            scheme: train_in_parallel(setting, ModeCase("by hand", scheme), rank) for scheme in ("heun", "verlet")
        }
        for case in ONE_EACH:
            try:
                torch.testing.assert_close(
                    train_in_parallel(setting, case, rank), expected[case.scheme], rtol=1e-10, atol=1e-10
                )
                told[setting, case.mode] = "same"
            except (AssertionError, SchemenetError) as error:
                told[setting, case.mode] = str(error)
    torch.save(told, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


IN_GATE = ("DDP", "fully_shard of the network")
REST = tuple(setting for setting in SETTINGS if setting not in IN_GATE)


@pytest.mark.parametrize("settings", [IN_GATE, pytest.param(REST, marks=pytest.mark.slow)], ids=["common", "rest"])
def test_two_processes(settings: tuple[str, ...], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(parallel_worker, (str(tmp_path), settings), nprocs=2)
    for rank in (0, 1):
        told = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert told.keys() == {(setting, case.mode) for setting in settings for case in ONE_EACH}
        for (setting, mode), result in told.items():
            if setting in HIDDEN and mode in RECOMPUTING:
                assert "apply fully_shard to the flow" in result, (setting, mode)
            else:
                assert result == "same", (setting, mode, result)
