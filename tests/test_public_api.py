"""``import schemenet``: every name of it, and the commands as functions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import schemenet
from architectures.observations import Observations, SeriesBatch
from tests.support.outside import restored_registries

TINY: dict[str, Any] = {
    "architecture": {"name": "ode_resnet", "widths": [4, 8]}, "scheme": "heun",
    "trainer": {"max_epochs": 1, "limit_train_batches": 1, "limit_test_batches": 1, "progress_bar": False},
    "data": {"batch_size": 8}, "logger": "csv",
}  # fmt: skip


def test_every_public_name_is_there_and_their_import_waits() -> None:
    assert sorted(schemenet.__all__) == sorted(set(schemenet.__all__))
    for name in schemenet.__all__:
        assert getattr(schemenet, name) is not None
    code = "import sys, schemenet; print(schemenet.__version__, schemenet.SCHEMES.kind, 'torch' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split()[1:] == ["scheme", "False"]
    with pytest.raises(AttributeError, match="no_such"):
        _ = schemenet.no_such  # type: ignore[attr-defined]


def test_a_run_is_trained_loaded_and_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = schemenet.train("seed=3", **TINY, folder=tmp_path / "run")
    again = schemenet.load(str(tmp_path / "run"))
    assert run.config == again.config
    assert run.config["seed"] == 3
    assert run.config["architecture"]["widths"] == [4, 8]
    assert run.metrics == again.metrics
    assert run.metrics["status"] == "done"
    assert not again.network.training
    images, _ = run.data.first(4)
    assert torch.equal(run.network(images), again.network(images))
    assert "1,297 training" in str(run.data)
    result = schemenet.evaluate(run, scheme="rk4", grid={"steps": 3})
    assert result["changed"]["steps"] == [3, 3]
    assert result["trained"]["test_error"] == run.metrics["test_error"]
    with pytest.raises(schemenet.SchemenetError, match=r"scheme.*did you mean"):
        schemenet.train(scheme="eluer")
    with pytest.raises(schemenet.SchemenetError, match="given twice"):
        schemenet.train("seed=1", seed=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schemenet.train(scheme=Ralston), "scheme: expected a name .* the class Ralston; register"),
        (lambda: schemenet.train(scheme={"name": Ralston()}), "scheme: expected a name .* an object of Ralston"),
        (lambda: schemenet.compare(networks=["heun", Ralston]), "networks: expected a name .*create_model"),
        (lambda: schemenet.evaluate("run", grid={"steps": Ralston}), "grid: expected a name"),
        (lambda: schemenet.train(5), "expected words such as 'scheme=rk4', got 5"),  # type: ignore[arg-type]
        (lambda: schemenet.load(None), "expected a run folder.* got None"),  # type: ignore[arg-type]
        (lambda: schemenet.load("x" * 5000), "no run folder or checkpoint 'x{499}….*too long"),
    ],
)
def test_a_command_as_a_function_takes_names_and_plain_data(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(schemenet.SchemenetError, match=message):
        call()


# Classes and objects in place of names


class Decay(nn.Module):
    """-y, scaled: a field without any declared fact."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, y: Tensor) -> Tensor:
        return -self.rate * y


class Clock(nn.Module):
    """The time, for every entry of the state."""

    def forward(self, t: float, y: Tensor) -> Tensor:
        return torch.full_like(y, t)


class Ralston(schemenet.RungeKutta):
    tableau = schemenet.ButcherTableau(a=((), (2 / 3,)), b=(1 / 4, 3 / 4), order=2)


def test_classes_and_objects_stand_for_names() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    network = schemenet.create_model("ode_resnet", field=Decay, scheme=Ralston(), widths=(4, 8)).eval()
    torch.manual_seed(0)
    named = schemenet.create_model("ode_resnet", field=Decay, scheme="ralston", widths=(4, 8)).eval()
    named.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x), named(x), rtol=0, atol=1e-6)
    assert network.layout["field"] == "Decay"
    assert network.nfe == (8, 0)  # two flows of two steps of two stages
    with pytest.raises(schemenet.SchemenetError, match="6n \\+ 2"):  # two layers in a branch that says nothing
        schemenet.create_model("resnet", field=Decay, depth=13)


