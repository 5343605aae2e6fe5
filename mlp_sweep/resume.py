"""python -m mlp_sweep.resume PATH: continues a run or a sweep from its last finished epoch; skips finished runs."""

import argparse
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from . import asked, closing, config, console, machine, plan, run_dir
from .plan import Job
from .workers import Workers, train_jobs

NO_REPORT = (ValueError, OSError, MemoryError, ImportError)  # no room for a library is an ImportError
LAUNCHING = ("max_members", "workers")  # how it is trained, as hydra.launcher has it
MAY_CHANGE = (
    "epochs",
    "device",
    "data_dir",
    "dataset.root",
    "dataset.download",
)  # what leaves the epochs behind as they are


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mlp_sweep.resume", description=__doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="a run's or a sweep's directory")
    keys = ", ".join((*MAY_CHANGE, *LAUNCHING))
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help=f"of {keys}: epochs=40 trains on to epoch 40")
    console.outlive_streams()
    console.take_signals()
    args = parser.parse_args(argv)
    try:
        resume(args.path, args.changes)
    except KeyboardInterrupt:
        stopped(args.path)
    except (ValueError, OSError, MemoryError) as error:
        console.error(config.one_line(error))
        sys.exit(1)


def resume(path: Path, changes: list[str]) -> None:
    """Trains what is unfinished at or below a path, and reports a sweep; SystemExit(1) where a run failed."""
    found = _found(path)
    if not found.wanted:
        raise ValueError(f"{path}: {'no run in it' if path.is_dir() else 'no such folder'}")
    launching = {key: _whole(key, value) for key, _, value in (change.partition("=") for change in changes)
                 if key in LAUNCHING}  # fmt: skip
    changes = [change for change in changes if change.partition("=")[0] not in LAUNCHING]
    jobs = [job(folder, settings, changes) for folder, settings in found.wanted.items()]
    asked.notice_renamed(found.moved)
    workers = Workers(workers=launching.get("workers"))
    at_once = workers.at_once([job.run for job in jobs])
    planned = plan.stacks(jobs, launching.get("max_members"), machine.free_memory(), at_once)
    console.notice(plan.describe(planned, jobs))
    for sweep in found.sweeps if planned else ():
        asked.take_over(sweep)
    results = train_jobs(jobs, planned, workers)
    errors = {result.path: result.error for result in results if result.error}
    if not close(path, errors, is_sweep=list(found.wanted) != [path]):
        sys.exit(1)


def stopped(path: Path | None) -> NoReturn:
    """The last line after a signal, with the command that resumes what has begun. Exits with 128 + its number."""
    if path is not None and run_dir.is_run(path):
        with suppress(ValueError, OSError):
            _stop_waiting(path)
    begun = path is not None and path.exists() and ((path / asked.JOBS).exists() or run_dir.find_runs(path))
    console.stopped(path if begun else None)


def _stop_waiting(path: Path) -> None:
    """Marks as stopped a run of this process that had not begun to train."""
    status = run_dir.read_status(path)
    if status.get("state") == "waiting" and status.get("pid") == os.getpid():
        directory = run_dir.RunDir(path)
        with directory.lock():
            directory.stop("stopped", console.stop_reason())


def _whole(key: str, value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"{key}={value}: must be a whole number")
    return int(value)


@dataclass
class _Found:
    """What is at or below a path: every run with its settings, those too that a killed sweep had not come to."""

    wanted: dict[Path, Any] = field(default_factory=dict)
    sweeps: list[Path] = field(default_factory=list)
    moved: dict[Path, Path] = field(default_factory=dict)  # directory of a job -> where it was renamed to


