"""Words and yaml files that no machine survives, say a thing twice or have signs of the grammar: one message each."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_modules.cli import main
from lightning_modules.config.compose import compose
from lightning_modules.config.sweep_grid import compose_grid
from lightning_modules.config.yaml_text import read_yaml
from lightning_modules.training.trainers import MOST, processes_to_begin
from schemes.errors import SchemenetError
from schemes.schema import objection

LAUGHS = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)
FILES = {
    LAUGHS: "aliases stand for more than 100,000 values",
    "scheme: &s [rk4, *s]": "an alias stands for what contains it",
    "scheme: [rk4, heun]\nscheme: [heun]": "line 2: the key 'scheme' is given twice",
    "scheme.k: [1]\nscheme: {k: 2}": "'scheme.k' is given twice",
    "seed: " + "1" * 100_000: "a number has too many digits",
    "seed: " + "[" * 3000: "nested too deeply",
    "seed: 2020-99-99": "cannot be read as yaml: month must be",
}


@pytest.mark.parametrize(("text", "told"), FILES.items(), ids=range(len(FILES)))
def test_a_yaml_file_that_is_no_plain_list_of_values(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    with pytest.raises(SchemenetError, match=told) as caught:
        compose_grid([str(file)])
    assert "\n" not in str(caught.value)


def test_aliases_of_few_values_are_read() -> None:
    assert read_yaml("a: &a [1, 2]\nb: [*a, *a]", "x") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_a_yaml_file_of_a_config_dir_is_looked_at_first(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.yaml").write_text(LAUGHS)
    with pytest.raises(SchemenetError, match="100,000 values"):
        compose("train", ["data=mine"], str(tmp_path))
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "latin.yaml").write_bytes(b"# \xe9\nseed: 1\n")
    (tmp_path / "experiment" / "good.yaml").write_text("# @package _global_\nseed: 5\n")
    (tmp_path / "experiment" / "next.yaml").write_text("# @package _global_\ndefaults: [good, override /data: mine]\n")
    (tmp_path / "experiment" / "last.yaml").write_text("# @package _global_\ndefaults: [next]\n")
    assert compose("train", ["experiment=good"], str(tmp_path))["seed"] == 5
    for experiment, message in {"latin": "cannot be read", "next": "100,000 values", "last": "100,000 values"}.items():
        with pytest.raises(SchemenetError, match=message):
            compose("train", [f"experiment={experiment}"], str(tmp_path))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["sweep", "seed=range(100000000)"], "at most 10,000 values"),
        (["sweep", "seed=range(0,5,0)"], "a step not 0"),
        (["sweep", "seed=range(0,inf)"], "at most 10,000 values"),
        (["sweep", "seed=range(200)", "data.batch_size=range(1,200)"], "at most 10,000 runs, got 39,800"),
        (["compare", "seeds=1000000000"], "at most 10,000 seeds, got 1,000,000,000"),
        (["compare", "tune.lr=[0.1]", "tune.seeds=1000000000"], "tune.seeds: expected at most 10,000 seeds"),
        (["train", "seed=" + "1" * 100_000], "expected at most 10,000 characters"),
        (["train", "seed=" + "1" * 5000], "a number has too many digits"),
        (["train", "seed=" + "1" * 400], "which is beyond 2^63"),
        (["train", "architecture.widths=" + "[" * 3000], "50 brackets within brackets"),
        (["train", "optimizer.lr=nan"], "expected a number, got nan"),
        (["train", "scheme=rk4", "scheme=heun"], "scheme=rk4 and scheme=heun: one key is given twice"),
        (["train", "scheme=rk4", "scheme.name=heun"], "given twice"),
        (["compare", "budget=1k", "budget.target=2k"], "given twice"),
        (["compare", "networks=[]"], "networks: expected the networks to compare with the baseline"),
        (["compare", "networks=rk2,reversible"], "a list is in brackets; write networks=[rk2,reversible]"),
        (["compare", "tune.lr=0.1,0.2"], "write tune.lr=[0.1,0.2]"),
        (["train", "architecture.widths=16,32"], "write architecture.widths=[16,32]"),
        (["train", "--dryrun"], "takes no '--dryrun'; did you mean '--dry-run'"),
        (["eval", "RUN", "--imprt=x"], "did you mean '--import'"),
        (["--imprt", "x", "train"], "options come after the command"),
        (["compare", "networks=[rk2,rk2]"], "networks: 'rk2' is given twice; leave one out"),
        (["compare", "controls=[stem_only,stem_only]"], "controls: 'stem_only' is given twice"),
        (["sweep", "scheme=rk4,heun", "seed=1", "seed=2"], "seed=1 and seed=2: one key is given twice"),
        (["eval", ".", "seed=1", "seed=2"], "given twice"),
        (["sample", ".", "n=1", "n=2"], "given twice"),
        (["train", "architecture.widths=[1#2]"], """quoted, for the shell too: "architecture.widths='[1#2]'\""""),
    ],
)
def test_a_word_that_is_no_value(words: list[str], told: str, capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1
    assert len(said) < 500


PATHS = ("day=1/x.csv", "ü/Größe.csv", "it's.csv", "a#b.csv", "[a].csv", "{a}.csv", "a,b.csv", "(a) b.csv", "5", "a\\b")


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_stands(path: str) -> None:
    config = compose("train", ["data=table", f"data.file={path}", f"folder={path}", "architecture=real_nvp"])
    assert (config["data"]["file"], config["folder"]) == (path, path)


def test_a_path_in_a_sweep_is_taken_as_it_stands(tmp_path: Path) -> None:
    words = ["data=table", "data.file=day=1/ü.csv", "architecture=real_nvp", "seed=0,1"]
    _, configs = compose_grid(words)
    assert [config["data"]["file"] for config in configs.values()] == ["day=1/ü.csv"]
    folder = tmp_path / "day=1"
    folder.mkdir()
    (folder / "s.yaml").write_text("data: table\ndata.file: it's # ü\narchitecture: real_nvp\nseed: [0, 1]")
    _, configs = compose_grid([str(folder / "s.yaml")])
    assert [config["data"]["file"] for config in configs.values()] == ["it's"]


def test_numbers_that_no_tensor_holds_are_no_numbers() -> None:
    assert objection(2**62, "int") is None
    assert objection(float("inf"), "float") is None
    assert "beyond 2^63" in str(objection(2**64, "int | None"))
    assert "got nan" in str(objection(float("nan"), "float"))
    assert len(str(objection("x" * 10_000, "int"))) < 200


def trainer(*words: str) -> dict:
    return compose("train", ["trainer.accelerator=cpu", *words])["trainer"]


@pytest.mark.parametrize("key", ["devices", "num_nodes", "threads"])
def test_more_than_any_machine_has_is_refused(key: str) -> None:
    with pytest.raises(SchemenetError, match=rf"trainer.{key}: expected at most {MOST:,}, got 1,000,000,000"):
        processes_to_begin(trainer(f"trainer.{key}=1000000000"))


def test_processes_are_as_many_as_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_modules.training.trainers.cores", lambda: 1)
    assert processes_to_begin(trainer("trainer.devices=2")) == 2
    with pytest.raises(SchemenetError, match=r"64 processes for 1 CPU cores; expected at most 2, or trainer.oversub"):
        processes_to_begin(trainer("trainer.devices=64"))
    assert processes_to_begin(trainer("trainer.devices=64", "trainer.oversubscribe=true")) == 64


def test_machines_that_nobody_begins_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SchemenetError, match="2 machines would wait for each other: torchrun, srun or launcher=slurm"):
        processes_to_begin(trainer("trainer.num_nodes=2"))
    monkeypatch.setenv("NODE_RANK", "0")
    assert processes_to_begin(trainer("trainer.num_nodes=2")) == 1
