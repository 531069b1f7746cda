"""Every yaml composes and builds; every mistake is reported, all at once, in words that help."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hydra.core.object_type import ObjectType

from architectures.costs.budget import Budget, parse_amount
from architectures.factory import create_model
from lightning_modules.config.compose import CONFIGS, choices, compose
from lightning_modules.config.network_names import networks_of
from lightning_modules.config.overrides import refuse_repeated
from lightning_modules.config.registry_source import SEARCH_PATH, RegistrySource
from lightning_modules.config.resolved import ResolvedConfig
from lightning_modules.config.sections import section
from lightning_modules.config.static_registry import REGISTRIES, static_registry
from lightning_modules.training.run_folder import ExistingRun, find_same_run
from schemes.errors import SchemenetError

FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.glob("*/*.yaml"))


@pytest.mark.parametrize("group", REGISTRIES)
def test_a_registry_read_from_the_source_has_the_entries_of_the_imported_one(group: str) -> None:
    static, (_, registry) = static_registry(group), REGISTRIES[group]
    assert static.all_names() == registry.all_names()
    assert [static.entry(name) for name in registry.all_names()] == [registry.entry(n) for n in registry.all_names()]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_yaml_composes(file: Path) -> None:
    group, name = file.parent.name, file.stem
    for_compare = any(f"{key}:" in (CONFIGS / file).read_text() for key in ("networks", "budget", "seeds"))
    command = "compare" if for_compare or group == "launcher" else "train"
    config = compose(command, [f"{group}={name}"])
    assert config["optimizer"]["lr"] > 0
    assert config["trainer"]["max_epochs"] >= 1


@pytest.mark.parametrize("group", REGISTRIES)
def test_a_group_has_its_registrys_names_without_yaml_files(group: str) -> None:
    registry, source = REGISTRIES[group][1], RegistrySource("test", SEARCH_PATH)
    assert set(registry.list()) <= set(source.list(group, ObjectType.CONFIG))
    for name in registry:
        assert source.is_config(f"{group}/{name}.yaml")
        assert source.load_config(f"{group}/{name}.yaml").config == {"name": name}
    assert choices(group, aliases=False) == sorted(registry.list())
    assert not source.is_config(f"{group}/nothing.yaml")


@pytest.mark.parametrize("header", ["", "# @package _global_\n"])
def test_a_users_experiment_is_applied_as_written(header: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = f"{header}architecture: resnet20\nscheme: rk4\ntrainer: {{max_epochs: 1}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    config = compose("train", ["experiment=mine", "seed=3"], str(tmp_path))
    assert (config["scheme"], config["architecture"]) == ({"name": "rk4"}, {"name": "resnet20"})
    assert (config["trainer"]["max_epochs"], config["seed"]) == (1, 3)
    (tmp_path / "experiment" / "mine.yaml").write_text(text.replace("max_epochs", "max_epoch"))
    with pytest.raises(SchemenetError, match="did you mean 'max_epochs'"):
        compose("train", ["experiment=mine"], str(tmp_path))


def test_a_new_scheme_is_one_file(tmp_path: Path) -> None:
    """The file of the example in docs/extending.md, in a copy of the packages."""
    root = CONFIGS.parent
    for package in ("schemes", "architectures", "lightning_modules", "configs"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    example = re.search(r"```python\n# (schemes/\S+)\n(.*?)```", (root / "docs/extending.md").read_text(), re.DOTALL)
    assert example is not None
    (tmp_path / example[1]).write_text(f'"""A sixth."""\n\n{example[2]}')
    code = (
        "from lightning_modules.config.compose import compose; from schemes.registry import SCHEMES;"
        "print(compose('train', ['scheme=sixth'])['scheme'], SCHEMES.build('sixth').order)"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout.strip() == "{'name': 'sixth'} 2", ran.stderr


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "experiment").glob("*_cifar10.yaml")))
def test_papers_recipes_build(name: str) -> None:
    config = compose("train", [f"experiment={name}"])
    with torch.device("meta"):
        network = create_model(config["architecture"]["name"], **config.network_options)
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, 10)


def test_scheme_alone_swaps_the_scheme_and_the_architecture_brings_one() -> None:
    assert compose("train", ["scheme=rk2"]).complete["scheme"] == {"name": "heun"}
    assert compose("train", ["architecture=lm_resnet"]).complete["scheme"]["name"] == "linear_multistep"
    complete = compose("train", ["architecture=lm_resnet", "scheme=rk4"]).complete
    assert complete["scheme"] == {"name": "rk4"}
    # A parameter alone is for the scheme that the architecture brings.
    assert compose("train", ["architecture=lm_resnet", "scheme.k=zero"])["scheme"] == {
        "name": "linear_multistep", "k": "zero",
    }  # fmt: skip


def test_axes_of_an_experiment_are_for_its_network() -> None:
    """FFJORD's gradient mode is not asked of a network that has none; what the user asks for is not dropped."""
    assert compose("train", ["experiment=density2d", "architecture=cnf"])["gradient"] == {"name": "backprop"}
    assert compose("train", ["experiment=density2d", "architecture=real_nvp"])["gradient"] is None
    with pytest.raises(SchemenetError, match="'real_nvp' takes no gradient"):
        compose("train", ["experiment=density2d", "architecture=real_nvp", "gradient=backprop"])


