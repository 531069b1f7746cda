"""The networks as models of timm, under the prefix ``schemenet_``. Importing this registers them.

    timm.create_model("schemenet_resnet20", num_classes=100, scheme="heun", drop_path_rate=0.1)
    python train.py --device-modules architectures.timm_models --model schemenet_lm_resnet20 ...

A model takes timm's ``num_classes``, ``in_chans``, ``img_size``, ``global_pool``, ``drop_rate``, ``drop_path_rate``
and ``features_only``, and every option of its architecture (``schemenet models NAME``); with equal seeds it is the
network of ``architectures.create_model``.

Reference: Wightman, "PyTorch Image Models", 2019, github.com/huggingface/pytorch-image-models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from torch import nn

from architectures.factory import create_model, image_defaults, list_models
from architectures.registry import ARCHITECTURES, CLASSIFICATION
from architectures.supervised.network import Network
from schemes.errors import Problems, SchemenetError, not_taken

PREFIX = "schemenet_"
TIMM_TAKES = ("num_classes", "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate", "features_only")
WITH_FEATURES = ("out_indices", "feature_cls")
TIMM_READS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")  # by timm's builder; passed on with each call

CIFAR10_PIXELS = {
    "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616), "crop_pct": 1.0, "interpolation": "bilinear",
}  # fmt: skip

default_cfgs: dict[str, Any] = {}
__all__ = ["register_with_timm"]


def register_with_timm() -> list[str]:
    """Register with timm every network for images that is not registered there.

    Runs when this module is imported; call it again after registering an architecture of your own.

    Returns:
        The names of all of them at timm, such as ``schemenet_resnet20``, in natural order.
    """
    names = {PREFIX + name: name for name in list_models(task=CLASSIFICATION)}
    for model, name in names.items():
        if not is_model(model):
            default_cfgs.update(generate_default_cfgs({model: _default_cfg(name)}))
            globals()[model] = register_model(_entry_point(model, name))
    return list(names)


def _default_cfg(name: str) -> dict[str, Any]:
    """timm's ``default_cfg``, which its data pipeline reads, from the data that the layout is made for."""
    data = image_defaults(name)
    size = data["image_size"]
    return {
        "num_classes": data["num_classes"],
        "input_size": (data["in_chans"], size, size),
        "fixed_input_size": "image_size" in ARCHITECTURES.parameters(name),
        "classifier": "classifier",
        **_of_images(name, {}),
        **(CIFAR10_PIXELS if size == 32 else {}),
    }


_MEASURED: dict[str, dict[str, Any]] = {}


def _of_images(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """timm's ``pool_size``, height and width of the last feature map, and ``first_conv``, what reads the image.

    Measured on the meta device, on the network with one block in each stage: names that differ in depth share it.
    Nothing where a network has no feature maps.
    """
    ARCHITECTURES.check(name, options)
    shallow = {**ARCHITECTURES.defaults(name), **options}
    if "depth" in shallow:
        blocks = shallow.get("widths", (1, 2, 4)) if isinstance(shallow["depth"], int) else shallow["depth"]
        shallow["depth"] = [1] * len(blocks)
    key = f"{ARCHITECTURES[name].__qualname__} {sorted(shallow.items())}"
    if key not in _MEASURED:
        _MEASURED[key] = _measured(name, shallow)
    return _MEASURED[key]


def _measured(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    data, first = image_defaults(name, **options), []
    with torch.device("meta"), torch.no_grad():
        network = create_model(name, **{**data, **options}).eval()
        images = torch.empty(1, data["in_chans"], data["image_size"], data["image_size"])

        def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs[0] is images:
                first.append(names[module])

        names: dict[nn.Module, str] = {m: name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        for module in names:
            module.register_forward_pre_hook(note)
        assert isinstance(network, Network)  # of those that are registered with timm
        features = network.forward_features(images)
    if features.dim() != 4:
        return {}
    return {"pool_size": tuple(features.shape[2:]), "first_conv": first[0] if len(first) == 1 else tuple(first)}


def _entry_point(model: str, name: str) -> Callable[..., Any]:
    def entry_point(pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise SchemenetError(
                f"model {model!r}: no weights are published, pretrained expected to be False; "
                "your own are loaded by checkpoint_path=..."
            )
        known = [*TIMM_TAKES, *(WITH_FEATURES if "features_only" in options else ()), *ARCHITECTURES.options(name)]
        problems = Problems()
        problems.add(
            *(not_taken(f"model {model!r}", key, known) for key in options if key not in (*known, *TIMM_READS))
        )
        problems.raise_if_any()
        # Not timm's default, which rebuilds a network from its modules and passes no past states between stages.
        if (feature_cls := options.pop("feature_cls", "getter")) != "getter":
            raise SchemenetError(f"model {model!r}: feature_cls expected to be 'getter', got {feature_cls!r}")
        changed = {key: value for key, value in options.items() if key in ARCHITECTURES.options(name)}
        if changed:
            overlay = options.get("pretrained_cfg_overlay") or {}
            options["pretrained_cfg_overlay"] = {**_of_images(name, changed), **overlay}

        def network(**options: Any) -> Network:
            return _network(name, **options)

        features = {"out_indices": None, "feature_cls": "getter"}
        return build_model_with_cfg(network, model, False, feature_cfg=features, **options)

    entry_point.__name__ = entry_point.__qualname__ = model
    entry_point.__doc__ = f"The network {name!r} of schemenet (see ``architectures.create_model``)."
    return entry_point


def _network(
    name: str,
    img_size: int | Sequence[int] | None = None,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    **options: Any,
) -> Network:
    """``create_model`` with timm's parameters."""
    if not 0 <= drop_rate < 1:
        raise SchemenetError(f"drop_rate expected to be in [0, 1), got {drop_rate}")
    if drop_path_rate:
        options |= _stochastic_depth(name, drop_path_rate, options)
    if img_size is not None:
        options["image_size"] = _side(img_size)
    network = create_model(name, **options)
    assert isinstance(network, Network)  # of those that are registered with timm
    network.drop_rate = drop_rate
    if global_pool != network.global_pool:
        network.reset_classifier(network.num_classes, global_pool)
    return network


def _stochastic_depth(name: str, rate: float, options: dict[str, Any]) -> dict[str, Any]:
    """timm's ``drop_path_rate`` as the axis that it is here: a rate that grows with depth, drawn for each sample."""
    takes = ARCHITECTURES.options(name)
    if "noise" not in takes:
        similar = [key for key in takes if "drop" in key]
        raise SchemenetError(
            f"architecture {name!r} has no stochastic depth, drop_path_rate expected to be 0, got {rate}"
            + (f"; its own: {', '.join(similar)}" if similar else "")
        )
    if "noise" in options:
        raise SchemenetError(f"drop_path_rate={rate} is noise=stochastic_depth; expected one of them, got both")
    return {"noise": {"name": "stochastic_depth", "drop": rate, "per": "sample"}}


def _side(img_size: int | Sequence[int]) -> int:
    sides = {img_size} if isinstance(img_size, int) else set(img_size)
    if len(sides) != 1:
        raise SchemenetError(f"img_size expected to be one number or a square, got {img_size!r}")
    return sides.pop()


register_with_timm()
