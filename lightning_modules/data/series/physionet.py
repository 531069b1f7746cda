"""PhysioNet 2012: two days of intensive care, irregular and incomplete."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from architectures.series.base import UNLABELLED
from lightning_modules.config.registries import DATA
from lightning_modules.data.on_disk import FromFiles
from lightning_modules.data.series.base import SeriesData, TimeScale, test_split, with_targets
from lightning_modules.data.series.series_set import LARGEST, Series, SeriesSet
from lightning_modules.storage.atomic_files import refuse_special, whole
from schemes.errors import SchemenetError, nearest

STATIC = ("Age", "Gender", "Height", "ICUType")
"""Descriptors of a patient, which have one value in a stay."""

CHANNELS = (
    "Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP", "FiO2", "GCS",
    "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "MAP", "MechVent", "Mg", "Na", "NIDiasABP", "NIMAP", "NISysABP",
    "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT", "Urine", "WBC",
    "Weight", *STATIC,
)  # fmt: skip
HOURS, TYPICAL = 48, 75
"""Hours of a stay; the median number of distinct minutes with observations of the 37 channels."""

HEADER, OUTCOMES = "Time,Parameter,Value", "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
URL = "https://physionet.org/files/challenge-2012/1.0.0/"
SHOWN = 5
"""The most mistakes of a set that are reported singly."""


class Observations(NamedTuple):
    """All observations of a set, concatenated; missing ones (-1) have no row.

    Attributes:
        record: number of each stay, (stays,).
        length: rows of each stay, (stays,).
        minute: of each observation, (rows,).
        channel: index of CHANNELS, (rows,).
        value: (rows,).
    """

    record: Tensor
    length: Tensor
    minute: Tensor
    channel: Tensor
    value: Tensor


@DATA.register("physionet", task="series", described_by=("mode",), measure="mse")
class PhysioNet(FromFiles, SeriesData):
    """The 37 measured channels of stays in intensive care, 48 hours each, which are one unit of time.

    ``sets`` are read together, four thousand stays each: a and b are those of the published tables. A fixed fifth of
    the stays is the test set. Times are rounded to multiples of ``quantisation`` hours, and what falls together is
    averaged; -1 is a missing value. Each channel is scaled so that its values in the training part lie between 0 and 1.
    ``statics`` adds the patient's age, sex, height and ward (41 channels, as the published code has them). With
    ``mode=interpolation`` the targets are the observations, with ``extrapolation`` the first half is observed and the
    second is the target. ``labels`` adds whether the patient died in hospital, where a set has outcomes.

    Stays without an observation are left out (with ``extrapolation`` in either half), and so are the rows of set c
    that name no parameter. The published code scales by the extremes of training and test set together, counts -1 as
    a value, and has all of its 41 channels.

    Files: ``set-a/*.txt`` and ``Outcomes-a.txt``, in ``root`` or in ``root/physionet2012``. What was read of a set is
    cached in the same folder, as ``set-a.pt``.

    Reference: Silva, Moody, Scott, Celi, Mark, "Predicting In-Hospital Mortality of ICU Patients: The
    PhysioNet/Computing in Cardiology Challenge 2012", Computing in Cardiology 2012.
    """

    least: ClassVar = {**SeriesData.least, "quantisation": 0}
    unit = "ranges of their channels"
    time_scale = TimeScale(length=48.0, label="time, hours")

    def __init__(
        self,
        *,
        sets: Sequence[str] = ("a", "b"),
        mode: Literal["interpolation", "extrapolation"] = "interpolation",
        quantisation: float = 0.1,
        statics: bool = False,
        labels: bool = False,
        **options: Any,
    ) -> None:
        self.sets, self.mode, self.quantisation, self.labels = tuple(sets), mode, quantisation, labels
        self.channels = CHANNELS if statics else CHANNELS[: -len(STATIC)]
        super().__init__(**options)
        self.num_classes = 2 if labels else 0
        slots = math.floor(HOURS / quantisation) + 1 if quantisation else TYPICAL
        self.shape = (min(slots, TYPICAL), len(self.channels))
        self._parts: tuple[SeriesSet, SeriesSet] | None = None

    def mistakes(self) -> list[str]:
        wrong = super().mistakes()
        if not self.sets or not set(self.sets) <= set("abc") or len(set(self.sets)) < len(self.sets):
            wrong.append(f"data.sets: expected some of a, b and c, got {list(self.sets)}")
        return wrong

    @property
    def home(self) -> Path:
        """The folder with the sets: ``root`` itself, or the one below it that a download makes."""
        below = self.root / "physionet2012"
        return self.root if any((self.root / f"set-{name}").is_dir() for name in self.sets) else below

    def missing(self) -> str | None:
        for name in self.sets:
            if not next((self.home / f"set-{name}").glob("*.txt"), None):
                return f"there is no {self.home / f'set-{name}'} with files *.txt"
        if self.labels and not any(self._outcomes(name).exists() for name in self.sets):
            return f"data.labels: there is no {' and no '.join(str(self._outcomes(name)) for name in self.sets)}"
        return None

    def fetch(self) -> None:
        from torchvision.datasets.utils import download_and_extract_archive, download_url

        for name in self.sets:
            download_and_extract_archive(f"{URL}set-{name}.tar.gz?download", self.home, filename=f"set-{name}.tar.gz")
            download_url(f"{URL}Outcomes-{name}.txt?download", self.home, filename=f"Outcomes-{name}.txt")

    def load(self, train: bool) -> SeriesSet:
        if self._parts is None:
            self._parts = self._read()
        return self._parts[0 if train else 1]

    def _read(self) -> tuple[SeriesSet, SeriesSet]:
        """Training and test part."""
        stays: list[Series] = []
        for name in self.sets:
            rows = kept_rows(self.home / f"set-{name}")
            died = read_outcomes(self._outcomes(name)) if self.labels and self._outcomes(name).exists() else {}
            stays += self._stays(rows, died)
        parts = test_split(len(stays), 0.2)
        train, test = ([stays[i] for i in part.tolist()] for part in parts)
        low, high = extremes(train)
        scaled = ([scale(stay, low, high) for stay in part] for part in (train, test))
        first, second = (with_targets(part, self.mode, half=0.5) for part in scaled)
        return first, second

    def _outcomes(self, name: str) -> Path:
        return self.home / f"Outcomes-{name}.txt"

    def _stays(self, rows: Observations, died: dict[int, int]) -> Iterator[Series]:
        """The stays of a set that have an observation."""
        channels = len(self.channels)
        is_channel = rows.channel < channels
        stay = torch.arange(len(rows.length)).repeat_interleave(rows.length)[is_channel]
        step = 60 * self.quantisation or 1  # minutes
        slot = (rows.minute[is_channel] / step).round().long()
        most = int(slot.max()) + 1 if len(slot) else 1
        points, place = (stay * most + slot).unique(return_inverse=True)
        total = torch.zeros(len(points), channels, dtype=torch.float64)
        count = torch.zeros_like(total)
        at = (place, rows.channel[is_channel].long())
        total.index_put_(at, rows.value[is_channel].double(), accumulate=True)
        count.index_put_(at, torch.ones(len(place), dtype=torch.float64), accumulate=True)
        values, mask = (total / count.clamp(min=1)).float(), count > 0
        times = (points % most) * (step / (60 * HOURS))
        length = torch.bincount(points // most, minlength=len(rows.length)).tolist()
        of_stays = zip(rows.record.tolist(), *(part.split(length) for part in (times, values, mask)), strict=True)
        for record, when, value, known in of_stays:
            if len(when):
                yield Series(when, value, known, died.get(record, UNLABELLED) if self.labels else None)


def extremes(stays: Sequence[Series]) -> tuple[Tensor, Tensor]:
    """The least and the greatest value of each channel; 0 and 1 where it has none, or only one value."""
    values = torch.cat([stay.values for stay in stays])
    mask = torch.cat([stay.mask for stay in stays])
    low = values.where(mask, math.inf).amin(0)
    high = values.where(mask, -math.inf).amax(0)
    known = low < high
    return torch.where(low.isfinite(), low, 0.0), torch.where(known, high, torch.where(low.isfinite(), low, 0.0) + 1)


def scale(stay: Series, low: Tensor, high: Tensor) -> Series:
    """The same with ``low`` for 0 and ``high`` for 1."""
    return stay._replace(values=((stay.values - low) / (high - low)).where(stay.mask, 0.0))


# Reading ------------------------------------------------------------------------------------------------------


def kept_rows(folder: Path) -> Observations:
    """The rows of a set, from the cache of an earlier reading where its files have not changed since."""
    kept, files = folder.with_suffix(".pt"), sorted(folder.glob("*.txt"))
    stamp = torch.tensor([[len(files), *_newest(files)]], dtype=torch.long)
    with contextlib.suppress(Exception):  # a damaged cache is ignored
        stored = torch.load(kept, weights_only=True)
        if torch.equal(stored["stamp"], stamp):
            return Observations(**stored["rows"])
    rows = read_rows(files)
    with contextlib.suppress(SchemenetError, OSError), whole(kept) as file:  # a folder that cannot be written to
        torch.save({"stamp": stamp, "rows": rows._asdict()}, file)
    return rows


def _newest(files: Sequence[Path]) -> tuple[int, int]:
    """The sum of the sizes, and the time of the last change."""
    stats = [file.stat() for file in files]
    return sum(of.st_size for of in stats), max((of.st_mtime_ns for of in stats), default=0)


def read_rows(files: Sequence[Path]) -> Observations:
    """The rows of stays, a file for each. Raises :class:`SchemenetError` with the first mistakes, by file and line."""
    record, length, minutes, channels, values, wrong = [], [], [], [], [], []
    for file in files:
        before = len(values)
        try:
            for minute, channel, value in read_stay(file):
                minutes.append(minute)
                channels.append(channel)
                values.append(value)
        except SchemenetError as error:
            wrong.append(str(error))
        record.append(int(file.stem) if file.stem.isdigit() else -1)
        length.append(len(values) - before)
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more files with mistakes"] if len(wrong) > SHOWN else []
        raise SchemenetError("\n".join([*wrong[:SHOWN], *more]))
    return Observations(
        torch.tensor(record, dtype=torch.long),
        torch.tensor(length, dtype=torch.long),
        torch.tensor(minutes, dtype=torch.int16),
        torch.tensor(channels, dtype=torch.int8),
        torch.tensor(values, dtype=torch.float32),
    )


def rows_below(header: str, file: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a file below its header.

    Raises:
        SchemenetError: the file cannot be read, or its first line is not ``header``.
    """
    refuse_special(file)
    try:
        first, *others = file.read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        raise SchemenetError(f"{file}: cannot be read: {error}") from error
    if first.strip() != header:
        raise SchemenetError(f"{file}, line 1: expected {header!r}, got {first!r}")
    yield from enumerate(others, 2)


INDEX = {name: i for i, name in enumerate(CHANNELS)}


def read_stay(file: Path) -> Iterator[tuple[int, int, float]]:
    """Minute, channel and value of each row of a stay, without missing values."""

    def wrong(line: int, what: str) -> SchemenetError:
        return SchemenetError(f"{file}, line {line}: {what}")

    last = 0
    for line, text in rows_below(HEADER, file):
        cells = text.split(",")
        if len(cells) != 3:
            raise wrong(line, f"expected three cells, {HEADER}, got {text!r}")
        time, name, number = cells
        hours, colon, minutes = time.partition(":")
        if not (colon and hours.isdecimal() and minutes.isdecimal() and len(hours) <= 3 and int(minutes) < 60):
            raise wrong(line, f"expected a time as hours and minutes, 07:30, got {time!r}")
        minute = 60 * int(hours) + int(minutes)
        if minute > 60 * HOURS:
            raise wrong(line, f"expected a time up to {HOURS}:00, the length of a stay, got {time!r}")
        if minute < last:
            raise wrong(
                line, f"time {time} comes after {last // 60:02d}:{last % 60:02d}; expected rows in order of time"
            )
        last = minute
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not abs(value) < LARGEST:
            raise wrong(line, f"{name or 'column Value'}: expected a number, got {number!r}")
        if name not in INDEX:
            if name not in ("RecordID", ""):  # set c has rows without a name
                raise wrong(
                    line, f"no parameter {name!r}; {nearest(name, CHANNELS) or 'known: ' + ', '.join(CHANNELS)}"
                )
            continue
        if value != -1:
            yield minute, INDEX[name], value


def read_outcomes(file: Path) -> dict[int, int]:
    """For each number of a stay, 1 where the patient died in hospital, else 0."""
    died: dict[int, int] = {}
    for line, text in rows_below(OUTCOMES, file):
        cells = text.split(",")
        if len(cells) != OUTCOMES.count(",") + 1 or not cells[0].isdecimal() or cells[-1].strip() not in ("0", "1"):
            raise SchemenetError(f"{file}, line {line}: expected {OUTCOMES}, the last 0 or 1, got {text!r}")
        died[int(cells[0])] = int(cells[-1])
    return died
