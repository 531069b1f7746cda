"""Runs that die, at any moment or at one chosen operation on their files, and what must hold of them afterwards.

``python -m tests.support.crash_injection --help`` is a campaign of such deaths; a few dozen of them are a test.
"""

from __future__ import annotations

import argparse
import gc
import io
import json
import multiprocessing
import os
import random
import re
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from lightning_modules.launching.run_lock import LOCK
from lightning_modules.storage.atomic_files import read_json, read_rows
from tests.support.run_folders import logged, measured

TINY = [
    "logger=csv", "trainer.threads=1", "trainer.log_every_n_steps=1", "trainer.checkpoint_every_n_steps=2",
    "trainer.max_epochs=2", "data.batch_size=8", "data.limit_train=32", "data.limit_test=16",
]  # fmt: skip  # 4 steps an epoch
DROPPING = ["architecture=fractalnet", "architecture.columns=2", "architecture.width=0.05", "architecture.dropout=0.2"]
VARIANTS = {
    "random": ["data.augment=true", *DROPPING],
    "learned_k": ["architecture=lm_resnet", "architecture.width=0.1"],
    "adaptive": [
        "architecture=odenet", "grid=adaptive", "architecture.width=0.1", "grid.rtol=0.1", "grid.atol=0.1",
    ],
    "averaged": ["architecture=resnet", "architecture.width=0.1", "trainer.ema=0.9", "optimizer=adamw"],
    "workers": [
        "data=image_folder", "data.root=data", "data.size=8", "data.decode=each_epoch", "data.workers=2",
        "data.augment=true", *DROPPING,
    ],
}  # fmt: skip
"""Small runs whose state lies in many places: random numbers, optimisers, learned steps, averages, workers."""


KINDS = ("moment", "kill", "cut", "power", "names", "full")


class Accident(NamedTuple):
    """What happens at an operation on files: the ``at``-th of those that ``where`` names.

    kill: SIGKILL before it; cut: in its midst, half of what is written having been written; power: SIGKILL, and no
    content that was not synced ever reached the disk; names: nor any name that a file took or lost since its folder
    was synced; full: no space is left from then on.
    """

    kind: str
    where: str
    at: int


