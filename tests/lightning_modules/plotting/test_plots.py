"""Pictures of schemes and of runs: what is computed for them, what is refused, that they are drawn and written."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import nn

from architectures import create_model
from architectures.supervised.network import Network
from lightning_modules.callbacks.scheme_coefficients import SchemeCoefficientLogger, ZeroStabilityWarning
from lightning_modules.cli import main
from lightning_modules.plotting import coefficients, order, poly_vs_implicit, stability
from lightning_modules.plotting.command import file_name, parse_scheme, save
from schemes.analysis.stability import amplification, refusal, stability_intervals
from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.registry import SCHEMES, single_step
from tests.support.problems import Tanh, batch, make_flow

ROOT = Path(__file__).resolve().parents[3]


def schemes(*texts: str) -> dict[str, Scheme]:
    return {label: SCHEMES.build(single_step(spec)) for label, spec in map(parse_scheme, texts)}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for drawn in figure.legends for text in drawn.get_texts()]


def clipped(figure: Figure) -> list[str]:
    """The titles, labels and legend entries that reach over the edge of a figure."""
    figure.draw_without_rendering()
    texts = [figure._suptitle, *(text for drawn in figure.legends for text in drawn.get_texts())]
    texts += [text for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label)]
    width, height = figure.bbox.size
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [t for t, b in boxes if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]


# Stability


@pytest.mark.parametrize(
    ("spec", "factor"),
    [
        ({"name": "implicit_midpoint", "substeps": 1}, lambda z: (1 + z / 2) / (1 - z / 2)),
        ("forward_euler", lambda z: 1 + z),
        ("heun", lambda z: 1 + z + z**2 / 2),
        ("rk4", lambda z: 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24),
        ({"name": "backward_euler_poly", "degree": 3}, lambda z: 1 + z + z**2 + z**3),
    ],
    ids=["implicit_midpoint", "forward_euler", "heun", "rk4", "poly-3"],
)
def test_amplification_of_one_step_methods_is_their_stability_function(spec: Any, factor: Any) -> None:
    z = np.linspace(-3, 1, 7) + 1j * np.linspace(-3, 3, 5)[:, None]
    found = amplification(SCHEMES.build(spec), z)
    assert found.shape == z.shape
    assert found == pytest.approx(abs(factor(z)), rel=1e-12)


@pytest.mark.parametrize("name", [n for n in SCHEMES if refusal(SCHEMES.build(n)) is None])
def test_amplification_agrees_with_the_intervals(name: str) -> None:
    scheme = SCHEMES.build(name)
    for end, direction in zip(stability_intervals(scheme), (-1, 1 if scheme.components > 1 else 1j), strict=True):
        if end is None or not 0 < end < np.inf:
            continue
        inside, outside = amplification(scheme, np.array([0.9, 1.1]) * end * direction)
        assert inside <= 1 + 1e-9
        assert outside > 1 + 1e-8


def test_implicit_methods_have_rational_factors_and_unbounded_regions() -> None:
    backward = SCHEMES.build({"name": "backward_euler", "substeps": 1})
    assert amplification(backward, np.array([-1.0, 3.0j, 1.0])) == pytest.approx([0.5, 10**-0.5, np.inf])
    figure = stability.draw(schemes("backward_euler", "trapezoidal"))
    left, right = figure.axes[0].get_xlim()
    assert left < 0 < 2 < right < 4, "the disc in which backward Euler is not stable is what is framed"


def test_regions_are_overlaid_on_equal_axes_and_frame_what_is_drawn() -> None:
    figure = stability.draw(schemes("rk4", "adams_bashforth3", "linear_multistep:k=0.5,scale=true"))
    ax = figure.axes[0]
    assert ax.get_aspect() == 1
    assert "Re" in ax.get_xlabel()
    assert "Im" in ax.get_ylabel()
    assert legend(figure) == ["rk4", "adams_bashforth3", "linear_multistep(k=0.5, scale=True)"]
    assert -3.8 < ax.get_xlim()[0] < -2.785, "rk4 fits, and fills the picture"
    assert 2.828 < ax.get_ylim()[1] < 4
    assert not clipped(figure)


def test_three_regions_have_no_fills_and_styles_of_their_own_and_an_outside_is_said() -> None:
    figure = stability.draw(schemes("forward_euler", "heun", "backward_euler"))
    (ax,) = figure.axes
    handles = figure.legends[0].legend_handles
    assert len({handle.get_linestyle() for handle in handles}) == 3
    assert legend(figure)[2] == "backward_euler: stable OUTSIDE its curve"
    assert not any(part.filled for part in ax.collections if isinstance(part, ContourSet))


def test_schemes_without_an_interior_are_segments_and_say_so() -> None:
    figure = stability.draw(schemes("leapfrog", "reversible"))
    told = legend(figure)
    assert told[0].startswith("leapfrog: only")
    assert "coupled; the oscillator" in told[1]
    segments = [line.get_ydata() for line in figure.axes[0].lines if line.get_marker() == "_"]
    assert [max(ys) for ys in segments] == pytest.approx([1.0, 2.0], abs=1e-6)
    assert not clipped(figure)


def test_schemes_without_a_stability_function_are_refused_with_the_reason_and_those_that_have_one() -> None:
    with pytest.raises(SchemenetError) as caught:
        stability.draw(schemes("fractal", "heun", "linear_multistep", "backward_euler_poly:form=way"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "fractal has no stability function: own weights at each stage, so f is no single function"
    assert lines[1].startswith("linear_multistep has no stability function: learnable coefficients")
    assert lines[2].startswith("backward_euler_poly(form=way) has")
    assert "rk4" in lines[3]
    assert "fractal" not in lines[3]
    with pytest.raises(SchemenetError, match="Fractal has no stability function"):
        amplification(SCHEMES.build("fractal"), np.zeros(1))


# Job


def test_order_is_measured_on_what_a_scheme_claims() -> None:
    way = "backward_euler_poly:form=way"
    figure = order.draw(schemes("heun", "verlet", "backward_euler_poly", way, "fractal"))
    heun, verlet, poly, way, fractal, thin = legend(figure)
    assert way.startswith("backward_euler_poly(form=way): no order declared (linear problem), measured")
    assert heun == "heun: order 2, measured 2.00"
    assert verlet == "verlet: order 2 (separable system), measured 2.00"
    assert poly.startswith("backward_euler_poly: order 1 (linear problem), measured 0.9")
    assert fractal.startswith("fractal: no order declared, measured ")
    assert "declared slope" in thin
    ax = figure.axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    declared = [line for line in ax.lines if len(line.get_xdata()) == 2]
    slopes = [np.diff(np.log(line.get_ydata())) / np.diff(np.log(line.get_xdata())) for line in declared]
    assert np.ravel(slopes) == pytest.approx([2, 2, 1]), "no line for what declares no order"
    assert not clipped(figure)


def test_slope_leaves_rounding_and_overflow_out() -> None:
    rounding = order.Convergence("x", 5, "general", (0.4, 0.2, 0.1), (3.2e-10, 1e-11, 4e-14))
    assert rounding.slope == pytest.approx(5)
    assert order.Convergence("x", None, "general", (0.4,), (1.0,)).describe() == "x: no order declared, not measured"


# Learned coefficients


def tiny(name: str, **options: Any) -> Network:
    return create_model(name, in_chans=1, image_size=8, width=0.25, **options)


def test_coefficients_are_named_by_flow_and_step() -> None:
    network = tiny("lm_resnet20")
    found = network.coefficients()
    assert list(found) == [
        f"k/flow{flow}/step{step}" for flow, step in ((0, 1), (0, 2), (1, 0), (1, 1), (2, 0), (2, 1))
    ]
    flow = network.flows[1]
    assert torch.equal(found["k/flow1/step1"].value, flow.scheme.coefficient(flow.nodes[1]))
    assert not tiny("resnet20").coefficients()
    assert not tiny("resnet20", scheme={"name": "linear_multistep", "k": 0.5}).coefficients()


class Rows:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))


def test_leaving_the_zero_stable_range_is_told_once_and_nothing_is_clamped() -> None:
    rows, network, watch = Rows(), tiny("lm_resnet20"), SchemeCoefficientLogger()
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[rows], current_epoch=0, global_step=0)
    module: Any = SimpleNamespace(network=network)
    watch.on_train_start(trainer, module)
    torch.nn.init.ones_(network.flows[1].scheme.k)  # the upper end belongs to the range, the lower one does not
    watch.on_train_epoch_end(trainer, module)
    torch.nn.init.constant_(network.flows[2].scheme.k, -1.0)
    with pytest.warns(ZeroStabilityWarning, match="k/flow2/step0 = -1 has left -1 < k <= 1"):
        watch.on_train_epoch_end(trainer, module)
    watch.on_train_epoch_end(trainer, module)  # a second warning would be an error here
    assert [metrics["k/flow2/step1"] for _, metrics in rows.rows[1:]] == [pytest.approx(-0.05, abs=0.05), -1, -1]


def test_coefficients_of_a_training_are_in_its_csv_and_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ["train", "debug=fast", "architecture.depth=14", "architecture.width=0.25", "trainer.max_epochs=2"]
    assert main([*run, "architecture=lm_resnet", "folder=lm"]) == 0
    rows = list(csv.DictReader(Path("lm/metrics.csv").read_text().splitlines()))
    keys = [key for key in rows[0] if key.startswith("k/")]
    assert len(keys) == 3
    logged = [row for row in rows if row["k/flow0/step1"]]
    assert [int(row["step"]) for row in logged] == [0, 2, 4], "before training and after each epoch"
    assert logged[0] == rows[0], "known from the first row on"
    assert all(row[key] for row in logged for key in keys)
    assert main(["plot", "k", "lm"]) == 0
    assert Path("runs/plots/k-lm.png").is_file()
    assert main([*run, "architecture=resnet", "folder=plain"]) == 0
    assert not any("k/" in name for name in Path("plain/metrics.csv").read_text().splitlines()[0].split(","))
    capsys.readouterr()
    assert main(["plot", "k", "lm", "plain"]) == 2
    told = capsys.readouterr().err
    assert "plain: no k is learned with scheme 'forward_euler' as configured" in told
    assert "linear_multistep" in told


def fabricated(folder: Path, steps: dict[tuple[int, int], list[float]], **config: Any) -> Path:
    """A run folder with k by (flow, step), one value for each time it was logged."""
    folder.mkdir(parents=True)
    own = {"scheme": {"name": "linear_multistep"}, "architecture": {"name": "lm_resnet"}} | config
    (folder / "config.json").write_text(json.dumps(own))
    lines = [",".join(["epoch", *(f"k/flow{f}/step{s}" for f, s in steps), "step", "train/loss"])]
    for i, values in enumerate(zip(*steps.values(), strict=True)):
        lines += [
            ",".join([str(i), *map(str, values), str(10 * i), ""]),
            f"{i}{',' * (len(values) + 1)}{10 * i + 9},0.5",
        ]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_k_is_drawn_over_all_flows_with_the_range_in_which_it_is_zero_stable(tmp_path: Path) -> None:
    # The first flow has one step, which is Euler's and has no k.
    run = fabricated(tmp_path / "seed0", {(1, 0): [0.0, -0.1, -0.2], (1, 1): [0.0, 0.1, 0.4], (2, 0): [0.0, -2, -2.3]})
    figure = coefficients.draw([run])
    (ax,) = figure.axes
    final = {x: y for line in ax.lines if line.get_linestyle() == "-" and line.get_marker() == "s"
             for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}  # fmt: skip
    assert final == {2: -0.2, 3: 0.4, 4: -2.3}
    boundaries = [
        line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":" and line.get_marker() == "None"
    ]
    assert boundaries == [1.5, 3.5]
    assert ax.get_ylim()[0] < -2.3
    assert 0.4 < ax.get_ylim()[1] < 1, "the height is the data's; the legend says how far k is zero-stable"
    assert any(text.startswith("no point: a step without a state before it") for text in legend(figure))
    assert [text.get_text() for text in ax.texts] == ["flow 1", "flow 2", "flow 3"]
    assert legend(figure)[:3] == [
        "seed0, after 20 training steps",
        "hollow: before training",
        "zero-stable: -1 < k <= 1",
    ]
    assert not clipped(figure)


def test_runs_of_one_depth_share_a_panel_and_are_told_apart(tmp_path: Path) -> None:
    one = fabricated(tmp_path / "a" / "seed0", {(0, 1): [0.0, 0.1]})
    same = fabricated(tmp_path / "b" / "seed0", {(0, 1): [0.0, 0.2]})
    deeper = fabricated(tmp_path / "c" / "seed0", {(0, 1): [0.0, 0.2], (0, 2): [0.0, 0.3]})
    figure = coefficients.draw([one, same, deeper])
    assert len(figure.axes) == 2
    assert [told.split(",")[0] for told in legend(figure)[:3]] == ["a/seed0", "b/seed0", "c/seed0"]
    assert not clipped(figure)


def test_runs_without_k_are_refused_with_the_reason(tmp_path: Path) -> None:
    fixed = fabricated(tmp_path / "fixed", {(0, 1): [0.0]}, scheme={"name": "linear_multistep", "k": 0.5})
    with pytest.raises(SchemenetError, match=r"no k is learned with scheme 'linear_multistep' as configured"):
        coefficients.draw([fixed])
    fractal = fabricated(tmp_path / "fractal", {(0, 1): [0.0]}, scheme=None, architecture={"name": "fractalnet"})
    with pytest.raises(SchemenetError, match="no k is learned with architecture 'fractalnet'"):
        coefficients.draw([fractal])
    older = fabricated(tmp_path / "older", {(0, 1): [0.0]})
    (older / "metrics.csv").unlink()
    with pytest.raises(SchemenetError, match="has not begun, or is older than their logging"):
        coefficients.draw([older])


# Polynomials against the implicit step


class Times(nn.Module):
    """f = rate u."""

    def __init__(self, channels: int, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, node: Node, y: torch.Tensor) -> torch.Tensor:
        return self.rate * y


class NoSolution(nn.Module):
    """f = u^2 + 1: y = u + h f(y) has no solution for u > 0 and h = 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, node: Node, y: torch.Tensor) -> torch.Tensor:
        return y * y + 1


