"""Figures of one run: the numbers behind them, what is refused, that they are drawn."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from architectures import create_model
from architectures.supervised.network import Network
from lightning_modules.cli import main
from lightning_modules.config.compose import compose
from lightning_modules.launching.multi_process import train
from lightning_modules.plotting import error_control, trajectories
from lightning_modules.plotting.supervised import NetworkWithSamples
from schemes.core.node import Node
from schemes.flow import Flow
from schemes.ivp.solve import solve
from tests.lightning_modules.plotting.test_plots import clipped

PLANE = ["logger=csv", "trainer.threads=1", "architecture=mlp", "architecture.stem=none", "architecture.width=0.25",
         "field=mlp_time", "sharing=shared", "data=moons", "data.limit_train=100", "data.limit_test=20",
         "data.batch_size=20", "trainer.log_every_n_steps=2", "trainer.max_epochs=2"]  # fmt: skip
ADAPTIVE = ["scheme=dopri5", "grid=adaptive", "gradient=checkpoint"]
TOLERANCES = (1e-2, 1e-4, 1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "plane"
    train(compose("train", [*PLANE, *ADAPTIVE]), folder)
    return folder


def network(**options: Any) -> Network:
    torch.manual_seed(1)
    options = {"scheme": "dopri5", "grid": "adaptive", "stem": "none", "field": "mlp_time", "hidden": 8} | options
    made = create_model("mlp", num_classes=2, in_chans=2, image_size=None, **options).double().eval()
    for parameter in made.flows[0].parameters():
        parameter.data.mul_(3)  # so that there is something to solve
    return made


def network_with_samples(**options: Any) -> NetworkWithSamples:
    return NetworkWithSamples(network(**options), torch.randn(6, 2, dtype=torch.float64), torch.arange(6) % 2)


def texts(figure: Figure) -> str:
    drawn = [figure._suptitle, *(text for ax in figure.axes for text in (ax.title, *ax.texts))]
    return "\n".join(text.get_text() for text in drawn if text is not None)


# Error control


def test_a_tighter_tolerance_costs_more_and_errs_less() -> None:
    sample = network_with_samples()
    before = sample.network.flows[0].grid
    found = error_control.errors(sample, TOLERANCES)
    assert [s.tolerance for s in found] == list(TOLERANCES)
    assert found[0].nfe < found[1].nfe < found[2].nfe
    assert found[0].error > found[1].error > 10 * found[2].error
    assert found[2].error < 1e-5
    assert sample.network.flows[0].grid is before, "the network is left as it was"
    assert before.rtol == 1e-3


def test_the_error_is_that_against_the_solution() -> None:
    sample = network_with_samples()
    flow = sample.network.flows[0]
    f = lambda t, u: flow.bank(Node(0, float(t), 0.0), u)
    with torch.no_grad():
        ends = [solve(f, sample.inputs, [0.0, 1.0], grid={"name": "adaptive", "rtol": tol, "atol": tol}).values[-1]
                for tol in (1e-3, 1e-12)]  # fmt: skip
    (found,) = error_control.errors(sample, [1e-3])
    assert found.error == pytest.approx(float((ends[0] - ends[1]).norm() / ends[1].norm()), rel=1e-3)


def test_times_are_relative_to_the_least_and_leave_the_precision() -> None:
    sample = network_with_samples()
    found = error_control.times(sample, TOLERANCES, repetitions=2)
    assert min(t.time for t in found) == 1
    assert [t.nfe for t in found] == sorted(t.nfe for t in found)
    assert next(sample.network.parameters()).dtype == torch.float64


def test_both_passes_are_counted() -> None:
    sample = network_with_samples()
    checkpoint = error_control.passes(sample, "checkpoint", [1e-3])[0]
    network_then = error_control.at_tolerance(sample.network, 1e-3).float()
    network_then(sample.inputs.float())
    assert checkpoint.forward == network_then.flows[0].forward_counts.evaluations
    assert 0 < checkpoint.backward <= checkpoint.forward
    loose, tight = error_control.passes(sample, "adjoint", [1e-2, 1e-5])
    assert 0 < loose.backward < tight.backward


def test_the_log_of_a_run_is_read(run: Path) -> None:
    found = error_control.course(run)
    assert [epoch for epoch, _ in found.epochs] == [0.5, 1.5]
    assert [epoch for epoch, _ in found.tests] == [1, 2]
    assert [place for place, _ in found.batches] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])  # each second of five
    pairs = error_control.logged(run)
    assert len(pairs) == 5
    assert all(0 < pair.backward <= pair.forward for pair in pairs)


def test_a_power_law_is_found() -> None:
    assert error_control.power([10, 20, 40], [3.0, 3 / 32, 3 / 1024]) == pytest.approx(-5)


def test_the_error_falls_faster_without_kinks_under_the_same_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_control, "REFERENCE", 1e-7)
    slopes = {}
    for activation in ("relu", "tanh"):
        torch.manual_seed(0)
        field = {"name": "basic_time", "activation": activation}
        network = create_model("odenet", in_chans=1, width=0.125, field=field).double().eval()
        sample: Any = SimpleNamespace(network=network, inputs=torch.randn(1, 1, 16, 16, dtype=torch.float64))
        found = error_control.errors(sample, (1e-3, 1e-5))
        slopes[activation] = error_control.power([s.nfe for s in found], [s.error for s in found])
    assert slopes["tanh"] < -5 < -4 < slopes["relu"]


def test_error_control_is_drawn(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_control, "IMAGES", 4)
    monkeypatch.chdir(tmp_path)
    assert main(["figure", "error-control", str(run), "--out", "picture.png"]) == 0
    assert Path("picture.png").is_file()
    figure = error_control.draw(run)
    assert len(figure.axes) == 4
    assert "4 test samples" in texts(figure)
    assert "trained at rtol = 0.001" in texts(figure)
    told = figure.axes[0].get_title(loc="left")
    assert re.search(r"NFE\$\^{-[\d.]+}\$ \(6 points, \d+ to \d+ NFE\)", told)
    assert not clipped(figure)


# Trajectories


def test_paths_begin_at_the_points_and_end_where_the_flow_does() -> None:
    for options in ({}, {"grid": {"name": "uniform", "time": 1.0, "steps": 4}, "sharing": "shared"}):
        sample = network_with_samples(**options)
        flow = sample.network.flows[0]
        found = trajectories.paths(flow, trajectories.start(sample))
        assert found.times[0] == 0
        assert found.times[-1] == pytest.approx(1)
        assert found.states[0] == pytest.approx(sample.inputs.numpy())
        with torch.no_grad():
            assert found.states[-1] == pytest.approx(flow(sample.inputs).numpy(), rel=1e-9)


def test_heun_is_evaluated_at_both_ends_of_its_steps_and_for_all_points() -> None:
    uniform = {"grid": {"name": "uniform", "time": 1.0, "steps": 4}, "sharing": "shared", "scheme": "heun"}
    sample = network_with_samples(**uniform)
    flow = sample.network.flows[0]
    evaluated = trajectories.evaluations(flow, sample.inputs)
    path = trajectories.paths(flow, sample.inputs)
    assert evaluated.times == pytest.approx([0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1])
    assert evaluated.states[::2] == pytest.approx(path.states[:-1])  # the first stage is at the state itself
    euler = path.states[0] + 0.25 * trajectories.field(flow, 0.0, sample.inputs)
    assert evaluated.states[1] == pytest.approx(euler)
    assert evaluated.steps == pytest.approx(path.times)
    assert evaluated.rejected == 0
    assert not flow.bank._forward_pre_hooks


class Stiff(torch.nn.Module):
    """u' = -k(t) u, where k is large around t = 0.7."""

    def forward(self, t: Any, y: torch.Tensor) -> torch.Tensor:
        return -100 * torch.exp(-((torch.as_tensor(t) - 0.7) ** 2) / 0.005) * y


