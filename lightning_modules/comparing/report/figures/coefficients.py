"""The coefficients k_n that arms have learned, along depth."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_modules.comparing.records import Comparison
from lightning_modules.comparing.report.figures.arms import Drawn, Looks, done
from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.storage.run_files import CONFIG
from schemes.errors import SchemenetError


def draw(comparison: Comparison, summaries: Sequence[Summary], looks: Looks) -> Drawn | None:
    """As ``schemenet figure k`` draws it, the mean over the seeds of each arm that learned any."""
    folders = {s.arm.name: [run.folder for run in done(comparison, s.arm.name)] for s in summaries}
    folders = {arm: [f for f in paths if (f / CONFIG).is_file()] for arm, paths in folders.items()}
    if not any(folders.values()):
        return None
    from lightning_modules.plotting import coefficients  # it reads the schemes, and so imports torch

    learned_by_arm = []
    for arm, of_arm in folders.items():
        try:
            learned_by_arm += [coefficients.learned(of_arm, arm)] if of_arm else []
        except SchemenetError:
            continue  # this arm learns none
    if not learned_by_arm:
        return None
    return Drawn(
        coefficients.figure_of(learned_by_arm, [looks[learned.label] for learned in learned_by_arm]),
        "Learned k along depth: means over finished seeds; bars: the least and the greatest of them. Hollow: before"
        " training.",
    )