def _found(path: Path) -> _Found:
    """Links are left out. ValueError: settings that cannot be read."""
    found = _Found()
    for folder, folders, files in run_dir.walk(path):
        folders.sort()
        here = Path(folder)
        if asked.JOBS in files:
            jobs = asked.jobs(here)
            found.sweeps.append(here)
            found.moved |= asked.renamed(here)
            found.wanted |= {here / name: jobs[name] for name in jobs if not _through_link(here, name)}
        if run_dir.STATUS in files:
            found.wanted[here] = run_dir.read_status(here).get("settings")
        elif here not in found.wanted and (here / ".hydra" / "overrides.yaml").is_file():
            raise ValueError(f"{here}: has no {run_dir.STATUS}; resume it with the command that it began with")
    found.wanted = {folder: found.wanted[folder] for folder in sorted(found.wanted) if folder not in found.moved}
    return found


def _through_link(folder: Path, name: str) -> bool:
    return any((folder / part).is_symlink() for part in (Path(name), *Path(name).parents))


def job(folder: Path, settings: Any, changes: list[str]) -> Job:
    """The job that a directory was made for, with these settings changed."""
    if not isinstance(settings, dict):
        raise ValueError(f"{folder / run_dir.STATUS}: does not name the settings of its run")
    changed = {"dataset.download": "false"} | {
        key: value for key, _, value in (change.partition("=") for change in changes)
    }
    for key, value in changed.items():
        if key not in MAY_CHANGE:
            may = ", ".join((*MAY_CHANGE, *LAUNCHING))
            raise ValueError(f"{key}={value}: a run cannot be resumed with another {key}; {may} may change")
        group, _, leaf = key.rpartition(".")
        place = settings.get(group) if group else settings
        if isinstance(place, dict) and (leaf in place or key != "dataset.download"):
            place[leaf] = value
    try:
        run = config.from_settings(settings)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    planned = plan.job(run, folder, more_epochs=True)
    planned.may_prepare = "data_dir" in changed or _may_prepare(Path(run.data_dir))
    if not (planned.finished or planned.may_prepare or Path(run.data_dir, "cache").is_dir()):
        there = "no pictures are prepared outside of ./data for a record alone"
        raise ValueError(f"{folder}: {there}; data_dir={run.data_dir} allows it")
    planned.may_unpack = "dataset.root" in changed
    return planned


def _may_prepare(data_dir: Path) -> bool:
    """Whether pictures may be prepared in a record's data_dir, unasked: only where a command here would by default.

    Links are resolved first. Elsewhere a record, perhaps somebody else's, may only read what is prepared already.
    """
    return (data_dir / "cache").resolve() == Path.cwd().resolve() / "data" / "cache"


def close(path: Path, errors: dict[Path, Exception], is_sweep: bool) -> bool:
    """The closing words, every failure by name, and a sweep's report whatever became of its runs; whether none failed.

    errors: of this process; what other processes' runs failed of is in their status.
    """
    failed, trained = {folder.resolve(): config.one_line(error) for folder, error in errors.items()}, 0
    for folder in run_dir.find_runs(path.resolve()):
        try:
            status = run_dir.read_status(folder)
            trained += status.get("epoch", 0) > 0
            if status.get("state") == "failed":
                failed.setdefault(folder, str(status.get("reason")))
        except (ValueError, TypeError) as error:
            failed[folder] = str(error)
    read = None
    if trained:
        with suppress(*NO_REPORT):  # the report says why, below
            read = closing.sweep(path) if is_sweep else closing.run(path)
    for folder, reason in failed.items():
        log = folder / run_dir.LOG
        console.error(f"{folder.name} failed: {reason}" + (f" (log: {console.shown(log)})" if log.is_file() else ""))
    if not is_sweep:
        console.result(f"records: {console.shown(path)}")
        console.result(f"charts:  python -m mlp_sweep.report {console.shown(path)}")
    elif trained:
        try:
            from . import report

            console.result(f"report: {console.shown(report.write([path], path / 'report', read=read) / 'report.html')}")
        except NO_REPORT as error:
            console.error(f"no report: {config.one_line(error)}")
            return False
    console.say_if_lost()
    return not failed


if __name__ == "__main__":
    main()
