"""Bars and notices of one process, shown on the terminal of another."""

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from . import console

INTERVAL = 0.1  # seconds between a bar's advances


@dataclass
class Said:
    """Of a bar, or a notice, for the terminal."""

    what: str  # notice | begin | total | advance | say | end
    value: Any
    bar: int = 0


class Shown:
    """Bars of another process, here."""

    def __init__(self, progress: console.Progress, bars: ExitStack) -> None:
        self._progress, self._bars = progress, bars
        self._open: dict[int, tuple[ExitStack, console.Bar]] = {}

    def __call__(self, said: Said) -> None:
        if said.what == "notice":
            console.notice(said.value)
        elif said.what == "begin":
            own = self._bars.enter_context(ExitStack())
            self._open[said.bar] = own, own.enter_context(self._progress.task(*said.value))
        elif said.what == "end":
            self._open.pop(said.bar)[0].close()
        else:
            getattr(self._open[said.bar][1], said.what)(*said.value)


@contextmanager
def _in_touch() -> Iterator[None]:
    """Ends this process, quietly, where the other is gone."""
    try:
        yield
    except (ConnectionError, EOFError):
        raise SystemExit from None


class Relay(console.Progress):
    """Bars of this process, shown by another."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._numbers, self._turn = pipe, itertools.count(), threading.Lock()

    def send(self, message: object) -> None:
        with self._turn, _in_touch():
            self._pipe.send(message)

    def answers(self) -> Iterator[Any]:
        """What has come back since the last time."""
        with _in_touch():
            while self._pipe.poll():
                yield self._pipe.recv()

    def notice(self, text: str) -> None:
        self.send(Said("notice", text))

    @contextmanager
    def task(self, description: str, total: int | None, unit: str) -> Iterator[console.Bar]:
        bar = next(self._numbers)
        owed, sent, counting = 0, time.monotonic(), threading.Lock()  # those who decode advance a bar at once

        def tell(what: str, value: object) -> None:
            self.send(Said(what, value, bar))

        def pay() -> None:
            nonlocal owed, sent
            with counting:
                now, owed, sent = owed, 0, time.monotonic()
            tell("advance", (now,))

        def advance(count: int) -> None:
            nonlocal owed
            with counting:
                owed += count
                due = time.monotonic() - sent > INTERVAL
            if due:
                pay()

        def say(stage: str, figures: str = "") -> None:
            pay()
            tell("say", (stage, figures))

        tell("begin", (description, total, unit))
        yield console.Bar(lambda count: tell("total", (count,)), advance, say)
        pay()
        tell("end", None)
