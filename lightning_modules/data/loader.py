"""Loader of batches, from memory or decoded on demand, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_modules import stopping
from schemes.errors import SchemenetError


class Indexable(Protocol):
    """A set whose samples at given indices, (batch,), are a batch: a tensor or a nest of them."""

    def __getitem__(self, chosen: Tensor, /) -> Any: ...

    def __len__(self) -> int: ...


class Part:
    """Samples of a set that is not in memory, by their indices there."""

    def __init__(self, samples: Indexable, chosen: Tensor) -> None:
        self.samples, self.chosen = samples, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, chosen: Tensor) -> Any:
        return self.samples[self.chosen[chosen]]


def generator(*words: int) -> torch.Generator:
    """A random generator for each tuple of numbers; the global random state is neither read nor changed."""
    seed = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed[0]))


def fetch(samples: Indexable, batches: Sequence[Tensor], workers: int = 0) -> Iterator[Any]:
    """Read batches of a set, in order; the same for every number of workers, which draw no random numbers.

    Args:
        samples: the set.
        batches: the indices of each batch, (batch,).
        workers: processes that read; 0: this one.

    Raises:
        SchemenetError: a sample cannot be read, also where that was in a worker.
    """
    if not workers:
        yield from (samples[chosen] for chosen in batches)
        return
    loader = DataLoader(
        cast(Any, _ErrorsAsText(samples)), batch_size=None, sampler=batches, num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the global random state
        worker_init_fn=_leave_stopping_to_the_trainer,
    )  # fmt: skip
    others = set(active_children())
    iterator = iter(loader)
    # A process that ends while it reads sends its workers a signal that they ignore, and would wait for them.
    at_exit = Finalize(None, _kill, (set(active_children()) - others,), exitpriority=1)
    try:
        for fetched in iterator:
            if isinstance(fetched, str):
                raise SchemenetError(fetched)
            yield fetched
    finally:
        at_exit.cancel()


def _kill(workers: Iterable[BaseProcess]) -> None:
    if hasattr(signal, "SIGCHLD"):  # upon which torch raises
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


def _leave_stopping_to_the_trainer(worker: int) -> None:
    """Ignore signals to stop in a worker: the step that the run finishes needs its batch.

    A terminal sends SIGINT, and SIGHUP when it is closed, to all processes of a run, Slurm SIGTERM; the second SIGTERM
    is sent by torch, to a worker that does not end.
    """
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


class _ErrorsAsText:
    """Returns a SchemenetError to the main process as text; torch would wrap it in a traceback."""

    def __init__(self, samples: Indexable) -> None:
        self.samples = samples

    def __getitem__(self, chosen: Tensor) -> Any:
        try:
            return self.samples[chosen]
        except SchemenetError as error:
            return str(error)


class BatchLoader:
    """Slices of a permutation of the set, gathered from memory or by ``workers``.

    The order depends on (seed, epoch), neither on the network, nor on the batch size, nor on the number of ranks, so
    that compared networks see the same data.

    In training every rank has the same number of samples, batch b of all ranks together is batch b of one rank with
    ``world_size`` times the batch size, and a ragged last batch is dropped unless it is the only one. Otherwise the
    order is that of the set, and each sample is on exactly one rank.

    Lightning calls ``sampler.set_epoch`` before each epoch, and keeps ``state_dict`` in its checkpoints; batches that
    workers have fetched in advance do not count there.

    Args:
        samples: the set.
        batch_size: samples of a batch, on each rank.
        workers: processes that read samples; 0: this one.
        train: the default of ``shuffle`` and ``drop_last``, and whether ranks have equal numbers of samples.
        shuffle: whether the order is a permutation; None: in training.
        drop_last: whether a ragged last batch is dropped; None: in training.
        seed: of the permutation.
        rank: of this process.
        world_size: the number of ranks.

    Raises:
        SchemenetError: there are fewer samples than ranks.
    """

    batch_sampler = None  # Lightning reads both attributes where there is one

    def __init__(
        self,
        samples: Indexable,
        batch_size: int,
        *,
        workers: int = 0,
        train: bool = False,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.samples, self.batch_size, self.workers, self.seed = samples, batch_size, workers, seed
        self.shuffle = train if shuffle is None else shuffle
        self.drop_last = train if drop_last is None else drop_last
        if len(samples) < world_size:
            raise SchemenetError(f"data: {len(samples)} samples are too few for {world_size} devices")
        size, extra = divmod(len(samples), world_size)
        self.rank, self.world_size = rank, world_size
        self.size = size + (not train and rank < extra)
        self.epoch = self.batch = self._start = 0

    @property
    def sampler(self) -> BatchLoader:
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order; a place to resume from is dropped in another epoch."""
        if epoch != self.epoch:
            self.epoch, self.batch, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that were returned."""
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The next iteration yields what was left of the epoch; those after it are whole."""
        self.epoch = state["epoch"]
        self.batch = self._start = state["batch"]

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        whole = self.size // self.batch_size
        return whole if self.drop_last and whole else math.ceil(self.size / self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        # Lightning makes the iterator before it sets the epoch; a generator begins with the first next().
        start, self._start = self._start, 0
        batches = self._order().split(self.batch_size)[start : len(self)]
        collate = self.collate_fn()
        for batch, taken in enumerate(fetch(self.epoch_samples(), batches, self.workers), start):
            self.batch = batch + 1
            yield collate(taken, batches[batch - start])

    def epoch_samples(self) -> Indexable:
        """The set as it is in this epoch."""
        return self.samples

    def collate_fn(self) -> Callable[[Any, Tensor], Any]:
        """A function of samples and their indices that returns the batch, the same for one epoch."""
        return lambda taken, chosen: taken

    def _order(self) -> Tensor:
        total = len(self.samples)
        order = torch.randperm(total, generator=self._stream(0)) if self.shuffle else torch.arange(total)
        return order[self.rank :: self.world_size][: self.size]

    def _stream(self, purpose: int) -> torch.Generator:
        return generator(self.seed, self.epoch, purpose)
