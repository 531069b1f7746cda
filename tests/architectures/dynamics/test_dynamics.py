"""Trajectories: what models of them compute and learn, their data, and the way through a user's commands."""

from __future__ import annotations

import json
import math
from csv import DictReader
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from architectures.dynamics.base import TrajectoryModel
from architectures.dynamics.neural_ode import Learned, NeuralODE
from architectures.factory import create_model, list_models
from architectures.observations import Observations, SeriesBatch
from architectures.registry import SYSTEMS
from architectures.standardizer import Standardizer, slopes
from lightning_modules.cli import main
from lightning_modules.config.registries import DATA, OPTIMIZERS
from lightning_modules.data.dynamics.simulated import trajectories
from lightning_modules.data.series.series_set import Series, SeriesSet
from lightning_modules.plotting import field
from lightning_modules.tasks.trajectory import TrajectoryModule
from schemes.core.node import Node
from schemes.errors import SchemenetError
from schemes.ivp.trajectory_flow import TrajectoryFlow

MODELS = list_models(task="trajectory")
FIRST, LATER = slice(0, 1), slice(1, None)


def model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    small = {"hidden": 8, **({} if name == "trajectory_gru" else {"steps": 8})}
    return create_model(name, num_classes=0, in_chans=2, image_size=None, **{**small, **options}).double()


def irregular(count: int, points: int = 5, seed: int = 0) -> SeriesSet:
    """Positive random series at times of their own in [0, 1], one value in four missing."""
    stream = torch.Generator().manual_seed(seed)
    series = []
    for _ in range(count):
        times = torch.cat((torch.zeros(1), torch.randperm(63, generator=stream)[:points].sort().values + 1)) / 64
        values = 0.5 + torch.rand(points + 1, 2, generator=stream, dtype=torch.float64)
        mask = torch.rand(points + 1, 2, generator=stream) < 0.75
        mask[:2] = True
        series.append(Series(times, values, mask))
    return SeriesSet([one.at(FIRST) for one in series], [one.at(LATER) for one in series])


def whole(samples: SeriesSet) -> SeriesBatch:
    return samples[torch.arange(len(samples))]


def gradients(network: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [p for p in network.parameters() if p.requires_grad]))


# What models compute


