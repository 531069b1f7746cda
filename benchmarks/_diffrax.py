"""Solves by diffrax, compiled by JAX for one thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)  # arrays keep the precision of those that they are made of

MAX_STEPS = 16**4


def van_der_pol(t: Any, y: Any, mu: Any) -> Any:
    x, v = y[..., 0], y[..., 1]
    return jnp.stack((v, mu * (1 - x * x) * v - x), -1)


def lorenz(t: Any, y: Any, args: Any) -> Any:
    x, v, z = y[..., 0], y[..., 1], y[..., 2]
    return jnp.stack((10 * (v - x), x * (28 - z) - v, x * v - (8 / 3) * z), -1)


def mlp(t: Any, y: Any, weights: Any) -> Any:
    for weight, bias in weights[:-1]:
        y = jnp.tanh(y @ weight.T + bias)
    return y @ weights[-1][0].T + weights[-1][1]


def _solved(f: Any, y0: Any, times: Any, tol: float, args: Any, solver: str) -> Any:
    """The states at all times."""
    times = jnp.asarray(times, y0.dtype)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(f), getattr(diffrax, solver)(), t0=times[0], t1=times[-1], dt0=None, y0=y0, args=args,
        saveat=diffrax.SaveAt(ts=times), stepsize_controller=diffrax.PIDController(rtol=tol, atol=tol),
        max_steps=MAX_STEPS,
    ).ys  # fmt: skip


def _compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call that returns when it is done."""
    call, arrays = jax.jit(function), jax.tree.map(jnp.asarray, arguments)
    return lambda: jax.block_until_ready(call(*arrays))


def states(f: Any, y0: Any, times: Any, tol: float, args: Any = None, solver: str = "Dopri5") -> Callable[[], Any]:
    """A job: the states at all times, of one solve of ``f(t, y, args)``; arguments are tensors and numpy arrays."""
    times = np.asarray(times)
    return _compiled(lambda y0, args: _solved(f, y0, times, tol, args, solver), np.asarray(y0), args)


def states_per_sample(f: Any, y0: Any, times: Any, tol: float, args: Any) -> Callable[[], Any]:
    """A job: each row of y0, with its row of ``args``, takes its own steps."""
    times = np.asarray(times)
    rows = jax.vmap(lambda y0, args: _solved(f, y0, times, tol, args, "Dopri5"), out_axes=1)
    return _compiled(rows, np.asarray(y0), args)


def gradients(f: Any, y0: Any, times: Any, tol: float, args: Any) -> Callable[[], Any]:
    """A job: the gradient of the sum of squares of all states, for y0 and ``args``; the former is returned."""
    times = np.asarray(times)
    gradient = jax.grad(lambda y0, args: jnp.square(_solved(f, y0, times, tol, args, "Dopri5")).sum(), (0, 1))
    both = _compiled(gradient, np.asarray(y0), args)
    return lambda: both()[0]
