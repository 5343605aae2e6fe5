"""What a run leaves on disk, written and read here alone (config.yaml and its like are Hydra's).

metrics.csv       a row per finished epoch, appended and flushed
status.json       where it stands and what it was, replaced as a whole
checkpoint.safetensors   after each epoch, until the run ends; with that epoch's line of metrics.csv
weights.safetensors      of a run that ended, with what predicting takes (weights.py)
mlp_sweep.log
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import weights as weights_file
from .weights import TrainedOn

METRICS, STATUS, WEIGHTS, LOG = "metrics.csv", "status.json", "weights.safetensors", "mlp_sweep.log"
CHECKPOINT, LOCK = "checkpoint.safetensors", ".lock"
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")  # in every metrics.csv


class RunDir:
    """One run's directory, for the process that trains it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status: dict[str, Any] = {}
        self._mine = False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while training; ValueError tells who has it. The system lets go of it when the process ends."""
        from filelock import FileLock, Timeout  # like safetensors: a quarter second that --help need not wait

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            status = read_status(self.path) if is_run(self.path) else {}
            who = f"process {status.get('pid', '?')} on {status.get('host', '?')}"
            raise ValueError(f"{self.path}: in use, {who} is training it") from error
        self._mine = True
        try:
            yield
        finally:
            lock.release()

    def start(self, columns: list[str], lines: list[str], **status: Any) -> None:
        """Begins the records, or takes them up after these lines of metrics.csv (its header left out)."""
        replace(self.path / METRICS, "\n".join([",".join(columns), *lines, ""]).encode())
        rows = [dict(zip(columns, map(float, line.split(",")), strict=True)) for line in lines]
        final = {key: rows[-1][key] for key in FIGURES} if rows else None
        best = max((row["val_accuracy"] for row in rows), default=None)
        fresh = {"state": "running", "outcome": None, "reason": None, "epoch": len(rows), "finished": None}
        fresh |= {"final": final, "best_val_accuracy": best, "diverged_at": None, "started": _now()}
        self.set(**fresh, pid=os.getpid(), host=socket.gethostname(), **status)
        self.log(f"from epoch {len(rows) + 1}: {json.dumps(status.get('settings'))}")

    def append(self, cells: dict[str, Any]) -> None:
        with open(self.path / METRICS, "a") as file:
            file.write(_line(cells) + "\n")

    def checkpoint(self, state: dict[str, Any], epoch: int, cells: dict[str, Any]) -> None:
        """Where the run stands after an epoch (NumPy arrays by name), with that epoch's line of metrics.csv."""
        from safetensors.numpy import save

        replace(self.path / CHECKPOINT, save(state, {"epoch": str(epoch), "line": _line(cells)}))

    def set(self, **changes: Any) -> None:
        """Replaces status.json with these fields changed; a reader sees the old one or the new one, whole."""
        self.status |= changes
        replace(self.path / STATUS, (json.dumps(self.status, indent=1) + "\n").encode(), sync=False)

    def finish(
        self, outcome: str, reason: str | None, weights: dict[str, Any], trained_on: TrainedOn, keep_checkpoint: bool
    ) -> None:
        replace(self.path / WEIGHTS, weights_file.packed(weights, str(self.status.get("run_id")), trained_on))
        self.set(state="finished", outcome=outcome, reason=reason, finished=_now())
        if not keep_checkpoint:
            (self.path / CHECKPOINT).unlink(missing_ok=True)

    def stop(self, state: str, reason: str, trace: str | None = None) -> None:
        """Marks the run as failed or stopped, with the traceback in its log; leaves another's records alone.

        Where not even that can be written (a full disk), what is there stays readable.
        """
        if not self._mine:
            return
        with suppress(OSError):
            self.log(trace or reason, "ERROR" if trace else "INFO")
            never_started = {"outcome": None, "epoch": 0}
            self.set(**never_started | self.status | {"state": state, "reason": reason, "finished": _now()})

    def log(self, text: str, level: str = "INFO") -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with open(self.path / LOG, "a") as file:
            file.write(f"[{stamp}][{level}] {text}\n")


