"""Every command of README and docs, as it stands there, on tiny sizes. `make test-all` runs it.

Nothing is left out in silence: what needs a cluster, an account or several machines is listed in ELSEWHERE with the
reason, and a command that is no longer documented has to leave that list.
"""

from __future__ import annotations

import glob
import re
import shlex
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_modules.cli import main
from tests.lightning_modules.data import test_series_sets
from tests.support import data_files
from tests.support.in_this_process import runs_in_this_process
from tests.support.outside import restored_registries

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]

ELSEWHERE = {
    "launcher=slurm": "tests/lightning_modules/launching/test_launchers.py and test_real_slurm.py",
    "launcher=ray": "tests/lightning_modules/launching/test_launchers.py",
    "--wandb": "tests/lightning_modules/comparing/test_wandb_sweep.py",
    "trainer.accelerator=gpu": "needs GPUs: docs/gpu.md",
    "trainer.devices=2": "tests/lightning_modules/launching/test_many_devices.py",
    "scheme=sixth": "tests/lightning_modules/config/test_config_contract.py",
    "logger.": "tests/lightning_modules/loggers",
    "logger=comet": "tests/lightning_modules/loggers/test_loggers.py has one of the user's",
    "print_epochs": "tests/lightning_modules/callbacks/test_selection.py has one of the user's",
    "schemenet export": "tests/lightning_modules/evaluation/test_export.py",
    "run-file": "what launchers call: tests/lightning_modules/launching",
}
"""What is not run here, by a word of the command, and where it is."""

MISTAKES = ("scheme=eluer",)
"""Commands that are shown for the message that they end with."""

TINY = {
    "trainer.max_epochs": "1", "trainer.limit_train_batches": "2", "trainer.limit_test_batches": "1",
    "trainer.threads": "1", "trainer.check_test_every_n_epoch": "1", "data.batch_size": "4", "logger": "csv",
    "trainer.compile": "false",
}  # fmt: skip

SERIES = "series,time,a,b,label\n" + "".join(f"{s},{t},{s + t},{t / 2},{s % 2}\n" for s in range(12) for t in range(6))
TRAJECTORIES = "series,time,a,b\n" + "".join(f"{s},{t},{s + t},{t / 2}\n" for s in range(8) for t in range(12))
TABLE = "a,b\n" + "".join(f"{i},{i * i % 7}\n" for i in range(60))
SWEEP = "scheme: forward_euler,heun\nseed: 0,1\narchitecture.depth: 8\n"


RUNS = {
    "error_control": "experiment=odenet_mnist", "trajectories": "experiment=trajectories_moons",
    "field": "experiment=dynamics", "density": "experiment=density2d", "series": "experiment=series",
    "k": "architecture=lm_resnet", "poly_vs_implicit": "architecture=resnet", "spectrum": "architecture=resnet",
    "costate": "architecture=ode_resnet", "refine": "architecture=ode_resnet sharing=basis sharing.size=2",
    "shared": "architecture=ode_resnet", "best": "data.validation=0.1 callbacks=[best_checkpoint]",
}  # fmt: skip
"""What is trained for a figure, for eval or for refine of a RUN."""

FINISHED = tuple(f"finished/{name}" for name in ("sweep/a", "sweep/b", "ablation/a", "ablation/b", "train/some-run"))
"""Folders of finished runs, in place of those below runs/ that the commands name: there other commands put theirs."""

PAGES = {
    "dynamics.md": "field",
    "densities.md": "density",
    "series.md": "series",
    "odenet.md": "error_control",
    "callbacks.md": "best",
}
"""Whose runs the eval of a page is about."""

REPORT_FIGURES = ("error_against_costs", "learning_curves", "evaluations")
"""Figures of a comparison's FOLDER."""


def documented() -> Iterator[tuple[str, str]]:
    """(page, command) of each ``schemenet ...`` in blocks and code spans; lines that are continued are joined.

    ``schemenet sweep`` alone is a name in the text: it needs values to sweep over.
    """
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        variables = dict(re.findall(r'(\w+)="([^"]*)"', text)) | {"a": "relu"}
        blocks = re.findall(r"^ *(?:\$ )?(schemenet [a-z].*)$", text, re.M)
        for command in dict.fromkeys([*blocks, *re.findall(r"`(schemenet [a-z]+[^`]*)`", text)]):
            for part in re.sub(r"\s#.*", "", " ".join(command.split())).split(" && "):
                if "..." not in part.replace("RUN...", "") and part.split()[1:] != ["sweep"]:
                    yield path.name, " ".join(string.Template(part).substitute(variables).split())


COMMANDS = [(page, command) for command, page in {command: page for page, command in documented()}.items()]
"""Each once: a command of README that a page of docs explains is that page's."""


