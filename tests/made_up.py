"""Run directories with known numbers, as a training would leave them."""

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlp_sweep import weights
from mlp_sweep.outcomes import ENDED
from mlp_sweep.properties import Activation
from mlp_sweep.run_dir import WEIGHTS
from mlp_sweep.weights import TrainedOn

NAN = float("nan")
LEAKY = Activation(has_slope=True, positively_homogeneous=True, family="leaky")  # a second activation with a slope


def write_run(
    folder: Path,
    activation: str = "relu",
    r: float = 1.0,
    seed: int = 0,
    *,
    val_accuracy: Sequence[float] = (0.1, 0.2),
    train_loss: Sequence[float] | None = None,
    outcome: str = "ok",
    lr: float = 0.01,
    model: str = "mlp",
    columns: dict[str, Sequence[float]] | None = None,
    status: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """One run, meant for 4 epochs unless set. A diverged one gets a last row of NaN after the figures given; one that
    exploded or collapsed has a last training loss (and dead units) as such a run has.

    names: of the classes, n00000000 and on; without them the run has no weights.
    """
    train_loss = [2.0 / (epoch + 1) for epoch in range(len(val_accuracy))] if train_loss is None else train_loss
    columns = columns or {}
    if outcome == "exploded":
        train_loss = [*train_loss[:-1], 1e6]
    if outcome == "collapsed":
        train_loss = [*train_loss[:-1], math.log(10)]
        columns = columns or {"dead_1": [0.6] * len(train_loss)}
    rows = [
        [epoch, loss, accuracy, loss, accuracy, *extra, 0.5]
        for epoch, (loss, accuracy, *extra) in enumerate(
            zip(train_loss, val_accuracy, *columns.values(), strict=True), start=1
        )
    ]
    if outcome == "diverged":
        rows.append([len(rows) + 1, *[NAN] * (4 + len(columns)), 0.5])
    header = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", *columns, "seconds"]
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(
        "".join(",".join(map(str, line)) + "\n" for line in [header, *rows]), encoding="utf-8"
    )
    resolved = {
        "dataset": {"name": "made_up", "num_classes": 10, "image_size": 8},
        "model": {"name": model, "hidden": [64, 128]},
        "activation": {"name": activation, "r": r},
        "optimizer": {"name": "sgd", "lr": lr, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
        "roll": 62, "seed": seed, "data_seed": 0, "epochs": 4, "batch_size": 64, "device": "auto",
        "matmul_precision": "highest", "engine": "auto", "data_dir": "data",
    } | (settings or {})  # fmt: skip
    ended = outcome in ENDED
    record = {
        "state": "finished" if ended else outcome,
        "outcome": outcome if ended else None,
        "reason": None if outcome == "ok" else f"made up to be {outcome}",
        "epoch": len(rows),
        "epochs": resolved["epochs"],
        "run_id": hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:16],
        "settings": resolved,
        "data": {"name": "made_up", "fingerprint": "f" * 16, "classes": 10, "train": 600, "val": 60},
        "versions": {"mlp_sweep": "0.1.0", "torch": "2.9.0"},
        "git_commit": "c" * 40,
        "device": "cpu (made up)",
        "engine": "stacked",
        "kernel": "addmm",
        "command": ["/somewhere/mlp_sweep/__main__.py", "--multirun", "activation=relu,scaled"],
    } | (status or {})  # fmt: skip
    (folder / "status.json").write_text(json.dumps(record), encoding="utf-8")
    if names:
        known = TrainedOn([f"n{i:08}" for i in range(len(names))], list(names), [100.0], [50.0])
        weights.write(folder / WEIGHTS, {"w": np.zeros(1, np.float32)}, record["run_id"], known)
    return folder


def write_sweep(folder: Path, cells: dict[str, list[dict[str, Any]]]) -> Path:
    """{"relu": [run of seed 0, run of seed 1, ...], "scaled 2": [...]} to run directories."""
    for name, runs in cells.items():
        activation, r = (name.split() + ["1"])[:2]
        for seed, run in enumerate(runs):
            write_run(folder / f"{name},seed={seed}", activation, float(r), seed, **run)
    return folder
