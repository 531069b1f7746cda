"""All pictures of a comparison; one without data is not drawn."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_modules.comparing.records import Comparison
from lightning_modules.comparing.report.figures import coefficients, costs, evaluations, stability
from lightning_modules.comparing.report.figures import learning_curves as curves
from lightning_modules.comparing.report.figures.arms import looks_of
from lightning_modules.comparing.statistics.summary import Summary
from lightning_modules.plotting.command import save

PICTURES = {
    "error_against_costs.png": costs.draw,
    "learning_curves.png": curves.draw,
    "evaluations.png": evaluations.draw,
    "coefficients.png": coefficients.draw,
    "stability.png": stability.draw,
}


def write(comparison: Comparison, summaries: Sequence[Summary]) -> dict[str, str]:
    """Draw the pictures into the comparison's folder.

    Args:
        comparison: as read from its folders.
        summaries: one for each arm.

    Returns:
        Captions by file names.
    """
    looks, captions = looks_of(summaries), {}
    for name, draw in PICTURES.items():
        if (drawn := draw(comparison, summaries, looks)) is not None:
            save(drawn.figure, comparison.folder / name)
            captions[name] = drawn.caption
    return captions
