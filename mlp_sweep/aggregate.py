"""Run directories to tidy frames: a row per run, a row per run and epoch, and what tells the runs apart.

Reads files only and imports no torch, so a report can be made again anywhere at any time.
"""

import glob
import itertools
import math
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from . import asked, properties, run_dir
from .config import PLACES, UNDECISIVE, is_number
from .outcomes import ENDED, OUTCOMES, judge
from .weights import described

NOT_SETTINGS = (*UNDECISIVE, *(f"dataset.{key}" for key in PLACES))  # act through others, or only say where
UNFINISHED = {"running": "still running", "stopped": "stopped", "failed": "failed"}
# Of the status: how a run came about.
ABOUT = ("command", "resumed", "versions", "git_commit", "device", "threads", "engine", "kernel", "data")


Read = tuple[dict[str, Any], list[str], list[list[float]]]  # a run's settings and end, columns, rows


@dataclass
class DataSet:
    """Pictures that runs were trained on: equal fingerprints are the same bytes."""

    name: str
    fingerprint: str
    runs: int
    classes: list[tuple[str, str]]  # (id, name in words or the id again); none where no run has weights


@dataclass
class Sweep:
    """What some directories hold. Frames are joined by the column `run`, a number."""

    runs: pd.DataFrame  # a row per run: run, run_id, path, outcome, reason, classes, seed, configuration, settings
    epochs: pd.DataFrame  # a row per run and epoch: run, figures, and the same labels and varied settings
    varied: list[str]  # the settings that differ, seeds apart: what makes a configuration
    left_out: list[tuple[str, str]]  # (path, reason): what was not read
    unfinished: list[tuple[str, str]]  # (path, how far it came): in the curves if it began, not in the final figures
    copies: list[tuple[str, str]]  # (path, path of the run counted in its place): equal run_ids, counted once
    about: list[dict[str, Any]]  # per run: how it came about, for the reproduction of it
    data: list[DataSet]

    @property
    def configurations(self) -> list[str]:
        return list(dict.fromkeys(self.runs.configuration))


def read(paths: list[Path]) -> Sweep:
    """Every run at or below the paths, which may be globs. ValueError where there is none that can be read."""
    places, left_out = folders(paths)
    found: dict[str, Read] = {}
    trained_on: dict[str, list[Path]] = {}
    copies: list[tuple[str, str]] = []
    unfinished: list[tuple[str, str]] = []
    for folder in places:
        try:
            status = run_dir.read_status(folder)
            if before := _before_training(status):
                unfinished.append((shown(folder), before))
                continue
            run = _run(folder, status)
            columns, rows = run_dir.read_metrics(folder, status)
            _check(run, columns, len(rows), folder)
            rows = _while_finite(columns, rows)
            _judge_again(run, columns, rows)
        except ValueError as error:
            left_out.append((shown(folder), shown(error).removeprefix(f"{shown(folder)}/")))
            continue
        trained_on.setdefault(run["dataset.fingerprint"], []).append(folder)
        first = found.setdefault(run["run_id"], (run, columns, rows))
        if first[0] is not run:  # the one that came furthest counts
            both = (first, (run, columns, rows))
            kept, other = sorted(both, key=lambda one: OUTCOMES.index(one[0]["outcome"]))
            found[run["run_id"]] = kept
            if _agree(kept, other):
                copies.append((other[0]["path"], kept[0]["path"]))
            else:
                left_out.append((other[0]["path"], f"other figures than {kept[0]['path']} under the same settings"))
    for place in itertools.chain(*map(named, paths)):
        try:
            missing = dict(asked.unrecorded(place))
        except ValueError as error:
            left_out.append((shown(place), shown(error)))
            continue
        unfinished += [(shown(job), _unrecorded(job, alive)) for job, alive in missing.items()]
    if not found:
        raise ValueError("; ".join(f"{path}: {why}" for path, why in left_out + unfinished))
    runs = [run for run, _, _ in found.values()]
    about = [run.pop("about") for run in runs]
    for run in runs:
        if run["outcome"] in UNFINISHED:
            said = f"{UNFINISHED[run['outcome']]} after epoch {run['epoch']} of {run['epochs']}"
            unfinished.append((run["path"], said + (f" ({run['reason']})" if run["reason"] else "")))
    frame, varied = _labelled(pd.DataFrame(runs).assign(run=range(len(runs))))
    epochs = _stacked([(columns, rows) for _, columns, rows in found.values()])
    labels = list(dict.fromkeys(["run", "run_id", "configuration", "activation.name", "activation.r", *varied, "seed"]))
    new = [c for c in epochs if c == "run" or c not in labels]
    by_data = frame.groupby("dataset.fingerprint", sort=False)
    data = [_data_set(runs, str(key), trained_on[str(key)]) for key, runs in by_data]
    epochs = frame[labels].merge(epochs[new], on="run")
    return Sweep(frame, epochs, varied, left_out, unfinished, copies, about, data)


