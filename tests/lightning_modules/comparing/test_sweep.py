"""Sweeps: what the words mean, and that nothing is lost whatever is killed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lightning_modules.cli import main
from lightning_modules.comparing.records import read_comparison
from lightning_modules.comparing.sweep import plan_sweep
from lightning_modules.config.compose import compose
from lightning_modules.config.registries import LAUNCHERS
from lightning_modules.config.sweep_grid import compose_grid
from lightning_modules.launching import multi_process
from lightning_modules.launching.job import Job, run_file
from lightning_modules.launching.local import device_shares
from lightning_modules.launching.run_lock import MARKER, is_locked, locked
from lightning_modules.storage.atomic_files import write_json
from lightning_modules.storage.run_files import FAILURE, RESULT
from schemes import SchemenetError

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["architecture.depth=8", "architecture.width=0.25", "data.limit_train=64", "data.limit_test=32", "logger=csv"]


def test_words_make_a_grid() -> None:
    words = ["scheme=forward_euler,rk2", "architecture.depth=8,14", "seed=range(3)", "trainer.max_epochs=1"]
    grid, configs = compose_grid(words)
    assert list(configs) == ["forward_euler,depth=8", "forward_euler,depth=14", "rk2,depth=8", "rk2,depth=14"]
    assert grid.axes["seed"] == ("0", "1", "2")
    assert configs["rk2,depth=14"]["scheme"]["name"] == "heun"
    assert configs["rk2,depth=14"]["architecture"]["depth"] == 14
    assert {config["trainer"]["max_epochs"] for config in configs.values()} == {1}


def test_a_glob_takes_each_choice_under_its_own_name() -> None:
    _, configs = compose_grid(["scheme=glob([rk*,heun])"])
    assert list(configs) == ["heun", "rk3", "rk38", "rk4"]  # rk2 is another name of heun


def test_lists_are_values_and_keys_stay_apart() -> None:
    _, configs = compose_grid(["architecture.widths=[8,16,16],[4,8,8]", "optimizer.name=sgd,adamw"])
    assert [config["architecture"]["widths"] for config in configs.values()][::2] == [[8, 16, 16], [4, 8, 8]]
    assert next(iter(configs)) == "widths=8-16-16,name=sgd"


def test_a_file_says_the_same_as_the_words(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text(
        "data: {limit_train: 64}\nscheme: [forward_euler, rk2]\n"
        "architecture:\n  depth: 8\n  widths: [[8, 16, 16], [4, 8, 8]]\n"
        "seed: range(2)\noptimizer.nesterov: [true, false]\ntrainer.gradient_clip_val: null\n"
    )
    words = ["data.limit_train=64", "scheme=forward_euler,rk2", "architecture.depth=8"]
    words += ["architecture.widths=[8,16,16],[4,8,8]", "seed=range(2)", "optimizer.nesterov=true,false"]
    from_file, from_words = compose_grid([str(path)]), compose_grid(words)
    assert dict(from_file[0].axes) == dict(from_words[0].axes)
    assert from_file[1] == from_words[1]
    _, changed = compose_grid([str(path), "scheme=rk4,rk3"])
    assert next(iter(changed)).startswith("rk4")  # words have the last say


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["scheme=rk4"], "no key has several values"),
        (["scheme=eluer,rk4", "max_epochs=1,2"], "no scheme 'eluer'"),
        (["scheme=eluer,rk4", "max_epochs=1,2"], "trainer.max_epochs=..."),
        (["folder=a,b", "scheme=rkk4,heun"], "folder: cannot be swept"),
        (["folder=a,b", "scheme=rkk4,heun"], "no scheme 'rkk4'; did you mean 'rk4'"),
        (["data=digits,mnist"], "one sweep for each"),
        (["data.limit_test=32,64"], "errors on different test sets are not compared"),
        (["architecture.widths=[8,16,16],'8-16-16'"], "two arms would both be called widths=8-16-16"),
        (["scheme=glob(zz*)"], "nothing matches zz*"),
        (["scheme=rk4,rk3", "data.validation=0.1"], "data.validation: a sweep reports test errors"),
        (["optimizer.lr=interval(0,1)"], "no end of values"),
        (["scheme=rk4,rk3", "launcher.jbos=3"], "did you mean 'jobs'"),
        (["scheme=rk4,rk3", "networks=[rk2]"], "a key of `schemenet compare`"),
        (["nowhere.yaml", "scheme=rk4,rk3"], "expected key=value, or first the name of a yaml file"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *words]) == 2
    assert told in capsys.readouterr().err


def test_arms_that_are_equal_are_trained_once(capsys: pytest.CaptureFixture[str]) -> None:
    _, configs = compose_grid(["scheme=heun,rk2,rk3", "architecture.depth=8", "baseline=rk2"])
    plan = plan_sweep(configs, (0,))
    assert [arm.name for arm in plan.arms] == ["heun", "rk3"]
    assert plan.baseline == "heun"
    assert "rk2 is the same network and recipe as heun" in capsys.readouterr().out


def test_a_sweep_over_batch_sizes_tells_them() -> None:
    _, configs = compose_grid(["data=moons", "data.batch_size=10,20", "architecture=mlp", "architecture.steps=1"])
    assert "bytes of a batch of 10 or 20" in plan_sweep(configs, (0,)).sizes_table()


def test_an_arm_of_several_keys_is_named_as_it_stands() -> None:
    _, configs = compose_grid(["scheme=heun,rk3", "architecture.depth=8,14", "baseline=rk3,depth=8"])
    assert {config["baseline"] for config in configs.values()} == {"rk3,depth=8"}


def test_an_unknown_baseline_is_told() -> None:
    _, configs = compose_grid(["scheme=heun,rk3", "architecture.depth=8", "baseline=heum"])
    with pytest.raises(SchemenetError, match="did you mean 'heun'"):
        plan_sweep(configs, (0,))


def test_devices_are_shared_out() -> None:
    assert device_shares(["0", "1", "2", "3"], 1) == ["0", "1", "2", "3"]
    assert device_shares(["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"]
    assert device_shares([], 1) == []


def test_a_folder_is_held_by_one_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path):
        assert is_locked(tmp_path)
        assert main(["train", *SMALL, "trainer.max_epochs=1", f"folder={tmp_path}"]) == 2
        assert f"is being trained by process {os.getpid()}" in capsys.readouterr().err
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_holds_a_folder_by_a_marker(
    reason: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path):
        assert "is on a file system without locks" in capsys.readouterr().out
        if (worker := os.fork()) == 0:
            os._exit(0)  # as a data worker ends, which gives nothing free
        os.waitpid(worker, 0)
        assert is_locked(tmp_path)
        with (
            pytest.raises(SchemenetError, match=f"trained by process {os.getpid()} .*delete .*{MARKER}"),
            locked(tmp_path, patience=0.1),
        ):
            pass
    assert not is_locked(tmp_path)
    if (killed := os.fork()) == 0:
        with locked(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    assert (tmp_path / MARKER).exists()
    with locked(tmp_path):  # what a dead process of this machine has left is no lock
        assert is_locked(tmp_path)


def test_a_sweep_that_is_under_way_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / "rk3" / "seed0"):
        assert main(["sweep", *SMALL, "scheme=heun,rk3", f"folder={tmp_path}", "overwrite=true"]) == 2
    assert "rk3/seed0 is being trained by another process" in capsys.readouterr().err


def test_a_run_that_another_process_does_is_waited_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one command is given twice at the same time: the second run is none that has failed."""
    job = Job(tmp_path, compose("train", SMALL), "arm", "group")
    done: list[Path] = []
    monkeypatch.setattr(multi_process, "train", lambda config, folder, **_: done.append(folder) or {"status": "done"})
    with ThreadPoolExecutor() as pool:
        with locked(tmp_path):
            status = pool.submit(run_file, [str(job.write())])
            while "waiting for it" not in capfd.readouterr().out:
                assert not status.done()
            assert not done
        assert status.result() == 0
    assert done == [tmp_path]
    assert not (tmp_path / FAILURE).exists()


