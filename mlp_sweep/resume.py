"""python -m mlp_sweep.resume PATH: goes on with a run or a sweep from its last whole epoch; skips what is finished."""

import argparse
import sys
from pathlib import Path
from typing import Any

from . import config, console, plan, run_dir
from .plan import Job

MAY_CHANGE = ("epochs", "device", "data_dir", "dataset.root")  # what leaves the epochs behind as they are


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mlp_sweep.resume", description=__doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="a run's or a sweep's directory")
    parser.add_argument(
        "changes", nargs="*", metavar="KEY=VALUE", help=f"of {', '.join(MAY_CHANGE)}: epochs=40 goes on"
    )
    args = parser.parse_args(argv)
    try:
        resume(args.path, args.changes)
    except KeyboardInterrupt:
        console.stopped(args.path)
    except (ValueError, OSError) as error:
        console.error(str(error))
        sys.exit(1)


def resume(path: Path, changes: list[str]) -> None:
    """Trains what is unfinished at or below a path, and reports a sweep; SystemExit(1) where a run failed."""
    folders = [folder for folder in sorted({*path.rglob("*"), path}) if _was_made_for_a_run(folder)]
    if not folders:
        raise ValueError(f"{path}: {'no run in it' if path.is_dir() else 'no such folder'}")
    jobs = [job(folder, changes) for folder in folders]
    from .workers import Workers, train_jobs  # imports torch

    planned = plan.stacks(jobs, None, plan.free_memory())
    console.notice(plan.describe(planned, jobs))
    results = train_jobs(jobs, planned, Workers())
    close(path, folders, is_sweep=folders != [path])
    if any(result.error for result in results):
        sys.exit(1)


def job(folder: Path, changes: list[str]) -> Job:
    """The job that a directory was made for, with these settings changed."""
    settings: Any = run_dir.read_status(folder).get("settings") if run_dir.is_run(folder) else None
    if not isinstance(settings, dict):
        settings = config.read_yaml(folder / ".hydra" / "config.yaml")
    for change in changes:
        key, _, value = change.partition("=")
        if key not in MAY_CHANGE:
            raise ValueError(f"{change}: no run is resumed with another {key}; {', '.join(MAY_CHANGE)} may change")
        group, _, leaf = key.rpartition(".")
        (settings[group] if group else settings)[leaf] = value
    return plan.job(config.from_settings(settings), folder, more_epochs=True)


def close(path: Path, folders: list[Path], is_sweep: bool) -> None:
    """The closing table, a sweep's report whatever became of its runs, and every failure by name."""
    statuses = [(folder, run_dir.read_status(folder)) for folder in folders if run_dir.is_run(folder)]
    console.outcome_table([run_dir.summary(folder) for folder, _ in statuses])
    if not is_sweep:
        console.result(f"records: {console.shown(path)}")
        console.result(f"charts:  python -m mlp_sweep.report {console.shown(path)}")
    elif any(status.get("epoch") for _, status in statuses):
        from . import report

        console.result(f"report: {console.shown(report.write([path], path / 'report'))}")
    for folder, status in statuses:
        if status.get("state") == "failed":
            log = console.shown(folder / run_dir.LOG)
            console.error(f"{folder.name} failed: {status.get('reason')} (log: {log})")


def _was_made_for_a_run(folder: Path) -> bool:
    """Also one that was never started: Hydra's record of it is there."""
    return run_dir.is_run(folder) or (folder / ".hydra" / "overrides.yaml").is_file()


if __name__ == "__main__":
    main()
