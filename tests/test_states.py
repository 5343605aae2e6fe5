"""Every state that a run's directory can be in, with every command and every fault: the table of docs/reliability.md.

The table is the test: its rows name the states that are made here by real processes, its cells say what a command does.
"""

import errno
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, make_run
from test_resume import results_of

from mlp_sweep import aggregate, asked, config, console, plan, predictor, resume, run_dir, sweep
from mlp_sweep.workers import Workers, train_jobs

assert sweep  # its imports are made once, by the process that forks

EPOCHS, MORE, FEWER, DONE = 4, 6, 1, 2
COMMANDS = {"the same command": (), "resume": (), "resume, more": (f"epochs={MORE}",),
            "resume, fewer": (f"epochs={FEWER}",)}  # fmt: skip
FAULTS = ("kill -9", "Ctrl-C", "full disk", "no pictures")


def table() -> dict[str, dict[str, str]]:
    """State -> column -> cell."""
    text = (Path(__file__).parent.parent / "docs" / "reliability.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*\|$", text, re.M)]
    head, _, *states = rows[: next((i for i, row in enumerate(rows) if row[0] == "fault"), len(rows))]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in states}


TABLE = table()


def act(folder: str, command: str, settings: dict[str, Any], fault: str, moment: int) -> None:
    """In a process of its own: a command on the run in folder/run, with a fault at its n-th write to that run."""
    os.chdir(folder)
    os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    writes = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal writes
        writing = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (
            not writing
            or not isinstance(arguments[0], str | bytes)
            or f"{os.sep}run{os.sep}" not in os.path.abspath(os.fsdecode(arguments[0]))
        ):
            return
        writes += 1
        if writes == moment and fault == "kill -9":
            os.kill(os.getpid(), signal.SIGKILL)
        if writes == moment and fault == "Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        if writes >= moment and fault == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    if fault == "no pictures":
        shutil.rmtree("data", ignore_errors=True)
        Path("data").write_text("in the place of a folder")
    if fault:
        sys.addaudithook(watch)
    if command == "the same command":
        begin(Path("run"), config.from_settings(settings))
    else:
        resume.main(["run", *COMMANDS[command]])


def begin(path: Path, run: config.Run) -> None:
    """What `python -m mlp_sweep hydra.run.dir=run` does, without Hydra."""
    try:
        plan.job(run, path)
        asked.run(path, asdict(run))
        job = plan.job(run, path)
        [result] = train_jobs([job], plan.stacks([job], None, 2**40), Workers())
        if result.error:
            raise result.error
    except (ValueError, OSError) as error:
        console.error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def serve() -> None:
    """Forks itself for each request on stdin, since imports take seconds; the answer is the exit status."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            status = 1
            try:
                act(*json.loads(line))
                status = 0
            except SystemExit as left:
                status = left.code if isinstance(left.code, int) else 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


@functools.cache
def server() -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent)])
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})  # fmt: skip


@functools.cache
def settings(state: str) -> dict[str, Any]:
    more = ["optimizer.momentum=0.9"] if "momentum" in state else []
    more += ["activation=scaled", "activation.r=1e9"] if state == "diverged" else []
    return asdict(make_run(*SMALL, "device=cpu", f"epochs={EPOCHS}", *more))


def do(folder: Path, command: str, state: str, fault: str = "", moment: int = 0) -> int:
    """The exit status of a command in a process of its own."""
    serving = server()
    assert serving.stdin and serving.stdout
    print(json.dumps([str(folder), command, settings(state), fault, moment]), file=serving.stdin, flush=True)
    status = int(serving.stdout.readline())
    if fault == "no pictures":
        (folder / "data").unlink()
    return status


def said(folder: Path) -> str:
    return (folder / "said").read_text() if (folder / "said").exists() else ""


def moment_of(folder: Path, state: str, command: str, seen: Callable[[Path], bool]) -> int:
    """The first write to the run before which something can be seen on disk: killed there, the command leaves it."""
    low, high = 1, 64
    while low < high:
        middle = (low + high) // 2
        trial = folder.with_name(f"{folder.name} {middle}")
        shutil.copytree(folder, trial)
        do(trial, command, state, "kill -9", middle)
        low, high = (low, middle) if seen(trial / "run") else (middle + 1, high)
    return low


def epoch(run: Path) -> int:
    return run_dir.read_status(run).get("epoch", 0) if run_dir.is_run(run) else 0


def started(run: Path) -> bool:
    return run_dir.is_run(run) and "data" in run_dir.read_status(run)


def given_more(run: Path) -> bool:
    return run_dir.read_status(run).get("epochs") == MORE


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that makes a directory in a state, once."""
    root, made = tmp_path_factory.mktemp("states"), {}

    def make(state: str) -> Path:
        if state in made:
            return made[state]
        name = state.split(":")[0]
        place, kind = root / name, name.split(",")[0]
        if kind in ("extended", "status.json missing", "status.json damaged"):
            shutil.copytree(make(name.replace(kind, "finished")), place)
        else:
            place.mkdir()
        same = "the same command"
        match kind:
            case "waiting":
                do(place, same, state, "kill -9", moment_of(place, state, same, run_dir.is_run))
                assert not started(place / "run")
            case "begun":
                do(place, same, state, "kill -9", moment_of(place, state, same, started))
                assert started(place / "run") and epoch(place / "run") == 0
            case "stopped" | "killed" | "failed":
                fault = {"stopped": "Ctrl-C", "killed": "kill -9", "failed": "full disk"}[kind]
                after = moment_of(place, state, same, lambda run: epoch(run) >= DONE)
                do(place, same, state, fault, after)
                if kind == "failed":  # a full disk lets nobody write that the run failed
                    do(place, "resume", state, "no pictures")
                assert epoch(place / "run") == DONE
            case "finished" | "diverged":
                assert do(place, same, state) == 0
            case "extended":
                more = "resume, more"
                do(place, more, state, "kill -9", moment_of(place, state, more, given_more))
                assert given_more(place / "run") and epoch(place / "run") == EPOCHS
            case "status.json missing":
                (place / "run" / run_dir.STATUS).unlink()
            case "status.json damaged":
                (place / "run" / run_dir.STATUS).write_text('{"state": "fin')
        made[state] = place
        return place

    return make


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], dict]:
    """A function that gives the results of a run that nothing disturbed, by what it trains and for how long."""
    root, made = tmp_path_factory.mktemp("undisturbed"), {}

    def results(state: str, epochs: int) -> dict:
        key = ("momentum" in state, state == "diverged", epochs)
        if key not in made:
            place = root / str(len(made))
            run = config.from_settings(json.loads(json.dumps(settings(state))))
            begin(place / "run", replace(run, epochs=epochs, data_dir=str(root / "data")))
            made[key] = results_of(place)
        return made[key]

    return results


