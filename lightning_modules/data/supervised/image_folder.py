"""Images of the user, a folder for each class."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_modules.config.registries import DATA
from lightning_modules.data.datamodule import subset
from lightning_modules.data.loader import BatchLoader, Indexable, fetch
from lightning_modules.data.on_disk import FromFiles
from lightning_modules.data.supervised.base import Labelled, LabelledData
from lightning_modules.storage.atomic_files import refuse_special
from schemes.errors import SchemenetError, nearest

if TYPE_CHECKING:
    from PIL.Image import Image
    from torchvision.datasets import ImageFolder as Listing

MEASURED = 4096
"""The most training images from which mean and deviation are computed."""

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Those of torchvision's endings; Pillow passes some other formats to external programs."""


@DATA.register("image_folder")
class ImageFolder(FromFiles, LabelledData):
    """Colour images of ``root/train/<class>/*`` and ``root/test/<class>/*``, brought to ``size`` x ``size``.

    An image of another size is scaled by its shorter side and cut in the middle. Augmented by shifts of up to an eighth
    of the size and by mirroring. Mean and deviation are those of the training set, or of the same 4,096 images of it
    where it is larger.

    ``decode`` "once" keeps all images in memory as bytes; "each_epoch" decodes a batch when its turn comes, for sets
    that no memory holds. ``workers`` processes decode; neither changes a batch by a bit.
    """

    flip = True
    remedy = "name the folder that holds train and test by data.root=... or by SCHEMENET_DATA"
    least: ClassVar = {**LabelledData.least, "size": 1, "workers": 0}

    def __init__(
        self, *, size: int = 32, decode: Literal["once", "each_epoch"] = "once", workers: int = 0, **options: Any
    ) -> None:
        self.size, self.shape, self.pad = size, (3, size, size), max(1, size // 8)
        self.decode, self.workers = decode, workers
        super().__init__(**options)

    def mistakes(self) -> list[str]:
        downloads = ["data.download: an image folder has no source; expected false, got true"] * self.download
        return super().mistakes() + downloads

    @property
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]  # of the files
        self.check()
        return len(self._listing["train"].classes)

    @cached_property
    def _listing(self) -> dict[str, Listing]:
        from torchvision import datasets

        return {part: datasets.ImageFolder(str(self.root / part)) for part in ("train", "test")}

    def missing(self) -> str | None:
        try:
            train, test = (self._listing[part].classes for part in ("train", "test"))
        except OSError as error:
            return f"expected train/<class>/* and test/<class>/*; {error}"
        if train == test and len(train) > 1:
            return None
        if train == test:
            raise SchemenetError(
                f"{self.root}: expected the folders of two classes or more in train and in test, got {train[0]!r} alone"
            )
        odd = sorted({*train} ^ {*test})
        other = nearest(odd[0], test if odd[0] in train else train)
        raise SchemenetError(
            f"{self.root}: train and test differ in classes: {', '.join(odd)}{'; ' + other if other else ''}"
        )

    def load(self, train: bool) -> Labelled:
        paths, labels = zip(*self._listing["train" if train else "test"].samples, strict=True)
        chosen = subset(len(paths), self.limit_train if train else self.limit_test)
        images = Images([paths[index] for index in chosen], self.size)
        inputs = images if self.decode == "each_epoch" else self._read(images, torch.arange(len(images)))
        _warn_of_conversions(images)
        if train:
            self.mean, self.std = statistics(self._read(inputs, subset(len(images), MEASURED)))
        return Labelled(inputs, torch.tensor(labels)[chosen])

    def _read(self, inputs: Indexable, chosen: Tensor) -> Tensor:
        return torch.cat(list(fetch(inputs, chosen.split(64), self.workers)))

    def _loader(self, samples: Any, train: bool = False, **options: Any) -> BatchLoader:
        workers = self.workers if self.decode == "each_epoch" else 0
        return super()._loader(samples, train, workers=workers, **options)


class Images:
    """Colour images in files, decoded on access to bytes, (chosen, 3, size, size)."""

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths: Sequence[str] = paths
        self.size = size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: Tensor) -> Tensor:
        return torch.stack([self._decode(self.paths[int(index)]) for index in chosen.tolist()])

    def _decode(self, path: str) -> Tensor:
        from PIL import Image, ImageOps

        try:
            refuse_special(Path(path))
            with Image.open(path, formats=FORMATS) as file:
                image = to_rgb(file)
        except Exception as error:  # a damaged file may raise anything in a decoder
            raise SchemenetError(
                f"cannot read the image {path}: {error}; put an undamaged one in its place, or delete it"
            ) from error
        if image.size != (self.size, self.size):
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_rgb(image: Image) -> Image:
    """An image of any mode as 8-bit colours: 16-bit grey values are scaled, transparent pixels become black.

    Raises ValueError for modes in which the value of white is unknown.
    """
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white; store whole numbers of 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("pixels of 32 bits have no known white; store whole numbers of 8 or 16 bits")
        image = Image.fromarray(((values * 255 + 2**15 - 1) // (2**16 - 1)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")


def _warn_of_conversions(images: Images) -> None:
    """Warn of images that are not plain 8-bit ones, by the headers of the MEASURED ones."""
    from PIL import Image

    conversions: dict[str, list[str]] = {}
    for index in subset(len(images), MEASURED).tolist():
        path = images.paths[int(index)]
        with contextlib.suppress(Exception), Image.open(path, formats=FORMATS) as file:  # reported when it is decoded
            if file.mode.startswith("I"):
                conversions.setdefault("have 16 bits a pixel and are scaled to 8", []).append(path)
            if file.has_transparency_data:
                conversions.setdefault("are transparent in places, which are taken as black", []).append(path)
    for what, paths in conversions.items():
        warnings.warn(f"data: {len(paths)} images {what}, {paths[0]} for one", stacklevel=3)


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation per channel of pixels between 0 and 1, exact, from the counts of the 256 values."""
    counts = torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]).double()
    share, values = counts / counts.sum(1, keepdim=True), torch.arange(256) / 255.0
    mean = share @ values.double()
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp(min=1 / 255).tolist())
