"""The loader: the order of samples, moves of images, resuming within an epoch, images decoded by workers."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_modules.config.registries import DATA
from lightning_modules.data.loader import BatchLoader
from lightning_modules.data.supervised.augment import move, normalise
from lightning_modules.data.supervised.base import Labelled, LabelledData, LabelledLoader
from schemes.errors import SchemenetError
from tests.support.data_files import FREE, write_images


def indices(**options: Any) -> BatchLoader:
    """A loader whose inputs are the indices of its samples."""
    total, batch_size = options.pop("total", 50), options.pop("batch_size", 8)
    return LabelledLoader(Labelled(torch.arange(total), torch.arange(total) % 10), batch_size, **options)


def seen(loader: BatchLoader) -> list[int]:
    return [int(index) for inputs, _, _ in loader for index in inputs]


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
        with pytest.raises(SchemenetError) as caught:
            list(streamed.test_dataloader())
        assert str(caught.value).startswith("cannot read the image")
        assert "Traceback" not in str(caught.value)


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
