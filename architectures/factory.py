"""The public functions that make, list and find networks by their names."""

from __future__ import annotations

from typing import Any

from architectures.model import Model
from architectures.plain_network import PlainNetwork
from architectures.registry import ARCHITECTURES, CLASSIFICATION, networks_matching, tasks_of
from schemes.errors import Problems, SchemenetError, not_taken
from schemes.registry import SCHEMES
from schemes.schema import objection

CIFAR10 = {"num_classes": 10, "in_chans": 3, "image_size": 32}
IMAGENET = {"num_classes": 1000, "in_chans": 3, "image_size": 224}


def image_defaults(name: str, **options: Any) -> dict[str, int]:
    """``num_classes``, ``in_chans`` and ``image_size`` of a layout's data: ImageNet's by its stem, else CIFAR-10's."""
    stem = {**ARCHITECTURES.defaults(name), **options}.get("stem")
    return dict(IMAGENET if stem == "7x7" else CIFAR10)


def create_model(
    name: str, *, num_classes: int | None = None, in_chans: int = 3, image_size: int | None = 32, **options: Any
) -> Model:
    """Create a network with random weights. Under ``torch.device("meta")`` no weight is allocated.

    Args:
        name: a registered architecture or size (``list_models()``).
        num_classes: classes of the classifier; 0 leaves it out. None for 10, or 1000 with ImageNet's stem.
        in_chans: channels of images or series, columns of vectors.
        image_size: height and width of square images, in pixels; None for vectors.
        **options: parameters of the architecture: ``scheme``, ``field``, ``sharing``, ``grid``, ``gradient``,
            ``depth``, ``width`` ... (``schemenet models NAME`` lists them). A scheme, field, grid or gradient is a
            name, a mapping with ``name`` and parameters, a class, or an object.

    Returns:
        The network: a :class:`~architectures.supervised.network.Network`, or the :class:`Model` of another task. A
        registered module of somebody else's is wrapped as a :class:`PlainNetwork`.

    Raises:
        SchemenetError: a ValueError, for an unknown name or option, a wrong type or an impossible combination; it says
            the nearest possible one.
    """
    known = [*ARCHITECTURES.options(name), *ARCHITECTURES.context]
    problems = Problems()
    problems.add(*(not_taken(f"architecture {name!r}", key, known) for key in options if key not in known))
    problems.attempt(lambda: ARCHITECTURES.check(name, {key: v for key, v in options.items() if key in known}))
    problems.raise_if_any()
    if num_classes is None:
        num_classes = image_defaults(name, **options)["num_classes"]
    context = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    facts = ARCHITECTURES.entry(name).facts
    if image_size is None and CLASSIFICATION in tasks_of(facts) and "vector" not in facts.get("reads", ("image",)):
        readers = [n for n in ARCHITECTURES if "vector" in ARCHITECTURES.entry(n).facts.get("reads", ())]
        raise SchemenetError(
            f"architecture {name!r} reads images, and this data has vectors of {in_chans} numbers; "
            f"architectures that read vectors: {', '.join(readers)}"
        )
    least = {"num_classes": ("int", 0), "in_chans": ("int", 1), "image_size": ("int | None", 1)}
    problems = Problems()
    for key, value in context.items():
        annotation, smallest = least[key]
        if (problem := objection(value, annotation)) is not None:
            problems.add(f"{key} {problem}")
        elif value is not None and value < smallest:
            problems.add(f"{key} expected to be at least {smallest}, got {value}")
    problems.raise_if_any()
    try:
        network = ARCHITECTURES.build({**options, "name": name}, **context)
    except SchemenetError as error:
        prefix = f"architecture {name!r}: "
        raise SchemenetError(prefix + str(error).removeprefix(prefix)) from error
    return network if isinstance(network, Model) else PlainNetwork(network, num_classes)


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """The names of the registered networks, numbers inside names in their natural order.

    Args:
        pattern: a shell pattern, such as ``"lm_resnet*"``.
        task: only networks for this task, such as "classification", "density" or "series"; None for all.
    """
    names = ARCHITECTURES.list(pattern)
    return [name for name in names if task is None or task in tasks_of(ARCHITECTURES.entry(name).facts)]


def networks_for_scheme(word: str) -> list[str]:
    """The published networks of a scheme.

    Args:
        word: the name or an alias of a scheme, or ``ode_net``.

    Returns:
        Their names, sorted: ``["fractalnet", "rk_resnet"]`` for ``"rk2"``; none where there is no such network.

    Raises:
        SchemenetError: for a word that is neither.
    """
    return networks_matching(word, ARCHITECTURES, SCHEMES)


for_scheme = networks_for_scheme
"""The earlier name of :func:`networks_for_scheme`."""
