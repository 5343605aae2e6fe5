"""SIGINT, SIGTERM and SIGHUP stop a command in order: to it alone or to its whole group, whatever it is doing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from test_cli import command
from test_resume import results_of

from mlp_sweep import asked, run_dir

ENDLESS = ("--multirun", *SMALL, "activation=relu,scaled", "activation.r=2,1e6", "hydra.sweep.dir=s", "epochs=100000")
NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


for _name in NAMES:
    if signal.getsignal(getattr(signal, _name)) is signal.SIG_IGN:  # as where nohup runs the tests
        signal.signal(getattr(signal, _name), signal.SIG_DFL)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a command in a session, and so a group, of its own; nothing of it outlives the test."""
    processes: list[Any] = []

    def started(folder: Path, *words: str, module: str = "mlp_sweep", ignored: str = "") -> subprocess.Popen:
        line = [sys.executable, "-m", module, *words]
        if ignored:
            line = ["bash", "-c", f"trap '' {ignored}; exec \"$@\"", "-", *line]
        process = subprocess.Popen(line, cwd=folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "2"})  # fmt: skip
        processes.append(process)
        return process

    yield started
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


def until(reached: Callable[[], object], process: subprocess.Popen) -> None:
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def begins(folder: Path) -> bool:
    return (folder / "s" / asked.JOBS).exists()


def trains(folder: Path, place: str = "s") -> bool:
    """Every run has an epoch, so every process of a sweep is under way."""
    runs = run_dir.find_runs(folder / place)
    return bool(runs) and all(run_dir.read_status(run).get("epoch", 0) > 0 for run in runs)


def states(folder: Path, place: str = "s") -> dict[str, str | None]:
    statuses = [run_dir.read_status(run) for run in run_dir.find_runs(folder / place)]
    return {str(status["state"]): status.get("reason") for status in statuses}


def group(process: subprocess.Popen) -> list[str]:
    """The processes left in the session of a command that has ended; half a minute to go."""
    line = ["ps", "-o", "pid=,args=", "--sid", str(process.pid)]
    end = time.monotonic() + 30
    while (left := subprocess.run(line, capture_output=True, text=True).stdout) and time.monotonic() < end:
        time.sleep(0.1)
    return left.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("when", [begins, trains])
@pytest.mark.parametrize("send", [os.kill, os.killpg])  # a supervisor tells the command, a terminal or Slurm all
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_stops_in_order(tmp_path: Path, start, name: str, send: Callable[[int, int], None], when):
    process = start(tmp_path, *ENDLESS)
    until(lambda: when(tmp_path), process)
    number = getattr(signal, name)
    send(process.pid, number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said and "Exception ignored" not in said and "failed" not in said
    assert said.splitlines()[-1].startswith("mlp_sweep: stopped")
    assert said.endswith("; resume with: python -m mlp_sweep.resume s\n")
    found = states(tmp_path)
    assert found.keys() <= {"stopped", "finished"}
    assert when is begins or found["stopped"] == f"stopped by {name}"
    assert group(process) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("when", [begins, trains])
def test_the_processes_of_a_sweep_wait_for_the_command_to_stop(tmp_path: Path, start, name: str, when):
    """Of a whole group's signals the command's may come last: until then no other process dies."""
    process = start(tmp_path, *ENDLESS)
    line = ["ps", "-o", "pid=", "--sid", str(process.pid)]

    def others() -> set[int]:
        return set(map(int, subprocess.run(line, capture_output=True, text=True).stdout.split())) - {process.pid}

    until(lambda: when(tmp_path) and len(others()) >= 2, process)  # the fork server and the resource tracker at least
    signalled = others()
    for pid in signalled:
        os.kill(pid, getattr(signal, name))
    if when is begins:
        until(lambda: trains(tmp_path), process)
    time.sleep(1)
    assert all(map(alive, signalled))
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=120)[1]
    assert "failed" not in said and states(tmp_path).keys() <= {"stopped", "finished"}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_what_signals_stopped_is_resumed_bit_for_bit(tmp_path: Path, start):
    sweep = (*ENDLESS[:-1], "epochs=150")
    for folder in ("whole", *NAMES):
        (tmp_path / folder).mkdir()
    assert command(tmp_path / "whole", *sweep, OMP_NUM_THREADS="2").returncode == 0
    for name in NAMES:
        folder = tmp_path / name
        process = start(folder, *sweep)
        until(lambda folder=folder: trains(folder), process)
        os.killpg(process.pid, getattr(signal, name))
        process.communicate(timeout=120)
        assert "stopped" in states(folder)
        done = command(folder, "s", module="mlp_sweep.resume", OMP_NUM_THREADS="2")
        assert done.returncode == 0, done.stderr
        assert results_of(folder / "s") == results_of(tmp_path / "whole" / "s")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["waiting", "running"])
