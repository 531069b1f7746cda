"""Files of the user's that hold what nobody means: one message each, and what is changed in reading is said."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_modules.config.compose import compose
from lightning_modules.config.registries import DATA
from lightning_modules.data.series.csv_reader import read_series
from lightning_modules.data.supervised.image_folder import to_rgb
from lightning_modules.storage.atomic_files import read_json, read_rows
from lightning_modules.training.dry_run import dry_build
from schemes.errors import SchemenetError

ROWS = "".join(f"{i},{i * i % 7}\n" for i in range(20))


def table(path: Path) -> None:
    DATA.build({"name": "table", "file": str(path)}, seed=0).check()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x,x\n" + ROWS, "line 1: column 'x' appears twice"),
        ("a,b\n1_000,2\n" + ROWS, "line 2: column 'a': expected a finite number, got '1_000'"),
    ],
)
def test_a_table_that_could_be_read_as_another(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(SchemenetError, match=told):
        table(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "p.csv"
    os.mkfifo(pipe)
    for read in (table, read_series, read_json, read_rows):
        with pytest.raises(SchemenetError, match="no regular file"):
            read(pipe)
    with pytest.raises(SchemenetError, match="is a folder"):
        table(tmp_path)


def test_an_npy_whose_header_promises_more_than_there_is(tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    np.save(path, np.zeros((3, 2)))
    content = path.read_bytes().replace(b"(3, 2), }          ", b"(99999999999, 2), }")
    assert b"99999999999" in content
    path.write_bytes(content)
    with pytest.raises(SchemenetError, match="cannot be read as an npy"):
        table(path)
    with path.open("r+b") as file:
        file.truncate(2 * 10**12)  # a hole, which a file system may hold
    with pytest.raises(SchemenetError, match=r"cannot be read as an npy|at most 268,435,456 numbers"):
        table(path)


def folder(root: Path, images: dict[str, Image.Image]) -> Path:
    for part in ("train", "test"):
        for name, image in images.items():
            path = root / part / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
    return root


def test_images_of_one_class_teach_nothing(tmp_path: Path) -> None:
    folder(tmp_path, {"cat/1.png": Image.new("RGB", (4, 4))})
    with pytest.raises(SchemenetError, match="two classes or more in train and in test, got 'cat' alone"):
        DATA.build({"name": "image_folder", "root": str(tmp_path)}, seed=0).check()


GREY = np.array([[0, 2**15, 2**16 - 1]], np.uint16)


@pytest.mark.parametrize("kind", ["uint16", ">u2", "int32"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    assert np.array(to_rgb(Image.fromarray(GREY.astype(kind)))).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


@pytest.mark.parametrize(
    "image", [Image.new("F", (2, 2), 0.5), Image.new("I", (2, 2), 2**20), Image.new("I", (2, 2), -1)]
)
def test_pixels_without_a_known_white_are_refused(image: Image.Image) -> None:
    with pytest.raises(ValueError, match="no known white; store whole numbers of 8 or 16 bits"):
        to_rgb(image)


def palette() -> Image.Image:
    image = Image.new("P", (1, 1), 0)
    image.putpalette([200, 0, 0])
    image.info["transparency"] = 0
    return image


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGBA", (1, 1), (200, 100, 0, 0)), [0, 0, 0]),
        (Image.new("RGBA", (1, 1), (200, 100, 0, 255)), [200, 100, 0]),
        (Image.new("LA", (1, 1), (200, 51)), [40, 40, 40]),
        (palette(), [0, 0, 0]),
        (Image.new("L", (1, 1), 7), [7, 7, 7]),
        (Image.new("1", (1, 1), 1), [255, 255, 255]),
        (Image.new("CMYK", (1, 1), (0, 0, 0, 255)), [0, 0, 0]),
    ],
)
def test_every_mode_becomes_colours(image: Image.Image, colour: list[int]) -> None:
    assert np.array(to_rgb(image))[0, 0].tolist() == colour


def test_what_is_made_of_images_is_said(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    folder(tmp_path, {"cat/1.png": Image.fromarray(np.tile(GREY, (3, 1))), "dog/1.png": clear})
    data = DATA.build({"name": "image_folder", "root": str(tmp_path), "size": 4}, seed=0)
    with pytest.warns(UserWarning, match="1 images have 16 bits a pixel and are scaled to 8") as said:
        data.load(train=True)
    assert any("transparent in places, which are taken as black" in str(warning.message) for warning in said)
    folder(tmp_path, {"cat/1.png": Image.new("RGB", (4, 4)), "dog/1.png": Image.new("L", (4, 4))})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DATA.build({"name": "image_folder", "root": str(tmp_path), "size": 4}, seed=0).load(train=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["data=moons", "data.train_size=10000000000"],
            "data.train_size: expected at most 10,000,000, got 10,000,",
        ),
        (["data=digits", "architecture.widths=[100000000]"], "this machine has"),
        (["data=digits", "architecture.widths=[1000000000000000000]"], "this network cannot be made"),
        (["data=digits", "grid.steps=100000000"], "at most 10,000 steps, got 100,000,000"),
        (["data=image_folder", "data.workers=100000"], "data.workers: expected at most 64, got 100,000"),
        (["data=image_folder", "data.size=10000000"], "data.size: expected at most 4,096, got 10,000,000"),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(words: list[str], told: str) -> None:
    with pytest.raises(SchemenetError, match=told):
        dry_build(compose("train", words))
