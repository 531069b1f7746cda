"""`schemenet eval`: a trained network tested again, and the same weights under another scheme or grid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_modules.cli import main
from lightning_modules.config.compose import compose, override_for_eval
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.evaluation.evaluate import evaluate
from lightning_modules.launching.multi_process import train
from lightning_modules.training.batch_statistics import reestimate
from schemes import SCHEMES, SchemenetError
from schemes.analysis.reference_problems import integrate

TINY = ["debug=fast", "architecture.width=0.25", "data.batch_size=32", "data.limit_train=128"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders by the name of what is in them."""
    root = tmp_path_factory.mktemp("runs")
    recipes = {
        "batch norm": ["architecture=ode_resnet"],
        "group norm": ["architecture=ode_resnet", "architecture.norm=group"],
        "h = 1": ["sharing=shared", "architecture.norm=group"],
        "resnet": [],
        "learned k": ["architecture=lm_resnet", "sharing=shared"],
        "coupled": ["architecture=revnet", "sharing=shared", "trainer.precision=bf16-mixed"],
        "affine per node": ["architecture=ode_resnet", "architecture.statistics=per_node_affine"],
        "stem only": ["architecture=stem_only"],
    }
    torch.set_num_threads(1)  # before the fixtures of single tests come to it
    for name, words in recipes.items():
        train(compose("train", [*TINY, *words]), root / name)
    return root