@pytest.mark.parametrize("name", MODELS)
def test_a_series_in_a_batch_is_what_it_is_alone(name: str) -> None:
    network, samples = model(name), irregular(5)
    network.adapt(whole(samples))
    batch = whole(samples)
    together = network(batch)
    for i in range(len(samples)):
        alone = samples[torch.tensor([i])]
        own = torch.isin(batch.targets.times, alone.targets.times)
        torch.testing.assert_close(together[i, own], network(alone)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_what_was_not_observed_carries_no_gradient(name: str) -> None:
    network, batch = model(name), whole(irregular(4))
    targets = batch.targets._replace(values=batch.targets.values.clone().requires_grad_())
    loss = network.loss(batch._replace(targets=targets))
    of_values = torch.autograd.grad(loss, targets.values, retain_graph=True)[0]
    assert torch.equal(of_values != 0, targets.mask > 0)
    elsewhere = batch.targets._replace(values=batch.targets.values.where(batch.targets.mask > 0, 1e3))
    for a, b in zip(
        gradients(network, loss), gradients(network, network.loss(batch._replace(targets=elsewhere))), strict=True
    ):
        assert torch.equal(a, b)


def test_the_loss_is_the_mean_over_observed_values_in_units_of_each_channel() -> None:
    network, batch = model("neural_ode"), whole(irregular(3))
    network.adapt(batch)
    apart = ((network(batch) - batch.targets.values) / network.units.scale)[batch.targets.mask > 0]
    torch.testing.assert_close(network.loss(batch), (apart**2).mean())


def test_steps_keep_their_size_beyond_the_span_of_training() -> None:
    network = model("neural_ode", scheme="forward_euler", steps=4)
    network.adapt(whole(irregular(3)))
    span = float(network.units.span)
    y = torch.tensor([[0.6, 1.1]], dtype=torch.float64)
    times = span / 4 * torch.arange(1, 10, dtype=torch.float64)
    found = network.states(y, times[0] * 0, times)
    for state in found:
        y = y + span / 4 * network.rate(times[0], y)
        torch.testing.assert_close(state, y, rtol=1e-9, atol=1e-12)
    assert network.path.forward_counts.evaluations >= 12  # three spans are counted together


@pytest.mark.parametrize("scheme", ["verlet", "symplectic_euler"])
def test_a_coupled_scheme_moves_each_half_by_the_other(scheme: str) -> None:
    network = model("neural_ode", scheme=scheme, augment=2)
    network.adapt(whole(irregular(3)))
    t, y = torch.zeros((), dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda y: network.rate(t, y[None])[0], y)
    assert not jacobian[:2, :2].any()
    assert not jacobian[2:, 2:].any()
    assert jacobian[:2, 2:].all()
    units, first = network.units, network.path.functions[0][0].field
    seen = (y[2:] - units.location[2:]) / units.scale[2:]
    torch.testing.assert_close(
        network.rate(t, y[None])[0, :2], units.rate[:2] * first(Node(0, 0.0, 0.0), seen[None])[0]
    )
    assert network(whole(irregular(3))).shape == (3, len(whole(irregular(3)).targets.times), 2)


def test_units_are_those_of_the_observed_values() -> None:
    times = torch.tensor([0.0, 1.0, 3.0, 4.0], dtype=torch.float64)
    values = torch.stack((2 * times, times * 0 + 5), 1)[None]
    mask = torch.tensor([[1.0, 1], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)[None]
    seen = Observations(times, values * mask, mask)
    assert slopes(seen).tolist() == [2.0, 0.0]
    units = Standardizer(3).double()
    first, later = (Observations(times[s], (values * mask)[:, s], mask[:, s]) for s in (FIRST, LATER))
    units.adapt(SeriesBatch(first, later))
    observed = values[0, mask[0, :, 0] > 0, 0]
    assert units.location.tolist() == pytest.approx([float(observed.mean()), 5.0, 0.0])
    assert units.scale.tolist() == pytest.approx([float(observed.std(correction=0)), 1.0, 1.0])
    assert units.rate.tolist() == pytest.approx([2.0, 0.25, (2 / float(units.scale[0]) + 0.25) / 2])
    assert float(units.span) == 4.0


@pytest.mark.parametrize(
    ("scheme", "mode", "grid"),
    [
        ("rk4", "checkpoint", "uniform"),
        ("verlet", "reversible", "uniform"),
        ("dopri5", "checkpoint", "tight"),
        ("dopri5", "adjoint", "tight"),
    ],
)
def test_gradient_modes_agree_on_the_loss_along_a_path(scheme: str, mode: str, grid: str) -> None:
    batch = whole(irregular(4))
    spec: Any = {"name": "adaptive", "rtol": 1e-10, "atol": 1e-12} if grid == "tight" else "uniform"
    found = []
    for gradient in ("backprop", mode):
        network = model("neural_ode", scheme=scheme, grid=spec, gradient=gradient)
        network.adapt(batch)
        found.append(gradients(network, network.loss(batch)))
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(
            other, plain, rtol=1e-5 if mode == "adjoint" else 1e-9, atol=1e-8 if mode == "adjoint" else 1e-12
        )


# What they learn


def fit(network: TrajectoryModel, batch: SeriesBatch, iterations: int = 60) -> float:
    optimizer = torch.optim.LBFGS(
        [p for p in network.parameters() if p.requires_grad], max_iter=iterations, line_search_fn="strong_wolfe",
        tolerance_change=1e-14, tolerance_grad=1e-12,
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = network.loss(batch)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(network.loss(batch).detach())


def solved(f: Any, count: int, span: float, points: int = 6) -> SeriesBatch:
    """Trajectories of f at irregular times of their own."""
    stream = torch.Generator().manual_seed(1)
    y0 = 0.5 + torch.rand(count, 2, generator=stream, dtype=torch.float64)
    slots = span * torch.arange(65, dtype=torch.float64) / 64
    states = trajectories(f, y0, slots)
    own = torch.stack([torch.randperm(64, generator=stream)[:points].sort().values + 1 for _ in range(count)])
    seen = torch.ones(points + 1, 2, dtype=torch.bool)
    series = [
        Series(slots[chosen], path[chosen], seen)
        for path, chosen in zip(states, torch.cat((torch.zeros(count, 1, dtype=torch.long), own), 1), strict=True)
    ]
    return whole(SeriesSet([one.at(FIRST) for one in series], [one.at(LATER) for one in series]))


def test_a_linear_system_is_recovered_from_irregular_observations() -> None:
    matrix = torch.tensor([[-0.2, 1.5], [-1.0, 0.1]], dtype=torch.float64)
    batch = solved(lambda t, y: y @ matrix.T, 6, 2.0)

    class Linear(nn.Linear):
        def forward(self, node: Any, y: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(y)

    torch.manual_seed(0)
    units = Standardizer(2)
    linear = Linear(2, 2)
    path = TrajectoryFlow(
        [Learned(units, linear, slice(0, 2), slice(0, 2))], "rk4", {"name": "uniform", "steps": 64}, "backprop"
    )
    network = NeuralODE(path, units, 2, 0, {}).double()
    network.adapt(batch)
    assert fit(network, batch) < 1e-12
    learned = units.rate[:, None] * linear.weight / units.scale
    torch.testing.assert_close(learned.detach(), matrix, rtol=1e-4, atol=1e-4)
    apart = network.rate(units.span, torch.zeros(1, 2, dtype=torch.float64))
    assert apart.abs().max() < 1e-4


def test_constants_of_lotka_volterra_are_found_from_wrong_ones() -> None:
    truth = {"alpha": 1.5, "beta": 1.0, "gamma": 3.0, "delta": 1.0}
    batch = solved(SYSTEMS.build({"name": "lotka_volterra", **truth}).double(), 4, 2.0)
    network = model(
        "universal_ode", known={"name": "lotka_volterra", "alpha": 1.0, "beta": 0.7, "gamma": 2.0, "delta": 1.4},
        learned=list(truth), unknown="nothing", steps=32,
    )  # fmt: skip
    network.adapt(batch)
    assert sum(p.numel() for p in network.parameters()) == 4
    fit(network, batch)
    learned = {name: value.item() for name, value in network.system.named_parameters()}
    assert learned == pytest.approx(truth, rel=1e-3)


def test_the_known_part_stays_and_the_network_learns_the_rest() -> None:
    batch = solved(SYSTEMS.build({"name": "pendulum", "damping": 0.5}).double(), 6, 3.0)
    network = model("universal_ode", known="pendulum", steps=16)
    network.adapt(batch)
    assert not any(value.requires_grad for value in network.system.parameters())
    assert fit(network, batch, 40) < 1e-3
    y = batch.targets.values[batch.targets.mask.amin(-1) > 0]
    wrong = network.rate(batch.targets.times[0], y) - network.system(0.0, y)
    assert (wrong - torch.stack((0 * y[:, 1], -0.5 * y[:, 1]), 1)).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("universal_ode", {"known": "lorenz"}, "known='lorenz' has 3 channels (x, y, z), the data 2; systems of 2: "),
        ("universal_ode", {"known": "pendulun"}, "did you mean 'pendulum'?"),
        ("universal_ode", {"known": "pendulum", "learned": ["mass"]}, "no constant of pendulum 'mass'"),
        ("universal_ode", {"unknown": "nothing"}, "leaves nothing to train; expected constants to learn, learned: "),
        ("universal_ode", {"scheme": "verlet"}, "a known system is of the whole state"),
        ("neural_ode", {"scheme": "verlet", "augment": 1}, "has no 2 equal parts; use augment=2"),
        ("neural_ode", {"field": "basic"}, "has vectors for states; field 'basic' takes images"),
        ("neural_ode", {"grid": "adaptive"}, "needs a scheme that estimates its errors"),
        ("neural_ode", {"field": {"name": "mlp", "layers": 0}}, "layers expected to be at least 1, got 0"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemenetError) as caught:
        model(name, **options)
    assert said in str(caught.value)


# Data

SYSTEM_DATA = ["lorenz", "lotka_volterra", "pendulum", "spiral"]


@pytest.mark.parametrize("name", SYSTEM_DATA)
def test_generated_data_solve_their_equation(name: str) -> None:
    data = DATA.build({"name": name, "train_size": 3, "test_size": 2, "times": 8, "beyond": 1.0}, seed=5)
    data.setup()
    for samples, spans in ((data.train_set, 1), (data.test_set, 2)):
        batch = whole(samples)
        assert batch.targets.times.tolist() == pytest.approx([data.span * i / 8 for i in range(1, 8 * spans + 1)])
        for first, later in zip(batch.observed.values[:, 0], batch.targets.values, strict=True):
            found = solve_ivp(
                lambda t, y: data.system(t, torch.from_numpy(y)).numpy(), (0.0, spans * data.span),
                first.double().numpy(), method="DOP853", rtol=1e-11, atol=1e-12, t_eval=batch.targets.times.double(),
            )  # fmt: skip
            np.testing.assert_allclose(later, found.y.T, rtol=2e-5, atol=2e-4)


def test_the_same_data_for_every_run_and_other_starts_for_the_test() -> None:
    one, other = (DATA.build({"name": "pendulum", "train_size": 4, "test_size": 4}, seed=seed) for seed in (0, 1))
    one.setup()
    other.setup()
    assert torch.equal(whole(one.train_set).targets.values, whole(other.train_set).targets.values)
    assert not torch.isin(whole(one.train_set).observed.values, whole(one.test_set).observed.values).any()


def test_noise_is_of_the_training_set_alone_and_irregular_times_are_of_each_series() -> None:
    plain, noisy = (
        DATA.build({"name": "spiral", "irregular": True, "noise": noise, "train_size": 200, "times": 4}, seed=0)
        for noise in (0.0, 0.1)
    )
    plain.setup()
    noisy.setup()
    assert torch.equal(whole(plain.test_set).targets.values, whole(noisy.test_set).targets.values)
    before, after = whole(plain.train_set).targets, whole(noisy.train_set).targets
    moved = (after.values - before.values)[before.mask > 0].std() / before.values[before.mask > 0].std()
    assert float(moved) == pytest.approx(0.1, rel=0.1)
    assert (before.mask[..., 0].sum(1) == 4).all()
    assert len(before.times) == 32
    assert before.times[-1] <= plain.span


def csv(tmp_path: Path, text: str) -> str:
    (tmp_path / "s.csv").write_text("series,time,x,y\n" + text)
    return str(tmp_path / "s.csv")


LONG = "".join(f"s{i},{10 + t},{i + t},{'' if t == 0 else i - t}\n" for i in range(4) for t in range(6))


def test_trajectories_of_a_csv_begin_where_all_is_known_and_part_of_the_time_is_held_out(tmp_path: Path) -> None:
    data = DATA.build({"name": "trajectories_csv", "path": csv(tmp_path, LONG), "test": 0.25, "beyond": 0.5}, seed=0)
    data.check()
    data.setup()
    assert (data.channels, data.context["in_chans"], data.span) == (("x", "y"), 2, 2.0)
    assert (len(data.train_set), len(data.test_set)) == (3, 1)
    assert whole(data.train_set).targets.times.tolist() == [1, 2]
    assert whole(data.test_set).targets.times.tolist() == [1, 2, 3, 4]
    held = whole(data.test_set).observed.values[0, 0].sum() / 2  # its name: x + y = 2 i
    assert held not in whole(data.train_set).observed.values[:, 0].sum(-1) / 2


def test_windows_of_a_csv_begin_at_each_whole_point(tmp_path: Path) -> None:
    one = "".join(f"a,{t},{t},{'' if t == 2 else 0}\n" for t in range(9))
    data = DATA.build({"name": "trajectories_csv", "path": csv(tmp_path, one), "window": 2, "beyond": 0.25}, seed=0)
    data.setup()
    batch = whole(data.train_set)
    assert batch.observed.values[:, 0, 0].tolist() == [0, 1, 3, 4, 5]  # t = 6, the last within, has none after it
    assert batch.targets.times.tolist() == [1, 2]
    assert data.shape == (2, 2)
    assert whole(data.test_set).targets.times[-1] == 8  # the one series there is


@pytest.mark.parametrize(
    ("options", "text", "said"),
    [
        ({}, "a,0,1,\na,1,,2\n", "series 'a' has no time at which all channels (x, y) are observed, with one after it"),
        ({}, "a,0,1,2\na,1,warm,2\n", "line 3: column 'x': expected a finite number, got 'warm'"),
        ({}, "a,0,1,2\na,1e300,1,2\n", "line 3: column 'time': expected a finite number, got '1e300'"),
        ({"test": 1.5}, LONG, "data.test: expected a share below 1, got 1.5"),
        ({"window": 0}, LONG, "data.window: expected at least 1, got 0"),
        ({"path": None}, LONG, "data.path: expected a csv file of series (series,time,CHANNEL,...), got null"),
        ({"beyond": 0.99}, "a,0,1,2\na,1,1,2\n", "no training series has two observations before t = 0.01"),
    ],
)
def test_what_a_csv_cannot_be_read_as_is_told(tmp_path: Path, options: dict[str, Any], text: str, said: str) -> None:
    def read() -> None:
        data = DATA.build({"name": "trajectories_csv", "path": csv(tmp_path, text), **options}, seed=0)
        data.check()
        data.setup()

    with pytest.raises(SchemenetError) as caught:
        read()
    assert said in str(caught.value)


# Through the tasks and the commands


def test_rmse_is_measured_within_the_span_and_beyond() -> None:
    options = {"hidden": 4, "steps": 4}
    data = {"num_classes": 0, "in_chans": 2, "image_size": None}
    module = TrajectoryModule("neural_ode", options, data, {"name": "adamw"})
    module.span.fill_(0.5)
    batches = [
        SeriesBatch(*(type(part)(*(x.float() for x in part)) for part in batch[:2]))
        for batch in (whole(irregular(3)), whole(irregular(2, seed=7)))
    ]
    within, beyond = [], []
    with torch.no_grad():
        for batch in batches:
            module.measure(batch)
            apart = module(batch) - batch.targets.values
            early = (batch.targets.times <= 0.5)[:, None].expand_as(apart[0])
            within.append(apart[(batch.targets.mask > 0) & early])
            beyond.append(apart[(batch.targets.mask > 0) & ~early])
    found = module.results()
    for name, parts in (("rmse", within), ("rmse_beyond", beyond)):
        assert float(found[name]) == pytest.approx(float((torch.cat(parts) ** 2).mean().sqrt()), rel=1e-5)


def test_what_is_observed_at_the_end_of_the_span_is_within_it() -> None:
    """However the times of a set that goes on for long are rounded."""
    data = DATA.build({"name": "lotka_volterra", "span": 0.7, "beyond": 20.0, "train_size": 1, "test_size": 1}, seed=0)
    data.setup()
    module = TrajectoryModule("trajectory_gru", {"hidden": 4}, data.context, {"name": "adamw"})
    module.span.fill_(data.span)
    module.measure(data.test_set[torch.arange(1)])
    assert float(module.metrics["rmse"].weight) == 16 * 2


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_no_number_is_not_left_out_of_a_mean(wrong: float) -> None:
    module = TrajectoryModule("trajectory_gru", {"hidden": 4}, {"num_classes": 0, "in_chans": 2}, {"name": "adamw"})
    module.span.fill_(0.5)
    batch = whole(irregular(3))
    answers = batch.targets.values.clone()
    late = batch.targets.mask * (batch.targets.times > 0.5)[:, None]
    answers[tuple(late.nonzero()[0])] = wrong
    module.network.forward = lambda _: answers  # type: ignore[method-assign]
    module.measure(batch)
    found = {key: float(value) for key, value in module.results().items()}
    assert found["rmse"] == 0
    assert not math.isfinite(found["rmse_beyond"])


def command(*words: str) -> None:
    assert main(list(words)) == 0


SHORT = (
    "experiment=dynamics", "data=pendulum", "data.span=2", "data.train_size=64", "data.times=8", "data.beyond=1",
    "architecture.steps=8",
)  # fmt: skip


def test_dynamics_are_learned_and_their_field_is_drawn(tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "run"
    command(
        "train", *SHORT, f"folder={folder}", "trainer.max_epochs=60", "optimizer.lr=0.02", "architecture.hidden=16",
        "trainer.check_test_every_n_epoch=60",
    )  # fmt: skip
    result = json.loads((folder / "result.json").read_text())
    assert result["test_rmse"] < 0.2  # the data's own deviation is 0.8
    assert result["test_rmse"] < result["test_rmse_beyond"] < 1
    assert "test RMSE 0." in capsys.readouterr().out
    command("figure", "field", str(folder), "--out", str(tmp_path / "field.png"))
    assert imread(tmp_path / "field.png").std() > 0.05
    assert main(["eval", str(folder), "scheme=verlet"]) == 2
    assert "Verlet and RK4, by which the network was trained, differ in the parts" in capsys.readouterr().err


def test_constants_are_learned_and_told_by_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command(
        "train", *SHORT, f"folder={folder}", "architecture=universal_ode",
        "architecture.known={name: pendulum, gravity: 1.5}",
        "architecture.learned=[gravity]", "architecture.unknown=nothing", "scheme=dopri5", "grid=adaptive",
        "trainer.max_epochs=60", "optimizer.lr=0.1", "trainer.check_test_every_n_epoch=60",
    )  # fmt: skip
    with (folder / "metrics.csv").open() as file:
        told = [float(row["known/gravity"]) for row in DictReader(file) if row["known/gravity"]]
    assert told[0] == 1.5
    assert told[-1] == pytest.approx(1, abs=0.02)
    figure = field.draw(folder)
    assert f"learned gravity = {told[-1]:.4g} (true 1)" in figure.get_suptitle()
    assert len(figure.axes) == 8  # three panels with a bar of colours, two channels of two series


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["architecture=trajectory_gru"],
            "'trajectory_gru' .* expected a network with a field of a trajectory's state",
        ),
        (["architecture=neural_ode", "data=trajectories_csv"], "a field is drawn in a plane; expected two channels"),
    ],
)
def test_a_field_that_cannot_be_drawn_is_refused(tmp_path: Path, words: list[str], said: str) -> None:
    file = tmp_path / "s.csv"
    file.write_text("series,time,x\n" + "".join(f"a,{t},{t}\n" for t in range(9)))
    own = [f"data.path={file}"] if "data=trajectories_csv" in words else list(SHORT[1:-1])
    command("train", "experiment=dynamics", *own, *words, "trainer.max_epochs=1", f"folder={tmp_path / 'run'}")
    with pytest.raises(SchemenetError, match=said):
        field.draw(tmp_path / "run")


def test_a_sine_is_learned(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command(
        "train", "architecture=mlp", "data=sine", f"folder={folder}", "trainer.max_epochs=20", "optimizer=adamw",
        "optimizer.lr=0.01", "data.batch_size=32", "logger=csv", "trainer.check_test_every_n_epoch=30",
    )  # fmt: skip
    assert json.loads((folder / "result.json").read_text())["test_rmse"] < 0.05


def test_learned_constants_are_not_decayed() -> None:
    network = create_model(
        "universal_ode", num_classes=0, in_chans=2, image_size=None, known="lotka_volterra", learned=["alpha"], hidden=4
    )
    made = OPTIMIZERS.build("adamw", network=network, total_steps=1)["optimizer"]
    free = [p for group in made.param_groups if group["weight_decay"] == 0 for p in group["params"]]
    assert any(p is network.system.alpha for p in free)
    assert len(free) == len(list(network.system.parameters()))