class Watched:
    """A file that is written to, every write an operation."""

    def __init__(self, file: Any, watch: Watch, name: str) -> None:
        self._file, self._watch, self._name = file, watch, name

    def write(self, content: Any) -> int:
        def cut() -> None:
            self._file.write(memoryview(content)[: len(content) // 2])
            self._file.flush()

        self._watch.happens(f"write {self._name}", cut)
        return self._file.write(content)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Watch:
    """Counts the operations on files of this process, and lets an accident happen.

    For a loss of power it remembers what of each file was synced, and the renames since their folder was.
    """

    def __init__(self, accident: Accident | None) -> None:
        self.accident, self.seen, self.pid = accident, Counter(), os.getpid()
        self.full = False
        self.unsynced: dict[int, tuple[int, int]] = {}  # inode: a descriptor, and the bytes that are on the disk
        self.renames: list[Callable[[], None]] = []  # how to take back what no folder's sync has confirmed
        self.replace, self.fsync, self.unlink, self.open = os.replace, os.fsync, os.unlink, io.open

    def install(self) -> None:
        os.replace, os.fsync, os.unlink, io.open = self._replace, self._fsync, self._unlink, self._open

    def happens(self, operation: str, cut: Callable[[], None] = lambda: None) -> None:
        self.seen[operation] += 1
        if self.full and operation.startswith("write"):
            raise OSError(28, "No space left on device")
        accident = self.accident
        if accident is None or operation != accident.where or self.seen[operation] != accident.at + 1:
            return
        if os.getpid() != self.pid:
            return
        if accident.kind in ("cut", "full"):
            cut()
        if accident.kind == "full":
            self.full = True
            if operation.startswith("write"):
                raise OSError(28, "No space left on device")
            return
        if accident.kind == "names":
            for undo in reversed(self.renames):
                undo()
        if accident.kind in ("power", "names"):
            for descriptor, size in self.unsynced.values():
                os.ftruncate(descriptor, size)
        os.kill(os.getpid(), signal.SIGKILL)

    def _open(self, path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax") or "b" not in mode or not isinstance(path, Path):
            return self.open(path, mode, *arguments, **options)
        name = finished_name(path)
        self.happens(f"open {name}")
        file = self.open(path, mode, *arguments, **options)
        at = os.fstat(file.fileno())
        if at.st_ino not in self.unsynced:
            self.unsynced[at.st_ino] = os.dup(file.fileno()), at.st_size
        return Watched(file, self, name)

    def _fsync(self, descriptor: int) -> None:
        self.happens("fsync")
        self.fsync(descriptor)
        at = os.fstat(descriptor)
        if stat.S_ISDIR(at.st_mode):
            self.renames.clear()
        elif at.st_ino in self.unsynced:
            os.close(self.unsynced.pop(at.st_ino)[0])

    def _replace(self, source: Any, target: Any) -> None:
        self.happens(f"replace {Path(target).name}")
        before = self._kept(target)

        def undo() -> None:
            self.replace(target, source)
            if before is not None:
                self.replace(before, target)

        self.replace(source, target)
        self.renames.append(undo)

    def _unlink(self, path: Any, **options: Any) -> None:
        if not os.path.lexists(path) or options:
            self.unlink(path, **options)
            return
        self.happens(f"unlink {finished_name(path)}")
        before = self._kept(path)
        self.unlink(path)
        self.renames.append(lambda: before and self.replace(before, path))

    def _kept(self, path: Any) -> str | None:
        """A second name of a file, outside its folder, so that what takes its name away can be undone."""
        if self.accident is None or self.accident.kind != "names" or not Path(path).is_file():
            return None
        name = f"kept-{os.getpid()}-{len(self.renames)}-{time.monotonic_ns()}"
        os.link(path, name)
        return name


def finished_name(path: str | Path) -> str:
    """The name of a file, a draft's without what tells it apart from others."""
    return re.sub(r"\.[0-9a-f]{8}\.tmp$", ".tmp", Path(path).name)


def train_here(place: str, words: Sequence[str], accident: Accident | None) -> None:
    """What a process does: the command in a folder, with its operations in ``seen.json``.

    Its words are in a file of its own: data workers whose parent was killed may still have something to say.
    """
    from lightning_modules.cli import main

    os.chdir(place)
    output = os.open(f"out-{time.monotonic_ns()}.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    multiprocessing.set_start_method("fork", force=True)  # of data workers
    gc.freeze()  # the ledger collects garbage; it need not search all of torch for it
    watch = Watch(accident)
    watch.install()
    status = main(["train", *words, "folder=run"])
    Path("seen.json").write_text(json.dumps(watch.seen))
    sys.exit(status)


def words_of(place: Path) -> list[str]:
    """What each process in a folder said, the latest last."""
    return [path.read_text() for path in sorted(place.glob("out-*.txt"))]


class ForkServer:
    """Processes that begin within a hundredth of a second, forked from one that has imported everything."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.support.preload"])
        first = self.context.Process(target=int)
        first.start()  # and everything is imported
        first.join()

    def start(self, place: Path, words: Sequence[str], accident: Accident | None = None) -> Any:
        process = self.context.Process(target=train_here, args=(str(place), list(words), accident))
        process.start()
        return process

    def run(self, place: Path, words: Sequence[str], accident: Accident | None = None) -> int:
        process = self.start(place, words, accident)
        process.join()
        return process.exitcode


def assert_equal(one: Any, other: Any, place: str = "") -> None:
    """Equal to the bit, all the way down."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_equal(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{place}/{number}")
    else:
        assert one == other, place


def assert_same_folder(one: Path, other: Path) -> None:
    """The same files with the same content: of checkpoints, what can be loaded, but for time and place all else."""
    names = [sorted(path.name for path in folder.iterdir() if path.name != LOCK) for folder in (one, other)]
    assert names[0] == names[1]
    for path in (one / name for name in names[0]):
        if path.suffix == ".ckpt":
            assert_equal(*(torch.load(folder / path.name, weights_only=True) for folder in (one, other)))
        elif path.name == "metrics.csv":
            assert logged(one) == logged(other)
        elif path.name == "result.json":
            assert measured(one) == measured(other)
        else:
            assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def assert_nothing_half(folder: Path) -> None:
    """Whatever has its final name can be read to its end."""
    for path in folder.glob("*.json"):
        read_json(path)
    for path in folder.glob("*.ckpt"):
        torch.load(path, weights_only=True)
    read_rows(folder / "metrics.csv")


class Campaign:
    """Deaths of one small run in a folder, each round a run that dies several times and must end like the first."""

    def __init__(self, folder: Path, variant: str) -> None:
        self.folder, self.words, self.fork_server = folder, [*TINY, *VARIANTS[variant]], ForkServer()
        self.number, self.deaths = 0, Counter()
        self.whole = self._place("whole")
        begun = time.monotonic()
        assert self.fork_server.run(self.whole, self.words) == 0, words_of(self.whole)
        self.seconds = time.monotonic() - begun
        self.operations = json.loads((self.whole / "seen.json").read_text())

    def round(self, random: random.Random, deaths: int, kinds: Sequence[str]) -> None:
        """A run that dies so many times, unless it ends before, and is then left in peace."""
        place, story = self._place(f"round{self.number}"), []
        try:
            for attempt in range(deaths):
                kind = random.choice(kinds)
                if kind == "moment":
                    story.append(("moment", random.uniform(0, self.seconds)))
                    status = self._kill_after(place, story[-1][1])
                else:
                    story.append(self._accident(random, kind, attempt))
                    status = self.fork_server.run(place, self.words, story[-1])
                story.append(status)
                assert status in (0, 2 if kind == "full" else -signal.SIGKILL)
                if status == 0:
                    break
                self.deaths[kind] += 1
                self._assert_recoverable(place, kind)
            assert self.fork_server.run(place, self.words) == 0
            assert_same_folder(self.whole / "run", place / "run")
        except Exception as error:
            raise AssertionError("\n".join([f"{place}: {story}", *words_of(place)])) from error

    def _place(self, name: str) -> Path:
        self.number += 1
        place = self.folder / f"{name}-{self.number}"
        place.mkdir(parents=True)
        if "data=image_folder" in self.words:
            write_images(place / "data")
        return place

    def _kill_after(self, place: Path, seconds: float) -> int:
        process = self.fork_server.start(place, self.words)
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode

    def _accident(self, random: random.Random, kind: str, attempt: int) -> Accident:
        """At any kind of operation with the same chance: there are a thousand writes for one rename."""
        names = [name for name in self.operations if kind in ("kill", "power", "names") or name.startswith("write")]
        where = random.choice(names)
        return Accident(kind, where, random.randrange(max(1, self.operations[where] // (attempt + 1))))

    def _assert_recoverable(self, place: Path, kind: str) -> None:
        assert_nothing_half(place / "run")
        if kind == "full":
            output = words_of(place)[-1]
            last = output.splitlines()[-1]
            assert re.fullmatch(r"schemenet: cannot write run/\S+: No space left on device; what was .* kept", last)
            assert "Traceback" not in output
            assert not [*Path(place, last.split()[3].rstrip(":")).parent.glob("*.tmp")]


def write_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 10, 9, 3), dtype=np.uint8)
    for part, of_part in zip(("train", "test"), pixels, strict=True):
        for name, of_class in zip(("cat", "dog"), of_part, strict=True):
            (folder / part / name).mkdir(parents=True)
            for number, image in enumerate(of_class):
                Image.fromarray(image).save(folder / part / name / f"{number}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Let small runs die many times and compare how they end.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--deaths", type=int, default=4, help="of each round, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    total = Counter()
    for variant in arguments.variants:
        campaign = Campaign(arguments.folder / variant, variant)
        for number in range(arguments.rounds):
            try:
                campaign.round(random.Random(f"{variant} {arguments.seed} {number}"), arguments.deaths, arguments.kinds)
            except AssertionError as error:
                total["failed rounds"] += 1
                print(
                    f"FAILED {variant} {arguments.seed} {number}: {error!r}: {error.__cause__!r}\n{error}", flush=True
                )
        total += campaign.deaths
        print(variant, f"{campaign.seconds:.2f} s", dict(campaign.deaths), flush=True)
    print(dict(total))


if __name__ == "__main__":
    main()
