"""Reference loops: every architecture as its paper writes it, on plain tensors.

Nothing of the packages is imported. A loop is handed a network's parameters in the order in which they are
registered (stem; stage by stage the transition, then the flow; head), takes the weights of one layer after
another, and applies plain functions to them. Equations and layouts: He et al. 2015 and 2016 (ResNet), Xie et
al. 2017 (ResNeXt), Zhang et al. 2017 (PolyNet), Larsson et al. 2017 (FractalNet), Gomez et al. 2017 (RevNet),
Lu et al. 2018 (LM-ResNet), Chang et al. 2018 (leapfrog), Chen et al. 2018 (ODE-Net).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Layer = Callable[[Tensor], Tensor]
TimedLayer = Callable[[float, Tensor], Tensor]


class Visit(NamedTuple):
    """One normalisation: its scale (which says whose it is), the batch's mean and unbiased variance."""

    scale: Tensor
    mean: Tensor
    variance: Tensor


class Weights:
    """Layers made of the next parameters; keeps what every normalisation saw.

    ``running`` switches to evaluation: the i-th normalisation uses the i-th pair (mean, variance).
    """

    def __init__(self, parameters: Iterable[Tensor], running: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.left = deque(parameters)
        self.running = running
        self.visits: list[Visit] = []

    def take(self) -> Tensor:
        return self.left.popleft()

    def conv(self, stride: int = 1, groups: int = 1) -> Layer:
        weight = self.take()
        return lambda x: F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)

    def conv_with_bias(self, stride: int, padding: int) -> Layer:
        weight, bias = self.take(), self.take()
        return lambda x: F.conv2d(x, weight, bias, stride, padding)

    def timed_conv(self, bias: bool = False) -> TimedLayer:
        weight, shift = self.take(), self.take() if bias else None
        return lambda t, x: F.conv2d(torch.cat((torch.full_like(x[:, :1], t), x), 1), weight, shift, padding=1)

    def timed_linear(self) -> TimedLayer:
        layer = self.linear()
        return lambda t, x: layer(torch.cat((torch.full_like(x[:, :1], t), x), 1))

    def linear(self) -> Layer:
        weight, bias = self.take(), self.take()
        return lambda x: x @ weight.T + bias

    def norm(self) -> Layer:
        scale, shift = self.take(), self.take()

        def normalise(x: Tensor) -> Tensor:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            number = x.numel() / x.shape[1]
            self.visits.append(Visit(scale, mean.detach(), variance.detach() * number / (number - 1)))
            if self.running is not None:
                mean, variance = self.running[len(self.visits) - 1]
            a = scale / torch.sqrt(variance + 1e-5)
            return x * a[:, None, None] + (shift - mean * a)[:, None, None]

        return normalise

    def pair_norm(self) -> Layer:
        """Group norm in groups of two channels."""
        scale, shift = self.take(), self.take()

        def normalise(x: Tensor) -> Tensor:
            pairs = x.reshape(len(x), x.shape[1] // 2, -1)
            variance, mean = torch.var_mean(pairs, 2, correction=0, keepdim=True)
            return ((pairs - mean) / torch.sqrt(variance + 1e-5)).view_as(x) * scale[:, None, None] + shift[
                :, None, None
            ]

        return normalise


def chain(*layers: Layer) -> Layer:
    def chained(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    return chained


# Branches: the residual function F, without the skip ------------------------------------------------------


def basic(w: Weights, stride: int = 1, lead: bool = True) -> Layer:
    """conv3x3 . relu . bn . conv3x3 . relu . bn; without the first relu . bn where ``lead`` is False."""
    enter = [w.norm(), F.relu] if lead else []
    return chain(*enter, w.conv(stride), w.norm(), F.relu, w.conv())


def bottleneck(w: Weights, stride: int = 1, lead: bool = True, groups: int = 1) -> Layer:
    """1x1, 3x3 (with the stride), 1x1, each behind bn and relu."""
    enter = [w.norm(), F.relu] if lead else []
    return chain(*enter, w.conv(), w.norm(), F.relu, w.conv(stride, groups), w.norm(), F.relu, w.conv())


def post_basic(w: Weights, stride: int = 1) -> Layer:
    return chain(w.conv(stride), w.norm(), F.relu, w.conv(), w.norm())


def post_bottleneck(w: Weights, stride: int = 1, groups: int = 1) -> Layer:
    return chain(w.conv(), w.norm(), F.relu, w.conv(stride, groups), w.norm(), F.relu, w.conv(), w.norm())


def timed(w: Weights, norm: Callable[[Weights], Layer] = Weights.norm, bias: bool = False) -> TimedLayer:
    """bn . conv(t) . relu . bn . conv(t) . relu . bn, the time as a plane in front of the channels."""
    n1, c1, n2, c2, n3 = norm(w), w.timed_conv(bias), norm(w), w.timed_conv(bias), norm(w)
    return lambda t, x: n3(c2(t, F.relu(n2(c1(t, F.relu(n1(x)))))))


# Shortcuts at a change of stage ---------------------------------------------------------------------------


def shortcut_a(x: Tensor, out: int) -> Tensor:
    """Every second pixel, zero channels behind."""
    x = x[:, :, ::2, ::2]
    return torch.cat((x, x.new_zeros(x.shape[0], out - x.shape[1], *x.shape[2:])), 1)


def shortcut_pool(x: Tensor, out: int) -> Tensor:
    """2x2 average pooling, zero channels on both sides."""
    x = F.avg_pool2d(x, 2)
    extra = out - x.shape[1]
    front = x.new_zeros(x.shape[0], extra // 2, *x.shape[2:])
    return torch.cat((front, x, x.new_zeros(x.shape[0], extra - extra // 2, *x.shape[2:])), 1)


def shortcut_b(w: Weights, stride: int) -> Layer:
    return chain(w.conv(stride), w.norm())


def shortcut_d(w: Weights, stride: int) -> Layer:
    return chain(w.norm(), F.relu, w.conv(stride))


# Heads ----------------------------------------------------------------------------------------------------


def pre_head(w: Weights, u: Tensor) -> Tensor:
    return chain(w.norm(), F.relu, lambda x: x.mean((2, 3)), w.linear())(u)


def post_head(w: Weights, u: Tensor) -> Tensor:
    return w.linear()(u.mean((2, 3)))


# Networks: (weights, images) to logits; n is the number of blocks of a stage, its transition included -----


def resnet(
    w: Weights, x: Tensor, n: int = 4, branch: Callable[..., Layer] = basic, path: str = "D",
    time: float | None = None, shared: bool = False,
) -> Tensor:  # fmt: skip
    """u_{n+1} = u_n + h F_n(u_n), h = 1; or all steps of a stage with one F, or over a given time."""
    u = w.conv()(x)
    for stage in range(3):
        steps = n
        stride = 1 if stage == 0 else 2
        if stage > 0 or branch is bottleneck:
            f = branch(w, stride)
            s = shortcut_d(w, stride) if path == "D" else w.conv(stride)
            u = s(u) + f(u)
            steps -= 1
        steps = n if time else steps
        for i in range(steps):
            f = f if shared and i else branch(w)
            u = u + (time / steps if time else 1) * f(u)
    return pre_head(w, u)


def resnet_v1(w: Weights, x: Tensor, n: int = 4, path: str = "A") -> Tensor:
    """u_{n+1} = relu(u_n + F_n(u_n)), F = bn . conv . relu . bn . conv."""
    u = chain(w.conv(), w.norm(), F.relu)(x)
    for stage in range(3):
        blocks = n
        if stage > 0:
            f = post_basic(w, 2)
            value = f(u)
            s = shortcut_a(u, value.shape[1]) if path == "A" else shortcut_b(w, 2)(u)
            u = F.relu(s + value)
            blocks -= 1
        for _ in range(blocks):
            u = F.relu(u + post_basic(w)(u))
    return post_head(w, u)


def plain(w: Weights, x: Tensor, n: int = 4) -> Tensor:
    """u_{n+1} = F_n(u_n), transitions as in :func:`resnet`."""
    u = w.conv()(x)
    for stage in range(3):
        if stage > 0:
            f = basic(w, 2)
            u = shortcut_d(w, 2)(u) + f(u)
        for _ in range(n - (stage > 0)):
            u = basic(w)(u)
    return pre_head(w, u)


def plain_post(w: Weights, x: Tensor, n: int = 4) -> Tensor:
    """u_{n+1} = relu(F_n(u_n)), transitions as in :func:`resnet_v1`."""
    u = chain(w.conv(), w.norm(), F.relu)(x)
    for stage in range(3):
        if stage > 0:
            value = post_basic(w, 2)(u)
            u = F.relu(shortcut_a(u, value.shape[1]) + value)
        for _ in range(n - (stage > 0)):
            u = F.relu(post_basic(w)(u))
    return post_head(w, u)


def resnext(w: Weights, x: Tensor, groups: int, n: int = 4) -> Tensor:
    """u_{n+1} = relu(u_n + sum_i T_i(u_n)), the sum as one grouped bottleneck."""
    u = chain(w.conv(), w.norm(), F.relu)(x)
    for stage in range(3):
        stride = 1 if stage == 0 else 2
        f, s = post_bottleneck(w, stride, groups), shortcut_b(w, stride)
        u = F.relu(s(u) + f(u))
        for _ in range(n - 1):
            u = F.relu(u + post_bottleneck(w, 1, groups)(u))
    return post_head(w, u)


def resnext_sum(w: Weights, u: Tensor, groups: int) -> Tensor:
    """sum_{i=1..C} T_i(u), T_i = conv1x1 . relu . conv3x3 . relu . conv1x1 with a slice of each weight."""
    first, grouped, last = w.take(), w.take(), w.take()
    d = first.shape[0] // groups
    total = torch.zeros_like(u)
    for i in range(groups):
        part = slice(i * d, (i + 1) * d)
        hidden = F.relu(F.conv2d(F.relu(F.conv2d(u, first[part])), grouped[part], padding=1))
        total = total + F.conv2d(hidden, last[:, part])
    return total


def polynet(w: Weights, x: Tensor, form: str, n: int = 4) -> Tensor:
    """(I + F + F^2) u, (I + F + F^2 + F^3) u, (I + F + G F) u or (I + F + G) u, powers composing."""
    u = w.conv()(x)
    for stage in range(3):
        blocks = n
        if stage > 0:
            f, s = basic(w, 2), shortcut_d(w, 2)
            u = s(u) + f(u)
            blocks -= 1
        for _ in range(blocks):
            f = basic(w)
            once = f(u)
            if form == "poly-2":
                u = u + once + f(once)
            elif form == "poly-3":
                twice = f(once)
                u = u + once + twice + f(twice)
            elif form == "mpoly-2":
                u = u + once + basic(w)(once)
            elif form == "way-2":
                u = u + once + basic(w)(u)
    return pre_head(w, u)


def rk_resnet(w: Weights, x: Tensor, method: str, n: int = 4, per_stage: bool = False) -> Tensor:
    """Heun's or the classic fourth-order method with h = 1, one F a step (``per_stage``: one F a stage)."""
    u = w.conv()(x)
    for stage in range(3):
        blocks = n
        if stage > 0:
            f, s = basic(w, 2), shortcut_d(w, 2)
            u = s(u) + f(u)
            blocks -= 1
        for _ in range(blocks):
            f = basic(w)
            k1 = f(u)
            if method == "heun":
                g = basic(w) if per_stage else f
                u = u + (k1 + g(u + k1)) / 2
            else:
                k2 = f(u + k1 / 2)
                k3 = f(u + k2 / 2)
                k4 = f(u + k3)
                u = u + (k1 + 2 * k2 + 2 * k3 + k4) / 6
    return pre_head(w, u)


def lm_resnet(
    w: Weights, x: Tensor, n: int = 4, branch: Callable[..., Layer] = basic, history: str = "shortcut"
) -> Tensor:
    """u_{n+1} = (1 - k_n) u_n + k_n u_{n-1} + F_n(u_n), and u_n + F_n(u_n) where no u_{n-1} is known.

    At a change of stage S(u) + F(u) the state before is S(u), none, or the older one by a convolution of its own.
    """
    u, before = w.conv()(x), None
    for stage in range(3):
        stride, steps = 1 if stage == 0 else 2, n
        if stage > 0 or branch is not basic:
            f, s = branch(w, stride), shortcut_d(w, stride)
            projected = s(u)
            if history == "shortcut":
                before = projected
            else:
                before = w.conv(stride)(before) if history == "project" and before is not None else None
            u = projected + f(u)
            steps -= 1
        k = list(w.take())
        for _ in range(steps):
            known = u if before is None else (1 - k[0]) * u + k.pop(0) * before
            before, u = u, known + branch(w)(u)
        assert not k
    return pre_head(w, u)


def leapfrog_net(w: Weights, x: Tensor, n: int = 4) -> Tensor:
    """u_{n+1} = u_{n-1} + 2 F_n(u_n); the first step of each stage is an Euler step."""
    u = w.conv()(x)
    for stage in range(3):
        blocks = n
        if stage > 0:
            f, s = basic(w, 2), shortcut_d(w, 2)
            u = s(u) + f(u)
            blocks -= 1
        before, u = u, u + basic(w)(u)
        for _ in range(blocks - 1):
            before, u = u, before + 2 * basic(w)(u)
    return pre_head(w, u)


def revnet(w: Weights, x: Tensor, n: int = 4, branch: Callable[..., Layer] = basic) -> Tensor:
    """y1 = x1 + F(x2), y2 = x2 + G(y1), on channel halves.

    The first unit of a stage strides in F alone; both halves pass average pooling and zero channels (basic)
    or a raw 1x1 convolution each (bottleneck). The very first F omits its bn and relu, the first G does not.
    """
    u1, u2 = chain(w.conv(), w.norm(), F.relu)(x).chunk(2, 1)
    for stage in range(3):
        stride = 1 if stage == 0 else 2
        for unit in range(n):
            first = unit == 0
            f, g = branch(w, stride if first else 1, lead=not (first and stage == 0)), branch(w)
            push = f(u2)
            if first and branch is bottleneck:
                u1, u2 = w.conv(stride)(u1), w.conv(stride)(u2)
            elif first and stage > 0:
                u1, u2 = shortcut_pool(u1, push.shape[1]), shortcut_pool(u2, push.shape[1])
            u1 = u1 + push
            u2 = u2 + g(u1)
    return pre_head(w, torch.cat((u1, u2), 1))


def revnet_memcnn(w: Weights, x: Tensor, n: int = 4) -> Tensor:
    """MemCNN's layout: a stage begins with a plain full-width block; the first F and G omit bn, relu."""
    u = chain(w.conv(), w.norm(), F.relu)(x)
    for stage in range(3):
        units = n
        if stage > 0:
            f, s = basic(w, 2), shortcut_b(w, 2)
            u = s(u) + f(u)
            units -= 1
        u1, u2 = u.chunk(2, 1)
        for unit in range(units):
            lead = stage > 0 or unit > 0
            f, g = basic(w, lead=lead), basic(w, lead=lead)
            u1 = u1 + f(u2)
            u2 = u2 + g(u1)
        u = torch.cat((u1, u2), 1)
    return pre_head(w, u)


def ode_resnet(w: Weights, x: Tensor, steps: int = 3) -> Tensor:
    """u' = f(t, u) over [0, 1] in each of three stages, by Heun's method with one f."""
    h = 1 / steps
    u = w.conv()(x)
    for stage in range(3):
        if stage > 0:
            f, s = basic(w, 2), shortcut_d(w, 2)
            u = s(u) + f(u)
        rate = timed(w)
        for step in range(steps):
            t = step * h
            k1 = rate(t, u)
            k2 = rate(t + h, u + h * k1)
            u = u + h / 2 * (k1 + k2)
    return pre_head(w, u)


DOPRI5 = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)  # the last row is the step itself


def odenet(w: Weights, x: Tensor, stem: str, steps: int = 4) -> Tensor:
    """The authors' MNIST network, group norm in pairs of channels; u' = f(t, u) over [0, 1] by dopri5."""
    u, norm = w.conv_with_bias(1, 0)(x), Weights.pair_norm
    for _ in range(2):
        u = chain(norm(w), F.relu)(u)
        if stem == "conv":
            u = w.conv_with_bias(2, 1)(u)
        else:
            branch = chain(w.conv(2), norm(w), F.relu, w.conv())
            u = branch(u) + w.conv(2)(u)
    rate = timed(w, norm, bias=True)
    h = 1 / steps
    for step in range(steps):
        k: list[Tensor] = []
        for row in DOPRI5:
            y = u + h * sum(a * slope for a, slope in zip(row, k, strict=True)) if row else u
            k.append(rate((step + sum(row)) * h, y))
        u = y
    return chain(norm(w), F.relu, lambda z: z.mean((2, 3)), w.linear())(u)


def fractalnet(w: Weights, x: Tensor, columns: int, blocks: int = 3, norm: bool = True) -> Tensor:
    """f_{C+1}(z) = mean(f_C(f_C(z)), conv(z)), coinciding joins flat, pooling before a block's last join."""

    def unit(pool: bool = False) -> Layer:
        layers = [w.conv(), *([w.norm()] if norm else []), F.relu]
        return chain(*layers, *([lambda z: F.max_pool2d(z, 2)] if pool else []))

    z = x
    for _ in range(blocks):
        if columns == 2:
            deep = unit()(z)
            shallow, deep = unit(pool=True)(z), unit(pool=True)(deep)
            z = (shallow + deep) / 2
        else:
            deep = unit()(z)
            middle, deep = unit()(z), unit()(deep)
            join = (middle + deep) / 2
            deep = unit()(join)
            shallow, middle, deep = unit(pool=True)(z), unit(pool=True)(join), unit(pool=True)(deep)
            z = (shallow + middle + deep) / 3
    return post_head(w, z)


def fractal_column(w: Weights, x: Tensor, columns: int, chosen: int, blocks: int = 3) -> Tensor:
    """One column (0 the shallowest) of a FractalNet of C columns, run alone."""
    z = x
    for _ in range(blocks):
        units = []
        for row in range(1, 2 ** (columns - 1) + 1):
            for column in range(columns):
                if row % 2 ** (columns - 1 - column) == 0:
                    conv, norm = w.conv(), w.norm()
                    units += [chain(conv, norm, F.relu)] if column == chosen else []
        z = F.max_pool2d(chain(*units)(z), 2)
    return post_head(w, z)


def mlp(w: Weights, x: Tensor, steps: int = 4) -> Tensor:
    """u_{n+1} = u_n + W_2 tanh(W_1 u_n)."""
    u = w.linear()(x.reshape(len(x), -1))
    for _ in range(steps):
        first, second = w.linear(), w.linear()
        u = u + second(torch.tanh(first(u)))
    return w.linear()(u)


def ode_mlp(w: Weights, x: Tensor, augment: int, steps: int = 4) -> Tensor:
    """u' = W_2 tanh(W_1 (t, u)), t in front in both layers, over [0, 1] by Heun's method; zeros behind the inputs."""
    u, h = torch.cat((x.reshape(len(x), -1), x.new_zeros(len(x), augment)), 1), 1 / steps
    first, second = w.timed_linear(), w.timed_linear()

    def rate(t: float, y: Tensor) -> Tensor:
        return second(t, torch.tanh(first(t, y)))

    for step in range(steps):
        k1 = rate(step * h, u)
        u = u + h / 2 * (k1 + rate((step + 1) * h, u + h * k1))
    return w.linear()(u)


def one_layer_mlp(w: Weights, x: Tensor) -> Tensor:
    return chain(w.linear(), torch.tanh, w.linear())(x.reshape(len(x), -1))


def control(w: Weights, x: Tensor, steps: int) -> Tensor:
    """Stem, residual transitions and head of the ResNet layout, with so many Euler steps in each stage."""
    u = w.conv()(x)
    for stage in range(3):
        if stage > 0:
            f, s = basic(w, 2), shortcut_d(w, 2)
            u = s(u) + f(u)
        for _ in range(steps):
            u = u + basic(w)(u)
    return pre_head(w, u)
