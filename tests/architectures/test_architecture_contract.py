"""The contract of an architecture: it builds, trains all of its parameters, and takes what its signature offers."""

from __future__ import annotations

import copy
import io
import pickle
from itertools import product

import pytest
import torch
from torch import nn

from architectures.factory import create_model
from architectures.plain_network import PlainNetwork
from architectures.registry import ARCHITECTURES
from schemes.errors import SchemenetError
from schemes.registry import GRADIENTS, SCHEMES
from tests.support.networks import (
    FAMILIES,
    IMAGE_FAMILIES,
    NARROW,
    SMALL,
    STEPPED,
    all_trained,
    count,
    gradients,
    images,
    refusal,
    same,
    small,
)
from tests.support.selections import ONE_OF_A_KIND

drifts = pytest.mark.filterwarnings("ignore::schemes.gradients.adjoint_ode.backsolve.AdjointDriftWarning")


def test_recomputing_modes_update_statistics_once_and_alike():
    for name, options in {"revnet": {"width": 1 / 8}, "ode_resnet": NARROW, "leapfrog_net": NARROW}.items():
        backprop, default = small(name, gradient="backprop", **options), small(name, **options)
        gradients(backprop, images()), gradients(default, images())
        for buffer, expected in zip(default.buffers(), backprop.buffers(), strict=True):
            same(buffer, expected)


def test_statistics_can_be_shared_between_nodes_as_a_control():
    model = small("rk_resnet", depth=14, statistics="shared", **NARROW)
    with torch.no_grad():
        model(images())
    tracked = {int(m.num_batches_tracked) for m in model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert tracked == {1, 2}  # the transitions' and the head's once, the fields' at both stages
    assert sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d)) == sum(
        p.numel()
        for n, p in small("rk_resnet", depth=14, **NARROW).named_parameters()
        if p.dim() == 1 and "weight" in n
    )


@pytest.mark.parametrize("scheme", ONE_OF_A_KIND)
def test_every_scheme_steps_the_imagenet_layout(scheme):
    options = {"scheme": scheme, "activation": "pre"} if scheme != "fractal" else {"scheme": scheme}
    model = create_model("resnet50", width=1 / 16, num_classes=3, **options)
    states = model.forward_intermediates(torch.randn(2, 3, 64, 64), intermediates_only=True)
    assert [state.shape[2] for state in states] == [16, 8, 4, 2]


@pytest.mark.parametrize("name", [*FAMILIES, "resnet50", "revnet56", "resnext29_8x64d"])
def test_forward_on_the_meta_device(name):
    with torch.device("meta"), torch.no_grad():
        model = create_model(name, num_classes=7)
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 7)
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("size", [32, 28, 8])
@pytest.mark.parametrize("name", IMAGE_FAMILIES)
def test_every_parameter_gets_a_gradient(name, size):
    model = create_model(name, in_chans=1, num_classes=3, image_size=size, width=0.1)
    x = torch.randn(3, 1, size, size)
    assert model.train()(x).shape == (3, 3)
    all_trained(model, x)
    assert model.eval()(x[:1]).shape == (1, 3)
    assert model.forward_features(x).shape[:2] == (3, model.num_features)


@pytest.mark.parametrize("scheme", ONE_OF_A_KIND)
def test_every_scheme_steps_the_resnet_and_the_mlp(scheme):
    if SCHEMES.build(scheme).implicit:
        scheme = {"name": scheme, "substeps": 4}  # at h = 1, untrained
    all_trained(create_model("resnet", depth=26, width=0.25, scheme=scheme, **SMALL), torch.randn(3, 3, 8, 8))
    all_trained(create_model("mlp", in_chans=4, image_size=None, scheme=scheme, hidden=8), torch.randn(5, 4))


PAIRS = list(product(STEPPED, GRADIENTS))


