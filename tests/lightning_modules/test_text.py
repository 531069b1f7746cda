"""Text for terminals."""

import io

import pytest

from lightning_modules.text import aligned, columns_of, fitted, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_rest_of_a_long_line_stands_below_its_description() -> None:
    assert fitted("  name  KIND  one two three four\n\n    a b c d e f g h i j k l m n", 28) == (
        "  name  KIND  one two three\n              four\n\n    a b c d e f g h i j k l\n    m n"
    )
    assert fitted("name  " + 50 * "x", None) == "name  " + 50 * "x"


def test_a_wait_is_named_on_a_terminal_alone_and_leaves_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with waiting("counting costs"):
            pass
        written = stream.getvalue()
        assert ("counting costs" in written) == shown
        assert not shown or written.endswith("\x1b[2K")  # the line erased


@pytest.mark.parametrize("width", [None, 30])
def test_letters_of_two_columns_shift_nothing(width: int | None) -> None:
    rows = [["arm", "note", "p"], ["残差ネット", "可逆 な 残差 ネット ワーク", "1"], ["resnet", "plain", "2"]]
    lines = aligned(rows, width).splitlines()
    ends = {columns_of(line) for line in lines if line[-1] in "p12"}
    assert len(ends) == 1
    assert max(map(columns_of, lines)) == columns_of(lines[1]) <= (width or 99)
