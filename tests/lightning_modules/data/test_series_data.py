"""Series as batches on the union of their times, and the user's csv of them."""

import pytest
import torch

from lightning_modules.data.csv_table import SHOWN
from lightning_modules.data.series.csv_reader import read_series
from lightning_modules.data.series.series_set import Series, SeriesSet
from schemes.errors import SchemenetError


def random_series(points, label=None, seed=0):
    stream = torch.Generator().manual_seed(seed)
    times = torch.randperm(64, generator=stream)[:points].sort().values / 64
    return Series(
        times,
        torch.randn(points, 3, generator=stream),
        torch.rand(points, 3, generator=stream) < 0.7,
        label,
    )


SERIES = [random_series(n, label, n) for n, label in [(9, 1), (4, 0), (20, 1), (1, 0)]]


def test_a_batch_holds_each_series_at_its_own_times_and_nothing_else():
    batch = SeriesSet(SERIES)[torch.tensor([2, 0, 3])]
    times, values, mask = batch.observed
    assert batch.targets is batch.observed
    assert batch.labels.tolist() == [1, 1, 0]
    own = [SERIES[i] for i in (2, 0, 3)]
    assert times.tolist() == sorted({t for one in own for t in one.times.tolist()})
    for row, one in enumerate(own):
        here = torch.isin(times, one.times)
        assert torch.equal(values[row, here], one.values.where(one.mask, 0))
        assert torch.equal(mask[row, here], one.mask.float())
        assert not mask[row, ~here].any()
        assert not values[row, ~here].any()


def test_observed_and_asked_have_a_union_each():
    early = [one.at(one.times < 0.5) for one in SERIES]
    batch = SeriesSet(early, SERIES)[torch.arange(4)]
    assert batch.observed.times.max() < 0.5 < batch.targets.times.max()
    alone = SeriesSet(SERIES)[torch.arange(4)].observed
    assert all(torch.equal(a, b) for a, b in zip(batch.targets, alone, strict=True))


def test_a_part_of_a_part_is_that_of_the_whole():
    whole = SeriesSet(SERIES)
    part = whole.part(torch.tensor([3, 1, 2])).part(torch.tensor([2, 0]))
    assert len(part) == 2
    for a, b in zip(part[torch.tensor([1, 0])].observed, whole[torch.tensor([3, 2])].observed, strict=True):
        assert torch.equal(a, b)


def test_times_that_rounding_parts_are_one_in_the_union():
    third = torch.tensor([0.1 + 0.2, 1.0], dtype=torch.float64)
    exact = torch.tensor([0.3, 1.0], dtype=torch.float64)
    assert third[0] != exact[0]
    values, mask = torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool)
    batch = SeriesSet([Series(third, values, mask), Series(exact, values, mask)])[torch.arange(2)]
    assert len(batch.observed.times) == 2


def test_two_times_of_a_series_that_rounding_joins_are_kept_apart_and_three_are_refused():
    times = torch.tensor([0.0, 0.5, 0.5 + 1e-9, 1.0], dtype=torch.float64)
    values, mask = torch.arange(4.0)[:, None], torch.ones(4, 1, dtype=torch.bool)
    batch = SeriesSet([Series(times, values, mask)] * 2)[torch.arange(2)]
    assert (batch.observed.times.diff() > 0).all()
    torch.testing.assert_close(batch.observed.times.double(), times, rtol=0, atol=5e-7)
    torch.testing.assert_close(batch.observed.values, values.expand(2, 4, 1))
    times[3] = 0.5 + 2e-9
    with pytest.raises(SchemenetError, match="series 0: expected times that increase by"):
        SeriesSet([Series(times, values, mask)])


