"""Laws of progress: lines in a log, a bar on a terminal, silence when nothing is done."""

import io

from inferplane.cli.terminal import FetchDisplay, megabytes

MIB = 2**20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_shown_when_nothing_is_fetched() -> None:
    stream = io.StringIO()
    with FetchDisplay("tiny", stream):
        pass
    assert stream.getvalue() == ""


def test_elsewhere_the_first_and_the_last_call_of_a_phase_are_lines() -> None:
    stream = io.StringIO()
    with FetchDisplay("tiny", stream) as display:
        for done in (0, 40 * MIB, 50 * MIB, 100 * MIB):
            display("download", done, 100 * MIB)
        display("verify", 100 * MIB, 100 * MIB)
    assert stream.getvalue().splitlines() == [
        "download tiny: 0 MiB of 100 MiB, 0 %",
        "download tiny: 100 MiB of 100 MiB, 100 %",
        "verify tiny: 100 MiB of 100 MiB, 100 %",
    ]


def test_a_repeated_end_is_told_once() -> None:
    stream = io.StringIO()
    with FetchDisplay("tiny", stream) as display:
        display("download", MIB, MIB)
        display("download", MIB, MIB)
    assert len(stream.getvalue().splitlines()) == 1


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    with FetchDisplay("tiny", stream) as display:
        display("download", 50 * MIB, 100 * MIB)
        display("download", 100 * MIB, 100 * MIB)
    assert "download tiny" in stream.getvalue()
    assert "100.0/100.0 MiB" in stream.getvalue()


def test_sizes_are_readable() -> None:
    assert megabytes(1234 * MIB) == "1,234 MiB"
