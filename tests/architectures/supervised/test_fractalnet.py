"""FractalNet's drops of paths, and its blocks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.factory import create_model
from tests.support import reference_networks as hand
from tests.support.networks import gradients, images, same, small
from tests.support.reference_networks import Weights

FRACTAL: dict[str, Any] = {"columns": 3, "widths": (4, 6, 8)}


def test_global_drop_runs_one_column_of_the_whole_network_alone():
    model = small("fractalnet", global_drop=1.0, drop_path=0.15, **FRACTAL).train()
    x = images()
    with torch.no_grad():
        alone = [hand.fractal_column(Weights(model.parameters()), x, 3, column) for column in range(3)]
        drawn = set()
        for seed in range(12):
            torch.manual_seed(seed)
            y = model(x)
            matches = [column for column in range(3) if torch.allclose(y, alone[column], rtol=1e-10, atol=1e-10)]
            assert len(matches) == 1
            drawn.update(matches)
    assert drawn == {0, 1, 2}


def test_global_drop_is_drawn_for_its_share_of_batches():
    model = small("fractalnet", global_drop=0.3, drop_path=0.0, **FRACTAL).train()
    x = images(batch=2)
    torch.manual_seed(0)
    with torch.no_grad():
        whole = hand.fractalnet(Weights(model.parameters()), x, 3)
        kept = sum(torch.allclose(model(x), whole, rtol=1e-6, atol=1e-6) for _ in range(200)) / 200
    assert abs(kept - 0.7) < 0.1


def test_without_drops_training_is_evaluation():
    model = small("fractalnet", norm="none", drop_path=0.0, global_drop=0.0, **FRACTAL)
    with torch.no_grad():
        y = model.train()(images())
        same(y, hand.fractalnet(Weights(model.parameters()), images(), 3, norm=False))
        assert torch.equal(y, model.eval()(images()))


def test_a_join_that_drops_nothing_is_exact():
    model = small("fractalnet", norm="none", drop_path=0.0, global_drop=1e-12, **FRACTAL)
    with torch.no_grad():
        same(model.train()(images()), model.eval()(images()))


def test_evaluation_drops_nothing():
    model = small("fractalnet", norm="none", drop_path=0.6, global_drop=0.9, dropout=0.4, **FRACTAL).eval()
    with torch.no_grad():
        same(model(images()), hand.fractalnet(Weights(model.parameters()), images(), 3, norm=False))


def test_local_drop_gives_the_mean_of_the_survivors():
    model = small("fractalnet", norm="none", drop_path=0.5, global_drop=0.0, columns=3, widths=(4,)).train()
    x, weights = images(), Weights(model.parameters())

    def unit() -> Callable[[Tensor], Tensor]:
        return hand.chain(weights.conv(), torch.relu)

    def mean(inputs: list[Tensor], alive: tuple[bool, ...]) -> Tensor:
        survivors = [z for z, lives in zip(inputs, alive, strict=True) if lives]
        return sum(survivors) / len(survivors)

    first, middle_1, second, third, shallow, middle_2, fourth = (unit() for _ in range(7))
    outcomes = {}
    with torch.no_grad():
        for inner, outer in product(product((False, True), repeat=2), product((False, True), repeat=3)):
            if any(inner) and any(outer):
                join = mean([middle_1(x), second(first(x))], inner)
                ends = [torch.max_pool2d(z, 2) for z in (shallow(x), middle_2(join), fourth(third(join)))]
                outcomes[inner, outer] = model.forward_head(mean(ends, outer))
        drawn = set()
        for seed in range(80):
            torch.manual_seed(seed)
            y = model(x)
            found = {key for key, z in outcomes.items() if torch.allclose(y, z, rtol=1e-6, atol=1e-6)}
            assert found
            drawn |= found
    assert len(outcomes) == 21
    assert len(drawn) >= 18


@pytest.mark.parametrize("global_drop", [0.0, 1.0])
def test_drops_are_replayed_when_steps_are_recomputed(global_drop):
    options = {"global_drop": global_drop, "drop_path": 0.4, "dropout": 0.2, **FRACTAL}
    plain = gradients(small("fractalnet", **options), images())
    for key, gradient in gradients(small("fractalnet", gradient="checkpoint", **options), images()).items():
        if plain[key] is None or not plain[key].any():
            assert gradient is None or not gradient.any()
        else:
            same(gradient, plain[key])


@pytest.mark.parametrize(("size", "blocks"), [(32, 5), (28, 4), (8, 3), (7, 2), (64, 5)])
def test_fractalnet_has_as_many_blocks_as_halvings(size, blocks):
    model = create_model("fractalnet", image_size=size, width=0.05)
    assert len(model.flows) == len(model.layout["widths"]) == blocks
    last = model.forward_features(torch.randn(2, 3, size, size))
    assert last.shape[2:] == (size >> blocks, size >> blocks)
