"""Jobs to trained runs: one job or a thousand take the same road."""

import dataclasses
import functools
import math
import platform
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__, config, console, model
from .data import Arrays, Batches, load
from .engines import ReferenceEngine
from .run_dir import RunDir
from .train import Row, fit

COLLAPSED_LOSS = 0.95  # of ln C: a run that ends above it has learned next to nothing ...
COLLAPSED_DEAD = 0.5  # ... and has collapsed if this share of some hidden layer's units is dead


@dataclass
class Job:
    """A run and the directory that its records go to."""

    run: config.Run
    path: Path


@dataclass
class Result:
    """How a job ended. `objective`: final validation accuracy, 0 where there is none (sweepers need a number)."""

    job: Job
    outcome: str | None
    objective: float
    error: Exception | None = None


def train(jobs: list[Job]) -> list[Result]:
    """Trains every job and records it in its directory; a job that fails does not keep the others from training."""
    progress = console.Progress()
    return [_train_group([job], progress)[0] for job in jobs]


def _train_group(jobs: list[Job], progress: console.Progress) -> list[Result]:
    records = [RunDir(job.path) for job in jobs]
    try:
        return _fit_group(jobs, records, progress)
    except Exception as error:
        for record in records:
            if record.status.get("state") != "finished":
                record.fail(str(error), traceback.format_exc())
        return [Result(job, None, 0.0, error) for job in jobs]


def _fit_group(jobs: list[Job], records: list[RunDir], progress: console.Progress) -> list[Result]:
    run = jobs[0].run
    device = find_device(run.device)
    torch.set_float32_matmul_precision(run.matmul_precision)
    arrays = load(run.dataset, run.data_seed, run.data_dir, progress)
    train_split, val_split = (
        Batches(x, y, arrays.mean_C, arrays.std_C, run.batch_size, device)
        for x, y in ((arrays.train_x, arrays.train_y), (arrays.val_x, arrays.val_y))
    )
    features, classes = train_split.x_ND.shape[1], len(arrays.classes)
    engine = ReferenceEngine(model.build(run, features, classes), run.optimizer, device)
    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    columns += [f"dead_{i + 1}" for i in range(len(run.model.hidden))] + ["seconds"]
    for job, record in zip(jobs, records, strict=True):
        record.start(columns, **_about(job.run, arrays, engine, device))
        record.log(f"{job.run}")
    samples = train_split.count * run.epochs
    rows: list[Row | None] = [None] * len(jobs)
    name = jobs[0].path.name if len(jobs) == 1 else f"{len(jobs)} runs"
    with progress.task(name, samples, "samples") as bar:
        for epoch_rows in fit(engine, train_split, val_split, run.data_seed, run.epochs, bar.advance):
            for m, row in enumerate(epoch_rows):
                rows[m] = row
                _record(records[m], row)
            note = f"epoch {epoch_rows[0].epoch}/{run.epochs}"
            bar.advance(0, note)
            bar.say(note)
            if all(row.diverged_at for row in epoch_rows):
                break
    results = []
    for m, (job, record, row) in enumerate(zip(jobs, records, rows, strict=True)):
        outcome, reason = judge(row, classes)
        weights = {key: value.cpu().numpy() for key, value in engine.weights(m).items()}
        record.save_weights(weights, {"run_id": record.status["run_id"]})
        record.finish(outcome, reason)
        record.log(outcome if reason is None else f"{outcome}: {reason}")
        accuracy = row.val_accuracy if row else 0.0
        results.append(Result(job, outcome, 0.0 if math.isnan(accuracy) else accuracy))
    return results


def _record(record: RunDir, row: Row) -> None:
    figures = {"train_loss": row.train_loss, "train_accuracy": row.train_accuracy}
    figures |= {"val_loss": row.val_loss, "val_accuracy": row.val_accuracy}
    dead = {f"dead_{i + 1}": share for i, share in enumerate(row.dead)}
    record.append({"epoch": row.epoch, **figures, **dead, "seconds": round(row.seconds, 4)})
    best = record.status.get("best_val_accuracy")
    if not math.isnan(row.val_accuracy):
        best = max(row.val_accuracy, best or 0.0)
    finite = {key: None if math.isnan(value) else value for key, value in figures.items()}  # JSON has no NaN
    record.set(epoch=row.epoch, final=finite, best_val_accuracy=best)
    record.log(f"epoch {row.epoch}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


def judge(row: Row | None, classes: int) -> tuple[str, str | None]:
    """(outcome, reason) of a run from its last row: ok, diverged or collapsed."""
    if row is None:
        return "ok", None
    if row.diverged_at is not None:
        return "diverged", f"loss not finite at step {row.diverged_at} of epoch {row.epoch}"
    worst = max(row.dead, default=0.0)
    if row.train_loss > COLLAPSED_LOSS * math.log(classes) and worst >= COLLAPSED_DEAD:
        return "collapsed", f"training loss {row.train_loss:.2f} near ln C, {worst:.0%} of a hidden layer's units dead"
    return "ok", None


def find_device(name: str) -> torch.device:
    """`auto` is CUDA, then MPS, then the CPU. ValueError where the device named is not there."""
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there.insert(0, "cuda")
    if name == "auto":
        name = there[0]
    if name not in there:
        raise ValueError(f"device={name}: not on this machine (here: {', '.join(there)})")
    return torch.device(name)


def _about(run: config.Run, arrays: Arrays, engine: ReferenceEngine, device: torch.device) -> dict[str, Any]:
    """What status.json says of a run besides how it went."""
    return {
        "run_id": dataclasses.replace(run, device=device.type, engine=engine.name).id(arrays.fingerprint),
        "settings": dataclasses.asdict(run),
        "epochs": run.epochs,
        "data": {
            "name": run.dataset.name,
            "fingerprint": arrays.fingerprint,
            "classes": len(arrays.classes),
            "train": len(arrays.train_y),
            "val": len(arrays.val_y),
        },
        "members": engine.members,
        "engine": engine.name,
        "kernel": engine.kernel,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"{device.type} ({processor()})",
        "threads": torch.get_num_threads(),
        "versions": {
            "mlp_sweep": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "git_commit": git_commit(),
        "command": sys.argv,
    }


@functools.cache
def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, marked when files differ; None outside a checkout."""
    if not (Path(__file__).parent.parent / ".git").exists():
        return None
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
