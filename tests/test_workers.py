"""Stacks in other processes and on a cluster; every launcher that Hydra users have."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import SMALL
from test_cli import command

from mlp_sweep import plan, run_dir
from mlp_sweep.workers import Workers


def planned(tmp_path: Path, runs: list, at_once: int) -> list[plan.Stack]:
    jobs = [plan.Job(run, tmp_path / f"{number}") for number, run in enumerate(runs)]
    return plan.stacks(jobs, None, 2**40, at_once)


@pytest.mark.parametrize("settings", [{"backend": "threads"}, {"workers": 0}])
def test_bad_settings_are_refused_by_key(settings: dict):
    with pytest.raises(ValueError, match=f"hydra.launcher.{next(iter(settings))}"):
        Workers(**settings)


def test_processes_leave_the_same_records(tmp_path: Path, small_run):
    pytest.importorskip("joblib")
    runs = [small_run(f"seed={seed}") for seed in range(4)]
    for backend in ("local", "loky"):
        workers = Workers(backend, 2)
        results = list(workers.train(planned(tmp_path / backend, runs, workers.at_once)))
        assert len(results) == 4 and not any(result.error for result in results)
    for name in map(str, range(4)):
        here, there = (run_dir.read_metrics(tmp_path / backend / name)[1] for backend in ("local", "loky"))
        # A process has fewer threads, which may decide last bits.
        assert [row[:-1] for row in there] == [pytest.approx(row[:-1], rel=1e-4) for row in here]


def test_a_killed_worker_takes_no_other_with_it(tmp_path: Path, small_run):
    pytest.importorskip("joblib")
    stacks = planned(tmp_path, [small_run("epochs=2000", "seed=0"), small_run("epochs=2", "seed=1")], 2)

    def kill() -> None:
        while not (tmp_path / "0" / run_dir.STATUS).is_file():
            time.sleep(0.02)
        os.kill(run_dir.read_status(tmp_path / "0")["pid"], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    results = {result.path.name: result for result in Workers("loky", 2).train(stacks)}
    assert results["1"].error is None and run_dir.read_status(tmp_path / "1")["outcome"] == "ok"
    status = run_dir.read_status(tmp_path / "0")
    assert isinstance(results["0"].error, RuntimeError) and status["state"] == "failed"
    assert "worker" in status["reason"] and "Traceback" in (tmp_path / "0" / run_dir.LOG).read_text()


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
    done = command(tmp_path, "--multirun", *SMALL, "seed=0,1", f"hydra/launcher={launcher}", "hydra.sweep.dir=s")
    assert done.returncode == 0, done.stderr
    statuses = [run_dir.read_status(path) for path in run_dir.find_runs(tmp_path / "s")]
    assert [status["outcome"] for status in statuses] == ["ok", "ok"]
    assert (tmp_path / "s" / "report" / "val_accuracy.png").is_file()


@pytest.mark.slow
def test_a_sweeper_that_needs_an_objective(tmp_path: Path):
    """Optuna hands its trials to the launcher in batches, and crashes on an objective that is not a number."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    done = command(
        tmp_path, "--multirun", *SMALL, "activation=scaled", "activation.r=interval(1,100000)", "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweeper.direction=maximize", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(run_dir.find_runs(tmp_path / "s")) == 4
