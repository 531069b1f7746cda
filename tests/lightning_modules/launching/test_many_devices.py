"""One run by several processes: the gradients and metrics of one process, the same weights after any death."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from architectures.factory import create_model, list_models
from architectures.registry import ARCHITECTURES
from architectures.supervised.network import Network
from lightning_modules.cli import main
from lightning_modules.config.compose import compose
from lightning_modules.data.loader import BatchLoader
from lightning_modules.evaluation.evaluate import evaluate
from lightning_modules.launching import multi_process as ranks
from lightning_modules.launching.job import Job
from lightning_modules.storage.run_files import CHECKPOINT
from lightning_modules.training import run as running
from schemes.errors import SchemenetError, StepLimitError
from tests.support.overrides import but
from tests.support.run_folders import logged

ROOT = Path(__file__).resolve().parents[3]


def by_two(work: Callable[..., None], *arguments: Any) -> None:
    """``work(rank, *arguments)`` in two processes, which have imported what this one has."""
    torch.multiprocessing.start_processes(work, arguments, nprocs=2, start_method="fork")


# Gradients

MODES = ("backprop", "checkpoint", "reversible", "adjoint")
IMAGES: dict[str, Any] = {"num_classes": 3, "in_chans": 2, "image_size": 8}
GROUPS: dict[str, Any] = {"groups": 2, "group_width": 32, "width": 1 / 16}
UNIFORM: dict[str, Any] = {"grid": {"name": "uniform", "time": 1.0}, "width": 0.25}
FAMILIES: dict[str, dict[str, Any]] = {
    "fractalnet": {"columns": 2, "width": 1 / 32},
    "leapfrog_net": {"depth": 14, "width": 0.25},
    "lm_resnet": {"depth": 14, "width": 0.25},
    "lm_resnext": {"depth": 20, **GROUPS},
    "mlp": {},
    "ode_resnet": UNIFORM,
    "odenet": UNIFORM,
    "one_block": {"width": 0.25},
    "one_layer_mlp": {},
    "plain": {"depth": 14, "width": 0.25},
    "polynet": {"depth": 14, "width": 0.25},
    "resnet": {"depth": 14, "width": 0.25},
    "resnext": {"depth": 20, **GROUPS},
    "revnet": {"depth": 14, "width": 0.25},
    "rk_resnet": {"depth": 14, "width": 0.25},
    "stem_only": {"width": 0.25},
}
TOLERANCE = 1e-6
ADAPTIVE: dict[str, Any] = {
    "grid": {"name": "adaptive", "rtol": TOLERANCE, "atol": TOLERANCE, "time": 2.0}, "scheme": "dopri5",
    "field": "mlp_time", "sharing": "shared",
}  # fmt: skip
SYNCHRONISED: dict[str, tuple[str, dict[str, Any]]] = {
    "backprop": ("polynet", FAMILIES["polynet"]),  # statistics per node
    "checkpoint": ("polynet", FAMILIES["polynet"]),
    "reversible": ("revnet", FAMILIES["revnet"]),
    "adjoint": ("ode_resnet", {**UNIFORM, "norm": "batch"}),
}
NOISY: dict[str, dict[str, Any]] = {  # what is drawn differs between the processes
    "fractalnet": {"columns": 2, "width": 1 / 32, "dropout": 0.2},
    "resnet": {"depth": 14, "width": 0.25, "noise": {"name": "stochastic_depth", "drop": 0.5}},
    "polynet": {"depth": 14, "width": 0.25, "noise": {"name": "stochastic_paths"}},
}


class Synchronised(nn.BatchNorm2d):
    """Batch norm of the batches of all processes, for CPUs; it communicates in the order that torch's own does.

    ``SyncBatchNorm`` takes tensors on GPUs only. Both sum up over the processes forward, and again backward.
    """

    def forward(self, input: Tensor) -> Tensor:
        dims, shape = (0, 2, 3), (1, -1, 1, 1)
        count = input.numel() / input.shape[1] * distributed.get_world_size()
        mean = all_reduce(input.sum(dims)) / count
        centred = input - mean.view(shape)
        variance = all_reduce(centred.square().sum(dims)) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight / (variance + self.eps).sqrt()
        return centred * scale.view(shape) + self.bias.view(shape)


def network_of(name: str, options: dict[str, Any], training: bool = False) -> Network:
    torch.manual_seed(0)
    return create_model(name, **IMAGES, **options).double().train(training)


def batch() -> tuple[Tensor, Tensor]:
    """Two halves whose solves take different numbers of steps."""
    stream = torch.Generator().manual_seed(1)
    scale = torch.tensor([0.1] * 3 + [10.0] * 3).double().view(-1, 1, 1, 1)
    return scale * torch.randn(6, 2, 8, 8, generator=stream).double(), torch.tensor([0, 1, 2, 2, 1, 0])


def left_by(network: nn.Module, part: slice = slice(None)) -> dict[str, Tensor]:
    """Gradients and buffers after one loss."""
    x, labels = batch()
    cross_entropy(network(x[part]), labels[part]).backward()
    plain = network.module if isinstance(network, DistributedDataParallel) else network
    gradients = {name: p.grad for name, p in plain.named_parameters()}  # pyright: ignore[reportUnknownMemberType]
    return {**gradients, **dict(plain.named_buffers())}


def gap(network: nn.Module, share: slice, alone: nn.Module) -> float:
    """The largest difference between two processes and one, as a share of the largest entry."""
    found, expected = left_by(network, share), left_by(alone)
    assert found.keys() == expected.keys()
    largest = max(t.abs().max().item() for t in expected.values())
    return max((found[key] - expected[key]).abs().max().item() for key in found) / largest


def differentiate(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # adjoint's, of steps that are too long
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    share, told = (slice(0, 3), slice(3, 6))[rank], {}

    def tell(kind: str, name: str, options: dict[str, Any], training: bool = False) -> DistributedDataParallel | None:
        key = f"{kind} {name} {options.get('gradient')}"
        try:
            here, alone = network_of(name, options, training), network_of(name, options, training)
        except SchemenetError as error:
            told[key] = str(error)
            return None
        if kind == "synchronised":
            for part in here.modules():
                if type(part) is nn.BatchNorm2d:
                    part.__class__ = Synchronised
        network = DistributedDataParallel(here)
        told[key] = gap(network, share, alone)
        return network

    for name, options in FAMILIES.items():
        for mode in MODES:
            if "gradient" in ARCHITECTURES.options(name):
                tell("uniform", name, {**options, "gradient": mode})
            elif mode == "backprop":
                tell("uniform", name, options)
    for mode in ("backprop", "checkpoint", "adjoint"):
        network = tell("adaptive", "mlp", {**ADAPTIVE, "gradient": mode})
        assert network is not None
        told[f"calls {mode}"] = sum(flow.forward_counts.evaluations for flow in network.module.flows)
    for mode, (name, options) in SYNCHRONISED.items():
        tell("synchronised", name, {**options, "gradient": mode}, training=True)
    for name, options in NOISY.items():
        for mode in ("backprop", "checkpoint"):
            network = DistributedDataParallel(network_of(name, {**options, "gradient": mode}, training=True))
            torch.manual_seed(rank)
            for _ in range(3):  # DDP tells of a missing gradient in the next step
                left = left_by(network, share)
            told[f"noisy {name} {mode}"] = torch.cat([left[n].flatten() for n, _ in network.module.named_parameters()])
    torch.save(told, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def differentiated(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gradients")
    by_two(differentiate, str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def cases(told: dict[str, Any], kind: str) -> dict[str, Any]:
    return {key: found for key, found in told.items() if key.startswith(f"{kind} ")}


def test_every_architecture_is_among_the_families() -> None:
    assert {ARCHITECTURES.entry(name).target for name in FAMILIES} == {
        ARCHITECTURES.entry(name).target for name in list_models(task="classification")
    }


def test_two_processes_have_the_gradients_of_the_joined_batch(differentiated: list[dict[str, Any]]) -> None:
    for told in differentiated:
        found = cases(told, "uniform")
        refused = {key: why for key, why in found.items() if isinstance(why, str)}
        assert not any("backprop" in key or "checkpoint" in key for key in refused), refused
        assert {key: gap for key, gap in found.items() if key not in refused and not gap < 1e-10} == {}
        assert {mode for mode in MODES if any(mode in key for key in found.keys() - refused)} == set(MODES)


def test_steps_that_differ_between_processes_neither_wait_nor_lose_the_tolerance(
    differentiated: list[dict[str, Any]],
) -> None:
    for told in differentiated:
        assert all(gap < 100 * TOLERANCE for gap in cases(told, "adaptive").values()), cases(told, "adaptive")
    assert all(differentiated[0][key] != differentiated[1][key] for key in cases(differentiated[0], "calls"))


def test_synchronised_norms_are_those_of_the_joined_batch_also_when_f_is_evaluated_again(
    differentiated: list[dict[str, Any]],
) -> None:
    for told in differentiated:
        found = cases(told, "synchronised")
        assert len(found) == len(MODES)
        assert {key: gap for key, gap in found.items() if not gap < 1e-10} == {}


def test_noise_of_its_own_on_each_process_leaves_no_parameter_without_a_gradient(
    differentiated: list[dict[str, Any]],
) -> None:
    first, second = (cases(told, "noisy") for told in differentiated)
    assert len(first) == 2 * len(NOISY)
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


def test_torchs_synchronised_norm_and_back_leaves_a_network_that_shares_weights_between_nodes() -> None:
    network, expected = network_of(*SYNCHRONISED["backprop"]), network_of(*SYNCHRONISED["backprop"])
    synchronised = TorchSyncBatchNorm().apply(network)
    assert any(isinstance(part, nn.SyncBatchNorm) for part in network.flows[0].bank.modules())
    assert len(list(synchronised.parameters())) == len(list(expected.parameters()))
    x, _ = batch()
    torch.testing.assert_close(TorchSyncBatchNorm().revert(synchronised).eval()(x), expected(x), rtol=0, atol=0)
    torch.testing.assert_close(network.state_dict(), expected.state_dict(), rtol=0, atol=0)


# Whole runs

RUN = [
    "data=digits", "data.limit_train=160", "data.limit_test=33", "logger=csv", "trainer.threads=1",
    "trainer.accelerator=cpu", "trainer.precision=64-true", "trainer.log_every_n_steps=2",
    "trainer.checkpoint_every_n_steps=2",
]  # fmt: skip
TWO = [*RUN, "trainer.devices=2", "trainer.strategy=ddp", "data.batch_size=8"]
RANDOM = ["architecture=fractalnet", "architecture.columns=2", "architecture.width=0.05", "architecture.dropout=0.2"]
PLAIN = ["architecture=lm_resnet", "architecture.depth=14", "architecture.width=0.25", "architecture.norm=group"]


def free_port() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return str(held.getsockname()[1])


def begun_by_hand(rank: int, environment: dict[str, str], port: str, work: Callable[..., Any], *rest: Any) -> None:
    """``work`` in a process as somebody else begins it; "RANK" stands for the rank."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= common | {key: value.replace("RANK", str(rank)) for key, value in environment.items()}
    rank_zero_only.rank = rank  # what Lightning reads of the environment when it is imported
    work(rank, *rest)


