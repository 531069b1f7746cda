"""Cost model: parameters, MACs, FLOPs, evaluations of f and bytes (counted), and step times (measured)."""

from __future__ import annotations

import contextlib
import copy
import gc
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
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


def has_data_dependent_cost(network: Model) -> bool:
    """Whether batches differ in cost: their steps are found adaptively, or their equations are solved iteratively."""
    return any(flow.adaptive or flow.scheme.implicit for flow in network.flows)


def on_meta(network: Model) -> Model:
    """A copy on the meta device, on which operations and bytes are counted and nothing is computed."""
    return copy.deepcopy(network).to("meta")


def macs(network: Model, shape: tuple[int, ...]) -> int:
    """Multiply-adds of one sample's forward pass in evaluation, of convolutions and matrix products.

    On an adaptive grid one step stands for all: their number depends on the data, and nothing is computed here.
    """
    replica = on_meta(network).eval()
    with torch.no_grad():
        return _of_one_sample(replica, shape, replica.loss) // 2


def train_flops(network: Model, shape: tuple[int, ...]) -> int:
    """Operations of one sample's forward and backward pass in training, of the same kinds as :func:`macs`.

    Two a multiply-add.

    What a gradient mode evaluates again in backward counts. Where the cost depends on the data
    (:func:`has_data_dependent_cost`), it is a sample's share of one batch of two random ones, with the network's
    weights and on its device; else nothing is computed.
    """
    if not has_data_dependent_cost(network):
        return _training_pass_on_meta(network, shape)["train_flops"]
    replica = copy.deepcopy(network).train()
    with _CountFlops() as counter:
        replica.loss(replica.random_batch(shape, 2)).backward()
    return counter.flops // 2


def _training_pass_on_meta(network: Model, shape: tuple[int, ...]) -> dict[str, int]:
    """``train_flops`` and :func:`evaluations` by one pass; not for a data-dependent cost."""
    replica = on_meta(network).train()
    flops = _of_one_sample(replica, shape, lambda batch: replica.loss(batch).backward())
    return {"train_flops": flops, **_evaluation_counts(replica)}


HUGE = 2**30


def _of_one_sample(network: Model, shape: tuple[int, ...], work: Callable[[Any], Any]) -> int:
    """The operations of a batch on the meta device, divided by its samples.

    What is done once for a batch, such as the convolution of a channel of times, vanishes in so large a one.
    """
    with _CountFlops() as counter:
        work(network.random_batch(shape, HUGE))
    return counter.flops // HUGE


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that were allocated inside the context and are still alive, and the most at any time.

    The storages themselves are observed, so that those on a context object count as well.

    Args:
        known: tensors that do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._kept = tuple(known)  # where one of them died, another storage could take its address
        self._known = {t.untyped_storage()._cdata for t in self._kept}

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
    """Bytes of one training step.

    Parameters, buffers, inputs and the loss do not count, gradients do. The workspaces of kernels are not seen.

    Returns:
        ``bytes_kept``, alive after forward for backward, and ``peak_bytes`` of forward and backward.
    """
    network.zero_grad()
    loss, mode = _watched_forward(network, shape, batch_size)
    kept = mode.live - loss.untyped_storage().nbytes()
    with mode:
        loss.backward()
    return {"bytes_kept": kept, "peak_bytes": mode.peak}


def bytes_kept(network: Model, shape: tuple[int, ...], batch_size: int) -> int:
    """``bytes_kept`` of :func:`memory`, on the meta device; not for a data-dependent cost."""
    loss, mode = _watched_forward(on_meta(network).train(), shape, batch_size)
    return mode.live - loss.untyped_storage().nbytes()


def _watched_forward(network: Model, shape: tuple[int, ...], batch_size: int) -> tuple[Tensor, LiveBytes]:
    batch = network.random_batch(shape, batch_size)
    mode = LiveBytes([*filter(torch.is_tensor, tree_leaves(batch)), *network.parameters(), *network.buffers()])
    with _cycles_collected(), mode:
        loss = network.loss(batch)
    return loss, mode


@contextlib.contextmanager
def _cycles_collected() -> Iterator[None]:
    """Collects the reference cycles that were made inside, and nothing older, which would take longer than the rest."""
    enabled = gc.isenabled()
    gc.disable()  # new objects then stay in the youngest generation
    try:
        yield
        gc.collect(0)
    finally:
        if enabled:
            gc.enable()


def evaluations(network: Model, shape: tuple[int, ...]) -> dict[str, int]:
    """Calls of f in one training step, forward and backward apart, as the flows count them.

    Not among them are the calls by which a solve checks f, and those for derivatives by its times.
    """
    network.loss(network.random_batch(shape, 2)).backward()
    return _evaluation_counts(network)


def _evaluation_counts(network: Model) -> dict[str, int]:
    """The evaluations of the last pass."""
    flows = network.flows
    return {
        "nfe_forward": sum(flow.forward_counts.evaluations for flow in flows),
        "nfe_backward": sum(flow.backward_counts.evaluations for flow in flows),
    }


