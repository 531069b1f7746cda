"""Sets of irregular series, from files and generated, and runs on them as a user starts them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from architectures.factory import create_model
from architectures.observations import Observations, SeriesBatch
from architectures.standardizer import moments
from lightning_modules import cli
from lightning_modules.config.compose import compose
from lightning_modules.data.series.base import SeriesLoader
from lightning_modules.data.series.csv import SeriesCSV
from lightning_modules.data.series.physionet import CHANNELS, HEADER, OUTCOMES, PhysioNet
from lightning_modules.data.series.series_set import RaggedSeries
from lightning_modules.data.series.spiral_series import SpiralSeries
from lightning_modules.evaluation.evaluate import evaluate
from lightning_modules.launching.multi_process import train
from lightning_modules.plotting import series as series_picture
from lightning_modules.tasks.series import AreaUnderCurve, posterior_noise
from schemes.errors import SchemenetError

EVERYTHING = torch.arange(10_000)


def whole(samples: Any) -> Any:
    return samples[EVERYTHING[: len(samples)]]


# Spirals ------------------------------------------------------------------------------------------------------


def spirals(**options: Any) -> SpiralSeries:
    data = SpiralSeries(**({"train_size": 12, "test_size": 8} | options))
    data.setup()
    return data


def test_spirals_are_shown_in_part_and_asked_for_what_comes_behind() -> None:
    data = spirals(observed=30)
    train, test = whole(data.train_set), whole(data.test_set)
    assert train.observed is train.targets
    assert (train.observed.mask.any(2).sum(1) == 30).all()
    assert 0 <= train.observed.times.min() < train.observed.times.max() <= 0.99
    assert len(test.observed.values) == 8
    torch.testing.assert_close(test.targets.times, torch.arange(100, 200) / 100)
    assert test.targets.mask.all()


def test_what_is_asked_has_no_noise_and_goes_on_from_what_is_shown() -> None:
    clean, noisy = (whole(spirals(observed=100, noise=noise).test_set) for noise in (0.0, 0.3))
    torch.testing.assert_close(clean.targets.values, noisy.targets.values)
    assert (noisy.observed.values - clean.observed.values).std() == pytest.approx(0.3, rel=0.1)
    path = torch.cat((clean.observed.values, clean.targets.values), 1)
    steps = path.diff(dim=1).norm(dim=2)
    assert (steps.diff(dim=1).abs() < 0.03 * steps[:, 1:]).all()


def test_half_of_the_spirals_turn_clockwise() -> None:
    path = whole(spirals(observed=100, noise=0.0).test_set).observed.values
    step = path.diff(dim=1)
    turn = (step[:, :-1, 0] * step[:, 1:, 1] - step[:, :-1, 1] * step[:, 1:, 0]).sum(1)
    assert (turn < 0).tolist() != (turn > 0).tolist()
    assert (turn[0::2] * turn[1::2] < 0).all()


def test_a_held_out_part_is_examined_as_the_test_set_is() -> None:
    plain, data = spirals(), spirals(validation=0.25)
    assert (len(data.train_set), len(data.validation_set)) == (9, 3)
    held = whole(data.validation_set)
    assert held.targets.times.min() == 1.0
    assert held.targets.times.max() < 2
    before, kept = (whole(of.train_set).observed.values.sum((1, 2)) for of in (plain, data))
    assert (torch.isclose(kept[:, None], before).sum(1) == 1).all()


def window_batches(data: SpiralSeries, epoch: int, begin: int = 0, rank: int = 0, world: int = 1) -> dict[int, Any]:
    """What each training series is shown in an epoch, from a batch on."""
    loader = SeriesLoader(
        data.train_set, data.batch_size, window=data.window, train=True, rank=rank, world_size=world, drop_last=False
    )
    loader.load_state_dict({"epoch": epoch, "batch": begin})
    loader.set_epoch(epoch)
    shown = {}
    for batch in loader:
        for i, index in enumerate(batch.indices.tolist()):
            here = batch.targets.mask[i].any(1)
            shown[index] = (batch.observed.mask[i].any(1).sum().item(), batch.targets.values[i, here].tolist())
    return shown


def test_windows_are_decided_by_seed_epoch_and_series() -> None:
    data = spirals(window=0.5, batch_size=12)
    first = window_batches(data, epoch=3)
    assert len(first) == 12
    assert window_batches(spirals(window=0.5, batch_size=5), epoch=3) == first
    halves = [window_batches(data, epoch=3, rank=rank, world=2) for rank in range(2)]
    assert halves[0] | halves[1] == first
    resumed = window_batches(spirals(window=0.5, batch_size=5), epoch=3, begin=1)
    assert len(resumed) == 7
    assert resumed.items() <= first.items()
    assert sum(first[i] == window_batches(data, epoch=4)[i] for i in first) < 6


def test_windows_leave_what_is_measured_and_what_units_are_taken_from() -> None:
    plain, data = spirals(validation=0.25), spirals(validation=0.25, window=0.5)
    for mine, others in ((data.train_set, plain.train_set), (data.validation_set, plain.validation_set)):
        assert torch.equal(whole(mine).observed.values, whole(others).observed.values)
    measured = next(iter(data.val_dataloader()))
    assert torch.equal(measured.targets.values, whole(plain.validation_set).targets.values)


def test_windows_of_regular_times_have_few_in_their_union() -> None:
    data = spirals(train_size=200, observed=100, window=0.5)
    loader = data.train_dataloader()
    loader.batch_size = 200
    targets = next(iter(loader)).targets
    assert (targets.mask.sum((1, 2)) / 2 > 50).all()
    assert len(targets.times) < 120


def test_a_window_is_a_share() -> None:
    with pytest.raises(SchemenetError, match=r"data.window: expected a share of the span in \(0, 1\), got 1.0"):
        spirals(window=1.0)


# PhysioNet ----------------------------------------------------------------------------------------------------

STAY = f"""{HEADER}
00:00,RecordID,{{record}}
00:00,Age,54
00:00,Gender,1
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,-1
00:07,HR,{{hr}}
00:20,HR,80
07:30,Temp,35.5
30:00,HR,100
47:59,,3.1
"""


def write_physionet(folder: Path, name: str = "a") -> None:
    """One of the sets, twenty stays and one without observations; outcomes of all but the last."""
    place = folder / f"set-{name}"
    place.mkdir()
    rows = [OUTCOMES]
    for i in range(20):
        (place / f"{100 + i}.txt").write_text(STAY.format(record=100 + i, hr=60 + i))
        rows += [f"{100 + i},6,1,5,-1,{i % 2}"] if i < 19 else []
    (place / "200.txt").write_text(f"{HEADER}\n00:00,RecordID,200\n00:00,Weight,-1\n")
    (folder / f"Outcomes-{name}.txt").write_text("\n".join(rows) + "\n")


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    write_physionet(tmp_path)
    return tmp_path


def physionet(root: Path, **options: Any) -> PhysioNet:
    data = PhysioNet(**({"root": str(root), "sets": ["a"], "quantisation": 0.5} | options))
    data.check()
    data.setup()
    return data


def test_stays_are_read_averaged_and_scaled_by_the_training_part(sets: Path) -> None:
    data = physionet(sets)
    train, test = whole(data.train_set).observed, whole(data.test_set).observed
    assert (len(train.values), len(test.values)) == (16, 4)
    hr, temp = (CHANNELS.index(name) for name in ("HR", "Temp"))
    torch.testing.assert_close(train.times * 48, torch.tensor([0.0, 0.5, 7.5, 30.0]))
    assert train.mask.sum((0, 1)).nonzero()[:, 0].tolist() == [hr, temp]  # -1 is missing, statics are left out
    assert float(train.values[:, 0, hr].min()) == 0.0
    assert (train.values[train.mask > 0] <= 1).all()
    assert set(train.values[:, 3, hr].tolist()) == {1.0}
    assert data.shape == (75, 37)


def test_scaling_reads_the_training_part_only(sets: Path) -> None:
    before = physionet(sets)
    train = whole(before.train_set).observed.values
    for record in range(100, 120):  # the heart rate of a test stay becomes enormous
        file = sets / "set-a" / f"{record}.txt"
        content = file.read_text()
        file.write_text(content.replace("30:00,HR,100", "30:00,HR,250"))
        after = physionet(sets)
        if torch.equal(whole(after.train_set).observed.values, train):
            assert whole(after.test_set).observed.values.max() > 1
            return
        file.write_text(content)
    pytest.fail("no stay is of the test set")


def test_what_falls_together_is_averaged(sets: Path) -> None:
    hr = CHANNELS.index("HR")
    coarse, fine = (whole(physionet(sets, quantisation=hours).train_set).observed for hours in (1.0, 0.0))
    assert (coarse.times * 48).tolist() == pytest.approx([0, 8, 30], abs=1e-4)  # 07:30 is rounded to even
    assert (fine.times * 48 * 60).round().tolist() == [7, 20, 450, 1800]
    low, mean = fine.values[:, 0, hr], fine.values[:, :2, hr].mean(1)
    shift = (mean - mean.min()) / (1 - mean.min())  # scaled anew: the least mean is 0, 100 is 1
    torch.testing.assert_close(coarse.values[:, 0, hr], shift)
    assert (low < mean).all()


def test_modes_labels_and_statics(sets: Path) -> None:
    data = physionet(sets, mode="extrapolation", labels=True, statics=True)
    batch = whole(data.train_set)
    assert data.context == {"num_classes": 2, "in_chans": 41, "image_size": None}
    assert batch.observed.times.max() < 0.5 <= batch.targets.times.min()
    assert {label for part in (data.train_set, data.test_set) for label in whole(part).labels.tolist()} == {-1, 0, 1}
    assert batch.observed.mask[..., CHANNELS.index("Age")].any()


def test_what_was_read_is_kept_until_a_file_changes(sets: Path) -> None:
    first = whole(physionet(sets).train_set)
    kept = sets / "set-a.pt"
    stored = torch.load(kept, weights_only=True)
    stored["rows"]["value"] = stored["rows"]["value"] * 0 + torch.arange(len(stored["rows"]["value"]))
    torch.save(stored, kept)
    assert not torch.equal(whole(physionet(sets).train_set).observed.values, first.observed.values)  # it is read
    file = sets / "set-a" / "100.txt"
    file.write_text(file.read_text())
    torch.testing.assert_close(whole(physionet(sets).train_set).observed.values, first.observed.values)
    kept.write_text("no tensors")
    torch.testing.assert_close(whole(physionet(sets).train_set).observed.values, first.observed.values)


BAD: dict[str, tuple[str, int, str]] = {
    "text in a number column": ("00:07,HR,fast", 2, "HR: expected a number, got 'fast'"),
    "a number that is none": ("00:07,HR,nan", 2, "HR: expected a number, got 'nan'"),
    "times out of order": ("00:07,HR,60\n00:06,HR,61", 3, "time 00:06 comes after 00:07; expected rows in order"),
    "a time that is none": ("noon,HR,60", 2, "expected a time as hours and minutes, 07:30, got 'noon'"),
    "an unknown parameter": ("00:07,HRR,60", 2, "no parameter 'HRR'; did you mean"),
    "a time behind the stay": ("600:00,HR,60", 2, "expected a time up to 48:00, the length of a stay, got '600:00'"),
    "a number beyond single precision": ("00:07,HR,1e39", 2, "HR: expected a number, got '1e39'"),
    "a missing cell": ("00:07,HR", 2, "expected three cells"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_told_with_file_and_line(case: str, sets: Path) -> None:
    rows, line, message = BAD[case]
    file = sets / "set-a" / "104.txt"
    file.write_text(f"{HEADER}\n{rows}\n")
    with pytest.raises(SchemenetError) as caught:
        physionet(sets)
    assert str(caught.value).startswith(f"{file}, line {line}: {message}")


def test_bad_heads_outcomes_and_folders(sets: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemenetError, match=r"set-b with files"):
        physionet(sets, sets=["b"])
    with pytest.raises(SchemenetError, match=r"data\.sets: expected some of a, b and c"):
        physionet(sets, sets=["z"])
    with pytest.raises(SchemenetError, match=r"data\.root=\.\.\."):
        physionet(tmp_path / "none")
    (sets / "set-a" / "104.txt").write_text("Time;Parameter;Value\n")
    with pytest.raises(SchemenetError, match=r"104\.txt, line 1: expected 'Time,Parameter,Value'"):
        physionet(sets)
    (sets / "set-a" / "104.txt").write_text("")
    with pytest.raises(SchemenetError, match=r"104\.txt, line 1: expected 'Time,Parameter,Value', got ''"):
        physionet(sets)
    (sets / "set-a" / "104.txt").unlink()
    (sets / "Outcomes-a.txt").write_text(f"{OUTCOMES}\n100,6,1,5,-1,dead\n")
    with pytest.raises(SchemenetError, match=r"Outcomes-a\.txt, line 2: expected"):
        physionet(sets, labels=True)
    (sets / "Outcomes-a.txt").write_text("")
    with pytest.raises(SchemenetError, match=r"Outcomes-a\.txt, line 1: expected 'RecordID,"):
        physionet(sets, labels=True)
    (sets / "Outcomes-a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SchemenetError, match=r"Outcomes-a\.txt: cannot be read"):
        physionet(sets, labels=True)
    (sets / "Outcomes-a.txt").unlink()
    with pytest.raises(SchemenetError, match=r"data.labels: there is no .*Outcomes-a.txt"):
        physionet(sets, labels=True)


# The user's csv -----------------------------------------------------------------------------------------------


def waves(path: Path, series: int = 20, label: bool = False, spoil: Callable[[int, int], bool] | None = None) -> Path:
    """Sines at times of their own; the second channel is missing now and then."""
    rows = ["series,time,a,b" + (",label" if label else "")]
    for i in range(series):
        for k in range(8):
            t = 10 + k + 0.1 * (i % 5)
            b = "" if (i + k) % 3 == 0 else f"{100 + 5 * math.cos(t + i):.4f}"
            rows.append(f"s{i},{t:.1f},{math.sin(t + i):.4f},{b}" + (f",{'ab'[i % 2]}" if label else ""))
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_csv_becomes_a_training_and_a_test_set(tmp_path: Path) -> None:
    data = SeriesCSV(path=str(waves(tmp_path / "w.csv", label=True)), test=0.25)
    data.check()
    data.setup()
    train, test = whole(data.train_set), whole(data.test_set)
    assert (len(train.labels), len(test.labels)) == (15, 5)
    assert data.context == {"num_classes": 2, "in_chans": 2, "image_size": None}
    assert data.channels == ("a", "b")
    assert (float(train.observed.times.min()), float(train.observed.times.max())) == (0.0, 1.0)
    begin, length, label = data.time_scale
    assert (begin, begin + length) == pytest.approx((10.0, 17.4), rel=1e-6), "a picture has the times of the file"
    assert "file" in label
    count = train.observed.mask.sum((0, 1))
    mean = train.observed.values.sum((0, 1)) / count
    torch.testing.assert_close(mean, torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(train.observed.values.square().sum((0, 1)) / count, torch.ones(2), rtol=1e-4, atol=0)
    ahead = SeriesCSV(path=str(tmp_path / "w.csv"), mode="extrapolation")
    ahead.setup()
    batch = whole(ahead.train_set)
    assert batch.observed.times.max() < 0.5 <= batch.targets.times.min()


# As a user starts them ----------------------------------------------------------------------------------------

QUICK = ("logger=csv", "optimizer=adamw", "optimizer.lr=0.01", "data.batch_size=16")


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    return train(compose("train", [*QUICK, *overrides]), folder)


def test_a_latent_ode_learns_spirals_and_is_drawn_and_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(
        tmp_path / "run", "architecture=latent_ode", "data=spiral_series", "data.train_size=64", "data.test_size=16",
        "trainer.max_epochs=25",
    )  # fmt: skip
    spread = whole(spirals(test_size=16).test_set).targets.values.std()
    assert result["test_rmse"] < 0.75 * spread
    assert math.isfinite(result["test_nats"])
    assert "test_error" not in result
    assert cli.main(["eval", str(tmp_path / "run")]) == 0
    found = json.loads(next((tmp_path / "run").glob("eval-*.json")).read_text())
    assert found["trained"]["test_rmse"] == pytest.approx(result["test_rmse"], rel=1e-5)
    single = evaluate(tmp_path / "run", ["data.batch_size=3"])["trained"]
    assert single["test_nats"] == pytest.approx(result["test_nats"], rel=1e-4)
    picture = tmp_path / "series.png"
    assert cli.main(["figure", "series", str(tmp_path / "run"), "--out", str(picture)]) == 0
    assert picture.stat().st_size > 20_000
    capsys.readouterr()


def test_the_draws_of_a_bound_belong_to_the_series_and_not_to_the_batch() -> None:
    test_set = spirals(test_size=8).test_set
    noise = posterior_noise(whole(test_set), 4)
    assert not torch.equal(noise[:, 0], noise[:, 1])
    for chosen in ([4, 1], [7], [0, 1, 2]):
        assert torch.equal(posterior_noise(test_set[torch.tensor(chosen)], 4), noise[:, chosen])
    part = test_set.part(torch.tensor([2, 5]))
    assert torch.equal(posterior_noise(part[torch.tensor([1])], 4), noise[:, [5]])


@pytest.mark.parametrize("name", ["rnn", "gru_d", "ode_rnn", "rnn_vae"])
def test_the_others_learn_too(name: str, tmp_path: Path) -> None:
    file = waves(tmp_path / "w.csv", 40)
    result = run(tmp_path, f"architecture={name}", "data=series_csv", f"data.path={file}", "trainer.max_epochs=20")
    assert result["status"] == "done"
    assert result["test_mse"] < 0.85  # the mean of each channel has 1


def test_labels_are_learned_and_channels_drawn(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(
        tmp_path / "run", "architecture=latent_ode", "architecture.encoder=ode_rnn", "data=physionet",
        f"data.root={sets}", "data.sets=[a]", "data.labels=true", "data.quantisation=1", "trainer.max_epochs=1",
        "architecture.latent=3", "architecture.recognition=5", "architecture.units=4", "data.batch_size=4",
    )  # fmt: skip
    assert 0 <= result["test_error"] <= 1
    assert result["test_mse_by_channel"] < result["test_mse"]
    assert cli.main(["eval", str(tmp_path / "run"), "grid.rtol=1e-6"]) == 0  # beside an encoder's grid that has none
    assert "dopri5, steps by rtol 1e-06, atol 0.001" in capsys.readouterr().out
    picture = tmp_path / "series.png"
    assert cli.main(["figure", "series", str(tmp_path / "run"), "--out", str(picture)]) == 0
    assert picture.stat().st_size > 20_000
    capsys.readouterr()


def test_a_picture_of_another_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "architecture=mlp", "data=moons", "data.limit_train=32", "trainer.max_epochs=1")
    assert cli.main(["figure", "series", str(tmp_path)]) == 2
    assert "expected a run on irregular series" in capsys.readouterr().err


def test_series_are_drawn_in_the_plane_where_no_point_lacks_a_channel() -> None:
    times, values = torch.tensor([0.0, 1.0]), torch.zeros(2, 2, 2)
    padded = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]])  # one series has no second point
    assert series_picture.every_channel_known(Observations(times, values, padded))
    padded[1, 1, 0] = 0
    assert not series_picture.every_channel_known(Observations(times, values, padded))


def test_a_picture_goes_on_behind_what_was_observed_where_nothing_later_was_asked() -> None:
    network = create_model("latent_ode", in_chans=1, latent=2, recognition=3, units=4).double().eval()
    early, late = (Observations(torch.tensor(times), torch.ones(1, 2, 1), torch.ones(1, 2, 1))
                   for times in ([0.0, 0.8], [0.8, 0.9]))  # fmt: skip
    ends = [
        float(series_picture.answer(network, SeriesBatch(early, targets, None), 0).times[-1])
        for targets in (early, late)
    ]
    assert ends == pytest.approx([1.0, 0.9])
    assert series_picture.answer(network, SeriesBatch(early, early, None), 0).last == pytest.approx(0.8)


def test_an_area_under_the_curve_is_of_the_classes_that_have_one() -> None:
    stream = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(40, 3, generator=stream).softmax(1), torch.randint(0, 3, (40,), generator=stream)
    area = AreaUnderCurve(3, ignore_index=-1)
    for chosen, classes in ((labels >= 0, (0, 1, 2)), (labels != 1, (0, 2))):
        area.reset()
        area.update(scores[chosen], labels[chosen])
        area.update(scores[:2], torch.full((2,), -1))
        expected = [roc_auc_score(labels[chosen] == one, scores[chosen, one]) for one in classes]
        assert float(area.compute()) == pytest.approx(sum(expected) / len(expected), rel=1e-5)
    two = AreaUnderCurve(2)
    two.update(scores[:, :2], labels.clamp(max=1))
    assert float(two.compute()) == pytest.approx(roc_auc_score(labels > 0, scores[:, 1]), rel=1e-5)
    two.reset()
    two.update(scores[:, :2], torch.zeros(40, dtype=torch.long))
    assert two.compute().isnan()


def test_where_all_that_are_measured_are_of_one_class_there_is_no_auc(tmp_path: Path) -> None:
    file = waves(tmp_path / "w.csv", label=True)
    result = run(
        tmp_path,
        "architecture=rnn",
        "data=series_csv",
        f"data.path={file}",
        "data.limit_test=1",
        "trainer.max_epochs=1",
    )
    assert result["status"] == "done"
    assert result["test_auc"] is None
    assert result["test_error"] in (0.0, 1.0)


def test_units_are_taken_from_series_one_by_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the union of a thousand series' own times they would fill memory."""
    sizes, union = [], RaggedSeries.union
    monkeypatch.setattr(RaggedSeries, "union", lambda self, chosen: sizes.append(len(chosen)) or union(self, chosen))
    file = waves(tmp_path / "w.csv")
    run(
        tmp_path,
        "architecture=rnn",
        "data=series_csv",
        f"data.path={file}",
        "data.batch_size=2",
        "trainer.max_epochs=1",
    )
    assert max(sizes) == 2