def _unrecorded(job: Path, alive: bool) -> str:
    """Why a job of a sweep has no record."""
    if (job / run_dir.METRICS).exists():
        return "status.json is missing; resuming the sweep writes it again"
    return "not started yet" if alive else "never started"


def _data_set(runs: pd.DataFrame, fingerprint: str, places: list[Path]) -> DataSet:
    """The classes are read from the first run that has weights: the others of the fingerprint have the same."""
    classes = []
    for place in places:
        if not (place / run_dir.WEIGHTS).is_file():
            continue
        with suppress(ValueError):
            _, known = described(place / run_dir.WEIGHTS)
            classes = [(shown(key), shown(name)) for key, name in zip(known.classes, known.names, strict=True)]
            break
    return DataSet(str(runs["dataset.name"].iloc[0]), fingerprint, len(runs), classes)


def shown(text: Any) -> str:
    """A path or message that can be written as UTF-8 whatever bytes a file name is made of."""
    return str(text).encode(errors="replace").decode()


def named(path: Path) -> list[Path]:
    """The path itself, or those that it matches as a glob."""
    return [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]


def folders(paths: list[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """The run directories at or below the paths, each once, and the paths that have none."""
    found: dict[Path, None] = {}
    left_out = []
    for path in paths:
        places = named(path)
        runs = [run for place in places for run in run_dir.find_runs(place)]
        found |= dict.fromkeys(run.resolve() for run in runs)
        if not runs:
            left_out.append((shown(path), "no run in it" if places else "no such folder"))
    return list(found), left_out


def _before_training(status: dict[str, Any]) -> str:
    """What became of a run that has not begun to train; nothing of one that has."""
    if status.get("state") == "waiting":
        return "not started yet"
    state = status.get("state")
    if state in ("stopped", "failed") and not isinstance(status.get("data"), dict):
        return f"{state} before it began: {shown(status.get('reason') or 'no reason given')}"
    return ""


def _agree(run: Read, other: Read) -> bool:
    """Whether two records of the same run have the same figures, as far as both go; seconds may differ."""
    (_, columns, rows), (_, other_columns, other_rows) = run, other
    return columns == other_columns and all(
        repr(row[:-1]) == repr(other_row[:-1]) for row, other_row in zip(rows, other_rows, strict=False)
    )


def _run(folder: Path, status: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, flat, and what became of it. ValueError where status.json is not a run's."""
    settings = status.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"status.json: no settings in it ({status.get('reason') or 'no run started'})")
    run = {key: value for key, value in _flat(settings).items() if not key.startswith("dataset.md5.")}
    data = status.get("data")
    data = data if isinstance(data, dict) else {}
    outcome = status.get("outcome") or status.get("state")
    diverged_at = status.get("diverged_at")
    numbers = {"activation.r": run.get("activation.r"), "optimizer.lr": run.get("optimizer.lr"),
               "seed": run.get("seed"), "epochs": run.get("epochs"), "data.classes": data.get("classes"),
               "epoch": status.get("epoch")}  # fmt: skip
    for key, value in numbers.items():
        if not is_number(value):
            raise ValueError(f"status.json: {key} is {value!r:.40}, not a number to reckon with")
    if numbers["data.classes"] < 1:
        raise ValueError(f"status.json: data.classes is {data['classes']!r:.40}, not a number of classes")
    for key, value in {"activation.name": run.get("activation.name"), "run_id": status.get("run_id")}.items():
        if not isinstance(value, str):
            raise ValueError(f"status.json: {key} is {value!r}, not a name")
    if outcome not in OUTCOMES:
        raise ValueError(f"status.json: outcome is {outcome!r}, not one of {', '.join(OUTCOMES)}")
    for key in ("activation.r", "optimizer.lr"):
        run[key] = float(run[key])
    return run | {
        "run_id": status["run_id"],
        "path": shown(folder),
        "outcome": outcome,
        "reason": status.get("reason"),
        "diverged_at": diverged_at if isinstance(diverged_at, int) else None,
        "epoch": int(numbers["epoch"]),
        "classes": int(numbers["data.classes"]),
        "dataset.fingerprint": str(data.get("fingerprint")),
        "about": {key: status.get(key) for key in ABOUT},
    }


def _check(run: dict[str, Any], columns: list[str], rows: int, folder: Path) -> None:
    """ValueError where a figure is not recorded, or fewer epochs than status.json, written after them, speaks of."""
    missing = [figure for figure in run_dir.FIGURES if figure not in columns]
    if missing:
        raise ValueError(f"{folder / run_dir.METRICS}: no column {missing[0]}")
    if rows < run["epoch"]:
        raise ValueError(f"{folder / run_dir.METRICS}: truncated, {rows} of {run['epoch']} epochs are in it")


def _while_finite(columns: list[str], rows: list[list[float]]) -> list[list[float]]:
    """Rows up to the first whose loss is NaN or infinite: later ones, of a run that went on, have no figures."""
    losses = [columns.index(loss) for loss in ("train_loss", "val_loss")]
    empty = (i for i, row in enumerate(rows) if not all(math.isfinite(row[loss]) for loss in losses))
    return rows[: next(empty, len(rows)) + 1]


def _judge_again(run: dict[str, Any], columns: list[str], rows: list[list[float]]) -> None:
    """The outcome of a run that ended, by today's rule: its record may have been written under another."""
    diverged_at = run.pop("diverged_at")
    if run["outcome"] in ENDED:
        epochs = [dict(zip(columns, row, strict=True)) for row in rows]
        run["outcome"], run["reason"] = judge(epochs, diverged_at, run["classes"])


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}; lists become one word, so that every value can be compared and sorted."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = "-".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _stacked(tables: list[tuple[list[str], list[list[float]]]]) -> pd.DataFrame:
    """One frame of all runs' rows. One frame per header, not per run: pandas takes a millisecond to make one."""
    by_header: dict[tuple[str, ...], list[list[float]]] = defaultdict(list)
    for number, (columns, rows) in enumerate(tables):
        by_header[("run", *columns)] += [[number, *row] for row in rows]
    epochs = pd.concat([pd.DataFrame(rows, columns=list(header)) for header, rows in by_header.items()])
    return epochs.astype({"run": int, "epoch": int})


def _labelled(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Runs in the order of their settings, with their labels (activation, others, configuration); what varies."""
    facts = ("run", "run_id", "path", "outcome", "reason", "epoch", "classes", "seed", *NOT_SETTINGS)
    varied = [c for c in map(str, runs) if c not in facts and runs[c].map(str).nunique() > 1]
    if "data_seed" in varied and (runs["data_seed"].map(str).groupby(runs["seed"]).nunique() == 1).all():
        varied.remove("data_seed")  # it goes with the seed: part of what makes a replicate
    varied = [c for c in varied if not _follows(runs, c, varied)]
    first = [c for c in ("activation.name", "activation.r", "optimizer.lr") if c in varied]
    varied = first + [c for c in varied if c not in first]
    others = [c for c in varied if not c.startswith("activation.")]
    records = runs.to_dict("records")
    slopes = zip(runs["activation.name"], runs["activation.r"], strict=True)
    runs["activation"] = [_activation(name, r) for name, r in slopes]
    runs["others"] = [" ".join(_said(key, run[key]) for key in others) for run in records]
    if len(first) - ("optimizer.lr" in first) or not others:
        runs["configuration"] = [
            " ".join(filter(None, pair)) for pair in zip(runs.activation, runs.others, strict=True)
        ]
    else:
        runs["configuration"] = runs["others"]
    order = ["with_slope", *dict.fromkeys(["activation.name", "activation.r", *others]), "seed"]
    runs["with_slope"] = [activation(name).has_slope for name in runs["activation.name"]]
    runs = runs.sort_values(
        order, key=lambda c: c if pd.api.types.is_numeric_dtype(c) else c.map(str), ignore_index=True
    )
    return runs.drop(columns="with_slope"), varied


def _follows(runs: pd.DataFrame, column: str, varied: list[str]) -> bool:
    """Whether a setting of the data is given by those that name the data: it would only make a label longer."""
    if not column.startswith("dataset.") or column in ("dataset.name", "dataset.num_classes"):
        return False
    naming = ["dataset.name", "dataset.num_classes"]
    if column == "dataset.fingerprint":  # the pictures' own: to be said only where nothing else tells them apart
        naming = ["data_seed", *(c for c in varied if c.startswith("dataset.") and c != column)]
    known = [runs[c].map(str) for c in naming if c in runs]
    return bool((runs[column].map(str).groupby(known).nunique() == 1).all()) if known else False


def activation(name: str) -> properties.Activation:
    """What is known of a record's activation: nothing, where this version does not know it."""
    return properties.ACTIVATIONS.get(name, properties.Activation())


def _activation(name: str, r: float) -> str:
    return f"{name} r={r:g}" if activation(name).has_slope or r != 1 else name


def _said(key: str, value: Any) -> str:
    """A setting in a label: its last name, and its value alone where that says enough."""
    if key in ("dataset.name", "model.name"):
        return str(value)
    if key == "dataset.fingerprint":
        return f"data={value[:6]}"
    name = key.rsplit(".", 1)[-1]
    return f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