MOST_BYTES = 2**31
"""Memory that a training step which is done on a CPU for its costs alone may take."""


def affordable_batch(network: Model, shape: tuple[int, ...], batch_size: int) -> int:
    """``batch_size``, halved until a training step needs at most ``MOST_BYTES`` on a CPU, half the memory of a GPU.

    Judged by the activations of a batch of two.
    """
    replica = (copy.deepcopy(network) if has_data_dependent_cost(network) else on_meta(network)).train()
    constant = sum(p.numel() * p.element_size() for p in replica.parameters())  # the gradients, whatever the batch is
    each = max(1, memory(replica, shape, 2)["peak_bytes"] - constant) / 2
    device = network.like()["device"]
    most = torch.cuda.mem_get_info(device)[1] // 2 if device.type == "cuda" else MOST_BYTES
    while batch_size > 1 and batch_size * each > most:
        batch_size //= 2
    return batch_size


def ledger(network: Model, shape: tuple[int, ...], batch_size: int) -> dict[str, int]:
    """All counted costs of one training step; the network is left as it was.

    Nothing is computed unless the cost depends on the data (:func:`has_data_dependent_cost`). MACs are missing there,
    since on the meta device one step stands for all, and bytes are those of a smaller batch where a step would need too
    much memory (:func:`affordable_batch`). A network whose flow has no solution, because its training diverged, has no
    costs of solving it either.

    Args:
        network: on the device and with the weights with which it is trained.
        shape: of one sample, without the batch dimension.
        batch_size: for the bytes.

    Returns:
        ``parameters``, ``flow_parameters``, ``macs`` and ``train_flops`` of one sample, ``nfe_forward`` and
        ``nfe_backward``, ``bytes_kept`` and ``peak_bytes`` of a batch, and its ``batch_size``.
    """
    replica = (copy.deepcopy(network) if has_data_dependent_cost(network) else on_meta(network)).train()
    for flow in replica.flows:
        flow.compiled = None  # inside a graph nothing can be counted
    try:
        if has_data_dependent_cost(network):
            batch_size = affordable_batch(replica, shape, batch_size)
            solving = {"train_flops": train_flops(replica, shape), **evaluations(replica, shape)}
        else:
            solving = _training_pass_on_meta(replica, shape)
        solving |= memory(replica, shape, batch_size)
    except SolverError:
        solving = {}
    return {
        "parameters": parameters(network),
        "flow_parameters": flow_parameters(network),
        **({} if has_data_dependent_cost(network) else {"macs": macs(network, shape)}),
        **solving,
        "batch_size": batch_size,
    }


STATIC_COSTS: Mapping[str, Callable[[Model, tuple[int, ...], int], int]] = {
    "parameters": lambda network, shape, batch_size: parameters(network),
    "flow_parameters": lambda network, shape, batch_size: flow_parameters(network),
    "macs": lambda network, shape, batch_size: macs(network, shape),
    "train_flops": lambda network, shape, batch_size: train_flops(network, shape),
    "bytes_kept": bytes_kept,
}
"""Costs that are counted without computing anything: functions of network, shape of a sample and batch size."""


def static_ledger(network: Model, shape: tuple[int, ...], batch_size: int) -> dict[str, int]:
    """What is known of the :func:`ledger` before training: all of it unless costs depend on the data."""
    if not has_data_dependent_cost(network):
        return ledger(network, shape, batch_size)
    return {"parameters": parameters(network), "flow_parameters": flow_parameters(network)}


ENOUGH = 10
"""Steps of each network that are measured however slow they are."""


def step_times(
    networks: Mapping[str, Model],
    shape: tuple[int, ...],
    batch_size: int,
    steps: int = 40,
    warm_up: int = 5,
    patience: float = 120.0,
    progress: Callable[[int, int, str], None] = lambda done, total, of: None,
) -> dict[str, dict[str, Any]]:
    """Measure one forward and backward pass of each network.

    The networks take turns, one step each a round, so that other load of the machine falls on all of them.

    Args:
        networks: by their names, on their devices.
        shape: of one sample.
        batch_size: one for all; smaller where the step of one of them would need too much memory.
        steps: rounds that are measured.
        warm_up: rounds before them.
        patience: seconds after which ``ENOUGH`` rounds suffice.
        progress: callback before each round: rounds done, all rounds, "rounds".

    Returns:
        For each name ``median_s``, ``quartile_1_s`` and ``quartile_3_s`` in seconds, the ``steps`` and ``batch_size``
        that were measured, ``threads`` and ``device``.
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
    times = {}
    for name, taken in seconds.items():
        first, median, third = statistics.quantiles(taken, n=4)
        times[name] = {
            "median_s": median, "quartile_1_s": first, "quartile_3_s": third, "steps": len(taken),
            "threads": torch.get_num_threads(), "device": str(networks[name].like()["device"]),
            "batch_size": batch_size,
        }  # fmt: skip
    return times
