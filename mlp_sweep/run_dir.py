"""What a run leaves on disk, written and read here alone (config.yaml and its like are Hydra's).

metrics.csv       a row per finished epoch, appended and flushed
status.json       where it stands and what it was, replaced as a whole, sealed, with the checksum of metrics.csv
checkpoint.safetensors   after each epoch, until the run ends; with all lines of metrics.csv so far, sealed
weights.safetensors      of a run that ended, with what predicting takes (weights.py), sealed
mlp_sweep.log
"""

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import sealed, weights
from .config import one_line
from .weights import TrainedOn

METRICS, STATUS, WEIGHTS, LOG = "metrics.csv", "status.json", "weights.safetensors", "mlp_sweep.log"
CHECKPOINT, LOCK = "checkpoint.safetensors", ".lock"
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")  # in every metrics.csv


class RunDir:
    """One run's directory, for the process that trains it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status: dict[str, Any] = {}
        self.lines: list[str] = []  # of metrics.csv, the header left out
        self._digest = hashlib.sha256()  # of metrics.csv
        self._mine = False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while training; ValueError tells who has it. The system lets go of it when the process ends."""
        from filelock import FileLock, Timeout  # like safetensors: a quarter second that --help need not wait

        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK, timeout=0.5)  # s, for one who only notes what it was asked for
        try:
            lock.acquire()
        except Timeout as error:
            with suppress(ValueError):
                self.status = read_status(self.path)
            who = f"process {self.status.get('pid', '?')} on {self.status.get('host', '?')}"
            raise ValueError(f"{self.path}: in use, {who} is training it") from error
        self._mine = True
        with suppress(ValueError):  # what it was when another process left it, should this one fail before it starts
            self.status = read_status(self.path)
        try:
            yield
        finally:
            lock.release()

    def start(self, columns: list[str], standing: "Standing | None" = None, **status: Any) -> None:
        """Begins the records, or takes them up where the run stands."""
        self.status, standing = {}, standing or Standing()
        lines = standing.lines
        if not standing.source:
            for left in (CHECKPOINT, WEIGHTS):  # damaged, or of a run whose status was deleted: not to be gone on from
                (self.path / left).unlink(missing_ok=True)
        text = "\n".join([",".join(columns), *lines, ""]).encode()
        sealed.replace(self.path / METRICS, text)
        self.lines, self._digest = list(lines), hashlib.sha256(text)
        rows = [dict(zip(columns, map(float, line.split(",")), strict=True)) for line in lines]
        final = {key: rows[-1][key] if rows[-1][key] == rows[-1][key] else None for key in FIGURES} if rows else None
        finite = [row["val_accuracy"] for row in rows if row["val_accuracy"] == row["val_accuracy"]]
        fresh = {"state": "running", "outcome": None, "reason": None, "epoch": len(rows), "finished": None}
        fresh |= {"final": final, "best_val_accuracy": max(finite, default=None), "diverged_at": standing.diverged_at}
        fresh |= {"metrics_sha256": self._digest.hexdigest(), "started": _now()}
        self.set(**fresh, pid=os.getpid(), host=socket.gethostname(), **status)
        self.log(f"from epoch {len(rows) + 1}: {json.dumps(status.get('settings'))}")

    def append(self, cells: dict[str, Any], **status: Any) -> None:
        """An epoch's row, and what of the status changes with it."""
        line = _line(cells)
        with sealed.appending(self.path / METRICS) as file:
            file.write(f"{line}\n")
        self.lines.append(line)
        self._digest.update(f"{line}\n".encode())
        self.set(epoch=len(self.lines), metrics_sha256=self._digest.hexdigest(), **status)

    def checkpoint(self, state: dict[str, Any], cells: dict[str, Any], diverged_at: int | None) -> None:
        """Where the run stands after an epoch (NumPy arrays by name), with its lines of metrics.csv so far."""
        about = {"lines": [*self.lines, _line(cells)], "diverged_at": diverged_at}
        sealed.write_arrays(self.path / CHECKPOINT, state, about)

    def set(self, **changes: Any) -> None:
        """Replaces status.json with these fields changed; a reader sees the old one or the new one, whole."""
        self.status |= changes
        sealed.write_record(self.path / STATUS, self.status, sync=False)

    def finish(
        self, outcome: str, reason: str | None, arrays: dict[str, Any], trained_on: TrainedOn, stateful: bool
    ) -> None:
        """`stateful`: going on would need more than the weights, so the checkpoint stays."""
        weights.write(self.path / WEIGHTS, arrays, str(self.status.get("run_id")), trained_on)
        self.set(state="finished", outcome=outcome, reason=reason, finished=_now(), stateful=stateful)
        if not stateful:
            (self.path / CHECKPOINT).unlink(missing_ok=True)

    def stop(self, state: str, reason: str, trace: str | None = None) -> None:
        """Marks the run as failed or stopped, with the traceback in its log; leaves another's records alone.

        Where not even that can be written (a full disk), what is there stays readable.
        """
        if not self._mine:
            return
        with suppress(OSError):
            self.log(trace or reason, "ERROR" if trace else "INFO")
        with suppress(OSError):
            never_started = {"outcome": None, "epoch": 0}
            self.set(**never_started | self.status | {"state": state, "reason": reason, "finished": _now()})

    def log(self, text: str, level: str = "INFO") -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with sealed.appending(self.path / LOG) as file:
            file.write(f"[{stamp}][{level}] {text}\n")