def test_described_config_is_complete_and_stable() -> None:
    config = compose("train", ["architecture=resnet20"]).complete
    assert config["architecture"]["depth"] == 20
    assert config["scheme"] == {"name": "forward_euler"}
    assert config["grid"] == {"name": "uniform", "steps": None, "time": None}
    assert ResolvedConfig(config).complete == config


def test_a_resolved_config_does_not_change() -> None:
    config = compose("train", ["scheme=rk4"])
    config["trainer"]["max_epochs"] = 99
    config.complete["trainer"]["max_epochs"] = 99
    assert config["trainer"]["max_epochs"] != 99 != config.complete["trainer"]["max_epochs"]
    other = config.replace(seed=7)
    assert (other["seed"], config["seed"]) == (7, 0)
    assert other.recipe_hash == config.recipe_hash != config.replace(sharing="shared").recipe_hash


STORED = """{"architecture": {"depth": 20, "stem": "3x3", "widths": [16, 32, 64], "width": 1.0, "inner": 1.0,
"activation": "pre", "transition": "D", "history": "shortcut", "norm": "batch", "statistics": "per_node",
"released_dead_weights": false, "name": "lm_resnet20"}, "data": {"batch_size": 128, "limit_train": null,
"limit_test": null, "validation": null, "augment": false, "name": "digits"}, "trainer": {"max_epochs": 2,
"accelerator": "auto", "devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": false,
"precision": "32-true", "gradient_clip_val": null, "accumulate_grad_batches": 1, "deterministic": false,
"limit_train_batches": null, "limit_test_batches": null, "overfit_batches": 0, "log_every_n_steps": 10,
"check_test_every_n_epoch": 1, "checkpoint_every_n_steps": 500, "progress_bar": null, "threads": null,
"oversubscribe": false, "compile": false, "channels_last": false, "ema": null, "name": "default"}, "optimizer":
{"lr": 0.1, "momentum": 0.9, "nesterov": false, "weight_decay": 0.0001, "schedule": "step", "milestones": [0.5, 0.75],
"gamma": 0.1, "warmup_steps": 0, "name": "sgd"}, "logger": {"name": "csv"}, "seed": 0, "sharing": null, "folder": null,
"overwrite": false, "start_from": null, "scheme": {"k": "zero", "scale": false, "name": "linear_multistep"},
"field": {"activation": "relu", "name": "basic"}, "grid": {"steps": null, "time": null, "name": "uniform"},
"gradient": {"name": "backprop"}, "noise": {"name": "none"}}"""
"""The config.json of a run from before resolved configs were objects; its result.json had the recipe f2744b20."""


def test_recipe_hashes_stay_what_old_runs_have(tmp_path: Path) -> None:
    assert ResolvedConfig(json.loads(STORED)).recipe_hash == "f2744b20"
    words = ["architecture=lm_resnet20", "scheme.k=zero", "logger=csv"]
    assert compose("train", words).recipe_hash == "f2744b20"
    stored = json.loads(STORED)
    stored["trainer"] |= {"keep_pages": False}  # a key since then
    assert json.loads(json.dumps(compose("train", words).complete)) == stored
    assert compose("train", ["experiment=spheres_flow"]).recipe_hash == "9f632442"
    assert compose("train", ["scheme=backward_euler"]).recipe_hash == "e7f2b828"
    (tmp_path / "result.json").write_text('{"recipe": "f2744b20", "seed": 0, "status": "done"}')
    assert find_same_run(compose("train", words), tmp_path) == ExistingRun("f2744b20", 0, finished=True)


