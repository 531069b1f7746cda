"""Costates and Hamiltonians along the depth of whole networks, and their picture."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures import create_model
from architectures.model import Model
from lightning_modules.cli import main
from lightning_modules.evaluation.costates import FlowCostates, costates_along_depth
from lightning_modules.plotting import costate as plotting
from lightning_modules.training.loading import load_run


def images(size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, 3, 8, 8, generator=generator, dtype=torch.float64), torch.arange(size)


def network(name: str, **options: Any) -> Model:
    torch.manual_seed(0)
    return create_model(name, **options).double()


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", ["resnet", "revnet", "lm_resnet"])
def test_norms_are_those_of_the_gradients_of_each_samples_loss(name: str, norm: str) -> None:
    made, batch = network(name, depth=(2, 3, 2), widths=(8, 8, 8), norm=norm), images()
    before = copy.deepcopy(made.state_dict())
    flows = costates_along_depth(made, batch)
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())
    assert [len(flow.norms) for flow in flows] == [1 + len(flow.nodes) for flow in made.flows]
    state = made.stem(batch[0]) if norm == "group" else made.train().stem(batch[0])
    state = state.detach().requires_grad_()
    made.stem = torch.nn.Identity()
    (gradient,) = torch.autograd.grad(made.loss((state, batch[1])), state)
    assert flows[0].norms[0] == pytest.approx(math.sqrt(len(state)) * float(gradient.norm()), rel=1e-10)


def test_a_plain_network_has_costates_and_no_hamiltonian() -> None:
    made, batch = network("plain", depth=(2, 3, 2), widths=(8, 8, 8), norm="none"), images()
    assert sum(p.numel() for p in made.parameters()) == sum(
        p.numel() for p in network("resnet", depth=(2, 3, 2), widths=(8, 8, 8), norm="none").parameters()
    )
    flows = costates_along_depth(made, batch)
    assert all(flow.hamiltonians is None and flow.drift is None for flow in flows)
    assert len(plotting.figure_of([("plain", plotting.LOOKS[0], flows)]).axes) == 1


def shared_flow(scheme: str, steps: int, **options: Any) -> FlowCostates:
    grid = {"name": "uniform", "time": 1.0}
    data = {"num_classes": 2, "in_chans": 2, "image_size": None}
    axes = {"scheme": scheme, "grid": grid, "sharing": "shared", "steps": steps, "hidden": 6}
    made = network("mlp", **data, **axes | options)
    inputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return costates_along_depth(made, (inputs, torch.arange(8) % 2))[0]


@pytest.mark.parametrize(("scheme", "order"), [("forward_euler", 1), ("heun", 2), ("rk4", 4)])
def test_the_drift_of_the_hamiltonian_converges_with_the_order_of_the_scheme(scheme: str, order: int) -> None:
    coarse, fine = (shared_flow(scheme, steps).drift for steps in (8, 16))
    assert coarse is not None
    assert fine is not None
    assert fine > 1e-12
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("kind", ["piecewise_constant", "hat", "legendre", "fourier"])
def test_one_function_of_time_has_the_drift_of_shared_weights(kind: str) -> None:
    basis = {"name": "basis", "kind": kind, "size": 1}
    assert shared_flow("heun", 4, sharing=basis) == shared_flow("heun", 4)


TWO = {"name": "basis", "kind": "hat", "size": 2}


@pytest.mark.parametrize("options", [{"field": "mlp_time"}, {"sharing": "per_step"}, {"sharing": TWO}])
def test_a_hamiltonian_that_is_not_constant_has_no_drift(options: dict[str, Any]) -> None:
    flow = shared_flow("heun", 4, **options)
    assert flow.hamiltonians is not None
    assert len(flow.hamiltonians) == 4
    assert flow.drift is None


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose learning rate is zero."""
    folder = tmp_path_factory.mktemp("runs") / "ode"
    words = ["architecture=ode_resnet", "architecture.width=0.25", "architecture.norm=group", "field=basic"]
    assert main(["train", "debug=fast", *words, "optimizer.lr=0", "seed=3", f"folder={folder}"]) == 0
    return folder


def test_a_run_begins_with_the_network_of_its_seed(run: Path) -> None:
    loaded = load_run(run, Model)
    random = torch.get_rng_state()
    start = loaded.untrained().network.state_dict()
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, start[key]) for key, value in loaded.network.state_dict().items())


def test_figure_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "costate.png"
    assert main(["figure", "costate", str(run), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert out.stat().st_size > 10_000
    assert printed.out.count("drift of H along flow") == 6
    assert "backprop through the steps" in " ".join(printed.err.split())
    figure = plotting.draw(run)
    norms, hamiltonians = figure.axes
    assert (norms.get_yscale(), hamiltonians.get_yscale()) == ("log", "linear")
    lines = [line for line in norms.lines if len(line.get_xdata()) > 2]
    assert len(lines) == 6
    limits = norms.get_xlim()
    assert all(limits[0] < min(line.get_xdata()) < max(line.get_xdata()) < limits[1] for line in lines)


def test_a_network_without_flows_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "stem"
    assert main(["train", "debug=fast", "architecture=stem_only", "architecture.width=0.25", f"folder={folder}"]) == 0
    assert main(["figure", "costate", str(folder)]) == 2
    assert f"{folder}: the network has no flow" in capsys.readouterr().err
