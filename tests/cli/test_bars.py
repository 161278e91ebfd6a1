"""Bars show on a terminal only; notes can be silenced, warnings cannot."""

from __future__ import annotations

import io
import threading

from qrp_store.cli.bars import Bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(bars: Bars) -> None:
    with bars.task("reading [bold]", total=10, unit="rows") as task:
        task.advance()
        bars.note("a note [red]")
        bars.warn("a warning")
        task.advance(9)
    bars.close()


def test_a_pipe_sees_notes_and_warnings_only() -> None:
    stream = io.StringIO()
    work(Bars(stream=stream))
    assert stream.getvalue() == "a note [red]\nwarning: a warning\n"


def test_quiet_keeps_warnings() -> None:
    for stream in (io.StringIO(), Terminal()):
        work(Bars(quiet=True, stream=stream))
        assert stream.getvalue() == "warning: a warning\n"


def test_a_terminal_sees_the_bar_too() -> None:
    stream = Terminal()
    work(Bars(stream=stream))
    shown = stream.getvalue()
    assert "reading [bold]" in shown
    assert "/10 rows" in shown
    assert "a note [red]" in shown


def test_an_unknown_total_and_several_threads_work() -> None:
    bars = Bars(stream=Terminal())

    def count() -> None:
        with bars.task("counting", total=None) as task:
            for _ in range(100):
                task.advance()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bars.close()
