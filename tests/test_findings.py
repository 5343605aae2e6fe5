"""The four claims on made-up sweeps where the answer is known."""

from pathlib import Path
from typing import Any

import pytest
from made_up import write_run, write_sweep

from mlp_sweep import aggregate
from mlp_sweep.findings import FAILS, HOLDS, UNKNOWN, Finding, findings

FASTER, STABLE, LARGE, SPATIAL = range(4)
NOISE = (0.00, 0.02, -0.01, 0.03, 0.01)


def _losses(early: float, late: float = 0.5, seeds: int = 5, rise: float = 0.0) -> list[dict[str, Any]]:
    """Runs of 4 epochs, so that the first quarter is epoch 1; `rise` is a jump at epoch 3."""
    return [
        {"train_loss": [early + n, 1.0 + n, 1.0 + n + (rise * (1 + n) if rise else 0), late], "val_accuracy": [0.1] * 4}
        for n in NOISE[:seeds]
    ]


def _lost(seeds: int = 5, outcome: str = "diverged") -> list[dict[str, Any]]:
    if outcome == "diverged":
        return [{"val_accuracy": [], "outcome": outcome, "settings": {"epochs": 4}} for _ in range(seeds)]
    return [run | {"outcome": outcome} for run in _losses(2.3, 2.3, seeds)]


def _finding(which: int, folder: Path, cells: dict[str, list[dict[str, Any]]]) -> Finding:
    return findings(aggregate.read([write_sweep(folder, cells)]))[which]


def _varied(runs: list[dict[str, Any]], by: float) -> list[dict[str, Any]]:
    """The same runs, their first losses moved by a little more or less per seed, so that the differences vary."""
    return [run | {"train_loss": [run["train_loss"][0] + by * (1 + 0.2 * i), *run["train_loss"][1:]]}
            for i, run in enumerate(runs)]  # fmt: skip


@pytest.mark.parametrize("cells, answer", [
    ({"relu": _losses(2.0), "scaled 2": _varied(_losses(2.0), -0.5)}, HOLDS),
    ({"relu": _losses(2.0), "scaled 2": _varied(_losses(2.0), 0.5)}, FAILS),
    ({"relu": _losses(2.0), "scaled 2": _varied(_losses(2.0), -0.5), "scaled 62": _lost()}, FAILS),
    ({"relu": _losses(2.0), "scaled 2": _losses(2.0)[::-1]}, UNKNOWN),
    ({"relu": _lost(), "scaled 2": _lost()}, UNKNOWN),
    ({"relu": _losses(2.0, seeds=2), "scaled 2": _varied(_losses(2.0, seeds=2), -0.5)}, UNKNOWN),
    ({"relu": _losses(2.0)}, UNKNOWN),
    ({"scaled 2": _losses(2.0)}, UNKNOWN),
])  # fmt: skip
def test_scaled_relu_converges_faster_at_first(tmp_path: Path, cells: dict, answer: str):
    assert _finding(FASTER, tmp_path, cells).answer == answer


def test_a_lower_loss_late_is_not_faster_at_first(tmp_path: Path):
    cells = {"relu": _losses(2.0, late=1.0), "scaled 2": _varied(_losses(2.0, late=0.1), 0.3)}
    assert _finding(FASTER, tmp_path, cells).answer == FAILS


def test_a_run_that_diverged_after_the_first_quarter_was_fast_in_it(tmp_path: Path):
    late = [run | {"outcome": "diverged", "train_loss": run["train_loss"][:3], "val_accuracy": [0.1] * 3}
            for run in _varied(_losses(2.0), -0.5)]  # fmt: skip
    assert _finding(FASTER, tmp_path, {"relu": _losses(2.0), "scaled 2": late}).answer == HOLDS


@pytest.mark.parametrize("cells, answer", [
    ({"relu": _losses(2.0), "scaled 62": _lost()}, HOLDS),
    ({"relu": _losses(2.0), "scaled 62": _lost(outcome="collapsed")}, HOLDS),
    ({"relu": _losses(2.0), "scaled 2": _losses(1.5), "scaled 62": _lost()}, HOLDS),
    ({"relu": _losses(2.0), "scaled 2": _losses(2.0, rise=0.5)}, HOLDS),
    ({"relu": _lost(), "scaled 2": _losses(2.0)}, FAILS),
    ({"relu": _losses(2.0, rise=0.5), "scaled 2": _losses(2.0)}, FAILS),
    ({"relu": _losses(2.0), "scaled 2": _losses(1.5)}, FAILS),
    ({"relu": _losses(2.0), "scaled 2": [*_losses(2.0, seeds=3), *_lost(2)]}, UNKNOWN),
    ({"relu": _losses(2.0, seeds=2), "scaled 62": _lost(2)}, UNKNOWN),
    ({"relu": _losses(2.0, seeds=3), "scaled 62": [*_losses(2.0, seeds=1), *_lost(2)]}, UNKNOWN),
    ({"relu": _losses(2.0, seeds=3), "scaled 62": _lost(3)}, HOLDS),
    ({"relu": _lost(), "scaled 62": _lost()}, UNKNOWN),
])  # fmt: skip
def test_relu_is_more_stable(tmp_path: Path, cells: dict, answer: str):
    assert _finding(STABLE, tmp_path, cells).answer == answer