LIGHTNING = {"LOCAL_RANK": "RANK"}
SLURM = {
    "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "digits", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1", "SLURM_NODELIST": "localhost", "SLURM_PROCID": "RANK", "SLURM_LOCALID": "RANK",
    "SLURM_NODEID": "0",
}  # fmt: skip


def as_command(rank: int, words: list[str]) -> None:
    assert main(words) == 0


def as_rank(rank: int, words: list[str], folder: str) -> None:
    ranks.train(compose("train", words), Path(folder))


def stopped_at_a_limit(rank: int, words: list[str], folder: str) -> None:
    """The second process alone stops."""

    def stop(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3 and rank == 1:
            raise StepLimitError.__new__(StepLimitError, "no further")

    running.Progress.on_train_batch_start = stop  # type: ignore[method-assign]
    if rank == 1:
        assert ranks.train(compose("train", words), Path(folder))["status"] == "failed"
    else:
        with pytest.raises(SchemenetError, match="another process of this run has ended"):
            ranks.train(compose("train", words), Path(folder))


def result_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / running.RESULT).read_text(encoding="utf-8"))


def checkpoint_in(folder: Path) -> dict[str, Any]:
    return torch.load(folder / CHECKPOINT, weights_only=True)


def test_slurm_with_two_tasks_trains_as_one_process_with_batches_twice_as_large(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*TWO, *PLAIN, "trainer.max_epochs=1"]
    by_two(begun_by_hand, SLURM, free_port(), as_command, ["train", *words, f"folder={tmp_path / 'two'}"])
    told = capfd.readouterr()
    assert told.out.count("test error") == 1  # by the first process
    assert told.out.count("parameters") == 1
    assert "Warning" not in told.err
    one = [*RUN, *PLAIN, "trainer.max_epochs=1", "data.batch_size=16"]
    ranks.train(compose("train", one), tmp_path / "one")
    found, expected = result_in(tmp_path / "two"), result_in(tmp_path / "one")
    assert (found["devices"], expected["devices"]) == (2, 1)
    assert found["test_error"] == expected["test_error"]  # of 33 samples, each on one process
    assert found["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-6)
    weights, as_alone = (checkpoint_in(tmp_path / name)["state_dict"] for name in ("two", "one"))
    torch.testing.assert_close(weights, as_alone, rtol=1e-9, atol=1e-9)
    joined, alone = logged(tmp_path / "two"), logged(tmp_path / "one")
    assert any("k" in key for key in joined[0])
    assert [(row["epoch"], sorted(filter(row.get, row))) for row in joined] == [
        (row["epoch"], sorted(filter(row.get, row))) for row in alone
    ]
    for key in ("train/loss", "train/error", "train/grad_norm", "train/lr"):
        of_two, of_one = ([float(row[key]) for row in rows if row[key]] for rows in (joined, alone))
        assert of_two == pytest.approx(of_one, rel=1e-6)
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-6)


