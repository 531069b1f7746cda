"""``schemenet sample``: samples of a trained density in a file. The words are checked before torch is imported."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_modules.config.overrides import repeated
from lightning_modules.config.yaml_text import read_yaml
from lightning_modules.storage.atomic_files import whole
from schemes.errors import SchemenetError, not_taken
from schemes.schema import Parameter, objection

USAGE = "schemenet sample RUN [n=1000] [seed=0] [out=FILE.csv or FILE.npy]"
KEYS = {
    "n": Parameter("n", "int", 1000),
    "seed": Parameter("seed", "int", 0),
    "out": Parameter("out", "str", "samples.csv"),
}
AT_ONCE = 10_000


def sample(arguments: Sequence[str]) -> int:
    """Draw samples in the data's own units, write them, print where. Raises SchemenetError with every mistake."""
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
    return 0


def _read(arguments: Sequence[str]) -> tuple[Path, int, int, Path]:
    if not arguments or ("=" in arguments[0] and not Path(arguments[0]).exists()):
        raise SchemenetError(f"sample: expected a run folder or a checkpoint first\n{USAGE}")
    run, wrong = Path(arguments[0]), repeated(arguments[1:])
    asked: dict[str, Any] = {key: parameter.default for key, parameter in KEYS.items()}
    for word in arguments[1:]:
        key, equals, text = word.partition("=")
        if not equals or key not in KEYS:
            wrong.append(not_taken("sample", key, KEYS) if equals else f"cannot read {word!r}; expected KEY=VALUE")
            continue
        try:
            asked[key] = text if key == "out" else read_yaml(text, f"sample: {key}")
        except SchemenetError as error:
            wrong.append(str(error))
            continue
        if (problem := objection(asked[key], KEYS[key].annotation)) is not None:
            wrong.append(f"sample: {key} {problem}")
        elif key != "out" and asked[key] < (least := 1 if key == "n" else 0):
            wrong.append(f"sample: {key} expected to be at least {least}, got {asked[key]}")
    out = Path(asked["out"])
    if out.suffix not in (".csv", ".npy"):
        wrong.append(f"sample: out expected a file name that ends in .csv or .npy, got {asked['out']!r}")
    elif not out.absolute().parent.is_dir():
        wrong.append(f"sample: out is in {str(out.parent)!r}, which is no folder")
    if wrong:
        raise SchemenetError("\n".join(wrong))
    return run, asked["n"], asked["seed"], out