@pytest.mark.parametrize("name", ["batch norm", "resnet", "coupled", "stem only"])
def test_a_run_is_what_it_said(runs: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (runs / name / "result.json").read_text()
    assert main(["eval", str(runs / name)]) == 0
    out = capsys.readouterr().out
    assert f"test error {100 * json.loads(before)['test_error']:.2f} %" in out
    assert "result.json says the same" in out
    assert (runs / name / "result.json").read_text() == before
    written = json.loads(next((runs / name).glob("eval-*.json")).read_text())
    assert written["trained"]["test_loss"] == pytest.approx(json.loads(before)["test_loss"], rel=1e-6)
    assert "changed" not in written


def test_a_result_that_does_not_hold_is_told(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "resnet", tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (tmp_path / "run" / "result.json").write_text(json.dumps({**result, "test_error": 0.01}))
    assert main(["eval", str(tmp_path / "run")]) == 0
    assert "result.json says test error 1.00 %" in capsys.readouterr().out


def test_data_that_is_not_that_of_the_training_is_named(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, line in (
        ([], "resnet on digits as trained,"),
        (["data.limit_test=9"], "with data.limit_test=9, unlike"),
    ):
        assert main(["eval", str(runs / "resnet"), *words]) == 0
        assert line in capsys.readouterr().out


def test_the_checkpoint_alone_is_enough(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(runs / "batch norm" / "last.ckpt", tmp_path / "copy.ckpt")
    monkeypatch.chdir(tmp_path)
    alone = evaluate(Path("copy.ckpt"), ["scheme=rk4"])
    beside = evaluate(runs / "batch norm", ["scheme=rk4"])
    assert alone["changed"] == beside["changed"]
    assert "reported" in beside
    assert alone["reported"] is None
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".json"] == [Path(beside["file"]).name]


def evaluated(monkeypatch: pytest.MonkeyPatch, place: Path, *overrides: str) -> tuple[Any, Any]:
    """The networks as they were tested: as trained, and changed."""
    tested = []
    validate = pl.Trainer.validate

    def recording(trainer: pl.Trainer, module: Any, *arguments: Any, **options: Any) -> Any:
        tested.append(module.network)
        return validate(trainer, module, *arguments, **options)

    monkeypatch.setattr(pl.Trainer, "validate", recording)
    evaluate(place, overrides)
    trained, changed = tested
    return trained.eval(), changed.eval()


def test_the_same_field_is_integrated_by_the_new_scheme(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, changed = evaluated(monkeypatch, runs / "group norm", "scheme=rk4", "grid.steps=5")
    x = y = torch.randn(4, 1, 8, 8)
    with torch.no_grad():
        y = trained.stem(y)
        for stage in trained.stages:
            y = y if stage.transition is None else stage.transition(y)[0]
            y = integrate(SCHEMES.build("rk4"), stage.flow.bank.fields[0], y, 1.0, 5)
        expected = trained.forward_head(trained.finish(y))
        torch.testing.assert_close(changed(x), expected)
        assert not torch.allclose(changed(x), trained(x))


def test_both_components_of_a_coupled_state_keep_their_own_weights(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, changed = evaluated(monkeypatch, runs / "coupled", "grid.steps=1")
    for old, new in zip(trained.flows, changed.flows, strict=True):
        (one, two), (first, second) = (bank.groups.values() for bank in (old.bank, new.bank))
        for a, b in ((one, first), (two, second)):
            assert all(map(torch.equal, a.parameters(), b.parameters()))
        assert not all(map(torch.equal, one.parameters(), two.parameters()))


def test_statistics_are_those_of_the_new_nodes(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(runs / "batch norm"), "scheme=rk4", "grid.steps=3", "statistics_batches=4"]) == 0
    out = capsys.readouterr().out
    assert "re-estimated for the new nodes, on 4 training batches of 32" in out
    assert "rk4, 3 steps of h = 0.333333" in out
    assert "change in test error: " in out
    assert "integrate to" not in out


def test_estimated_statistics_normalise_as_the_batches_do() -> None:
    """After one batch, evaluation is training on it but for the unbiased variance; dropout stays out of it."""
    norms = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]
    network = nn.Sequential(nn.Linear(3, 3), norms[0], nn.Dropout(0.5), nn.Linear(3, 3), norms[1]).double()
    x = torch.randn(1000, 3, dtype=torch.float64)
    assert reestimate(network, [x]) == 2
    assert not network.training
    out = network(x).detach()
    torch.testing.assert_close(out.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(out.var(0, correction=0), torch.ones(3).double(), atol=5e-3, rtol=0)
    assert [norm.momentum for norm in norms] == [0.1, 0.1]
    reestimate(network, [x[:500], x[500:]])
    means: Tensor = norms[0].running_mean  # type: ignore[assignment]
    torch.testing.assert_close(means, network[0](x).mean(0))  # a plain average, not an exponential one


def test_a_scheme_chosen_for_an_evaluation_has_its_defaults(runs: Path) -> None:
    stored = json.loads((runs / "h = 1" / "config.json").read_text())
    assert "substeps" in ResolvedConfig(override_for_eval(stored, ["scheme=backward_euler"])).complete["scheme"]
    assert override_for_eval(stored, ["scheme=rk2"])["scheme"]["name"] == "heun"


def test_the_same_nodes_keep_their_statistics(runs: Path) -> None:
    result = evaluate(runs / "batch norm", ["scheme=rk2", "grid.steps=2"])  # what it was trained with, by an alias
    assert "changed" not in result


def test_a_time_that_grows_with_the_steps_is_told(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(runs / "h = 1"), "grid.steps=4"]) == 0
    out = capsys.readouterr().out
    assert "integrate to T = 4 where they were trained to T = 3/2/2" in out
    assert "no batch norm" in out


@pytest.mark.parametrize(
    ("run", "overrides", "told"),
    [
        ("resnet", ["grid.steps=4"], "each step has weights of its own"),
        ("resnet", ["scheme=heun"], "sharing=shared, sharing=basis or architecture=odenet"),
        ("resnet", ["gradient=checkpoint"], "gradient: the weights were trained for it"),
        ("learned k", ["grid.steps=4"], "trained coefficients"),
        ("h = 1", ["scheme=linear_multistep"], "scheme.k=0.5"),
        ("h = 1", ["scheme=verlet"], "coupled state"),
        ("coupled", ["scheme=rk4"], "couples two halves"),
        ("affine per node", ["scheme=rk4"], "weights of their own at each node"),
        ("stem only", ["scheme=heun"], "no flow"),
        ("resnet", ["scheme=rk5"], "did you mean"),
        ("resnet", ["grid.step=5"], "did you mean 'steps'"),
        ("resnet", ["architecture.depth=32", "field=basic"], "field: the weights were trained for it"),
        ("resnet", ["seed=1"], "a key of `schemenet train`"),
        ("h = 1", ["statistics_batches=0"], "expected at least 1"),
        ("resnet", ["data=moons"], "the network was trained for"),
        ("resnet", ["data=cifar10", "data.root=nowhere"], "nowhere"),
        ("", [], "it holds no last.ckpt; folders below it that do"),
        ("nowhere", [], "no run folder or checkpoint"),
    ],
)
def test_what_cannot_be_is_refused(
    runs: Path, run: str, overrides: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(runs / run), *overrides]) == 2
    assert told in capsys.readouterr().err


def test_files_that_are_no_checkpoint(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (runs / "resnet" / "last.ckpt").read_bytes()
    for content in (b"", b"some text", whole[: len(whole) // 2]):
        (tmp_path / "last.ckpt").write_bytes(content)
        assert main(["eval", str(tmp_path)]) == 2
        assert "cannot be read as a checkpoint" in capsys.readouterr().err
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    assert main(["eval", str(tmp_path)]) == 2
    assert "no checkpoint that `schemenet train` wrote" in capsys.readouterr().err
    checkpoint = torch.load(runs / "resnet" / "last.ckpt", weights_only=True)
    checkpoint["state_dict"].popitem()
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(SchemenetError, match="do not fit"):
        evaluate(tmp_path)


def test_a_run_is_named_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "scheme=rk4"]) == 2
    assert "expected a run folder" in capsys.readouterr().err