MISTAKES = {
    "a misspelt scheme": (
        ["scheme=forwrd_euler"],
        ["no scheme 'forwrd_euler'", "did you mean 'forward_euler'"],
    ),
    "half a scheme's name": (["scheme=eluer"], ["'eluer'", "'forward_euler'", "'backward_euler'"]),
    "a misspelt group": (["schem=rk4"], ["no key 'schem'", "did you mean 'scheme'"]),
    "a misspelt key": (["trainer.max_epoch=2"], ["takes no 'max_epoch'", "did you mean 'max_epochs'"]),
    "a key of another network": (
        ["architecture.columns=3"],
        ["'resnet' takes no 'columns'", "it takes: depth"],
    ),
    "a wrong type": (["data.batch_size=abc"], ["data.batch_size: expected a whole number, got 'abc'"]),
    "a number for a word": (
        ["architecture.norm=3"],
        ["architecture.norm: expected one of 'batch', 'group', 'none', got 3"],
    ),
    "a wrong seed": (["seed=1.5"], ["seed: expected a whole number, got 1.5"]),
    "an axis inside": (["architecture.scheme=rk4"], ["write scheme=..."]),
    "an axis not taken": (
        ["architecture=fractalnet", "scheme=rk4"],
        ["'fractalnet' takes no scheme", "resnet"],
    ),
    "no key at all": (["rk4"], ["cannot read 'rk4'", "expected key=value"]),
    "a sweep": (["scheme=rk4,heun"], ["schemenet sweep"]),
    "a mapping for a word": (["scheme={nam: rk4}"], ["scheme: expected one name"]),
    "a dot too much": (["seed.value=1"], ["seed"]),
    "a key of another command": (["budget=3M"], ["budget", "schemenet compare"]),
    "an unknown experiment": (["experiment=mnist_wrds"], ["no experiment 'mnist_wrds'", "'mnist_words'"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_names_value_expectation_and_the_nearest(case: str) -> None:
    overrides, texts = MISTAKES[case]
    with pytest.raises(SchemenetError) as caught:
        compose("train", overrides)
    for text in texts:
        assert text in str(caught.value)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(SchemenetError) as caught:
        compose("train", [item for overrides, _ in list(MISTAKES.values())[:8] for item in overrides])
    message = str(caught.value)
    # Overrides of one key: the last one counts, as everywhere.
    for text in ("'eluer'", "'schem'", "'max_epoch'", "'columns'", "'abc'", "got 3", "got 1.5"):
        assert text in message


def test_compare_checks_words_budget_and_arms() -> None:
    with pytest.raises(SchemenetError) as caught:
        compose(
            "compare",
            [
                "networks=[forwrd_euler,rk4,rk5:resnet]",
                "controls=[stem]",
                "budget=abc",
                "arms.odnet.steps=3",
                "scheme=heun",
            ],
        )
    message = str(caught.value)
    for text in (
        "'forward_euler'",
        "rk4:resnet",
        "'rk5'",
        "'stem_only'",
        "'abc'",
        "no arm 'odnet'",
        "networks=[...]",
    ):
        assert text in message
    with pytest.raises(SchemenetError, match=r"'stepz'.*did you mean 'steps'"):
        compose("compare", ["arms.ode_resnet.stepz=3"])


def test_words_is_the_old_name_of_networks(tmp_path: Path) -> None:
    assert compose("compare", ["words=[rk2,resnet]"]) == compose("compare", ["networks=[rk2,resnet]"])
    assert compose("compare", ["words=rk2"])["networks"] == ["rk2"]
    with pytest.raises(SchemenetError, match="words and networks are one key; leave words out"):
        compose("compare", ["words=[rk2]", "networks=[resnet]"])
    with pytest.raises(SchemenetError, match="one key is given twice"):
        refuse_repeated(["words=[rk2]", "networks=[resnet]"])
    with pytest.raises(SchemenetError, match="a key of `schemenet compare`"):
        compose("train", ["words=[rk2]"])
    experiment = tmp_path / "experiment" / "mine.yaml"
    experiment.parent.mkdir()
    experiment.write_text("# @package _global_\nwords: [rk2, resnet]\n")
    assert compose("compare", ["experiment=mine"], str(tmp_path))["networks"] == ["rk2", "resnet"]
    experiment.write_text("# @package _global_\nwords: [rk2]\nnetworks: [resnet]\n")
    with pytest.raises(SchemenetError, match="words and networks are one key; leave words out"):
        compose("compare", ["experiment=mine"], str(tmp_path))


def test_words_of_the_user_leave_out_what_an_experiment_says_of_other_arms() -> None:
    overrides = ["experiment=density_digits", "networks=[real_nvp,cnf]"]
    assert compose("compare", overrides)["arms"] == {"cnf": {"gradient": "backprop"}}
    with pytest.raises(SchemenetError, match="no arm 'ffjord'"):
        compose("compare", [*overrides, "arms.ffjord.hidden=8"])


def test_words_mean_the_networks_they_are_known_as() -> None:
    assert [c.arm for c in networks_of("rk2")] == ["fractalnet", "rk_resnet"]
    assert networks_of("reversible") == [("reversible", "revnet", None)]
    assert [c.arm for c in networks_of("ode_net")] == ["ode_resnet"]
    assert networks_of("rk2:resnet")[0].scheme == "heun"
    assert networks_of("resnet20")[0].architecture == "resnet20"


@pytest.mark.parametrize(
    ("overrides", "budget"),
    [
        (["budget=0.22M"], ("parameters", 220_000.0, "width", 0.01)),
        (["experiment=demo", "budget.by=depth"], ("parameters", 40_000.0, "depth", 0.01)),
        (["budget={kind: macs, target: 25M}", "budget.tolerance=0.02"], ("macs", 25e6, "width", 0.02)),
        (
            ["experiment=demo", "budget.kind=step_time", "budget.target=baseline"],
            ("step_time", "baseline", "width", 0.1),
        ),
    ],
)
def test_a_budget_in_every_form(overrides: list[str], budget: tuple[object, ...]) -> None:
    assert section("budget", compose("compare", overrides)["budget"]) == Budget(*budget)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget.kind=flops", "budget.target=1M"], "budget.kind: .*did you mean 'train_flops'"),
        (["budget.kind=macs"], "budget.target: expected baseline or a number"),
        (["budget.kindd=macs"], "budget takes no 'kindd'; did you mean 'kind'"),
        (["tolerance=0.05"], r"budget\.tolerance=\.\.\."),
        (["budget=few", "tune.lr=[0.1,-1]"], r"(?s)budget\.target: .*'few'.*tune\.lr: .*-1"),
        (["tune=3"], "tune: expected a mapping or null, got 3"),
        (["tune.lr=[0.1]", "tune.seeds=[0,7]"], r"tune\.seeds: 0 would be tuned on and compared"),
        (["data.validation=0.1"], r"tune\.validation"),
    ],
)
def test_mistakes_in_budget_and_tuning_are_reported_before_torch_is_needed(overrides: list[str], message: str) -> None:
    with pytest.raises(SchemenetError, match=message):
        compose("compare", overrides)


@pytest.mark.parametrize(("text", "number"), [("0.22M", 220_000), ("40k", 40_000), (220_000, 220_000), ("1e6", 10**6)])
def test_budget(text: str | int, number: int) -> None:
    assert parse_amount(text) == number


def test_yaml_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    assert compose("train", ["experiment=mine"], str(tmp_path))["seed"] == 7
    with pytest.raises(SchemenetError, match="no folder"):
        compose("train", [], str(tmp_path / "nowhere"))


def test_yaml_of_groups_of_the_user(tmp_path: Path) -> None:
    """A name of the user's own, an experiment that overrides groups, and a registered name, which stays what it is."""
    for group in ("experiment", "scheme"):
        (tmp_path / group).mkdir()
    (tmp_path / "scheme" / "mine.yaml").write_text("name: linear_multistep\nk: 0.5\n")
    (tmp_path / "scheme" / "rk4.yaml").write_text("name: heun\n")
    (tmp_path / "experiment" / "deep.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /architecture: resnet56\n  - override /scheme: mine\n"
    )
    folder = str(tmp_path)
    assert compose("train", ["scheme=mine"], folder)["scheme"] == {"name": "linear_multistep", "k": 0.5}
    assert compose("train", ["scheme=rk4"], folder)["scheme"] == {"name": "rk4"}
    config = compose("train", ["experiment=deep"], folder)
    assert (config["architecture"]["name"], config["scheme"]["k"]) == ("resnet56", 0.5)
    assert "mine" in choices("scheme", folder, aliases=False)
    (tmp_path / "experiment" / "deep.yaml").write_text("# @package _global_\ndefaults:\n  - override /scheme: eluer\n")
    with pytest.raises(SchemenetError, match="Could not find 'scheme/eluer'"):
        compose("train", ["experiment=deep"], folder)


def test_a_broken_yaml_is_reported(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntrainer:\n  max_epoks: 7\nsead: 1\n")
    with pytest.raises(SchemenetError) as caught:
        compose("train", ["experiment=mine"], str(tmp_path))
    assert "did you mean 'max_epochs'" in str(caught.value)
    assert "did you mean 'seed'" in str(caught.value)


def test_threads_compose_at_once() -> None:
    """Hydra has one state for all of them."""
    with ThreadPoolExecutor(3) as threads:
        configs = list(threads.map(lambda seed: compose("train", ["data=digits", f"seed={seed}"]), range(3)))
    assert [config["seed"] for config in configs] == [0, 1, 2]
