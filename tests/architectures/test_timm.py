"""The networks as timm's users and timm's train.py meet them."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.layers import convert_sync_batchnorm
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from timm.utils import ModelEmaV3
from torch import Tensor, nn

import architectures
from architectures.factory import create_model, list_models
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from lightning_modules.training.optimizers.first_order import sgd
from schemes.errors import SchemenetError

NAMES = ["schemenet_" + name for name in list_models(task="classification")]


@pytest.fixture(scope="module", autouse=True)
def registered() -> None:
    """Every network is known to timm. It takes seconds, so only the process that runs these tests does it."""
    assert architectures.register_with_timm() == NAMES


FAMILIES = [name for name in list_models(task="classification") if not ARCHITECTURES.entry(name).preset]
MAPS = [name for name in FAMILIES if "reads" not in ARCHITECTURES.entry(name).facts]
NARROW: dict[str, Any] = {"width": 0.25}
ROOT = Path(__file__).resolve().parents[2]


def model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("schemenet_" + name, **options)


def images(batch: int = 2, size: int = 32) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.manual_seed(1))


def gradients(network: nn.Module) -> dict[str, Tensor]:
    network.zero_grad()
    network.train()(images(4, 8)).square().sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


# Registration ---------------------------------------------------------------------------------------------


def test_every_architecture_is_registered_once_and_listed():
    assert timm.list_models("schemenet_*") == sorted(NAMES, key=timm.list_models("schemenet_*").index)
    assert set(timm.list_models("schemenet_*")) == set(timm.list_models(module="timm_models")) == set(NAMES)
    assert architectures.register_with_timm() == NAMES  # and no warning that a name is overwritten


def test_registering_waits_until_it_is_asked_for():
    code = (
        "import sys, architectures; assert not {'torch', 'timm'} & set(sys.modules);"
        "architectures.create_model('resnet20', width=0.25); assert 'timm' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", FAMILIES)
def test_the_model_is_the_network_of_the_same_name(name):
    options = {"num_classes": 7, **NARROW}
    found = model(name, img_size=32, **options)
    torch.manual_seed(0)
    expected = create_model(name, **options)
    assert type(found) is type(expected)
    assert list(found.state_dict()) == list(expected.state_dict())
    with torch.no_grad():
        assert torch.equal(found.eval()(images()), expected.eval()(images()))


def test_options_of_the_architecture_are_the_models():
    found = model("resnet20", scheme={"name": "linear_multistep", "k": 0.5}, in_chans=1, num_classes=3, depth=8)
    assert found.layout["scheme"] == "linear_multistep"
    assert found(torch.randn(2, 1, 16, 16)).shape == (2, 3)


REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("resnet20", {"pretrained": True}, ["schemenet_resnet20", "no weights are published", "checkpoint_path"]),
    ("resnet20", {"wdth": 2.0}, ["takes no 'wdth'", "did you mean 'width'"]),
    ("resnet20", {"drop_rat": 0.1, "bn_momentum": 0.2}, ["did you mean 'drop_rate'", "takes no 'bn_momentum'"]),
    ("resnet20", {"drop_block_rate": 0.1}, ["takes no 'drop_block_rate'"]),
    ("resnet20", {"out_indices": (0,)}, ["takes no 'out_indices'"]),
    ("resnet20", {"features_only": True, "feature_cls": "list"}, ["feature_cls expected to be 'getter', got 'list'"]),
    ("resnet20", {"feature_cls": "getter"}, ["takes no 'feature_cls'"]),
    ("resnet20", {"depth": 2.5}, ["depth expected a whole number or a list"]),
    ("resnet20", {"scheme": "hein"}, ["no scheme 'hein'; did you mean 'heun'"]),
    ("resnet20", {"drop_rate": 1.0}, ["drop_rate expected to be in [0, 1), got 1.0"]),
    ("resnet20", {"num_classes": -1}, ["num_classes expected to be at least 0, got -1"]),
    ("resnet20", {"global_pool": "avgg", "num_classes": 0}, ["no global_pool 'avgg'; did you mean", "avg"]),
    ("resnet20", {"global_pool": ""}, ["global_pool='' needs num_classes=0"]),
    ("resnet20", {"features_only": True, "out_indices": (3,)}, ["stages are numbered 0 to 2, got 3"]),
    ("mlp", {"features_only": True}, ["vectors", "no feature maps"]),
    ("fractalnet20", {"img_size": (32, 16)}, ["img_size expected to be one number or a square", "(32, 16)"]),
    ("fractalnet20", {"drop_path_rate": 0.1}, ["no stochastic depth", "drop_path, global_drop"]),
]


@pytest.mark.parametrize(("name", "options", "told"), REFUSED)
def test_what_a_model_does_not_take_is_refused_and_not_swallowed(name, options, told):
    with pytest.raises(SchemenetError) as caught:
        model(name, **options)
    for text in told:
        assert text in str(caught.value)


# Head -----------------------------------------------------------------------------------------------------


def test_head_in_its_parts():
    network, x = model("resnet20", num_classes=7, **NARROW).eval(), images()
    features = network.forward_features(x)
    assert features.shape == (2, network.num_features, 8, 8)
    pooled = network.forward_head(features, pre_logits=True)
    assert torch.equal(pooled, features.mean((2, 3)))
    assert torch.equal(network.get_classifier()(pooled), network.forward_head(features))
    assert torch.equal(network.forward_head(features), network(x))


def test_classifier_is_reset():
    network, x = model("resnet20", **NARROW).double().eval(), images().double()
    features = network.forward_features(x)
    network.reset_classifier(3)
    assert network.num_classes == 3
    assert network(x).shape == (2, 3)
    network.reset_classifier(3, "max")
    assert torch.equal(network.forward_head(features, pre_logits=True), features.amax((2, 3)))
    network.reset_classifier(0, "")
    assert isinstance(network.get_classifier(), nn.Identity)
    assert torch.equal(network(x), features)
    assert model("resnet20", num_classes=0, global_pool="", **NARROW)(x.float()).shape == features.shape


def test_drop_rate_drops_what_the_classifier_is_handed():
    network, x = model("resnet20", drop_rate=0.5, norm="none", **NARROW), images()
    assert network.drop_rate == 0.5
    features = network.forward_features(x)
    whole = network.eval().forward_head(features, pre_logits=True)
    assert torch.equal(whole, features.mean((2, 3)))
    dropped = network.train().forward_head(features, pre_logits=True)
    kept = dropped != 0
    assert 0 < kept.sum() < kept.numel()
    torch.testing.assert_close(dropped[kept], 2 * whole[kept])


# Features -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
def test_features_have_the_shapes_that_feature_info_says(name):
    body = model(name, features_only=True, img_size=32, **NARROW)
    channels, reductions = body.feature_info.channels(), body.feature_info.reduction()
    found = body(images())
    assert len(found) == len(channels) == len(body.feature_info)
    for x, width, reduction in zip(found, channels, reductions, strict=True):
        side = (32 - 2 * (name == "odenet")) // reduction  # whose first convolution pads nothing
        assert x.shape == (2, width, side, side)


def test_features_are_the_states_between_the_stages():
    whole, body = model("revnet38", **NARROW).eval(), model("revnet38", features_only=True, **NARROW).eval()
    x = images()
    final, between = whole.forward_intermediates(x)
    assert torch.equal(final, whole.forward_features(x))
    for found, expected in zip(body(x), between, strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(whole.forward_intermediates(x, norm=True, intermediates_only=True)[-1], final)
    last_two = whole.forward_intermediates(x, indices=2, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(last_two, between[1:], strict=True))


def test_out_indices_select_and_later_stages_are_left_out():
    body = model("lm_resnet20", features_only=True, out_indices=(0, -2), **NARROW)
    assert body.feature_info.channels() == [4, 8]
    assert body.feature_info.module_name() == ["stages.0", "stages.1"]
    assert [x.shape[1] for x in body(images())] == [4, 8]
    assert not [name for name, _ in body.named_parameters() if "stages.2" in name or "finish" in name]


def test_features_train():
    body = model("lm_resnet20", features_only=True, **NARROW)
    sum(x.square().mean() for x in body(images())).backward()
    assert [name for name, p in body.named_parameters() if p.grad is None] == []


def test_drop_path_rate_is_stochastic_depth():
    network = model("resnet20", drop_path_rate=0.2, **NARROW)
    noises = {flow.noise for flow in network.flows}
    assert {(type(noise).__name__, noise.drop, noise.per) for noise in noises} == {("StochasticDepth", 0.2, "sample")}
    x = images(16)
    assert not torch.equal(network(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
    with pytest.raises(SchemenetError, match="expected one of them, got both"):
        model("resnet20", drop_path_rate=0.2, noise="none")


# What timm's own generic tests ask of every model ---------------------------------------------------------


@pytest.mark.parametrize("name", list_models(task="classification"))
def test_the_configuration_names_pool_and_first_convolutions(name):
    config = timm.get_pretrained_cfg("schemenet_" + name)
    maps = "reads" not in ARCHITECTURES.entry(name).facts
    assert (config.pool_size is not None, config.first_conv is not None) == (maps, maps)


@pytest.mark.parametrize("name", [*MAPS, "resnet18", "resnet20_v1", "lm_resnet50", "revnet56"])
def test_pool_and_first_convolutions_are_those_of_the_network(name):
    with torch.device("meta"):
        network = model(name, **NARROW).eval()
        config, state = network.default_cfg, network.state_dict()
        assert network.pretrained_cfg is config
        features = network.forward_features(torch.empty(1, *config["input_size"]))
    assert tuple(features.shape[2:]) == config["pool_size"]
    first = config["first_conv"]
    for layer in (first,) if isinstance(first, str) else first:
        assert state[f"{layer}.weight"].shape[1] == config["input_size"][0]
    assert f"{config['classifier']}.weight" in state


def test_options_that_change_stem_or_stages_change_the_configuration():
    config = model("resnet20", activation="post", widths=(8, 16), depth=(1, 1)).default_cfg
    assert (config["first_conv"], config["pool_size"]) == ("stem.0", (16, 16))
    asked = model("resnet20", width=0.25, pretrained_cfg_overlay={"pool_size": (1, 1)})
    assert asked.default_cfg["pool_size"] == (1, 1)


@pytest.mark.parametrize("name", MAPS)
def test_a_model_as_timms_generic_tests_use_it(name):
    options = {"img_size": 32, "in_chans": 1, **NARROW}
    network, x = model(name, num_classes=5, **options).eval(), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        features = network.forward_features(x)
        assert network(x).shape == (2, 5)
        assert network.forward_head(features, pre_logits=True).shape == (2, network.head_hidden_size)
        last, between = network.forward_intermediates(x)
        torch.testing.assert_close(last, features)
        for i in range(len(between)):
            state, (only,) = network.forward_intermediates(x, indices=[i], stop_early=True)
            assert torch.equal(only, between[i])
            assert torch.equal(state, features if i == len(between) - 1 else between[i])
            body = model(name, features_only=True, feature_cls="getter", out_indices=(i,), **options).eval()
            assert [found.shape for found in body(x)] == [between[i].shape]
        network.set_grad_checkpointing()
        torch.testing.assert_close(network.forward_intermediates(x)[0], features)
        network.reset_classifier(0)
        assert network(x).shape == (2, network.num_features)
        network.reset_classifier(0, "")
        assert torch.equal(network(x), features)
    network.prune_intermediate_layers([0])
    assert len(network.feature_info) == 1
    assert network(x).shape[1] == network.feature_info[0]["num_chs"]


# Graphs ---------------------------------------------------------------------------------------------------

SHALLOW: dict[str, dict[str, Any]] = {
    "resnet": {"depth": 8}, "revnet": {"depth": (2, 1, 1)}, "odenet": {"grid": "uniform"},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("name", SHALLOW)
def test_an_exported_or_traced_model_computes_the_same(name):
    network = model(name, img_size=8, **NARROW, **SHALLOW[name]).eval()
    x, y = images(size=8), images(3, size=8)
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=2, max=64)
        exported = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
        for graph in (exported, torch.jit.trace(network, x)):
            torch.testing.assert_close(graph(y), network(y))


@pytest.mark.filterwarnings("ignore:`torch.jit.(trace|script):FutureWarning")
def test_what_makes_no_graph_is_refused_with_what_does():
    network, x = model("resnet20", **NARROW).eval(), images(size=8)
    with pytest.raises(SchemenetError, match=r"torch.jit.script is not supported; use torch.export.export"):
        torch.jit.script(nn.Sequential(network))
    with pytest.raises(SchemenetError, match=r"torch.fx.symbolic_trace is not supported; use torch.export.export"):
        torch.fx.symbolic_trace(nn.Sequential(network))
    with pytest.raises(SchemenetError, match=r"follows the gradient backprop only; trace under torch.no_grad"):
        torch.jit.trace(model("revnet38", **NARROW).eval(), x)
    adaptive = model("odenet", **NARROW).eval()
    for make in (torch.jit.trace, lambda network, x: torch.export.export(network, (x,))):
        with pytest.raises(SchemenetError, match=r"adaptive grid depend on the input.*grid=uniform"), torch.no_grad():
            make(adaptive, x)


# Training -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["linear_multistep", "heun"])
def test_checkpointing_is_switched_on_and_off(scheme):
    network = model("resnet20", scheme=scheme, **NARROW).double()
    modes = [str(type(flow.gradient).__name__) for flow in network.flows]

    def kept() -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t):
            network(images().double())
        return sum(sizes)

    def found() -> dict[str, Tensor]:
        network.zero_grad()
        network.train()(images().double()).square().sum().backward()
        return {name: p.grad.clone() for name, p in network.named_parameters()}

    plain, most = found(), kept()
    network.set_grad_checkpointing()
    assert network.layout["gradient"] == "checkpoint"
    assert kept() < most / 2
    torch.testing.assert_close(found(), plain, rtol=1e-10, atol=1e-10)
    network.set_grad_checkpointing(enable=False)
    assert [str(type(flow.gradient).__name__) for flow in network.flows] == modes
    assert kept() == most


def test_checkpointing_leaves_reversible_flows_alone():
    network = model("revnet38", **NARROW)
    modes = [flow.gradient for flow in network.flows]
    network.set_grad_checkpointing()
    assert [flow.gradient for flow in network.flows] == modes


def test_coefficients_are_not_decayed_and_no_others():
    network = model("lm_resnet20", **NARROW)
    assert network.no_weight_decay() == {f"stages.{i}.flow.scheme.k" for i in range(3)}
    assert model("resnet20", **NARROW).no_weight_decay() == set()
    free = sgd(network, 10)["optimizer"].param_groups[1]["params"]
    assert {id(p) for p in free} == {id(network.get_parameter(name)) for name in network.no_weight_decay()}


@pytest.mark.parametrize("name", ["lm_resnet20", "polynet20", "ode_resnet"])
@pytest.mark.parametrize("layered", [False, True])
def test_optimisers_of_timm_hold_each_parameter_once(name, layered):
    network = model(name, **NARROW)
    groups = create_optimizer_v2(
        network, "adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.7 if layered else None
    ).param_groups
    times = Counter(id(p) for group in groups for p in group["params"])
    assert times == Counter({id(p): 1 for p in network.parameters()})
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert not decayed & {id(p) for n, p in network.named_parameters() if n in network.no_weight_decay()}
    assert decayed >= {id(p) for p in network.parameters() if p.dim() == 4}


def test_later_layers_learn_faster_with_layer_decay():
    network = model("lm_resnet20", **NARROW)
    scale = {
        id(p): group["lr_scale"] for group in param_groups_layer_decay(network, 0.1, layer_decay=0.7)
        for p in group["params"]
    }  # fmt: skip
    order = (
        "stem.weight", "stages.0.flow.bank.fields.0.2.weight", "stages.0.flow.bank.fields.2.2.weight",
        "stages.1.transition.branch.2.weight", "stages.1.flow.bank.fields.0.2.weight", "classifier.weight",
    )  # fmt: skip
    scales = [scale[id(network.get_parameter(name))] for name in order]
    assert scales == sorted(set(scales))
    assert len(group_parameters(network, group_matcher=network.group_matcher(coarse=True))) == 5


def test_averaged_weights_are_the_average():
    """A twin shares its weights under another name, and must not be averaged twice."""
    network = model("polynet20", depth=14, norm="batch", **NARROW)
    average = ModelEmaV3(network, decay=0.75)
    before = {name: p.clone() for name, p in network.named_parameters()}
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p))
    average.update(network)
    for name, p in average.module.named_parameters():
        torch.testing.assert_close(p, torch.lerp(before[name], network.get_parameter(name), 0.25))
    with torch.no_grad():
        average.module(images())


def test_a_saved_state_holds_each_weight_once_and_comes_back():
    network, other = model("polynet20", depth=14, **NARROW), create_model("polynet", depth=14, **NARROW)
    gradients(network)
    state = network.state_dict()
    pointers = [t.data_ptr() for name, t in state.items() if name in dict(network.named_parameters())]
    assert len(pointers) == len(set(pointers)) == len(list(network.parameters()))
    assert set(state) == {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
    other.load_state_dict(state)
    assert torch.equal(other.eval()(images()), network.eval()(images()))
    with torch.device("meta"):
        bare = create_model("polynet", depth=14, **NARROW)
    bare.load_state_dict(state, assign=True)
    assert len(list(bare.parameters())) == len(list(network.parameters()))
    # One that was saved with the names of all twins is read as well.
    whole = {**state, **dict(network.named_parameters(remove_duplicate=False))}
    create_model("polynet", depth=14, **NARROW).load_state_dict(whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_train_py_does(tmp_path):
    """The calls of timm's train.py (not in the wheel), in its order, with ``--drop``'s default and pruned Nones."""
    network = timm.create_model(
        "schemenet_lm_resnet20", pretrained=False, in_chans=3, num_classes=5, drop_rate=0.0, drop_path_rate=None,
        drop_block_rate=None, global_pool=None, bn_momentum=None, bn_eps=None, scriptable=False, checkpoint_path=None,
        **NARROW,
    )  # fmt: skip
    assert network.num_classes == 5
    network.set_grad_checkpointing(enable=True)
    network.get_classifier().weight.data.mul_(0.5)
    data = resolve_data_config({"img_size": None}, model=network)
    assert data["input_size"] == (3, 32, 32)
    network = convert_sync_batchnorm(network)
    network.load_state_dict(network.state_dict())
    network = copy.deepcopy(network)
    assert isinstance(network, Network)
    file = tmp_path / "last.pth.tar"
    torch.save({"state_dict": network.state_dict(), "arch": "schemenet_lm_resnet20"}, file)
    loaded = model("lm_resnet20", num_classes=5, checkpoint_path=str(file), **NARROW)
    assert torch.equal(loaded.stages[2].flow.scheme.k, network.stages[2].flow.scheme.k)


def test_imagenet_layouts_are_made_for_imagenet():
    with torch.device("meta"):
        network = model("revnet56", img_size=224)
        body = model("resnet50", features_only=True)
    assert network.num_classes == 1000
    data = resolve_data_config(model=network)
    assert data["input_size"] == (3, 224, 224)
    assert data["mean"] == (0.485, 0.456, 0.406)
    assert body.feature_info.channels() == [256, 512, 1024, 2048]
    assert body.feature_info.reduction() == [4, 8, 16, 32]


def test_data_pipelines_ask_for_the_size_that_a_model_is_made_for():
    assert resolve_data_config(model=model("fractalnet20", width=0.05))["input_size"] == (3, 32, 32)
    assert model("fractalnet20", width=0.05, img_size=8).layout["steps"] == [1, 1, 1]
