"""The command line as a user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from architectures import list_models
from lightning_modules.cli import main
from schemes import SCHEMES

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lightning_modules.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_mistakes_end_with_status_2_without_traceback_before_torch() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lightning_modules.cli import main;"
        "status = main(['train', 'scheme=eluer', 'trainer.max_epoch=2', 'seed=x']); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("schemenet: no scheme 'eluer'; did you mean 'forward_euler'")
    assert "max_epochs" in ran.stderr
    assert "got 'x'" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "status", "output"),
    [
        ("schemes >&-", 0, ""),
        ("train scheme=rk5 2>&-", 2, ""),
        ("list experiments --config-dir . | grep -o A.*equation", 0, "A \\u2202-equation\n"),
    ],
)
def test_output_that_cannot_be_printed_ends_no_command(words: str, status: int, output: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("# A ∂-equation.\nseed: 1\n", encoding="utf-8")
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m lightning_modules {words}"], cwd=tmp_path,
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, output, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tarin"], "no command 'tarin'; did you mean 'train'?"),
        (["schemes", "heunn"], "did you mean 'heun'"),
        (["models", "resnt"], "did you mean 'resnet'"),
        (["train", "architecture.depth=21"], "the nearest are 20 and 26"),
        (["train", "data=mnist", "data.root=nowhere"], "nowhere"),
        (["train", "data=mnist", "data.root=\x1b[2Jnowhere"], "\N{REPLACEMENT CHARACTER}[2Jnowhere"),
        (["compare", "experiment=demo", "budget=500", "networks=[resnet]", "controls=[]"], "nearest sizes"),
        (["compare", "experiment=demo", "seeds=0"], "seeds"),
        (["compare", "experiment=demo", "seeds=[1,1]"], "different seeds"),
    ],
)
def test_mistakes_in_process(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["train", f"folder={tmp_path / 'file' / 'run'}"]) == 2
    assert "cannot write to the run folder" in capsys.readouterr().err
    assert main(["train", "architecture.depth=21", f"folder={tmp_path / 'new' / 'run'}"]) == 2
    assert not (tmp_path / "new").exists()  # a mistake leaves no empty folders behind


def test_train_and_what_is_done_already(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["train", "debug=fast", "architecture.depth=8", "architecture.width=0.25", "folder=a run"]
    ran = command(*arguments, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "parameters" in ran.stdout
    assert "test error" in ran.stdout
    assert (tmp_path / "a run" / "result.json").exists()
    assert "Traceback" not in ran.stderr
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 0
    assert "done already" in capsys.readouterr().out
    assert main([*arguments, "scheme=heun"]) == 2
    assert "another recipe" in capsys.readouterr().err


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schemes"]) == 0
    table = capsys.readouterr().out
    rows = {line.split()[0]: line for line in table.splitlines()[2:]}
    assert set(rows) == set(SCHEMES)
    assert "fractalnet, rk_resnet (alias rk2, heun2, adaptive_heun)" in rows["heun"]
    assert "2.79" in rows["rk4"]
    assert main(["schemes", "reversible"]) == 0
    one = capsys.readouterr().out
    assert "x_{n+1} = x_n + h f_0(y_n)" in one
    assert "order: 1 (separable)" in one
    assert main(["models"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]} == set(list_models())
    assert main(["models", "revnet38"]) == 0
    assert "gradient" in capsys.readouterr().out
    assert main(["--help"]) == 0
    assert "compare" in capsys.readouterr().out