def test_a_channel_that_stands_still_is_not_scaled_by_its_rounding() -> None:
    for count in (7, 100, 1000):
        values = torch.full((1, count, 2), 0.1)
        values[..., 1] += 1e-4 * torch.arange(count)
        mean, sd = moments(values, torch.ones_like(values))
        assert mean[0] == pytest.approx(0.1)
        assert sd[0] == 1.0
        assert sd[1] == pytest.approx(1e-4 * math.sqrt((count**2 - 1) / 12), rel=1e-4)


def test_channels_of_a_csv_are_centred_before_they_are_rounded(tmp_path: Path) -> None:
    file = tmp_path / "far.csv"
    rows = [f"{name},{time},{10**9 + time % 2}" for name in "abcdef" for time in range(4)]
    file.write_text("\n".join(["series,time,x", *rows]))
    data = SeriesCSV(path=str(file))
    data.setup("fit")
    values = whole(data.train_set).observed.values
    torch.testing.assert_close(values, torch.tensor([-1.0, 1, -1, 1])[:, None].expand_as(values))


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("a,0,1,p\nb,0,1,p\nc,0,1,p", "line 1: column 'label': all series are of one class, 'p'; leave it out"),
        (
            "a,7e9,1,p\na,7000000001,1,p\na,7000000002,1,p\nb,0,1,q",
            "series 'a' has the times 7000000000.0, 7000000001.0, 7000000002.0, closer than 3.34e+03",
        ),
    ],
)
def test_what_only_all_series_of_a_csv_tell(rows: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "w.csv"
    file.write_text(f"series,time,x,label\n{rows}\n")
    with pytest.raises(SchemenetError) as found:
        SeriesCSV(path=str(file)).check()
    assert str(file) in str(found.value)
    assert told in str(found.value)
