"""What was asked for, noted before anything else: a run in its status.json, a sweep's jobs in its jobs.json, sealed.

So what was killed before it began is known to have been wanted, with settings that can be trusted.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import run_dir, sealed

JOBS = "jobs.json"


def run(path: Path, settings: dict[str, Any]) -> None:
    """Notes what a directory is for before anything else is in it, so that it can be taken up from then on."""
    if run_dir.is_run(path):
        return
    with run_dir.RunDir(path).lock():
        if not run_dir.is_run(path):  # another process may have been asked for the same directory
            waiting = {"state": "waiting", "outcome": None, "epoch": 0, "settings": settings}
            sealed.write_record(path / run_dir.STATUS, waiting | _by())


def sweep(path: Path, wanted: dict[Path, dict[str, Any]]) -> None:
    """The same for a sweep: the settings of every job, added to those of the batches before."""
    from filelock import FileLock

    path.mkdir(parents=True, exist_ok=True)
    named = {os.path.relpath(job, path): settings for job, settings in wanted.items()}
    named = {name: settings for name, settings in named.items() if _below(name)}
    with FileLock(path / run_dir.LOCK):  # another command may be adding its own
        sealed.write_record(path / JOBS, {"jobs": jobs(path) | named, **_by()})


def jobs(path: Path) -> dict[str, Any]:
    """Every job's settings by its directory's name; none where the path is no sweep's. ValueError: damaged."""
    return _jobs(path, sealed.read_record(path / JOBS)) if (path / JOBS).exists() else {}


def _jobs(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    found = record.get("jobs")
    if not isinstance(found, dict) or not all(_below(name) for name in found):
        raise ValueError(f"{path / JOBS}: not the jobs of a sweep")
    return found


def unrecorded(path: Path) -> Iterator[tuple[Path, bool]]:
    """(directory, whether the process that asked for it lives) of each job at or below a path that has no record yet.

    ValueError where a sweep's jobs are damaged.
    """
    for folder, _, files in os.walk(path):
        if JOBS in files:
            record = sealed.read_record(Path(folder, JOBS))
            named = (Path(folder, name) for name in _jobs(Path(folder), record))
            yield from ((job, not run_dir.gone(record)) for job in named if not run_dir.is_run(job))


def _by() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _below(name: str) -> bool:
    """Whether a name leads into a folder and not out of it."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts
