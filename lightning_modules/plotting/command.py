"""``schemenet figure``: a picture of schemes or of runs. Arguments are checked before torch is imported."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from lightning_modules.config.static_registry import static_registry
from lightning_modules.config.yaml_text import read_yaml
from lightning_modules.storage.atomic_files import safe_name, whole
from lightning_modules.storage.run_files import run_folder
from lightning_modules.text import waiting
from schemes.errors import Problems, SchemenetError, unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from schemes.core.scheme import Scheme

USAGE = """schemenet figure WHAT NAME... [--out FILE.png, .pdf or .svg] [--size WIDTHxHEIGHT] [--font POINTS]

  stability  SCHEME...   where a step does not amplify u' = lambda u, in the plane of z = h lambda
  order      SCHEME...   error against h on a forced pendulum, each declared order beside it
  polygons   SCHEME...   few steps from state to state beside the exact solution, and where f is evaluated
  k          RUN...      the coefficients that linear_multistep learned, along depth
  poly_vs_implicit RUN   how far the sums of backward_euler_poly are from the backward Euler step of the same f,
                         along a trained network
  error_control RUN      on an adaptive grid: error and time against evaluations of f, backward against forward
                         ones, and their course over the training
  trajectories RUN       points of a two-dimensional set on their way through the flow, over its vector field,
                         and the evaluations of f, which crowd where the field is hard
  density RUN            a trained density: samples and log density beside the data, and the way from noise to data
  spectrum RUN           eigenvalues of h df/dy of the trained blocks, in the stability region of their scheme
  costate RUN            gradients along depth: |a_n| of the loss at every state, and H_n = a_n . f_n, as the run's
                         seed initialises the network and as it was trained; prints how far H drifts where it is
                         constant for the exact flow
  field RUN              the vector field learned from trajectories beside the true one, and where both lead
  series RUN             irregular series: what was observed, its reconstruction, how it goes on, with its band
  error_against_costs, learning_curves, evaluations COMPARISON
                         a figure of a report alone, e.g. in the size of a paper's column

A SCHEME is NAME or NAME:KEY=VALUE,KEY=VALUE, e.g. backward_euler_poly:degree=3 (`schemenet schemes` lists them).
A RUN is a folder that `schemenet train` or `compare` has written, with its config.json,
a COMPARISON a folder of `compare` or `sweep` with its comparison.json.
The picture goes to runs/plots/WHAT-NAME....png where --out does not say. --size is in inches, e.g. 3.4x2.8 for one
column of a journal; --font is the size of axis labels, 10 without it, and all other letters in proportion."""

FOLDER = Path("runs", "plots")
FORMATS = (".png", ".pdf", ".svg")
AS_TEXT: dict[Any, Any] = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "schemenet"}
"""Letters of vector pictures stay letters, and one figure has the same bytes whenever it is written."""

NOTATION = "NAME or NAME:KEY=VALUE,KEY=VALUE, e.g. backward_euler_poly:degree=3"

SIZE = re.compile(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)")
LEAST, MOST = 1.0, 40.0  # inches
LEAST_FONT, MOST_FONT = 4.0, 40.0  # points

Kind: TypeAlias = "Callable[[list[str]], Callable[[], Figure]]"
"""What checks the names of a figure, and returns what draws it."""

S = TypeVar("S")
T = TypeVar("T")


def figure(arguments: Sequence[str], further: Mapping[str, Kind] | None = None) -> int:
    """The command ``figure``: draw one picture, write it, print its path.

    Args:
        arguments: what follows the command's name.
        further: kinds of figures besides those of this folder.

    Raises:
        SchemenetError: with every mistake in the arguments.
    """
    kinds = {**KINDS, **(further or {})}
    what, names, options = _read(arguments, kinds)
    path = options.out or FOLDER / file_name(what, names)
    check_file(path)
    with waiting(f"drawing {what}"):
        draw = kinds[what](names)
        from lightning_modules.plotting.style import formatted

        with formatted(options.size, options.font):
            save(draw(), path)
    print(path)
    return 0


def size(text: str) -> tuple[float, float]:
    """Width and height in inches, from ``6x4``."""
    match = SIZE.fullmatch(text)
    if match is None or not all(LEAST <= float(side) <= MOST for side in match.groups()):
        expected = f"expected WIDTHxHEIGHT in inches, each from {LEAST:g} to {MOST:g}, e.g. 6x4"
        raise argparse.ArgumentTypeError(f"{expected}; got {text!r}")
    return float(match[1]), float(match[2])


def font_size(text: str) -> float:
    """The size of letters in points."""
    try:
        points = float(text)
    except ValueError:
        points = 0.0
    if not LEAST_FONT <= points <= MOST_FONT:
        raise argparse.ArgumentTypeError(f"expected points from {LEAST_FONT:g} to {MOST_FONT:g}, got {text!r}")
    return points


def _read(arguments: Sequence[str], kinds: Collection[str]) -> tuple[str, list[str], argparse.Namespace]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", type=size)
    parser.add_argument("--font", type=font_size)
    try:
        known, words = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise SchemenetError(f"figure: {error}") from error
    if strange := [word for word in words if word.startswith("-")]:
        raise SchemenetError(f"figure takes no {strange[0]}; it takes --out FILE, --size 6x4, --font 9")
    if not words:
        raise SchemenetError(f"figure: expected what to draw\n{USAGE}")
    what, *names = words
    what = what.replace("-", "_")  # as names were written before
    if what not in kinds:
        raise SchemenetError(unknown("figure", what, kinds))
    if not names:
        raise SchemenetError(f"figure {what}: expected at least one name\n{USAGE}")
    return what, list(dict.fromkeys(names)), known


def parse_scheme(text: str) -> tuple[str, dict[str, Any]]:
    """A label and the spec of a scheme, from ``heun`` or ``backward_euler_poly:degree=3,form=mpoly``."""
    name, _, options = text.partition(":")
    names = static_registry("scheme")
    if name not in names:
        raise SchemenetError(unknown(names.kind, name, names.all_names()))
    name = names.canonical(name)
    settings: dict[str, Any] = {}
    for option in options.split(",") if options else ():
        key, equals, value = option.partition("=")
        unreadable = SchemenetError(f"cannot read {option!r} in {text!r}; expected {NOTATION}")
        if not (key and equals):
            raise unreadable
        if key in settings:
            raise SchemenetError(f"{text!r}: {key} is given twice; leave one out")
        try:
            settings[key] = read_yaml(value, option)
        except SchemenetError as error:
            raise unreadable from error
    options = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f"{name}({options})" if options else name, {"name": name, **settings}


def each(make: Callable[[S], T], names: Iterable[S]) -> list[T]:
    """``make`` of every name. Raises one SchemenetError with the mistakes of all of them."""
    problems = Problems()
    made = []
    for name in names:
        try:
            made.append(make(name))
        except SchemenetError as error:
            problems.add(str(error))
    problems.raise_if_any()
    return made


def file_name(what: str, names: Sequence[str]) -> str:
    """The default name of a picture's file; characters that are unsafe in file names become dashes.

    Args:
        what: the kind of picture.
        names: of the schemes or runs in it.
    """
    return f"{safe_name(re.sub(r'[^A-Za-z0-9_.=]+', '-', '-'.join([what, *names])).strip('-'))}.png"


def check_file(path: Path) -> None:
    """Raise SchemenetError for a path that cannot be written, before anything is computed or created."""
    if path.suffix.lower() not in FORMATS:
        raise SchemenetError(f"--out: expected a file name that ends in {', '.join(FORMATS)}, got {os.fspath(path)!r}")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir():
        raise SchemenetError(f"--out: {os.fspath(path)!r} is a folder; expected a file")
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise SchemenetError(f"cannot write {os.fspath(path)!r}: {nearest} is no folder that can be written to")


def save(figure: Figure, path: Path) -> None:
    """Write a picture in the format of its name's ending; its folder is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SchemenetError(f"cannot write {os.fspath(path)!r}: {error.strerror}; choose another by --out") from error
    from matplotlib import rc_context

    kind = path.suffix.lower().removeprefix(".")
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of the dates in matplotlib's own font
    no_date = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with whole(path) as file, rc_context(AS_TEXT), _missing_letters():
        figure.savefig(file, format=kind, dpi=150, metadata=no_date)