def files(run: Path) -> dict[str, bytes]:
    """All that a run left, but for its log, which records every attempt."""
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*"))
            if path.is_file() and path.name not in (run_dir.LOG, run_dir.LOCK)}  # fmt: skip


def rows(run: Path) -> list[str]:
    path = run / run_dir.METRICS
    return path.read_text().splitlines()[1:] if path.exists() else []


def epochs_after(command: str, state: str) -> int:
    return MORE if command == "resume, more" or state.startswith("extended") else EPOCHS


CELLS = [(state, command) for state in TABLE for command in COMMANDS]
TRAINING = [(state, command, fault) for state, command in CELLS if TABLE[state][command] in ("trains", "continues")
            for fault in FAULTS]  # fmt: skip


# The rest of the table takes a minute, and is tried with the slow tests.
OFTEN = ("missing", "stopped: by Ctrl-C or a signal", "finished",
         "extended: given more epochs, killed before one of them ended")  # fmt: skip


@pytest.mark.parametrize(
    ("state", "command"),
    [pytest.param(*cell, marks=[] if cell[0] in OFTEN else [pytest.mark.slow]) for cell in CELLS],
)
def test_a_command_does_what_the_table_says(tmp_path: Path, states, undisturbed, state: str, command: str):
    shutil.copytree(states(state), tmp_path, dirs_exist_ok=True)
    run, action = tmp_path / "run", TABLE[state][command]
    before, lines = files(run), rows(run)
    (tmp_path / "said").unlink(missing_ok=True)
    status = do(tmp_path, command, state)
    assert "Traceback" not in said(tmp_path)
    if action in ("keeps", "refuses"):
        assert status == (action == "refuses") and files(run) == before, said(tmp_path)
        return
    assert status == 0, said(tmp_path)
    length = FEWER if command == "resume, fewer" else epochs_after(command, state)
    assert results_of(tmp_path) == undisturbed(state, length)
    assert rows(run)[: len(lines)] == (lines if action == "continues" else [])


@pytest.mark.slow
@pytest.mark.parametrize(("state", "command", "fault"), TRAINING)
def test_no_fault_loses_a_finished_epoch(tmp_path: Path, states, undisturbed, state: str, command: str, fault: str):
    """Struck twice, at two moments; what was finished before is still there, and the command then ends as it should."""
    shutil.copytree(states(state), tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    lines = rows(run) if TABLE[state][command] == "continues" else []
    draw = zlib.crc32(f"{state} {command} {fault}".encode())
    for moment in (2 + draw % 6, 1):
        do(tmp_path, command, state, fault, moment)
        assert rows(run)[: len(lines)] == lines
        lines = rows(run) if run_dir.is_run(run) and run_dir.standing(run).lines == rows(run) else lines
    assert "Traceback" not in said(tmp_path)
    assert do(tmp_path, command, state) == 0, said(tmp_path)
    length = FEWER if command == "resume, fewer" else epochs_after(command, state)
    assert results_of(tmp_path) == undisturbed(state, length)
    assert rows(run)[: len(lines)] == lines


@pytest.mark.parametrize("state", ["finished", "finished, with momentum"])
def test_a_finished_run_that_cannot_begin_its_new_epochs_stays_finished(tmp_path: Path, states, state: str):
    shutil.copytree(states(state), tmp_path, dirs_exist_ok=True)
    before = files(tmp_path / "run")
    assert do(tmp_path, "resume, more", state, "no pictures") == 1
    assert files(tmp_path / "run") == before and predictor.load(tmp_path / "run")


@pytest.mark.parametrize(
    "state", [pytest.param(state, marks=[] if state in OFTEN else [pytest.mark.slow]) for state in TABLE]
)
def test_a_report_and_a_prediction_do_what_the_table_says(states, state: str):
    run = states(state) / "run"
    try:
        read = aggregate.read([run])
        found = "unfinished" if read.unfinished else "shown"
    except ValueError as error:
        found = "unfinished" if re.search("not started yet|before it began", str(error)) else "refuses"
    assert found == TABLE[state]["report"]
    try:
        predictor.load(run)
        found = "predicts"
    except ValueError:
        found = "refuses"
    assert found == TABLE[state]["predict"]


if __name__ == "__main__":
    serve()
