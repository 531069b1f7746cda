"""The contract of a data set: batches that the seed decides, a signature that is its schema, what it refuses.

Labelled sets, those in files from fabricated ones, are also held to their facts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_modules.config.compose import compose
from lightning_modules.config.registries import DATA
from lightning_modules.data.on_disk import FromFiles
from lightning_modules.data.supervised.base import Labelled, LabelledData
from lightning_modules.data.supervised.toy_points import Moons
from lightning_modules.launching.multi_process import train
from schemes.errors import SchemenetError
from schemes.schema import objection
from tests.support.data_files import CIFAR, FREE, IN_FILES, LABELLED, write_images, write_published
from tests.support.messages import assert_lines

BASE = {"batch_size": 128, "limit_train": None, "limit_test": None, "validation": None}
IN_MEMORY = [name for name in DATA if not {"path", "file", "root"} & DATA.options(name).keys()]


@pytest.mark.parametrize("name", DATA)
def test_the_signature_is_the_schema(name: str) -> None:
    defaults = DATA.defaults(name)
    assert defaults.items() >= BASE.items()
    assert "seed" not in defaults  # the run's, not the user's to set for the data alone
    if issubclass(DATA[name], FromFiles):
        assert defaults.items() >= {"root": None, "download": False}.items()
    for parameter in DATA.options(name).values():
        assert objection(parameter.default, parameter.annotation) is None


def first_batch(name: str, seed: int) -> list[Tensor]:
    data = DATA.build({"name": name, "batch_size": 8}, seed=seed)
    data.check()
    data.setup()
    next(iter(data.test_dataloader()))
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


@pytest.mark.parametrize("name", IN_MEMORY)
def test_the_seed_alone_decides_the_batches(name: str) -> None:
    before = torch.get_rng_state()
    one, same, other = first_batch(name, 0), first_batch(name, 0), first_batch(name, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert one
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert all(leaf.isfinite().all() for leaf in one if leaf.is_floating_point())


X, Y = torch.zeros(6, 2), torch.tensor([0, 1, 1, 0, 1, -100])
NO_SETS = [
    ((X, Y), "expected a set of samples, such as Labelled, got tuple"),
    (Labelled(X, Y + 1), "labels: expected 0 to 1, as num_classes says, got -99 to 2"),
    (Labelled(X[:, :, None], Y), r"samples of shape \(2,\), as shape says, got \(2, 1\)"),
    (Labelled(X[1:], Y), "expected a label for each input, got 6 labels for 5 inputs"),
    (Labelled(X.numpy(), Y), "inputs: expected a tensor, got ndarray"),
    (Labelled(X, Y.tolist()), "labels: expected a tensor, got list"),
]


@pytest.mark.parametrize(("samples", "message"), NO_SETS, ids=range(len(NO_SETS)))
def test_what_is_no_set_of_the_data_is_reported_before_anything_is_written(
    samples: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Moons, "load", lambda self, train: samples)
    config = compose("train", ["data=moons", "architecture=mlp", "logger=csv"])
    with pytest.raises(SchemenetError, match=rf"Moons.load\(train=True\): .*{message}"):
        train(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


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


def parts(data: LabelledData) -> list[Tensor]:
    return [part for samples in (data.train_set, data.test_set) for part in (samples.inputs, samples.labels)]


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

    def test_the_cifar_sets_are_augmented(self):
        assert {name for name in LABELLED if DATA.defaults(name)["augment"]} == set(CIFAR)

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


class TestMistakes:
    def test_all_at_once(self):
        with pytest.raises(SchemenetError) as caught:
            DATA.build({"name": "moons", "batch_size": 0, "limit_test": 0, "noise": -1.0, "augment": True})
        assert_lines(
            str(caught.value),
            ("data.batch_size", "at least 1", "got 0"),
            ("data.limit_test", "at least 1", "got 0"),
            ("data.noise", "at least 0", "-1.0"),
            ("data.augment", "Moons", "expected false"),
        )

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