@pytest.mark.parametrize(
    ("field", "expected"),
    [(Decay(4), (1 - 0.25 + 0.25**2 / 2) ** 3), (Clock(), 1 + 1.5**2 / 2)],  # rates 1/2 and t, three steps of 1/2
    ids=["forward(y)", "forward(t, y)"],
)
def test_a_field_takes_the_state_alone_or_with_its_time(field: nn.Module, expected: float) -> None:
    flow = schemenet.Flow(lambda _: field, 3, Ralston, "shared", {"name": "uniform", "time": 1.5})
    assert flow(torch.ones(2, 4, 2, 2)).mean().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": nn.Linear(1, 1)}, "scheme 'Linear': expected a schemes.core.scheme.Scheme"),
        ({"scheme": 3}, "scheme expected"),
        ({"field": lambda channels: channels}, "field '<lambda>': expected a torch.nn.Module, got int"),
        ({"field": nn.Linear}, "in_features, out_features missing"),
        ({"field": Ralston}, "a field is a torch.nn.Module, and no scheme, got Ralston"),
        ({"field": int}, "field 'int': expected a torch.nn.Module, got another class"),
        ({"scheme": Decay}, "scheme 'Decay': expected a schemes.core.scheme.Scheme, got another class"),
        ({"in_chan": 1}, "did you mean 'in_chans'"),
        ({"grid": object()}, "grid 'object': expected a schemes.integration.grid.Grid"),
    ],
)
def test_what_is_no_such_part_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(schemenet.SchemenetError, match=message):
        schemenet.create_model("ode_resnet", **options)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (lambda self, f: f, "takes 2 positional arguments"),
        (lambda self, f, node, y, solver_state: None, "cannot unpack"),
        (lambda self, f, node, y, solver_state: y, "0-d tensor"),
        (lambda self, f, node, y, solver_state: (y[:, 0], solver_state), "IndexError: too many indices"),
    ],
)
def test_a_scheme_with_another_step_is_refused(step: Any, reason: str) -> None:
    scheme = type("Mine", (schemenet.Scheme,), {"order": 1, "stages": 1, "step": step})
    with pytest.raises(schemenet.SchemenetError, match=rf"scheme Mine: expected step\(f, node, y, .*{reason}"):
        schemenet.Flow(lambda _: Decay(4), 3, scheme)


@pytest.mark.parametrize(
    ("make", "steps", "message"),
    [
        (lambda _: Decay(4), "3", "steps expected a whole number, got '3'"),
        (lambda _: Decay(4), True, "steps expected a whole number, got True"),
        (lambda _: Ralston(), 3, "and no scheme, got Ralston"),
        (nn.Linear(2, 2), 3, "make: expected a function .* got Linear"),
        (lambda _: 5, 3, "a field is a torch.nn.Module, and no scheme, got 5"),
        (lambda _: nn.MultiheadAttention(2, 1), 3, r"forward\(node, y\), got forward\(query, key, value\)"),
    ],
)
def test_a_flow_names_what_it_expects(make: Any, steps: Any, message: str) -> None:
    with pytest.raises(schemenet.SchemenetError, match=message):
        schemenet.Flow(make, steps)


def test_an_optimizer_is_checked_when_its_module_is_made() -> None:
    with pytest.raises(schemenet.SchemenetError, match="no optimizer 'adamq'; did you mean 'adamw'"):
        schemenet.ClassificationModule("mlp", {}, {"in_chans": 2, "image_size": None}, optimizer={"name": "adamq"})


def test_an_architecture_from_outside_that_is_none_is_named_once() -> None:
    with restored_registries():
        schemenet.ARCHITECTURES.register("nothing")(lambda num_classes: None)
        with pytest.raises(
            schemenet.SchemenetError, match=r"^architecture 'nothing': expected a torch\.nn\.Module, got"
        ):
            schemenet.create_model("nothing")
        schemenet.ARCHITECTURES.register("empty")(lambda num_classes: nn.Flatten())
        with pytest.raises(schemenet.SchemenetError, match="no parameters"):
            schemenet.create_model("empty").random_batch((3, 8, 8), 2)


