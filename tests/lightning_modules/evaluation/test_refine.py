"""The command ``refine``, and trainings that start from what it wrote."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures.supervised.network import Network
from lightning_modules.cli import main
from lightning_modules.training.loading import load_run
from lightning_modules.training.start_from import moments_of

KEYS = [
    "data=digits", "data.batch_size=50", "architecture=ode_resnet", "architecture.widths=[4]", "scheme=forward_euler",
    "grid.time=1", "sharing=basis", "trainer.max_epochs=1",
    "trainer.limit_test_batches=1", "trainer.progress_bar=false", "logger=csv",
]  # fmt: skip


def train(folder: Path, batches: int, *words: str) -> int:
    return main(["train", *KEYS, f"trainer.limit_train_batches={batches}", f"folder={folder}", *words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refine") / "run"
    assert train(folder, 3, "sharing.size=2", "architecture.steps=4", "optimizer=adamw") == 0
    return folder


def moments(folder: Path) -> dict[str, Any]:
    return moments_of(load_run(folder, Network))


def test_twice_the_functions_measure_the_same_and_the_moments_go_with_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finer = tmp_path / "finer"
    assert main(["refine", str(run), "sharing.size=4", f"folder={finer}"]) == 0
    output = capsys.readouterr().out
    assert "statistics of batch norm re-estimated" in output
    result = json.loads((finer / "refined.json").read_text())
    assert result["projected"] == pytest.approx(result["trained"])
    assert main(["eval", str(finer)]) == 0
    old, new = moments(run), moments(finer)
    fields = ("flow.bank.fields.0.", "flow.bank.fields.1.")
    names = [name for name in new if fields[1] in name]
    assert names
    for name in names:  # the second quarter of the time is in the first half
        assert torch.equal(new[name]["exp_avg"], old[name.replace(*reversed(fields))]["exp_avg"])
        assert torch.equal(new[name]["step"], old[name.replace(*reversed(fields))]["step"])


def test_a_training_starts_from_projected_weights_and_moments(run: Path, tmp_path: Path) -> None:
    """With a learning rate of nothing the weights stay, and the moments have decayed from those of the run."""
    words = ("sharing.size=2", "architecture.steps=8", f"start_from={run}")
    assert train(tmp_path / "a", 1, *words, "optimizer=adamw", "optimizer.lr=1e-30") == 0
    old, new = (load_run(folder, Network).network for folder in (run, tmp_path / "a"))
    for (name, a), b in zip(old.named_parameters(), new.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert all(int(state["step"]) == 4 for state in moments(tmp_path / "a").values())
    assert train(tmp_path / "b", 1, *words, "optimizer=sgd") == 0  # its moments are others


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data=mnist"], "refine can change architecture, scheme, sharing, grid, gradient"),
        (["architecture=resnet"], "architecture: the weights were trained for it"),
        (["sharing.sizes=4"], "did you mean 'size'"),
        (["architecture.inner=2.0"], "differ in more than their steps and sharing"),
        (["architecture.widths=[8]"], "has shape (8, 1, 3, 3), the trained one has (4, 1, 3, 3), and "),
        (["folder=."], "choose another one"),
    ],
)
def test_what_cannot_be_is_refused(
    words: list[str], expected: str, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    before = sorted(run.iterdir())
    assert main(["refine", ".", *words]) == 2
    assert expected in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


def test_a_refinement_overwrites_itself_and_no_other_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, finer = tmp_path / "trained", tmp_path / "finer"
    assert train(trained, 1, "sharing.size=4", "architecture.steps=4") == 0
    for _ in range(2):
        assert main(["refine", str(run), "sharing.size=4", f"folder={finer}"]) == 0
    written = {path: path.read_bytes() for folder in (trained, finer) for path in folder.iterdir() if path.is_file()}
    for source, words in (
        (run, ["sharing.size=4", f"folder={trained}"]),
        (run, ["sharing.size=8", f"folder={finer}"]),
        (trained, [f"folder={finer}"]),
        (shutil.copy(run / "last.ckpt", run / "other.ckpt"), ["sharing.size=4", f"folder={finer}"]),
    ):
        assert main(["refine", str(source), *words]) == 2
        assert "holds another run; choose another one" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in written} == written
