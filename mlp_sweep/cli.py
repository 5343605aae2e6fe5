"""python -m mlp_sweep: Hydra's main. Config in, run trained, objective out; nothing is decided here.

torch is imported when a run starts, so --help and every refusal of a setting come at once.
"""

import copy
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from . import asked, config, console, machine, plan, properties, resume, run_dir
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
EXTRAS = {  # of this package, for choices that Hydra has once they are installed
    "hydra/sweeper=optuna": "optuna",
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
}
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
            _check_sources(config)
            run = _to_run(config)
            plan.stacks([plan.job(run, Hooks.run_dir)], None, machine.free_memory())
            if not run.dry_run:
                asked.run(Hooks.run_dir, asdict(run))
        except USER_ERRORS as error:
            if not FULL_ERROR:  # with it, the same error comes from the run itself
                _exit(error)

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        Hooks.sweep_dir = Path(config.hydra.sweep.dir)
        try:
            _check_sources(config)
            _check_slopes(config)
        except USER_ERRORS as error:
            if FULL_ERROR:  # Hydra swallows the errors of callbacks
                traceback.print_exc()
            _exit(error)


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
    sweep_dir = Hooks.sweep_dir
    assert sweep_dir is not None
    moved = asked.renamed(sweep_dir)
    paths = [moved.get(Path(directory), Path(directory)) for directory in directories]
    jobs = [plan.job(_to_run(cfg), path) for cfg, path in zip(configs, paths, strict=True)]
    asked.notice_renamed({before: now for before, now in moved.items() if now in paths})
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
    asked.sweep(sweep_dir, {job.path: asdict(job.run) for job in jobs})
    workers.prepare(planned)
    for number, directory in enumerate(directories):
        if Path(directory) not in moved:  # its .hydra folder moved with it
            open_job(number)
    results = train_jobs(jobs, planned, workers)
    Hooks.errors |= {result.path: result.error for result in results if result.error}
    return [result.error or result.objective for result in results]


setattr(_task, "batch", _batch)  # noqa: B010 (where the fused launcher looks for it)


def _app() -> None:
    """hydra.main, and --config-path of a saved .hydra folder: what such a config lacks comes from ours."""
    version.setbase("1.3")
    _let_sweepers_maximize()
    parser = get_args_parser()
    args = parser.parse_args()
    if args.config_path is not None:
        args.config_path = os.path.abspath(args.config_path)  # Hydra would look for it beside this file
        typed = [override.lstrip("+").partition("=")[0] for override in args.overrides]
        own = {"hydra.searchpath": f"hydra.searchpath=['file://{config.CONF_DIR}']",
               "hydra/app": "+hydra/app=mlp_sweep"}  # fmt: skip
        args.overrides = [own[key] for key in own if key not in typed] + args.overrides
    _run_hydra(args, parser, _task, str(config.CONF_DIR), "config")


def _let_sweepers_maximize() -> None:
    """Makes Optuna's sweeper maximize unless told otherwise, since a run's objective is its validation accuracy.

    Its settings are not a file of conf/, for Hydra refuses a file of the same name as a plugin's own settings.
    """
    Plugins.instance()  # finds and imports the plugins, which Hydra would do next
    store = ConfigStore.instance()
    if "optuna.yaml" in store.list("hydra/sweeper"):
        node = store.load("hydra/sweeper/optuna.yaml").node
        node.direction = "maximize"
        store.store(group="hydra/sweeper", name="optuna", node=node, provider="optuna_sweeper")


def _check_sources(cfg: DictConfig) -> None:
    """ValueError where a file of --config-dir or hydra.searchpath would be ignored: Hydra takes the first of a name."""
    first, *others = (Path(one.path) for one in cfg.hydra.runtime.config_sources if one.schema == "file")
    if first.resolve() != config.CONF_DIR.resolve():
        return
    for name in sorted(path.relative_to(first) for path in first.rglob("*.yaml")):
        for folder in others:
            if (folder / name).is_file() and not (folder / name).samefile(first / name):
                way = "experiment/NAME.yaml, and experiment=NAME" if name == Path("config.yaml") else "another name"
                raise ValueError(f"{folder / name}: would be ignored, since {name} is there already; use {way}")


def _check_slopes(cfg: DictConfig) -> None:
    """ValueError where a sweep sets activation.r and none of its activations has a slope.

    Before any job, since many launchers show a job nothing of the others.
    """
    composed: Any = OmegaConf.to_container(cfg)  # as typed: a value may refer to one that only a job has
    params = composed["hydra"]["sweeper"].get("params") or {}
    words = [*(f"{key}={value}" for key, value in params.items()), *composed["hydra"]["overrides"]["task"]]
    swept: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(words):
        listed = override.is_discrete_sweep() and override.value_type != ValueType.GLOB_CHOICE_SWEEP
        values = override.sweep_string_iterator() if listed else [override.get_value_string()]
        swept[override.key_or_group] = list(values)
    names = swept.get("activation.name") or swept.get("activation") or [str(composed["activation"]["name"])]
    kinds = [properties.ACTIVATIONS.get(name) for name in names]
    if any(kind is None or kind.has_slope for kind in kinds):  # None: glob(*), or a file of the user's own
        return
    slopes = [r for r in swept.get("activation.r", [str(composed["activation"]["r"])]) if r not in ("1", "1.0")]
    if slopes:
        config.refuse_slope(names[0], slopes[0])


def _to_run(cfg: DictConfig) -> config.Run:
    in_sweep = cfg.hydra.mode == RunMode.MULTIRUN if "hydra" in cfg else HydraConfig.get().mode == RunMode.MULTIRUN
    cfg = copy.deepcopy(cfg)
    with open_dict(cfg):
        cfg.pop("hydra", None)
    run, notices = config.to_run(cfg, in_sweep)
    for line in notices:
        console.notice(line)
    return run


def _exit(error: Exception) -> NoReturn:
    said = one_line(error)
    if isinstance(error, OSError) and error.strerror and not error.filename:  # Hydra's own files
        said = f"{Hooks.sweep_dir or Hooks.run_dir}: {said}"
    console.error(said)
    sys.exit(1)


def one_line(error: Exception) -> str:
    """Hydra's messages of many lines in one, which says what may be typed instead."""
    if isinstance(error, MissingConfigException) and error.options:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        said = f"{group}={choice}: no such choice (there are: {', '.join(sorted(error.options))})"
        extra = EXTRAS.get(f"{group}={choice}")
        return f"{said}; pip install 'mlp-sweep[{extra}]' adds it" if extra else said
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not a setting that can be read (key=value; quote a value with signs in it)"
    unknown = re.match(r"Could not override '(.+)'", str(error))
    if unknown and unknown[1].startswith("hydra"):
        return f"{unknown[1]}: Hydra has no such setting (python -m mlp_sweep --cfg hydra shows all)"
    if unknown and "defaults list" not in str(error):  # else a group that a saved config.yaml can be given with a +
        return config.unknown_key(unknown[1])
    unknown = re.search(r"Key '.+' not in '\w+'\s+full_key: (\S+)", str(error))  # in a group file
    if unknown:
        return config.unknown_key(unknown[1])
    return config.one_line(error)
