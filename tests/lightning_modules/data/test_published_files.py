"""Data sets in files: published files, folders of images, and what is damaged or missing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_modules.config.registries import DATA
from lightning_modules.data.supervised.image_folder import statistics
from schemes.errors import SchemenetError
from tests.support.data_files import CIFAR, IN_FILES, PUBLISHED, publish, write_images, write_mnist, write_published


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
            with pytest.raises(SchemenetError) as caught:
                read()
            assert str(tmp_path / "data") in str(caught.value)
            assert "data.root=" in str(caught.value)
            assert "SCHEMENET_DATA" in str(caught.value)
            assert ("data.download=true" in str(caught.value)) == (name != "image_folder")

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
            with pytest.raises(SchemenetError) as caught:
                read()
            assert f"{path} is not the published file (delete it): {len(content)} bytes" in str(caught.value)
            assert "data.download=true" in str(caught.value)

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
