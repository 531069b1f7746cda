"""The packages of examples/: installed, found by their entry points, trained, compared and evaluated by config."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_modules.cli import main
from schemes import plugins
from schemes.registry import SCHEMES
from tests.support.in_this_process import runs_in_this_process
from tests.support.outside import restored_registries

EXAMPLES = sorted(path.parent for path in (Path(__file__).parents[1] / "examples").glob("*/pyproject.toml"))

TINY = [
    "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.limit_test_batches=1",
    "trainer.progress_bar=false", "data.batch_size=8", "logger=csv",
]  # fmt: skip
OWN = [
    "data=stripes", "data.noise=0.5", "scheme=momentum", "scheme.gamma=0.8", "field=depthwise", "field.kernel=3",
    "architecture=resnet20", "architecture.depth=14",
]  # fmt: skip
MODULES = ["momentum_scheme", "depthwise_networks", "stripes_data"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip fills it, with all examples."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-compile", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *map(str, EXAMPLES)], check=True)
    return target


@pytest.fixture
def plugged(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder where the examples are installed."""
    monkeypatch.syspath_prepend(installed)
    monkeypatch.chdir(tmp_path)
    with restored_registries():
        plugins.load_installed.cache_clear()
        yield tmp_path


def test_there_are_three() -> None:
    assert len(EXAMPLES) == 3


def test_installed_parts_train_and_are_evaluated_by_config(plugged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *OWN, *TINY, "folder=run"]) == 0
    config = json.loads((plugged / "run" / "config.json").read_text())
    assert sorted(config["imports"]) == sorted(MODULES)
    assert main(["eval", "run"]) == 0
    assert "resnet20 on stripes" in capsys.readouterr().out
    assert main(["schemes", "momentum"]) == 0
    assert "scheme.gamma" in capsys.readouterr().out
    assert main(["train", "scheme=momentum", "scheme.gamma=2"]) == 2
    assert "gamma expected to be in [0, 1), got 2" in capsys.readouterr().err


@pytest.mark.slow
def test_installed_parts_are_compared(plugged: Path) -> None:
    arms = [
        "networks=[small_cnn]",
        "baseline=resnet",
        "controls=[]",
        "budget=0.1M",
        "budget.tolerance=0.03",
        "arms.resnet.field=depthwise",
    ]
    with runs_in_this_process():
        assert main(["compare", *arms, "seeds=1", "launcher.jobs=1", "data=stripes", *TINY, "folder=c"]) == 0
    results = {p.parts[-3]: json.loads(p.read_text()) for p in plugged.glob("c/*/seed0/result.json")}
    assert set(results) == {"resnet", "small_cnn"}
    sizes = [result["ledger"]["parameters"] for result in results.values()]
    assert max(abs(size - 100_000) for size in sizes) < 3000


def test_a_plugin_that_fails_is_left_out_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_parts.py").write_text("undefined\n", encoding="utf-8")
    info = tmp_path / "failing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: failing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\nfailing = failing_parts\n")
    monkeypatch.syspath_prepend(tmp_path)
    with restored_registries():
        plugins.load_installed.cache_clear()
        with pytest.warns(UserWarning, match=r"'failing' \(package failing\).*NameError.*line 1"):
            plugins.load_installed()
        assert "heun" in SCHEMES
