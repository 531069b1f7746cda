"""Names of networks, and refusals with what the user needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from architectures.factory import create_model, list_models, networks_for_scheme
from architectures.registry import ARCHITECTURES, FIELDS
from schemes.errors import SchemenetError
from tests.support.networks import count


def test_for_scheme_gives_the_networks_that_a_word_is_known_as():
    expected = {
        "forward_euler": ["resnet"], "backward_euler_poly": ["polynet"], "rk2": ["fractalnet", "rk_resnet"],
        "heun": ["fractalnet", "rk_resnet"], "linear_multistep": ["lm_resnet"], "reversible": ["revnet"],
        "symplectic_euler": ["revnet"], "leapfrog": ["leapfrog_net"], "ode_net": ["ode_resnet"], "rk4": [],
    }  # fmt: skip
    assert {word: networks_for_scheme(word) for word in expected} == expected


def test_for_scheme_refuses_an_unknown_word_with_the_near_ones():
    with pytest.raises(SchemenetError, match=r"no network is known for the word 'odenet'; did you mean 'ode_net'"):
        networks_for_scheme("odenet")


def test_list_models():
    assert list_models("revnet*") == ["revnet", "revnet38", "revnet56", "revnet104", "revnet110", "revnet164"]
    assert list_models("resnet*_v1")[:3] == ["resnet20_v1", "resnet32_v1", "resnet44_v1"]
    assert set(list_models()) == set(ARCHITECTURES)
    assert list_models("no such network") == []


def test_a_size_gives_way_to_what_the_user_says():
    with torch.device("meta"):
        assert count(create_model("resnet20", depth=32)) == count(create_model("resnet32"))


REFUSED: list[tuple[str, dict[str, Any], list[str]]] = [
    ("resnt20", {}, ["no architecture 'resnt20'; did you mean 'resnet20'", "known: ", "fractalnet20"]),
    ("resnet", {"wdth": 1.0}, ["'resnet' takes no 'wdth'", "did you mean 'width'", "it takes: depth"]),
    ("fractalnet", {"sharing": "shared"}, ["'fractalnet' takes no 'sharing'", "it takes: columns"]),
    ("stem_only", {"depth": 20}, ["architecture 'stem_only' takes no 'depth'"]),
    ("resnet", {"depth": "20"}, ["architecture 'resnet': depth expected a whole number or a list", "got '20'"]),
    ("resnet", {"depth": 20.0}, ["depth expected a whole number or a list", "got 20.0"]),
    ("resnet", {"width": "x", "dept": 3}, ["width expected a number, got 'x'", "did you mean 'depth'"]),
    ("resnet", {"widths": 16}, ["widths expected a list [...], each entry a whole number, got 16"]),
    ("resnet", {"transition": "E"}, ["transition expected one of 'A', 'B', 'C', 'D', 'pool', got 'E'"]),
    ("resnet", {"depth": 21}, ["depth expected to be 6n + 2", "got 21; the nearest are 20 and 26"]),
    ("resnet50", {"depth": (3, 4, 6)}, ["one number of blocks for each of 4 stages", "got (3, 4, 6)"]),
    ("resnet50", {"depth": (3, 4, 0, 3)}, ["one number of blocks for each of 4 stages"]),
    ("resnet50", {"depth": 101}, ["12n + 2", "or list the blocks of each stage"]),
    ("resnet", {"history": "restart"}, ["history=restart", "'forward_euler'", "use history=shortcut"]),
    ("leapfrog_net", {"history": "project"}, ["'leapfrog' takes up no state", "scheme=linear_multistep"]),
    ("resnet", {"stem": "5x5"}, ["stem expected one of '3x3', '7x7', 'conv', 'res', got '5x5'"]),
    ("resnet", {"depth": 2}, ["got 2; the nearest are 8 and 14"]),
    ("resnet", {"depth": 21, "field": "bottleneck"}, ["9n + 2 for 3 layers", "nearest are 20 and 29"]),
    ("revnet", {"depth": 40}, ["'revnet': depth expected to be 12n + 2", "nearest are 38 and 50"]),
    ("resnet", {"width": -1.0}, ["architecture 'resnet': width expected to be positive, got -1.0"]),
    ("ode_resnet", {"inner": 0}, ["architecture 'ode_resnet': inner expected to be positive, got 0"]),
    ("mlp", {"steps": 0}, ["architecture 'mlp'", "expected to be positive, got 0"]),
    ("resnet", {"field": "mlp"}, ["architecture 'resnet': has images for states; field 'mlp' takes vectors"]),
    ("mlp", {"field": "basic"}, ["architecture 'mlp': has vectors for states; field 'basic' takes images"]),
    ("resnet", {"field": "basik"}, ["no field 'basik'; did you mean 'basic'"]),
    ("resnet", {"field": {"name": "basic", "stride": 2}}, ["field 'basic' takes no 'stride'"]),
    ("resnet", {"scheme": "forward_eulr"}, ["no scheme 'forward_eulr'; did you mean 'forward_euler'"]),
    ("resnet", {"scheme": {"name": "heun", "k": 1}}, ["scheme 'heun' takes no 'k'"]),
    ("resnet", {"scheme": {"k": 1}}, ["scheme: expected a name, or a mapping with 'name'"]),
    ("resnet", {"grid": {"name": "uniform", "steps": 0}}, ["steps expected to be at least 1, got 0"]),
    ("resnet", {"gradient": "backpop"}, ["no gradient mode 'backpop'; did you mean 'backprop'"]),
    ("resnet", {"gradient": "reversible"}, ["ForwardEuler has no inverse", "symplectic_euler"]),
    ("resnet", {"activation": "post", "gradient": "adjoint"}, ["post-activation step", "activation=pre"]),
    ("lm_resnext", {"activation": "post"}, ["activation expected 'pre', got 'post'"]),
    ("resnet20", {"num_classes": "10"}, ["num_classes expected a whole number, got '10'"]),
    ("resnet20", {"num_classes": True, "in_chans": None}, ["num_classes expected", "in_chans expected a whole number"]),
    ("resnet20", {"image_size": 32.0}, ["image_size expected a whole number or null, got 32.0"]),
    ("resnet20", {"image_size": None, "in_chans": 2}, ["reads images", "vectors of 2 numbers", ": mlp"]),
    ("fractalnet", {"image_size": None}, ["architecture 'fractalnet' reads images"]),
    ("fractalnet", {"image_size": 1}, ["images of 1 pixels cannot be halved"]),
    ("fractalnet", {"global_drop": 1.5}, ["global_drop expected to be in [0, 1], got 1.5"]),
    ("fractalnet", {"global_drop": -0.1}, ["global_drop expected to be in [0, 1], got -0.1"]),
    ("fractalnet", {"drop_path": 1.0}, ["drop_path expected to be in [0, 1), got 1.0"]),
    ("fractalnet", {"dropout": [0.1, 0.2]}, ["dropout expected to be a rate", "5 blocks, got [0.1, 0.2]"]),
    ("fractalnet", {"dropout": 1.0}, ["dropout expected to be a rate in [0, 1)"]),
    ("fractalnet", {"width": -1.0}, ["architecture 'fractalnet': width expected to be positive"]),
    ("fractalnet", {"width": float("nan")}, ["width"]),
    ("fractalnet", {"columns": 0}, ["columns expected to be at least 1"]),
    ("fractalnet", {"widths": ()}, ["widths"]),
    ("resnet", {"width": float("inf")}, ["width"]),
    ("resnet", {"widths": ()}, ["widths"]),
    ("resnet", {"widths": (-16, 0, 4)}, ["widths"]),
    ("ode_resnet", {"steps": -1}, ["steps"]),
    ("ode_resnet", {"steps": 0}, ["steps"]),
    ("odenet", {"augment": -1}, ["augment expected to be at least 0, got -1"]),
    ("odenet", {"augment": 3, "scheme": "verlet"}, ["64 + 3 channels", "use augment=4, or a scheme of one"]),
    ("mlp", {"stem": "none", "in_chans": 3, "image_size": None, "scheme": "verlet"}, ["use augment=1, or"]),
    ("resnext", {"groups": 0}, ["groups"]),
    ("resnext", {"group_width": -4}, ["group_width"]),
    ("revnet", {"widths": (32, 64, 64, 64)}, ["widths"]),
    ("resnet", {"widths": (32, 16, 8), "transition": "A"}, ["transition"]),
    ("resnet", {"field": {"groups": 2}}, ["field: expected a name, or a mapping with"]),
    ("polynet", {"depth": 21}, ["architecture 'polynet'"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    REFUSED,
)
def test_refused_with_what_the_user_needs(name, options, parts):
    with pytest.raises(SchemenetError) as caught:
        create_model(name, **options)
    for part in parts:
        assert part in str(caught.value)


def test_parts_refuse_what_no_signature_can():
    sizes = {"channels": 4, "out": 4, "inner": 5}
    with pytest.raises(SchemenetError, match="inner width 5 expected to be a multiple of groups = 3"):
        FIELDS.build({"name": "resnext", "groups": 3}, **sizes)
    with pytest.raises(SchemenetError, match="no norm 'bach'; did you mean 'batch'"):
        FIELDS.build("basic", norm="bach", **sizes)
