"""What a run leaves on disk, written and read here alone (config.yaml and its like are Hydra's).

metrics.csv       a row per finished epoch, appended and flushed
status.json       where it stands and what it was, replaced as a whole
weights.safetensors
mlp_sweep.log
"""

import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

METRICS, STATUS, WEIGHTS, LOG = "metrics.csv", "status.json", "weights.safetensors", "mlp_sweep.log"
FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")  # in every metrics.csv


class RunDir:
    """One run's directory, for the process that trains it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status: dict[str, Any] = {}

    def start(self, columns: list[str], **status: Any) -> None:
        """Makes the records; ValueError where another run's are already, which are left as they are."""
        refuse_used(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / METRICS, "x") as file:
            file.write(",".join(columns) + "\n")
        self.set(state="running", outcome=None, reason=None, epoch=0, started=_now(), finished=None, **status)

    def append(self, row: dict[str, Any]) -> None:
        with open(self.path / METRICS, "a") as file:
            file.write(",".join(_cell(value) for value in row.values()) + "\n")

    def set(self, **changes: Any) -> None:
        """Replaces status.json with these fields changed; a reader sees the old one or the new one, whole."""
        self.status |= changes
        partial = self.path / f"{STATUS}.partial"
        partial.write_text(json.dumps(self.status, indent=1) + "\n")
        os.replace(partial, self.path / STATUS)

    def finish(self, outcome: str, reason: str | None, **changes: Any) -> None:
        self.set(state="finished", outcome=outcome, reason=reason, finished=_now(), **changes)

    def fail(self, reason: str, trace: str) -> None:
        """Marks the run as failed, with the traceback in its log."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.log(trace, "ERROR")
        self.set(state="failed", reason=reason, finished=_now())

    def save_weights(self, weights: dict[str, Any], metadata: dict[str, str]) -> None:
        """NumPy arrays by parameter name, as safetensors."""
        from safetensors.numpy import save_file

        partial = self.path / f"{WEIGHTS}.partial"
        save_file(weights, partial, metadata)
        os.replace(partial, self.path / WEIGHTS)

    def log(self, text: str, level: str = "INFO") -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with open(self.path / LOG, "a") as file:
            file.write(f"[{stamp}][{level}] {text}\n")


def refuse_used(path: Path) -> None:
    """ValueError where a run's records already lie."""
    if (path / METRICS).exists():
        raise ValueError(f"{path}: holds the records of a run already; choose another hydra.run.dir or hydra.sweep.dir")


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
    named = set(columns)
    if columns[0] != "epoch" or columns[-1] != "seconds" or not named >= set(FIGURES) or len(named) < len(columns):
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


def _cell(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)  # repr: the shortest text that reads back the same


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
