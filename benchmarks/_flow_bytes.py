"""Bytes that one flow keeps and needs, without what surrounds it."""

from __future__ import annotations

import gc

from torch import Tensor, nn

from architectures.costs.ledger import LiveBytes


def flow_bytes(flow: nn.Module, y: Tensor) -> tuple[int, int]:
    """(kept for backward's sake, peak of forward and backward); parameters, input and output do not count."""
    y = y.detach().requires_grad_()
    gc.collect()
    with LiveBytes([y, *flow.parameters(), *flow.buffers()]) as mode:
        out = flow(y)
        size = out.untyped_storage().nbytes()
        gc.collect()
        kept = mode.live - size
        out.sum().backward()
    return kept, mode.peak - size
