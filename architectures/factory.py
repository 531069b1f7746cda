"""Networks by name."""

from __future__ import annotations

from typing import Any

from architectures.model import Model
from architectures.registry import ARCHITECTURES, CLASSIFICATION, known_as, tasks_of
from schemes.errors import SchemenetError
from schemes.registry import SCHEMES

CIFAR10 = {"num_classes": 10, "in_chans": 3, "image_size": 32}
IMAGENET = {"num_classes": 1000, "in_chans": 3, "image_size": 224}


def made_for(name: str, **options: Any) -> dict[str, int]:
    """Classes, channels and size of the images that a layout is made for: ImageNet's by its stem, else CIFAR-10's."""
    stem = {**ARCHITECTURES.defaults(name), **options}.get("stem")
    return dict(IMAGENET if stem == "7x7" else CIFAR10)


def create_model(
    name: str, *, num_classes: int | None = None, in_chans: int = 3, image_size: int | None = 32, **options: Any
) -> Model:
    """The network that ``name`` stands for, with random weights.

    ``options`` are the architecture's own: ``scheme``, ``field``, ``sharing``, ``grid``, ``gradient``, ``depth``,
    ``width`` ... (``schemenet models NAME`` lists them). A scheme, field, grid or gradient is a name or a mapping with
    ``name`` and parameters. ``num_classes`` is 10 where nothing is said, and 1000 with ImageNet's stem; 0 leaves out
    the classifier. Raises SchemenetError (a ValueError) for an unknown name or option, a wrong type or an impossible
    pair, with the nearest right thing. Under ``torch.device("meta")`` no weight is allocated.
    """
    ARCHITECTURES.check(name, options)
    if num_classes is None:
        num_classes = made_for(name, **options)["num_classes"]
    context = {"num_classes": num_classes, "in_chans": in_chans, "image_size": image_size}
    facts = ARCHITECTURES.entry(name).facts
    if image_size is None and CLASSIFICATION in tasks_of(facts) and "vector" not in facts.get("reads", ("image",)):
        readers = [n for n in ARCHITECTURES if "vector" in ARCHITECTURES.entry(n).facts.get("reads", ())]
        raise SchemenetError(
            f"architecture {name!r} reads images, and this data has vectors of {in_chans} numbers; "
            f"architectures that read vectors: {', '.join(readers)}"
        )
    least = {"num_classes": 0, "in_chans": 1, "image_size": 1}
    if wrong := [
        f"{key} expected to be at least {least[key]}, got {value}"
        for key, value in context.items()
        if value is not None and value < least[key]
    ]:
        raise SchemenetError("\n".join(wrong))
    try:
        return ARCHITECTURES.build({**options, "name": name}, **context)
    except SchemenetError as error:
        raise SchemenetError(f"architecture {name!r}: {error}") from error


def list_models(pattern: str = "*", task: str | None = None) -> list[str]:
    """The names of the registered networks that match a shell pattern, in natural order; those for one task alone."""
    found = ARCHITECTURES.list(pattern)
    return [name for name in found if task is None or task in tasks_of(ARCHITECTURES.entry(name).facts)]


def for_scheme(word: str) -> list[str]:
    """The networks that a word (a scheme's name or alias, or ``ode_net``) is known as, e.g. two for ``rk2``."""
    entries = [ARCHITECTURES.entry(name) for name in ARCHITECTURES]
    words = {entry.name: entry.facts.get("word") for entry in entries if not entry.preset}
    schemes = [name for scheme in SCHEMES for name in (scheme, *SCHEMES.aliases(scheme))]
    return known_as(word, words, schemes, SCHEMES.canonical)
