"""A user's own modules: who may import them, and what names them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from architectures.registry import FIELDS
from architectures.supervised.network import Network
from lightning_modules.cli import main
from lightning_modules.comparing.plan import make_plan
from lightning_modules.config.compose import compose, validate_stored
from lightning_modules.config.imports import import_for_command, split_imports
from lightning_modules.config.static_registry import static_registry
from lightning_modules.launching.job import Job, run_file
from lightning_modules.launching.subprocesses import import_environment
from lightning_modules.training.loading import load_run
from schemes.errors import SchemenetError
from schemes.plugins import FOLDER, import_modules
from schemes.registry import SCHEMES
from tests.support.outside import restored_registries, write_parts

TINY = [
    "architecture=resnet20", "architecture.depth=8", "trainer.max_epochs=1", "trainer.limit_train_batches=1",
    "trainer.limit_test_batches=1", "trainer.progress_bar=false", "data.batch_size=4", "logger=csv",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with the module ``my_parts``, which is on no path of imports."""
    write_parts(tmp_path, "my_parts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command sets FOLDER for its processes
    with restored_registries():
        yield tmp_path


def test_words_that_name_modules_are_taken_out_of_a_command_line() -> None:
    words = ["scheme=heun", "--import", "a", "--import=b.c", "imports=[a, d]", "seed=1"]
    assert split_imports(words) == (["a", "b.c", "d"], ["scheme=heun", "seed=1"])
    assert split_imports(["imports=e"]) == (["e"], [])
    for wrong in (["--import"], ["--import", "scheme=heun"]):
        with pytest.raises(SchemenetError, match="my_parts"):
            split_imports(wrong)


def test_a_part_of_ones_own_trains_and_its_module_is_recorded(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["scheme=my_parts_alias", "scheme.theta=0.4", "field=my_parts_field"]
    assert main(["train", "--import", "my_parts", *own, *TINY, "folder=run"]) == 0
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["imports"] == ["my_parts"]
    assert config["scheme"] == {"name": "my_parts", "theta": 0.4}
    assert config["field"] == {"name": "my_parts_field", "gain": 1.0}
    assert import_environment()[FOLDER] == str(folder)
    assert str(folder) not in sys.path
    assert main(["schemes", "my_parts"]) == 0
    assert "scheme.theta" in capsys.readouterr().out
    with restored_registries():
        SCHEMES.remove("my_parts")
        sys.modules.pop("my_parts")
        monkeypatch.delenv(FOLDER)
        assert main(["eval", "run"]) == 2
        assert "--import my_parts" in capsys.readouterr().err
        assert "my_parts" not in sys.modules


def test_a_trained_network_keeps_the_defaults_it_was_trained_with(folder: Path) -> None:
    assert main(["train", "--import", "my_parts", "field=my_parts_field", *TINY, "folder=run"]) == 0
    FIELDS.remove("my_parts_field")
    SCHEMES.remove("my_parts")
    source = (folder / "my_parts.py").read_text().replace("gain: float = 1.0", "gain: float = 7.0")
    exec(compile(source, "my_parts.py", "exec"), sys.modules["my_parts"].__dict__)
    assert FIELDS.defaults("my_parts_field") == {"gain": 7.0}
    for place in (folder / "run", _with_chosen_options_only(folder / "run" / "last.ckpt")):
        run = load_run(place, Network)
        gains = {m.gain for m in run.network.modules() if type(m).__name__ == "TanhOfConvolution"}
        assert gains == {1.0}


def _with_chosen_options_only(checkpoint: Path) -> Path:
    """A copy of a checkpoint as they were written before the options had all defaults."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["options"] = {"depth": 8, "field": {"name": "my_parts_field"}}
    torch.save(content, path := checkpoint.with_name("before.ckpt"))
    return path


def test_the_process_of_a_run_imports_what_its_config_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["networks=[resnet20]", "baseline=mlp", "controls=[]", "budget=null", "arms.resnet20.scheme=my_parts"]
    config = compose("compare", [*words, *TINY[2:], *import_for_command(["my_parts"])])
    (arm,) = [arm for arm in make_plan(config).arms if arm.name == "resnet20"]
    job = Job(folder / "c" / "resnet20" / "seed0", arm.config, arm.name, "c").write()
    with restored_registries():
        SCHEMES.remove("my_parts")
        sys.modules.pop("my_parts")
        assert run_file([str(job)]) == 0
        assert "my_parts" in sys.modules
    assert json.loads((job.parent / "config.json").read_text())["imports"] == ["my_parts"]
    monkeypatch.delenv(FOLDER)
    with restored_registries():
        sys.modules.pop("my_parts", None)
        (job.parent / "result.json").unlink()
        assert run_file([str(job)]) == 1
    assert "no such module" in (job.parent / "error.txt").read_text()


@pytest.mark.usefixtures("folder")
def test_names_from_outside_are_checked_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--import", "my_parts", "scheme=my_part"]) == 2
    assert "did you mean 'my_parts'" in capsys.readouterr().err
    assert main(["train", "--import", "my_parts", "scheme=my_parts", "scheme.theta=much", "scheme.gamma=1"]) == 2
    error = capsys.readouterr().err
    assert "scheme.theta" in error
    assert "takes no 'gamma'" in error


def test_a_yaml_file_names_what_it_needs_and_imports_nothing(folder: Path) -> None:
    (folder / "mine" / "experiment").mkdir(parents=True)
    file = folder / "mine" / "experiment" / "own.yaml"
    file.write_text("# @package _global_\ndefaults:\n  - override /scheme: my_parts\nimports: [my_parts]\n")
    with pytest.raises(SchemenetError, match=r"own.yaml.*--import my_parts"):
        compose("train", ["experiment=own"], str(folder / "mine"))
    assert "my_parts" not in sys.modules
    config = compose("train", ["experiment=own", *import_for_command(["my_parts"])], str(folder / "mine"))
    assert config["scheme"]["name"] == "my_parts"
    assert config["imports"] == ["my_parts"]


def test_a_module_that_is_gone_is_named_and_not_to_be_imported(folder: Path) -> None:
    message = "needs not_there, which is not installed, and not in this folder; install it"
    with pytest.raises(SchemenetError, match=message) as caught:
        validate_stored({"imports": ["my_parts", "not_there"]}, "run")
    assert "--import" not in str(caught.value)


def test_a_sweep_file_imports_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sweep.yaml").write_text("scheme: [heun, my_parts]\nimports: [my_parts]\n")
    assert main(["sweep", "sweep.yaml"]) == 2
    assert "imports" in capsys.readouterr().err
    assert "my_parts" not in sys.modules


def test_a_part_that_fails_is_named_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (folder / "my_parts.py").read_text().replace("(self.conv(y) + t).tanh()", "self.convolution(y)")
    (folder / "fails.py").write_text(source.replace("my_parts", "fails"))
    assert main(["train", "--import", "fails", "field=fails_field", *TINY, "folder=run"]) == 2
    line = next(i for i, text in enumerate(source.splitlines(), 1) if "convolution(y)" in text)
    error = capsys.readouterr().err
    assert "cannot run on inputs of shape (1, 8, 8): AttributeError" in error
    assert f"fails.py line {line}" in error


@pytest.mark.usefixtures("folder")
def test_without_parts_from_outside_a_config_and_its_hash_are_what_they_were() -> None:
    plain = compose("train", ["scheme=heun"])
    assert "imports" not in plain
    named = compose("train", ["scheme=heun", *import_for_command(["my_parts"])])
    assert named["imports"] == ["my_parts"]
    assert named.recipe_hash == plain.recipe_hash


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_parts", "no such module"),
        ("./my_parts.py", "my_parts is the module"),
        ("my_parts.py", "my_parts is the module"),
        ("package/parts.py", "package.parts is the module"),
        ("package.parts", "package is no package without an __init__.py"),
        ("/elsewhere/parts.py", "parts is the module of that file, in its folder"),
        ("broken", "broken.py line 3"),
        ("exits", "SystemExit: 0, .*exits.py line 1"),
        ("schemes", "schemes.py is hidden by .*__init__.py, of the same name; rename it"),
        ("json", "json.py is hidden by .*json.__init__.py"),
        ("colorsys", "colorsys.py is hidden by .*colorsys.py"),
        ("needs", "No module named 'helper'.*name helper before needs, or make both a package"),
        ("", "expected the name of a module"),
        ("a\x1b[31m", r"'a\\x1b\[31m'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_reason(folder: Path, name: str, message: str) -> None:
    (folder / "broken.py").write_text("import os\n\nundefined\n", encoding="utf-8")
    (folder / "exits.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    (folder / "needs.py").write_text("import helper\n", encoding="utf-8")
    (folder / "package").mkdir()
    for other in ("schemes.py", "json.py", "colorsys.py", "helper.py", "package/parts.py"):
        (folder / other).touch()
    import_for_command(["my_parts"])
    with pytest.raises(SchemenetError, match=message):
        import_for_command([name])


def test_modules_are_named_alone_or_in_a_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(folder))
    import_modules("my_parts")
    assert "my_parts" in sys.modules
    for wrong in (5, None, [5]):
        with pytest.raises(SchemenetError, match="expected the name of a module"):
            import_modules(wrong)  # type: ignore[arg-type]


def test_no_other_file_of_the_folder_is_imported(folder: Path) -> None:
    (folder / "torch.py").write_text("raise ImportError('of the current folder')\n", encoding="utf-8")
    (folder / "helper.py").write_text("x = 1\n", encoding="utf-8")
    (folder / "needs.py").write_text("import helper\n", encoding="utf-8")
    import_for_command(["my_parts"])
    with pytest.raises(SchemenetError, match="helper"):
        import_modules(["needs"])
    import_modules(["helper", "needs"])


@pytest.mark.usefixtures("folder")
def test_a_module_of_the_folder_needs_the_user_to_name_it() -> None:
    with pytest.raises(SchemenetError, match="no such module"):
        import_modules(["my_parts"])
    assert "my_parts" not in static_registry("scheme")