@contextmanager
def _missing_letters() -> Iterator[None]:
    """One sentence for all letters that a font lacks: matplotlib warns of each, in each format."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph")
        yield
    lacking: dict[str, list[str]] = {}
    for warning in caught:
        if match := re.match(r"Glyph (\d+) .* missing from font\(s\) (.*)\.$", str(warning.message)):
            lacking.setdefault(match[2], []).append(chr(int(match[1])))
        else:
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    for font, letters in lacking.items():
        _name_missing("".join(dict.fromkeys(letters)), font)


@cache
def _name_missing(letters: str, font: str) -> None:
    """Say once which letters a figure's font lacks."""
    print(
        f"pictures have boxes for {letters}, which the font {font} lacks; name an installed font that has them as "
        "font.family in a matplotlibrc file",
        file=sys.stderr,
    )


def _schemes(names: list[str]) -> dict[str, Scheme]:
    specs = dict(each(parse_scheme, names))
    from schemes.registry import SCHEMES, single_step

    built = each(lambda spec: SCHEMES.build(single_step(spec)), specs.values())
    return dict(zip(specs, built, strict=True))


def _of_schemes(what: str, names: list[str]) -> Callable[[], Figure]:
    schemes = _schemes(names)
    return lambda: _module(what).draw(schemes)


def _k(names: list[str]) -> Callable[[], Figure]:
    folders = each(run_folder, names)
    return lambda: _module("coefficients").draw(folders)


def _of_one_run(what: str, names: list[str]) -> Callable[[], Figure]:
    if len(names) > 1:
        raise SchemenetError(f"figure {what}: expected one run, got {' '.join(names)}")
    folder = run_folder(names[0])
    return lambda: _module(what).draw(folder)


def _module(name: str) -> Any:
    return import_module(f"lightning_modules.plotting.{name}")


OF_ONE_RUN = ("poly_vs_implicit", "error_control", "trajectories", "density", "spectrum", "costate", "field", "series")
"""Figures of one run, by the module that draws them."""

KINDS: dict[str, Kind] = {
    **{what: partial(_of_schemes, what) for what in ("stability", "order", "polygons")},
    "k": _k,
    **{what: partial(_of_one_run, what) for what in OF_ONE_RUN},
}
"""Figures by their names."""
