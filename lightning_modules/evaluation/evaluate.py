"""The command ``eval``: tests a trained network from its checkpoint, also under another scheme or grid.

With shared weights the trained vector field does not depend on the rule that integrates it, and can be stepped by
another scheme, or more finely. The running statistics of batch norm belong to the nodes that were visited in training:
those of the new nodes, and of all layers after them, are estimated again on training data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from architectures.arguments import name_of
from architectures.model import Model
from architectures.supervised.network import Network
from lightning_modules.callbacks.solver_cost import SolverCostLogger
from lightning_modules.config.compose import override_for_eval
from lightning_modules.config.overrides import written
from lightning_modules.config.registries import DATA, TRAINERS
from lightning_modules.config.resolved import ResolvedConfig, dotted
from lightning_modules.config.validate import Config
from lightning_modules.data.datamodule import SplitData
from lightning_modules.metrics import MEASURES, Measure, measure_of, task_of
from lightning_modules.storage.atomic_files import read_json, write_json
from lightning_modules.storage.run_files import BEST_CHECKPOINT, RESULT
from lightning_modules.tasks.base import TaskModule
from lightning_modules.training.batch_statistics import estimate_statistics
from lightning_modules.training.loading import load_run
from lightning_modules.training.run_folder import versions
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.ivp.trajectory_flow import TrajectoryFlow


def evaluate(place: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Test the network of a run as it was trained, and as overrides change it.

    Args:
        place: a run folder or a checkpoint.
        overrides: words of the command line, of the keys that ``override_for_eval`` permits.

    Returns:
        The result, which is also written as ``eval-*.json`` in the folder of the checkpoint: ``trained`` is the network
        with its stored statistics; ``changed`` the same weights under another scheme or grid, where there is one.

    Raises:
        SchemenetError: where the checkpoint cannot be read, or its weights do not fit the overrides.
    """
    run = load_run(place, Model)
    stored, trained, path = run.config, run.module, run.path
    complete = ResolvedConfig(override_for_eval(stored, overrides)).complete
    config = ResolvedConfig(_with_tolerances(complete, stored))
    changed = None
    if any(config.get(axis) != stored.get(axis) for axis in ("scheme", "grid")):
        _refuse_fixed(trained.network, config)
        changed = _restepped(trained, config)
    # Without a validation split, whatever training had: eval reads the test set.
    data = DATA.build({**config["data"], "validation": None}, seed=config["seed"])
    data.check()
    task, trained_for = (task_of(of["data"]["name"]) for of in (config, stored))
    if task != trained_for:
        raise SchemenetError(
            f"data {config['data']['name']!r} is for {task}; the network was trained for {trained_for}"
        )
    if (context := data.context) != (expected := dict(trained.hparams["data"])):
        raise SchemenetError(f"data {config['data']['name']!r} has {context}; the network was trained for {expected}")
    trainer = TRAINERS.build(
        {**config["trainer"], **ONE_DEVICE}, folder=path.parent, callbacks=[SolverCostLogger()], logger=False
    )

    measure = measure_of(config["data"]["name"])
    result: dict[str, Any] = {
        "checkpoint": path.name,
        "measure": measure.key,
        "architecture": trained.hparams["architecture"],
        "data": config["data"]["name"],
        "trained": _described_steps(trained.network, stored) | test_metrics(trainer, trained, data),
    }
    revised, before = (dict(dotted({key: of[key] for key in ("data", "trainer")})) for of in (config, stored))
    if revised == before:
        result["reported"] = _reported(path.parent, trained)
    else:
        result["unlike_training"] = {
            key: revised[key] for key in before if before[key] != revised.get(key, before[key])
        }
    if (plain := run.unaveraged()) is not None:
        result["not_averaged"] = test_metrics(trainer, plain, data)
    if changed is not None:
        statistics = estimate_statistics(changed, trainer, data, config["statistics_batches"])
        result["changed"] = _described_steps(changed.network, config) | test_metrics(trainer, changed, data)
        result["changed"]["statistics"] = statistics
        before, after = (result[key][f"test_{measure.key}"] for key in ("trained", "changed"))
        result["change_in_points"] = None if None in (before, after) else measure.scale * (after - before)
    result["versions"] = versions()
    of_file = "best-" if path.name == BEST_CHECKPOINT else ""  # beside the one of the last weights
    name = f"eval-{of_file}{name_of(config.get('scheme') or 'none')}-{config.recipe_hash}.json"
    result["file"] = _write(path.parent / name, result)
    return result


TOLERANCES = ("rtol", "atol")
ONE_DEVICE = {"devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": False}
"""The trainer's options of an evaluation, however many devices trained."""


