"""Data sets: what they hold, in which order it comes, and how it is moved."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import struct
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from architectures.registry import CLASSIFICATION, tasks_of
from lightning_modules.config.registries import DATA
from lightning_modules.data.loader import BatchLoader
from lightning_modules.data.on_disk import FromFiles
from lightning_modules.data.supervised.augment import move, normalise
from lightning_modules.data.supervised.base import Labelled, LabelledData, LabelledLoader
from lightning_modules.data.supervised.image_folder import statistics
from lightning_modules.data.supervised.torchvision_files import PublishedData
from schemes.errors import SchemenetError
from schemes.schema import objection

LABELLED = [name for name in DATA if tasks_of(DATA.entry(name).facts) == (CLASSIFICATION,)]
IN_FILES = [name for name in LABELLED if issubclass(DATA[name], FromFiles)]
PUBLISHED = [name for name in IN_FILES if issubclass(DATA[name], PublishedData)]
FREE = [name for name in LABELLED if name not in IN_FILES]
CLASSES = ("black cat", "dog")


@pytest.fixture(autouse=True)
def no_outer_data(monkeypatch, request):
    if "real_root" not in request.fixturenames:
        monkeypatch.delenv("SCHEMENET_DATA", raising=False)


@pytest.fixture(autouse=True)
def fabricated(monkeypatch, request):
    """MNIST's files are made here, and have other checksums."""
    if "real_root" not in request.fixturenames:
        monkeypatch.setattr(DATA["mnist"], "checksums", lambda _: {})


