"""What weights.safetensors says besides the numbers: both sides of each check."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlp_sweep import sealed, weights
from mlp_sweep.weights import TrainedOn

GOOD: dict[str, Any] = {
    "run_id": "a" * 16, "classes": ["n1", "n2"], "names": ["cat", "dog"], "mean": [120.0] * 3, "std": [60.0] * 3,
}  # fmt: skip


def described(path: Path, about: dict[str, Any]) -> tuple[str, TrainedOn]:
    sealed.write_arrays(path, {"w": np.ones(1)}, about)
    return weights.described(path)


@pytest.mark.parametrize(
    "change",
    [{}, {"mean": [120.0], "std": [60.0]}, {"std": [1e-9] * 3}, {"mean": [-1.0] * 3}, {"names": ["same", "same"]}],
)
def test_whole_descriptions_are_read(tmp_path: Path, change: dict[str, Any]):
    about = GOOD | change
    run_id, trained_on = described(tmp_path / "w", about)
    assert run_id == about["run_id"] and vars(trained_on) == {key: about[key] for key in about if key != "run_id"}


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["n1"], "names": ["cat"]},
        {"names": ["cat"]},
        {"classes": ["n1", 2]},
        {"names": ["cat", None]},
        {"mean": [120.0] * 2, "std": [60.0] * 2},
        {"mean": [120.0]},
        {"mean": [float("nan")] * 3},
        {"mean": [True] * 3},
        {"std": [0.0, 60.0, 60.0]},
        {"std": [-60.0] * 3},
        {"std": [float("inf")] * 3},
        {"std": ["60"] * 3},
        {"run_id": None},
        {"classes": None},
    ],
    ids=str,
)
def test_others_are_refused_by_name(tmp_path: Path, change: dict[str, Any]):
    with pytest.raises(ValueError, match=f"^{tmp_path / 'w'}: "):
        described(tmp_path / "w", GOOD | change)
    for key in change:
        with pytest.raises(ValueError, match=f"^{tmp_path / 'w'}: "):
            described(tmp_path / "w", {name: value for name, value in GOOD.items() if name != key})
