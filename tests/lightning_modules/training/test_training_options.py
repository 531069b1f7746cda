"""The trainer's options with every gradient mode, and against training steps written by hand."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.cli import main
from lightning_modules.config.compose import compose
from lightning_modules.config.registries import DATA, TRAINERS
from lightning_modules.launching.multi_process import train
from lightning_modules.tasks.classification import ClassificationModule
from schemes import GRADIENTS
from tests.lightning_modules.training.test_resume import DIGITS, OFTEN, assert_same_run, train_killed

pytestmark = pytest.mark.filterwarnings("ignore::schemes.gradients.adjoint_ode.backsolve.AdjointDriftWarning")

FOR_ALL_MODES = ["scheme=verlet", "grid.time=1.0"]  # no mode refuses these
DENSE = ["architecture=mlp", "architecture.hidden=8", "architecture.steps=2", *FOR_ALL_MODES]
IMAGES = ["architecture=ode_resnet", "architecture.width=0.25", "architecture.steps=1", *FOR_ALL_MODES]
IN_FLOAT32 = ("reversible", "adjoint")  # what keeps its states so under autocast
OPTIONS = {
    "compile": (DENSE, ["trainer.compile=aot_eager"]),
    "channels_last": (IMAGES, ["trainer.channels_last=true"]),
    "clipping": (DENSE, ["trainer.gradient_clip_val=0.1"]),
    "accumulation": (DENSE, ["trainer.accumulate_grad_batches=2"]),
    "ema": (IMAGES, ["trainer.ema=0.7"]),
    "bf16": (IMAGES, ["trainer.precision=bf16-mixed"]),
}
SAME_NUMBERS = ("compile", "channels_last")  # options that may change the rounding, and nothing else


def recipe(*overrides: str) -> Any:
    """Two batches of digits in one epoch, in double precision unless another is asked for."""
    double = [] if any("precision" in text for text in overrides) else ["trainer.precision=64-true"]
    fixed = ["logger=csv", "data.batch_size=16", "optimizer.schedule=constant"]
    limits = ["trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_test_batches=1"]
    return compose("train", [*fixed, *limits, *double, *overrides])


def parts(config: Any) -> tuple[pl.LightningDataModule, ClassificationModule]:
    pl.seed_everything(0, verbose=False)
    data = DATA.build(config["data"], seed=0)
    name, optimizer = config["architecture"]["name"], config["optimizer"]
    return data, ClassificationModule(name, config.network_options, data.context, optimizer)


def trained(config: Any) -> ClassificationModule:
    data, module = parts(config)
    writes_nothing = ModelCheckpoint(save_top_k=0)
    trainer = TRAINERS.build(config["trainer"], folder=Path(), callbacks=[writes_nothing], logger=False)
    trainer.fit(module, datamodule=data)
    assert all(torch.isfinite(p).all() for p in module.parameters())
    return module


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@functools.cache
def result_of(option: str, gradient: str, apply: bool = True) -> dict[str, Tensor]:
    """Weights and statistics after two batches."""
    torch.compiler.reset()
    network, words = OPTIONS[option]
    return state(trained(recipe(*network, f"gradient={gradient}", *(words if apply else []))))


@pytest.mark.parametrize(
    ("option", "gradient"),
    [
        *(("compile", mode) for mode in GRADIENTS if mode != "backprop"),
        ("channels_last", "adjoint"),
        ("clipping", "reversible"),
        ("accumulation", "adjoint"),
        ("ema", "reversible"),
        ("ema", "checkpoint"),
        ("bf16", "checkpoint"),
    ],
)
def test_a_gradient_mode_trains_as_backprop_does_under_each_option(option: str, gradient: str) -> None:
    """The adjoint too: Verlet's steps backwards are the transposes of those forward."""
    torch.testing.assert_close(result_of(option, gradient), result_of(option, "backprop"), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("option", SAME_NUMBERS)
def test_what_is_for_speed_changes_no_number(option: str, gradient: str) -> None:
    plain = result_of(option, gradient, apply=False)
    torch.testing.assert_close(result_of(option, gradient), plain, rtol=1e-9, atol=1e-10)


def moved(found: dict[str, Tensor], start: dict[str, Tensor]) -> Tensor:
    """How far training moved the weights."""
    return torch.cat([(found[name] - start[name]).double().flatten() for name in start if name.endswith("weight")])


@pytest.mark.parametrize("gradient", IN_FLOAT32)
def test_bf16_is_as_near_to_float32_in_each_mode(gradient: str) -> None:
    """Those that keep their states in float32 round elsewhere than backprop does."""
    network, words = OPTIONS["bf16"]
    start = state(parts(recipe(*network, *words))[1])
    exact = moved(state(trained(recipe(*network, "trainer.precision=32-true"))), start)
    mode, backprop = (moved(result_of("bf16", name), start) for name in (gradient, "backprop"))
    assert 0 < (mode - exact).norm() < 2 * (backprop - exact).norm()


def by_hand(config: Any, *, clip: float | None = None, accumulate: int = 1, decay: float | None = None) -> Any:
    """The same training in plain torch."""
    data, module = parts(config)
    network = module.network.double().train()
    data.setup()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    average: dict[str, Tensor] | None = None
    for index, batch in enumerate(data.train_dataloader()):
        if index == 2:
            break
        inputs, labels = data.on_after_batch_transfer(batch, 0)
        (functional.cross_entropy(network(inputs.double()), labels) / accumulate).backward()
        if (index + 1) % accumulate:
            continue
        if clip is not None:
            assert nn.utils.clip_grad_norm_(network.parameters(), clip) > clip  # it does something
        optimizer.step()
        optimizer.zero_grad()
        now = state(network)
        if decay is not None:
            average = now if average is None else {k: decay * average[k] + (1 - decay) * now[k] for k in now}
    return average or state(network)


@pytest.mark.parametrize(
    ("option", "reference"),
    [("clipping", {"clip": 0.1}), ("accumulation", {"accumulate": 2}), ("ema", {"decay": 0.7})],
)
def test_an_option_does_what_it_says(option: str, reference: dict[str, float]) -> None:
    network, words = OPTIONS[option]
    expected = by_hand(recipe(*network, *words, "gradient=backprop"), **reference)  # type: ignore[arg-type]
    found = {name.removeprefix("network."): t for name, t in result_of(option, "backprop").items()}
    for name, tensor in expected.items():
        if "num_batches" not in name:  # Lightning keeps the average in float32
            rounding = {"rtol": 1e-5, "atol": 1e-6} if option == "ema" else {"rtol": 1e-10, "atol": 1e-12}
            torch.testing.assert_close(found[name], tensor, **rounding)


def test_weights_that_were_made_one_stay_one_under_ema() -> None:
    module = trained(recipe(*IMAGES, "trainer.ema=0.7", "grid.steps=2"))
    names = {id(p): name for name, p in module.named_parameters()}
    shared = [name for name, p in module.named_parameters(remove_duplicate=False) if names[id(p)] != name]
    fresh = parts(recipe(*IMAGES, "grid.steps=2"))[1]
    assert len(names) == len(list(fresh.parameters()))
    assert shared
    stored = module.state_dict()
    assert not set(shared) & set(stored)
    for name, parameter in module.named_parameters():
        assert torch.equal(stored[name], parameter)


def test_a_killed_run_under_ema_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sets of weights are in the checkpoint: those that are tested, and those that are trained on."""
    config = compose("train", [*OFTEN, *DIGITS, *DENSE, "logger=csv", "trainer.ema=0.7", "gradient=checkpoint"])
    train(config, tmp_path / "whole")
    for hook, step in (("on_train_batch_end", 4), ("on_validation_end", 10)):
        train_killed(monkeypatch, config, tmp_path / "killed", hook, step)
    train(config, tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    checkpoint = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)
    averaged, last = (checkpoint[key]["network.stem.1.weight"] for key in ("state_dict", "current_model_state"))
    assert not torch.equal(averaged, last)


def test_what_is_reported_under_ema_is_the_average(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["debug=fast", *DENSE, "trainer.ema=0.9", "optimizer.lr=1", f"folder={tmp_path}"]
    assert main(["train", *words]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["weights"] == "averaged"
    capsys.readouterr()
    assert main(["eval", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "result.json says the same" in out
    assert "the last ones, not averaged" in out
    evaluated = json.loads(next(tmp_path.glob("eval-*.json")).read_text())
    assert evaluated["not_averaged"]["test_loss"] != evaluated["trained"]["test_loss"]


def test_compiled_fields_repeat_their_dropout() -> None:
    """A recomputation is another graph than the forward pass, and must draw the same masks."""
    network = [
        "architecture=fractalnet", "architecture.widths=[4]", "architecture.columns=2", "architecture.dropout=0.5",
        "trainer.limit_train_batches=1", "trainer.precision=64-true",
    ]  # fmt: skip
    states = []
    for words in (["gradient=backprop"], ["gradient=checkpoint", "trainer.compile=aot_eager"]):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        states.append(state(trained(recipe(*network, *words))))
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert (compiled > 0) == ("gradient=checkpoint" in words)
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-10)


def test_the_last_window_of_an_epoch_is_the_mean_of_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients: list[float] = []

    def note(module: ClassificationModule, _: Any) -> None:
        gradients.append(float(next(module.parameters()).grad.flatten()[0]))

    monkeypatch.setattr(ClassificationModule, "training_loss", lambda self, _: sum(p.sum() for p in self.parameters()))
    monkeypatch.setattr(ClassificationModule, "on_before_optimizer_step", note)
    for window in (1, 2, 3, 5, 7):
        trained(recipe(*DENSE, "trainer.limit_train_batches=5", f"trainer.accumulate_grad_batches={window}"))
        steps = math.ceil(5 / window)
        assert gradients == pytest.approx([1.0] * steps), window
        gradients.clear()


def test_overfitting_measures_the_whole_test_set(tmp_path: Path) -> None:
    words = ["data=digits", "data.limit_train=80", "data.limit_test=32", "data.batch_size=8", "logger=csv"]
    recipe = [*DENSE, *words, "trainer.max_epochs=1", "optimizer.lr=1e-12", f"folder={tmp_path}"]
    few = train(compose("train", [*recipe, "trainer.overfit_batches=2"]), tmp_path / "few")
    whole = train(compose("train", [*recipe, "trainer.limit_train_batches=2"]), tmp_path / "whole")
    assert few["test_loss"] == pytest.approx(whole["test_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "samples"),
    [
        (["data.batch_size=16"], 16),
        (["data.batch_size=16", "trainer.accumulate_grad_batches=2"], 32),
        (["data.batch_size=16", "trainer.accumulate_grad_batches=4"], 32),  # an epoch has two batches
        (["data.batch_size=1000"], 40),  # and the set no more
    ],
)
def test_the_samples_of_a_step_are_those_that_there_are(words: list[str], samples: int, tmp_path: Path) -> None:
    limits = ["data=digits", "data.limit_train=40", "data.limit_test=8", "trainer.max_epochs=1", "logger=csv"]
    assert train(compose("train", [*DENSE, *limits, *words]), tmp_path)["samples_per_step"] == samples


def test_channels_last_is_the_format_of_every_convolution() -> None:
    module = trained(recipe(*IMAGES, "trainer.channels_last=true"))
    weights = [m.weight for m in module.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.compile=inducto", "did you mean 'inductor'"),
        ("trainer.compile=3", "expected true or false or text"),
        ("trainer.ema=1.0", "a decay between 0 and 1"),
        ("trainer.gradient_clip_val=0", "expected to be above 0"),
    ],
)
def test_wrong_options_are_told_before_training(
    override: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "debug=fast", override, f"folder={tmp_path / 'run'}"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_compiling_an_implicit_scheme_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["debug=fast", "architecture.width=0.25", "scheme=implicit_midpoint", "trainer.compile=eager"]
    assert main(["train", *words, f"folder={tmp_path / 'run'}"]) == 2
    assert "trainer.compile: ImplicitMidpoint differentiates f twice" in capsys.readouterr().err
