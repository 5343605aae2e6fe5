"""hydra/launcher=fused: hands all jobs of a sweep to the app's batch entry at once, so that they can train together.

An app offers one as an attribute of its task function: task.batch(configs, directories, open_job, launcher)
gets every job's whole config (with its hydra node), the directories that they will have, open_job(i) to have Hydra
make and fill one, and the launcher's own settings; it returns, job by job, the value or the exception.
An app without one is served as by hydra/launcher=basic.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


@dataclass
class FusedLauncherConf:
    _target_: str = "hydra_plugins.fused_launcher.FusedLauncher"
    max_members: int | None = None  # of a stack; null: what fits in half of the free memory
    backend: str = "local"  # local: forked processes, or this one | loky: joblib's processes | ray: a cluster
    workers: int | None = None  # stacks at a time; null: one a core where that pays, the cluster's cores with ray
    address: str | None = None  # of a running ray cluster; null: one on this machine


ConfigStore.instance().store(group="hydra/launcher", name="fused", node=FusedLauncherConf, provider="mlp_sweep")


class _Outcome(JobReturn):
    """A job's return that raises its error without Hydra's own line for the first failure: the app lists them all."""

    @property
    def return_value(self) -> Any:
        if isinstance(self._return_value, Exception):
            raise self._return_value
        return self._return_value

    @return_value.setter
    def return_value(self, value: Any) -> None:
        self._return_value = value


class FusedLauncher(BasicLauncher):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what the sweeper composes to check the jobs: composing takes a tenth of a second a job."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        compose = hydra_context.config_loader.load_sweep_config

        def keeping(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
            composed = compose(master_config, sweep_overrides)
            self._composed[tuple(sweep_overrides)] = composed
            return composed

        if hasattr(task_function, "batch"):
            setattr(hydra_context.config_loader, "load_sweep_config", keeping)  # noqa: B010 (of this loader alone)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        batch = getattr(self.task_function, "batch", None)
        if batch is None:
            return super().launch(job_overrides, initial_job_idx)
        setup_globals()
        assert self.config is not None and self.hydra_context is not None
        configs = [self._config(list(o), initial_job_idx + i) for i, o in enumerate(job_overrides)]
        opened: dict[int, JobReturn] = {}

        def open_job(i: int) -> None:
            assert self.hydra_context is not None
            opened[i] = run_job(
                task_function=lambda _: None,
                config=configs[i],
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=self.hydra_context,
            )

        outcomes = batch(configs, [_directory(config) for config in configs], open_job, self.settings)
        returns = []
        for i, outcome in enumerate(outcomes):
            fields: dict[str, Any] = vars(opened[i]) if i in opened else {"overrides": list(job_overrides[i])}
            returns.append(_Outcome(**fields | {"status": _status(outcome), "_return_value": outcome}))
        return returns

    def _config(self, overrides: list[str], number: int) -> DictConfig:
        assert self.config is not None and self.hydra_context is not None
        if tuple(overrides) not in self._composed:
            self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        config = self._composed.pop(tuple(overrides))
        with open_dict(config):
            config.hydra.job.id = number
            config.hydra.job.num = number
        return config


def _directory(config: DictConfig) -> str:
    """Where run_job will put the job (its name may draw on ${hydra:...}, which reads the config in force)."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        return os.path.join(str(config.hydra.sweep.dir), str(OmegaConf.select(config, "hydra.sweep.subdir")))
    finally:
        HydraConfig.instance().cfg = before


def _status(outcome: object) -> JobStatus:
    return JobStatus.FAILED if isinstance(outcome, Exception) else JobStatus.COMPLETED
