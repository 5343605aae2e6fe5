"""What the terminal shows: rich bars where a person watches, plain lines otherwise, one table at the end.

Progress, notices and errors go to stderr, results to stdout. What is shown never decides what is trained: a stream
whose reader is gone is dropped, and signals stop a command in order.
"""

import errno
import io
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # ":x:" in a path is no picture
_out = Console(highlight=False, emoji=False)
_said: set[str] = set()


def notice(text: str) -> None:
    """One line to the user, once."""
    if text not in _said:
        _said.add(text)
        _show(text)


def _print_notice(text: str) -> None:
    _err.print(f"mlp_sweep: {text}", markup=False)


_show = _print_notice


def pass_on(notices: Callable[[str], None]) -> None:
    """Notices go there from now on: in a process whose terminal is another's."""
    global _show
    _show = notices


def error(text: str) -> None:
    if _err.is_terminal:
        _err.print(f"mlp_sweep: {text}", markup=False, style="bold red")
    else:
        print(f"mlp_sweep: {text}", file=sys.stderr)  # rich would import what there may be no memory for


class Bar:
    """One thing under way: its `total` once known, `advance` as it goes, `say` for a stage reached and its figures."""

    def __init__(self, total: Any, advance: Any, say: Any) -> None:
        self.total, self.advance, self.say = total, advance, say


FIGURES_WIDTH, RATE_WIDTH = 90, 110  # columns of a terminal that has room for the figures, and for the rate too


class Progress:
    """Bars of what is under way; on a terminal they move, elsewhere each task says when it ended."""

    def __init__(self) -> None:
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), TextColumn("{task.percentage:>3.0f} %")]
        if _err.width >= RATE_WIDTH:
            columns.append(TextColumn("{task.fields[rate]}"))
        columns.append(TextColumn("{task.fields[note]}"))
        self._bars = RichProgress(*columns, TimeRemainingColumn(), console=_err, transient=True)

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[Bar]:
        """A bar for `total` units of work."""
        started = time.perf_counter()
        done = 0
        task = None
        if _err.is_terminal:
            self._bars.start()
            task = self._bars.add_task(description, total=total, note="", rate="")

        def rate() -> str:
            return f"{done / max(time.perf_counter() - started, 1e-9):,.0f} {unit}/s"

        def set_total(count: int) -> None:
            nonlocal total, started
            total, started = count, time.perf_counter()
            if task is not None:
                self._bars.update(task, total=count)

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if task is not None:
                self._bars.update(task, advance=count, rate=rate())

        def say(stage: str, figures: str = "") -> None:
            text = ", ".join(filter(None, (stage, figures)))
            if task is not None:
                short = text.replace("training ", "").replace("validation ", "val. ")
                self._bars.update(task, note=short if _err.width >= FIGURES_WIDTH else stage)
            else:
                left = ""
                if total and done:
                    left = f", {(total - done) * (time.perf_counter() - started) / done:.0f} s left"
                _err.print(f"{description}: {text}, {rate()}{left}", markup=False)

        try:
            yield Bar(set_total, advance, say)
            if done:
                _err.print(f"{description}: {done:,} {unit} in {time.perf_counter() - started:.1f} s", markup=False)
        finally:
            if task is not None:
                self._bars.remove_task(task)
                if not self._bars.task_ids:
                    self._bars.stop()


MOST_ROWS = 60  # of a table; what is written to files has them all
PIPE_WIDTH = 160  # columns where no terminal says how many, nor COLUMNS


def height() -> int | None:
    """Lines of the terminal that results go to, if it is one."""
    return _out.height if _out.is_terminal else None


def table(rows: list[dict[str, str]], figures: Sequence[str]) -> None:
    """Plain text in columns, the keys of the first row; those of figures to the right."""
    if not rows:
        return
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in rows[0]:
        figure = column in figures
        drawn.add_column(column, justify="right" if figure else "left", no_wrap=figure, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(plain(cell)) for cell in row.values()))
    wide = _out.is_terminal or "COLUMNS" in os.environ
    (_out if wide else Console(width=PIPE_WIDTH, highlight=False, emoji=False)).print(drawn)


