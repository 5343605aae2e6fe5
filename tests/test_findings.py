"""The four claims on made-up sweeps where the answer is known."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import LEAKY, write_run, write_sweep
from scipy import stats

from mlp_sweep import aggregate, properties
from mlp_sweep.findings import FAILS, HOLDS, UNKNOWN, Finding, _p_lost, findings
from mlp_sweep.outcomes import LOST

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
    ({"relu": _losses(2.0), "scaled 2": _varied(_losses(2.0), -0.5), "scaled 62": _lost()}, HOLDS),
    ({"relu": _losses(2.0), "scaled 62": _lost()}, UNKNOWN),
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


@pytest.mark.parametrize("outcome", LOST)
@pytest.mark.parametrize("lost", ["scaled 8", "relu"])
def test_where_a_side_lost_runs_the_survivors_do_not_say_that_it_is_faster(tmp_path: Path, lost: str, outcome: str):
    """Five of ten seeds left, each faster in the first quarter than its partner."""
    seeds = [0.003 * seed for seed in range(10)]
    cells: dict[str, list[dict[str, Any]]]
    cells = {name: [{"train_loss": [early + n * n, 1.0, 1.0, 0.5], "val_accuracy": [0.1] * 4} for n in seeds]
             for name, early in {"relu": 2.0, "scaled 8": 1.5}.items()}  # fmt: skip
    cells[lost] = [run | ({"outcome": outcome} if seed % 2 else {}) for seed, run in enumerate(cells[lost])]
    finding = _finding(FASTER, tmp_path, cells)
    [item] = finding.evidence
    assert finding.answer == UNKNOWN and "5 of 10" in item.figures and "p <" not in item.figures


@pytest.mark.parametrize("cells, answer", [
    ({"relu": _losses(2.0), "scaled 62": _lost()}, HOLDS),
    ({"relu": _losses(2.0), "scaled 62": _lost(outcome="collapsed")}, HOLDS),
    ({"relu": _losses(2.0), "scaled 2": _losses(1.5), "scaled 62": _lost()}, HOLDS),
    ({"relu": _losses(2.0), "scaled 2": _losses(2.0, rise=0.5)}, HOLDS),
    ({"relu": _lost(), "scaled 2": _losses(2.0)}, FAILS),
    ({"relu": _losses(2.0, rise=0.5), "scaled 2": _losses(2.0)}, FAILS),
    ({"relu": _losses(2.0), "scaled 2": _losses(1.5)}, UNKNOWN),
    ({"relu": _losses(2.0), "scaled 62": _lost(outcome="exploded")}, HOLDS),
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
    ({"scaled 2": _losses(2.0), "scaled 16": _lost(outcome="exploded")}, HOLDS),
    ({"relu": _losses(2.0, seeds=3), "scaled 62": _losses(2.0, seeds=3)}, UNKNOWN),  # none lost: no evidence
    ({"relu": _losses(2.0), "scaled 62": _losses(2.0)}, UNKNOWN),
    ({"relu": _lost(), "scaled 62": _losses(2.0)}, FAILS),
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
    assert findings(aggregate.read([tmp_path]))[LARGE].answer == UNKNOWN


@pytest.mark.parametrize("lost, of, base_lost, base_of", [
    (5, 5, 0, 5), (0, 5, 5, 5), (6, 6, 0, 6), (5, 10, 0, 10), (2, 5, 1, 7), (3, 3, 0, 3),
])  # fmt: skip
def test_shares_of_lost_runs_are_compared_on_both_sides(lost: int, of: int, base_lost: int, base_of: int):
    """Boschloo's test by hand: Fisher's p value is the statistic, the worst common share its null distribution."""

    def fisher(k: int, base_k: int) -> float:  # one side: as many lost or more
        return float(stats.hypergeom.sf(k - 1, of + base_of, k + base_k, of))

    def other(k: int, base_k: int) -> float:
        return float(stats.hypergeom.cdf(k, of + base_of, k + base_k, of))

    def one_sided(tail: Callable[[int, int], float]) -> float:
        share, p = np.linspace(0, 1, 4001), np.zeros(4001)
        for i, j in itertools.product(range(of + 1), range(base_of + 1)):
            if tail(i, j) <= tail(lost, base_lost) + 1e-12:
                p += stats.binom.pmf(i, of, share) * stats.binom.pmf(j, base_of, share)
        return p.max()

    by_hand = min(1.0, 2 * min(one_sided(fisher), one_sided(other)))
    assert _p_lost((lost, of), (base_lost, base_of)) == pytest.approx(by_hand, rel=1e-3)


@pytest.mark.parametrize("counts", [((0, 3), (0, 3)), ((3, 3), (5, 5)), ((2, 2), (0, 9)), ((1, 4), (2, 8))])
def test_equal_shares_and_too_few_runs_decide_nothing(counts: tuple[tuple[int, int], tuple[int, int]]):
    assert _p_lost(*counts) == 1.0


def test_the_p_of_the_readme(tmp_path: Path):
    """Two of six slopes lost in all of five runs, and ReLU in none of five."""
    cells = {"relu": _losses(2.0)} | {f"scaled {r}": _losses(2.0) for r in (1.5, 2, 3, 4)}
    evidence = _finding(STABLE, tmp_path, cells | {"scaled 8": _lost(), "scaled 62": _lost()}).evidence
    assert [item.figures[-11:] for item in evidence if item.side == "for"] == ["(p = 0.012)"] * 2


def test_another_family_of_activations_is_no_evidence_about_relu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(properties.ACTIVATIONS, "leaky", LEAKY)
    cells = {"relu": _losses(2.0), "leaky 1": _losses(2.0), "leaky 2": _varied(_losses(2.0), -0.5), "leaky 8": _lost()}
    found = findings(aggregate.read([write_sweep(tmp_path, cells)]))
    assert [(finding.answer, finding.evidence) for finding in found] == [(UNKNOWN, [])] * 4


def test_a_model_that_sees_neighbours_is_known_by_that_and_not_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(properties.MODELS, "patches", properties.Model(sees_neighbours=True))
    for seed, noise in enumerate(NOISE):
        write_run(tmp_path / f"mlp{seed}", seed=seed, val_accuracy=[0.2 + noise])
        write_run(tmp_path / f"patches{seed}", seed=seed, model="patches", val_accuracy=[0.4 + 2 * NOISE[-seed]])
    assert findings(aggregate.read([tmp_path]))[SPATIAL].answer == HOLDS


def test_the_best_epoch_and_not_the_last_says_whether_the_mlp_is_limited(tmp_path: Path):
    for seed, noise in enumerate(NOISE):
        write_run(tmp_path / f"mlp{seed}", seed=seed, val_accuracy=[0.2 + noise, 0.15])
        write_run(tmp_path / f"cnn{seed}", seed=seed, model="cnn", val_accuracy=[0.4 + 2 * NOISE[-seed], 0.05])
    assert findings(aggregate.read([tmp_path]))[SPATIAL].answer == HOLDS


def test_every_finding_says_what_decides_it(tmp_path: Path):
    cells = {"relu": _losses(2.0), "scaled 2": _varied(_losses(2.0), -0.5), "scaled 62": _lost()}
    for finding in findings(aggregate.read([write_sweep(tmp_path, cells)])):
        assert finding.rule and finding.words.endswith((".", ")."))
        assert all(item.figures for item in finding.evidence)
    assert "0.7 lower" in _finding(FASTER, tmp_path / "again", cells).evidence[0].figures
