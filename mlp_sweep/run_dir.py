"""What a run leaves on disk, written and read here alone (config.yaml and its like are Hydra's).

metrics.csv       a row per finished epoch, appended and flushed
status.json       its state and what it was, replaced as a whole, with a checksum of itself and of metrics.csv
checkpoint.safetensors   after each epoch, until the run ends, with all lines of metrics.csv so far and a checksum
weights.safetensors      of a run that ended, with its epoch and what predicting takes (weights.py), and a checksum
mlp_sweep.log

Where a run stands is decided by its checkpoint and its weights, never by its state: docs/reliability.md has the table
of states and commands.
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

from . import heartbeat, migrations, sealed, weights
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
        self._started = False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while training; ValueError names the process that has it. The system frees it when the process ends."""
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
        try:
            self.status = read_status(self.path)  # as another process left it, should this one fail before it starts
        except sealed.Unreadable:
            lock.release()
            raise
        except ValueError:  # damaged, which whoever planned the run has reported
            pass
        self._mine = True
        heartbeat.hold(self.path / LOCK)
        try:
            yield
        finally:
            heartbeat.release(self.path / LOCK)
            lock.release()

    def start(self, columns: list[str], standing: "Standing | None" = None, **status: Any) -> None:
        """Begins the records, or continues them where the run stands. ValueError: it cannot go on from there."""
        standing = standing or Standing()
        lines = standing.lines
        cells = len(lines[0].split(",")) if lines else len(columns)
        if cells != len(columns):
            raise ValueError(
                f"{self.path / METRICS}: {cells} columns there, {len(columns)} now; it cannot be continued"
            )
        if not standing.source:
            for left in (CHECKPOINT, WEIGHTS):  # damaged, or of a run whose status was deleted: not to be resumed from
                (self.path / left).unlink(missing_ok=True)
        elif standing.source == self.path / WEIGHTS:  # of record version 1 they do not name their epoch, which the
            weights.add_epoch(standing.source, len(lines))  # longer metrics.csv to come would no longer tell
        self.status, self._started = {}, True
        text = "\n".join([",".join(columns), *lines, ""]).encode()
        sealed.replace(self.path / METRICS, text)
        self.lines, self._digest = list(lines), hashlib.sha256(text)
        rows = [dict(zip(columns, map(float, line.split(",")), strict=True)) for line in lines]
        final = {key: rows[-1][key] if rows[-1][key] == rows[-1][key] else None for key in FIGURES} if rows else None
        finite = [row["val_accuracy"] for row in rows if row["val_accuracy"] == row["val_accuracy"]]
        fresh = {"state": "running", "outcome": None, "reason": None, "epoch": len(rows), "finished": None}
        fresh |= {"final": final, "best_val_accuracy": max(finite, default=None), "diverged_at": standing.diverged_at}
        fresh |= {"metrics_sha256": self._digest.hexdigest(), "started": _now()}
        self.set(**migrations.stamped(fresh), **process(), **status)
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
        about["run_id"] = self.status.get("run_id")
        sealed.write_arrays(self.path / CHECKPOINT, state, about)

    def set(self, **changes: Any) -> None:
        """Replaces status.json with these fields changed; a reader sees the old one or the new one, whole."""
        self.status |= changes
        sealed.write_record(self.path / STATUS, self.status, sync=False)

    def finish(
        self, outcome: str, reason: str | None, arrays: dict[str, Any], trained_on: TrainedOn, stateful: bool
    ) -> None:
        """`stateful`: going on would need more than the weights, so the checkpoint stays."""
        about = {"epoch": len(self.lines), "diverged_at": self.status.get("diverged_at"), "stateful": stateful}
        weights.write(self.path / WEIGHTS, arrays, str(self.status.get("run_id")), trained_on, about)
        self.set(state="finished", outcome=outcome, reason=reason, finished=_now(), stateful=stateful)
        if not stateful:
            (self.path / CHECKPOINT).unlink(missing_ok=True)

    def stop(self, state: str, reason: str, trace: str | None = None) -> None:
        """Marks the run as failed or stopped, with the traceback in its log; leaves another's records alone.

        A finished run that was to train more epochs, and did not come to begin, stays finished.
        Where not even that can be written (a full disk), what is there stays readable.
        """
        if not self._mine:
            return
        with suppress(OSError):
            self.log(trace or reason, "ERROR" if trace else "INFO")
        if not self._started and self.status.get("state") == "finished":
            return
        with suppress(OSError):
            never_started = migrations.stamped({"epoch": 0})
            ended = {"state": state, "outcome": None, "reason": reason, "finished": _now()}
            self.set(**never_started | self.status | ended)

    def log(self, text: str, level: str = "INFO") -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with sealed.appending(self.path / LOG) as file:
            file.write(f"[{stamp}][{level}] {text}\n")


@dataclass
class Standing:
    """How far a run has come on disk: its finished epochs' lines of metrics.csv, and the file to continue from."""

    lines: list[str] = field(default_factory=list)
    source: Path | None = None
    diverged_at: int | None = None  # the step of the first epoch without figures
    run_id: str | None = None  # of the run that left the file
    ended: bool = False  # its last training ended in order, and all files that it left are whole
    damage: list[str] = field(default_factory=list)  # what was found changed on disk, a line each


