"""What is shown never decides what is trained: closed, broken and full streams, with real pipes and /dev/full."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import SMALL
from test_resume import results_of, train

from mlp_sweep import console, run_dir

SWEEP = ("--multirun", *SMALL, "activation=relu,scaled", "activation.r=2,1e6")
MLP_SWEEP = f"{sys.executable} -m mlp_sweep"

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True,
                          env=os.environ | environment)  # fmt: skip


def test_a_broken_pipe_is_dropped():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe:
        stream = console._Stream(pipe)
        for _ in range(3):
            assert stream.write("text\n") == 5
            stream.flush()
        assert isinstance(stream.lost, BrokenPipeError) and not stream.isatty()
        pipe.write("what was still to be written goes nowhere")  # or closing it would raise


@needs_full
def test_a_full_disk_is_dropped():
    with open("/dev/full", "w") as full:
        stream = console._Stream(full)
        stream.write("text\n")
        assert isinstance(stream.lost, OSError)
        stream.write("more\n")


def test_a_closed_file_is_dropped_and_one_that_was_never_there():
    read, write = os.pipe()
    os.close(read)
    closed = open(write, "w")  # noqa: SIM115
    closed.close()
    for given in (closed, None):
        stream = console._Stream(given)
        stream.write("text\n")
        stream.flush()
        assert stream.lost


def test_a_reader_that_does_not_keep_up_loses_lines_and_not_the_stream():
    read, write = os.pipe()
    os.set_blocking(write, False)
    with open(read, "rb", buffering=0) as reader, suppress(BlockingIOError), open(write, "w") as pipe:
        stream = console._Stream(pipe)
        for _ in range(100):
            stream.write("x" * 10_000 + "\n")  # more than a pipe holds
        assert stream.lost is None
        while len(reader.read(2**20)) == 2**20:
            pass
        stream.write("seen\n")
        assert reader.read(2**20).endswith(b"seen\n")


def test_what_cannot_be_encoded_is_written_all_the_same(tmp_path: Path):
    with open(tmp_path / "out", "w", encoding="ascii") as file:
        stream = console._Stream(file)
        stream.write("r\N{SUPERSCRIPT TWO} \udc80\n")
        assert stream.lost is None
    assert (tmp_path / "out").read_text() == "r\\xb2 \\udc80\n"


LOSSES = {
    "2>&1 | head -n 2": "a reader that has seen enough",
    ">/dev/full 2>&1": "a full disk",
    ">/dev/full": "a full disk for the results",
    "2>/dev/full": "a full disk for the progress",
    "<&- >&- 2>&-": "nothing open",
    "2>&1 | true": "no reader from the beginning",
}


@needs_full
@pytest.mark.slow
@pytest.mark.parametrize("cores", ["1", "2"])  # in this process, and in several
def test_a_sweep_trains_whatever_becomes_of_its_streams(tmp_path: Path, cores: str):
    environment = {"OMP_NUM_THREADS": cores}
    done = shell(f"{MLP_SWEEP} {' '.join(SWEEP)} hydra.sweep.dir=whole", tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    whole = results_of(tmp_path / "whole")
    for number, streams in enumerate(LOSSES if cores == "1" else list(LOSSES)[:2]):
        line = f"( {MLP_SWEEP} {' '.join(SWEEP)} hydra.sweep.dir={number}; echo $? >{number}.rc )"
        done = shell(f"{line} {streams}", tmp_path, **environment)
        assert (tmp_path / f"{number}.rc").read_text() == "0\n", streams
        assert results_of(tmp_path / str(number)) == whole, streams
        states = {run_dir.read_status(run)["state"] for run in run_dir.find_runs(tmp_path / str(number))}
        assert states == {"finished"}, streams
        summary = (tmp_path / str(number) / "report" / "summary.csv").read_bytes()
        assert summary == (tmp_path / "whole" / "report" / "summary.csv").read_bytes(), streams
        if streams == ">/dev/full":
            assert done.stderr.splitlines()[-1].startswith("mlp_sweep: standard output was lost (No space left")
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@needs_full
@pytest.mark.slow
@pytest.mark.parametrize("command", ["mlp_sweep dry_run=true", "mlp_sweep --help", "mlp_sweep.report s",
                                     "mlp_sweep.resume s"])  # fmt: skip
def test_every_command_outlives_its_streams(tmp_path: Path, small_run, command: str):
    train(tmp_path / "s", {"run": small_run("epochs=1")})
    for streams in (">/dev/full 2>&1", "| true"):
        done = shell(f"( {sys.executable} -m {command}; echo $? >rc ) {streams}", tmp_path)
        assert (tmp_path / "rc").read_text() == "0\n", streams
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@needs_full
@pytest.mark.slow
def test_predictions_that_cannot_be_shown_are_an_error(tmp_path: Path, small_run):
    from PIL import Image

    train(tmp_path, {"run": small_run("epochs=1")})
    for number in range(30):
        Image.new("RGB", (9, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    for streams, said in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor"), ("| true", "")):
        predict = f"{sys.executable} -m mlp_sweep.predict run . --csv rows.csv"
        done = shell(f"( {predict}; echo $? >rc ) {streams}", tmp_path)
        assert (tmp_path / "rc").read_text() == "1\n", streams
        assert done.stderr == (f"mlp_sweep: standard output was lost ({said})\n" if said else "")
        assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 30 * 5