def test_evaluations_crowd_where_the_field_is_hard() -> None:
    flow = Flow(lambda node: Stiff(), 1, scheme="dopri5", grid={"name": "adaptive", "rtol": 1e-5, "atol": 1e-5})
    y = torch.ones(3, 2, dtype=torch.float64)
    evaluated = trajectories.evaluations(flow, y)
    times, _ = np.histogram(evaluated.times, bins=[0, 0.2, 0.4, 0.6, 0.8, 1])
    assert times[3] > 3 * max(times[0], times[1])
    assert evaluated.rejected > 0
    with torch.no_grad():
        flow(y)
    assert len(evaluated.times) == flow.forward_counts.evaluations - 1  # the search of the first step's size
    assert len(evaluated.steps) == flow.forward_counts.accepted + 1


def test_arrows_are_the_slopes_of_the_paths() -> None:
    sample = network_with_samples(grid={"name": "adaptive", "rtol": 1e-9, "atol": 1e-9})
    flow = sample.network.flows[0]
    found = trajectories.paths(flow, sample.inputs)
    slopes = (found.states[21] - found.states[19]) / (found.times[21] - found.times[19])
    arrows = trajectories.field(flow, float(found.times[20]), torch.from_numpy(found.states[20]))
    assert arrows == pytest.approx(slopes, rel=1e-2, abs=1e-2)


def test_the_boundary_has_equal_logits() -> None:
    made = network()
    a, b, c = trajectories.boundary(made)
    on_it = torch.tensor([[1.0, -(a + c) / b]], dtype=torch.float64)
    ((one, other),) = made.forward_head(on_it).tolist()
    assert one == pytest.approx(other)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, None),
        ({"augment": 1}, None),
        ({"stem": "linear"}, "moves points in 8 dimensions"),
        ({"scheme": "verlet", "grid": "uniform", "augment": 2}, "coupled state"),
    ],
)
def test_what_is_no_flow_of_the_plane_is_refused(options: dict[str, Any], told: str | None) -> None:
    reason = trajectories.refusal(network_with_samples(**options))
    assert (reason is None) if told is None else (told in str(reason))


def test_trajectories_are_drawn(run: Path, tmp_path: Path) -> None:
    assert main(["figure", "trajectories", str(run), "--out", str(tmp_path / "t.png")]) == 0
    figure = trajectories.draw(run)
    *titles, counts = (ax.get_title(loc="left") for ax in figure.axes)
    assert titles == ["t = 0", "t = 0.333", "t = 0.667", "t = 1"]
    assert re.fullmatch(r"\d+ evaluations of f in \d+ steps?(, \d+ rejected)?", counts)
    assert not clipped(figure)
    with_one_more = tmp_path / "augmented"
    train(compose("train", [*PLANE, "architecture.augment=1", "grid.time=1.0", "trainer.max_epochs=1"]), with_one_more)
    assert "two of 3 dimensions" in texts(trajectories.draw(with_one_more))


def test_runs_without_such_a_picture_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(compose("train", ["debug=fast", "architecture=ode_resnet", "architecture.width=0.25"]), tmp_path)
    assert main(["figure", "trajectories", str(tmp_path)]) == 2
    assert "trajectories are of points" in capsys.readouterr().err
    assert main(["figure", "error_control", str(tmp_path)]) == 2
    assert "expected a run on grid=adaptive" in capsys.readouterr().err
