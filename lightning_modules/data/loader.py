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
    """A set of which indices make a batch, a tensor or a nest of them."""

    def __getitem__(self, chosen: Tensor, /) -> Any: ...

    def __len__(self) -> int: ...


class Part:
    """Some of the samples of a set that is not held in memory, by their indices there."""

    def __init__(self, samples: Indexable, chosen: Tensor) -> None:
        self.samples, self.chosen = samples, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, chosen: Tensor) -> Any:
        return self.samples[self.chosen[chosen]]


def generator(*words: int) -> torch.Generator:
    """A stream of its own for each tuple of words; the global random state is neither read nor moved."""
    seed = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed[0]))


def fetch(samples: Indexable, batches: Sequence[Tensor], workers: int = 0) -> Iterator[Any]:
    """``samples`` at each batch of indices, in their order, by so many processes besides this one.

    What comes is the same for every number of workers: they are told indices, and draw nothing.
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
    # A process that ends while it reads asks its workers to end, once, and waits for them: they would not hear that.
    at_exit = Finalize(None, _kill, (set(active_children()) - others,), exitpriority=1)
    try:
        for fetched in iterator:
            if isinstance(fetched, str):
                raise SchemenetError(fetched)
            yield fetched
    finally:
        at_exit.cancel()


def _kill(workers: Iterable[BaseProcess]) -> None:
    if hasattr(signal, "SIGCHLD"):  # by which torch hears of a worker's death, and raises
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()


def _leave_stopping_to_the_trainer(worker: int) -> None:
    """What asks a run to stop often goes to all of its processes: the step that is to be finished needs its batch.

    A terminal sends SIGINT so, and SIGHUP when it is closed, Slurm SIGTERM; the second SIGTERM is torch's own, to a
    worker that does not end.
    """
    for number in stopping.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


class _ErrorsAsText:
    """Hands a user's mistake over to the main process as its text; torch would wrap it in a traceback."""

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
    that what is compared sees the same data.

    In training every rank has the same number of samples, batch b of all ranks together is batch b of one
    rank with ``world_size`` times the batch size, and a ragged last batch is dropped unless it is the only
    one. Otherwise the order is that of the set, and each sample is on exactly one rank.

    Lightning calls ``sampler.set_epoch`` before each epoch, and keeps ``state_dict`` in its checkpoints; what workers
    have fetched in advance does not count there.
    """

    batch_sampler = None  # Lightning looks for both wherever it finds one

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
        """Choose the order; a place to resume from is kept only within its own epoch."""
        if epoch != self.epoch:
            self.epoch, self.batch, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many of its batches were handed out."""
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
        # Lightning asks for the iterator before it tells the epoch; a generator waits for the first next().
        start, self._start = self._start, 0
        batches = self._order().split(self.batch_size)[start : len(self)]
        handed = self.handing()
        for batch, taken in enumerate(fetch(self.epoch_samples(), batches, self.workers), start):
            self.batch = batch + 1
            yield handed(taken, batches[batch - start])

    def epoch_samples(self) -> Indexable:
        """The set as it is in this epoch."""
        return self.samples

    def handing(self) -> Callable[[Any, Tensor], Any]:
        """What makes of the samples at some indices the batch of this epoch."""
        return lambda taken, chosen: taken

    def _order(self) -> Tensor:
        total = len(self.samples)
        order = torch.randperm(total, generator=self._stream(0)) if self.shuffle else torch.arange(total)
        return order[self.rank :: self.world_size][: self.size]

    def _stream(self, purpose: int) -> torch.Generator:
        return generator(self.seed, self.epoch, purpose)