def replace(path: Path, data: bytes, sync: bool = True) -> None:
    """Puts a whole file in place of another: under another name first, on the disk, then renamed."""
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(partial, path)


@dataclass
class Standing:
    """How far a run has come on disk: its whole epochs' lines of metrics.csv, and the file to go on from."""

    lines: list[str]
    source: Path | None


def standing(path: Path) -> Standing:
    """From the checkpoint, or from the weights of a run that ended; a run that has neither starts anew."""
    from safetensors import SafetensorError, safe_open

    for name in (CHECKPOINT, WEIGHTS):
        try:
            lines = (path / METRICS).read_text().splitlines()[1:]
            with safe_open(path / name, "np") as file:
                metadata = file.metadata() or {}
        except (OSError, UnicodeDecodeError, SafetensorError):
            continue
        if name == WEIGHTS:
            return Standing(lines, path / name)
        epoch = int(metadata.get("epoch", 0))
        if epoch and len(lines) >= epoch - 1:  # the line may not have been reached, the checkpoint has it
            return Standing([*lines[: epoch - 1], metadata["line"]], path / name)
    return Standing([], None)


def load_state(source: Path) -> dict[str, Any]:
    """The arrays of a checkpoint or of weights, by name."""
    from safetensors.numpy import load_file

    return load_file(source)


def is_run(path: Path) -> bool:
    """A run is known by its files, never by its path."""
    return (path / STATUS).is_file()


def find_runs(path: Path) -> list[Path]:
    """The run directories at or below a path, sorted."""
    return sorted(Path(folder) for folder, _, files in os.walk(path) if STATUS in files)


def read_status(path: Path) -> dict[str, Any]:
    """ValueError where it is missing or no JSON object."""
    try:
        text = (path / STATUS).read_text(encoding="utf-8")
        status = json.loads(text)
        if "\\ud" in text:  # half a surrogate pair can be escaped in JSON but not be written out again
            status = json.loads(json.dumps(status, ensure_ascii=False).encode(errors="replace"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path / STATUS}: unreadable ({error})") from error
    if not isinstance(status, dict):
        raise ValueError(f"{path / STATUS}: no JSON object")
    return status


def read_metrics(path: Path) -> tuple[list[str], list[list[float]]]:
    """(columns, rows) of metrics.csv; a last line still being written is left out. ValueError where it is foreign."""
    try:
        text = (path / METRICS).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path / METRICS}: unreadable ({error})") from error
    header, *lines = text[: text.rfind("\n") + 1].splitlines() or [""]
    columns = header.split(",")
    if columns[0] != "epoch" or columns[-1] != "seconds" or len(set(columns)) < len(columns):
        raise ValueError(f"{path / METRICS}: not the records of a run (first line: {header[:60]!r})")
    try:
        rows = [[float(cell) for cell in line.split(",")] for line in lines]
    except ValueError as error:
        raise ValueError(f"{path / METRICS}: {error}") from error
    for epoch, row in enumerate(rows, start=1):
        if len(row) != len(columns):
            raise ValueError(
                f"{path / METRICS}: {len(row)} cells for {len(columns)} columns in the row of epoch {epoch}"
            )
        if row[0] != epoch:
            raise ValueError(f"{path / METRICS}: epoch {row[0]:g} where epoch {epoch} should be")
    return columns, rows


def summary(path: Path) -> dict[str, str]:
    """One run's row of the closing table, from its status.json."""
    status = read_status(path)
    final = status.get("final") or {}

    def figure(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{value:.{digits}f}"

    outcome = status.get("outcome") or status.get("state", "?")
    reason = status.get("reason")
    return {
        "run": path.name,
        "epoch": str(status.get("epoch", 0)),
        "train loss": figure(final.get("train_loss"), 3),
        "train acc": figure(final.get("train_accuracy"), 3),
        "val acc": figure(final.get("val_accuracy"), 3),
        "best val acc": figure(status.get("best_val_accuracy"), 3),
        "outcome": outcome if reason is None else f"{outcome}: {reason}",
    }


def _line(cells: dict[str, Any]) -> str:
    """repr is the shortest text that reads back as the same number."""
    return ",".join(repr(value) if isinstance(value, float) else str(value) for value in cells.values())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
