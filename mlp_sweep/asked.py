"""What was asked for, written before anything else: a run in its status.json, a sweep's jobs in its jobs.json.

So a run that was killed before it began is known to have been wanted, with settings that can be trusted.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import config, console, heartbeat, migrations, run_dir, sealed

JOBS = "jobs.json"


def run(path: Path, settings: dict[str, Any]) -> None:
    """Writes what a directory is for before anything else is in it, so that it can be resumed from then on."""
    if run_dir.is_run(path):
        return
    with run_dir.RunDir(path).lock():
        kept = (run_dir.CHECKPOINT, run_dir.WEIGHTS)
        # Another process may have been asked for the same directory; and what a run trained says more than "waiting".
        if not run_dir.is_run(path) and not any((path / file).exists() for file in kept):
            waiting = {"state": "waiting", "outcome": None, "epoch": 0, "settings": settings}
            sealed.write_record(path / run_dir.STATUS, migrations.stamped(waiting) | run_dir.process())


def sweep(path: Path, wanted: dict[Path, dict[str, Any]]) -> None:
    """The same for a sweep: the settings of every job, added to those of the batches before."""
    from filelock import FileLock

    path.mkdir(parents=True, exist_ok=True)
    named = {os.path.relpath(job, path): settings for job, settings in wanted.items()}
    named = {name: settings for name, settings in named.items() if _below(name)}
    with FileLock(path / run_dir.LOCK):  # another command may be adding its own
        before, moved = jobs(path), renamed(path)
        kept = {name: settings for name, settings in before.items() if path / name not in moved}
        record = {"jobs": kept | named} | run_dir.process()
        sealed.write_record(path / JOBS, migrations.stamped(record))
    heartbeat.hold(path / run_dir.LOCK)


def take_over(path: Path) -> None:
    """Names this process as the one that trains a sweep's remaining jobs, and the renamed directories."""
    moved = renamed(path)
    sweep(path, {moved.get(path / name, path / name): settings for name, settings in jobs(path).items()})


def jobs(path: Path) -> dict[str, Any]:
    """Every job's settings by its directory's name; none where the path is no sweep's. ValueError: damaged."""
    return _jobs(path, sealed.read_record(path / JOBS)) if (path / JOBS).exists() else {}


def renamed(path: Path) -> dict[Path, Path]:
    """The directories of a sweep's jobs that are missing -> where the runs with their settings are in the sweep now."""
    wanted = jobs(path)
    missing = {name: settings for name, settings in wanted.items() if not run_dir.is_run(path / name)}
    if not missing:
        return {}
    strangers: dict[str, list[Path]] = defaultdict(list)
    for folder in run_dir.find_runs(path):
        if os.path.relpath(folder, path) not in wanted:
            with suppress(ValueError):  # damaged: reported where it is read
                strangers[_decisive(run_dir.read_status(folder).get("settings"))].append(folder)
    found = {}
    for name, settings in missing.items():
        of_it = strangers.get(_decisive(settings), [])
        if of_it and not (path / name).exists():
            found[path / name] = of_it.pop(0)
    return found


def notice_renamed(moved: dict[Path, Path]) -> None:
    for before, now in moved.items():
        console.notice(f"{now.name}: recognised by its settings as the job {before.name}")


def _decisive(settings: Any) -> str:
    """Settings as text, less those that may differ between a job and its run."""
    return repr(config.decisive(settings, free=("epochs",))) if isinstance(settings, dict) else ""


def _jobs(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    found, since = record.get("jobs"), migrations.version(record, path / JOBS)
    if not isinstance(found, dict) or not all(_below(name) for name in found):
        raise ValueError(f"{path / JOBS}: not the jobs of a sweep")
    return {name: migrations.settings(settings, since) for name, settings in found.items()}


def unrecorded(path: Path) -> Iterator[tuple[Path, bool]]:
    """(directory, whether the process that asked for it lives) of each job at or below a path that has no record yet.

    ValueError where a sweep's jobs are damaged.
    """
    for folder, _, files in run_dir.walk(path):
        if JOBS in files:
            record, here = sealed.read_record(Path(folder, JOBS)), Path(folder)
            moved = renamed(here)
            named = (here / name for name in _jobs(here, record))
            missing = (job for job in named if not run_dir.is_run(job) and job not in moved)
            yield from ((job, not run_dir.gone(record, here)) for job in missing)


def _below(name: str) -> bool:
    """Whether a name leads into a folder and not out of it."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts
