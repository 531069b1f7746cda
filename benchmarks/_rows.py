"""One table, as markdown on the screen and as csv in a file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def show(rows: Sequence[Mapping[str, str]], path: Path | None) -> None:
    """Print the rows, all with the same keys, and write them to ``path`` if there is one."""
    print("", f"| {' | '.join(rows[0])} |", "|---" * len(rows[0]) + "|", sep="\n")
    for row in rows:
        print(f"| {' | '.join(row.values())} |")
    if path is not None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
