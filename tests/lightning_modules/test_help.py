"""Help, lists and completion: what the command says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_modules import help
from lightning_modules.cli import COMMANDS, main
from lightning_modules.config.compose import CONFIGS, compose
from lightning_modules.config.static_registry import NO_GROUPS, REGISTRIES, static_registry
from lightning_modules.config.validate import KEYS
from schemes.registry import SCHEMES


def test_every_command_and_every_key_is_described() -> None:
    assert set(help.COMMANDS) == set(COMMANDS) - {"plot"}
    assert set(help.KEY_HELP) == {key for keys in KEYS.values() for key in keys}


@pytest.mark.parametrize("command", help.COMMANDS)
def test_a_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert command in text.splitlines()[0]
    for key in KEYS.get(command, ()):
        assert key in text


@pytest.mark.parametrize(
    "words",
    ["--help", *(f"{name} --help" for name in help.COMMANDS), "schemes heun", "models resnet20", "list data mnist"],
)
def test_help_fits_the_terminal(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(words.split()) == 0
    narrow = capsys.readouterr().out
    assert max(map(len, narrow.splitlines())) <= 60, narrow


def test_help_lists_the_options_of_what_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "scheme=linear_multistep", "trainer=default", "--help"]) == 0
    text = capsys.readouterr().out
    assert "scheme.k" in text
    assert "trainer.max_epochs" in text
    assert "of the training" in text  # what it means
    assert main(["compare", "budget=1M", "--help"]) == 0
    assert "budget.tolerance" in capsys.readouterr().out


def test_help_and_lists_import_no_torch() -> None:
    code = (
        "import sys; from lightning_modules.cli import main;"
        "words = ('--help', 'train scheme=rk4 --help', 'list data', 'complete train scheme=');"
        "[main(word.split()) for word in words];"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize("group", [*REGISTRIES, *NO_GROUPS])
def test_a_group_is_listed_with_a_line_for_each_name(group: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    names = static_registry(group)
    lines = help.list_names([group]).splitlines()[2:]
    assert {line.split()[0] for line in lines} >= {entry.name for entry in names.families()}
    assert all(len(line.split()) > 2 for line in lines), "each is described"
    for entry in names.families():
        text = help.list_names([group, entry.name])
        assert all(key in text for key in names.options(entry.name))


def test_experiments_are_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "odenet_mnist" in help.list_names(["experiments"])
    assert "trainer:" in help.list_names(["experiment", "demo"])
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n# What I try. And more.\nseed: 3\n# 4\n")
    listed = help.list_names(["experiments"], str(tmp_path)).splitlines()
    assert listed[-1].split(maxsplit=1) == [
        "trajectories_moons",
        "A flow of the plane itself that takes two moons apart",
    ]
    assert ["mine", "What I try"] in [line.split(maxsplit=1) for line in listed]
    for path in (CONFIGS / "experiment").glob("*.yaml"):  # each begins with a sentence that is listed as a whole
        sentence = path.read_text().splitlines()[1].removeprefix("# ")
        assert [path.stem, sentence.removesuffix(".")] in [line.split(maxsplit=1) for line in listed]
        assert len(sentence) <= 80
    assert main(["list", "experiments", "mine", "--config-dir", str(tmp_path)]) == 0
    assert "seed: 3" in capsys.readouterr().out
    (tmp_path / "experiment" / "latin.yaml").write_bytes(b"# \xe9tude\nseed: 4\n")  # not UTF-8: no reason to stop
    assert "\N{REPLACEMENT CHARACTER}tude" in help.list_names(["experiments"], str(tmp_path))
    assert "seed: 4" in help.list_names(["experiments", "latin"], str(tmp_path))
    for wrong, near in ((["dta"], "'data'"), (["data", "mnst"], "'mnist'"), (["data", "a", "b"], "at most one")):
        assert main(["list", *wrong]) == 2
        assert near in capsys.readouterr().err


def test_the_config_is_printed_and_nothing_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["scheme=rk4", "trainer.max_epochs=3", f"folder={tmp_path / 'run'}"]
    assert main(["train", *words, "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == _plain(compose("train", words).complete)
    assert main(["compare", "seeds=5", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["seeds"] == 5
    assert main(["sweep", "scheme=heun,rk4", "--print-config"]) == 0
    assert set(yaml.safe_load(capsys.readouterr().out)) == {"heun", "rk4"}
    assert list(tmp_path.iterdir()) == []


def _plain(value: object) -> object:
    """As yaml gives it back: without tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_a_dry_run_says_sizes_and_costs_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "architecture.depth=8", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("resnet", "parameters", "MACs", "bytes kept"))
    assert main(["compare", "networks=[heun:resnet]", "controls=[]", "budget=30k", "seeds=2", "--dry-run"]) == 0
    assert "2 seeds, budget 30,000" in capsys.readouterr().out
    assert main(["sweep", "scheme=heun,rk4", "architecture.depth=8", "--dry-run"]) == 0
    assert "heun" in capsys.readouterr().out
    assert main(["train", "architecture.depth=21", "--dry-run"]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tr"], ["train"]),
        (["train", "sch"], ["scheme=", "scheme."]),
        (["train", "scheme=kv"], ["scheme=kvaerno3", "scheme=kvaerno5"]),
        (["train", "data=moons", "data.n"], ["data.noise="]),
        (["train", "architecture.dep"], ["architecture.depth="]),
        (["compare", "see"], ["seed=", "seeds="]),
        (["compare", "--dr"], ["--dry-run"]),
        (["compare", "networks=[heun,rk_"], ["networks=[heun,rk_resnet"]),
        (["compare", "baseline=ro"], []),
        (["compare", "baseline=kv"], ["baseline=kvaerno3", "baseline=kvaerno5"]),
        (["list", "exp"], ["experiments"]),
        (["list", "optimizers", "s"], ["sgd"]),
        (["schemes", "rk3"], ["rk3", "rk38"]),
        (["completion", "z"], ["zsh"]),
        (["no_such", "x"], []),
        (["train", "no_such=x"], []),
    ],
)
def test_words_are_completed(words: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", *words]) == 0
    assert capsys.readouterr().out.split() == expected


def test_bash_completes_by_its_script(tmp_path: Path) -> None:
    command = tmp_path / "schemenet"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lightning_modules "$@"\n')
    command.chmod(0o755)
    script = (
        f"PATH={tmp_path}:$PATH; source <(schemenet completion bash);"
        "COMP_WORDS=(schemenet train scheme=kv); COMP_CWORD=2; _schemenet 2>/dev/null; echo ${COMPREPLY[@]}"
    )
    output = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["scheme=kvaerno3", "scheme=kvaerno5"]
    assert main(["completion", "tcsh"]) == 2


def test_options_of_a_scheme_stand_below_its_equation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schemes", "backward_euler"]) == 0
    text = capsys.readouterr().out
    assert all(f"scheme.{key}" in text for key in SCHEMES.options("backward_euler"))
    assert "substeps" in text
