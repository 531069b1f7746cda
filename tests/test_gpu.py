"""What only an accelerator can show. Run by `pytest -m gpu`; skipped, and counted at the end, where there is none."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from architectures import create_model
from lightning_modules.config.compose import compose
from lightning_modules.evaluation.evaluate import evaluate
from lightning_modules.launching.multi_process import train
from schemes import GRADIENTS
from tests.support.problems import Noisy, batch, make_flow

pytestmark = pytest.mark.gpu

EXACT = [mode for mode in GRADIENTS if mode not in ("backprop", "adjoint")]


@pytest.fixture(autouse=True)
def _reproducible_kernels() -> Iterator[None]:
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.deterministic, cudnn.allow_tf32, cuda.allow_tf32 = flags


def one_run(flow: nn.Module, x: Tensor, half: bool = False) -> tuple[Tensor, list[Tensor], Tensor, dict[str, Tensor]]:
    """Output, gradients, the random state after it, and batch norm's statistics."""
    torch.cuda.manual_seed(3)
    x = x.clone().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16, enabled=half):
        out = flow(x)
    (out.float() * torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).cos()).sum().backward()
    gradients = [x.grad, *(p.grad for p in flow.parameters())]
    return out.detach(), gradients, torch.cuda.get_rng_state(), {n: b.clone() for n, b in flow.named_buffers()}


@pytest.mark.parametrize("sharing", ["per_step", "shared"])
@pytest.mark.parametrize("mode", EXACT)
def test_dropout_is_replayed_from_the_devices_random_state(mode: str, sharing: str) -> None:
    options = {"field": Noisy, "scheme": "verlet", "sharing": sharing, "steps": 5}
    flow, backprop = (make_flow(gradient=name, **options).cuda() for name in (mode, "backprop"))
    found, expected = one_run(flow, batch().cuda()), one_run(backprop, batch().cuda())
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[2], expected[2])
    for name, buffer in expected[3].items():
        assert torch.equal(found[3][name], buffer), name
    scale = max(float(g.norm()) for g in expected[1])
    for a, b in zip(found[1], expected[1], strict=True):
        assert float((a - b).norm()) <= 1e-10 * max(float(b.norm()), 1e-3 * scale)
    torch.cuda.manual_seed(4)
    assert not torch.equal(flow(batch().cuda()), found[0])  # the masks did matter


@pytest.mark.parametrize("mode", [*EXACT, "adjoint"])
def test_bf16_autocast_is_entered_again_in_backward(mode: str) -> None:
    """Each mode runs in half precision, and is as near to the gradient in float32 as backprop is."""
    options = {"scheme": "verlet", "steps": 4, "dtype": torch.float32}
    x = batch(64, dtype=torch.float32).cuda()
    exact = one_run(make_flow(**options).cuda(), x)[1]
    by_mode = {
        name: one_run(make_flow(gradient=name, **options).cuda(), x, half=True)[1] for name in (mode, "backprop")
    }
    miss = {n: sum(float((a - b).norm()) for a, b in zip(g, exact, strict=True)) for n, g in by_mode.items()}
    assert 0 < miss[mode] < 2 * miss["backprop"]


def peak(gradient: str, steps: int) -> int:
    """Peak bytes of one training step by the allocator, above what is there before it."""
    network = create_model("revnet", grid={"name": "uniform", "steps": steps}, gradient=gradient).cuda()
    x = torch.randn(64, 3, 32, 32, device="cuda")
    network(x).sum().backward()  # gradients and workspaces come first
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    network(x).sum().backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_reversible_memory_is_flat_in_depth() -> None:
    few, many = (peak("reversible", steps) for steps in (4, 32))
    # What grows are the gradients of ever more parameters, while the old ones still stand.
    more = {
        steps: sum(p.nbytes for p in create_model("revnet", grid={"name": "uniform", "steps": steps}).parameters())
        for steps in (4, 32)
    }
    assert many - few < 1.5 * (more[32] - more[4]) + 0.05 * few
    assert peak("backprop", 32) > 4 * peak("backprop", 4)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.filterwarnings("ignore::schemes.gradients.adjoint_ode.backsolve.AdjointDriftWarning")
def test_compiled_training_equals_eager(gradient: str) -> None:
    from lightning_modules.callbacks.compile import compile_network

    torch.compiler.reset()
    eager = create_model(
        "mlp",
        image_size=None,
        in_chans=4,
        hidden=8,
        scheme="verlet",
        grid={"name": "uniform", "time": 1.0},
        gradient=gradient,
    )
    eager = eager.cuda()
    compiled = copy.deepcopy(eager)
    compile_network(compiled)
    x = torch.randn(16, 4, device="cuda")
    for network in (eager, compiled):
        network(x).square().sum().backward()
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "words", [[], ["trainer.precision=bf16-mixed", "trainer.channels_last=true", "trainer.ema=0.9"]]
)
def test_a_training_on_the_gpu(words: list[str], tmp_path: Path) -> None:
    options = ["debug=fast", "architecture=revnet", "architecture.width=0.25", "trainer.accelerator=gpu"]
    result = train(compose("train", [*options, *words]), tmp_path)
    assert result["status"] == "done"
    again = evaluate(tmp_path)
    assert again["trained"]["test_loss"] == pytest.approx(result["test_loss"], rel=1e-3)


# Adaptive grids


@pytest.mark.parametrize("mode", ["backprop", "checkpoint", "adjoint"])
def test_adaptive_flow_reads_the_device_once_a_step(mode: str) -> None:
    network = create_model("odenet", in_chans=1, image_size=28, gradient=mode).cuda()
    x = torch.randn(8, 1, 28, 28, device="cuda")
    network(x).sum().backward()
    flow = network.flows[0]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile, torch.no_grad():
        network(x)
    reads = sum(event.count for event in profile.key_averages() if event.key == "aten::_local_scalar_dense")
    attempts = flow.forward_counts.accepted + flow.forward_counts.rejected
    assert attempts <= reads <= attempts + 3  # three for the first step's size


@pytest.mark.parametrize("mode", ["backprop", "checkpoint"])
def test_captured_steps_are_the_eager_ones(mode: str) -> None:
    torch.manual_seed(0)
    eager = create_model("odenet", in_chans=1, image_size=28, gradient=mode).cuda()
    captured = copy.deepcopy(eager)
    captured.flows[0].compile_steps()
    for _ in range(3):  # a recorded graph is replayed, and writes where it wrote before
        x = torch.randn(8, 1, 28, 28, device="cuda")
        expected, found = (
            torch.autograd.grad(network(x).square().sum(), list(network.parameters())) for network in (eager, captured)
        )
        assert eager.flows[0].forward_counts == captured.flows[0].forward_counts
        for a, b in zip(found, expected, strict=True):
            assert float((a - b).norm()) <= 1e-3 * float(b.norm()) + 1e-6
