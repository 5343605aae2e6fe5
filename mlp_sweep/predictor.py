"""A finished run as something that classifies pictures, from its directory alone.

Shapes: N pictures, B batch, C classes (or channels, in CHW), D features.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import config, model, run_dir, sealed, weights
from .data import Batches
from .data.archive import LARGEST
from .data.decode import Rules, decode
from .outcomes import judge

CPU = torch.device("cpu")


@dataclass
class Generated:
    """By what rules a photograph becomes like the generated pictures, which were never decoded."""

    image_size: int
    resize: str = "crop"
    interpolation: str = "bilinear"
    color: str = "rgb"


@dataclass
class Predictor:
    run: config.Run
    trained_on: weights.TrainedOn
    outcome: str
    rules: Rules
    model: nn.Module

    def read(self, path: Path) -> np.ndarray:
        """A picture of any kind as the run's own were prepared, CHW uint8. ValueError, OSError: why it cannot be."""
        if not path.is_file():
            raise ValueError("no such picture")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        return decode(path.read_bytes(), self.rules)

    @torch.inference_mode()
    def logits(self, x_NCHW: np.ndarray) -> Tensor:
        """logits_NC of prepared pictures, normalised by the run's own mean and deviation."""
        mean_C, std_C = np.array(self.trained_on.mean), np.array(self.trained_on.std)
        batches = Batches(x_NCHW, np.zeros(len(x_NCHW), np.int64), mean_C, std_C, len(x_NCHW), CPU)
        return torch.cat([self.model(x_BD) for x_BD, _ in batches()])


def load(path: Path) -> Predictor:
    """ValueError in one line where the directory holds no finished run, or one that cannot predict."""
    if not run_dir.is_run(path):
        runs = run_dir.find_runs(path)
        there = f"{len(runs)} runs in it, give one of them: {runs[0]}" if runs else "no run in it"
        raise ValueError(f"{path}: {there if path.is_dir() else 'no such folder'}")
    status = run_dir.read_status(path)
    if status.get("state") != "finished":
        said = f"{status.get('state')} after epoch {status.get('epoch')} of {status.get('epochs')}"
        raise ValueError(f"{path}: unfinished ({said}); resume with: python -m mlp_sweep.resume {path}")
    if status.get("outcome") == "diverged":
        raise ValueError(f"{path}: diverged ({status.get('reason')}), so it has no weights to predict with")
    run = _run(path, status)
    file = path / run_dir.WEIGHTS
    if not file.is_file():
        raise ValueError(f"{file}: not there, although the run is finished")
    run_id, trained_on = weights.described(file)
    if run_id != status.get("run_id"):
        raise ValueError(f"{file}: the weights of another run ({run_id}, not {status.get('run_id')})")
    rules = run.dataset if isinstance(run.dataset, config.Pictures) else Generated(run.dataset.image_size)
    channels = 1 if rules.color == "grey" else 3
    if len(trained_on.mean) != channels:
        raise ValueError(f"{file}: of pictures with {len(trained_on.mean)} channels, dataset.color={rules.color}")
    features = channels * rules.image_size**2
    module = _filled(lambda: model.build(run, features, len(trained_on.classes)), file)
    outcome = _outcome(path, status, len(trained_on.classes))
    return Predictor(run, trained_on, outcome, rules, module)


def _outcome(path: Path, status: dict[str, Any], classes: int) -> str:
    """By today's rule where the figures are readable, since an older version may have recorded another outcome."""
    with suppress(ValueError, KeyError):
        columns, rows = run_dir.read_metrics(path, status)
        return judge([dict(zip(columns, row, strict=True)) for row in rows], None, classes)[0]
    return str(status.get("outcome"))


def _run(path: Path, status: dict[str, Any]) -> config.Run:
    settings = status.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(f"{path / run_dir.STATUS}: says nothing of the settings that it was trained with")
    try:
        return config.from_settings(settings)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path / run_dir.STATUS}: {error}") from error


def _filled(build: Callable[[], nn.Module], file: Path) -> nn.Module:
    """The model with the file's parameters, which must be those that it asks for.

    It is built without memory first: settings that ask for more than the file holds are refused, not allocated.
    """
    try:
        with torch.device("meta"):
            module = build()
        wanted = {name: list(value.shape) for name, value in module.state_dict().items()}
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError(f"{file.parent / run_dir.STATUS}: settings of no model that can be built") from error
    arrays, _ = sealed.read_arrays(file)
    there = {name: list(array.shape) for name, array in arrays.items()}
    differing = [name for name in {**wanted, **there} if wanted.get(name) != there.get(name)]
    if differing:
        first = differing[0]
        raise ValueError(
            f"{file}: does not fit the settings in {run_dir.STATUS}: {first} is {_shape(there.get(first))} there, "
            f"{_shape(wanted.get(first))} by the settings"
        )
    kinds = {str(array.dtype) for array in arrays.values()} - {"float32"}
    if kinds:
        raise ValueError(f"{file}: numbers of kind {min(kinds)}, where a run writes float32")
    module.load_state_dict({name: torch.from_numpy(arrays[name]) for name in wanted}, assign=True)
    return module.eval()


def _shape(shape: list[int] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape))
