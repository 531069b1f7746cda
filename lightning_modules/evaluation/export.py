"""The command ``export``: a trained network as an ONNX file, or as a program of ``torch.export``."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from architectures.dynamics.base import TrajectoryModel
from architectures.model import Model
from architectures.series.base import SeriesModel
from lightning_modules.storage.atomic_files import whole
from lightning_modules.text import waiting
from lightning_modules.training.loading import TrainedRun, load_run
from schemes.errors import SchemenetError

EXAMPLE, OTHER = 5, 8
"""Batch sizes of the inputs that a network is traced with, and that the file is compared on."""

TOLERANCE = 1e-3
"""The largest difference of outputs, relative to the largest output: rounding in another order of operations."""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(place: Path, out: Path) -> float:
    """Write a trained network in evaluation mode, with a batch size that is free, as a file.

    It maps the inputs of the network (batch, ...), as the data set gives them, to its outputs: logits, numbers, or log
    densities. The file is compared with the network before it is written.

    Args:
        place: a run folder or a checkpoint.
        out: a file that ends with ``.onnx`` or ``.pt2`` (read by ``torch.export.load``); one that exists is replaced.

    Returns:
        The largest difference between the outputs of the file and of the network on random inputs.

    Raises:
        SchemenetError: the network cannot be exported, or its file does not do the same.
    """
    if out.suffix not in FORMATS:
        raise SchemenetError(f"export: expected a file that ends with {' or '.join(FORMATS)}, got {str(out)!r}")
    if out.suffix == ".onnx" and (missing := [p for p in ONNX_PACKAGES if importlib.util.find_spec(p) is None]):
        raise SchemenetError(f"export: .onnx needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    run = load_run(place, Model)
    try:
        content, difference = exported(run.network, _shape(run), out.suffix)
    except SchemenetError as error:
        raise SchemenetError(f"export: {str(place)!r}, {run.description}: {error}") from error
    with whole(out) as file:
        file.write(content)
    return difference


def exported(network: Model, shape: tuple[int, ...], suffix: str) -> tuple[bytes, float]:
    """A network in evaluation mode as the content of a file.

    Args:
        network: that maps tensors to tensors.
        shape: of one input.
        suffix: ``.onnx`` or ``.pt2``.

    Returns:
        The content, and the largest difference between its outputs and those of the network on random inputs.

    Raises:
        SchemenetError: the network cannot be exported, or its file does not do the same.
    """
    _refuse_data_dependent(network)
    network.eval()
    inputs, others = (torch.randn(size, *shape, **network.like()) for size in (EXAMPLE, OTHER))
    with torch.no_grad(), warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        try:
            program = torch.export.export(network, (inputs,), dynamic_shapes=({0: Dim("batch")},), strict=False)
            content, outputs = FORMATS[suffix](program, others)
        except SchemenetError:
            raise
        except Exception as error:  # of any kind, from the tracer and the converters
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise SchemenetError(f"it cannot be exported ({reason}); docs/export.md says what can") from error
        expected = network(others)
    difference = float((outputs - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise SchemenetError(f"the exported network's outputs differ by {difference:.3g}; nothing was written")
    return content, difference


def _refuse_data_dependent(network: Model) -> None:
    """Raise SchemenetError for a network whose steps depend on its inputs."""
    if isinstance(network, SeriesModel | TrajectoryModel):
        raise SchemenetError("its steps are at the times of each batch of series, and a graph has the same for all")
    if any(flow.adaptive for flow in network.flows):
        raise SchemenetError(
            "the steps of an adaptive grid depend on the input, and a graph has the same for all; train with fixed "
            "steps, grid=uniform grid.steps=N"
        )
    if implicit := [type(flow.scheme).__name__ for flow in network.flows if flow.scheme.implicit]:
        raise SchemenetError(
            f"{implicit[0]} solves equations in each step, in a number of iterations that depends on the input, and a "
            "graph has the same for all; use an explicit scheme"
        )


def _shape(run: TrainedRun[Any]) -> tuple[int, ...]:
    """The shape of one input, from what the network was built with: the data is not read."""
    data: Mapping[str, Any] = run.checkpoint["hyper_parameters"]["data"]
    size = data.get("image_size")
    return (data["in_chans"],) if size is None else (data["in_chans"], size, size)


def _as_program(program: ExportedProgram, inputs: Tensor) -> tuple[bytes, Tensor]:
    """The bytes of a ``.pt2`` file, and what it makes of some inputs."""
    content = io.BytesIO()
    torch.export.save(program, content)
    read = torch.export.load(io.BytesIO(content.getvalue()))
    return content.getvalue(), read.module()(inputs)


def _as_onnx(program: ExportedProgram, inputs: Tensor) -> tuple[bytes, Tensor]:
    """The bytes of an ``.onnx`` file, and what onnxruntime makes of some inputs."""
    import onnxruntime

    converted = torch.onnx.export(
        program, (), dynamo=True, input_names=["input"], output_names=["output"], verbose=False
    )
    assert converted is not None
    content = converted.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(["output"], {"input": inputs.numpy()})
    return content, torch.from_numpy(outputs)


FORMATS: Mapping[str, Callable[[ExportedProgram, Tensor], tuple[bytes, Tensor]]] = {
    ".onnx": _as_onnx,
    ".pt2": _as_program,
}
"""The ending of a file to the function that makes its content."""


def export_command(words: Sequence[str]) -> int:
    """``schemenet export RUN OUT``."""
    if len(words) != 2:
        raise SchemenetError(f"export: expected RUN OUT.onnx or RUN OUT.pt2, got {' '.join(words) or 'nothing'}")
    with waiting(f"tracing the network, and comparing {words[1]} with it"):
        difference = export(Path(words[0]), Path(words[1]))
    print(f"{words[1]}: as the network up to {difference:.1e} on random inputs, for any batch size")
    return 0
