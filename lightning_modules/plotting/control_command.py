"""``schemenet control``: the best control of a problem. Words are checked before torch is imported."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.config.static_registry import static_registry
from lightning_modules.config.yaml_text import read_yaml
from lightning_modules.plotting.command import FOLDER, check_file, file_name, save
from lightning_modules.storage.atomic_files import whole
from lightning_modules.text import waiting
from schemes.errors import Problems, SchemenetError, not_taken
from schemes.registry import Registry
from schemes.schema import objection

if TYPE_CHECKING:
    from schemes.control.solve import ControlSolution

PARTS = ("problem", "method", "scheme", "sharing", "gradient")
"""What is chosen by name, with options KEY as PART.KEY."""
DEFAULTS: Mapping[str, str] = {
    "method": "direct_shooting", "scheme": "rk4", "sharing": "per_step", "gradient": "backprop",
}  # fmt: skip
STEPS = 20


def control(arguments: Sequence[str]) -> int:
    """The command ``control``: solve a control problem, print its cost, write a picture and the numbers.

    Args:
        arguments: what follows the command's name.

    Raises:
        SchemenetError: with every mistake in the arguments.
    """
    options, words = _options(arguments)
    specs, steps = read(words)
    path = options.out or FOLDER / file_name("control", [specs["problem"]["name"]])
    check_file(path)
    with waiting("solving the problem"):
        from lightning_modules.plotting.control import draw
        from schemes.control.solve import solve_control
        from schemes.registry import CONTROL_PROBLEMS

        problem = CONTROL_PROBLEMS.build(specs.pop("problem"))
        solution = solve_control(problem, steps, **specs)
        save(draw(solution, problem), path)
    write_numbers(solution, path.with_suffix(".csv"))
    print(describe(solution, problem.best_cost))
    print(path)
    return 0 if solution.search.converged else 1


def _options(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path)
    try:
        return parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise SchemenetError(f"control: {error}") from error


def read(words: Sequence[str]) -> tuple[dict[str, dict[str, Any]], int]:
    """The specs of the parts, and the number of steps, from the words of a command line."""
    names = {part: static_registry(part) for part in PARTS}
    if not words or "=" in words[0]:
        known = ", ".join(names["problem"])
        raise SchemenetError(f"control: expected the name of a problem first, one of {known}")
    given: dict[str, Any] = {"steps": STEPS, **DEFAULTS, "problem": words[0]}
    problems, seen = Problems(), set[str]()
    for word in words[1:]:
        key, equals, text = word.partition("=")
        part = key.partition(".")[0]
        if not equals or (key != "steps" and (part not in PARTS or key == "problem")):
            problems.add(not_taken("control", key, ["steps", *PARTS[1:], *(f"{part}.KEY" for part in PARTS)]))
        elif key in seen:
            problems.add(f"{key} is given twice; leave one out")
        else:
            problems.attempt(lambda key=key, text=text, word=word: given.update({key: read_yaml(text, word)}))
        seen.add(key)
    if (wrong := objection(given["steps"], "int")) is not None:
        problems.add(f"steps {wrong}")
    specs = {part: _spec(part, given) for part in PARTS}
    for part, spec in specs.items():
        problems.attempt(lambda part=part, spec=spec: _check(names[part], spec))
    problems.raise_if_any()
    return specs, given["steps"]


def _spec(part: str, given: Mapping[str, Any]) -> dict[str, Any]:
    options = {key.removeprefix(f"{part}."): value for key, value in given.items() if key.startswith(f"{part}.")}
    return {"name": given[part], **options}


def _check(names: Registry, spec: dict[str, Any]) -> None:
    names.entry(spec["name"])
    names.check_spec(spec)


def describe(solution: ControlSolution, best: float | None) -> str:
    """Cost and end of the search in a few lines."""
    search = solution.search
    known = "" if best is None else f"; the least of all is {best:.8g}"
    lines = [f"cost {solution.cost:.8g}{known}", f"end time {solution.end_time:.8g}"]
    if len(solution.constraint):
        lines.append(f"constraint at the end: {float(solution.constraint.abs().amax()):.2g}")
    state = "converged" if search.converged else "not converged"
    lines.append(
        f"{state} after {search.iterations} iterations, {search.evaluations} solves ({search.message.lower()})"
    )
    return "\n".join(lines)


def write_numbers(solution: ControlSolution, path: Path) -> None:
    """Times, states, costates, controls and Hamiltonian as csv, with a row for each time; the last has no control."""
    states, costates = solution.states.flatten(1), solution.costates.flatten(1)
    head = ["t", *(f"x{i}" for i in range(states.shape[1])), *(f"a{i}" for i in range(states.shape[1]))]
    head += [*(f"u{i}" for i in range(solution.controls.shape[1])), "H"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(head)
    numbers = [*solution.controls.tolist(), []], [*([float(h)] for h in solution.hamiltonian), []]
    for time, *row in zip(solution.times.tolist(), states.tolist(), costates.tolist(), *numbers, strict=True):
        writer.writerow([time, *itertools.chain(*row)])
    with whole(path) as file:
        file.write(text.getvalue().encode())
