"""The first step of a process under load: MKL resolves each of its functions at the first call."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

FORKS = 150
STORM = f"""
import hashlib, os, torch
from conftest import make_run
from mlp_sweep.engines import StackedEngine

runs = [make_run(f"seed={{seed}}") for seed in range(4)]
x_BD, y_B = torch.randn(64, 192, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 12
for _ in range({FORKS}):  # forks, since imports would take longer than all else
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        engine = StackedEngine(runs, 192, 12, torch.device("cpu"))
        engine.step(x_BD, y_B)
        weights = b"".join(w.numpy().tobytes() for m in range(4) for w in engine.weights(m).values())
        print(hashlib.sha256(weights).hexdigest(), flush=True)
        os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks after torch is imported")
def test_the_first_step_of_a_process_gives_the_same_bits_whatever_else_runs():
    storms = [
        subprocess.Popen([sys.executable, "-c", STORM], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    steps = Counter(line for storm in storms for line in storm.communicate(timeout=600)[0].split())
    assert list(steps.values()) == [4 * FORKS]