def test_a_single_run_stops_in_order(tmp_path: Path, start, when: str):
    process = start(tmp_path, *SMALL, "epochs=100000", "hydra.run.dir=one")
    until(lambda: when in states(tmp_path, "one") if run_dir.is_run(tmp_path / "one") else False, process)
    process.terminate()
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 143, said
    assert said.endswith("mlp_sweep: stopped by SIGTERM; resume with: python -m mlp_sweep.resume one\n")
    assert states(tmp_path, "one") == {"stopped": "stopped by SIGTERM"}


@pytest.mark.slow
def test_a_resumed_sweep_stops_in_order_too(tmp_path: Path, start):
    process = start(tmp_path, *ENDLESS)
    until(lambda: trains(tmp_path), process)
    for name in ("SIGHUP", "SIGTERM"):
        os.killpg(process.pid, getattr(signal, name))
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 128 + getattr(signal, name), said
        assert states(tmp_path)["stopped"] == f"stopped by {name}"
        process = start(tmp_path, "s", module="mlp_sweep.resume")
        until(lambda: "running" in states(tmp_path), process)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_signal_that_is_ignored_from_the_beginning_stays_ignored(tmp_path: Path, start, name: str):
    """nohup ignores SIGHUP, a shell without job control SIGINT in its background."""
    process = start(tmp_path, *ENDLESS, ignored=name)
    until(lambda: trains(tmp_path), process)
    for _ in range(3):
        os.killpg(process.pid, getattr(signal, name))
    before = run_dir.read_status(run_dir.find_runs(tmp_path / "s")[0])["epoch"]
    until(lambda: run_dir.read_status(run_dir.find_runs(tmp_path / "s")[0])["epoch"] > before, process)
    os.killpg(process.pid, signal.SIGTERM if name != "SIGTERM" else signal.SIGINT)
    process.communicate(timeout=120)
    assert states(tmp_path).keys() <= {"stopped", "finished"}


SIGNALLED = """
import os, signal, sys, time
from mlp_sweep import console
console.take_signals()
try:
    while True:
        time.sleep(0.01)
except KeyboardInterrupt:
    print("stopping", flush=True)
    if sys.argv[1] == "slow":
        time.sleep(60)
    time.sleep(1.5)
    console.stopped(None)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_second_signal_disturbs_nothing(name: str):
    with subprocess.Popen([sys.executable, "-c", "print(flush=True)\n" + SIGNALLED, "quick"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        for _ in range(4 if name != "SIGINT" else 2):  # a supervisor's, within a second
            process.send_signal(getattr(signal, name))
            time.sleep(0.05)
        said = process.communicate(timeout=60)[1]
    by = "" if name == "SIGINT" else f" by {name}"
    assert process.returncode == 128 + getattr(signal, name) and said == f"mlp_sweep: stopped{by}\n"


@pytest.mark.parametrize(("name", "apart"), [("SIGINT", 0.05), ("SIGTERM", 1.1)])
def test_a_third_signal_ends_the_process_at_once(name: str, apart: float):
    with subprocess.Popen([sys.executable, "-c", SIGNALLED, "slow"], text=True,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        begun = time.monotonic()
        time.sleep(1)
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == "stopping\n"
        for _ in range(2):
            time.sleep(apart)
            process.send_signal(getattr(signal, name))
        assert process.wait(timeout=60) == 128 + getattr(signal, name)
    assert time.monotonic() - begun < 50  # it would have slept for longer


@pytest.mark.slow
@pytest.mark.parametrize("when", [begins, trains])
def test_workers_end_when_the_command_is_killed(tmp_path: Path, start, when):
    process = start(tmp_path, *ENDLESS)
    until(lambda: when(tmp_path), process)
    process.kill()
    process.communicate(timeout=120)
    assert group(process) == []
    assert "failed" not in states(tmp_path)
