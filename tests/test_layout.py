"""Who may import whom, and what stays light."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ("schemes", "architectures", "lightning_modules", "configs", "schemenet")
ROOMS: dict[str, tuple[str, ...]] = {
    "schemes": (
        "errors schema", "plugins", "registry", "core", "nonlinear sharing", "field_bank", "methods",
        "integration noise", "flow", "gradients", "ivp", "analysis", "control",
    ),
    "architectures": (
        "model registry", "layers observations supervised_model", "plain_network", "arguments standardizer", "fields",
        "supervised series dynamics density", "factory", "costs timm_models",
    ),
    "lightning_modules": (
        "machine text", "storage", "config stopping", "data", "tasks metrics", "callbacks", "loggers",
        "training", "launching", "evaluation", "plotting", "comparing", "commands help", "cli",
    ),
}  # fmt: skip
"""The folders and files of a package from the ground up: each imports from those before it, none from its own line."""

SHIPPED = {".j2", ".css", ".js"}

RIVALS = {"torchdiffeq", "torchode", "torchdyn", "memcnn", "revlib", "diffrax", "jax", "revtorch"}


def imported(path: Path) -> set[str]:
    """Top-level names of all imports in a file, those inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way(package: str) -> None:
    above = set(ORDER[ORDER.index(package) + 1 :])
    for path in (ROOT / package).rglob("*.py"):
        names = imported(path)
        assert not names & above, f"{path} looks up to {names & above}"
        assert not names & RIVALS, f"{path} imports a rival"
        if package == "schemes":
            assert not names & {"pytorch_lightning", "hydra", "omegaconf", "timm", "torchvision"}
        if package == "architectures":
            assert not names & {"pytorch_lightning", "hydra", "omegaconf"}


def imports(package: str) -> dict[str, set[str]]:
    """For each module of a package the modules of the same package that it imports, also inside functions."""
    paths = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / package).rglob("*.py")}
    found: dict[str, set[str]] = {}
    for name, path in paths.items():
        if path.name in ("__init__.py", "__main__.py"):
            continue
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[name] = names & paths.keys() - {name}
    return found


@pytest.mark.parametrize("package", ROOMS)
def test_each_folder_stands_on_those_below(package: str) -> None:
    floor = {room: i for i, rooms in enumerate(ROOMS[package]) for room in rooms.split()}
    for name, others in imports(package).items():
        room = name.split(".")[1]
        assert room in floor, f"{name} is in no room of the layout"
        for other in others:
            assert other.split(".")[1] == room or floor[other.split(".")[1]] < floor[room], f"{name} imports {other}"


@pytest.mark.parametrize("package", ROOMS)
def test_no_modules_import_each_other(package: str) -> None:
    graph = imports(package)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
    folders = {name.rpartition(".")[0] for name in graph}
    for folder in folders:  # neither do the folders in a folder
        between: dict[str, set[str]] = {}
        for name, others in graph.items():
            if name.startswith(f"{folder}."):
                room = name[len(folder) + 1 :].split(".")[0]
                inside = {other[len(folder) + 1 :].split(".")[0] for other in others if other.startswith(f"{folder}.")}
                between.setdefault(room, set()).update(inside - {room})
        graphlib.TopologicalSorter(between).prepare()


@pytest.mark.parametrize(
    "module",
    [
        "schemes.registry",
        "architectures.registry",
        "lightning_modules.config.compose",
        "lightning_modules.config.network_names",
    ],
)
def test_what_is_checked_before_torch_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_wheel_ships_the_packages_with_their_yaml_and_no_tests(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    yamls = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    templates = {str(p.relative_to(ROOT)) for p in (ROOT / "lightning_modules").rglob("*.*") if p.suffix in SHIPPED}
    assert {Path(name).suffix for name in templates} == SHIPPED
    assert yamls | templates | {f"{package}/py.typed" for package in ORDER if package != "configs"} <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(ORDER)
    # The wheel alone, outside the clone, composes and checks a config.
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import configs, pathlib; assert 'site' in configs.__file__;"
        "from lightning_modules.config.compose import compose; print(compose('train', ['scheme=rk4'])['scheme'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout.strip() == "{'name': 'rk4'}", ran.stderr
