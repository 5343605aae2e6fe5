"""The README's commands, as written, in a folder of their own."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlp_sweep import run_dir

README = Path(__file__).parent.parent / "README.md"
ARCHIVE = os.environ.get("MLP_SWEEP_TINY_IMAGENET")


def commands() -> list[str]:
    """Every line of the README that starts a command of ours: in a fenced block, or indented."""
    text = README.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.S | re.M) + re.findall(r"^    (python .*)$", text, re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("python -m mlp_sweep")]


def runnable(line: str) -> bool:
    """All but those that want a time filled in, pictures of the reader's own, a set not here, or a running cluster."""
    absent = [path for path in re.findall(r"dataset.root=(/\S+)", line) if not Path(path).exists()]
    return not absent and not re.search(r"<|dataset.root=pictures|address=auto|--help", line)


def test_there_are_commands():
    assert len([line for line in commands() if runnable(line)]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in commands() if runnable(line)])
def test_command(line: str, tmp_path: Path, data_dir: Path):
    """Long ones on the real pictures are cut to one epoch, and need the archive."""
    words = [sys.executable, *shlex.split(line)[1:]]
    if "tiny-imagenet-200.zip" in line:
        if not ARCHIVE:
            pytest.skip("MLP_SWEEP_TINY_IMAGENET does not name the archive")
        (tmp_path / "tiny-imagenet-200.zip").symlink_to(ARCHIVE)
        words += ["epochs=1"]
    (tmp_path / "data").symlink_to(data_dir)
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if words[2] == "mlp_sweep":
        runs = run_dir.find_runs(tmp_path / "outputs")
        assert runs and all(run_dir.read_status(run)["state"] == "finished" for run in runs)