@dataclass
class Standing:
    """How far a run has come on disk: its whole epochs' lines of metrics.csv, and the file to go on from."""

    lines: list[str] = field(default_factory=list)
    source: Path | None = None
    diverged_at: int | None = None  # the step of the first epoch without figures
    ended: bool = False  # trained to the end that it was meant for, and all that it left is whole
    damage: list[str] = field(default_factory=list)  # what was found changed on disk, a line each


def standing(path: Path, status: dict[str, Any] | None = None) -> Standing:
    """From the checkpoint, or from the weights of a run that ended; a run that has neither starts anew."""
    found, status = Standing(), read_status(path) if status is None else status
    if status.get("state") == "finished":
        try:
            sealed.read_arrays(path / WEIGHTS)
            text = _checked(path, status)
            found.ended = True
            if not status.get("stateful"):
                found.lines, found.source = text.splitlines()[1:], path / WEIGHTS
                found.diverged_at = status.get("diverged_at")
                return found
        except (ValueError, OSError) as error:
            found.damage.append(one_line(error))
    try:
        _, about = sealed.read_arrays(path / CHECKPOINT)
        found.lines, found.source, found.diverged_at = list(about["lines"]), path / CHECKPOINT, about["diverged_at"]
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        found.damage.append(str(error))
    return found


def load_state(source: Path) -> dict[str, Any]:
    """The arrays of a checkpoint or of weights, by name."""
    return sealed.read_arrays(source)[0]


def is_run(path: Path) -> bool:
    """A run is known by its files, never by its path."""
    return (path / STATUS).is_file()


def find_runs(path: Path) -> list[Path]:
    """The run directories at or below a path, sorted."""
    return sorted(Path(folder) for folder, _, files in os.walk(path) if STATUS in files)


def read_status(path: Path) -> dict[str, Any]:
    """As it is written, but `stopped` where a run of this machine was killed before it could say so.

    ValueError where it is missing, no JSON object, or was changed on disk.
    """
    status = sealed.read_record(path / STATUS)
    if status.get("state") in ("running", "waiting") and gone(status):
        status |= {"state": "stopped", "reason": f"process {status['pid']} was killed"}
    return status


def gone(record: dict[str, Any]) -> bool:
    """Whether the process of this machine that a record names has ended."""
    pid = record.get("pid")
    if record.get("host") != socket.gethostname() or os.name != "posix" or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, or no process number
        return False
    return False


def stamp(path: Path) -> bytes:
    """What tells whether a directory's status has been replaced since."""
    try:
        return sealed.read(path / STATUS)
    except OSError:
        return b""


def read_metrics(path: Path, status: dict[str, Any] | None = None) -> tuple[list[str], list[list[float]]]:
    """(columns, rows) of metrics.csv; a last line still being written is left out.

    ValueError where it is foreign, or not what the status (read before it, where it is given) says that was written.
    """
    text = _checked(path, status or {})
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


def _checked(path: Path, status: dict[str, Any]) -> str:
    """The text of metrics.csv, its lines up to the status's epoch compared with the status's checksum."""
    try:
        data = sealed.read(path / METRICS)
        text = data.decode()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path / METRICS}: unreadable ({error})") from error
    epoch, written = status.get("epoch"), status.get("metrics_sha256")
    if written is not None and isinstance(epoch, int):
        lines = data.splitlines(keepends=True)[: epoch + 1]
        if len(lines) <= epoch:
            raise ValueError(f"{path / METRICS}: truncated, {max(len(lines) - 1, 0)} of {epoch} epochs are in it")
        if hashlib.sha256(b"".join(lines)).hexdigest() != written:
            raise ValueError(f"{path / METRICS}: {sealed.DAMAGED}")
    return text


def _line(cells: dict[str, Any]) -> str:
    """repr is the shortest text that reads back as the same number."""
    return ",".join(repr(value) if isinstance(value, float) else str(value) for value in cells.values())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
