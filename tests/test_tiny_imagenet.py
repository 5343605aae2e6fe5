"""The experiment end to end, on real ImageNet pictures: runs where MLP_SWEEP_TINY_IMAGENET names the archive."""

import os
from pathlib import Path

import pytest
from test_cli import command

from mlp_sweep import run_dir

ARCHIVE = os.environ.get("MLP_SWEEP_TINY_IMAGENET", "")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ARCHIVE, reason="MLP_SWEEP_TINY_IMAGENET names no archive")]


def test_relu_against_scaled_relu(tmp_path: Path):
    """Three epochs: relu falls, r = 2 is below it from the first epoch on, r = 62 leaves the finite numbers in it."""
    done = command(
        tmp_path, "--multirun", "activation=relu,scaled", "activation.r=2,62", "dataset=tiny_imagenet",
        f"dataset.root={ARCHIVE}", "epochs=3", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = {run.name.replace(",epochs=3", "").replace(",dataset=tiny_imagenet", ""): run
            for run in run_dir.find_runs(tmp_path / "s")}  # fmt: skip
    assert len(runs) == 4
    loss = {name: [row[1] for row in run_dir.read_metrics(run)[1]] for name, run in runs.items()}
    relu, two = loss["activation=relu,activation.r=2"], loss["activation=scaled,activation.r=2"]
    assert relu[0] > relu[1] > relu[2]
    assert all(b < a for a, b in zip(relu, two, strict=True))
    status = run_dir.read_status(runs["activation=scaled,activation.r=62"])
    assert status["outcome"] == "diverged" and status["epoch"] == 1 and "step" in status["reason"]
    assert status["data"]["classes"] == 72 and status["data"]["train"] == 36000 and status["data"]["val"] == 3600
    for name in ("training_loss", "train_accuracy", "val_accuracy"):
        assert (tmp_path / "s" / "report" / f"{name}.png").stat().st_size > 10_000
