"""python -m mlp_sweep: Hydra's main. Config in, run trained, objective out; nothing is decided here.

torch is imported when a run starts, so --help and every refusal of a setting come at once.
"""

import copy
import os
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
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

from . import asked, config, console, machine, plan, resume, run_dir
from .workers import Workers, train_jobs

for (group, name), schema in config.SCHEMAS.items():
    ConfigStore.instance().store(group=group, name=name, node=schema, provider="mlp_sweep")
config.register_resolvers()

USER_ERRORS = (
    ValueError,
    OSError,
    MemoryError,
    HydraException,
    OmegaConfBaseException,
)  # one line; all else is a fault of ours
FULL_ERROR = os.environ.get("HYDRA_FULL_ERROR") == "1"


class Hooks(Callback):
    """Refuses a run before Hydra writes anything, and notes where the results go, for the last words.

    Hydra does not call on_multirun_end when a job failed, so the report is made in main's `finally`.
    """

    run_dir: Path | None = None
    sweep_dir: Path | None = None
    errors: dict[Path, Exception] = {}  # of a sweep's runs in this process

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        Hooks.run_dir = Path(config.hydra.run.dir)
        try:
            run = _to_run(config)
            plan.stacks([plan.job(run, Hooks.run_dir)], None, machine.free_memory())
            if not run.dry_run:
                asked.run(Hooks.run_dir, asdict(run))
        except USER_ERRORS as error:
            if not FULL_ERROR:  # with it, the same error comes from the run itself
                _exit(error)

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        Hooks.sweep_dir = Path(config.hydra.sweep.dir)


def main() -> None:
    """The command. Exit status 0; 1 with a line on stderr (HYDRA_FULL_ERROR=1: the traceback); 130 after Ctrl-C.

    143 after SIGTERM, 129 after SIGHUP.
    """
    console.outlive_streams()
    console.take_signals()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on instead of printing many lines
    try:
        _main()
    except KeyboardInterrupt:
        resume.stopped(Hooks.sweep_dir or Hooks.run_dir)


def _main() -> None:
    failed, well = None, True
    try:
        _app()
    except Exception as error:
        failed = error
    if Hooks.sweep_dir and run_dir.find_runs(Hooks.sweep_dir):
        well = resume.close(Hooks.sweep_dir, Hooks.errors, is_sweep=True)
    if failed and FULL_ERROR:
        raise failed
    if not well:
        sys.exit(1)  # close has named every failure
    if failed and not isinstance(failed, USER_ERRORS):
        raise failed
    if failed:
        _exit(failed)


def _task(cfg: DictConfig) -> float:
    """One run, in the directory that Hydra made for it; the objective for a sweeper that wants one."""
    job = plan.job(_to_run(cfg), Path(HydraConfig.get().runtime.output_dir))
    planned = plan.stacks([job], None, machine.free_memory())
    if job.run.dry_run:
        console.result(plan.listing(planned))
        return 0.0
    [result] = train_jobs([job], planned, Workers())
    alone = HydraConfig.get().mode == RunMode.RUN
    if result.error:
        if alone and isinstance(result.error, USER_ERRORS) and not FULL_ERROR:
            _exit(result.error)  # past Hydra, which would add lines of its own
        Hooks.errors[job.path] = result.error
        raise result.error
    if alone:
        resume.close(job.path, {}, is_sweep=False)
    return result.objective


def _batch(
    configs: list[DictConfig], directories: list[str], open_job: Callable[[int], None], launcher: dict[str, Any]
) -> list[float | Exception]:
    """A sweep's jobs at once, for hydra/launcher=fused: all are checked before anything of any is written."""
    jobs = [plan.job(_to_run(cfg), Path(directory)) for cfg, directory in zip(configs, directories, strict=True)]
    if len({job.path for job in jobs}) < len(jobs):
        path = next(job.path for job, other in combinations(jobs, 2) if job.path == other.path)
        raise ValueError(
            f"{path}: the directory of two jobs; set another name, hydra.sweep.subdir='${{hydra.job.num}}'"
        )
    workers = Workers(**{key: value for key, value in launcher.items() if key != "max_members"})
    at_once = workers.at_once([job.run for job in jobs])
    planned = plan.stacks(jobs, launcher["max_members"], machine.free_memory(), at_once)
    console.notice(plan.describe(planned, jobs))
    if any(job.run.dry_run for job in jobs):
        console.result(plan.listing(planned))
        return [0.0] * len(jobs)
    sweep_dir = Hooks.sweep_dir
    assert sweep_dir is not None
    asked.sweep(sweep_dir, {job.path: asdict(job.run) for job in jobs})
    workers.prepare(planned)
    for number in range(len(jobs)):
        open_job(number)
    results = train_jobs(jobs, planned, workers)
    Hooks.errors |= {result.path: result.error for result in results if result.error}
    return [result.error or result.objective for result in results]


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


def _exit(error: Exception) -> NoReturn:
    said = _one_line(error)
    if isinstance(error, OSError) and error.strerror and not error.filename:  # Hydra's own files
        said = f"{Hooks.sweep_dir or Hooks.run_dir}: {said}"
    console.error(said)
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