def test_what_is_run_elsewhere_is_documented() -> None:
    assert len(COMMANDS) > 90
    for word in (*ELSEWHERE, *MISTAKES):
        assert any(word in command for _, command in COMMANDS), f"no documented command has {word}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A current folder with data in the files that the commands name."""
    place = tmp_path_factory.mktemp("documented")
    data_files.write_images(place / "FOLDER")
    for name in ("a", "c"):
        test_series_sets.write_physionet(place / "FOLDER", name)
    for name, text in {"series": SERIES, "trajectories": TRAJECTORIES, "table": TABLE}.items():
        (place / f"{name}.csv").write_text(text)
    (place / "FILE.yaml").write_text(SWEEP)
    parts = re.search(
        r"# my_parts.py\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert parts is not None
    (place / "my_parts.py").write_text(parts[1], encoding="utf-8")
    experiment = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "training.md").read_text(encoding="utf-8"), re.DOTALL)
    assert experiment is not None
    (place / "FOLDER" / "experiment").mkdir()
    (place / "FOLDER" / "experiment" / "NAME.yaml").write_text(experiment[1], encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, runs_in_this_process(), restored_registries():
        data_files.write_mnist(place / "FOLDER")
        data_files.publish("mnist", place / "FOLDER", patch)
        data_files.write_cifar(place / "FOLDER", patch)
        patch.setenv("SCHEMENET_DATA", str(place / "FOLDER"))
        patch.chdir(place)
        for folder in FINISHED:
            main(tiny(["train", "architecture.depth=8", f"seed={FINISHED.index(folder)}", f"folder={folder}"]))
        yield place


def tiny(words: list[str]) -> list[str]:
    """The words of a command, at a size that takes seconds."""
    command, *rest = words
    options = dict(word.split("=", 1) for word in rest if "=" in word and not word.startswith("-"))
    others = [word for word in rest if word not in {f"{key}={value}" for key, value in options.items()}]
    if "--import" in others:
        others = [word for word in others if word not in ("--import", "my_parts")] + ["--import", "my_parts"]
    if command in ("eval", "sample") or "--runs" in others:
        return [command, *others, *(f"{key}={value}" for key, value in options.items())]
    if options.get("data.path") == "FILE.csv":
        options["data.path"] = "series.csv" if options["data"] == "series_csv" else "trajectories.csv"
    if "data.file" in options:
        options["data.file"] = "table.csv"
    options |= TINY
    if command in ("compare", "sweep"):
        options["launcher.jobs"] = "1"
    if command == "compare":
        options["seeds"] = "1"
    if command == "sweep":
        options |= {key: few(value) for key, value in options.items()}
    if "tune.lr" in options:
        options |= {"tune.max_epochs": "1"}
    return [command, *others, *(f"{key}={value}" for key, value in options.items())]


def few(value: str) -> str:
    """The first and the last of the values that a key is swept over; of seeds one."""
    if value.startswith("range"):
        return "0"
    several = [word for word in value.split(",") if word]
    return value if set(value) & set("[{('") or len(several) < 3 else f"{several[0]},{several[-1]}"


def run_of(kind: str, place: Path) -> str:
    """The folder of a run, trained when it is first asked for."""
    folder = f"made/{kind}"
    if not (place / folder / "result.json").exists():
        assert main(tiny(["train", *RUNS[kind].split(), f"folder={folder}"])) == 0
    return folder


def comparison(place: Path) -> str:
    """The folder of a comparison, trained when it is first asked for."""
    folder = "made/comparison"
    if not (place / folder).exists():
        words = ["compare", "networks=[forward_euler,reversible]", "controls=[]", "budget=20k", f"folder={folder}"]
        assert main(tiny(words)) == 0
    return folder


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}: {command}"[:100] for page, command in COMMANDS])
def test_a_documented_command_runs(page: str, command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if elsewhere := [reason for word, reason in ELSEWHERE.items() if word in command]:
        pytest.skip(elsewhere[0])
    words = shlex.split(command.replace("models NAME", "models resnet20"))[1:]
    words = [word.replace("runs/", "finished/") if "--runs" in words else word for word in words]
    words = [f"folder={place}/{COMMANDS.index((page, command))}" if word == "folder=RUN" else word for word in words]
    kind = (
        words[1]
        if words[0] == "figure"
        else "refine"
        if words[0] == "refine"
        else "density"
        if words[0] == "sample"
        else "shared"
        if "scheme=rk4" in words
        else PAGES.get(page, "error_control")
    )
    if words[0] in ("figure", "eval", "sample", "refine"):
        words = [run_of(kind, place) if word in ("RUN", "RUN...", "runs/pinwheel") else word for word in words]
        words = [f"{run_of(kind, place)}/{word[4:]}" if word.startswith("RUN/") else word for word in words]
    if words[1:2] and words[1] in REPORT_FIGURES:
        words = [comparison(place) if word == "FOLDER" else word for word in words]
    words = [word for pattern in words for word in (sorted(glob.glob(pattern)) if "*" in pattern else [pattern])]
    status = main(tiny(words) if words[0] in ("train", "compare", "sweep", "eval", "sample") else words)
    wrong = any(word in command for word in MISTAKES)
    assert status == (2 if wrong else 0), capsys.readouterr().err
