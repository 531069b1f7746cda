"""Text for terminals."""

import io

import pytest

from lightning_modules.text import aligned, columns_of, waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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
