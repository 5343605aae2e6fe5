"""Jobs to trained runs: one job or a thousand take the same road."""

import dataclasses
import functools
import math
import platform
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import __version__, config, console, engines
from .data import Arrays, Batches, load
from .plan import Stack
from .run_dir import RunDir
from .train import Row, fit

COLLAPSED_LOSS = 0.95  # of ln C: a run that ends above it has learned next to nothing ...
COLLAPSED_DEAD = 0.5  # ... and has collapsed if this share of some hidden layer's units is dead


@dataclass
class Result:
    """How a job ended. `objective`: final validation accuracy, 0 where there is none (sweepers need a number)."""

    path: Path
    outcome: str | None = None
    objective: float = 0.0
    error: Exception | None = None


@dataclass
class Started:
    """What a stack's records begin with: the columns of metrics.csv, and each member's status."""

    columns: list[str]
    about: list[dict[str, Any]]


@dataclass
class Ended:
    """A member's last word; row is None where no epoch was asked for."""

    member: int
    row: Row | None
    weights: dict[str, np.ndarray]
    classes: int


Event = Started | Row | Ended


def events(stack: Stack, progress: console.Progress, bar: console.Bar) -> Iterator[Event]:
    """Trains a stack; yields what there is to record as it comes."""
    run = stack.run
    device = find_device(run.device)
    torch.set_float32_matmul_precision(run.matmul_precision)
    arrays = load(run.dataset, run.data_seed, run.data_dir, progress)
    train_split, val_split = (
        Batches(x, y, arrays.mean_C, arrays.std_C, run.batch_size, device)
        for x, y in ((arrays.train_x, arrays.train_y), (arrays.val_x, arrays.val_y))
    )
    features, classes = train_split.x_ND.shape[1], len(arrays.classes)
    runs = [member.run for member in stack.members]
    engine = engines.build(runs, stack.stackable, features, classes, device)
    columns = ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    columns += [f"dead_{i + 1}" for i in range(len(run.model.hidden))] + ["seconds"]
    yield Started(columns, [_about(member, arrays, engine, device) for member in runs])

    def weights(slot: int) -> dict[str, np.ndarray]:
        return {key: value.cpu().numpy().copy() for key, value in engine.weights(slot).items()}

    bar.total(train_split.count * run.epochs)
    for rows in fit(engine, train_split, val_split, run.data_seed, run.epochs, bar.advance):
        for row in rows:
            yield row
            if row.diverged_at or row.epoch == run.epochs:
                yield Ended(row.member, row, weights(row.slot), classes)
        bar.say(f"epoch {rows[0].epoch}/{run.epochs}")
    if run.epochs == 0:
        for member in range(engine.members):
            yield Ended(member, None, weights(member), classes)


def record(stack: Stack, happenings: Iterator[Event]) -> Iterator[Result]:
    """Writes what happens to the members' directories, equal jobs' alike; yields each job's result as it ends."""
    records = [[RunDir(path) for path in member.paths] for member in stack.members]
    left = set(range(len(records)))
    try:
        for event in happenings:
            match event:
                case Started():
                    for member, about in zip(records, event.about, strict=True):
                        for number, directory in enumerate(member):
                            same_as = member[0].path.name if number else None
                            directory.start(event.columns, **about, same_as=same_as)
                case Row():
                    for directory in records[event.member]:
                        _record_epoch(directory, event)
                case Ended():
                    for directory in records[event.member]:
                        yield _record_end(directory, event)
                    left.discard(event.member)
    except Exception as error:
        for member in left:
            for directory in records[member]:
                if "settings" not in directory.status:  # failed before it started
                    directory.status["settings"] = dataclasses.asdict(stack.members[member].run)
                directory.fail(str(error), traceback.format_exc())
                yield Result(directory.path, error=error)


def _record_epoch(directory: RunDir, row: Row) -> None:
    figures = {"train_loss": row.train_loss, "train_accuracy": row.train_accuracy}
    figures |= {"val_loss": row.val_loss, "val_accuracy": row.val_accuracy}
    dead = {f"dead_{i + 1}": share for i, share in enumerate(row.dead)}
    directory.append({"epoch": row.epoch, **figures, **dead, "seconds": round(row.seconds, 4)})
    best = directory.status.get("best_val_accuracy")
    if row.diverged_at is None:
        best = max(row.val_accuracy, best or 0.0)
    finite = {key: None if math.isnan(value) else value for key, value in figures.items()}  # JSON has no NaN
    directory.set(epoch=row.epoch, final=finite, best_val_accuracy=best)
    directory.log(f"epoch {row.epoch}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))


def _record_end(directory: RunDir, end: Ended) -> Result:
    outcome, reason = judge(end.row, end.classes)
    directory.save_weights(end.weights, {"run_id": directory.status["run_id"]})
    directory.finish(outcome, reason)
    directory.log(outcome if reason is None else f"{outcome}: {reason}")
    accuracy = end.row.val_accuracy if end.row else 0.0
    return Result(directory.path, outcome, 0.0 if math.isnan(accuracy) else accuracy)


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


def _about(run: config.Run, arrays: Arrays, engine: engines.Engine, device: torch.device) -> dict[str, Any]:
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