class Flows(nn.Module):
    """Flows one after the other: what is asked of a network here."""

    def __init__(self, *flows: Flow) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for flow in self.flows:
            x = flow(x)
        return x


def test_distances_for_a_linear_field_are_the_powers_of_h_f() -> None:
    """P_d - B = -z^(d+1) / (1 - z) u and B - u = z / (1 - z) u, so that the share is |z|^d."""
    network: Any = Flows(
        make_flow(Times, "backward_euler_poly", steps=2, time=1.0, field_options={"rate": -0.8}),
        make_flow(Times, "linear_multistep", steps=1, time=None, field_options={"rate": 0.3}),
    )
    found = poly_vs_implicit.measure(network, batch(3))
    assert [(step.flow, step.step) for step in found] == [(0, 0), (0, 1), (1, 0)]
    for step, z in zip(found, (0.4, 0.4, 0.3), strict=True):
        expected = np.array([[z**d] * 3 for d in poly_vs_implicit.DEGREES])
        assert step.distances == pytest.approx(expected, rel=1e-6)
        assert step.norms == pytest.approx(z, rel=1e-6)


def test_states_are_those_that_the_network_passes_through() -> None:
    flow = make_flow(Tanh, "heun", steps=3, time=None)
    x = y = batch(2)
    found = poly_vs_implicit.measure(Flows(flow), x)  # type: ignore[arg-type]
    backward = SCHEMES.build({"name": "backward_euler", "substeps": 1})
    with torch.no_grad():
        for step, node in zip(found, flow.nodes, strict=True):
            exact = [backward.step(flow.bank.at(node), node, u[None], ())[0] for u in y]
            euler = [u[None] + flow.bank(node.at(0, 1.0), u[None]) for u in y]
            shares = [float((a - b).norm() / (b - u).norm()) for a, b, u in zip(euler, exact, y, strict=True)]
            assert step.distances[0] == pytest.approx(shares, rel=1e-6)
            y, _ = flow.scheme.step(flow.bank, node, y, ())


