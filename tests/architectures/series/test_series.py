"""Networks of irregular series: what may reach a prediction, and what a batch may not change."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from architectures.fields.timed import TimedLinear
from architectures.observations import Observations, SeriesBatch
from architectures.registry import ARCHITECTURES
from architectures.series.base import UNLABELLED, SeriesModel
from architectures.series.gru_d import GruD
from architectures.series.latent_ode import LatentOde
from architectures.series.latent_variable import Variational, divergence
from architectures.series.ode_rnn import OdeRnn
from architectures.series.rnn import Recurrent
from architectures.series.rnn_vae import RnnVae
from schemes.errors import SchemenetError

CHANNELS = 3
UNIFORM = {"name": "uniform", "steps": 4}
NETWORKS: dict[str, dict[str, Any]] = {
    "rnn": {},
    "rnn of gru without gaps": {"cell": "gru", "gaps": False},
    "gru_d": {},
    "ode_rnn": {"field": "mlp_time"},
    "latent_ode": {"scheme": "rk4", "grid": UNIFORM, "field": "mlp_time"},
    "latent_ode by ode_rnn": {"scheme": "rk4", "grid": UNIFORM, "encoder": "ode_rnn", "field": "mlp_time"},
    "rnn_vae": {},
}


def network(case: str, **options: Any) -> Any:
    torch.manual_seed(0)
    options = NETWORKS[case] | {"hidden": 6, "recognition": 6, "units": 5} | options
    name = case.split()[0]
    takes = ARCHITECTURES.options(name)
    given = {key: value for key, value in options.items() if key in takes or key in ("num_classes",)}
    made = ARCHITECTURES[name](in_chans=CHANNELS, **given).double().eval()
    if isinstance(made, GruD):  # rates of 0 decay nothing
        for parameter in (made.input_rate, made.input_bias):
            nn.init.uniform_(parameter, 0.1, 1.0)
        made.location += torch.arange(1.0, CHANNELS + 1)
    return made


def observations(times: Tensor, mask: Tensor, seed: int) -> Observations:
    values = torch.randn(*mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Observations(times, values * mask, mask)


def irregular(later: bool = False, size: int = 4) -> SeriesBatch:
    """Series on times of their own, some of which only one of them has; asked where observed, or ``later``."""
    stream = torch.Generator().manual_seed(1)
    times = torch.rand(9, dtype=torch.float64, generator=stream).sort().values
    mask = (torch.rand(size, 9, CHANNELS, dtype=torch.float64, generator=stream) < 0.4).double()
    mask[0, 5:] = 0  # a short one
    mask[0, 0, 0] = 1
    observed = observations(times, mask, 2)
    if not later:
        return SeriesBatch(observed, observed)
    mask = (torch.rand(size, 5, CHANNELS, dtype=torch.float64, generator=stream) < 0.7).double()
    mask[0, 3:] = 0
    return SeriesBatch(observed, observations(times[:5] * 0.8 + 1.1, mask, 3))


def alone(batch: SeriesBatch, i: int) -> SeriesBatch:
    """One series on its own times."""

    def part(points: Observations) -> Observations:
        own = points.mask[i].any(1)
        return Observations(points.times[own], points.values[i : i + 1, own], points.mask[i : i + 1, own])

    return SeriesBatch(part(batch.observed), part(batch.targets))


def at_its_own_times(values: Tensor, batch: SeriesBatch, i: int) -> Tensor:
    return values[:, i, batch.targets.mask[i].any(1)]


def test_every_network_of_series_is_tested_here() -> None:
    known = {name for name in ARCHITECTURES if ARCHITECTURES.entry(name).facts.get("task") == "series"}
    assert known == {case.split()[0] for case in NETWORKS}


@pytest.mark.parametrize("later", [False, True], ids=["interpolation", "extrapolation"])
@pytest.mark.parametrize("case", NETWORKS)
def test_a_series_alone_equals_itself_in_a_batch(case: str, later: bool) -> None:
    made, batch = network(case), irregular(later)
    together = made.predict(batch).values
    for i in range(len(batch.observed.values)):
        single = made.predict(alone(batch, i)).values
        torch.testing.assert_close(single[:, 0], at_its_own_times(together, batch, i), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["ode_rnn", "latent_ode", "latent_ode by ode_rnn"])
def test_on_adaptive_grids_it_does_to_the_tolerance(case: str) -> None:
    fine = {"name": "adaptive", "rtol": 1e-8, "atol": 1e-8}
    encoding = {"encoder_scheme": "dopri5", "encoder_grid": fine} if case.endswith("ode_rnn") and " " in case else {}
    made, batch = network(case, scheme="dopri5", grid=fine, **encoding), irregular(later=True)
    together = made.predict(batch).values
    for i in range(len(batch.observed.values)):
        single = made.predict(alone(batch, i)).values
        torch.testing.assert_close(single[:, 0], at_its_own_times(together, batch, i), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("later", [False, True], ids=["interpolation", "extrapolation"])
@pytest.mark.parametrize("case", NETWORKS)
def test_times_at_which_nothing_is_observed_or_asked_change_nothing(case: str, later: bool) -> None:
    made, batch = network(case), irregular(later)

    def padded(points: Observations) -> Observations:
        more = torch.tensor([0.01, 0.5, 0.99], dtype=torch.float64) * points.times[-1]
        times, order = torch.cat((points.times, more)).sort()
        blank = torch.zeros_like(points.values[:, :3])
        return Observations(times, *(torch.cat((part, blank), 1)[:, order] for part in points[1:]))

    observed = padded(batch.observed)
    targets = padded(batch.targets) if later else observed
    found = made.predict(SeriesBatch(observed, targets)).values[:, :, torch.isin(targets.times, batch.targets.times)]
    here = batch.targets.mask.any(2)
    expected = made.predict(batch).values
    torch.testing.assert_close(found[:, here], expected[:, here], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", NETWORKS)
def test_a_masked_channel_carries_no_gradient_and_its_value_does_not_matter(case: str) -> None:
    made, batch = network(case), irregular(later=True)
    values = batch.observed.values.clone().requires_grad_()
    targets = batch.targets.values.clone().requires_grad_()
    torch.manual_seed(0)
    loss = made.loss(SeriesBatch(batch.observed._replace(values=values), batch.targets._replace(values=targets)))
    loss.backward()
    for tensor, mask in ((values, batch.observed.mask), (targets, batch.targets.mask)):
        assert tensor.grad is not None
        assert not tensor.grad[mask == 0].any()
        assert tensor.grad[mask > 0].any()
    for nothing in (7e3, math.nan):
        garbage = [torch.where(part.mask > 0, part.values, nothing) for part in batch[:2]]
        other = SeriesBatch(batch.observed._replace(values=garbage[0]), batch.targets._replace(values=garbage[1]))
        torch.manual_seed(0)
        torch.testing.assert_close(made.loss(other), loss, rtol=1e-14, atol=0)
    made.adapt([batch.observed])
    location, scale = made.location.clone(), made.scale.clone()
    made.adapt([other.observed])
    assert torch.equal(made.location, location)
    assert torch.equal(made.scale, scale)


@pytest.mark.parametrize("case", NETWORKS)
def test_a_prediction_reads_no_asked_value(case: str) -> None:
    made, batch = network(case), irregular(later=True)
    garbage = batch._replace(targets=batch.targets._replace(values=torch.full_like(batch.targets.values, 7e3)))
    assert torch.equal(made.predict(garbage).values, made.predict(batch).values)


@pytest.mark.parametrize("case", ["rnn", "gru_d", "ode_rnn"])
def test_one_step_ahead_reads_only_what_lies_before(case: str) -> None:
    made, batch = network(case), irregular()
    values = batch.observed.values.clone().requires_grad_()
    observed = batch.observed._replace(values=values)
    found = made.predict(SeriesBatch(observed, observed)).values[0]
    for k in (3, 6):
        (gradient,) = torch.autograd.grad(found[:, k].sum(), values, retain_graph=True)
        assert not gradient[:, k:].any()
        assert gradient[:, :k].any()


@pytest.mark.parametrize("case", ["rnn", "gru_d", "ode_rnn"])
def test_behind_its_observations_a_recurrence_is_fed_its_own_predictions(case: str) -> None:
    made, batch = network(case), irregular(later=True)
    whole = batch.targets._replace(mask=torch.ones_like(batch.targets.mask))
    rolled = made.predict(SeriesBatch(batch.observed, whole)).values[0]
    together = [torch.cat(parts, 1) for parts in zip(batch.observed[1:], (rolled, whole.mask), strict=True)]
    led = Observations(torch.cat((batch.observed.times, whole.times)), together[0], together[1])
    torch.testing.assert_close(made.predict(SeriesBatch(led, whole)).values[0], rolled, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["rnn", "gru_d", "ode_rnn"])
def test_fed_in_training_it_reads_its_predictions_in_place_of_observations(case: str) -> None:
    made, batch = network(case, feeding=1.0), irregular()
    values = batch.observed.values.clone().requires_grad_()
    seen = batch.observed._replace(values=values)
    for training in (True, False):
        (gradient,) = torch.autograd.grad(made.train(training).predict(SeriesBatch(seen, seen)).values.sum(), values)
        assert gradient.any() != training


@pytest.mark.parametrize("case", NETWORKS)
def test_a_series_without_any_observation_has_a_prediction(case: str) -> None:
    made, batch = network(case), irregular(later=True)
    mask = batch.observed.mask.clone()
    mask[2] = 0
    together = made.predict(batch._replace(observed=batch.observed._replace(mask=mask))).values
    targets, elsewhere = alone(batch, 2).targets, batch.observed.times[:1] / 2
    blank = torch.zeros(1, 1, CHANNELS, dtype=torch.float64)
    single = made.predict(SeriesBatch(Observations(elsewhere, blank, blank), targets)).values
    torch.testing.assert_close(single[:, 0], at_its_own_times(together, batch, 2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", NETWORKS)
def test_it_runs_on_the_meta_device_forward_and_backward(case: str) -> None:
    made = network(case, num_classes=2).to("meta").train()
    loss = made.loss(made.random_batch((6, CHANNELS), 2))
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None for p in made.parameters())


@pytest.mark.parametrize("case", NETWORKS)
def test_width_and_inner_make_it_larger(case: str) -> None:
    sizes = [
        sum(p.numel() for p in network(case, **options).parameters())
        for options in ({}, {"inner": 1.5}, {"width": 2.0})
    ]
    assert sizes[0] < sizes[1] < sizes[2]


@pytest.mark.parametrize("gradient", ["checkpoint", "adjoint"])
@pytest.mark.parametrize("case", ["ode_rnn", "latent_ode", "latent_ode by ode_rnn"])
def test_gradient_modes_agree(case: str, gradient: str) -> None:
    batch, found = irregular(later=True), []
    fine = {"grid": {"name": "uniform", "steps": 40}} if gradient == "adjoint" else {}
    if gradient == "adjoint" and " " in case:
        fine |= {"encoder_scheme": "rk4", "encoder_grid": {"name": "uniform", "steps": 20}}
    for mode in ("backprop", gradient):
        made = network(case, gradient=mode, **fine)
        torch.manual_seed(0)
        made.loss(batch).backward()
        found.append(torch.cat([p.grad.flatten() for p in made.parameters()]))
    tolerance = 1e-11 if gradient == "checkpoint" else 1e-4
    torch.testing.assert_close(found[1], found[0], rtol=tolerance, atol=tolerance * float(found[0].abs().max()))


# Each against its equation ------------------------------------------------------------------------------------


def test_gru_d_is_the_published_recurrence() -> None:
    made, batch = network("gru_d"), alone(irregular(), 1)
    times, values, mask = batch.observed.times, batch.observed.values[0], batch.observed.mask[0]
    rate, bias, mean = made.input_rate, made.input_bias, made.location
    h, last, since = torch.zeros(made.state, dtype=torch.float64), mean, torch.zeros(CHANNELS).double()
    expected, before = [], 0.0
    for t, x, m in zip(times.tolist(), values, mask, strict=True):
        since = since + t - before
        h = h * torch.exp(-torch.clamp(made.state_rate.weight @ since + made.state_rate.bias, min=0))
        expected.append(mean + made.decoder(h))
        decay = torch.exp(-torch.clamp(rate * since + bias, min=0))
        imputed = torch.where(m > 0, x, decay * last + (1 - decay) * mean)
        h = made.cell(torch.cat((imputed - mean, m))[None], h[None])[0]
        last, since, before = torch.where(m > 0, x, last), torch.where(m > 0, 0.0, since), t
    torch.testing.assert_close(made.predict(batch).values[0, 0], torch.stack(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", NETWORKS)
def test_in_other_units_a_network_that_has_adapted_answers_the_same(case: str) -> None:
    made, batch = network(case), irregular(later=True)
    shift, factor = torch.tensor([3.0, -100.0, 0.0]).double(), torch.tensor([2.0, 30.0, 1e-3]).double()

    def told(points: Observations) -> Observations:
        return points._replace(values=(shift + factor * points.values) * points.mask)

    made.adapt([batch.observed])
    before = made.predict(batch)
    moved = SeriesBatch(told(batch.observed), told(batch.targets))
    made.adapt(alone(moved, i).observed for i in range(len(moved.observed.values)))
    torch.testing.assert_close(made.predict(moved).values, shift + factor * before.values, rtol=1e-9, atol=0)
    seen = [moved.observed.values[..., c][moved.observed.mask[..., c] > 0] for c in range(CHANNELS)]
    torch.testing.assert_close(made.location, torch.stack([own.mean() for own in seen]))
    torch.testing.assert_close(made.state_dict()["scale"], torch.stack([own.std(correction=0) for own in seen]))
    own = [moved.observed.times[mask.any(1)].diff() for mask in moved.observed.mask]
    torch.testing.assert_close(made.pace, torch.cat(own).mean())


def test_an_rnn_reads_values_mask_and_the_gap_ahead_in_mean_gaps() -> None:
    made, batch = network("rnn"), alone(irregular(), 1)
    made.adapt([irregular().observed])
    values, mask, cell = made.standardize(batch.observed).values[0], batch.observed.mask[0], made.cell
    ahead = torch.cat((batch.observed.times.diff(), torch.zeros(1).double())) / made.pace
    h, expected = torch.zeros(made.state, dtype=torch.float64), []
    for x, m, gap in zip(values, mask, ahead, strict=True):
        expected.append(made.location + made.scale * made.decoder(h))
        read = torch.cat((x, m, gap[None]))
        h = torch.tanh(cell.weight_ih @ read + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh)
    torch.testing.assert_close(made.predict(batch).values[0, 0], torch.stack(expected), rtol=1e-12, atol=1e-12)


class Clock(nn.Module):
    """y' = t."""

    def forward(self, node: Any, y: Tensor) -> Tensor:
        return node.t[:, None].expand_as(y)


