"""weights.safetensors: a run's parameters, and with them what predicting takes besides the settings.

That lies in the file's metadata, as JSON under one key: safetensors writes several in an order that differs from
process to process, and equal runs are to leave equal bytes.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

KEY = "run"


@dataclass
class TrainedOn:
    """What a data set's labels and pictures mean to a model, whether or not the set is still there."""

    classes: list[str]  # ids, in the order of the logits
    names: list[str]  # in words, or the ids again
    mean: list[float]  # per channel, in grey levels; by these the pictures were normalised
    std: list[float]


def packed(weights: dict[str, Any], run_id: str, trained_on: TrainedOn) -> bytes:
    """The file's bytes, from NumPy arrays by name."""
    from safetensors.numpy import save  # here: --help need not wait for it

    return save(weights, {KEY: json.dumps({"run_id": run_id, **asdict(trained_on)})})


def described(path: Path) -> tuple[str, TrainedOn]:
    """(run_id, what it was trained on) from the file's header alone. ValueError where it is no such file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: damaged, or no weights at all ({' '.join(str(error).split())})") from error
    try:
        said = json.loads(metadata[KEY])
        trained_on = TrainedOn(*(list(said[key]) for key in ("classes", "names", "mean", "std")))
        run_id = said["run_id"]
        ok = isinstance(run_id, str) and len(trained_on.classes) == len(trained_on.names) >= 2
        ok = ok and all(isinstance(text, str) for text in trained_on.classes + trained_on.names)
        ok = ok and len(trained_on.mean) == len(trained_on.std) in (1, 3)
        ok = ok and all(type(level) is float and math.isfinite(level) for level in trained_on.mean + trained_on.std)
        ok = ok and all(level > 0 for level in trained_on.std)
        if ok:
            return run_id, trained_on
    except (KeyError, ValueError, TypeError, RecursionError):
        pass
    raise ValueError(f"{path}: does not say which classes it knows, so no run of this program wrote it")