def plain(text: str) -> str:
    """Text of a file's, or a file's name, in which nothing can steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def result(text: str) -> None:
    _out.print(text, markup=False, soft_wrap=True)


def sentence(text: str) -> None:
    """To stdout; a terminal has it in whole words, a pipe in one line."""
    _out.print(text, markup=False, soft_wrap=not _out.is_terminal)


def shown(path: Path) -> str:
    """A path as short as it can be typed here."""
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


class _Stream:
    """A standard stream that drops what it cannot write: a pipe may break, a terminal close, a disk be full."""

    def __init__(self, stream: TextIO | None) -> None:
        self.lost: Exception | None = None
        if stream is None:  # closed when Python started
            self.lost = OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._stream = stream or _nowhere()
        if isinstance(stream, io.TextIOWrapper):  # a line is shown when it is written, whatever a file's name is
            self._attempt(lambda: stream.reconfigure(line_buffering=True, errors="backslashreplace"))

    def __getattr__(self, name: str) -> Any:  # encoding, fileno, isatty and so on
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, do: Callable[..., object], *given: object) -> None:
        try:
            do(*given)
        except BlockingIOError:  # a slow reader of a pipe that does not wait for it: this text alone is lost
            pass
        except (OSError, ValueError) as error:  # ValueError: a closed file
            self.lost = error
            _discard(self._stream)  # what is in its buffer is written once more when Python ends
            self._stream = _nowhere()
            if self is sys.stdout:
                say_if_lost(closed_pipe=False)


@cache
def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """Points a stream's descriptor at /dev/null."""
    with suppress(OSError, ValueError):
        number, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, number)
        os.close(nowhere)


def outlive_streams() -> None:
    """From now on stdout and stderr may be closed, full or without a reader, and the command goes on."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # the next file opened would get this number, and what is printed
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if not isinstance(getattr(sys, name), _Stream):
            setattr(sys, name, _Stream(getattr(sys, name)))


def lost() -> Exception | None:
    """Why stdout could not be written, where outlive_streams has been called."""
    if not isinstance(sys.stdout, _Stream):
        return None
    sys.stdout.flush()
    return sys.stdout.lost


_lost_said = False


def say_if_lost(closed_pipe: bool = True) -> None:
    """A line on stderr, once. Where nothing is trained a closed pipe is not worth one: `--help | head` closes it."""
    global _lost_said
    why = lost()
    if why and not _lost_said and (closed_pipe or not isinstance(why, BrokenPipeError)):
        _lost_said = True
        error(f"standard output was lost ({_why(why)})")


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
BURST = 1.0  # seconds in which a supervisor's SIGTERM and SIGHUP count as one: it may send several at once
_received: signal.Signals | None = None


def take_signals() -> None:
    """Ctrl-C, SIGTERM and SIGHUP stop in order, a second one does not disturb that, a third ends the process at once.

    The first raises KeyboardInterrupt. A signal that is ignored already stays so: nohup, or a shell's background.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    count, last = 0, -BURST

    def stop(number: int, _: object) -> None:
        global _received
        nonlocal count, last
        before, last = last, time.monotonic()
        if count and number != signal.SIGINT and last - before < BURST:
            return
        count += 1
        if count == 1:
            _received = signal.Signals(number)
            raise KeyboardInterrupt
        if count > 2:
            os._exit(128 + number)  # like kill -9, of which nothing is lost

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def received() -> signal.Signals | None:
    """The signal that stops this command, as soon as it has come."""
    return _received


def stop_reason() -> str:
    """Why a run was stopped, for its records."""
    return f"stopped by {_received.name}" if _received else "interrupted"


def stopped(path: Path | None) -> NoReturn:
    """The last line after a signal, with the command that resumes. Exits with 128 + its number, as shells expect."""
    by = f" by {_received.name}" if _received not in (None, signal.SIGINT) else ""
    resume = f"; resume with: python -m mlp_sweep.resume {shlex.quote(shown(path))}" if path else ""
    _err.print(f"mlp_sweep: stopped{by}{resume}", markup=False)
    sys.exit(128 + (_received or signal.SIGINT))
