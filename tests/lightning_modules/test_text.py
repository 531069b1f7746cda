"""Text for terminals."""

import io

import pytest

from lightning_modules.text import waiting


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