def test_a_step_that_has_no_solution_is_marked_and_the_others_are_drawn(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Flows(
        make_flow(Tanh, "forward_euler", steps=2), make_flow(NoSolution, "forward_euler", steps=1, time=None)
    )
    found = poly_vs_implicit.measure(network, batch(2).abs() + 1)  # type: ignore[arg-type]
    assert not np.isnan([step.distances for step in found[:2]]).any()
    assert np.isnan(found[2].distances).all()
    monkeypatch.setattr(poly_vs_implicit, "load", lambda folder: (network, batch(2).abs() + 1))
    figure = poly_vs_implicit.draw(tmp_path)
    upper, lower = figure.axes
    assert "solved for no image" in legend(figure)
    assert figure.get_suptitle().count("\n") == 1
    assert "u + F(u) + F(F(u)) + ..." in capsys.readouterr().err
    assert [list(line.get_xdata()) for line in upper.lines if line.get_marker() == "x"] == [[3]]
    assert (upper.get_yscale(), lower.get_yscale()) == ("log", "log")
    assert not clipped(figure)


def test_spectral_norm_is_that_of_the_jacobian_of_each_sample() -> None:
    torch.manual_seed(0)
    matrix, y = torch.randn(4, 6, dtype=torch.float64), batch(3)
    found = poly_vs_implicit.spectral_norms(lambda u: torch.sin(u) @ matrix.T, y)
    expected = [torch.linalg.matrix_norm(matrix * u.cos(), 2) for u in y]
    assert found == pytest.approx(torch.stack(expected), rel=1e-2)
    assert (found <= torch.stack(expected) * (1 + 1e-9)).all(), "from below"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("revnet38", {}),
        ("fractalnet", {"columns": 2, "widths": [8, 8]}),
        ("polynet20", {"scheme": {"name": "backward_euler_poly", "form": "mpoly"}}),
        ("stem_only", {}),
    ],
)
def test_networks_without_a_single_function_a_step_are_refused(name: str, options: dict[str, Any]) -> None:
    assert poly_vs_implicit.refusal(tiny(name, **options)) is not None
    assert poly_vs_implicit.refusal(tiny("resnet20")) is None