@drifts
@pytest.mark.parametrize(("name", "mode"), PAIRS)
def test_every_gradient_mode_on_every_architecture(name, mode):
    options = {"gradient": mode, "width": 0.1}
    if (message := refusal(name, **options)) is not None:
        assert f"gradient mode {mode!r}" in message
        assert "use " in message
        return
    trained = all_trained(small(name, **options), images())
    if mode != "adjoint":
        plain = gradients(small(name, **{**options, "gradient": "backprop"}), images())
        for key, gradient in trained.items():
            same(gradient, plain[key])


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("backprop", set(STEPPED)),
        ("checkpoint", set(STEPPED)),
        ("reversible", {"revnet", "leapfrog_net", "stem_only"}),
        ("adjoint", {"resnet", "rk_resnet", "odenet", "ode_resnet", "revnet", "mlp", "one_block", "stem_only"}),
    ],
)
def test_which_gradient_modes_the_defaults_allow(mode, names):
    allowed = {name for name in STEPPED if refusal(name, gradient=mode, width=0.1) is None}
    assert allowed >= names
    assert mode != "reversible" or allowed == names


@pytest.mark.parametrize(
    ("scheme", "sharing"),
    [
        ("heun", "per_stage"),
        ("midpoint", "per_stage"),
        ("rk4", "per_stage"),
        ("verlet", "per_stage"),
        ("adams_bashforth2", "per_stage"),
        ("adams_bashforth2", "per_step"),
        ("leapfrog", "per_step"),
    ],
)
def test_adjoint_refuses_weights_for_which_there_is_no_ode(scheme, sharing):
    message = refusal("resnet", scheme=scheme, sharing=sharing, gradient="adjoint", width=0.25)
    assert message is not None
    assert "sharing" in message


def test_adjoint_of_an_odenet_comes_near_backprop_with_more_steps():
    def gap(steps: int) -> float:
        options = {"steps": steps, "norm": "none", **NARROW}
        pair = [gradients(small("ode_resnet", gradient=mode, **options), images()) for mode in ("adjoint", "backprop")]
        adjoint, exact = (torch.cat([g.flatten() for g in each.values()]) for each in pair)
        return float((adjoint - exact).norm() / exact.norm())

    coarse, fine = gap(8), gap(32)
    assert fine < coarse / 8
    assert fine < 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_and_saved_states_are_the_same_network(name):
    model, x = small(name, width=0.1), images()
    gradients(model, x)
    expected = model.eval()(x)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = small(name, seed=5, width=0.1)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded.eval()):
        assert count(other) == count(model)
        assert torch.equal(other(x), expected)


def test_copies_train_alike():
    model = small("rk_resnet", depth=14, **NARROW)
    copied = copy.deepcopy(model)
    expected = gradients(model, images())
    for key, gradient in gradients(copied, images()).items():
        assert torch.equal(gradient, expected[key])


def test_shared_weights_stay_shared_when_leaving_the_meta_device():
    with torch.device("meta"):
        model = create_model("polynet", width=0.25)
    before = count(model)
    model.to_empty(device="cpu")
    assert count(model) == before


@pytest.mark.parametrize("name", ["lm_resnet", "polynet"])
def test_compiles_into_one_graph(name):
    model = small(name, depth=10, widths=(4, 6))
    torch.compiler.reset()
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    expected = gradients(model, images())
    for key, gradient in gradients(compiled, images()).items():
        same(gradient, expected[key.removeprefix("_orig_mod.")])