def publish(name: str, root: Path, monkeypatch) -> None:
    """Let the files of a set, as they are now, be the published ones."""
    sums = {
        str(path.relative_to(root)): hashlib.md5(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    monkeypatch.setattr(DATA[name], "checksums", lambda _: sums)


@pytest.fixture
def real_root() -> str:
    if not (root := os.environ.get("SCHEMENET_DATA")):
        pytest.skip("SCHEMENET_DATA names no folder with real data")
    if not Path(root, "MNIST", "raw").is_dir():
        pytest.skip(f"SCHEMENET_DATA={root} holds no MNIST/raw")
    return root


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
        write_mnist(root, name={"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name])


@pytest.fixture(params=sorted(LABELLED))
def data(request, tmp_path, monkeypatch) -> LabelledData:
    """Every registered set, those in files from fabricated ones."""
    name, root = request.param, tmp_path / "some data"
    if name not in IN_FILES:
        return DATA.build(name)
    if name == "image_folder":
        write_images(root)
    else:
        write_published(name, root, monkeypatch)
    return DATA.build({"name": name, "root": str(root)}, batch_size=4)


def indices(**options: Any) -> BatchLoader:
    """A loader whose inputs are the indices of its samples."""
    total, batch_size = options.pop("total", 50), options.pop("batch_size", 8)
    return LabelledLoader(Labelled(torch.arange(total), torch.arange(total) % 10), batch_size, **options)


def parts(data: LabelledData) -> list[Tensor]:
    return [part for samples in (data.train_set, data.test_set) for part in (samples.inputs, samples.labels)]


def seen(loader: BatchLoader) -> list[int]:
    return [int(index) for inputs, _, _ in loader for index in inputs]


class TestSets:
    def test_facts_agree_with_what_is_loaded(self, data):
        shape, num_classes = data.shape, data.num_classes
        data.check()
        assert data.train_set is None, "a fact or check() loaded the set"
        data.setup()
        for inputs, labels in ((part.inputs, part.labels) for part in (data.train_set, data.test_set)):
            assert inputs.shape == (len(labels), *shape)
            assert inputs.is_contiguous()
            assert labels.dtype == torch.int64
            assert 0 <= labels.min() <= labels.max() < num_classes
            assert inputs.dtype == (torch.float32 if data.mean is None else torch.uint8)
        if data.mean is not None:
            assert len(data.mean) == len(data.std) == shape[0]

    @pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
    def test_batch_on_the_device(self, data, loader):
        data.setup()
        batch = next(iter(getattr(data, loader)()))
        assert (batch[2] is not None) == (data.augment and loader == "train_dataloader")
        inputs, labels = data.on_after_batch_transfer(batch, 0)
        assert inputs.dtype == torch.float32
        assert inputs.shape == (len(labels), *data.shape)

    @pytest.mark.parametrize("name", sorted(LABELLED))
    def test_signature_is_the_schema(self, name):
        defaults = DATA.defaults(name)
        base = {"batch_size": 128, "limit_train": None, "limit_test": None}
        assert defaults.items() >= base.items()
        assert "seed" not in defaults  # the run's, not the user's to set for the data alone
        assert defaults["augment"] is (name in CIFAR)
        if name in IN_FILES:
            assert defaults.items() >= {"root": None, "download": False}.items()
        for parameter in DATA.parameters(name).values():
            assert objection(parameter.default, parameter.annotation) is None

    @pytest.mark.parametrize("name", FREE)
    def test_same_set_for_every_seed(self, name):
        one, two = (DATA.build(name, seed=seed) for seed in (0, 1))
        one.setup()
        two.setup()
        for a, b in zip(parts(one), parts(two), strict=True):
            assert torch.equal(a, b)
        assert one.train_set.labels.bincount().min() > 0

    def test_digits_split(self):
        data = DATA.build("digits")
        data.setup()
        assert [len(part) for part in (data.train_set, data.test_set)] == [1297, 500]
        assert data.test_set.labels.bincount().min() >= 48
        assert (data.train_set.inputs.min(), data.train_set.inputs.max()) == (0, 255)
        inputs, _ = data.on_after_batch_transfer((data.train_set.inputs, data.train_set.labels, None), 0)
        assert inputs.mean() == pytest.approx(0, abs=1e-3)
        assert inputs.std() == pytest.approx(1, abs=1e-3)

    def test_spheres(self):
        data = DATA.build({"name": "spheres", "train_size": 4000})
        data.setup()
        radius, labels = data.train_set.inputs.norm(dim=1), data.train_set.labels
        assert radius[labels == 0].max() < 0.5
        assert 1 < radius[labels == 1].min() <= radius[labels == 1].max() < 1.5
        middle = (1 + 1.5**2) / 2  # half of the area lies within
        assert (radius[labels == 1] ** 2 < middle).float().mean() == pytest.approx(0.5, abs=0.05)

    def test_points_of_the_test_set_do_not_depend_on_the_training_set(self):
        one, two = (DATA.build({"name": "moons", "train_size": size}) for size in (10, 20))
        one.setup()
        two.setup()
        assert torch.equal(one.test_set.inputs, two.test_set.inputs)

    def test_limit(self, data):
        limited = {"limit_train": 4, "limit_test": 3}
        for name, value in limited.items():
            setattr(data, name, value)
        data.setup()
        assert [len(data.train_set), len(data.test_set)] == [4, 3]

    def test_limit_keeps_sorted_classes_mixed(self, tmp_path):
        write_images(tmp_path, each=20)
        data = DATA.build({"name": "image_folder", "root": str(tmp_path), "limit_train": 12, "size": 8})
        data.setup()
        assert data.train_set.labels.bincount().min() > 2


class TestFiles:
    def test_mnist_fabricated(self, tmp_path):
        write_mnist(tmp_path)
        data = DATA.build({"name": "mnist", "root": str(tmp_path)})
        data.setup()
        assert data.train_set.inputs.flatten().tolist() == [i % 256 for i in range(20 * 784)]
        assert data.test_set.labels.tolist() == list(range(10))

    def test_mnist_real(self, real_root):
        data = DATA.build("mnist")
        data.setup()
        images, labels = data.train_set.inputs, data.train_set.labels
        stored = (Path(real_root) / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()
        assert hashlib.sha256(stored).hexdigest().startswith("ba891046e650")
        assert images.numpy().tobytes() == stored[16:]
        assert (len(labels), len(data.test_set)) == (60_000, 10_000)
        for measured, declared in zip(statistics(images), (data.mean, data.std), strict=True):
            assert measured == pytest.approx(declared, abs=5e-5)

    def test_siblings_read_their_own_files(self, tmp_path, monkeypatch):
        for name in PUBLISHED:
            write_published(name, tmp_path, monkeypatch)
        labels = tmp_path / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte"
        labels.write_bytes(labels.read_bytes()[:-1] + b"\x05")
        for name, last in (("mnist", 9), ("fashion_mnist", 5)):
            data = DATA.build({"name": name, "root": str(tmp_path)})
            data.setup()
            assert data.train_set.labels[-1] == last
        sizes = {name: DATA.build({"name": name, "root": str(tmp_path)}) for name in CIFAR}
        for name, images in (("cifar10", 20), ("cifar100", 4)):
            sizes[name].setup()
            assert len(sizes[name].train_set) == images
            assert sizes[name].train_set.labels[3] == 9
        assert (sizes["cifar10"].num_classes, sizes["cifar100"].num_classes) == (10, 100)

    def test_root_by_environment(self, tmp_path, monkeypatch):
        write_mnist(tmp_path)
        monkeypatch.setenv("SCHEMENET_DATA", str(tmp_path))
        DATA.build("mnist").check()
        with pytest.raises(SchemenetError, match="elsewhere"):
            DATA.build({"name": "mnist", "root": "elsewhere"}).check()

    @pytest.mark.parametrize("name", IN_FILES)
    def test_missing(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        data = DATA.build(name)
        for read in (data.check, data.setup):
            with pytest.raises(SchemenetError) as told:
                read()
            assert str(tmp_path / "data") in str(told.value)
            assert "data.root=" in str(told.value)
            assert "SCHEMENET_DATA" in str(told.value)
            assert ("data.download=true" in str(told.value)) == (name != "image_folder")

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_download(self, name, tmp_path, monkeypatch):
        data = DATA.build({"name": name, "root": str(tmp_path), "download": True})
        data.check()  # what is missing will be fetched
        monkeypatch.setattr(data, "fetch", lambda: write_published(name, tmp_path, monkeypatch))
        data.prepare_data()
        data.prepare_data()  # what is there is not fetched again
        data.setup()

        def fail() -> None:
            raise OSError("no route to host")

        data = DATA.build({"name": name, "root": str(tmp_path / "empty"), "download": True})
        monkeypatch.setattr(data, "fetch", fail)
        with pytest.raises(SchemenetError, match=r"cannot download .*: no route to host"):
            data.prepare_data()

    @pytest.mark.parametrize("left", [2, 900])
    def test_truncated_mnist(self, tmp_path, left):
        write_mnist(tmp_path)
        path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:left])
        with pytest.raises(SchemenetError, match="t10k-images-idx3-ubyte is damaged"):
            DATA.build({"name": "mnist", "root": str(tmp_path)}).check()

    @pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
    def test_altered_file(self, name, tmp_path, monkeypatch):
        """One bit is enough, also for a process that has read the file before."""
        write_published(name, tmp_path, monkeypatch)
        publish(name, tmp_path, monkeypatch)
        data = DATA.build({"name": name, "root": str(tmp_path)})
        data.check()
        path = sorted(path for path in tmp_path.rglob("*") if path.is_file())[1]
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        for read in (data.check, data.setup):
            with pytest.raises(SchemenetError) as told:
                read()
            assert f"{path} is not the published file (delete it): {len(content)} bytes" in str(told.value)
            assert "data.download=true" in str(told.value)

    def test_checksums_name_every_file(self, real_root):
        for name, files in (("mnist", 4), ("cifar10", 7), ("cifar100", 3)):
            assert len(DATA.build(name).checksums()) == files

    def test_image_folder(self, tmp_path):
        root = tmp_path / "a folder with spaces"
        write_images(root)
        data = DATA.build({"name": "image_folder", "root": str(root), "size": 12})
        assert (data.shape, data.num_classes) == ((3, 12, 12), 2)
        data.setup()
        stored = np.array(Image.open(root / "train" / "dog" / "2.png"))
        assert torch.equal(data.train_set.inputs[6], torch.from_numpy(stored[:, 4:16]).permute(2, 0, 1))
        assert data.train_set.labels.tolist() == [0] * 4 + [1] * 4
        pixels = data.train_set.inputs.double() / 255
        assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
        assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())

    def test_image_folder_with_other_classes(self, tmp_path):
        write_images(tmp_path)
        (tmp_path / "test" / "dog").rename(tmp_path / "test" / "dogs")
        with pytest.raises(SchemenetError, match=r"dog, dogs; did you mean 'dogs'"):
            DATA.build({"name": "image_folder", "root": str(tmp_path)}).check()

    @pytest.mark.parametrize("decode", ["once", "each_epoch"])
    @pytest.mark.parametrize("what", ["truncated", "no image", "empty", "a program"])
    def test_unreadable_image(self, what, decode, tmp_path):
        """PostScript under another name is not run: Pillow would hand it to Ghostscript."""
        write_images(tmp_path)
        path = tmp_path / "train" / "dog" / "3.png"
        contents = {"truncated": path.read_bytes()[:200], "no image": b"dog", "empty": b""}
        path.write_bytes(
            contents.get(what, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
        )
        workers = 2 * (decode == "each_epoch" and what == "truncated")
        data = DATA.build({"name": "image_folder", "root": str(tmp_path), "decode": decode, "workers": workers})
        with pytest.raises(SchemenetError, match=r"cannot read the image .*dog/3\.png.*put an undamaged one"):
            data.setup()


class TestDecodedEachEpoch:
    """Images that workers decode come as if they lay in memory."""

    def both(self, root: Path) -> tuple[LabelledData, LabelledData]:
        write_images(root, each=9)
        kept = {"name": "image_folder", "root": str(root), "size": 8, "augment": True}
        streamed = {**kept, "decode": "each_epoch", "workers": 2}
        return DATA.build(kept, batch_size=4), DATA.build(streamed, batch_size=4)

    def test_batches_are_equal_and_nothing_is_drawn(self, tmp_path):
        kept, streamed = self.both(tmp_path)
        kept.setup()
        streamed.setup()
        assert (kept.mean, kept.std) == (streamed.mean, streamed.std)
        assert not isinstance(streamed.train_set.inputs, Tensor)
        before = torch.get_rng_state()
        for loader in ("train_dataloader", "test_dataloader"):
            one, two = getattr(kept, loader)(), getattr(streamed, loader)()
            one.set_epoch(1)
            two.set_epoch(1)
            for batch, same in zip(one, two, strict=True):
                for a, b in zip(batch, same, strict=True):
                    assert (a is None and b is None) or torch.equal(a, b)
        assert torch.equal(torch.get_rng_state(), before)

    def test_what_was_fetched_in_advance_is_not_counted(self, tmp_path):
        _, streamed = self.both(tmp_path)
        streamed.setup()
        iterator = iter(loader := streamed.train_dataloader())
        next(iterator)
        state, rest = loader.state_dict(), list(iterator)
        assert state == {"epoch": 0, "batch": 1}
        resumed = streamed.train_dataloader()
        resumed.load_state_dict(state)
        for batch, expected in zip(resumed, rest, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))

    def test_a_worker_tells_a_mistake_as_it_is(self, tmp_path):
        _, streamed = self.both(tmp_path)
        (tmp_path / "test" / "dog" / "3.png").write_bytes(b"no image")
        streamed.setup()
        with pytest.raises(SchemenetError) as told:
            list(streamed.test_dataloader())
        assert str(told.value).startswith("cannot read the image")
        assert "Traceback" not in str(told.value)


class TestMistakes:
    def test_all_at_once(self):
        with pytest.raises(SchemenetError) as told:
            DATA.build({"name": "moons", "batch_size": 0, "limit_test": 0, "noise": -1.0, "augment": True})
        assert str(told.value).splitlines() == [
            "data.batch_size: expected at least 1, got 0",
            "data.limit_test: expected at least 1, got 0",
            "data.noise: expected at least 0, got -1.0",
            "data.augment: Moons has no augmentation; expected false, got true",
        ]

    def test_not_a_number(self):
        with pytest.raises(SchemenetError, match="noise"):
            DATA.build({"name": "moons", "noise": float("nan")})

    def test_unknown_and_mistyped(self):
        with pytest.raises(SchemenetError, match="did you mean 'batch_size'"):
            DATA.build({"name": "mnist", "batchsize": 3})
        with pytest.raises(SchemenetError, match=r"expected a whole number, got 2\.5"):
            DATA.build({"name": "image_folder", "size": 2.5})

    def test_batches_before_setup(self):
        with pytest.raises(SchemenetError, match=r"call setup\(\)"):
            DATA.build("digits").train_dataloader()


class TestOrder:
    def test_seed_and_epoch_decide(self):
        orders = {}
        for seed in (0, 1):
            for epoch in (0, 1):
                loader = indices(train=True, drop_last=False, seed=seed)
                loader.set_epoch(epoch)
                orders[seed, epoch] = seen(loader)
                assert sorted(seen(loader)) == list(range(50))
                assert seen(loader) == orders[seed, epoch]
                again = indices(train=True, drop_last=False, seed=seed, batch_size=7, pad=4, flip=True)
                again.set_epoch(epoch)
                assert seen(again) == orders[seed, epoch], "neither batch size nor augmentation may change the order"
        assert len({tuple(order) for order in orders.values()}) == 4

    def test_moves_belong_to_samples(self):
        def moves(batch_size: int, **options: Any) -> dict[int, list[int]]:
            loader = indices(train=True, drop_last=False, batch_size=batch_size, pad=4, flip=True, **options)
            loader.set_epoch(3)
            return {int(i): m.tolist() for inputs, _, drawn in loader for i, m in zip(inputs, drawn, strict=True)}

        whole = moves(8)
        assert moves(13) == whole
        assert moves(8, rank=0, world_size=2) | moves(8, rank=1, world_size=2) == whole
        assert moves(8, seed=1) != whole
        assert {dy for dy, _, _ in whole.values()} == {dx for _, dx, _ in whole.values()} == set(range(9))
        assert {flip for _, _, flip in whole.values()} == {0, 1}

    def test_global_random_state_is_untouched(self):
        before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
        seen(indices(train=True, pad=4, flip=True))
        for name in FREE:
            DATA.build(name).setup()
        assert torch.equal(torch.get_rng_state(), before)
        assert np.array_equal(np.random.get_state()[1], numpy_before)

    @pytest.mark.parametrize(("total", "train", "lengths"), [
        (50, True, [8] * 6), (48, True, [8] * 6), (5, True, [5]), (50, False, [8] * 6 + [2]), (5, False, [5]),
    ])  # fmt: skip
    def test_ragged_end(self, total, train, lengths):
        loader = indices(total=total, train=train)
        assert [len(labels) for _, labels, _ in loader] == lengths
        assert len(loader) == len(lengths)

    def test_test_set_in_its_order(self):
        assert seen(indices()) == list(range(50))

    @pytest.mark.parametrize("total", [50, 51, 53])
    def test_shards(self, total):
        test = [seen(indices(total=total, rank=rank, world_size=3)) for rank in range(3)]
        assert sorted(chain(*test)) == list(range(total))
        shards = [indices(total=total, train=True, batch_size=4, rank=rank, world_size=3) for rank in range(3)]
        assert len({len(shard) for shard in shards}) == 1
        whole = indices(total=total, train=True, batch_size=12)
        for (inputs, _, _), *parts in zip(whole, *shards, strict=True):
            assert sorted(inputs.tolist()) == sorted(torch.cat([part[0] for part in parts]).tolist())

    @pytest.mark.parametrize("done", [0, 1, 4, 6])
    def test_resume_within_an_epoch(self, done):
        options = {"train": True, "pad": 4, "flip": True}
        loader = indices(**options)
        loader.set_epoch(2)
        iterator = iter(loader)
        for _ in range(done):
            next(iterator)
        state, rest = loader.state_dict(), list(iterator)
        assert state == {"epoch": 2, "batch": done}

        resumed = indices(**options)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        iterator = iter(resumed)  # Lightning makes the iterator first and tells the epoch then
        resumed.set_epoch(2)
        for batch, expected in zip(iterator, rest, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
        assert len(seen(resumed)) == 48, "only the first iteration is a rest"

    def test_another_epoch_is_whole(self):
        resumed = indices(train=True)
        resumed.load_state_dict({"epoch": 2, "batch": 4})
        resumed.set_epoch(3)
        assert len(list(resumed)) == len(resumed) == 6


class TestAugment:
    @pytest.mark.parametrize(("channels", "size", "pad"), [(3, 32, 4), (1, 8, 1), (2, 5, 0)])
    def test_move_against_a_loop(self, channels, size, pad):
        stream = torch.Generator().manual_seed(0)
        images = torch.randn(40, channels, size, size + 1, generator=stream)
        shifts = torch.randint(2 * pad + 1, (40, 2), generator=stream)
        moves = torch.cat([shifts, torch.randint(2, (40, 1), generator=stream)], 1).to(torch.uint8)
        expected = torch.zeros_like(images)
        for n, (dy, dx, flip) in enumerate(moves.tolist()):
            for row in range(size):
                for column in range(size + 1):
                    y, x = row + dy - pad, column + dx - pad
                    if 0 <= y < size and 0 <= x < size + 1:
                        expected[n, :, row, size - column if flip else column] = images[n, :, y, x]
        moved = move(images, moves, pad)
        assert torch.equal(moved, expected)
        assert moved.is_contiguous()

    def test_stay(self):
        images = torch.randn(3, 1, 28, 28)
        assert torch.equal(move(images, torch.tensor([[4, 4, 0]] * 3), 4), images)

    def test_normalise(self):
        images = torch.randint(256, (4, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
        expected = (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(normalise(images, mean, std), expected)


class Listener(pl.LightningModule):
    """Learns next to nothing and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(10)
        self.layer(torch.zeros(1, 64))
        self.epochs: list[list[Tensor]] = []
        self.validated = 0
        self.dtypes: set[torch.dtype] = set()

    def on_train_epoch_start(self) -> None:
        self.epochs.append([])

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, labels = batch
        self.epochs[-1].append(inputs.clone())
        self.dtypes.add(inputs.dtype)
        return nn.functional.cross_entropy(self.layer(inputs.flatten(1)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.validated += len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning", "ignore::UserWarning:torch.nn.modules.lazy")
class TestTrainer:
    def fit(self, seed: int = 0, **options: Any) -> tuple[Listener, pl.Trainer]:
        data = DATA.build({"name": "digits", "limit_train": 300, "augment": True}, seed=seed)
        trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET, **options)
        trainer.fit(model := Listener(), datamodule=data)
        return model, trainer

    def test_each_epoch_has_its_order_and_runs_agree(self):
        one, two, other = self.fit()[0], self.fit()[0], self.fit(seed=1)[0]
        assert [len(epoch) for epoch in one.epochs] == [2, 2, 2]
        assert one.validated >= 3 * 500
        for a, b, c in zip(one.epochs, two.epochs, other.epochs, strict=True):
            assert torch.equal(torch.cat(a), torch.cat(b))
            assert not torch.equal(torch.cat(a), torch.cat(c))
        assert len({torch.cat(epoch).numpy().tobytes() for epoch in one.epochs}) == 3
        loader = DATA.build({"name": "digits", "limit_train": 300, "augment": True})
        loader.setup()
        batches = loader.train_dataloader()
        for number, epoch in enumerate(one.epochs):  # what the trainer saw is what the seed and the epoch say
            batches.set_epoch(number)
            for batch, inputs in zip(batches, epoch, strict=True):
                assert torch.equal(loader.on_after_batch_transfer(batch, 0)[0], inputs)

    def test_resume_from_a_checkpoint_within_an_epoch(self, tmp_path):
        whole, _ = self.fit()

        class Save(pl.Callback):
            def on_train_batch_end(self, trainer, *args: Any) -> None:
                if trainer.global_step == 3:  # one batch into the second epoch
                    trainer.save_checkpoint(tmp_path / "mid.ckpt")

        self.fit(callbacks=[Save()])
        data = DATA.build({"name": "digits", "limit_train": 300, "augment": True})
        trainer = pl.Trainer(max_epochs=3, enable_checkpointing=False, **QUIET)
        resumed = Listener()
        resumed.epochs.append([])  # Lightning does not begin an epoch anew in its middle
        trainer.fit(resumed, datamodule=data, ckpt_path=tmp_path / "mid.ckpt")
        left = [*whole.epochs[1][1:], *whole.epochs[2]]
        assert torch.equal(torch.cat([*chain(*resumed.epochs)]), torch.cat(left))

    def test_overfit_keeps_its_batch(self):
        model, _ = self.fit(overfit_batches=1)
        data = DATA.build({"name": "digits", "limit_train": 300})
        data.setup()
        assert [len(epoch) for epoch in model.epochs] == [1, 1, 1]
        assert len(model.trainer.train_dataloader) == 2
        assert not model.trainer.train_dataloader.shuffle

    def test_double_precision(self):
        assert self.fit(precision="64-true", limit_train_batches=1)[0].dtypes == {torch.float64}


def test_workers_leave_stopping_to_the_process_that_trains() -> None:
    """Ctrl-C and SIGTERM may go to all processes of a run; the step that it is to finish still gets its batch."""
    loader = BatchLoader(torch.zeros(64, 2), 2, workers=1)
    arrived = 0
    for _ in loader:
        if not arrived:
            for worker in multiprocessing.active_children():
                for number in (signal.SIGINT, signal.SIGTERM):
                    os.kill(worker.pid, number)
        arrived += 1
    assert arrived == len(loader) == 32