def _with_tolerances(config: Config, stored: Config) -> Config:
    """The config in which a tolerance of the overrides replaces the one that training used for evaluation."""
    grid, before = config.get("grid") or {}, stored.get("grid") or {}
    replaced = [f"eval_{key}" for key in TOLERANCES if grid.get(key) != before.get(key)]
    replaced = [key for key in replaced if grid.get(key) == before.get(key)]
    return (
        {**config, "grid": {key: value for key, value in grid.items() if key not in replaced}} if replaced else config
    )


def _refuse_fixed(network: Model, config: ResolvedConfig) -> None:
    """Raise SchemenetError for a network whose weights belong to single steps."""
    name = config["architecture"]["name"]
    if not network.flows:
        raise SchemenetError(f"architecture {name!r} has no flow, and so no scheme or grid to change")
    if not isinstance(network.flows[0], Flow):
        return  # one field serves at all times
    if (statistics := network.flows[0].statistics) == "per_node_affine":
        raise SchemenetError(
            f"this network was trained with statistics={statistics}: its norms have weights of their own at each node, "
            "and there are none for the nodes of another scheme or grid; train with statistics=per_node"
        )
    if (sharing := network.flows[0].sharing).of_steps:
        owner = "stage of a step" if sharing.of_stages else "step"
        raise SchemenetError(
            f"this network was trained with sharing={sharing.name}: each {owner} has weights of its own, and under "
            "another scheme or grid there are none for its nodes; train one whose weights serve at all times, by "
            "sharing=shared, sharing=basis or architecture=odenet, or evaluate this one as it is, without scheme=... "
            "and grid=..."
        )


def _restepped(trained: TaskModule[Model], config: ResolvedConfig) -> TaskModule[Model] | None:
    """The same weights under another scheme or grid; None where its nodes are those of the training."""
    options = {**trained.hparams["options"], "scheme": config["scheme"], "grid": config["grid"]}
    options |= {"gradient": "backprop"}  # nothing is differentiated here
    if isinstance(trained.network, Network):
        options = {"sharing": "shared", **options}
    data, optimizer = trained.hparams["data"], trained.hparams["optimizer"]
    module = type(trained)(trained.hparams["architecture"], options, data, optimizer)
    pairs = list(zip(trained.network.flows, module.network.flows, strict=True))
    if not isinstance(module.network, Network):
        for old, new in pairs:
            _refuse_unlike(old, new)
        module.load_state_dict(trained.state_dict())
        return module
    same_scheme = config["scheme"] == trained.hparams["config"]["scheme"]
    if same_scheme and all(old.nodes == new.nodes and not new.adaptive for old, new in pairs):
        return None
    for old, new in pairs:
        _refuse_unlike(old, new)
    inside = tuple(f"{name}." for name, part in module.network.named_modules() if isinstance(part, Flow))
    outer = {name: t for name, t in trained.network.state_dict().items() if not name.startswith(inside)}
    module.network.load_state_dict(outer, strict=False)
    for old, new in pairs:
        for key, field in new.bank.groups.items():
            field.load_state_dict(old.bank.groups[key].state_dict())
    return module


def _refuse_unlike(old: Flow | TrajectoryFlow, new: Flow | TrajectoryFlow) -> None:
    before, after = (type(flow.scheme).__name__ for flow in (old, new))
    if old.scheme.components != new.scheme.components:
        raise SchemenetError(
            f"{after} and {before}, by which the network was trained, differ in the parts of a coupled state "
            f"({new.scheme.components} and {old.scheme.components}), and each part has weights of its own; choose a "
            "scheme with as many"
        )
    for name, scheme in ((before, old.scheme), (after, new.scheme)):
        if next(scheme.parameters(), None) is not None:
            raise SchemenetError(
                f"{name} has trained coefficients, one for each step: they exist for the steps and the scheme of the "
                "training alone; train with a fixed one (for linear_multistep scheme.k=0.5) to change steps afterwards"
            )


def test_metrics(trainer: pl.Trainer, module: TaskModule[Model], data: SplitData) -> dict[str, Any]:
    """The metrics of the test set after a training epoch; evaluations of f in a batch where batches differ."""
    measured = trainer.validate(module, datamodule=data, verbose=False)[0]
    values = {f"test_{key}": v if math.isfinite(v := measured[f"test/{key}"]) else None for key in module.names}
    return values | ({"nfe": measured["test/nfe"]} if "test/nfe" in measured else {})


def _described_steps(network: Model, config: Mapping[str, Any]) -> dict[str, Any]:
    """Number and size of the steps of each flow, or the tolerances that decide them, and the end times."""
    flows = network.flows
    along = not any(isinstance(flow, Flow) for flow in flows)  # whose end times are those of the data
    steps = {"scheme": config.get("scheme"), "time": [] if along else [flow.time for flow in flows]}
    if adaptive := [flow.grid for flow in flows if flow.adaptive]:  # an encoder's flow comes before the one of ``grid``
        return steps | dict(zip(TOLERANCES, adaptive[-1].tolerances(training=False), strict=True))
    if along:
        return steps | ({"steps": [flow.grid.steps for flow in flows]} if flows else {})
    return steps | {"steps": [len(flow.nodes) for flow in flows], "h": [flow.nodes[0].h for flow in flows]}


