"""What the terminal shows: rich bars where a person watches, plain lines otherwise, one table at the end.

Progress, notices and errors go to stderr, results to stdout.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
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
    """One thing under way: its `total` once known, `advance` as it goes, `say` for a stage reached."""

    def __init__(self, total: Any, advance: Any, say: Any) -> None:
        self.total, self.advance, self.say = total, advance, say


class Progress:
    """Bars of what is under way; on a terminal they move, elsewhere each task says when it ended."""

    def __init__(self) -> None:
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=_err,
            transient=True,
        )

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

        def say(text: str) -> None:
            if task is not None:
                self._bars.update(task, note=text)
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


def outcome_table(rows: list[dict[str, str]]) -> None:
    """The closing table, a row a run."""
    table(rows[:MOST_ROWS], [column for column in rows[0] if column not in ("run", "outcome")] if rows else [])
    if len(rows) > MOST_ROWS:
        _out.print(f"... and {len(rows) - MOST_ROWS} more")


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
    (_out if _out.is_terminal else Console(width=160, highlight=False, emoji=False)).print(drawn)


def plain(text: str) -> str:
    """Text of a file's, or a file's name, in which nothing can steer a terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def result(text: str) -> None:
    _out.print(text, markup=False, soft_wrap=True)


def shown(path: Path) -> str:
    """A path as short as it can be typed here."""
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else str(path)


def take_interrupts() -> None:
    """Ctrl-C stops in order, a second one does not disturb that, and a third ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background
        return
    pressed = 0

    def interrupted(*_: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed == 1:
            raise KeyboardInterrupt
        if pressed > 2:
            os._exit(130)  # like kill -9, of which nothing is lost

    signal.signal(signal.SIGINT, interrupted)


def stopped(path: Path | None) -> NoReturn:
    """The last word after Ctrl-C, with what there is to go on with. Exits with 130, as shells expect."""
    go_on = f"; go on with: python -m mlp_sweep.resume {shlex.quote(shown(path))}" if path else ""
    _err.print(f"mlp_sweep: stopped{go_on}", markup=False)
    sys.exit(130)