@pytest.mark.parametrize("scheme", ["symplectic_euler", "verlet"])
@pytest.mark.parametrize("width", [0.3, 0.07, 1.0])
def test_coupled_states_have_even_widths(scheme, width):
    options = {"scheme": scheme, "width": width, **SMALL}
    for field in ("basic", "bottleneck"):
        model = create_model("resnet", depth=20, field=field, widths=(5, 7, 9), **options)
        assert all(w % 2 == 0 for w in model.layout["widths"])
        all_trained(model, torch.randn(3, 3, 8, 8))
    all_trained(create_model("mlp", hidden=7, **options), torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize("name", [name for name in IMAGE_FAMILIES if "norm" in ARCHITECTURES.parameters(name)])
def test_other_norms_keep_no_statistics(name, norm):
    model = create_model(name, width=0.3, norm=norm, **SMALL)
    assert list(model.buffers()) == []
    all_trained(model, torch.randn(3, 3, 8, 8))


@pytest.mark.parametrize("sharing", ["per_step", "shared", "per_stage"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if "sharing" in ARCHITECTURES.parameters(name)])
def test_every_sharing_on_every_architecture(name, sharing):
    model = create_model(name, width=0.1, sharing=sharing, grid="uniform", **SMALL)
    all_trained(model, torch.randn(3, 3, 8, 8))
    for flow in model.flows:
        components = flow.scheme.components
        groups = {
            "per_step": len(flow.nodes) * components,
            "shared": components,
            "per_stage": len(flow.visits),
        }
        distinct = {id(next(field.parameters())) for field in flow.bank.fields}
        assert len(distinct) == groups[sharing]


def test_field_shared_by_all_steps_has_its_leading_norm():
    model = create_model("revnet", sharing="shared", width=0.25, **SMALL)
    layers = [len(list(stage.flow.bank.fields[0].children())) for stage in model.stages]
    assert len(set(layers)) == 1


def test_grid_sets_steps_and_time():
    model = create_model("resnet", grid={"name": "uniform", "steps": 5, "time": 2.0}, width=0.25, **SMALL)
    assert model.layout["steps"] == [5, 5, 5]
    assert model.layout["h"] == [pytest.approx(0.4)]
    assert [node.t for node in model.flows[0].nodes] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    all_trained(model, torch.randn(3, 3, 8, 8))


def test_layout_says_what_was_built():
    layout = create_model("revnet38").layout
    assert layout["widths"] == [32, 64, 112]
    assert layout["steps"] == [3, 2, 2]
    assert layout["h"] == [1.0]
    assert layout["inner"] == [16, 32, 56]
    assert (layout["scheme"], layout["field"]) == ("symplectic_euler", "basic")
    assert (layout["sharing"], layout["gradient"], layout["norm"]) == ("per_step", "reversible", "batch")


def test_a_network_of_somebody_elses_has_as_many_outputs_as_it_says():
    with pytest.raises(SchemenetError, match=r"network Linear: expected outputs \(batch, 10\), .* shape \(4, 3\)"):
        PlainNetwork(torch.nn.Linear(2, 3), 10)(torch.zeros(4, 2))


@pytest.mark.parametrize("network", [PlainNetwork(torch.nn.Linear(2, 3), 3), create_model("cnf", in_chans=2)])
def test_a_network_without_stages_of_flows_says_that_it_has_no_trajectory(network):
    with pytest.raises(SchemenetError, match=r"trajectory: \w+ has no stages"):
        network.trajectory(torch.zeros(4, 2))


@pytest.mark.parametrize("name", ["cnf", "neural_ode", "ode_rnn", "latent_ode"])
def test_a_layout_has_the_registered_name_of_the_scheme(name):
    assert create_model(name, in_chans=2, scheme="heun").layout["scheme"] == "heun"


SHALLOW = {
    "resnet": {"depth": 14}, "resnet20_v1": {"depth": 14}, "lm_resnet": {"depth": 14}, "resnext": {"depth": 20},
    "revnet": {"depth": 26}, "ode_resnet": {"steps": 2},
}  # fmt: skip
SWAPPED = ["resnet", "revnet", "resnet20_v1", "resnext", "lm_resnet", "ode_resnet", "stem_only", "one_block"]
"""The first two stand for one and for two streams, and take every explicit scheme."""
EXPLICIT = [name for name in SCHEMES if not SCHEMES.build(name).implicit and name not in ONE_OF_A_KIND]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [*product(SWAPPED[:2], EXPLICIT), *product(SWAPPED, ONE_OF_A_KIND)],
)
def test_a_swapped_scheme_is_refused_in_words_or_runs(name, scheme):
    """No pair fails in the middle of a training. An implicit step need not be solvable untrained, and is not solved."""
    device = "meta" if SCHEMES.build(scheme).implicit else "cpu"
    options = {"width": 0.25, "gradient": "backprop", "image_size": 32 if device == "meta" else 8}
    try:
        with torch.device(device):
            model = create_model(name, scheme=scheme, **options, **SHALLOW.get(name, {}))
    except SchemenetError as refused:
        assert "use " in str(refused)  # noqa: PT017  not every pair is refused
        return
    size = options["image_size"]
    assert model(torch.zeros(2, 3, size, size, device=device)).shape == (2, 10)
