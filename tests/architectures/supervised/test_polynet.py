"""PolyNet's measures against divergence: norms per power, residual scaling, initialisation by insertion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from architectures import create_model, insert
from architectures.costs.ledger import parameters
from architectures.model import Model
from lightning_modules.cli import main
from lightning_modules.training.loading import load_run
from schemes import SchemenetError

SMALL = {"width": 0.25, "image_size": 16}


def branches(network: nn.Module) -> list[nn.Module]:
    return [flow.bank.at(node) for flow in network.flows for node in flow.nodes]


@pytest.mark.parametrize("degree", [2, 3])
def test_norms_per_power_cost_their_affine_weights_and_nothing_else(degree: int) -> None:
    scheme = {"name": "backward_euler_poly", "degree": degree}
    plain = create_model("polynet20", scheme=scheme)
    own = create_model("polynet20", scheme=scheme, statistics="per_node_affine")
    norms = [m for branch in branches(plain) for m in branch.modules() if isinstance(m, nn.BatchNorm2d)]
    extra = (degree - 1) * sum(2 * m.num_features for m in norms)
    assert parameters(own) == parameters(plain) + extra


def test_norms_per_power_are_told_apart_by_the_second_evaluation() -> None:
    torch.manual_seed(0)
    network = create_model("polynet20", statistics="per_node_affine", **SMALL).eval()
    flow = network.flows[0]
    first, second = (flow.bank.at(flow.nodes[0].at(stage)) for stage in (0, 1))
    assert first[2].weight is second[2].weight  # the convolution
    with torch.no_grad():
        second[0].weight.fill_(3.0)
        second[0].bias.fill_(0.5)
    x = torch.randn(2, 4, 8, 8)
    inner = first(None, x)
    normed = 3 * nn.functional.batch_norm(inner, second[0].running_mean, second[0].running_var) + 0.5
    expected = x + inner + nn.Sequential(*list(second)[2:])(torch.relu(normed))
    found, _ = flow.scheme.step(flow.bank, flow.nodes[0], x, ())
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_ties_survive_a_move_from_the_meta_device() -> None:
    with torch.device("meta"):
        network = create_model("polynet20", statistics="per_node_affine", **SMALL)
    count = parameters(network)
    assert parameters(network.to_empty(device="cpu")) == count


def test_residual_scaling_scales_the_residual() -> None:
    torch.manual_seed(0)
    scaled = create_model("polynet20", scheme={"name": "backward_euler_poly", "scaling": 0.3}, **SMALL).eval()
    flow = scaled.flows[0]
    f = flow.bank.at(flow.nodes[0])
    twin = flow.bank.at(flow.nodes[0].at(1))
    x = torch.randn(2, 4, 8, 8)
    found, _ = flow.scheme.step(flow.bank, flow.nodes[0], x, ())
    torch.testing.assert_close(found, x + 0.3 * (f(None, x) + twin(None, f(None, x))))


def test_norms_of_their_own_belong_to_no_ode() -> None:
    with pytest.raises(SchemenetError, match="statistics=per_node"):
        create_model("rk_resnet", statistics="per_node_affine", gradient="adjoint", **SMALL)


# Insertion


def test_trained_steps_are_spread_over_the_grown_flows() -> None:
    torch.manual_seed(1)
    trained = create_model("resnet20", **SMALL)
    torch.manual_seed(2)
    grown = create_model("polynet32", **SMALL)
    fresh = {name: value.clone() for name, value in grown.state_dict().items()}
    assert insert(trained, grown) is grown
    assert torch.equal(grown.stem.weight, trained.stem.weight)
    assert torch.equal(grown.classifier.weight, trained.classifier.weight)
    for old, new in zip(trained.flows, grown.flows, strict=True):
        copied = [
            [
                i
                for i, node in enumerate(old.nodes)
                if torch.equal(new.bank.at(to)[2].weight, old.bank.at(node)[2].weight)
            ]
            for to in new.nodes
        ]
        assert [i for found in copied for i in found] == list(range(len(old.nodes))), "each trained step once, in order"
        assert copied[0] == [0]
        assert len([c for c in copied if not c]) == len(new.nodes) - len(old.nodes)
    unchanged = [name for name, value in grown.state_dict().items() if torch.equal(value, fresh[name])]
    assert any(name.endswith("weight") and ".flow." in name for name in unchanged)


def test_an_inserted_network_is_the_trained_one_where_its_new_steps_are_nothing() -> None:
    torch.manual_seed(0)
    trained = create_model("resnet20", **SMALL).eval()
    grown = insert(trained, create_model("resnet32", **SMALL)).eval()
    for old, new in zip(trained.flows, grown.flows, strict=True):
        olds = [old.bank.at(node)[-1].weight for node in old.nodes]
        for node in new.nodes:
            last = new.bank.at(node)[-1].weight
            if not any(torch.equal(last, weight) for weight in olds):
                nn.init.zeros_(last)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(grown(x), trained(x))


def test_steps_of_a_density_are_inserted() -> None:
    trained, grown = (create_model("nice", in_chans=2, image_size=1, steps=steps) for steps in (4, 4))
    insert(trained, grown)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, grown.state_dict()[name]), name


def test_insertion_refuses_what_does_not_fit() -> None:
    deep, shallow = create_model("resnet32", **SMALL), create_model("resnet20", **SMALL)
    with pytest.raises(SchemenetError, match="does not fit into"):
        insert(deep, shallow)
    with pytest.raises(SchemenetError, match="differ in more than their steps"):
        insert(shallow, create_model("resnet32", width=0.5, image_size=16))


def test_a_run_starts_from_the_trained_steps_of_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["debug=fast", "architecture.width=0.25", "data.limit_train=64", "data.limit_test=32"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["train", *small, f"folder={first}"]) == 0
    grow = ["architecture=polynet32", f"start_from={first}", f"folder={second}", "trainer.limit_train_batches=1"]
    assert main(["train", *small, *grow, "optimizer.lr=0", "optimizer.weight_decay=0"]) == 0
    old, new = (load_run(run, Model).network for run in (first, second))
    assert torch.equal(old.stem.weight, new.stem.weight)
    assert torch.equal(branches(old)[0][2].weight, branches(new)[0][2].weight)

    capsys.readouterr()
    wide = ["architecture.width=0.5", f"start_from={first}", f"folder={tmp_path / 'third'}"]
    assert main(["train", "debug=fast", *wide]) == 2
    assert "differ in more than their steps" in capsys.readouterr().err
    assert main(["train", *small, "start_from=nowhere", f"folder={tmp_path / 'third'}"]) == 2
    assert "no run folder or checkpoint 'nowhere'" in capsys.readouterr().err
