"""Who may import whom, and what stays light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = ("schemes", "architectures", "lightning_modules", "configs")
RIVALS = {"torchdiffeq", "torchode", "torchdyn", "memcnn", "diffrax", "revtorch"}


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


@pytest.mark.parametrize(
    "module",
    [
        "schemes.registry",
        "architectures.registry",
        "lightning_modules.composing",
        "lightning_modules.comparing.words",
    ],
)
def test_what_is_checked_before_torch_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_file_says_what_it_is() -> None:
    for package in ORDER:
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_wheel_ships_the_packages_with_their_yaml_and_no_tests(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    yamls = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    assert yamls <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(ORDER)
    # The wheel alone, outside the clone, composes and checks a config.
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    code = (
        "import configs, pathlib; assert 'site' in configs.__file__;"
        "from lightning_modules.composing import compose; print(compose('train', ['scheme=rk4'])['scheme'])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout.strip() == "{'name': 'rk4'}", ran.stderr
