"""Where stacks train: here one after another, in processes of this machine, or on a Ray cluster.

Wherever a stack trains, a worker that dies takes no other stack's results with it.
"""

import logging
import os
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import console, run_dir, sweep
from .plan import Job, Stack
from .record import Event, Result, objective, record

BACKENDS = {"local": None, "loky": "joblib", "ray": "ray"}  # and the package that each needs


@dataclass
class Workers:
    """The launcher's settings of the same names. ValueError where they cannot be served."""

    backend: str = "local"
    workers: int | None = None  # stacks at a time; None: one a core (loky), as many as there is room for (ray)
    address: str | None = None  # of a running Ray cluster; None: one for this command, on this machine

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"hydra.launcher.backend={self.backend}: must be one of {', '.join(BACKENDS)}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"hydra.launcher.workers={self.workers}: must be 1 or more")
        package = BACKENDS[self.backend]
        if package and find_spec(package) is None:
            extra = f"pip install 'mlp-sweep[{package}]'"
            raise ValueError(f"hydra.launcher.backend={self.backend}: needs {package}, which is not there: {extra}")

    @property
    def at_once(self) -> int:
        """Stacks that train at the same time, as far as is known before they start."""
        return 1 if self.backend == "local" else self.workers or os.cpu_count() or 1

    def train(self, planned: list[Stack]) -> Iterator[Result]:
        """Trains every stack; yields each job's result as it ends."""
        return {"local": self._local, "loky": self._loky, "ray": self._ray}[self.backend](planned)

    def _local(self, planned: list[Stack]) -> Iterator[Result]:
        for stack in planned:
            yield from _here(stack)

    def _loky(self, planned: list[Stack]) -> Iterator[Result]:
        threads = max(1, (os.cpu_count() or 1) // min(self.at_once, len(planned)))

        def in_a_process(stack: Stack) -> list[Result]:
            from joblib.externals.loky import ProcessPoolExecutor  # pyright: ignore[reportMissingTypeStubs]

            try:
                # A pool of its own: when the process is killed, no other stack's pool is broken.
                with ProcessPoolExecutor(1, env={"OMP_NUM_THREADS": str(threads)}) as pool:
                    return pool.submit(_all_here, stack).result()
            except Exception as error:
                return [_lost(path, error) for member in stack.members for path in member.paths]

        yield from _in_threads(in_a_process, planned, self.at_once)

    def _ray(self, planned: list[Stack]) -> Iterator[Result]:
        import ray  # pyright: ignore[reportMissingImports]

        ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            # Events stream to this process, which writes the records: no shared file system is needed.
            remote = ray.remote(max_retries=0, num_returns="streaming")(_events)

            def remote_events(stack: Stack) -> Iterator[Event]:
                load_states(stack)  # here, where the files are
                references: Any = remote.remote(stack)  # a generator, which ray's types do not say
                for reference in references:
                    yield ray.get(reference)

            def on_the_cluster(stack: Stack) -> list[Result]:
                return list(record(stack, remote_events(stack)))

            yield from _in_threads(on_the_cluster, planned, self.workers or len(planned))
        finally:
            ray.shutdown()


def train_jobs(jobs: list[Job], planned: list[Stack], workers: Workers) -> list[Result]:
    """Every job's result, in order: those of runs that had finished before too."""
    results = {job.path: _finished(job.path) for job in jobs if job.finished}
    for result in workers.train(planned) if planned else ():
        results[result.path] = result
        if result.error and jobs[0].run.fail_fast:
            break
    skipped = RuntimeError("not trained: another run failed before (fail_fast=true)")
    return [results.get(job.path) or Result(job.path, error=skipped) for job in jobs]


def load_states(stack: Stack) -> None:
    """What unfinished members go on from, read when it is their turn."""
    for member in stack.members:
        if member.standing.source and member.state is None:
            member.state = run_dir.load_state(member.standing.source)


def _in_threads(train: Callable[[Stack], list[Result]], planned: list[Stack], at_once: int) -> Iterator[Result]:
    with ThreadPoolExecutor(at_once) as threads:
        futures = [threads.submit(train, stack) for stack in planned]
        try:
            for ended in as_completed(futures):
                yield from ended.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _here(stack: Stack) -> Iterator[Result]:
    yield from record(stack, _events(stack))


def _all_here(stack: Stack) -> list[Result]:
    return list(_here(stack))


def _events(stack: Stack) -> Iterator[Event]:
    load_states(stack)
    progress = console.Progress()
    with progress.task(stack.name, None, "samples") as bar:
        yield from sweep.events(stack, progress, bar)


def _finished(path: Path) -> Result:
    status = run_dir.read_status(path)
    return Result(path, status.get("outcome"), objective((status.get("final") or {}).get("val_accuracy")))


def _lost(path: Path, error: Exception) -> Result:
    """The result of a run whose worker is gone: what it had finished stands, what it had not is marked as failed."""
    directory = run_dir.RunDir(path)
    if run_dir.is_run(path):
        directory.status = run_dir.read_status(path)
        if directory.status.get("state") == "finished":
            return _finished(path)
    reason = f"its worker ended before it did ({type(error).__name__})"
    with directory.lock():
        directory.stop("failed", reason, "".join(traceback.format_exception(error)))
    return Result(path, error=RuntimeError(reason))