def test_a_flowing_encoder_flows_from_the_last_event_to_the_first_and_to_time_0() -> None:
    made, one = network("latent_ode by ode_rnn", encoder_scheme="rk4"), alone(irregular(), 1).observed
    made.encoder.flow.path.functions[0].field = Clock()
    h, times = torch.zeros(6, dtype=torch.float64), [0.0, *one.times.tolist()]
    for k in reversed(range(len(one.times))):
        h = made.encoder.flow.cell(torch.cat((one.values[0, k], one.mask[0, k]))[None], h[None])[0]
        h = h + (times[k] ** 2 - times[k + 1] ** 2) / 2
    torch.testing.assert_close(made.encoder(one, made.pace)[0], h, rtol=1e-12, atol=1e-12)


def test_a_latent_ode_takes_its_steps_in_each_unit_of_time() -> None:
    batch, calls = irregular(later=True), []
    for steps in (4, 5):
        made = network("latent_ode", grid={"name": "uniform", "steps": steps})
        made.predict(batch)
        calls.append(made.path.forward_counts.evaluations)
    assert 1 < batch.targets.times[-1] < 2
    assert calls[1] - calls[0] == 2 * 4  # units, and stages of rk4


def test_an_ode_rnn_flows_from_each_event_to_the_next() -> None:
    made, batch = network("ode_rnn"), alone(irregular(), 1)
    made.flow.path.functions[0].field = Clock()
    h, before, expected = torch.zeros(made.state, dtype=torch.float64), 0.0, []
    for t, x, m in zip(batch.observed.times.tolist(), *(part[0] for part in batch.observed[1:]), strict=True):
        h, before = h + (t**2 - before**2) / 2, t
        expected.append(made.decoder(h))
        h = made.flow.cell(torch.cat((x, m))[None], h[None])[0]
    torch.testing.assert_close(made.predict(batch).values[0, 0], torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_gru_d_decays_as_far_through_times_that_are_only_asked() -> None:
    made, batch = network("gru_d"), alone(irregular(), 1)
    times = batch.observed.times
    between = torch.cat((times, (times[:-1] + times[1:]) / 2)).sort().values
    targets = observations(between, torch.ones(1, len(between), CHANNELS).double(), 4)
    found = made.predict(SeriesBatch(batch.observed, targets)).values[:, :, ::2]
    torch.testing.assert_close(found, made.predict(batch).values, rtol=1e-12, atol=1e-12)


def still(module: nn.Module) -> None:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def test_an_ode_rnn_whose_state_stands_still_is_a_gru_on_values_and_mask() -> None:
    made = network("ode_rnn", field="mlp")
    still(made.flow.path)
    batch = alone(irregular(), 2)
    read = torch.cat(batch.observed[1:], 2)
    gru = nn.GRU(2 * CHANNELS, made.state, batch_first=True).double()
    for name, parameter in made.flow.cell.named_parameters():
        getattr(gru, f"{name}_l0").data.copy_(parameter)
    states, _ = gru(read)
    before = torch.cat((torch.zeros_like(states[:, :1]), states[:, :-1]), 1)
    torch.testing.assert_close(made.predict(batch).values[0], made.decoder(before), rtol=1e-12, atol=1e-12)


def test_an_ode_rnn_solves_each_gap_of_each_series() -> None:
    class Decay(nn.Module):
        def forward(self, node: Any, y: Tensor) -> Tensor:
            return -(2.0 + 3.0 * node.t)[:, None] * y

    made = network("ode_rnn", grid={"name": "uniform", "steps": 40})
    made.flow.path.functions[0].field = Decay()  # type: ignore[union-attr]
    start, gap = torch.tensor([0.2, 0.0, 1.0]).double(), torch.tensor([0.5, 0.0, -0.4]).double()
    y = torch.ones(3, made.state, dtype=torch.float64)
    end = start + gap
    expected = torch.exp(-2 * gap - 1.5 * (end**2 - start**2))
    found = made.flow.through(y, start, gap, accumulate=False)
    torch.testing.assert_close(found, expected[:, None].expand_as(y), rtol=1e-7, atol=0)


@pytest.mark.parametrize("options", [{}, {"encoder": "ode_rnn"}], ids=["rnn", "ode_rnn"])
def test_an_encoder_runs_backwards_down_to_time_0(options: dict[str, Any]) -> None:
    made = network("latent_ode", **options)
    batch = irregular()
    one = alone(batch, 1).observed

    def mean(observed: Observations) -> Tensor:
        return made.encode(observed)[0]

    swapped = one._replace(values=one.values.flip(1), mask=one.mask.flip(1))
    later = one._replace(times=one.times + 0.5)
    assert not torch.allclose(mean(swapped), mean(one))
    assert not torch.allclose(mean(later), mean(one))
    values = one.values.clone().requires_grad_()
    mean(one._replace(values=values)).sum().backward()
    assert values.grad is not None
    reach = values.grad[0].abs().sum(1)
    assert reach[0] > reach[-1] > 0  # what was read last counts most


def test_the_recurrent_encoder_is_the_plain_cell_on_the_reversed_series() -> None:
    made = network("latent_ode")
    made.pace.fill_(0.3)
    one = alone(irregular(), 1).observed
    h, times = torch.zeros(1, 6, dtype=torch.float64), [0.0, *one.times.tolist()]
    rnn = made.encoder.rnn
    for k in reversed(range(len(one.times))):
        read = torch.cat(
            (one.values[:, k], one.mask[:, k], torch.full((1, 1), (times[k + 1] - times[k]) / 0.3, dtype=h.dtype)), 1
        )
        h = torch.tanh(read @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0)
    torch.testing.assert_close(made.encoder(one, made.pace), h, rtol=1e-12, atol=1e-12)


def test_an_rnn_vae_decodes_along_the_gaps_of_what_is_asked_from_time_0_on() -> None:
    made, batch = network("rnn_vae", cell="rnn"), irregular(later=True)
    made.adapt([batch.observed])
    own, rnn = batch.targets.mask[1].any(1), made.rnn
    z = torch.randn(3, len(own) - 1, made.latent, dtype=torch.float64)
    found = made.generate(z, batch.targets)[:, 1, own]
    for sample, start in enumerate(z[:, 1]):
        h, before, expected = torch.tanh(made.first(start)), 0.0, []
        for t in batch.targets.times[own].tolist():
            gap = torch.tensor([t - before], dtype=torch.float64) / made.pace
            h = torch.tanh(rnn.weight_ih_l0 @ gap + rnn.bias_ih_l0 + rnn.weight_hh_l0 @ h + rnn.bias_hh_l0)
            expected.append(made.decoder(h))
            before = t
        torch.testing.assert_close(found[sample], torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_divergence_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean, sd = torch.randn(5, 4).double(), torch.rand(5, 4).double() + 0.1
    expected = kl_divergence(Normal(mean, sd), Normal(torch.zeros_like(mean), torch.ones_like(sd))).sum(1)
    torch.testing.assert_close(divergence(mean, sd), expected)


@pytest.mark.parametrize("case", ["latent_ode", "rnn_vae"])
def test_the_loss_is_the_negative_bound(case: str) -> None:
    made, batch = network(case, observation_sd=0.7), irregular()
    mean, sd = made.encode(batch.observed)
    torch.manual_seed(3)
    loss = made.loss(batch)
    torch.manual_seed(3)
    noise = torch.randn(1, *mean.shape, dtype=torch.float64)
    values = made.generate(mean + sd * noise, batch.targets)[0]
    logs = (Normal(values, 0.7).log_prob(batch.targets.values) * batch.targets.mask).sum((1, 2))
    expected = (-logs + kl_divergence(Normal(mean, sd), Normal(0.0, 1.0)).sum(1)).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(made.negative_bound(batch, noise).mean(), expected)


def test_the_weight_of_the_divergence_rises_and_its_count_is_kept() -> None:
    made = network("latent_ode", kl_wait=2, kl_rise=10.0)
    weights = [float(made.train().kl_factor()) for _ in range(4)]
    assert weights == pytest.approx([0.0, 0.0, 0.0, 1 - math.exp(-0.1)])
    other = network("latent_ode", kl_wait=2, kl_rise=10.0).train()
    other.load_state_dict(made.state_dict())
    assert float(other.kl_factor()) == pytest.approx(1 - math.exp(-0.2))
    assert made.eval().kl_factor() == 1.0
    assert int(made.batches) == 4


def test_a_time_scale_is_a_factor_of_f_and_of_its_time() -> None:
    """On a uniform grid, whose steps are those of a unit of the data, and of which observations are asked for."""
    batch = irregular(later=True)
    made, plain = network("latent_ode", time_scale=3.0), network("latent_ode")
    plain.load_state_dict(made.state_dict())
    with torch.no_grad():
        layers = [module for module in plain.path.modules() if isinstance(module, TimedLinear)]
        for layer in layers:
            layer.weight[:, 0] *= 3.0
        layers[-1].weight *= 3.0
        layers[-1].bias *= 3.0
    torch.testing.assert_close(made.predict(batch).values, plain.predict(batch).values)
    assert not torch.allclose(made.predict(batch).values, network("latent_ode").predict(batch).values)


@pytest.mark.parametrize("case", NETWORKS)
def test_a_decoder_takes_an_activation_by_name(case: str) -> None:
    batch = irregular()
    default, tanh, relu = (
        network(case, **options) for options in ({}, {"decoder_activation": "tanh"}, {"decoder_activation": "relu"})
    )
    assert torch.equal(default.predict(batch).values, tanh.predict(batch).values)
    assert [type(part) for part in relu.decoder] == [nn.Linear, nn.ReLU, nn.Linear]
    assert not torch.equal(default.predict(batch).values, relu.predict(batch).values)
    with pytest.raises(SchemenetError, match="no activation 'rleu'; did you mean 'relu'"):
        network(case, decoder_activation="rleu")


def test_predictions_of_several_samples_spread_around_that_of_the_mean() -> None:
    made: Variational = network("latent_ode")
    batch = irregular(later=True)
    found = made.predict(batch, samples=400).values
    assert found.shape == (400, *batch.targets.values.shape)
    assert torch.equal(made.predict(batch).values, made.predict(batch).values)
    assert (found.std(0) > 0).all()
    torch.testing.assert_close(found.mean(0), made.predict(batch).values[0], rtol=0, atol=0.1)


@pytest.mark.parametrize("case", NETWORKS)
def test_labels_add_their_cross_entropy_and_unknown_ones_nothing(case: str) -> None:
    plain, made = network(case), network(case, num_classes=3, label_weight=2.0)
    made.load_state_dict(plain.state_dict(), strict=False)
    batch = irregular()
    losses = []
    for labels in ([2, 0, UNLABELLED, 1], [UNLABELLED] * 4):
        torch.manual_seed(0)
        losses.append(made.loss(batch._replace(labels=torch.tensor(labels))))
    torch.manual_seed(0)
    torch.testing.assert_close(losses[1], plain.loss(batch))
    logits = made.predict(batch).logits.log_softmax(1)
    expected = -2.0 * (logits[0, 2] + logits[1, 0] + logits[3, 1]) / 3
    torch.testing.assert_close(losses[0] - losses[1], expected)
    assert plain.predict(batch).logits is None


@pytest.mark.parametrize("case", ["rnn of gru without gaps", "gru_d", "ode_rnn"])
def test_a_class_is_told_by_what_was_observed_alone(case: str) -> None:
    made = network(case, num_classes=2)
    logits = [made.predict(irregular(later)).logits for later in (False, True)]
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-12, atol=1e-12)


BAD: dict[str, tuple[Callable[..., SeriesModel], dict[str, Any], str]] = {
    "samples": (LatentOde, {"samples": 0}, "samples expected to be at least 1, got 0"),
    "weights": (RnnVae, {"kl_weight": -1.0}, "kl_weight expected to be at least 0, got -1"),
    "feeding": (Recurrent, {"feeding": 1.5}, "feeding expected to be a probability, got 1.5"),
    "weight of labels": (GruD, {"label_weight": -1.0}, "label_weight expected to be at least 0, got -1"),
    "scale of time": (LatentOde, {"time_scale": 0.0}, "time_scale expected to be positive, got 0"),
    "sizes": (Recurrent, {"hidden": 0}, "hidden expected to be positive, got 0"),
    "images": (OdeRnn, {"field": "basic"}, "has vectors for states; field 'basic' takes images"),
    "uniform": (LatentOde, {"grid": "uniform"}, "expected steps, and no time"),
    "coupled": (LatentOde, {"scheme": "verlet", "grid": UNIFORM}, "couples 2 parts of a state"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_built_is_refused(case: str) -> None:
    make, options, message = BAD[case]
    with pytest.raises(SchemenetError, match=message):
        make(in_chans=2, **options)