@pytest.mark.parametrize("cells, answer", [
    ({"relu": _losses(2.0), "scaled 2": _losses(2.0), "scaled 62": _lost()}, HOLDS),
    ({"scaled 2": _losses(2.0), "scaled 16": _lost(outcome="collapsed")}, HOLDS),
    ({"relu": _losses(2.0), "scaled 62": _losses(2.0)}, FAILS),
    ({"relu": _losses(2.0), "scaled 4": _losses(2.0)}, UNKNOWN),
    ({"relu": _lost(), "scaled 62": _lost()}, UNKNOWN),
    ({"relu": _losses(2.0), "scaled 62": [*_losses(2.0, seeds=3), *_lost(2)]}, UNKNOWN),
    ({"relu": _losses(2.0, seeds=3), "scaled 62": [*_losses(2.0, seeds=1), *_lost(2)]}, UNKNOWN),
    ({"relu": _losses(2.0, seeds=2), "scaled 62": _lost(2)}, UNKNOWN),
    ({"relu": _losses(2.0)}, UNKNOWN),
])  # fmt: skip
def test_large_scaling_factors_make_training_unstable(tmp_path: Path, cells: dict, answer: str):
    assert _finding(LARGE, tmp_path, cells).answer == answer


@pytest.mark.parametrize("mlp, cnn, answer", [
    (0.2, 0.4, HOLDS), (0.4, 0.2, FAILS), (0.3, 0.3, UNKNOWN), (0.3, None, UNKNOWN),
])  # fmt: skip
def test_the_mlp_is_limited_for_want_of_spatial_features(tmp_path: Path, mlp: float, cnn: float | None, answer: str):
    for seed, noise in enumerate(NOISE):
        write_run(tmp_path / f"mlp{seed}", seed=seed, val_accuracy=[mlp + noise])
        if cnn is not None:
            write_run(tmp_path / f"cnn{seed}", seed=seed, model="cnn", val_accuracy=[cnn + 2 * NOISE[-seed]])
    finding = findings(aggregate.read([tmp_path]))[SPATIAL]
    assert finding.answer == answer
    assert "model=cnn" in finding.words or cnn is not None


def test_the_mlp_is_compared_with_every_model_that_sees_neighbours(tmp_path: Path):
    for seed, noise in enumerate(NOISE):
        write_run(tmp_path / f"mlp{seed}", seed=seed, val_accuracy=[0.2 + noise])
        for width, level in ((16, 0.1), (64, 0.4)):
            model = {"name": "cnn", "hidden": [width]}
            write_run(tmp_path / f"cnn{width} {seed}", seed=seed, val_accuracy=[level + 2 * NOISE[-seed]],
                      settings={"model": model})  # fmt: skip
    finding = findings(aggregate.read([tmp_path]))[SPATIAL]
    [item] = finding.evidence
    assert finding.answer == HOLDS and "hidden=16" in item.figures and "hidden=64" in item.figures


def test_a_setting_that_older_records_have_not_keeps_no_finding_from_being_made(tmp_path: Path):
    for seed in range(3):
        write_run(tmp_path / f"mlp{seed}", seed=seed)
        write_run(tmp_path / f"cnn{seed}", seed=seed, model="cnn", settings={"since": "stop"})
    assert len(findings(aggregate.read([tmp_path]))) == 4


def test_the_mlps_claims_are_answered_from_mlps_alone(tmp_path: Path):
    write_sweep(tmp_path / "mlp", {"relu": _losses(2.0), "scaled 62": _losses(2.0)})
    write_sweep(tmp_path / "cnn", {name: [run | {"model": "cnn"} for run in runs]
                                   for name, runs in {"relu": _losses(2.0), "scaled 62": _lost()}.items()})  # fmt: skip
    assert findings(aggregate.read([tmp_path]))[LARGE].answer == FAILS


def test_every_finding_says_what_decides_it(tmp_path: Path):
    cells = {"relu": _losses(2.0), "scaled 2": _varied(_losses(2.0), -0.5), "scaled 62": _lost()}
    for finding in findings(aggregate.read([write_sweep(tmp_path, cells)])):
        assert finding.rule and finding.words.endswith((".", ")."))
        assert all(item.figures for item in finding.evidence)
    assert "0.7 lower" in _finding(FASTER, tmp_path / "again", cells).evidence[0].figures
