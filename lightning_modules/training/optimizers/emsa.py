r"""The extended method of successive approximations: training by Pontryagin's maximum principle, layer by layer.

A network is a chain of layers x_{n+1} = F_n(x_n, theta_n), Phi its mean loss. With costates p_{n+1} = -dPhi/dx_{n+1}
the Hamiltonian of a layer is H_n(theta) = p_{n+1} . F_n(x_n, theta), and a step of the method takes for every layer

    theta_n <- argmax_theta  H_n(theta) - (rho/2) |F_n(x_n, theta) - F_n(x_n, theta_n)|^2
                                        - (rho/2) |dH_n/dx(theta) - dH_n/dx(theta_n)|^2

with all x_n and p_n as they were at the old weights, so that the layers do not depend on each other. The penalties keep
the states and the costates near those for which H_n was computed; both have the gradient zero at the old weights, and
one gradient step on the whole is one of gradient descent. Where steps share weights, the sum over them is maximised.

All terms are means over the samples of a batch, each with the costate of its own loss: ``rho`` does not depend on the
size of the batch.

Reference: Li, Chen, Tai, E, "Maximum Principle Based Algorithms for Deep Learning", JMLR 18, 2018, arXiv:1710.09513.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from architectures.supervised.layer_calls import LayerCall, gradient_of, recorded_layers
from architectures.supervised.network import Network
from lightning_modules.callbacks.compile import Compiled
from lightning_modules.config.registries import OPTIMIZERS
from lightning_modules.tasks.lightning_attributes import callbacks_of
from schemes.core.state import detached, flatten, unflatten
from schemes.errors import Problems

PRECISIONS = ("32-true", "64-true")


@OPTIMIZERS.register("emsa")
def emsa(
    network: nn.Module,
    trainer: pl.Trainer | None = None,
    *,
    rho: float = 30.0,
    inner: int = 10,
    maximiser: Literal["lbfgs", "gradient"] = "lbfgs",
    lr: float = 1.0,
) -> dict[str, Any]:
    """The extended method of successive approximations (Li et al. 2018), layer by layer; for supervised networks.

    Each step maximises an augmented Hamiltonian of every layer. Where batch norm normalises by the batch, states and
    costates are those of the whole batch; its running statistics are those of the forward pass.

    Args:
        network: with gradient=backprop and steps that are known.
        trainer: of the training, whose settings are checked.
        rho: weight of the penalties on changes of states and costates; without any (0) the method mostly diverges.
        inner: iterations of the maximiser for each layer and batch.
        maximiser: "lbfgs" with a line search, or "gradient" for steps of size ``lr``, one of which is plain SGD.
        lr: length of the first trial of a line search, or of a gradient step.

    Returns:
        The optimiser, as Lightning's ``configure_optimizers`` returns it.

    Raises:
        SchemenetError: a value is out of range, or network or trainer do not fit, with all reasons.
    """
    problems = Problems()
    if not 0 <= rho < math.inf:
        problems.add(f"optimizer.rho: expected a number of at least 0, got {rho}")
    if inner < 1:
        problems.add(f"optimizer.inner: expected at least 1, got {inner}")
    if not 0 < lr < math.inf:
        problems.add(f"optimizer.lr: expected to be above 0, got {lr}")
    problems.add(*(f"optimizer 'emsa': {reason}" for reason in _network_reasons(network)))
    if trainer is not None:
        problems.add(*(f"optimizer 'emsa': {reason}" for reason in _trainer_reasons(trainer)))
    problems.raise_if_any()
    assert isinstance(network, Network)
    return {"optimizer": EMSA(network, rho, inner, maximiser, lr)}


def _network_reasons(network: nn.Module) -> Iterator[str]:
    """Why this network cannot be trained by the method."""
    if not isinstance(network, Network):
        yield (
            f"needs a network of stem, flows and head such as mlp, resnet or odenet, got {type(network).__name__}; "
            "use optimizer=sgd or optimizer=adamw"
        )
        return
    flows = network.flows
    modes = sorted({flow.gradient.name for flow in flows} - {"backprop"})
    if modes:
        yield f"takes second derivatives of steps; gradient={modes[0]} has none, use gradient=backprop"
    implicit = sorted({type(flow.scheme).__name__ for flow in flows if flow.scheme.implicit})
    if implicit:
        yield f"takes second derivatives of steps; the implicit {implicit[0]} has none, use an explicit scheme"
    if any(flow.adaptive for flow in flows):
        yield "needs steps that are known before the solve; use grid=uniform"
    drops = any(isinstance(module, _DropoutNd) and module.p for module in network.modules())
    if network.random_steps or drops:
        yield "evaluates a layer several times, and noise and dropout make it another one each time; use noise=none"


def _trainer_reasons(trainer: pl.Trainer) -> Iterator[str]:
    """Why this trainer cannot run the method."""
    if trainer.world_size > 1:
        yield f"maximises on one device, got trainer.devices with {trainer.world_size} processes; use trainer.devices=1"
    if trainer.precision not in PRECISIONS:
        yield f"trainer.precision: expected one of {', '.join(PRECISIONS)}, got {trainer.precision}"
    if trainer.accumulate_grad_batches > 1:
        yield (
            f"reads the states of one batch, got trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}; "
            "use a larger data.batch_size"
        )
    if trainer.gradient_clip_val is not None:
        yield f"has no gradient to clip, got trainer.gradient_clip_val={trainer.gradient_clip_val}; use null"
    if any(isinstance(callback, Compiled) for callback in callbacks_of(trainer)):
        yield "calls single layers, which trainer.compile makes one graph of; use trainer.compile=false"


class EMSA(torch.optim.Optimizer):
    """Steps of the extended method of successive approximations. It has no state between them.

    Args:
        network: whose weights are trained.
        rho: see :func:`emsa`, as the others.
        inner: iterations of the maximiser.
        maximiser: its name.
        lr: its step length.
    """

    def __init__(
        self,
        network: Network,
        rho: float,
        inner: int,
        maximiser: Literal["lbfgs", "gradient"] = "lbfgs",
        lr: float = 1.0,
    ) -> None:
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        super().__init__(trained, {"lr": lr, "rho": rho, "inner": inner})
        self.network, self.maximiser = network, maximiser

    @torch.enable_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]  # needs its closure
        """One step: states and costates of a batch, then the maximum of each layer.

        Args:
            closure: computes the loss of the batch, the mean over its samples, and its gradients.

        Returns:
            The loss before the step.
        """
        with recorded_layers(self.network) as calls:
            loss = closure()
        group = self.param_groups[0]
        with unchanged_buffers(self.network):  # each call of a layer would move the statistics of batch norm
            terms = [AugmentedHamiltonian(call, group["rho"], group["params"]) for call in calls]
            for weights in separate_weights(terms):
                self._maximise([term for term in terms if term.weights & weights], weights)
        return loss

    def _maximise(self, terms: Sequence[AugmentedHamiltonian], weights: set[int]) -> None:
        """Maximise the sum of some terms over the weights, given by their places in the group."""
        group = self.param_groups[0]
        parameters = [group["params"][place] for place in sorted(weights)]

        def objective() -> Tensor:
            total = -torch.stack([term() for term in terms]).sum()
            for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
                parameter.grad = gradient.contiguous()  # L-BFGS takes views of them as vectors
            return total.detach()

        if self.maximiser == "lbfgs":
            options = {"max_iter": group["inner"], "line_search_fn": "strong_wolfe"}
            torch.optim.LBFGS(parameters, group["lr"], **options).step(objective)
        else:
            descent = torch.optim.SGD(parameters, group["lr"])
            for _ in range(group["inner"]):
                descent.step(objective)


class AugmentedHamiltonian:
    r"""The augmented Hamiltonian of one layer as a function of its weights, zero at those that it has now.

        sum p . (F(x) - F_k(x)) - rho / (2 S) sum |F(x) - F_k(x)|^2 - rho S / 2 sum |dH/dx - dH_k/dx|^2

    where S is the number of samples and p has 1/S of the mean loss: a mean over samples in all three terms.

    Args:
        call: the layer with its states and costates.
        rho: weight of the penalties.
        parameters: of the network.

    Attributes:
        weights: the places among ``parameters`` of those that the layer depends on.
    """

    def __init__(self, call: LayerCall, rho: float, parameters: Sequence[nn.Parameter]) -> None:
        self.layer, self.rho = call.layer, rho
        inputs, self.shape = flatten(detached(call.before))
        self.inputs = [leaf.requires_grad_() for leaf in inputs]
        outputs = flatten(call.after)[0]
        self.samples = self.inputs[0].shape[0]
        self.outputs = [leaf.detach() for leaf in outputs]
        self.costates = [-gradient_of(leaf) for leaf in outputs]
        hamiltonian, _ = self._evaluate()
        gradients = torch.autograd.grad(hamiltonian, [*self.inputs, *parameters], allow_unused=True)
        self.slopes = [
            torch.zeros_like(leaf) if slope is None else slope
            for leaf, slope in zip(self.inputs, gradients, strict=False)
        ]
        used = gradients[len(self.inputs) :]
        self.weights = {place for place, gradient in enumerate(used) if gradient is not None}

    def __call__(self) -> Tensor:
        """The value at the present weights."""
        hamiltonian, changes = self._evaluate()
        slopes = torch.autograd.grad(hamiltonian, self.inputs, create_graph=True, materialize_grads=True)
        bends = [slope - before for slope, before in zip(slopes, self.slopes, strict=True)]
        of_states, of_costates = _square(changes) / self.samples, _square(bends) * self.samples
        return hamiltonian - self.rho / 2 * (of_states + of_costates)

    def _evaluate(self) -> tuple[Tensor, list[Tensor]]:
        """The Hamiltonian, less that at the first weights, and the changes of the outputs."""
        outputs = flatten(self.layer(unflatten(self.inputs, self.shape)))[0]
        changes = [value - before for value, before in zip(outputs, self.outputs, strict=True)]
        products = [(p * change).sum() for p, change in zip(self.costates, changes, strict=True)]
        return torch.stack(products).sum(), changes


def _square(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.square().sum() for value in values]).sum()


def separate_weights(terms: Sequence[AugmentedHamiltonian]) -> list[set[int]]:
    """The weights of the terms in the smallest sets of which no term has weights of two."""
    separate: list[set[int]] = []
    for term in terms:
        joined = set(term.weights).union(*(weights for weights in separate if weights & term.weights))
        separate = [weights for weights in separate if not weights & joined] + [joined] * bool(joined)
    return separate


@contextlib.contextmanager
def unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the buffers of a module at the end."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, values in before:
            buffer.copy_(values)
