"""Logger of metrics into a csv file that is kept when a run is killed and resumes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import Logger

from lightning_modules.config.registries import LOGGERS
from lightning_modules.storage.atomic_files import append, read_rows, sync, write_text


@LOGGERS.register("csv")
def csv_alone() -> None:
    """No other logger than ``metrics.csv``, which every run has."""


class MetricsFile(Logger):
    """A csv file with a row for each call of ``log_metrics``; columns of other rows are left empty.

    Lightning's ``CSVLogger`` deletes the file when a run resumes, and empties it to write a new header. Here a row is
    appended at once and whole, and a run that resumes keeps the rows of its checkpoint.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.rows = path, 0
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing: they are in config.json."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {**metrics, "step": step}
        self._notice_loss()
        if row.keys() - set(self._columns):
            self._rewrite(read_rows(self.path), sorted({*self._columns, *row}))
        append(self.path, _text([row], self._columns))
        self.rows += 1

    def keep(self, rows: int) -> None:
        """Drop all but the first ``rows``: the others will be logged again."""
        kept = read_rows(self.path)[:rows]
        if len(kept) < rows:
            print(f"{self.path} has lost {rows - len(kept)} rows since the checkpoint; the run continues without them")
        self.rows = len(kept)
        if kept:
            self._rewrite(kept, list(kept[0]))
        else:
            self.path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Wait until every row is on the disk."""
        self._notice_loss()
        if self.rows:
            sync(self.path)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.sync()

    def _notice_loss(self) -> None:
        """Report that the file was deleted during the run; the next row begins a new one."""
        if self.rows and not self.path.exists():
            print(f"{self.path} is gone, with all rows that were logged ({self.rows}); a new one is begun", flush=True)
            self.rows, self._columns = 0, []

    def _rewrite(self, rows: Iterable[Mapping[str, Any]], columns: list[str]) -> None:
        self._columns = columns
        write_text(self.path, ",".join(columns) + "\n" + _text(rows, columns))


def _text(rows: Iterable[Mapping[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
