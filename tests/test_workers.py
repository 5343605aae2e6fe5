"""Stacks in other processes and on a cluster; every launcher that Hydra users have."""

import errno
import fcntl
import multiprocessing
import os
import signal
import termios
import threading
import time
from array import array
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ABSENT_DEVICE, SMALL
from test_cli import command

from mlp_sweep import plan, processes, relay, run_dir, sweep, workers
from mlp_sweep.engines import kernels
from mlp_sweep.events import Started
from mlp_sweep.workers import Workers


def planned(tmp_path: Path, runs: list, at_once: int) -> list[plan.Stack]:
    jobs = [plan.Job(run, tmp_path / f"{number}") for number, run in enumerate(runs)]
    return plan.stacks(jobs, None, 2**40, at_once)


@pytest.mark.parametrize("settings", [{"backend": "threads"}, {"workers": 0}])
def test_bad_settings_are_refused_by_key(settings: dict):
    with pytest.raises(ValueError, match=f"hydra.launcher.{next(iter(settings))}"):
        Workers(**settings)


@pytest.mark.parametrize("backend", ["local", "loky"])
def test_processes_leave_the_same_records(tmp_path: Path, small_run, backend: str):
    pytest.importorskip("joblib")
    runs = [small_run(f"seed={seed}") for seed in range(4)]
    for kind, count in (("local", 1), (backend, 2)):
        results = list(Workers(kind, count).train(planned(tmp_path / f"{count}", runs, count)))
        assert len(results) == 4 and not any(result.error for result in results)
    for name in map(str, range(4)):
        one, two = (tmp_path / count / name for count in ("1", "2"))
        assert [r[:-1] for r in run_dir.read_metrics(one)[1]] == [r[:-1] for r in run_dir.read_metrics(two)[1]]
        assert (one / run_dir.WEIGHTS).read_bytes() == (two / run_dir.WEIGHTS).read_bytes()
        statuses = [run_dir.read_status(path) for path in (one, two)]
        assert [status["members"] for status in statuses] == [4, 2]
        assert {status["pid"] for status in statuses} == {os.getpid()}  # who records, and has the lock


def _watched(fit, begun: list[int], left: list[int]):
    def watched(*arguments):
        begun.append(1)
        try:
            yield from fit(*arguments)
        finally:
            left.append(1)

    return watched


@pytest.mark.parametrize("backend", ["local", "loky"])
def test_a_killed_worker_takes_no_other_with_it(tmp_path: Path, small_run, backend: str, monkeypatch):
    pytest.importorskip("joblib")
    pools, begin = [], processes.Processes.__init__
    monkeypatch.setattr(processes.Processes, "__init__", lambda pool, *how: pools.append(pool) or begin(pool, *how))
    stacks = planned(tmp_path, [small_run("epochs=2000", "seed=0"), small_run("epochs=2", "seed=1")], 2)

    def kill() -> None:
        while not (tmp_path / "1" / run_dir.WEIGHTS).is_file() or len(pools[0]._running) > 1:
            time.sleep(0.02)
        [left] = pools[0]._running.values()
        os.kill(left.pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    results = {result.path.name: result for result in Workers(backend, 2).train(stacks)}
    assert results["1"].error is None and run_dir.read_status(tmp_path / "1")["outcome"] == "ok"
    status = run_dir.read_status(tmp_path / "0")
    assert isinstance(results["0"].error, RuntimeError) and status["state"] == "failed"
    assert "process" in status["reason"] and "Traceback" in (tmp_path / "0" / run_dir.LOG).read_text()


def test_an_error_in_a_process_is_its_runs_alone_and_told_with_where_it_was(tmp_path: Path, small_run):
    stacks = planned(tmp_path, [small_run(ABSENT_DEVICE), small_run()], 2)
    results = {result.path.name: result for result in Workers(workers=2).train(stacks)}
    assert results["1"].error is None
    assert isinstance(results["0"].error, ValueError) and ABSENT_DEVICE in str(results["0"].error)
    assert "in find_device" in (tmp_path / "0" / run_dir.LOG).read_text()


def test_what_processes_have_to_say_is_said_here_and_once(tmp_path: Path, small_run, capfd):
    """Each finds the prepared pictures damaged, or has to wait for who prepares them anew."""
    runs = [small_run(f"data_dir={tmp_path / 'data'}", f"seed={seed}") for seed in range(2)]
    list(Workers().train(planned(tmp_path / "before", runs[:1], 1)))
    [pictures] = (tmp_path / "data").rglob("train_x.npy")
    pictures.write_bytes(pictures.read_bytes()[:-1])
    capfd.readouterr()
    results = list(Workers(workers=2).train(planned(tmp_path / "after", runs, 2)))
    said = capfd.readouterr().err
    assert not any(result.error for result in results)
    assert said.count("prepared again") == 1 and "waiting" not in said
    for number in (1, 2):
        assert said.count(f"stack {number}/2, relu: epoch 3/3") == 1
        assert said.count(f"stack {number}/2, relu: 396 samples in") == 1


@pytest.mark.parametrize("count", [1, 2])
def test_what_cannot_be_recorded_is_not_trained_on(tmp_path: Path, small_run, monkeypatch: pytest.MonkeyPatch, count):
    """Not even while its error, with all that it refers to, is kept."""
    begun, left = [], []
    monkeypatch.setattr(sweep, "fit", _watched(sweep.fit, begun, left))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_dir.RunDir, "checkpoint", full)
    stacks = planned(tmp_path, [small_run("epochs=2000", f"seed={seed}") for seed in range(count)], count)
    results = list(Workers(workers=count).train(stacks))
    assert all(isinstance(result.error, OSError) for result in results)
    assert not multiprocessing.active_children() and begun == left


