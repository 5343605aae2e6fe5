"""The experiment end to end, on real ImageNet pictures: runs where MLP_SWEEP_TINY_IMAGENET names the archive."""

import os
from pathlib import Path

import pytest
from test_cli import command

from mlp_sweep import run_dir

ARCHIVE = os.environ.get("MLP_SWEEP_TINY_IMAGENET", "")
# Of the pictures behind the README's figures: the published archive gives the same as one cut to these classes.
FINGERPRINT = "2db38c11e469062d52a12c187b64f3a1aee878f445c981ba205c1c626e10537f"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ARCHIVE, reason="MLP_SWEEP_TINY_IMAGENET names no archive")]


def test_relu_against_scaled_relu(tmp_path: Path):
    """Three epochs: the loss of relu falls, that of r = 2 is below it throughout, and that of r = 62 becomes NaN."""
    done = command(
        tmp_path, "--multirun", "experiment=assignment", "activation.r=2,62", "seed=0",
        f"dataset.root={ARCHIVE}", "epochs=3", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = {run.name.split(",seed=")[0]: run for run in run_dir.find_runs(tmp_path / "s")}
    assert len(runs) == 4
    loss = {name: [row[1] for row in run_dir.read_metrics(run)[1]] for name, run in runs.items()}
    relu, two = loss["activation=relu,activation.r=2"], loss["activation=scaled,activation.r=2"]
    assert relu[0] > relu[1] > relu[2]
    assert all(b < a for a, b in zip(relu, two, strict=True))
    status = run_dir.read_status(runs["activation=scaled,activation.r=62"])
    assert status["outcome"] == "diverged" and status["epoch"] == 1 and "step" in status["reason"]
    assert status["data"]["fingerprint"] == FINGERPRINT
    assert status["data"]["classes"] == 72 and status["data"]["train"] == 36000 and status["data"]["val"] == 3600
    for name in ("training_loss", "train_accuracy", "val_accuracy"):
        assert (tmp_path / "s" / "report" / f"{name}.png").stat().st_size > 10_000
