"""Display of the progress of runs: a live table on a terminal, a line for each run elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lightning_modules.launching.job import Job

SHOWN = 30  # running rows in the table; the rest are counted


class Watch:
    """Displays runs while a launcher reports their starts and ends; a context manager, which restores the terminal.

    Args:
        jobs: all runs, those that are done already among them.
        console: where to print; null: standard output.
    """

    def __init__(self, jobs: Sequence[Job], console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.total = len(jobs)
        self.skipped = sum(job.done for job in jobs)
        self.failed: list[Job] = []
        self.finished = 0
        self.elsewhere: Sequence[Job] = ()
        self._began: dict[Job, float] = {}
        self._start = time.monotonic()
        self._live = Live(console=self.console, get_renderable=self._table, auto_refresh=False, transient=True)

    def __enter__(self) -> Watch:
        if self.skipped:
            self.console.print(f"{self.skipped} of {self.total} runs are done already")
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def began(self, job: Job) -> None:
        """A run has been given to a process."""
        self._began[job] = time.monotonic()

    def ended(self, job: Job, outcome: str | None = None) -> None:
        """Report that a process has ended.

        Args:
            job: its run.
            outcome: in words, where the run could not be begun; null: read from the folder of the run.
        """
        began = self._began.pop(job, None)
        self.finished += 1
        if not job.done:
            self.failed.append(job)
        after = "" if began is None else f" ({_duration(time.monotonic() - began)})"
        counted = f"[{self.finished:>3}/{self.total - self.skipped}]"
        self.console.print(f"{counted} {job.name}: {outcome or job.outcome()}{after}", markup=False)

    def look(self, elsewhere: Sequence[Job] = ()) -> None:
        """Redraw the table; ``elsewhere`` are runs that another process trains."""
        for job in elsewhere:
            if job not in self.elsewhere:
                self.console.print(f"{job.name} is being trained by another process; waiting for it", markup=False)
        self.elsewhere = elsewhere
        if self._live.is_started:
            self._live.refresh()

    def _table(self) -> RenderableType:
        now = time.monotonic()
        shares = {job: job.progress() for job in self._began}
        behind = self.finished + sum(shares.values())
        left = self.total - self.skipped
        waiting = left - self.finished - len(shares)
        summary = f"{self.skipped + self.finished - len(self.failed)} of {self.total} done, {len(shares)} running, "
        summary += f"{waiting} waiting, {len(self.failed)} failed; {_duration(now - self._start)} so far"
        if behind:
            summary += f", about {_duration((now - self._start) * (left - behind) / behind)} left"
        table = Table.grid(padding=(0, 2))
        for job, share in list(shares.items())[:SHOWN]:
            bar = ProgressBar(total=1.0, completed=share, width=24)
            table.add_row(job.name, bar, f"{100 * share:.0f}%", _duration(now - self._began[job]))
        if len(shares) > SHOWN:
            table.add_row(f"and {len(shares) - SHOWN} more")
        return Group(table, Text(summary))


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
