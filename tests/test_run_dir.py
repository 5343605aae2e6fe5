import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlp_sweep import run_dir, sealed
from mlp_sweep.run_dir import RunDir

COLUMNS = ["epoch", "train_loss", "seconds"]


def started(path: Path) -> RunDir:
    path.mkdir(parents=True, exist_ok=True)
    directory = RunDir(path)
    directory.start(COLUMNS, run_id="abc")
    return directory


@given(st.lists(st.floats(), max_size=5))
def test_figures_survive_the_round_trip(tmp_path_factory, figures: list[float]):
    path = tmp_path_factory.mktemp("run")
    directory = started(path)
    for epoch, figure in enumerate(figures, 1):
        directory.append({"epoch": epoch, "train_loss": figure, "seconds": 0.5})
    columns, rows = run_dir.read_metrics(path)
    assert columns == COLUMNS
    for read, written in zip((row[1] for row in rows), figures, strict=True):
        assert read == written or (math.isnan(read) and math.isnan(written))


def test_a_line_still_being_written_is_left_out(tmp_path: Path):
    started(tmp_path).append({"epoch": 1, "train_loss": 2.5, "seconds": 0.5})
    with open(tmp_path / run_dir.METRICS, "a") as file:
        file.write("2,1.2")
    assert run_dir.read_metrics(tmp_path)[1] == [[1, 2.5, 0.5]]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "epoch,x,seconds\n1,2\n", "epoch,x,seconds\n1,spam,3\n"])
def test_foreign_tables_are_refused_by_name(tmp_path: Path, text: str):
    (tmp_path / run_dir.METRICS).write_text(text)
    with pytest.raises(ValueError, match=str(tmp_path)):
        run_dir.read_metrics(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\udcff"])
def test_a_status_that_is_none_is_refused_by_name(tmp_path: Path, text: str):
    (tmp_path / run_dir.STATUS).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=str(tmp_path)):
        run_dir.read_status(tmp_path)


STARTS = """
import os, signal, sys
from pathlib import Path
from mlp_sweep.run_dir import RunDir
RunDir(Path(sys.argv[1])).start(["epoch", "train_loss", "seconds"], run_id="abc")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_that_was_killed_is_not_said_to_be_running(tmp_path: Path):
    started(tmp_path / "alive")
    (tmp_path / "killed").mkdir()
    subprocess.run([sys.executable, "-c", STARTS, tmp_path / "killed"])
    assert sealed.read_record(tmp_path / "killed" / run_dir.STATUS)["state"] == "running"
    assert run_dir.read_status(tmp_path / "killed")["state"] == "stopped"
    assert run_dir.read_status(tmp_path / "alive")["state"] == "running"


def ended_process() -> int:
    """The number of a process of this machine that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.mark.parametrize("old", [False, True])
def test_a_process_is_asked_for_on_its_own_host_only(tmp_path: Path, old: bool):
    """On another host it is its heartbeat that tells; a number there says nothing about a process here."""
    lock = tmp_path / run_dir.LOCK
    lock.touch()
    os.utime(lock, (now := time.time() - 1e6 * old, now))
    for pid, gone in ((os.getpid(), False), (ended_process(), True)):
        here = run_dir.process() | {"pid": pid}
        assert run_dir.gone(here, tmp_path) is gone
        assert run_dir.gone(here | {"host": "elsewhere"}, tmp_path) is old


@pytest.mark.parametrize("source", [None, run_dir.CHECKPOINT, run_dir.WEIGHTS])
def test_a_run_that_starts_anew_keeps_no_weights_of_an_earlier_one(tmp_path: Path, source: str | None):
    files = [tmp_path / name for name in (run_dir.CHECKPOINT, run_dir.WEIGHTS)]
    for path in files:
        sealed.write_arrays(path, {"w": np.ones(3)}, {"epoch": 1})
    before = [path.read_bytes() for path in files]
    standing = run_dir.Standing(["1,2.5,0.1,2.5,0.1,0.5"], tmp_path / source) if source else None
    RunDir(tmp_path).start(["epoch", *run_dir.FIGURES, "seconds"], standing)
    assert [path.exists() for path in files] == [bool(source)] * 2
    assert not source or [path.read_bytes() for path in files] == before


def test_runs_are_known_by_their_files(tmp_path: Path):
    for name in ("b/c", "a"):
        started(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert run_dir.find_runs(tmp_path) == [tmp_path / "a", tmp_path / "b/c"]


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path):
    first, second = RunDir(tmp_path), RunDir(tmp_path)
    with first.lock():
        first.start(COLUMNS)
        with pytest.raises(ValueError, match=f"process {os.getpid()} on"), second.lock():
            pytest.fail("both have it")
        second.stop("failed", "should not be written")
        assert run_dir.read_status(tmp_path)["state"] == "running"
    with second.lock():
        second.stop("failed", "now it may")
    assert run_dir.read_status(tmp_path)["state"] == "failed"


@pytest.mark.parametrize("appended", [False, True])
def test_an_epoch_is_whole_once_its_checkpoint_is_there(tmp_path: Path, appended: bool):
    """Killed before or after the line of metrics.csv, the run stands after the same epoch, with the same line."""
    directory = started(tmp_path)
    directory.append({"epoch": 1, "train_loss": 2.5, "seconds": 0.5})
    cells = {"epoch": 2, "train_loss": 1.5, "seconds": 0.5}
    directory.checkpoint({"w": np.ones(3)}, cells, None)
    if appended:
        directory.append(cells)
        directory.append({"epoch": 3, "train_loss": 1.0, "seconds": 0.5})  # its checkpoint was not reached
    standing = run_dir.standing(tmp_path)
    assert standing.lines == ["1,2.5,0.5", "2,1.5,0.5"] and standing.source == tmp_path / run_dir.CHECKPOINT
    assert run_dir.load_state(tmp_path / run_dir.CHECKPOINT)["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("damage", [b"", b"spam" * 100, None])
def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path: Path, damage: bytes | None):
    started(tmp_path).checkpoint({"w": np.ones(3)}, {"epoch": 1, "train_loss": 2.5, "seconds": 0.5}, None)
    checkpoint = tmp_path / run_dir.CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-4] if damage is None else damage)
    standing = run_dir.standing(tmp_path)
    assert standing.lines == [] and standing.source is None
    [said] = standing.damage
    assert said.startswith(str(checkpoint))