# The states along depth


@pytest.mark.parametrize("name", ["odenet", "lm_resnet20", "revnet38", "fractalnet20", "ode_resnet"])
def test_a_trajectory_ends_where_the_forward_pass_does(name: str) -> None:
    torch.manual_seed(0)
    network = schemenet.create_model(name).eval()
    assert isinstance(network, schemenet.Network)
    x = torch.randn(2, 3, 32, 32)
    features, counts = network.forward_features(x), network.nfe
    paths = network.trajectory(x)
    assert torch.equal(network.finish(paths[-1].states[-1]), features)
    assert network.nfe == counts
    for path, flow in zip(paths, network.flows, strict=True):
        assert path.times[0] == 0
        assert path.times[-1] == pytest.approx(flow.time)
        assert len(path.times) == len(path.states) == 1 + (len(flow.nodes) or flow.forward_counts.accepted)


# Loaders of the user's own


class Listed(torch.utils.data.Dataset[Any]):
    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


def series() -> DataLoader[Any]:
    times = torch.linspace(0, 1, 6)
    values = torch.randn(4, 6, 2).cumsum(1)
    first, all_of_it = (
        Observations(times[s], values[:, s], torch.ones_like(values[:, s])) for s in (slice(1), slice(6))
    )
    return DataLoader(Listed([SeriesBatch(first, all_of_it)] * 2), batch_size=None)


def irregular() -> DataLoader[Any]:
    batch = next(iter(series()))
    return DataLoader(Listed([SeriesBatch(batch.targets, batch.targets)] * 2), batch_size=None)


def tensors(*parts: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*parts), batch_size=8, collate_fn=None if len(parts) > 1 else _only)


def _only(samples: list[Any]) -> Tensor:
    return torch.stack([sample[0] for sample in samples])


MODULES: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "classification": (
        schemenet.ClassificationModule, {"name": "mlp", "in_chans": 2, "image_size": None, "num_classes": 3},
        lambda: tensors(torch.randn(16, 2), torch.randint(3, (16,))),
    ),
    "regression": (
        schemenet.RegressionModule, {"name": "mlp", "in_chans": 2, "image_size": None, "num_classes": 1},
        lambda: tensors(torch.randn(16, 2), torch.randn(16, 1)),
    ),
    "density": (
        schemenet.DensityModule, {"name": "nice", "in_chans": 2, "image_size": None},
        lambda: tensors(torch.randn(16, 2)),
    ),
    "trajectory": (
        schemenet.TrajectoryModule, {"name": "neural_ode", "in_chans": 2, "image_size": None}, series,
    ),
    "series": (
        schemenet.SeriesModule, {"name": "rnn", "in_chans": 2, "image_size": None, "num_classes": 0}, irregular,
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", MODULES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_task_trains_with_loaders_of_any_origin_by_a_plain_trainer(task: str, tmp_path: Path) -> None:
    kind, options, make = MODULES[task]
    torch.manual_seed(0)
    module, loader = kind(schemenet.create_model(**options), optimizer={"name": "adamw", "lr": 0.01}), make()
    before = [parameter.detach().clone() for parameter in module.network.parameters()]
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", enable_checkpointing=False, default_root_dir=tmp_path, **quiet
    )
    trainer.fit(module, loader, loader)
    assert any(not torch.equal(a, b) for a, b in zip(before, module.network.parameters(), strict=True))
    validated = trainer.callback_metrics
    assert {f"validation/{name}" for name in module.names} <= set(validated)
    (tested,) = trainer.test(module, loader, verbose=False)
    measure = module.names[0]
    assert tested[f"test/{measure}"] == pytest.approx(float(validated[f"validation/{measure}"]), rel=1e-4, nan_ok=True)