def standing(path: Path, status: dict[str, Any] | None = None) -> Standing:
    """From the checkpoint or the weights, whichever came further; a run that has neither starts at epoch 1.

    status: {} where status.json is missing; the lines of metrics.csv are then trusted as they are.
    """
    status = read_status(path) if status is None else status
    damage: list[str] = []
    finished = status.get("state") == "finished"
    of_weights = _from_weights(path, status, damage) if finished or (path / WEIGHTS).exists() else None
    found = _from_checkpoint(path, damage) or Standing()
    ended = finished and of_weights is not None
    if of_weights and of_weights.source and len(of_weights.lines) >= len(found.lines):
        found = of_weights
    if ended and not found.source and not damage and not (path / CHECKPOINT).exists():
        damage.append(f"{path / CHECKPOINT}: missing, and the weights alone do not hold the optimizer's state")
    found.ended, found.damage = ended, damage
    return found


def _from_checkpoint(path: Path, damage: list[str]) -> Standing | None:
    try:
        _, about = sealed.read_arrays(path / CHECKPOINT)
        return Standing(list(about["lines"]), path / CHECKPOINT, about["diverged_at"], about.get("run_id"))
    except FileNotFoundError:
        return None
    except sealed.Unreadable:
        raise
    except (ValueError, KeyError, TypeError) as error:
        damage.append(str(error))
        return None


def _from_weights(path: Path, status: dict[str, Any], damage: list[str]) -> Standing | None:
    """The end that a run came to, perhaps before it was given more epochs; without a source where it is stateful."""
    try:
        _, about = sealed.read_arrays(path / WEIGHTS)
        header, *lines = _checked(path, status).splitlines() or [""]
        epoch = about.get("epoch", status.get("epoch", len(lines)))  # version 1 has it in the status alone
        if not isinstance(epoch, int) or len(lines) < epoch:
            raise ValueError(f"{path / METRICS}: truncated, {len(lines)} of {epoch} epochs are in it")
        if "epoch" not in about and status.get("state") != "finished" and (path / CHECKPOINT).exists():
            return None  # more epochs have followed, and these weights do not name theirs
        momentum = ((status.get("settings") or {}).get("optimizer") or {}).get("momentum", 0)
        stateful = about.get("stateful", status.get("stateful", momentum != 0))
        diverged_at = about.get("diverged_at", status.get("diverged_at"))
        source = None if stateful else path / WEIGHTS
        return Standing(lines[:epoch], source, diverged_at, str(about.get("run_id")))
    except sealed.Unreadable:
        raise
    except (ValueError, FileNotFoundError, AttributeError) as error:
        damage.append(one_line(error))
        return None


def load_state(source: Path) -> dict[str, Any]:
    """The arrays of a checkpoint or of weights, by name."""
    return sealed.read_arrays(source)[0]


def is_run(path: Path) -> bool:
    """A run is known by its files, never by its path."""
    return (path / STATUS).is_file()


def find_runs(path: Path) -> list[Path]:
    """The run directories at or below a path, sorted."""
    return sorted(Path(folder) for folder, _, files in walk(path) if STATUS in files)


def walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk, whose silence about folders that it cannot list would make runs disappear. OSError names the folder."""

    def failed(error: OSError) -> None:
        if error.errno not in sealed.ABSENT:  # removed meanwhile, or never there
            raise error

    yield from os.walk(path, onerror=failed)


def read_status(path: Path) -> dict[str, Any]:
    """Brought up to date, and `stopped` where the process was killed before it could write so.

    ValueError where it is missing, no JSON object, of a newer version, or was changed on disk.
    """
    status = sealed.read_record(path / STATUS)
    status["settings"] = migrations.settings(status.get("settings"), migrations.version(status, path / STATUS))
    if status["settings"] is None:
        del status["settings"]
    if status.get("state") in ("running", "waiting") and gone(status, path):
        status |= {"state": "stopped", "reason": _how_gone(status)}
    return status


def process() -> dict[str, Any]:
    """Who writes a record, as `gone` reads it."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "heartbeat": heartbeat.EVERY}


def gone(record: dict[str, Any], path: Path) -> bool:
    """Whether the process that a record in a directory names has ended: asked of the system, or by its heartbeat."""
    pid = record.get("pid")
    if record.get("host") != socket.gethostname() or os.name != "posix" or not isinstance(pid, int):
        return heartbeat.ceased(path / LOCK, record.get("heartbeat"))
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # another user's, or no process number
        return False
    return False


def _how_gone(status: dict[str, Any]) -> str:
    if status.get("host") == socket.gethostname():
        return f"process {status.get('pid')} was killed"
    minutes = heartbeat.MISSED * heartbeat.EVERY / 60
    return f"process {status.get('pid')} on {status.get('host')} has given no sign of life for {minutes:.0f} minutes"


def stamp(path: Path) -> bytes:
    """What tells whether a directory's status has been replaced since; empty where there is none."""
    try:
        return sealed.read(path / STATUS)
    except FileNotFoundError:
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
    except OSError as error:
        raise sealed.unreadable(path / METRICS, error) from error
    except ValueError as error:
        raise ValueError(f"{path / METRICS}: unreadable ({error})") from error
    epoch, written = status.get("epoch"), status.get("metrics_sha256")
    if written is not None and isinstance(epoch, int):
        lines = data.splitlines(keepends=True)[: epoch + 1]
        if len(lines) <= epoch:
            raise ValueError(f"{path / METRICS}: truncated, {max(len(lines) - 1, 0)} of {epoch} epochs are in it")
        if hashlib.sha256(b"".join(lines)).hexdigest() != written:
            raise ValueError(f"{path / METRICS}: {sealed.DAMAGED}")
    return text


def summary(path: Path, status: dict[str, Any]) -> dict[str, str]:
    """One run's row of the closing table."""
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
