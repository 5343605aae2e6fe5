"""Stacks in processes of this machine that share its cores and meet nowhere.

Threads would do for the products, but not for the calls: each waits for the interpreter's lock. The processes are
forked from one that has imported torch and done nothing with it, so a second costs neither its import nor its memory.
What they have to say, records and progress alike, goes to the process of the command; they write no file of a run.
"""

import multiprocessing
import multiprocessing.forkserver
import pickle
import signal
import threading
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from . import config, console, machine, relay
from .events import Event, Started
from .plan import Stack

AVAILABLE = "forkserver" in multiprocessing.get_all_start_methods()


def warm() -> None:
    """Has the imports made, once, by the process that the others are forked from, while this one goes on."""
    multiprocessing.set_forkserver_preload(["mlp_sweep.sweep"])
    multiprocessing.forkserver.ensure_running()


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
        self._changing = threading.Lock()
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
            return pipe.recv()
        except (EOFError, OSError):  # the latter where it ended in the middle of a message
            if self._stopped:
                raise KeyboardInterrupt from None
            raise RuntimeError("its process ended before it did") from None

    def stop(self) -> None:
        """Ends whatever trains; nothing begins after it."""
        with self._changing:
            self._stopped = True
            for process in self._running.values():
                process.terminate()
        self._brought.set()

    @contextmanager
    def _started(self, stack: Stack) -> Iterator[Connection]:
        """A process that trains a stack, as the pipe to it; at the end it is gone."""
        with self._changing:
            if self._stopped:
                raise KeyboardInterrupt
            pipe, theirs = self._context.Pipe()
            process = self._context.Process(target=_train, args=(theirs, stack, self.threads), daemon=True)
            try:
                process.start()
            except (OSError, EOFError) as error:
                raise RuntimeError(f"no process could be started ({error or 'no answer'})") from error
            theirs.close()
            self._running[pipe] = process
        try:
            yield pipe
        finally:
            with self._changing:
                del self._running[pipe]
                pipe.close()
                self._left -= 1
                for other in self._running:
                    with suppress(OSError):  # it has just ended
                        other.send(self.threads)
            process.terminate()
            process.join()

    @property
    def threads(self) -> int:
        """Of each process; those that are left have the cores of those that ended."""
        return max(1, machine.cores() // max(1, min(self.at_once, self._left)))


def _train(pipe: Connection, stack: Stack, threads: int) -> None:
    """In the process: trains, and sends what there is to say; None at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the command too, which ends this process
    told = relay.Relay(pipe)
    console.pass_on(told.notice)
    try:
        from . import sweep

        sweep.share_threads(threads)
        with told.task(stack.name, None, "samples") as bar:
            for event in sweep.events(stack, told, bar):
                told.send(event)
                for count in told.answers():
                    sweep.share_threads(count)
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
