"""Fabricated files of data sets."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from architectures.registry import CLASSIFICATION, tasks_of
from lightning_modules.config.registries import DATA
from lightning_modules.data.on_disk import FromFiles
from lightning_modules.data.supervised.torchvision_files import PublishedData

LABELLED = [name for name in DATA if tasks_of(DATA.entry(name).facts) == (CLASSIFICATION,)]

IN_FILES = [name for name in LABELLED if issubclass(DATA[name], FromFiles)]

PUBLISHED = [name for name in IN_FILES if issubclass(DATA[name], PublishedData)]

FREE = [name for name in LABELLED if name not in IN_FILES]

CLASSES = ("black cat", "dog")


def publish(name: str, root: Path, monkeypatch) -> None:
    """Let the files of a set, as they are now, be the published ones."""
    sums = {
        str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    monkeypatch.setattr(DATA[name], "checksums", lambda _: sums)


def write_mnist(root: Path, train: int = 20, test: int = 10, name: str = "MNIST") -> None:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, total in (("train", train), ("t10k", test)):
        images = np.arange(total * 784, dtype=np.uint32).astype(np.uint8)
        header = struct.pack(">4i", 0x803, total, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = struct.pack(">2i", 0x801, total)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + bytes(i % 10 for i in range(total)))


def write_images(root: Path, classes: tuple[str, ...] = CLASSES, each: int = 4) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(each):
                pixels = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")


CIFAR = {  # folder, parts with images, their key of labels, file and key of the classes' names
    "cifar10": (
        "cifar-10-batches-py", [*(f"data_batch_{part}" for part in range(1, 6)), "test_batch"], "labels",
        ("batches.meta", "label_names"),
    ),
    "cifar100": ("cifar-100-python", ["train", "test"], "fine_labels", ("meta", "fine_label_names")),
}  # fmt: skip


def write_cifar(root: Path, monkeypatch, name: str = "cifar10") -> None:
    import pickle

    place, parts, key, (meta, names) = CIFAR[name]
    (root / place).mkdir(parents=True)
    for part in parts:
        pixels = np.arange(4 * 3072, dtype=np.uint32).astype(np.uint8).reshape(4, 3072)
        (root / place / part).write_bytes(pickle.dumps({"data": pixels, key: [0, 1, 2, 9]}))
    (root / place / meta).write_bytes(pickle.dumps({names: list("abcdefghij")}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)
    publish(name, root, monkeypatch)


def write_published(name: str, root: Path, monkeypatch) -> None:
    """Fabricated files of one of the sets that torchvision reads."""
    if name in CIFAR:
        write_cifar(root, monkeypatch, name)
    else:
        folders = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
        assert name in folders, f"data set {name!r} is new: fabricate its files here"
        write_mnist(root, name=folders[name])
