"""The command ``sample``: samples of a trained density in a file. Arguments are checked before torch is imported."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_modules.config.overrides import repeated
from lightning_modules.config.yaml_text import read_yaml
from lightning_modules.storage.atomic_files import whole
from schemes.errors import Problems, SchemenetError, not_taken
from schemes.schema import Parameter, objection

USAGE = "schemenet sample RUN [n=1000] [seed=0] [out=FILE.csv or FILE.npy]"
KEYS = {
    "n": Parameter("n", "int", 1000),
    "seed": Parameter("seed", "int", 0),
    "out": Parameter("out", "str", "samples.csv"),
}
AT_ONCE = 10_000


def sample(arguments: Sequence[str]) -> int:
    """Draw samples in the units of the data, write them, and print the path.

    Args:
        arguments: the run, and ``n=``, ``seed=`` and ``out=``.

    Returns:
        The exit status.

    Raises:
        SchemenetError: with every mistake in the arguments.
    """
    run, n, seed, out = _read(arguments)
    import numpy as np
    import torch

    from architectures.density.base import DensityModel
    from lightning_modules.data.density.base import DensityData
    from lightning_modules.training.loading import load_run

    trained = load_run(run, DensityModel)
    network, data = trained.network.double().eval(), trained.test_data(DensityData)
    stream = torch.Generator().manual_seed(seed)
    counts = [min(AT_ONCE, n - done) for done in range(0, n, AT_ONCE)]
    samples = torch.cat([data.original(network.sample(count, stream)) for count in counts]).numpy()
    with whole(out) as file:
        if out.suffix == ".npy":
            np.save(file, samples)
        else:
            text = io.StringIO(newline="")
            csv.writer(text).writerows([data.columns, *samples.tolist()])
            file.write(text.getvalue().encode())
    print(out)
    print(f"next: schemenet figure density {shlex.quote(str(run))}", file=sys.stderr)  # scripts read the path
    return 0


def _read(arguments: Sequence[str]) -> tuple[Path, int, int, Path]:
    if not arguments or ("=" in arguments[0] and not Path(arguments[0]).exists()):
        raise SchemenetError(f"sample: expected a run folder or a checkpoint first\n{USAGE}")
    run, problems = Path(arguments[0]), Problems()
    problems.add(*repeated(arguments[1:]))
    values: dict[str, Any] = {key: parameter.default for key, parameter in KEYS.items()}
    for word in arguments[1:]:
        key, equals, text = word.partition("=")
        if not equals or key not in KEYS:
            problems.add(not_taken("sample", key, KEYS) if equals else f"cannot read {word!r}; expected KEY=VALUE")
            continue
        try:
            values[key] = text if key == "out" else read_yaml(text, f"sample: {key}")
        except SchemenetError as error:
            problems.add(str(error))
            continue
        if (problem := objection(values[key], KEYS[key].annotation)) is not None:
            problems.add(f"sample: {key} {problem}")
        elif key != "out" and values[key] < (least := 1 if key == "n" else 0):
            problems.add(f"sample: {key} expected to be at least {least}, got {values[key]}")
    out = Path(values["out"])
    if out.suffix not in (".csv", ".npy"):
        problems.add(f"sample: out expected a file name that ends in .csv or .npy, got {values['out']!r}")
    elif not out.absolute().parent.is_dir():
        problems.add(f"sample: out is in {str(out.parent)!r}, which is no folder")
    problems.raise_if_any()
    return run, values["n"], values["seed"], out
