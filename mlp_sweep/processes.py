"""Stacks in processes of this machine that share its cores and meet nowhere.

Threads would do for the products, but not for the calls: each waits for the interpreter's lock. The processes are
forked from one that has imported torch and done nothing with it, so a second costs neither its import nor its memory.
What they have to say, records and progress alike, goes to the process of the command; they write no file of a run.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from . import config, console, machine, relay
from .events import Event, Started
from .plan import Stack

LOOK = 0.5  # seconds between two looks at whether all has been stopped
AVAILABLE = "forkserver" in multiprocessing.get_all_start_methods()


def warm() -> None:
    """Has the imports made, once, by the process that the others are forked from, while this one goes on."""
    multiprocessing.set_forkserver_preload(["mlp_sweep.sweep"])
    with _signals_blocked():
        resource_tracker.ensure_running()  # unblocks SIGINT and SIGTERM here once it has started
    with _signals_blocked():
        multiprocessing.forkserver.ensure_running()


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started in here has the signals that stop a command blocked from its beginning, as have its children.

    A terminal, Slurm or systemd sends them to every process of the group. This one records the stop, then ends the
    others itself.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, console.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass
class _Failed:
    error: Exception
    where: str  # the traceback, which an exception leaves behind in its process


class Processes:
    """Trains stacks, `at_once` of `count` at a time; each method may be called from any thread."""

    def __init__(self, count: int, at_once: int, context: BaseContext | None = None) -> None:
        """context: how processes come to be, if not by `warm`."""
        if context is None:
            warm()
        self._context: Any = context or multiprocessing.get_context("forkserver")
        self._left, self.at_once = count, at_once
        self._starting, self._changing = threading.Lock(), threading.Lock()
        self._running: dict[Connection, Any] = {}
        self._stopped = False
        self._first, self._brought = threading.Lock(), threading.Event()
        self._progress = console.Progress()

    def events(self, stack: Stack) -> Generator[Event]:
        """What a process of its own has to say of a stack. KeyboardInterrupt once stopped."""
        if not self._first.acquire(blocking=False):
            self._brought.wait()  # the first brings the pictures, the others find them prepared
        try:
            with self._started(stack) as pipe, ExitStack() as bars:
                shown = relay.Shown(self._progress, bars)
                while (message := self._receive(pipe)) is not None:
                    match message:
                        case relay.Said():
                            shown(message)
                        case _Failed():
                            raise message.error from RuntimeError(message.where)
                        case _:
                            if isinstance(message, Started):
                                self._brought.set()
                            yield message
        finally:
            self._brought.set()

    def _receive(self, pipe: Connection) -> Any:
        try:
            while True:
                self._check()
                if pipe.poll(LOOK):
                    return pipe.recv()
        except (EOFError, OSError):  # the latter where it ended in the middle of a message
            self._check()
            process = self._running[pipe]
            process.join(LOOK)
            if console.received():  # the same signal may have ended it
                raise KeyboardInterrupt from None
            by = f" by signal {-process.exitcode}" if (process.exitcode or 0) < 0 else ""
            hint = ", as by a system that is short of memory" if process.exitcode == -9 else ""
            raise RuntimeError(f"its process was ended{by}{hint}") from None

    def stop(self) -> None:
        """Ends whatever trains; nothing begins after it. A second signal in here does no harm: all look for it."""
        self._stopped = True
        self._brought.set()
        with self._changing:
            for process in self._running.values():
                _end(process)

    def _check(self) -> None:
        if self._stopped:
            raise KeyboardInterrupt

    @contextmanager
    def _started(self, stack: Stack) -> Iterator[Connection]:
        """A process that trains a stack, as the pipe to it; at the end it is gone."""
        with self._starting:
            self._check()
            pipe, theirs = self._context.Pipe()
            process = self._context.Process(target=_train, args=(theirs, stack, self.threads()), daemon=True)
            try:
                with _signals_blocked():
                    process.start()
            except (OSError, EOFError) as error:
                self._check()
                raise RuntimeError(f"no process could be started ({error or 'no answer'})") from error
            theirs.close()
            for member in stack.members:  # it has them now
                member.state = None
        with self._changing:
            self._running[pipe] = process
        try:
            self._check()
            yield pipe
        finally:
            with self._changing:
                del self._running[pipe]
                pipe.close()
                self._left -= 1
                for place, other in enumerate(self._running):
                    with suppress(OSError):  # it has just ended
                        other.send(self.threads(place))
            _end(process)
            process.join()

    def threads(self, place: int | None = None) -> int:
        """Of the process at a place among those that run, or of the next; the cores of those that ended are dealt."""
        place = len(self._running) if place is None else place
        each, more = divmod(machine.cores(), max(1, min(self.at_once, self._left)))
        return max(1, each + (place < more))


def _end(process: Any) -> None:
    """By SIGKILL, since it ignores SIGTERM; loky's processes have no kill()."""
    if process.exitcode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _train(pipe: Connection, stack: Stack, threads: int) -> None:
    """In the process: trains, and sends what there is to say; None at the end."""
    for number in console.SIGNALS:  # they reach the command too, which ends this process
        signal.signal(number, signal.SIG_IGN)
    console.outlive_streams()
    told = relay.Relay(pipe)
    console.pass_on(told.notice)
    try:
        from . import sweep

        sweep.share_threads(stack, threads)
        with told.task(stack.name, None, "samples") as bar:
            for event in sweep.events(stack, told, bar):
                told.send(event)
                for count in told.answers():
                    sweep.share_threads(stack, count)
        last = None
    except Exception as error:
        last = _Failed(_portable(error), traceback.format_exc())
    told.send(last)


def _portable(error: Exception) -> Exception:
    """An error as another process can read it."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(config.one_line(error))
