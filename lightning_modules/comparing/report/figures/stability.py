"""The stability regions of the arms' schemes, with the measured spectrum of h df/dy of the trained blocks in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from architectures.registry import CLASSIFICATION
from lightning_modules.comparing.records import Comparison
from lightning_modules.comparing.report.figures.arms import Drawn, Looks, done
from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.machine import one_thread
from lightning_modules.metrics import task_of
from lightning_modules.storage.run_files import CHECKPOINT, CONFIG
from lightning_modules.text import Progress
from schemes.errors import SchemenetError

if TYPE_CHECKING:
    from lightning_modules.plotting.spectrum import Panel


def draw(comparison: Comparison, summaries: Sequence[Summary], looks: Looks) -> Drawn | None:
    """A panel an arm, from the checkpoint of its first seed that finished and kept one.

    Of classifiers, whose steps are their own and not the data's. None of runs that were only brought together: they may
    be another's, whose checkpoints are not loaded and whose folders are not written to. `schemenet figure spectrum RUN`
    draws one's own.
    """
    if comparison.kind == "runs" or task_of(comparison.data) != CLASSIFICATION:
        return None
    folders = {s.arm.name: _trained(comparison, s.arm.name) for s in summaries}
    if not any(folders.values()):
        return None
    from lightning_modules.plotting import spectrum  # it reads checkpoints, and so imports torch

    there = {arm: folder for arm, folder in folders.items() if folder is not None}
    progress, drawn = Progress(f"spectra of {len(there)} trained networks"), []
    with one_thread():
        for i, (arm, folder) in enumerate(there.items()):
            progress(i, len(there), "spectra")
            drawn.append(_panel(arm, folder))
    # Without the data, the regions alone are drawn.
    panels = [panel for panel, _ in drawn if panel.spectrum] or [panel for panel, _ in drawn if panel.regions]
    if not panels:
        return None
    reasons: dict[str, list[str]] = {}
    for panel, reason in drawn:
        reasons.setdefault(reason, []).append(panel.title)
    sentences = [f"No spectrum of {', '.join(arms)}: {reason}" for reason, arms in reasons.items() if reason]
    caption = (
        "Shaded: where a step of the arm's scheme damps u' = λu, z = hλ; a bar on the imaginary axis where it only"
        f" keeps it bounded there. Points: {spectrum.CAPTION}. One seed an arm. What leaves the region grows from"
        " step to step in the linear, frozen picture."
    )
    return Drawn(spectrum.figure_of(panels), " ".join([caption, *(f"{sentence}." for sentence in sentences)]))


def _trained(comparison: Comparison, arm: str) -> Path | None:
    folders = (run.folder for run in done(comparison, arm))
    return next((f for f in folders if (f / CHECKPOINT).is_file() and (f / CONFIG).is_file()), None)


def _panel(arm: str, folder: Path) -> tuple[Panel, str]:
    """An arm's panel, and why it has no spectrum, if it has none."""
    from lightning_modules.evaluation.jacobian_spectrum import measured
    from lightning_modules.plotting import spectrum
    from lightning_modules.storage.run_files import read_config

    spectrum_of_run, reason = None, ""
    try:
        spectrum_of_run = measured(folder)
    except SchemenetError as error:
        reason = str(error).splitlines()[0]
    try:
        return spectrum.panel_of(arm, read_config(folder).get("scheme"), spectrum_of_run), reason
    except SchemenetError:  # of a package that this one does not know all schemes of
        return spectrum.Panel(arm, spectrum_of_run, (), "no region"), reason