def test_poly_vs_implicit_of_a_trained_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(poly_vs_implicit, "IMAGES", 2)
    run = ["train", "debug=fast", "architecture=polynet", "architecture.depth=14", "architecture.width=0.25"]
    assert main([*run, "folder=poly"]) == 0
    assert main(["plot", "poly-vs-implicit", "poly"]) == 0  # as it was called before
    assert Path("runs/plots/poly_vs_implicit-poly.png").is_file()
    network, images = poly_vs_implicit.load(Path("poly"))
    assert not network.training
    assert images.shape == (2, 1, 8, 8)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    poly_vs_implicit.measure(network, images)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items()), "batch norm is fixed"
    capsys.readouterr()
    Path("poly/last.ckpt").write_bytes(b"half a checkpoint")
    assert main(["plot", "poly-vs-implicit", "poly"]) == 2
    assert "last.ckpt cannot be read" in capsys.readouterr().err
    Path("poly/last.ckpt").unlink()
    assert main(["plot", "poly-vs-implicit", "poly"]) == 2
    assert "it holds no last.ckpt" in capsys.readouterr().err
    assert main(["plot", "poly-vs-implicit", "poly", "other"]) == 2
    assert "expected one run" in capsys.readouterr().err


# The command line


def test_a_picture_is_written_where_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "stability", "rk2", "heun", "backward_euler_poly:degree=3"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == Path("runs/plots/stability-rk2-heun-backward_euler_poly-degree=3.png")
    picture = imread(path)
    assert picture.shape[0] > 500
    assert np.ptp(picture[..., :3]) > 0.9
    assert main(["plot", "order", "heun", "--out", "new/o.png"]) == 0
    assert Path("new/o.png").is_file()


