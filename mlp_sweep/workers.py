"""Where stacks train: in this process or several of this machine, through joblib, or on a Ray cluster.

Wherever a stack trains, a worker that dies takes no other stack's results with it.
"""

import logging
import platform
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import config, console, machine, plan, processes, run_dir
from .events import Event
from .plan import Job, Stack
from .record import Result, objective, record

BACKENDS = {"local": None, "loky": "joblib", "ray": "ray"}  # and the package that each needs
ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")  # NVIDIA's, the same under Windows, AMD's
PROCESS_BYTES = 2 * 10**8  # what one more takes besides its members; measured, less than half of it


@dataclass
class Workers:
    """The launcher's settings of the same names. ValueError where they cannot be served."""

    backend: str = "local"
    workers: int | None = None  # stacks at a time; None: one a core where that pays, the cluster's cores with ray
    address: str | None = None  # of a running Ray cluster; None: one for this command, on this machine

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(f"hydra.launcher.backend={self.backend}: must be one of {', '.join(BACKENDS)}")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"hydra.launcher.workers={self.workers}: must be 1 or more")
        if self.backend == "local" and self.workers not in (None, 1) and not processes.AVAILABLE:
            raise ValueError(f"hydra.launcher.workers={self.workers}: on this system with hydra.launcher.backend=loky")
        package = BACKENDS[self.backend]
        if package and find_spec(package) is None:
            extra = f"pip install 'mlp-sweep[{package}]'"
            raise ValueError(f"hydra.launcher.backend={self.backend}: needs {package}, which is not there: {extra}")

    def at_once(self, runs: Sequence[config.Run]) -> int:
        """Stacks that train at the same time, as far as is known before they start."""
        if self.workers:
            return self.workers
        if self.backend == "ray":
            import ray  # pyright: ignore[reportMissingImports]

            self._connect()
            return max(1, int(ray.cluster_resources().get("CPU", 1)))
        if self.backend == "local" and not all(_shares_cores(run) for run in runs):
            return 1
        room = int(plan.FREE_SHARE * machine.free_memory()) // PROCESS_BYTES
        return max(1, min(machine.cores(), room))

    def prepare(self, planned: list[Stack]) -> None:
        """Begins with what training will take, while there is other work to do first."""
        if self.backend == "local" and self._together(planned) > 1:
            processes.warm()

    def train(self, planned: list[Stack]) -> Iterator[Result]:
        """Trains every stack; yields each job's result as it ends."""
        return {"local": self._local, "loky": self._loky, "ray": self._ray}[self.backend](planned)

    def _local(self, planned: list[Stack]) -> Iterator[Result]:
        at_once = self._together(planned)
        if at_once == 1:
            for stack in planned:
                yield from record(stack, events(stack))
        else:
            yield from _in_processes(planned, processes.Processes(len(planned), at_once))

    def _together(self, planned: list[Stack]) -> int:
        return min(self.at_once([stack.run for stack in planned]), len(planned))

    def _loky(self, planned: list[Stack]) -> Iterator[Result]:
        from joblib.externals.loky.backend import get_context  # pyright: ignore[reportMissingTypeStubs]

        at_once = self._together(planned)
        yield from _in_processes(planned, processes.Processes(len(planned), at_once, get_context("loky")))

    def _ray(self, planned: list[Stack]) -> Iterator[Result]:
        import ray  # pyright: ignore[reportMissingImports]
        from ray.exceptions import RayError  # pyright: ignore[reportMissingImports]

        self._connect()
        running: list[Any] = []  # generators, which ray's types do not say
        stopped = threading.Event()
        try:
            # Events stream to this process, which writes the records: no shared file system is needed.
            remote = ray.remote(max_retries=0, num_returns="streaming")(events)

            def remote_events(stack: Stack) -> Generator[Event]:
                load_states(stack)  # here, where the files are
                if stopped.is_set():
                    raise KeyboardInterrupt
                references: Any = remote.remote(stack)
                running.append(references)
                for member in stack.members:  # it has them now
                    member.state = None
                try:
                    for reference in references:
                        yield ray.get(reference)
                except RayError:
                    if stopped.is_set() or console.received():
                        raise KeyboardInterrupt from None
                    raise

            def stop() -> None:
                stopped.set()
                for references in running:
                    ray.cancel(references, force=True)  # whose process could not be told otherwise

            yield from _in_threads(remote_events, planned, self.workers or len(planned), stop)
        finally:
            ray.shutdown()

    def _connect(self) -> None:
        import ray  # pyright: ignore[reportMissingImports]

        if not ray.is_initialized():
            # Without an address Ray would look for a cluster of somebody else's on this machine.
            ray.init(address=self.address or "local", log_to_driver=False, logging_level=logging.ERROR)


def train_jobs(jobs: list[Job], planned: list[Stack], workers: Workers) -> list[Result]:
    """Every job's result, in order: those of runs that had finished before too."""
    machine.open_files()
    results = {job.path: _finished(job.path) for job in jobs if job.finished}
    for result in workers.train(planned) if planned else ():
        results[result.path] = result
        if result.error and jobs[0].run.fail_fast:
            break
    return [results.get(job.path) or _left_behind(job.path) for job in jobs]


def load_states(stack: Stack) -> None:
    """What unfinished members go on from, read when it is their turn."""
    for member in stack.members:
        if member.standing.source and member.state is None:
            member.state = run_dir.load_state(member.standing.source)


def _in_processes(planned: list[Stack], pool: processes.Processes) -> Iterator[Result]:
    def happenings(stack: Stack) -> Generator[Event]:
        load_states(stack)
        yield from pool.events(stack)

    yield from _in_threads(happenings, planned, pool.at_once, pool.stop)


def _in_threads(
    happenings: Callable[[Stack], Generator[Event]],
    planned: list[Stack],
    at_once: int,
    stop: Callable[[], None],
) -> Iterator[Result]:
    """Records what comes from elsewhere, `at_once` stacks at a time, all by this process."""

    def recorded(stack: Stack) -> list[Result]:
        return list(record(stack, happenings(stack)))

    with ThreadPoolExecutor(at_once) as threads:
        try:
            for ended in as_completed([threads.submit(recorded, stack) for stack in planned]):
                yield from ended.result()
        finally:
            stop()
            threads.shutdown(cancel_futures=True)


def events(stack: Stack) -> Generator[Event]:
    """By this process."""
    from . import sweep  # imports torch, which a process that only records does without

    load_states(stack)
    sweep.share_threads(stack, machine.cores())  # torch by itself knows nothing of a container's share
    progress = console.Progress()
    with progress.task(stack.name, None, "samples") as bar:
        yield from sweep.events(stack, progress, bar)


def _shares_cores(run: config.Run) -> bool:
    """Whether a run trains on the CPU, in a form that has the same bits on one core as on all. Without torch to ask."""
    on_cpu = run.device == "cpu" or (run.device == "auto" and not any(Path(path).exists() for path in ACCELERATORS))
    plain = sys.platform == "linux" and platform.machine() == "x86_64" and processes.AVAILABLE
    return on_cpu and plain and run.matmul_precision == "highest" and plan.stackable(run)


def _left_behind(path: Path) -> Result:
    """Of a run whose stack was stopped by another's failure: it may have been over before the stack was."""
    if run_dir.is_run(path) and run_dir.read_status(path).get("state") == "finished":
        return _finished(path)
    return Result(path, error=RuntimeError("not trained to its end: another run failed (fail_fast=true)"))


def _finished(path: Path) -> Result:
    status = run_dir.read_status(path)
    return Result(path, status.get("outcome"), objective((status.get("final") or {}).get("val_accuracy")))
