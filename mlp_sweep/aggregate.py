"""Run directories to tidy frames: a row per run and epoch, a row per run, and what tells the runs apart.

Reads files only and imports no torch, so a report can be made anew anywhere at any time.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from . import run_dir
from .config import WITH_SLOPE

NOT_SETTINGS = ("roll", "data_dir", "dataset.root", "dataset.val_root")  # act through others, or only say where


@dataclass
class Sweep:
    """What some directories hold. `runs`: a row per run; `epochs`: a row per run and epoch, with the same settings."""

    runs: pd.DataFrame
    epochs: pd.DataFrame
    varied: list[str]  # the settings that differ, seeds apart: what makes a configuration
    left_out: list[tuple[Path, str]]  # what was not read, and why


def read(paths: list[Path]) -> Sweep:
    """Every run at or below the paths. ValueError where there is none that can be read."""
    runs: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    left_out: list[tuple[Path, str]] = []
    folders: dict[Path, None] = {}
    for path in paths:
        found = run_dir.find_runs(path)
        folders |= dict.fromkeys(folder.resolve() for folder in found)
        if not found:
            left_out.append((path, "no run in it" if path.exists() else "no such file or folder"))
    for folder in folders:
        try:
            status = run_dir.read_status(folder)
            run = _run_row(folder, status)
            columns, rows = run_dir.read_metrics(folder) if status.get("run_id") else (["epoch"], [])
        except ValueError as error:
            left_out.append((folder, str(error)))
            continue
        runs.append(run)
        tables.append(pd.DataFrame(rows, columns=columns).assign(path=str(folder)))
    if not runs:
        raise ValueError("; ".join(f"{path}: {why}" for path, why in left_out))
    frame = pd.DataFrame(runs)
    settings = [c for c in frame if "." in c or c in ("seed", "data_seed", "epochs", "batch_size", "matmul_precision")]
    differ = [c for c in settings if frame[c].map(str).nunique() > 1]
    varied = [c for c in differ if c not in NOT_SETTINGS and c != "seed"]
    frame["configuration"] = [_label(row, varied) for row in frame.to_dict("records")]
    frame = frame.sort_values(["activation.name", "activation.r", "configuration", "seed"], ignore_index=True)
    keep = ["path", "configuration", *dict.fromkeys(["activation.name", "activation.r", "seed", *varied])]
    epochs = pd.concat(tables, ignore_index=True)
    epochs["epoch"] = epochs["epoch"].astype(int)
    return Sweep(frame, frame[keep].merge(epochs, on="path"), varied, left_out)


def summary(sweep: Sweep) -> pd.DataFrame:
    """A row per configuration: its runs by outcome, and mean figures over the runs that stayed finite."""
    rows = []
    for name, runs in sweep.runs.groupby("configuration", sort=False):
        last = sweep.epochs[sweep.epochs.configuration == name].groupby("path").last()
        best = sweep.epochs[sweep.epochs.configuration == name].groupby("path").val_accuracy.max()
        outcomes = runs.outcome.value_counts()
        rows.append(
            {"configuration": name, "runs": len(runs)}
            | {outcome: int(outcomes.get(outcome, 0)) for outcome in ("ok", "collapsed", "diverged", "failed")}
            | {f"final_{c}": last[c].mean() for c in ("train_loss", "train_accuracy", "val_loss", "val_accuracy")}
            | {"best_val_accuracy": best.mean()}
        )
    return pd.DataFrame(rows)


def _run_row(folder: Path, status: dict[str, Any]) -> dict[str, Any]:
    settings = status.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"{folder}: status.json has no settings in it ({status.get('reason') or 'no run started'})")
    flat = {}
    for key, value in settings.items():
        flat |= {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
    outcome = status.get("outcome") or status.get("state")
    return flat | {
        "path": str(folder),
        "run_id": status.get("run_id"),
        "outcome": outcome,
        "reason": status.get("reason"),
        "classes": status.get("data", {}).get("classes"),
    }


def _label(run: dict[str, Any], varied: list[str]) -> str:
    """A configuration in words: only what differs, the slope only where there is one."""
    parts = []
    slope = run["activation.name"] in WITH_SLOPE
    if "activation.name" in varied or "activation.r" in varied or not varied:
        parts.append(run["activation.name"])
    for key in varied:
        if key == "activation.name" or (key == "activation.r" and not slope):
            continue
        name = key if key in ("dataset.name", "model.name") else key.rsplit(".", 1)[-1]
        value = run[key]
        parts.append(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}")
    return " ".join(parts)