def test_times_of_a_series_that_are_no_order_are_refused():
    twice = Series(torch.tensor([0.0, 0.5, 0.5]), torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(SchemenetError, match=r"series 1: expected times that increase by .*, got 0\.5 and 0\.5$"):
        SeriesSet([twice.at(torch.arange(2)), twice])


def test_labels_are_of_all_series_or_of_none():
    with pytest.raises(SchemenetError, match="1 of 2 series have no label"):
        SeriesSet([SERIES[0], SERIES[1]._replace(label=None)])


def test_a_window_is_shown_and_what_lies_behind_is_asked():
    lengths, places = torch.tensor([0.25, 0.5, 0.125, 0.75]), torch.tensor([0.6, 0.0, 0.4, 0.9])
    whole = SeriesSet(SERIES).windows(lengths, places)
    early, late = ([one.at(side(one.times)) for one in SERIES] for side in (lambda t: t < 0.5, lambda t: t >= 0.5))
    apart = SeriesSet(early, late).windows(lengths, places)  # what a network is measured on does not matter
    for i, (one, length) in enumerate(zip(SERIES, lengths, strict=True)):
        begins = int((one.times + length < one.times[-1]).sum())
        start = one.times[int(places[i] * begins)]
        expected = one.at(one.times >= start)
        for windows in (whole, apart):
            observed, targets, label, index = windows[torch.tensor([i])]
            shown = expected.times - start < length
            assert torch.equal(targets.times, expected.times - start)
            assert torch.equal(observed.times, targets.times[shown])
            assert shown.all() == (begins == 0)
            assert torch.equal(targets.mask[0], expected.mask.float())
            assert torch.equal(observed.values[0], expected.values.where(expected.mask, 0)[shown])
            assert (int(label), int(index)) == (one.label, i)


def test_windows_of_a_batch_are_those_of_its_series_and_of_a_part_too():
    places = torch.tensor([0.3, 0.7])
    part = SeriesSet(SERIES).part(torch.tensor([2, 0])).windows(torch.tensor([0.25, 0.5]), places)
    batch = part[torch.arange(2)]
    for i in range(2):
        alone = part[torch.tensor([i])]
        for mine, others in zip(batch[:2], alone[:2], strict=True):
            here = mine.mask[i].any(1)
            observed = others.mask[0].any(1)
            assert torch.equal(mine.times[here], others.times[observed])
            assert torch.equal(mine.values[i, here], others.values[0, observed])
    assert batch.indices.tolist() == [2, 0]


def test_points_that_are_close_stay_apart_in_a_window():
    times = torch.tensor([0.0, 0.4999998, 0.5, 0.5000002, 1.0], dtype=torch.float64)
    values, mask = torch.arange(5.0)[:, None], torch.ones(5, 1, dtype=torch.bool)
    targets = (
        SeriesSet([Series(times, values, mask)])
        .windows(torch.tensor([0.25]), torch.tensor([0.6]))[torch.tensor([0])]
        .targets
    )
    assert targets.values[0, :, 0].tolist() == [2.0, 3.0, 4.0]
    assert targets.times[0] == 0
    assert (targets.times.diff() > 0).all()


# The user's csv ------------------------------------------------------------------------------------------------


def table(tmp_path, text):
    file = tmp_path / "s.csv"
    file.write_text(text)
    return read_series(file)


def test_a_file_is_read(tmp_path):
    found = table(tmp_path, "\ufeffseries,label,time,x,y\nb,10,0,1,\na,9,0.5,2,3\n\nb,10,1.5,,-4e1\n")
    assert (found.names, found.channels, found.classes) == (["b", "a"], ["x", "y"], ["9", "10"])
    first, second = found.series
    assert first.times.tolist() == [0, 1.5]
    assert (first.label, second.label) == (1, 0)
    assert first.values.tolist() == [[1, 0], [0, -40]]
    assert first.mask.tolist() == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: no column 'series' and no column 'time'; expected a first line 'series,time,CHANNEL,...'"),
        ("series;time;x\na;0;1\n", "line 1: no column 'series'"),
        ("series,time\na,0\n", "line 1: no channel beside 'series', 'time'"),
        ("series,time,x,\na,0,1,1\n", "line 1: column 4 has no name"),
        ("series,time,x,x\na,0,1,1\n", "line 1: column 'x' appears twice"),
        ("series,time,x\n", "line 1: no rows below the names of the columns"),
        ("series,time,x\na,0,1\na,1,warm\n", "line 3: column 'x': expected a finite number, got 'warm'; a value that"),
        ("series,time,x\na,0,nan\n", "line 2: column 'x': expected a finite number, got 'nan'"),
        ("series,time,x\na,noon,1\n", "line 2: column 'time': expected a finite number, got 'noon'\n"),
        ("series,time,x\na,,1\n", "line 2: column 'time': expected a finite number, got an empty cell"),
        ("series,time,x\n,0,1\n", "line 2: column 'series': expected the name of a series, got an empty cell"),
        ("series,time,x\na,0,1,5\n", "line 2: expected 3 cells (series,time,x), got 4"),
        ("series,time,x\na,2,1\nb,0,1\na,1,1\n", "line 4: series 'a': time 1 comes after 2 (line 2); expected the"),
        ("series,time,x\na,2,1\na,2.0,1\n", "line 3: series 'a' has time 2.0 here and in line 2"),
        ("series,time,x\na,0,1\nb,0,\nb,1,\n", "line 3: series 'b' has no observation: all its cells are empty"),
        ("series,time,x,y\na,0,1,\nb,0,1,\n", "line 1: column 'y' has no value in any row; leave it out"),
        ("series,time,label,x\na,0,u,1\na,1,v,1\na,2,v,1\n", "line 3: series 'a' has label 'v' here and 'u' in line 2"),
        ('series,time,x\na,0,"1\n', "line 2: cannot be read as csv: unexpected end of data"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(tmp_path, text, said):
    with pytest.raises(SchemenetError) as caught:
        table(tmp_path, text)
    assert f"{tmp_path / 's.csv'}, {said}".rstrip("\n") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_first_mistakes_are_told_and_the_others_counted(tmp_path):
    with pytest.raises(SchemenetError) as caught:
        table(tmp_path, "series,time,x\n" + "a,0,?\n" * (SHOWN + 2))
    lines = str(caught.value).splitlines()
    assert len(lines) == SHOWN + 1
    assert all("line 2: " in line or "line 3: " in line or "line 4: " in line for line in lines[:SHOWN])
    assert lines[-1].endswith(f": and {2 * (SHOWN + 2) - 1 - SHOWN} more mistakes")


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"series,time,x\na,0,\xff\xfe\n", "UTF-8")])
def test_a_file_that_cannot_be_read(tmp_path, content, said):
    file = tmp_path / "s.csv"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SchemenetError, match=said):
        read_series(file)