def _reported(folder: Path, module: TaskModule[Model]) -> dict[str, Any] | None:
    """The test metrics in the run's result.json; None where there is none in the checkpoint's folder."""
    try:
        result = read_json(folder / RESULT)
        keys = [f"test_{name}" for name in module.names]
        measured = {key: None if result[key] is None else float(result[key]) for key in keys}
        validated = any(result.get(f"validation_{name}") is not None for name in module.names)
        return None if validated else measured
    except (ValueError, TypeError, KeyError):
        return None


def _write(path: Path, result: dict[str, Any]) -> str | None:
    """The path of the written result; None, with a message, where it cannot be written."""
    try:
        write_json(path, result)
    except SchemenetError as error:
        print(error)
        return None
    return str(path)


def describe(result: dict[str, Any]) -> str:
    """The result as the lines that the command prints."""
    trained, changed, measure = result["trained"], result.get("changed"), MEASURES[result["measure"]]
    numbers = functools.partial(in_words, measure)
    changes = ", ".join(f"{key}={written(value)}" for key, value in result.get("unlike_training", {}).items())
    how = f"with {changes}, unlike in training" if changes else "as trained"
    lines = [f"{result['architecture']} on {result['data']} {how}, {_steps(trained)}: {numbers(trained)}"]
    if (reported := result.get("reported")) is not None:
        same = numbers(reported) == numbers({key: trained[key] for key in reported})
        lines[0] += f"; {RESULT} says {'the same' if same else numbers(reported)}"
    if (plain := result.get("not_averaged")) is not None:
        lines.append(f"these weights are an average over the training; the last ones, not averaged: {numbers(plain)}")
    if changed is not None:
        lines += _describe_change(trained, changed)
        lines.append(f"the same weights, {_steps(changed)}: {numbers(changed)}")
        lines.append(_difference(result["change_in_points"], measure))
    return "\n".join([*lines, f"written: {result['file']}"] if result["file"] else lines)


def _difference(points: float | None, measure: Measure) -> str:
    if points is None:
        return "no change can be told"
    unit = "percentage points" if measure.unit == "%" else measure.points
    return f"change in test {measure.words}: {points:+.{measure.digits}f} {unit}".rstrip()


def _describe_change(trained: dict[str, Any], changed: dict[str, Any]) -> list[str]:
    lines = []
    if (done := changed["statistics"]) is not None:
        lines.append(
            f"running statistics of all {done['layers']} batch norms re-estimated for the new nodes, "
            f"on {done['batches']} training batches of {done['batch_size']}"
        )
    else:
        lines.append("no batch norm: there were no statistics to re-estimate")
    if trained["time"] != changed["time"]:
        lines.append(
            f"the flows now integrate to T = {_list(changed['time'])} where they were trained to T = "
            f"{_list(trained['time'])}"
            + (f"; grid.time={_list(trained['time'])} keeps it" if len(set(trained["time"])) == 1 else "")
        )
    return lines


def _steps(described_steps: dict[str, Any]) -> str:
    scheme = name_of(described_steps["scheme"] or "its own scheme")
    if "rtol" in described_steps:
        return f"{scheme}, steps by " + ", ".join(f"{key} {described_steps[key]:g}" for key in TOLERANCES)
    if "steps" not in described_steps or not described_steps["steps"]:
        return "no steps"
    sizes = f" of h = {_list(described_steps['h'])}" if "h" in described_steps else ""
    steps = _list(described_steps["steps"])
    return f"{scheme}, {steps} step{'' if steps == '1' else 's'}{sizes}"


def _list(values: Sequence[float]) -> str:
    """Numbers separated by slashes, or one number if all are equal."""
    distinct = values[:1] if len(set(values)) == 1 else values
    return "/".join(f"{value:g}" for value in distinct)


def in_words(measure: Measure, measured: dict[str, Any]) -> str:
    """Test metrics as text, the measure of the data set first."""
    values = {key.removeprefix("test_"): value for key, value in measured.items() if key.startswith("test_")}
    if values[measure.key] is None:
        return f"test {measure.words} no number"
    parts = [f"test {measure.words} {measure.format(values.pop(measure.key))}"]
    for key, value in values.items():
        if value is None:  # nothing to be measured by it
            continue
        other = MEASURES.get(key)
        parts.append(
            f"test {other.words} {other.format(value)}" if other else f"test {key.replace('_', ' ')} {value:.4f}"
        )
    if "nfe" in measured:
        parts.append(f"{measured['nfe']:.4g} evaluations of f a batch")
    return ", ".join(parts)
