"""The spectrum of h df/dy: Arnoldi's method against dense matrices, the states it is taken at, what a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

import schemenet
from architectures import create_model
from lightning_modules.cli import main
from lightning_modules.comparing import records as runs
from lightning_modules.comparing.report.figures import draw_all as plots
from lightning_modules.comparing.statistics import summary as statistics
from lightning_modules.evaluation import jacobian_spectrum as spectrum
from lightning_modules.plotting import spectrum as plotting
from schemes.analysis.ritz_values import ritz, scaled_jacobian, spread_over
from schemes.core.node import Node
from schemes.errors import SchemenetError
from tests.support.problems import Tanh, batch

NODE = Node(0, 0.3, 0.25)


def sorted_values(values: Any) -> np.ndarray:
    return np.array(sorted(np.round(np.ravel(values), 9), key=lambda z: (z.real, z.imag)))


def rows_times(matrices: Tensor) -> Any:
    return lambda v: torch.einsum("bij,bj->bi", matrices, v)


# Arnoldi's method


def test_as_many_steps_as_rows_give_every_eigenvalue_of_every_matrix() -> None:
    matrices = torch.randn(3, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = ritz(rows_times(matrices), torch.zeros(3, 7, dtype=torch.float64), steps=50)
    for values, matrix in zip(found.values, matrices, strict=True):
        assert sorted_values(values) == pytest.approx(sorted_values(np.linalg.eigvals(matrix.numpy())), abs=1e-8)
    assert np.all(np.diff(np.abs(found.values)) <= 1e-12), "the largest first"


def test_residuals_are_those_of_the_ritz_vectors_and_bound_the_error_of_a_normal_matrix() -> None:
    exact = np.array([3.0, -2.5, *np.linspace(-1, 1, 198)])
    matrix = torch.from_numpy(np.diag(exact))[None]
    found = ritz(rows_times(matrix), torch.zeros(1, 200, dtype=torch.float64), steps=16)
    nearest = np.abs(found.values[0][:, None] - exact).min(axis=1)
    assert np.all(nearest <= found.residuals[0] + 1e-12)
    kept = found.within(1e-4)
    assert len(kept) < 16
    assert kept[:2] == pytest.approx([3.0, -2.5], abs=1e-6)


def test_an_invariant_space_ends_nothing_and_adds_no_wrong_value() -> None:
    matrices = torch.zeros(2, 6, 6, dtype=torch.float64)
    matrices[0, :2, :2] = torch.tensor([[0.0, -2.0], [2.0, 0.0]])  # rank 2; the other one is zero
    found = ritz(rows_times(matrices), torch.zeros(2, 6, dtype=torch.float64), steps=5)
    assert sorted(abs(found.values[0])) == pytest.approx([0, 0, 0, 2, 2], abs=1e-9)
    assert found.values[0][:2].imag == pytest.approx([2, -2])
    assert found.values[1] == pytest.approx(np.zeros(5))


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(SchemenetError, match="NaN or infinite"):
        ritz(lambda v: v * float("nan"), torch.zeros(1, 4), steps=3)


# Jacobians


def test_a_fields_values_are_those_of_its_dense_jacobian_at_each_sample() -> None:
    torch.manual_seed(0)
    field, y = Tanh(6).double(), batch(3)
    product, like = scaled_jacobian(field, NODE, y)
    dense = NODE.h * vmap(jacrev(lambda x: field(NODE, x)))(y)
    assert product(y) == pytest.approx(torch.einsum("bij,bj->bi", dense, y).detach())
    found = ritz(product, like, 30).values
    for values, matrix in zip(found, dense.detach().numpy(), strict=True):
        assert sorted_values(values) == pytest.approx(sorted_values(np.linalg.eigvals(matrix)), abs=1e-8)


def test_a_coupled_state_has_the_spectrum_of_the_whole() -> None:
    omega = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)

    def oscillators(node: Node, y: Tensor) -> Tensor:  # x' = omega y, y' = -omega x
        return (-1) ** node.component * omega * y

    state = (batch(2, channels=3), batch(2, channels=3, seed=2))
    found = ritz(*scaled_jacobian(oscillators, NODE, state), 30).values
    expected = [1j * sign * NODE.h * w for w in omega.tolist() for sign in (1, -1)]
    assert sorted_values(found[0]) == pytest.approx(sorted_values(expected), abs=1e-8)


def test_of_many_steps_the_first_the_last_and_some_between_are_taken() -> None:
    assert spread_over(range(54), 12)[::11] == [0, 53]
    assert len(spread_over(range(54), 12)) == 12
    assert spread_over(range(3), 12) == [0, 1, 2]


# Networks


def network(name: str = "resnet20", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    made = create_model(name, in_chans=1, num_classes=10, image_size=8, width=0.25, **options).double().eval()
    for module in made.modules():  # at the start the spectrum is nearly that of random matrices; shift it
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return made


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_states_are_those_at_the_beginning_of_the_steps_that_a_network_takes() -> None:
    made = network()
    modes = [flow.gradient for flow in made.flows]
    visited = spectrum.visited_states(made, images())
    assert [(flow, node.step) for flow, node, _ in visited] == [(f, s) for f, flow in enumerate(made.flows)
                                                                 for s in range(len(flow.nodes))]  # fmt: skip
    y = made.stem(images())
    for (_, node, state), at in zip(visited, made.flows[0].nodes, strict=False):
        assert state == pytest.approx(y.detach())
        y = y + made.flows[0].bank(at, y)
        assert node == at
    assert [flow.gradient for flow in made.flows] == modes
    assert made(images()).requires_grad, "the network is what it was"


def test_on_an_adaptive_grid_the_accepted_steps_are_taken() -> None:
    flow_steps = [node for _, node, _ in spectrum.visited_states(network("odenet"), images())]
    assert sum(node.h for node in flow_steps) == pytest.approx(1.0)
    assert [node.step for node in flow_steps] == list(range(len(flow_steps)))


def test_spectrum_of_a_network_is_that_of_its_dense_jacobians() -> None:
    made = network("lm_resnet20")
    found = spectrum.spectrum(made, images())
    assert len(found.blocks) == sum(len(flow.nodes) for flow in made.flows)
    assert (found.blocks[0].depth, found.blocks[-1].depth) == (0, 1)
    flow, node, y = spectrum.visited_states(made, images())[-1]
    dense = vmap(jacrev(lambda x: made.flows[flow].bank(node, x[None])[0]))(y)
    exact = np.linalg.eigvals(dense.reshape(2, y[0].numel(), -1).detach().numpy())
    largest = np.abs(exact).max()
    values = np.array(found.blocks[-1].values)
    assert len(values) > 2
    distances = np.abs(values[:, None] - exact.ravel()).min(axis=1)
    assert np.all(distances < 0.1 * largest)
    assert np.abs(values).max() == pytest.approx(largest, rel=0.02)
    ks = [float(c.value.detach()) for c in made.coefficients().values()]
    assert found.coefficients == {"k": (min(ks), max(ks))}


@pytest.mark.parametrize(("name", "told"), [("fractalnet20", "own weights at each stage"), ("stem_only", "no flow")])
def test_networks_without_a_field_say_so(name: str, told: str) -> None:
    with pytest.raises(SchemenetError, match=told):
        spectrum.spectrum(network(name), images())


# Runs


def test_a_figure_of_a_run_without_a_flow_says_so_and_is_not_proposed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["debug=fast", "architecture=stem_only", "architecture.width=0.25", "data.validation=0.1"]
    assert main(["train", *words, "callbacks=[best_checkpoint]", f"folder={run}"]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"next: schemenet eval {run}/best.ckpt\n")
    assert "after 1 epoch (done)" in out
    assert "sharing" not in out
    assert main(["figure", "spectrum", str(run)]) == 2
    assert f"{run}: the network has no flow" in capsys.readouterr().err
    assert repr(schemenet.load(run)) == f"TrainedRun('{run}/last.ckpt': stem_only on digits)"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of one network, whose k are learned, trained for two batches."""
    folder = tmp_path_factory.mktemp("comparison")
    run = ["train", "debug=fast", "architecture=lm_resnet", "architecture.depth=14", "architecture.width=0.25"]
    assert main([*run, f"folder={folder / 'lm' / 'seed0'}"]) == 0
    plan = {"baseline": "lm", "seeds": [0], "arms": [{"name": "lm"}], "data": "digits", "epochs": 1}
    (folder / "comparison.json").write_text(json.dumps(plan))
    return folder