def test_size_and_letters_are_those_that_are_given_and_text_stays_text(tmp_path: Path) -> None:
    svg, pdf, png = (tmp_path / f"s.{kind}" for kind in ("svg", "pdf", "png"))
    for path in (svg, pdf, png):
        assert main(["figure", "stability", "rk4", "--out", str(path), "--size", "4x3.5", "--font", "7"]) == 0
    drawn = svg.read_text(encoding="utf-8")
    assert 'width="288pt" height="252pt"' in drawn
    assert "font-size: 7px" in drawn
    assert ">rk4<" in drawn
    assert re.search(rb"/MediaBox \[ 0 0 288 252 \]", pdf.read_bytes())
    assert b"/FontFile2" in pdf.read_bytes(), "TrueType letters, not outlines"
    assert imread(png).shape[:2] == (525, 600)
    before = svg.read_bytes()
    assert main(["figure", "stability", "rk4", "--out", str(svg), "--size", "4x3.5", "--font", "7"]) == 0
    assert svg.read_bytes() == before


def test_long_lists_of_names_have_short_file_names() -> None:
    one, other = file_name("order", ["rk4"] * 99), file_name("order", ["rk4"] * 100)
    assert len(one) < 130
    assert one != other
    assert file_name("k", ["runs/train/a run/"]) == "k-runs-train-a-run.png"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "expected what to draw"),
        (["ordre", "rk4"], "no figure 'ordre'; did you mean 'order'?"),
        (["order"], "expected at least one name"),
        (["order", "rk5", "heunn"], "did you mean 'heun'"),
        (["order", "rk5", "heunn"], "no scheme 'rk5'"),
        (["order", "heun:resnet"], "cannot read 'resnet' in 'heun:resnet'; expected NAME or NAME:KEY=VALUE"),
        (["order", "heun:degree=2", "backward_euler_poly:degree=x"], "takes no 'degree'"),
        (["order", "heun:degree=2", "backward_euler_poly:degree=x"], "expected a whole number, got 'x'"),
        (["order", "rk4", "--out", "x.txt"], "ends in .png, .pdf, .svg, got 'x.txt'"),
        (["order", "rk4", "--out"], "--out: expected one argument"),
        (["order", "rk4", "--outt", "x.png"], "takes no --outt"),
        (["order", "rk4", "--size", "6"], "expected WIDTHxHEIGHT in inches"),
        (["order", "rk4", "--font", "x"], "expected points from 4 to 40, got 'x'"),
        (["order", "rk4", "--out", f"{__file__}/x.png"], "cannot write"),
        (["stability", "fractal"], "no stability function"),
        (["k", "nowhere"], "no run folder 'nowhere'"),
        (["k", str(ROOT)], "is no run folder: it holds no config.json"),
    ],
)
def test_mistakes_end_with_status_2_and_one_message(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err


def test_help_and_mistakes_in_names_import_neither_torch_nor_matplotlib() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lightning_modules.cli import main;"
        "status = main(['figure', '--help']) + main(['plot', 'order', 'eluer']);"
        "assert not {'torch', 'matplotlib', 'scipy'} & set(sys.modules); sys.exit(status)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2, ran.stderr
    assert ran.stdout.startswith("schemenet figure WHAT NAME...")


def test_letters_that_the_font_lacks_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = Figure(figsize=(1, 1))
    figure.text(0, 0, "残差")
    for ending in ("png", "pdf"):
        save(figure, tmp_path / f"picture.{ending}")
    assert capsys.readouterr().err.count("boxes for 残差, which the font DejaVu Sans lacks") == 1
