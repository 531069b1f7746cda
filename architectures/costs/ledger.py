"""Cost model: parameters, MACs, FLOPs, evaluations of f and bytes (counted), and step times (measured)."""

from __future__ import annotations

import copy
import gc
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from architectures.model import Model
from schemes.errors import SolverError


def parameters(module: nn.Module) -> int:
    """Number of trainable parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def flow_parameters(network: Model) -> int:
    """Number of trainable parameters inside flows."""
    return sum(map(parameters, network.flows))


class _CountFlops(TorchDispatchMode):
    """Sums torch's own formulas (two operations a multiply-add) over convolutions, products and attention.

    ``FlopCounterMode`` raises on a Function whose backward calls ``torch.autograd.grad`` (pytorch#131753).
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def varies(network: Model) -> bool:
    """Whether batches differ in what they cost: steps are searched for, or their equations solved."""
    return any(flow.adaptive or flow.scheme.implicit for flow in network.flows)


def on_meta(network: Model) -> Model:
    """A copy without numbers, on which operations and bytes are counted and nothing is computed."""
    return copy.deepcopy(network).to("meta")


def macs(network: Model, shape: tuple[int, ...]) -> int:
    """Multiply-adds of one sample's forward pass in evaluation, of convolutions and matrix products.

    On an adaptive grid one step stands for all: how many there will be depends on numbers, and here are none.
    """
    replica = on_meta(network).eval()
    with torch.no_grad():
        return _of_one_sample(replica, shape, replica.loss) // 2


def train_flops(network: Model, shape: tuple[int, ...]) -> int:
    """Operations of one sample's forward and backward in training, two a multiply-add, of the same kinds as ``macs``.

    What a gradient mode evaluates again in backward counts. Where batches differ in their cost (``varies``), it is a
    sample's share of one batch of two random ones under the weights and on the device that the network has; else
    nothing is computed.
    """
    if not varies(network):
        replica = on_meta(network).train()
        return _of_one_sample(replica, shape, lambda batch: replica.loss(batch).backward())
    replica = copy.deepcopy(network).train()
    with _CountFlops() as counter:
        replica.loss(replica.random_batch(shape, 2)).backward()
    return counter.flops // 2


HUGE = 2**30


def _of_one_sample(network: Model, shape: tuple[int, ...], work: Callable[[Any], Any]) -> int:
    """The operations of a batch on the meta device, by its samples.

    A batch also has work of its own, such as the convolution of a channel of times: this one is so large (which costs
    nothing) that it vanishes.
    """
    with _CountFlops() as counter:
        work(network.random_batch(shape, HUGE))
    return counter.flops // HUGE


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that came to life inside the context and are still alive, and the most at any time.

    Storages are watched themselves, so nothing hides on a context object; ``known`` tensors do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._given = tuple(known)  # kept: where one of them died, another storage could take its address
        self._known = {t.untyped_storage()._cdata for t in self._given}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def memory(network: Model, shape: tuple[int, ...], batch_size: int) -> dict[str, int]:
    """Bytes kept after forward for backward's sake, and peak bytes of forward and backward, one training step.

    Parameters, buffers and inputs do not count, nor does the loss. By tensor accounting: the workspaces of kernels
    are not seen. Gradients count, as they do in every step: those of a step before are dropped.
    """
    network.zero_grad()
    loss, mode = _watched_forward(network, shape, batch_size)
    kept = mode.live - loss.untyped_storage().nbytes()
    with mode:
        loss.backward()
    return {"bytes_kept": kept, "peak_bytes": mode.peak}


def bytes_kept(network: Model, shape: tuple[int, ...], batch_size: int) -> int:
    """The first of the numbers of ``memory``; nothing is computed, and batches must not differ in their cost."""
    loss, mode = _watched_forward(on_meta(network).train(), shape, batch_size)
    return mode.live - loss.untyped_storage().nbytes()


def _watched_forward(network: Model, shape: tuple[int, ...], batch_size: int) -> tuple[Tensor, LiveBytes]:
    batch = network.random_batch(shape, batch_size)
    mode = LiveBytes([*filter(torch.is_tensor, tree_leaves(batch)), *network.parameters(), *network.buffers()])
    with mode:
        loss = network.loss(batch)
    gc.collect()
    return loss, mode


def evaluations(network: Model, shape: tuple[int, ...]) -> dict[str, int]:
    """Calls of f in one training step, forward and backward apart, as the flows count them.

    Not among them are the calls by which a solve checks f, and those for derivatives by its times.
    """
    network.loss(network.random_batch(shape, 2)).backward()
    flows = network.flows
    return {
        "nfe_forward": sum(flow.forward_counts.evaluations for flow in flows),
        "nfe_backward": sum(flow.backward_counts.evaluations for flow in flows),
    }


MOST_BYTES = 2**31
"""What a training step that is done on a CPU for its costs alone may take."""


def affordable_batch(network: Model, shape: tuple[int, ...], batch_size: int) -> int:
    """``batch_size``, or half of it, a quarter ... where a training step would need more memory than it is worth.

    That is ``MOST_BYTES`` on a CPU and half of what a GPU has, judged by the activations of a batch of two.
    """
    replica = (copy.deepcopy(network) if varies(network) else on_meta(network)).train()
    constant = sum(p.numel() * p.element_size() for p in replica.parameters())  # the gradients, whatever the batch is
    each = max(1, memory(replica, shape, 2)["peak_bytes"] - constant) / 2
    device = network.like()["device"]
    most = torch.cuda.mem_get_info(device)[1] // 2 if device.type == "cuda" else MOST_BYTES
    while batch_size > 1 and batch_size * each > most:
        batch_size //= 2
    return batch_size


def ledger(network: Model, shape: tuple[int, ...], batch_size: int) -> dict[str, int]:
    """All counted costs of one training step; the network is left as it was.

    Nothing is computed but where batches differ in their cost (``varies``): MACs are left out there, since without
    numbers one step stands for all of them, and bytes are those of a smaller ``batch_size`` where such a step would
    need too much memory (:func:`affordable_batch`). A network whose flow has no solution any more, because its training
    diverged, has no costs of solving it either.
    """
    replica = (copy.deepcopy(network) if varies(network) else on_meta(network)).train()
    for flow in replica.flows:
        flow.compiled = None  # inside a graph nothing can be counted
    try:
        if varies(network):
            batch_size = affordable_batch(replica, shape, batch_size)
        solving = {
            "train_flops": train_flops(replica, shape),
            **evaluations(replica, shape),
            **memory(replica, shape, batch_size),
        }
    except SolverError:
        solving = {}
    return {
        "parameters": parameters(network),
        "flow_parameters": flow_parameters(network),
        **({} if varies(network) else {"macs": macs(network, shape)}),
        **solving,
        "batch_size": batch_size,
    }


COUNTED: Mapping[str, Callable[[Model, tuple[int, ...], int], int]] = {
    "parameters": lambda network, shape, batch_size: parameters(network),
    "flow_parameters": lambda network, shape, batch_size: flow_parameters(network),
    "macs": lambda network, shape, batch_size: macs(network, shape),
    "train_flops": lambda network, shape, batch_size: train_flops(network, shape),
    "bytes_kept": bytes_kept,
}
"""Costs that are counted without computing anything, of a network, its inputs' shape and the batch size."""


def foreseen(network: Model, shape: tuple[int, ...], batch_size: int) -> dict[str, int | None]:
    """The costs that are ``COUNTED`` before training; None for those that depend on the steps that a solve takes."""
    known = ("parameters", "flow_parameters") if varies(network) else COUNTED
    return {name: COUNTED[name](network, shape, batch_size) if name in known else None for name in COUNTED}


ENOUGH = 10
"""So many steps of each network are measured, however slow they are."""


def step_times(
    networks: Mapping[str, Model],
    shape: tuple[int, ...],
    batch_size: int,
    steps: int = 40,
    warm_up: int = 5,
    patience: float = 120.0,
    progress: Callable[[int, int, str], None] = lambda done, total, of: None,
) -> dict[str, dict[str, Any]]:
    """Seconds of one forward and backward of each network: median and quartiles over ``steps``, threads and device.

    The networks take turns, one step each a round, so that what else the machine does falls on all of them. Once it has
    taken ``patience`` seconds, ten rounds are enough; ``steps`` of what is told are those that were measured. So is
    ``batch_size``: one for all, smaller where the step of one of them would need too much memory. ``progress`` is
    called before each round.
    """
    batch_size = min([batch_size, *(affordable_batch(network, shape, batch_size) for network in networks.values())])
    replicas = {name: copy.deepcopy(network).train() for name, network in networks.items()}
    batches = {name: network.random_batch(shape, batch_size) for name, network in replicas.items()}
    seconds: dict[str, list[float]] = {name: [] for name in replicas}
    started = time.perf_counter()
    for repetition in range(warm_up + steps):
        if repetition >= warm_up + ENOUGH and time.perf_counter() - started > patience:
            break
        progress(repetition, warm_up + steps, "rounds")
        for name, network in replicas.items():
            device = network.like()["device"]
            network.zero_grad(set_to_none=True)
            begin = time.perf_counter()
            network.loss(batches[name]).backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repetition >= warm_up:
                seconds[name].append(time.perf_counter() - begin)
    told = {}
    for name, taken in seconds.items():
        first, median, third = statistics.quantiles(taken, n=4)
        told[name] = {
            "median_s": median, "quartile_1_s": first, "quartile_3_s": third, "steps": len(taken),
            "threads": torch.get_num_threads(), "device": str(networks[name].like()["device"]),
            "batch_size": batch_size,
        }  # fmt: skip
    return told