def test_a_run_keeps_its_spectrum_until_its_checkpoint_is_another(
    comparison: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = comparison / "lm" / "seed0"
    found = spectrum.measured(folder)
    calls = []
    monkeypatch.setattr(spectrum, "spectrum", lambda *_: calls.append(1) or found)
    assert spectrum.measured(folder) == found
    assert not calls
    (folder / spectrum.FILE).write_text('{"of": [')
    assert spectrum.measured(folder) == found, "a damaged file is written anew"
    (folder / "last.ckpt").write_bytes((folder / "last.ckpt").read_bytes())
    spectrum.measured(folder)
    assert len(calls) == 2


def test_a_run_that_held_out_a_validation_split_is_measured_on_the_test_set_too() -> None:
    config = {"name": "digits", "batch_size": 64}
    images = spectrum.images_of_test_set(json.dumps({**config, "validation": 0.2}))
    assert torch.equal(images, spectrum.images_of_test_set(json.dumps(config)))


def test_figure_of_a_run(comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.png"
    assert main(["figure", "spectrum", str(comparison / "lm" / "seed0"), "--out", str(out)]) == 0
    assert out.stat().st_size > 10_000
    assert "steps of Arnoldi's method" in " ".join(capsys.readouterr().err.split())
    figure = plotting.draw(comparison / "lm" / "seed0")
    figure.draw_without_rendering()
    (note,) = (text for text in figure.texts if text.get_text() == spectrum.DRAWN)
    box = note.get_window_extent()
    assert 0 < box.x0 < box.x1 < figure.bbox.width
    assert main(["figure", "spectrum", str(comparison)]) == 2
    assert "no run folder" in capsys.readouterr().err


def test_regions_of_a_learned_scheme_are_those_of_the_least_and_greatest_coefficient() -> None:
    spec = {"name": "linear_multistep", "k": "trained", "scale": False}
    panel = plotting.panel_of("lm", spec, spectrum.Spectrum((), {"k": (-0.5, 0.5)}))
    left = [box.left for _, box in panel.regions]
    assert left == pytest.approx([-2 * (1 - k) for k in (-0.5, 0.5)], abs=0.15), "to -2 (1 - k), on a coarse grid"
    assert panel.scheme == "linear_multistep, k = -0.5 (solid) to 0.5 (dashed)"
    outside = plotting.panel_of("lm", spec, spectrum.Spectrum((), {"k": (-1.5, 0.5)}))
    assert not outside.regions
    assert outside.scheme.endswith("no region")
    assert plotting.panel_of("f", "fractal", None).scheme == "fractal: no stability function"


def test_pictures_of_a_comparison_with_checkpoints(comparison: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = runs.read_comparison(comparison)
    summaries = statistics.summarise(read)
    pictures = plots.write(read, summaries)
    assert {"coefficients.png", "stability.png"} <= pictures.keys()
    assert "Ritz values of h df/dy" in pictures["stability.png"].caption
    assert "No spectrum" not in pictures["stability.png"].caption
    # Without the data there are still regions, where a scheme has one.
    run = comparison / "lm" / "seed0"
    (run / spectrum.FILE).unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"scheme": {"name": "heun"}}))
    monkeypatch.setattr(spectrum, "images_of_test_set", missing)
    pictures = plots.write(read, summaries)
    assert pictures["stability.png"].caption.endswith("No spectrum of lm: MNIST cannot be read.")


def missing(_: str) -> Tensor:
    raise SchemenetError("MNIST cannot be read")