def test_a_finished_run_is_not_done_again(tmp_path: Path) -> None:
    """As of a job that Slurm requeues although its run came to its end within the warning."""
    config = compose("train", SMALL)
    result = {"status": "done", "recipe": config.recipe_hash, "seed": config["seed"]}
    write_json(tmp_path / RESULT, result)
    assert multi_process.train(config, tmp_path) == result
    assert [path.name for path in tmp_path.iterdir()] == [RESULT]


def begin(folder: Path, screen: Path) -> subprocess.Popen[bytes]:
    grid = ["scheme=forward_euler,rk2", "seed=0,1", "trainer.max_epochs=10", "trainer.checkpoint_every_n_steps=1"]
    words = ["sweep", *SMALL, *grid, "data.batch_size=16", f"folder={folder}"]
    known = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with screen.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "lightning_modules", *words], env=known, stdout=log, stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background has it ignored
        )  # fmt: skip


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], screen: Path) -> None:
    while not condition():
        assert process.poll() is None, screen.read_text()
        time.sleep(0.02)


def of_folder(folder: Path) -> dict[int, str]:
    """Processes in whose environment is the command that names this folder, and where their output goes."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"folder={folder}".encode() in path.read_bytes():
                found[int(path.parent.name)] = os.readlink(path.parent / "fd" / "1")
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.usefixtures("strangers_folder")
def test_a_sweep_that_is_killed_goes_on_by_the_same_command(tmp_path: Path) -> None:
    """The sweep dies by SIGKILL, then one of its runs does and the sweep is interrupted: nothing stays, or is lost."""
    folder, screen = tmp_path / "sweep", tmp_path / "screen.txt"
    process = begin(folder, screen)
    wait_for(lambda: list(folder.glob("*/seed0/last.ckpt")), process, screen)
    assert len(of_folder(folder)) == 3  # the process that begins runs, and two of them
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while of_folder(folder):
        assert time.monotonic() < end, "runs outlive the sweep that began them"
        time.sleep(0.1)
    assert not list(folder.glob(f"*/*/{RESULT}"))

    process = begin(folder, screen)
    logs = [folder / scheme / "seed0" / "log.txt" for scheme in ("forward_euler", "rk2")]
    wait_for(lambda: any("resumes from epoch" in log.read_text() for log in logs if log.exists()), process, screen)
    run = next(number for number, output in of_folder(folder).items() if output.endswith("log.txt"))
    os.kill(run, signal.SIGKILL)
    wait_for(lambda: "killed by SIGKILL" in screen.read_text(), process, screen)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "the same command resumes" in screen.read_text()
    assert not of_folder(folder)

    process = begin(folder, screen)
    assert process.wait() == 0, screen.read_text()
    assert "resumes from epoch" in "".join(log.read_text() for log in logs)
    assert {run.status for run in read_comparison(folder).runs} == {"done"}
    assert json.loads((folder / "comparison.json").read_text())["kind"] == "sweep"


def test_every_launcher_takes_orders_and_a_watch() -> None:
    for name in LAUNCHERS:
        assert {"runs", "watch"} <= set(LAUNCHERS.parameters(name)), name
