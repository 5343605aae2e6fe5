"""Runs and sweeps taken up: the same bytes as without the break, and no whole epoch trained twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from conftest import SMALL
from test_cli import command, one_error_line

from mlp_sweep import aggregate, charts, findings, plan, record, run_dir, statistics, workers

SWEEP = ("--multirun", *SMALL, "activation=relu,scaled", "activation.r=2,1e6", "hydra.sweep.dir=s")


def results_of(folder: Path) -> dict[str, tuple[list[str], bytes]]:
    """What has to be equal: metrics.csv but for the seconds, and the weights."""
    return {
        run.name: (
            [line.rsplit(",", 1)[0] for line in (run / run_dir.METRICS).read_text().splitlines()],
            (run / run_dir.WEIGHTS).read_bytes(),
        )
        for run in run_dir.find_runs(folder)
    }


def train(root: Path, runs: dict, stop_after: int | None = None, **more) -> None:
    """Trains, or breaks off after so many events, as a killed process would."""
    jobs = [plan.job(run, root / name, **more) for name, run in runs.items()]
    for stack in plan.stacks(jobs, None, 2**40):
        workers.load_states(stack)
        happenings = workers.events(stack)
        seen = 0
        recording = record.record(stack, (event for event in happenings))
        if stop_after is None:
            list(recording)
            continue

        def broken(happenings=happenings):
            nonlocal seen
            for event in happenings:
                if seen == stop_after:
                    raise BrokenOff
                seen += 1
                yield event

        with pytest.raises(BrokenOff):
            list(record.record(stack, broken()))


class BrokenOff(BaseException):
    """No Exception, so nothing tidies up behind it."""


@pytest.fixture
def runs(small_run) -> dict:
    momentum = ("optimizer.momentum=0.9", "optimizer.nesterov=true")
    return {
        "relu": small_run(*momentum),
        "again": small_run("activation.r=5", *momentum),
        "two": small_run("activation=scaled", "activation.r=2", "seed=3", *momentum),
        "wild": small_run("activation=scaled", "activation.r=1e9", *momentum),
        "reference": small_run("engine=reference", *momentum),
    }


@pytest.mark.parametrize("stop_after", [0, 1, 2, 5, 8])
def test_bit_for_bit_wherever_it_broke_off(tmp_path: Path, runs, stop_after: int):
    stacked = {name: run for name, run in runs.items() if name != "reference"}
    train(tmp_path / "whole", stacked)
    train(tmp_path / "broken", stacked, stop_after)
    before = {run.name: len(run_dir.standing(run).lines) for run in run_dir.find_runs(tmp_path / "broken")}
    train(tmp_path / "broken", stacked)
    assert results_of(tmp_path / "whole") == results_of(tmp_path / "broken")
    log = "".join((run / run_dir.LOG).read_text() for run in run_dir.find_runs(tmp_path / "broken"))
    assert sum(before.values()) == 0 or "from epoch" in log


@pytest.mark.parametrize("engine", ["stacked", "reference"])
@pytest.mark.parametrize("stop_after", [1, 2, 4, 5])
def test_a_run_that_goes_on_after_it_diverged(tmp_path: Path, small_run, engine: str, stop_after: int):
    """It leaves a row for every epoch, the outcome of its first one without figures, and can be taken up like any."""
    settings = ("activation=scaled", "activation.r=1e9", "on_divergence=continue", f"engine={engine}")
    wild = {"wild": small_run(*settings, "epochs=4")}
    train(tmp_path / "whole", wild)
    train(tmp_path / "broken", wild, stop_after)
    train(tmp_path / "broken", wild)
    assert results_of(tmp_path / "whole") == results_of(tmp_path / "broken")
    train(tmp_path / "stopped", {"wild": small_run(*settings, "on_divergence=stop", "epochs=4")})
    statuses = [run_dir.read_status(tmp_path / name / "wild") for name in ("whole", "broken", "stopped")]
    assert [status["epoch"] for status in statuses] == [4, 4, 1]
    for key in ("outcome", "reason", "diverged_at", "best_val_accuracy", "final"):
        assert len({str(status[key]) for status in statuses}) == 1


def test_a_run_that_goes_on_is_reported_like_one_that_stopped(tmp_path: Path, small_run):
    """Its figures, curves and words are those of the run that stopped where it diverged."""
    reports = []
    for on_divergence in ("stop", "continue"):
        runs = {"relu": small_run(f"on_divergence={on_divergence}")}
        runs["wild"] = small_run("activation=scaled", "activation.r=1e6", f"on_divergence={on_divergence}")
        train(tmp_path / on_divergence, runs)
        sweep = aggregate.read([tmp_path / on_divergence])
        marked = [chart.alt for chart in charts.epoch_charts(sweep)]
        reports.append((sweep.epochs.drop(columns=["run_id", "seconds"]).to_csv(), marked, findings.findings(sweep),
                        statistics.summary(sweep).to_csv(), sweep.runs[["outcome", "reason"]].to_csv()))  # fmt: skip
    plt.close("all")
    assert reports[0] == reports[1]


def test_reference_engine_too(tmp_path: Path, runs):
    one = {"reference": runs["reference"]}
    train(tmp_path / "whole", one)
    train(tmp_path / "broken", one, 2)
    assert len(run_dir.standing(tmp_path / "broken" / "reference").lines) == 1
    train(tmp_path / "broken", one)
    assert results_of(tmp_path / "whole") == results_of(tmp_path / "broken")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_more_epochs_later(tmp_path: Path, small_run, momentum: float):
    few, many = (small_run(f"optimizer.momentum={momentum}", f"epochs={epochs}") for epochs in (2, 5))
    train(tmp_path / "whole", {"run": many})
    train(tmp_path / "later", {"run": few})
    with pytest.raises(ValueError, match="epochs: 2 there, 5 asked for"):
        train(tmp_path / "later", {"run": many})
    train(tmp_path / "later", {"run": many}, more_epochs=True)
    assert results_of(tmp_path / "whole") == results_of(tmp_path / "later")


def test_finished_runs_are_left_alone(tmp_path: Path, runs):
    train(tmp_path, runs)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    train(tmp_path, runs)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def killed(folder: Path, seed: int) -> None:
    """Starts the sweep and kills it -9 at a random moment after its first record."""
    process = subprocess.Popen([sys.executable, "-m", "mlp_sweep", *SWEEP, "epochs=30"], cwd=folder,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while process.poll() is None and not run_dir.find_runs(folder / "s"):
        time.sleep(0.005)
    time.sleep(random.Random(seed).uniform(0, 1.0))
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_and_resumed_by_command(tmp_path: Path, seed: int, data_dir: Path):
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        shutil.copytree(data_dir, tmp_path / name / "data", dirs_exist_ok=True)
    assert command(tmp_path / "whole", *SWEEP, "epochs=30").returncode == 0
    killed(tmp_path / "killed", seed)
    if seed % 2:
        done = command(tmp_path / "killed", "s", module="mlp_sweep.resume")
    else:
        done = command(tmp_path / "killed", *SWEEP, "epochs=30")
    assert done.returncode == 0, done.stderr
    assert results_of(tmp_path / "whole" / "s") == results_of(tmp_path / "killed" / "s")
    assert (tmp_path / "killed" / "s" / "report" / "val_accuracy.png").is_file()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path):
    process = subprocess.Popen([sys.executable, "-m", "mlp_sweep", *SWEEP, "epochs=5000"], cwd=tmp_path,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)  # fmt: skip
    while not any(run_dir.read_status(run).get("epoch", 0) > 1 for run in run_dir.find_runs(tmp_path / "s")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "python -m mlp_sweep.resume s" in said and "Traceback" not in said
    states = {run_dir.read_status(run)["state"] for run in run_dir.find_runs(tmp_path / "s")}
    assert states == {"stopped", "finished"}


@pytest.mark.slow
@pytest.mark.parametrize("group", [True, False])  # a terminal's Ctrl-C reaches all processes, a supervisor's one
@pytest.mark.parametrize("at", [(0.3,), (0.7, 0.9), (2.0, 2.1)])
def test_ctrl_c_while_a_sweep_begins(tmp_path: Path, group: bool, at: tuple[float, ...]):
    """The processes that it is dealt to are only coming to be; a second one disturbs nothing."""
    process = subprocess.Popen([sys.executable, "-m", "mlp_sweep", *SWEEP, "epochs=5000"], cwd=tmp_path, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
    while not (tmp_path / "s" / "jobs.json").exists():
        time.sleep(0.01)
    begun = time.monotonic()
    for moment in at:
        time.sleep(max(0, begun + moment - time.monotonic()))
        (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]  # to the end of all that have its stderr
    assert process.returncode in (130, -signal.SIGINT), said
    assert "python -m mlp_sweep.resume s" in said and "Traceback" not in said
    states = {run_dir.read_status(run)["state"] for run in run_dir.find_runs(tmp_path / "s")}
    assert states <= {"stopped", "finished"}


@pytest.mark.parametrize(("momentum", "stop_after"), [(0.0, 5), (0.9, None)])
def test_the_directory_of_an_equal_run_goes_on_from_its_checkpoint(tmp_path: Path, small_run, momentum, stop_after):
    def equal(epochs: int) -> dict:
        optimizer = f"optimizer.momentum={momentum}"
        return {name: small_run(optimizer, f"activation.r={r}", f"epochs={epochs}") for name, r in (("a", 2), ("b", 3))}

    train(tmp_path / "s", equal(4), stop_after)
    there = (tmp_path / "s" / "b" / run_dir.METRICS).read_text().splitlines()
    assert len(there) > 2
    train(tmp_path / "s", {"b": equal(6)["b"]}, more_epochs=True)
    train(tmp_path / "whole", {"b": equal(6)["b"]})
    assert results_of(tmp_path / "s" / "b") == results_of(tmp_path / "whole" / "b")
    assert (tmp_path / "s" / "b" / run_dir.METRICS).read_text().splitlines()[: len(there)] == there


def test_a_run_that_goes_on_keeps_the_command_that_it_began_with(tmp_path: Path, small_run, monkeypatch):
    for words, epochs in ((["first"], 2), (["second"], 3)):
        monkeypatch.setattr(sys, "argv", words)
        train(tmp_path, {"run": small_run(f"epochs={epochs}")}, more_epochs=True)
    status = run_dir.read_status(tmp_path / "run")
    assert status["command"] == ["first"] and status["resumed"] == ["second"]


def test_how_it_is_trained_may_change(tmp_path: Path, small_run):
    train(tmp_path, {str(seed): small_run(f"seed={seed}", "epochs=2") for seed in range(3)})
    done = command(tmp_path, ".", "epochs=3", "max_members=1", "workers=1", module="mlp_sweep.resume")
    assert done.returncode == 0, done.stderr
    assert {run_dir.read_status(run)["members"] for run in run_dir.find_runs(tmp_path)} == {1}
    assert "max_members=some" in one_error_line(command(tmp_path, ".", "max_members=some", module="mlp_sweep.resume"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere"], "nowhere"), (["run", "seed=1"], "seed"), (["run", "epochs=some"], "epochs")],
)
def test_bad_words_get_one_line(tmp_path: Path, small_run, arguments: list[str], said: str):
    train(tmp_path, {"run": small_run()})
    assert said in one_error_line(command(tmp_path, *arguments, module="mlp_sweep.resume"))


def test_a_second_process_is_told_who_has_it(tmp_path: Path, small_run):
    run = small_run()
    held = run_dir.RunDir(tmp_path / "run")
    with held.lock():
        held.start(["epoch", "seconds"], settings={})
        stack = plan.stacks([plan.Job(run, tmp_path / "run")], None, 2**40)[0]
        [result] = record.record(stack, workers.events(stack))
        assert f"process {os.getpid()}" in str(result.error)
    assert run_dir.read_status(tmp_path / "run")["state"] == "running"
