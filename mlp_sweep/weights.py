"""weights.safetensors: a run's parameters, and with them what predicting takes besides the settings."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import sealed


@dataclass
class TrainedOn:
    """What a data set's labels and pictures mean to a model, whether or not the set is still there."""

    classes: list[str]  # ids, in the order of the logits
    names: list[str]  # in words, or the ids again
    mean: list[float]  # per channel, in grey levels; by these the pictures were normalised
    std: list[float]


def write(
    path: Path, arrays: dict[str, Any], run_id: str, trained_on: TrainedOn, about: dict[str, Any] | None = None
) -> None:
    """about: where the run stood, for whoever continues it: epoch, diverged_at, stateful."""
    sealed.write_arrays(path, arrays, {"run_id": run_id, **asdict(trained_on), **(about or {})})


def add_epoch(path: Path, epoch: int) -> None:
    """Has weights of record version 1, which do not name their epoch, name it."""
    arrays, about = sealed.read_arrays(path)
    if "epoch" not in about:
        sealed.write_arrays(path, arrays, about | {"epoch": epoch})


def described(path: Path) -> tuple[str, TrainedOn]:
    """(run_id, what it was trained on) from the file's header alone. ValueError where it is no such file."""
    said = sealed.read_about(path)
    try:
        trained_on = TrainedOn(*(list(said[key]) for key in ("classes", "names", "mean", "std")))
        run_id = said["run_id"]
        ok = isinstance(run_id, str) and len(trained_on.classes) == len(trained_on.names) >= 2
        ok = ok and all(isinstance(text, str) for text in trained_on.classes + trained_on.names)
        ok = ok and len(trained_on.mean) == len(trained_on.std) in (1, 3)
        ok = ok and all(type(level) is float and math.isfinite(level) for level in trained_on.mean + trained_on.std)
        ok = ok and all(level > 0 for level in trained_on.std)
        if ok:
            return run_id, trained_on
    except (KeyError, TypeError):
        pass
    raise ValueError(f"{path}: does not say which classes it knows, so no run of this program wrote it")