def test_a_stack_that_fails_under_fail_fast_leaves_none_running(tmp_path: Path, small_run, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_dir.RunDir, "checkpoint", full)
    jobs = [plan.Job(small_run(f"seed={seed}", "fail_fast=true"), tmp_path / f"{seed}") for seed in range(3)]
    workers.train_jobs(jobs, plan.stacks(jobs, None, 2**40), Workers(workers=1))
    assert {run_dir.read_status(job.path)["state"] for job in jobs} == {"failed"}


def test_bars_that_many_threads_advance_count_right():
    here, there = multiprocessing.Pipe()
    told, seen = relay.Relay(there), [0]

    def listen() -> None:
        while (said := here.recv()) is not None:
            seen[0] += said.value[0] if said.what == "advance" else 0

    listener = threading.Thread(target=listen)
    listener.start()
    with pytest.MonkeyPatch.context() as patch, told.task("pictures", None, "pictures") as bar:
        patch.setattr(relay, "INTERVAL", 0)
        threads = [threading.Thread(target=lambda: [bar.advance(1) for _ in range(500)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    there.send(None)
    listener.join()
    assert seen == [4000]


def test_only_what_has_the_same_bits_shares_cores(tmp_path: Path, small_run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    # The second trains on while the first makes room for the third, which would else have both cores.
    runs = [small_run("engine=reference", f"seed={seed}", f"epochs={1 + 60 * seed}") for seed in range(2)]
    runs += [small_run(f"seed={seed}") for seed in range(2)]
    list(Workers(workers=2).train(planned(tmp_path, runs, 2)))
    threads = [run_dir.read_status(tmp_path / f"{number}")["threads"] for number in range(4)]
    shared = 1 if kernels.choose(torch.device("cpu")).any_threads else 2
    assert threads[:2] == [2, 2] and threads[2] == shared


def test_a_run_that_was_over_before_another_failed_is_no_failure(tmp_path: Path, small_run, monkeypatch):
    """It diverges at once; the other of its stack is stopped when a later stack, which cannot train, has failed."""
    runs = [small_run("activation=scaled", f"activation.r={r}", "epochs=3000", "fail_fast=true") for r in (1e9, 2)]
    runs.append(small_run(ABSENT_DEVICE, "fail_fast=true"))
    jobs = [plan.Job(run, tmp_path / name) for run, name in zip(runs, ("over", "long", "bad"), strict=True)]
    stacks = plan.stacks(jobs, None, 2**40)
    load = workers.load_states

    def when_one_is_over(stack: plan.Stack) -> None:
        while stack is stacks[1] and not (tmp_path / "over" / run_dir.WEIGHTS).is_file():
            time.sleep(0.02)
        load(stack)

    monkeypatch.setattr(workers, "load_states", when_one_is_over)
    over, long, bad = workers.train_jobs(jobs, stacks, Workers(workers=2))
    assert over.error is None and over.outcome == "diverged"
    assert "fail_fast" in str(long.error) and run_dir.read_status(tmp_path / "long")["state"] == "stopped"
    assert isinstance(bad.error, ValueError)


def test_who_is_left_has_all_cores(tmp_path: Path, small_run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    pool = processes.Processes(3, 2)
    assert [processes.Processes(3, 3).threads(place) for place in range(3)] == [3, 3, 2]
    assert pool.threads() == 4
    stacks = planned(tmp_path, [small_run("epochs=1", f"seed={seed}") for seed in range(3)], 3)
    for stack, left in zip(stacks, (4, 8, 8), strict=True):
        list(pool.events(stack))
        assert pool.threads() == left


def test_what_is_stopped_leaves_no_process_and_can_be_resumed(tmp_path: Path, small_run):
    stacks = planned(tmp_path, [small_run("epochs=2000", f"seed={seed}") for seed in range(3)], 2)
    training = Workers(workers=2).train(stacks)

    def interrupt() -> None:
        metrics = [tmp_path / name / run_dir.METRICS for name in ("0", "1")]
        while not all(path.is_file() and path.read_text().count("\n") > 1 for path in metrics):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)  # to the main thread, which waits

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        list(training)
    assert not multiprocessing.active_children()
    for name in ("0", "1"):
        assert run_dir.read_status(tmp_path / name)["state"] == "stopped"
        assert run_dir.standing(tmp_path / name, run_dir.read_status(tmp_path / name)).lines


@pytest.mark.parametrize("stopped", [True, False])
def test_who_ends_in_the_middle_of_a_message_has_ended(tmp_path: Path, small_run, stopped: bool):
    """Its first epoch's state is more than a pipe holds, and nobody reads it."""
    pool = processes.Processes(1, 1)
    [stack] = planned(tmp_path, [small_run("model.hidden=[2000]")], 1)
    happenings = pool.events(stack)
    assert isinstance(next(happenings), Started)
    [(pipe, process)] = pool._running.items()
    unread = array("i", [0])
    while unread[0] < 2**15:
        fcntl.ioctl(pipe.fileno(), termios.FIONREAD, unread)
        time.sleep(0.02)
    pool.stop() if stopped else process.kill()
    with pytest.raises(KeyboardInterrupt if stopped else RuntimeError):
        list(happenings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_of_two_nodes(tmp_path: Path, small_run, monkeypatch: pytest.MonkeyPatch):
    """Two nodes, one a stack; the records are written here, by this process."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        workers = Workers("ray", 2, cluster.address)
        results = list(workers.train(planned(tmp_path, [small_run(f"seed={s}") for s in range(4)], 2)))
    finally:
        cluster.shutdown()
    assert len(results) == 4 and not any(result.error for result in results)
    statuses = [run_dir.read_status(path) for path in run_dir.find_runs(tmp_path)]
    assert len(statuses) == 4 and all(status["outcome"] == "ok" for status in statuses)
    assert {status["pid"] for status in statuses} == {os.getpid()}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_other_launchers_train_one_run_a_job(tmp_path: Path, launcher: str):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    words = ("--multirun", *SMALL, "seed=0,1", f"hydra/launcher={launcher}", "hydra.sweep.dir=s")
    done = command(tmp_path, *words, RAY_ADDRESS="local")  # and not the cluster of a test that runs beside this one
    assert done.returncode == 0, done.stderr
    statuses = [run_dir.read_status(path) for path in run_dir.find_runs(tmp_path / "s")]
    assert [status["outcome"] for status in statuses] == ["ok", "ok"]
    assert (tmp_path / "s" / "report" / "val_accuracy.png").is_file()


@pytest.mark.slow
def test_optunas_sweeper_looks_for_the_highest_accuracy(tmp_path: Path):
    """Without being told. It hands its trials to the launcher in batches, and crashes on an objective that is NaN."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = command(
        tmp_path, "--multirun", *SMALL, "activation=scaled", "activation.r=choice(2,3,1e6)", "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1", "hydra.sweep.dir=s",
        "hydra.sweep.subdir=${hydra.job.num}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    finals = [run_dir.read_status(run)["final"]["val_accuracy"] for run in run_dir.find_runs(tmp_path / "s")]
    best = yaml.safe_load((tmp_path / "s" / "optimization_results.yaml").read_text())["best_value"]
    reached = [final or 0.0 for final in finals]
    assert len(finals) == 4 and best == max(reached) > min(reached)
