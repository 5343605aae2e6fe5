"""python -m mlp_sweep: Hydra's main. Config in, run trained, objective out; nothing is decided here.

torch is imported when a run starts, so --help and every refusal of a setting come at once.
"""

import copy
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from . import config, console, run_dir

for (group, name), schema in config.SCHEMAS.items():
    ConfigStore.instance().store(group=group, name=name, node=schema, provider="mlp_sweep")
config.register_resolvers()

USER_ERRORS = (ValueError, OSError, HydraException, OmegaConfBaseException)  # one line; all else is a fault of ours
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


class Hooks(Callback):
    """Refuses a run before Hydra writes anything, and notes where a sweep goes, for the report at its end.

    Hydra does not call on_multirun_end when a job failed, so the report is made in main's `finally`.
    """

    sweep_dir: Path | None = None

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        try:
            _to_run(config)
            run_dir.refuse_used(Path(config.hydra.run.dir))
        except USER_ERRORS as error:
            if not FULL_ERROR:  # with it, the same error comes from the run itself
                _exit(error)

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        Hooks.sweep_dir = Path(config.hydra.sweep.dir)


def main() -> None:
    """The command. Exit status 0, or 1 with one line on stderr (HYDRA_FULL_ERROR=1: the traceback)."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing many lines
    failed = None
    try:
        _app()
    except USER_ERRORS as error:
        if FULL_ERROR:
            raise
        failed = error
    finally:
        if Hooks.sweep_dir:
            _close_sweep(Hooks.sweep_dir)
    if failed:
        _exit(failed)


def _task(cfg: DictConfig) -> float:
    """One run, in the directory that Hydra made for it; the objective for a sweeper that wants one."""
    run = _to_run(cfg)
    from . import plan, workers

    job = plan.Job(run, Path(HydraConfig.get().runtime.output_dir))
    alone = HydraConfig.get().mode == RunMode.RUN
    planned = plan.stacks([job], None, plan.free_memory())
    if run.dry_run:
        console.result(plan.listing(planned))
        return 0.0
    [result] = workers.Workers().train(planned)
    if result.error:
        if alone and isinstance(result.error, USER_ERRORS) and not FULL_ERROR:
            _exit(result.error)  # past Hydra, which would add lines of its own
        raise result.error
    if alone:
        console.outcome_table([run_dir.summary(job.path)])
        console.result(f"records: {_shown(job.path)}\ncharts:  python -m mlp_sweep.report {_shown(job.path)}")
    return result.objective


def _batch(
    configs: list[DictConfig], directories: list[str], open_job: Callable[[int], None], launcher: dict[str, Any]
) -> list[float | Exception]:
    """A sweep's jobs at once, for hydra/launcher=fused: all are checked before anything of any is written."""
    from . import plan

    jobs = []
    for cfg, directory in zip(configs, directories, strict=True):
        jobs.append(plan.Job(_to_run(cfg), Path(directory)))
        run_dir.refuse_used(jobs[-1].path)
    from .workers import Workers  # not before the checks: it imports torch

    workers = Workers(**{key: value for key, value in launcher.items() if key != "max_members"})
    planned = plan.stacks(jobs, launcher["max_members"], plan.free_memory(), workers.at_once)
    console.notice(plan.describe(planned, len(jobs)))
    if any(job.run.dry_run for job in jobs):
        console.result(plan.listing(planned))
        return [0.0] * len(jobs)
    for number in range(len(jobs)):
        open_job(number)
    results = {result.path: result.error or result.objective for result in workers.train(planned)}
    return [results[job.path] for job in jobs]


setattr(_task, "batch", _batch)  # noqa: B010 (where the fused launcher looks for it)
_app = hydra.main(version_base="1.3", config_path=str(config.CONF_DIR), config_name="config")(_task)


def _to_run(cfg: DictConfig) -> config.Run:
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        cfg.pop("hydra", None)
    run, notices = config.to_run(cfg)
    for line in notices:
        console.notice(line)
    return run


def _close_sweep(sweep_dir: Path) -> None:
    """Table and report of a sweep, whatever became of its jobs, and every failure by name."""
    runs = run_dir.find_runs(sweep_dir)
    if not runs:
        return
    console.outcome_table([run_dir.summary(path) for path in runs])
    statuses = [(path, run_dir.read_status(path)) for path in runs]
    if any(status.get("epoch") for _, status in statuses):
        from . import report

        console.result(f"report: {_shown(report.write([sweep_dir], sweep_dir / 'report'))}")
    for path, status in statuses:
        if status.get("state") == "failed":
            console.error(f"{path.name} failed: {status.get('reason')} (log: {_shown(path / run_dir.LOG)})")


def _exit(error: Exception) -> NoReturn:
    console.error(_one_line(error))
    sys.exit(1)


def _one_line(error: Exception) -> str:
    """Hydra's many-line messages in one, saying what there is instead."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        return f"{group}={choice}: no such choice (there are: {', '.join(sorted(error.options))})"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not a setting that can be read (key=value; quote a value with signs in it)"
    unknown = re.match(r"Could not override '(.+)'", str(error))
    if unknown:
        return f"{unknown[1]}: no such setting (python -m mlp_sweep --help lists them)"
    return config.one_line(error)


def _shown(path: Path) -> str:
    """A path as short as it can be typed here."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else str(path)
