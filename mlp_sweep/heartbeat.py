"""Signs of life of a process, for readers on other hosts: the time of change of each lock file that it holds.

A reader on the same host asks the system whether the process is there. On another host it cannot, and a record would
say "running" for ever where its process was killed.
"""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

EVERY = 30.0  # seconds between two signs of life, also in the record, so that a reader knows what to expect
MISSED = 20  # signs of life that may be missing before a process counts as ended: ten minutes, for clocks that differ

_held: set[Path] = set()
_changing = threading.Lock()
_thread: threading.Thread | None = None


def hold(lock: Path) -> None:
    """Keeps giving signs of life on a lock file, until it is released or this process ends."""
    global _thread
    with _changing:
        _held.add(lock)
        if _thread is None or not _thread.is_alive():  # a forked process has none
            _thread = threading.Thread(target=_beat, name="heartbeat", daemon=True)
            _thread.start()


def release(lock: Path) -> None:
    with _changing:
        _held.discard(lock)


def ceased(lock: Path, every: object) -> bool:
    """Whether a process that promised a sign of life every so many seconds has given none for long."""
    if not isinstance(every, int | float) or not 0 < every < 1e6:  # a record of version 1 promised none
        return False
    try:
        last = lock.lstat().st_mtime
    except FileNotFoundError:
        return False
    return time.time() - last > MISSED * every


def _beat() -> None:
    while True:
        with _changing:
            held = list(_held)
        for lock in held:
            with suppress(OSError):  # the folder was removed, or the server does not answer: the next one may come
                os.utime(lock, follow_symlinks=False)
        time.sleep(EVERY)