def test_a_process_that_stops_alone_tells_the_reason_and_the_run_goes_on_later(tmp_path: Path) -> None:
    words = [*TWO, *PLAIN, "trainer.max_epochs=1"]
    by_two(begun_by_hand, LIGHTNING, free_port(), stopped_at_a_limit, words, str(tmp_path))
    found = result_in(tmp_path)
    assert found["status"] == "failed"
    assert "after 3 training steps" in found["reason"]
    assert checkpoint_in(tmp_path)["global_step"] == 2


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run of two processes, with dropout and dropped paths."""
    folder = tmp_path_factory.mktemp("whole")
    by_two(begun_by_hand, LIGHTNING, free_port(), as_rank, NOISY_RUN, str(folder))
    return folder


NOISY_RUN = [*TWO, *RANDOM, "trainer.max_epochs=2"]
AT_START = """
import os, sys, time
if "RANK" in os.environ:
    place, rank = sys.orig_argv[-1], os.environ["RANK"]
    {}
"""
IN_STEP_7 = """
    from lightning_modules.training import run as running
    def in_step_7(self, trainer, *_):
        if trainer.global_step == 7:
            open(f"{folder}/{{rank}}.pid", "w").write(str(os.getpid()))
            if rank == "1":
                while not os.path.exists(f"{folder}/0.pid"):
                    time.sleep(0.01)
                os.kill(os.getppid(), 9)
    running.Progress.on_train_batch_start = in_step_7
