"""Names and their parameters: what is found, built and refused, and with which words."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from schemes.core.node import Node
from schemes.core.scheme import Scheme
from schemes.core.state import State, VectorField, axpy
from schemes.errors import SchemenetError
from schemes.flow import Flow
from schemes.registry import GRADIENTS, GRIDS, SCHEMES, Registry
from tests.support.messages import assert_lines
from tests.support.problems import Tanh, batch, distance

ROOT = Path(__file__).parents[2]
REGISTRIES = pytest.mark.parametrize("registry", [SCHEMES, GRADIENTS, GRIDS], ids=lambda r: r.kind)


@pytest.fixture
def kitchen() -> Registry:
    """A registry of its own; nothing in the package that it looks through registers there."""
    registry = Registry("dish", "schemes.gradients", context=("cook",))

    @registry.register("soup", "broth", sizes={"soup_large": {"litres": 5}, "soup12": {}, "soup2": {}}, hot=True)
    def soup(litres: float = 1, salt: bool = True, style: Literal["clear", "thick"] = "clear", cook: str = "") -> Any:
        return {"litres": litres, "salt": salt, "style": style, "cook": cook}

    @registry.register("stew", extends="soup", without=("style",))
    def stew(meat: str, **options: Any) -> Any:
        return {"meat": meat, **options}

    return registry


# Names


@REGISTRIES
def test_every_entry_is_found_by_its_names(registry: Registry) -> None:
    assert list(registry) == registry.list()
    assert len(registry) == len(registry.list()) > 0
    for name in registry:
        assert registry.canonical(name) == name
        for alias in registry.aliases(name):
            assert registry[alias] is registry[name]
            assert registry.canonical(alias) == name
            assert alias not in registry.list()


@REGISTRIES
def test_every_entry_is_built_from_its_defaults_and_from_its_parameters(registry: Registry) -> None:
    for name in registry:
        registry.build(name)
        registry.build({"name": name, **registry.defaults(name)})


def test_the_users_words_are_names_or_aliases() -> None:
    words = ("forward_euler", "backward_euler_poly", "rk2", "linear_multistep", "reversible")
    assert [SCHEMES.canonical(word) for word in words] == [
        *("forward_euler", "backward_euler_poly", "heun", "linear_multistep", "symplectic_euler")
    ]


@pytest.mark.parametrize(
    ("registry", "name", "kind", "near"),
    [
        (SCHEMES, "foward_euler", "scheme", "forward_euler"),
        (SCHEMES, "symplectic", "scheme", "symplectic_euler"),
        (SCHEMES, "reversable", "scheme", "reversible"),
        (GRADIENTS, "adjoin", "gradient mode", "adjoint"),
        (GRIDS, "unifrom", "grid", "uniform"),
    ],
)
def test_unknown_names_are_answered_with_near_and_known_ones(
    registry: Registry, name: str, kind: str, near: str
) -> None:
    for ask in (registry.build, registry.entry, registry.parameters, lambda n: registry[n]):
        with pytest.raises(SchemenetError) as caught:
            ask(name)
        text = str(caught.value)
        assert text.startswith(f"no {kind} {name!r}; did you mean ")
        assert repr(near) in text.split("known:")[0]
        aliases = [alias for known in registry for alias in registry.aliases(known)]
        assert text.endswith("known: " + ", ".join(sorted([*registry.list(), *aliases])))


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(SchemenetError, match=r"^no scheme 'zzzz'; known: ") as caught:
        SCHEMES.build("zzzz")
    assert "did you mean" not in str(caught.value)


def test_list_takes_a_pattern_and_orders_numbers_naturally(kitchen: Registry) -> None:
    assert SCHEMES.list("adams_b*") == ["adams_bashforth2", "adams_bashforth3", "adams_bashforth4"]
    assert kitchen.list() == ["soup", "soup2", "soup12", "soup_large", "stew"]
    assert kitchen.list("*_large") == ["soup_large"]
    assert kitchen.list("nothing*") == []


def test_a_name_is_taken_once(kitchen: Registry) -> None:
    for name in ("soup", "broth", "soup_large"):
        with pytest.raises(SchemenetError, match=rf"dish '{name}' of .* is already taken by {__name__}"):
            kitchen.register(name)(lambda: {})
    with pytest.raises(SchemenetError, match=r"dish 'stew' of .* is already taken"):
        kitchen.register("roast", "stew")(lambda: {})
    assert "roast" not in kitchen


# Parameters


def test_wrong_keys_and_types_are_told_all_at_once() -> None:
    spec = {"name": "linear_multistep", "kk": 0.5, "scale": "yes", "k": [1], "steps": 3}
    with pytest.raises(SchemenetError) as caught:
        SCHEMES.build(spec)
    name = "scheme 'linear_multistep'"
    assert_lines(
        str(caught.value),
        (name, "'kk'", "did you mean 'k'", "k, scale"),
        (name, "scale", "true or false", "'yes'"),
        (name, "k ", "'trained', 'zero' or a number", "[1]"),
        (name, "'steps'", "k, scale"),
    )


def test_an_entry_without_parameters_says_so() -> None:
    with pytest.raises(SchemenetError, match=r"^scheme 'heun' takes no 'order'; it takes: nothing$"):
        SCHEMES.build({"name": "heun", "order": 2})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "backward_euler_poly", "degree": 2.0}, "degree expected a whole number, got 2.0"),
        ({"name": "backward_euler_poly", "degree": True}, "degree expected a whole number, got True"),
        (
            {"name": "linear_multistep", "k": False},
            "k expected one of 'trained', 'zero' or a number, got False",
        ),
        (
            {"name": "backward_euler_poly", "form": None},
            "form expected one of 'poly', 'mpoly', 'way', got None",
        ),
        ({"name": "fractal", "drop_path": "0.1"}, "drop_path expected a number, got '0.1'"),
        ({"degree": 2}, "scheme: expected a name, or a mapping with 'name', got {'degree': 2}"),
        ({"name": 3}, "scheme: expected a name, or a mapping with 'name'"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_with_what_was_expected(spec: Any, message: str) -> None:
    with pytest.raises(SchemenetError, match=re.escape(message)):
        SCHEMES.build(spec)


def test_a_spec_is_not_changed_by_building() -> None:
    spec = {"name": "fractal", "columns": 3}
    assert SCHEMES.build(spec).columns == 3
    assert spec == {"name": "fractal", "columns": 3}
    assert SCHEMES.build("fractal") is not SCHEMES.build("fractal")


def test_whole_numbers_pass_as_numbers() -> None:
    assert SCHEMES.build({"name": "linear_multistep", "k": 1, "scale": True}).order == 2
    assert GRIDS.build({"name": "uniform", "time": 2}).nodes(4)[1].t == 0.5


def test_sizes_fix_parameters_that_the_user_may_still_set(kitchen: Registry) -> None:
    assert kitchen.build("soup")["litres"] == 1
    assert kitchen.build("soup_large")["litres"] == 5
    assert kitchen.build({"name": "soup_large", "litres": 3})["litres"] == 3
    assert kitchen.defaults("soup_large") == {"litres": 5, "salt": True, "style": "clear"}
    assert kitchen.build("broth") == kitchen.build("soup")
    assert kitchen.entry("soup_large").facts == {"hot": True}


def test_extends_takes_the_parameters_of_another_entry(kitchen: Registry) -> None:
    assert list(kitchen.parameters("stew")) == ["litres", "salt", "cook", "meat"]
    assert kitchen.build({"name": "stew", "meat": "beef", "litres": 2}) == {"meat": "beef", "litres": 2}
    with pytest.raises(SchemenetError, match="dish 'stew' takes no 'style'; it takes: litres, salt, meat"):
        kitchen.build({"name": "stew", "meat": "beef", "style": "thick"})
    with pytest.raises(SchemenetError, match="dish 'stew': litres expected a number, got 'much'"):
        kitchen.build({"name": "stew", "meat": "beef", "litres": "much"})
    assert "meat" not in kitchen.defaults("stew")


def test_context_is_handed_over_and_not_the_users_to_set(kitchen: Registry) -> None:
    assert kitchen.build("soup", cook="Ann", waiter="Bob")["cook"] == "Ann"
    assert "cook" in kitchen.parameters("soup")
    assert "cook" not in kitchen.options("soup")
    with pytest.raises(SchemenetError, match="dish 'soup' takes no 'cook'"):
        kitchen.build({"name": "soup", "cook": "Ann"})


def test_the_error_is_an_ordinary_value_error() -> None:
    with pytest.raises(ValueError, match="no scheme"):
        SCHEMES.build("nothing_like_it")


# A new entry


class Theta(Scheme):
    """u_{n+1} = u_n + theta h f(u_n), a scheme of this test."""

    order = None
    stages = 1

    def __init__(self, theta: float = 0.5) -> None:
        super().__init__()
        self.theta = theta

    def step(
        self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]
    ) -> tuple[State, tuple[State, ...]]:
        return axpy(y, f(node, y), self.theta * node.h), solver_state


@pytest.fixture
def _theta() -> Iterator[None]:
    SCHEMES.list()
    SCHEMES.register("theta_of_a_test", "theta_alias")(Theta)
    yield
    SCHEMES.remove("theta_of_a_test")
    assert not {"theta_of_a_test", "theta_alias"} & {*SCHEMES.all_names()}


@pytest.mark.usefixtures("_theta")
@pytest.mark.parametrize("gradient", ["backprop", "checkpoint"])
def test_a_registered_scheme_is_a_scheme_like_any_other(gradient: str) -> None:
    assert "theta_of_a_test" in SCHEMES
    assert list(SCHEMES.parameters("theta_of_a_test")) == ["theta"]
    torch.manual_seed(0)
    field = Tanh(6).double()
    spec = {"name": "theta_alias", "theta": 0.25}
    flow = Flow(lambda node: field, 3, scheme=spec, sharing="shared", gradient=gradient)
    euler = Flow(lambda node: Quarter(field), 3, sharing="shared", gradient=gradient)
    assert distance(flow(batch()), euler(batch())) < 1e-12
    with pytest.raises(SchemenetError, match="did you mean 'theta_of_a_test'"):
        SCHEMES.build("theta_of_test")
    with pytest.raises(SchemenetError, match="Theta as configured is no method"):
        Flow(lambda node: field, 3, scheme=spec, gradient="adjoint")


class Quarter(torch.nn.Module):
    def __init__(self, field: torch.nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, node: Node, y: torch.Tensor) -> torch.Tensor:
        return 0.25 * self.field(node, y)


def test_a_scheme_that_declares_too_little_cannot_be_defined() -> None:
    with pytest.raises(TypeError, match="scheme Bare must declare order, stages"):

        class Bare(Scheme):
            def step(self, f: VectorField, node: Node, y: State, solver_state: tuple[State, ...]) -> Any:
                return y, solver_state


# Without torch


@pytest.mark.parametrize("module", ["schemes.registry", "schemes.schema", "schemes.errors", "schemes.core.node"])
def test_importing_names_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


# Entries from outside


@pytest.fixture
def dishes() -> Registry:
    return Registry("dish", "schemes.gradients", context=("cook",), builds="builtins.dict")


def test_an_entry_from_outside_can_be_defined_anew_and_takes_no_other_ones_name(dishes: Registry) -> None:
    def define(litres: float) -> None:
        @dishes.register("soup", "broth", sizes={"soup_large": {"litres": 5}})
        def soup(litres: float = litres) -> Any:
            return {"litres": litres}

    define(1)
    define(2)
    assert dishes.build("broth") == {"litres": 2}
    assert [entry.name for entry in dishes.outside] == ["soup", "soup_large"]
    with pytest.raises(SchemenetError, match="already taken by"):

        @dishes.register("stew", "broth")
        def stew() -> Any:
            return {}


def test_an_entry_from_outside_has_parameters_that_a_config_can_set(dishes: Registry) -> None:
    def of_a_tensor(spoon: torch.Tensor, salt: float = torch.pi, lid: Any = os.sep.join) -> Any:
        return {}

    with pytest.raises(SchemenetError) as caught:
        dishes.register("roast")(of_a_tensor)
    assert_lines(str(caught.value), ("spoon", "annotation", "Tensor"), ("lid", "literal"))
    assert "roast" not in dishes


def _half(litres: int = 2.5) -> Any: ...  # type: ignore[assignment]
def _nan(litres: float = float("nan")) -> Any: ...
def _failing(litres: 1 / 0 = 1) -> Any: ...  # type: ignore[valid-type]
def _positional(litres: float, /) -> Any: ...
def _plain(litres: float = 1.0) -> Any: ...


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        (_half, {}, "litres: its default does not fit its annotation 'int': expected a whole number, got 2.5"),
        (_nan, {}, "expected a number, got nan"),
        (_failing, {}, "litres: expected an annotation made of"),
        (_positional, {}, "litres: expected a parameter that can be given by its name; leave out the /"),
        (_plain, {"sizes": {"large": {"litres": "5"}}}, "litres: its default does not fit"),
        (_plain, {"sizes": {"large": {"litre": 5}}}, "size 'large' takes no 'litre'; did you mean 'litres'"),
        (_plain, {"extends": "roast"}, "extends='roast': expected another entry than itself"),
        (_plain, {"extends": "stew"}, "no dish 'stew'"),
    ],
)
def test_an_entry_from_outside_that_no_config_can_build(
    target: Any, words: dict[str, Any], message: str, dishes: Registry
) -> None:
    with pytest.raises(SchemenetError, match=f"^dish 'roast' of {__name__}: .*{re.escape(message)}"):
        dishes.register("roast", **words)(target)
    assert "roast" not in dishes


@pytest.mark.parametrize(
    "name", [5, "", "null", "True", "None", "a=b", "a b", "=1+1", "x\x1b[31m", "1a", "-a", "a/b", "a.b"]
)
def test_a_name_is_one_that_a_config_can_say(name: Any, dishes: Registry) -> None:
    for names, sizes in (([name], {}), (["soup", name], {}), (["soup"], {name: {}})):
        with pytest.raises(SchemenetError, match=f"^dish {re.escape(repr(name))}: expected a name of letters"):
            dishes.register(*names, sizes=sizes)
    assert dishes.register("soup-of_2", "süppchen")(_plain) is _plain


def test_a_list_for_a_default_is_the_same_in_every_build(dishes: Registry) -> None:
    @dishes.register("soup", sizes={"soup_large": {"spices": ["salt"]}})
    def soup(spices: list = [], lids: tuple = ()) -> Any:  # noqa: B006
        spices.append("pepper")
        return {"spices": spices, "lids": lids}

    assert [dishes.build("soup")["spices"] for _ in range(2)] == [["pepper"], ["pepper"]]
    assert [dishes.build("soup_large")["spices"] for _ in range(2)] == [["salt", "pepper"], ["salt", "pepper"]]
    assert dishes.defaults("soup") == {"spices": [], "lids": ()}
    assert dishes.build({"name": "soup", "lids": [1]})["lids"] == [1]  # a yaml file has lists alone
    with pytest.raises(SchemenetError, match=r"lids expected a list \[...\], got 'ab'"):
        dishes.build({"name": "soup", "lids": "ab"})


def test_what_an_entry_from_outside_builds_is_checked(dishes: Registry) -> None:
    @dishes.register("toast")
    def toast(size: int = 1) -> Any:
        if size < 0:
            raise ValueError("size expected to be positive")
        return [size] if size < 9 else {}[size]

    with pytest.raises(SchemenetError, match=r"dish 'toast': expected a builtins.dict, got list"):
        dishes.build("toast")
    with pytest.raises(SchemenetError, match="dish 'toast': size expected to be positive"):
        dishes.build({"name": "toast", "size": -1})
    with pytest.raises(SchemenetError, match=r"dish 'toast': KeyError: 9"):
        dishes.build({"name": "toast", "size": 9})


def test_threads_wait_until_a_registry_is_filled() -> None:
    def fill(registry: Registry) -> None:
        registry.register("soup")(lambda: None)
        time.sleep(0.05)
        registry.register("stew")(lambda: None)

    slow = Registry("dish", "schemes.gradients", fill=fill)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda _: list(slow), range(2))) == [["soup", "stew"]] * 2