"""


def with_fault(monkeypatch: pytest.MonkeyPatch, folder: Path, fault: str) -> None:
    """Python imports ``sitecustomize`` as it starts: the processes that are begun have the fault, this one has not."""
    (folder / "sitecustomize.py").write_text(AT_START.format(fault), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_same_run(found: Path, expected: Path) -> None:
    """To the bit: weights, the optimiser's state, the random numbers of both processes, all that was logged."""
    one, other = checkpoint_in(found), checkpoint_in(expected)
    for key in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)
    states, others = ([each["torch"] for each in of["resuming"]["random"]] for of in (one, other))
    torch.testing.assert_close(states, others, rtol=0, atol=0)
    assert not torch.equal(*states)  # each process draws masks of its own
    assert logged(found) == logged(expected)


def test_each_process_tests_its_share_on_the_network_that_is_kept(whole: Path) -> None:
    """Batch norm has other running statistics on each process; the first's are in the checkpoint."""
    told, found = result_in(whole), evaluate(whole)["trained"]
    assert found["test_error"] == told["test_error"]
    assert found["test_loss"] == pytest.approx(told["test_loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("strangers_folder")
def test_a_killed_run_leaves_no_process_and_goes_on_to_the_same_weights(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        with_fault(patch, tmp_path, IN_STEP_7.format(folder=tmp_path))
        words = [*NOISY_RUN, f"folder={folder}"]
        known = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        begun = subprocess.run([sys.executable, "-P", "-m", "lightning_modules", "train", *words], env=known)
    assert begun.returncode == -signal.SIGKILL
    left = [int((tmp_path / f"{rank}.pid").read_text(encoding="utf-8")) for rank in (0, 1)]
    end = time.monotonic() + 60
    while any(map(lives, left)):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not (folder / running.RESULT).exists()
    assert 6 <= checkpoint_in(folder)["global_step"] < 20
    job = Job(folder, compose("train", NOISY_RUN), "fractalnet", "group")
    assert main(["run-file", str(job.write())]) == 0
    assert result_in(folder)["arm"] == "fractalnet"
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_torchrun_begins_the_processes_and_all_take_one_folder_and_wandb_run(
    strangers_folder: Path, whole: Path
) -> None:
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = Path(sys.executable).with_name("schemenet")
    told = subprocess.run(
        [*torchrun, "--no-python", str(command), "train", *but(NOISY_RUN, "logger=wandb")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=strangers_folder, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("test error") == 1
    (folder,) = (strangers_folder / "runs" / "train").iterdir()
    assert len(list(strangers_folder.rglob("offline-run-*"))) == 1  # one process alone tells W&B
    assert_same_run(folder, whole)


AT_END = """
    import atexit, glob
    def at_end():
        names = [open(path).read().strip() for path in glob.glob("/proc/self/task/*/comm")]
        open(f"{folder}/{{rank}}.threads", "w").write(" ".join(names))
    atexit.register(at_end)
"""


@pytest.mark.usefixtures("strangers_folder")
def test_no_thread_communicates_when_the_processes_of_a_run_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11 ends a thread that asks for the interpreter then, and in gloo's threads this is an abort."""
    with_fault(monkeypatch, tmp_path, AT_END.format(folder=tmp_path))
    words = [*TWO, "data=sine", "data.train_size=32", "data.test_size=8", "architecture=mlp", "trainer.max_epochs=1"]
    words = [word for word in words if not word.startswith(("data=digits", "data.limit"))]
    assert ranks.train(compose("train", words), tmp_path / "run")["status"] == "done"
    for rank in (0, 1):
        assert "gloo" not in (tmp_path / f"{rank}.threads").read_text(encoding="utf-8")


@pytest.mark.usefixtures("strangers_folder")
def test_the_reason_of_a_failure_is_told_though_the_interpreter_could_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_fault(monkeypatch, tmp_path, "import atexit; atexit.register(os.abort)")
    with pytest.raises(ranks.RankError, match="KeyError: 'config'"):
        ranks.launch({}, 2)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ("time.sleep(600)", "os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL; the same command resumes"),
        ("time.sleep(600)", "os._exit(7)", "rank 1 ended with exit status 7"),
        ("time.sleep(0.05); tell('peer is gone')", "tell('cause')", "rank 1: cause"),
        ("time.sleep(600)", f"os._exit({ranks.STOPPED})", None),
    ],
)
@pytest.mark.usefixtures("strangers_folder")
def test_when_one_process_fails_the_others_are_ended_and_the_first_reason_is_told(
    first: str, second: str, told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = "tell = lambda reason: (open(f'{place}/{rank}', 'w').write(reason), os._exit(1))"
    with_fault(monkeypatch, tmp_path, f"{tell}; exec([{first!r}, {second!r}][int(rank)])")
    if told is None:  # it has ended the run, and written its result
        ranks.launch({}, 2)
    else:
        with pytest.raises(ranks.RankError, match=told):
            ranks.launch({}, 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trainer.strategy=ddp_spawn"], "trainer.strategy: ddp_spawn"),
        (["trainer.num_nodes=0"], "trainer.num_nodes: expected at least 1"),
        (["trainer.sync_batchnorm=true"], "trainer.sync_batchnorm: torch has it on GPUs only"),
        (
            ["trainer.sync_batchnorm=true", "scheme=backward_euler", "architecture.norm=batch"],
            "BackwardEuler evaluates f as often as its equations ask for",
        ),
    ],
)
def test_what_many_devices_cannot_do_is_told(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *but([*TWO, *PLAIN[1:]], *words), f"folder={tmp_path}"]) == 2
    assert told in capsys.readouterr().err


def test_each_device_needs_a_sample() -> None:
    with pytest.raises(SchemenetError, match="1 samples are too few for 2 devices"):
        BatchLoader(torch.zeros(1, 2), 8, rank=1, world_size=2)
