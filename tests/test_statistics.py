"""Every statistic beside an independent computation of it: by hand, by closed form or by another road."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import NAN, write_run, write_sweep
from scipy import integrate, stats

from mlp_sweep import aggregate, statistics
from mlp_sweep.outcomes import LOST, OUTCOMES

T_975 = {2: 4.3026527, 3: 3.1824463, 4: 2.7764451}  # a printed table's column for 0.975


@pytest.mark.parametrize("n", [3, 4, 5])
def test_the_interval_is_the_t_interval_of_the_tables(n: int):
    values = np.random.default_rng(n).normal(0.4, 0.1, n)
    mean, low, high = statistics.mean_interval(pd.Series([*values, NAN]))
    variance = sum((v - sum(values) / n) ** 2 for v in values) / (n - 1)
    assert mean == pytest.approx(sum(values) / n)
    assert (high - low) / 2 == pytest.approx(T_975[n - 1] * math.sqrt(variance / n), rel=1e-7)
    assert (high + low) / 2 == pytest.approx(mean)


def test_the_interval_covers_the_true_mean_95_times_in_a_hundred():
    draws = np.random.default_rng(0).normal(1.0, 2.0, (2000, 4))
    bounds = np.array([statistics.mean_interval(pd.Series(row))[1:] for row in draws])
    assert ((bounds[:, 0] < 1) & (1 < bounds[:, 1])).mean() == pytest.approx(0.95, abs=0.015)


def test_fewer_than_three_seeds_have_a_mean_and_no_interval_and_none_has_neither():
    for values in ([0.25], [0.2, 0.3]):
        mean, low, high = statistics.mean_interval(pd.Series(values))
        assert mean == 0.25 and math.isnan(low) and math.isnan(high)
    assert all(math.isnan(v) for v in statistics.mean_interval(pd.Series([NAN])))


def test_measures_of_a_curve(tmp_path: Path):
    accuracy, loss = [0.1, 0.4, 0.35, 0.3], [2.0, 1.0, 1.5, 0.5]
    write_run(tmp_path / "a", val_accuracy=accuracy, train_loss=loss)
    run = statistics.measures(aggregate.read([tmp_path])).iloc[0]
    assert run.final_val_accuracy == 0.3 and run.best_val_accuracy == 0.4
    assert run.val_accuracy_area == pytest.approx(integrate.trapezoid(accuracy) / 3)
    assert run.largest_jump == 0.5 and run.final_train_loss == 0.5


def test_measures_do_not_reach_from_one_run_into_the_next(tmp_path: Path):
    write_run(tmp_path / "a", seed=0, train_loss=[3.0, 1.0])
    write_run(tmp_path / "b", seed=1, train_loss=[4.5, 4.0])
    write_run(tmp_path / "c", seed=2, train_loss=[4.2], val_accuracy=[0.5])
    runs = statistics.measures(aggregate.read([tmp_path]))
    assert runs.largest_jump.tolist()[:2] == [0.0, 0.0] and math.isnan(runs.largest_jump[2])
    assert runs.val_accuracy_area[2] == 0.5


def test_a_lost_run_is_counted_and_not_averaged(tmp_path: Path):
    write_sweep(tmp_path, {"relu": [
        {"val_accuracy": [0.1, 0.3]},
        {"val_accuracy": [0.1, 0.5]},
        {"val_accuracy": [0.1, 0.9], "outcome": "diverged"},
        {"val_accuracy": [0.1, 0.9], "outcome": "exploded"},
        {"val_accuracy": [0.1, 0.9], "outcome": "collapsed"},
        {"val_accuracy": [0.1], "outcome": "running"},
        {"val_accuracy": [0.1], "outcome": "failed"},
    ]})  # fmt: skip
    row = statistics.summary(aggregate.read([tmp_path])).iloc[0]
    assert row.final_val_accuracy == pytest.approx(0.4) and row.in_means == 2 and row.seeds == 7
    assert {o: row[o] for o in OUTCOMES} == dict.fromkeys(OUTCOMES, 1) | {"ok": 2, "stopped": 0}


def test_a_seed_run_twice_is_one_replicate(tmp_path: Path):
    for name, seed, accuracy in (("a", 0, 0.2), ("b", 0, 0.4), ("c", 1, 0.5)):
        write_run(tmp_path / name, seed=seed, val_accuracy=[accuracy], status={"run_id": name})
    row = statistics.summary(aggregate.read([tmp_path])).iloc[0]
    assert row.final_val_accuracy == pytest.approx((0.3 + 0.5) / 2) and row.seeds == 2 and row.runs == 3


def test_epochs_to_the_baselines_accuracy_count_runs_that_never_get_there(tmp_path: Path):
    write_sweep(tmp_path, {
        "relu": [{"val_accuracy": [0.1, 0.2, 0.30]}, {"val_accuracy": [0.1, 0.2, 0.32]}],
        "scaled 2": [{"val_accuracy": [0.31, 0.2, 0.2]}, {"val_accuracy": [0.1, 0.1, 0.4]},
                     {"val_accuracy": [0.3, 0.3, 0.3]}],
        "scaled 4": [{"val_accuracy": [0.1, 0.5, 0.5]}, {"val_accuracy": [0.1], "outcome": "diverged"},
                     {"val_accuracy": [0.1, 0.1, 0.1]}],
    })  # fmt: skip
    table = statistics.summary(aggregate.read([tmp_path])).set_index("configuration")
    assert table.baseline_accuracy.tolist() == pytest.approx([0.31] * 3)
    assert table.reached_baseline.tolist() == [1, 2, 1]
    assert table.epochs_to_baseline["scaled r=2"] == 3  # of 1, 3, never
    assert math.isnan(table.epochs_to_baseline["scaled r=4"])  # of 2, never, never


def test_where_each_configuration_is_its_own_baseline_there_is_none(tmp_path: Path):
    for lr in (0.01, 0.1):
        write_run(tmp_path / f"{lr}", lr=lr)
    assert statistics.summary(aggregate.read([tmp_path])).epochs_to_baseline.isna().all()


def test_a_run_that_has_not_ended_is_not_one_that_never_gets_there(tmp_path: Path):
    runs = [{"val_accuracy": [0.2, 0.3]}, {"val_accuracy": [0.1], "outcome": "running"}]
    write_sweep(tmp_path, {"relu": [{"val_accuracy": [0.1, 0.2]}] * 2, "scaled 2": runs})
    table = statistics.summary(aggregate.read([tmp_path])).set_index("configuration")
    assert table.epochs_to_baseline["scaled r=2"] == 1 and table.ended["scaled r=2"] == 1


def test_paired_comparison_is_scipys_paired_t_test():
    rng = np.random.default_rng(3)
    base = pd.Series(rng.normal(0.3, 0.05, 6))
    other = base + rng.normal(0.02, 0.01, 6)
    row = statistics.paired(other, base)
    test = stats.ttest_rel(other, base)
    interval = test.confidence_interval(0.95)
    assert row["p_uncorrected"] == pytest.approx(test.pvalue)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
    assert row["effect"] == pytest.approx(test.statistic / math.sqrt(6) * statistics.hedges_correction(5))


def test_pairs_are_seeds_that_both_have():
    base, other = pd.Series({0: 1.0, 1: 2.0, 2: 4.0, 3: 8.0}), pd.Series({1: 3.0, 2: 4.5, 3: NAN, 4: 9.0})
    row = statistics.paired(other, base)
    assert (row["pairs"], row["unpaired"], row["difference"]) == (2, 3, 0.75)
    assert row["note"] == f"{statistics.TOO_FEW}: 3 of 5 have no pair" and "p_uncorrected" not in row


def test_differences_that_do_not_vary_are_not_tested():
    base = pd.Series([0.1, 0.2, 0.7])
    row = statistics.paired(base + 0.1, base)  # 0.1 + 0.7 - 0.7 is not 0.1 to the last bit
    assert "do not vary" in row["note"] and "effect" not in row


@pytest.mark.parametrize("freedom, published", [(2, 0.5642), (3, 0.7236), (4, 0.7979), (10, 0.9228), (50, 0.9849)])
def test_hedges_correction_is_his_table(freedom: int, published: float):
    assert statistics.hedges_correction(freedom) == pytest.approx(published, abs=6e-5)


def test_hedges_correction_removes_the_bias_of_small_samples():
    draws = np.random.default_rng(1).normal(0.8, 1.0, (100_000, 4))
    d = draws.mean(1) / draws.std(1, ddof=1)
    assert (d * statistics.hedges_correction(3)).mean() == pytest.approx(0.8, abs=0.02)
    assert d.mean() > 1.0


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_the_closed_bonferroni_test(seed: int):
    """A hypothesis is rejected when every set of hypotheses that it is in is: the definition Holm is a short way to."""
    p = np.random.default_rng(seed).uniform(0, 0.2, 5).tolist()
    sets = [s for n in range(1, 6) for s in itertools.combinations(range(5), n)]
    closed = [max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(5)]
    assert statistics.holm(p) == pytest.approx(closed)


def test_holm_counts_only_the_tests_that_were_made():
    assert statistics.holm([0.01, NAN, 0.04])[::2] == pytest.approx([0.02, 0.04])
    assert math.isnan(statistics.holm([NAN])[0]) and statistics.holm([]) == []


def test_each_configuration_is_compared_with_the_baseline_of_its_other_settings(tmp_path: Path):
    for activation, lr in itertools.product(("relu", "scaled"), (0.01, 0.1)):
        write_run(tmp_path / f"{activation}{lr}", activation, 2.0 if activation == "scaled" else 1.0, lr=lr)
    write_run(tmp_path / "alone", "scaled", 2.0, lr=1.0)
    runs = statistics.measures(aggregate.read([tmp_path]))
    assert statistics.baselines(runs) == {
        "relu lr=0.01": "relu lr=0.01", "relu lr=0.1": "relu lr=0.1",
        "scaled r=2 lr=0.01": "relu lr=0.01", "scaled r=2 lr=0.1": "relu lr=0.1",
    }  # fmt: skip
    assert statistics.baselines(runs, "scaled r=2")["relu lr=0.1"] == "scaled r=2 lr=0.1"
    assert set(statistics.baselines(runs, "relu lr=0.1").values()) == {"relu lr=0.1"}
    with pytest.raises(ValueError, match="baseline 'tanh': no such configuration"):
        statistics.baselines(runs, "tanh")


def test_comparisons_are_corrected_within_a_measure(tmp_path: Path):
    rng = np.random.default_rng(5)
    cells = {
        name: [{"val_accuracy": [a]} for a in rng.normal(m, 0.02, 5)]
        for name, m in {"relu": 0.3, "scaled 2": 0.35, "scaled 4": 0.33, "scaled 8": 0.31}.items()
    }
    runs = statistics.measures(aggregate.read([write_sweep(tmp_path, cells)]))
    table = statistics.compare(runs, statistics.baselines(runs).items(), ("final_val_accuracy",))
    accuracy = {name: [run["val_accuracy"][0] for run in cell] for name, cell in cells.items()}
    raw = [stats.ttest_rel(accuracy[name], accuracy["relu"]).pvalue for name in list(cells)[1:]]
    assert [c.configuration for c in table] == ["scaled r=2", "scaled r=4", "scaled r=8"]
    assert [c.p_uncorrected for c in table] == pytest.approx(raw)
    assert min(c.p for c in table) == pytest.approx(3 * min(raw)) and all(c.p >= c.p_uncorrected for c in table)


def _compared(folder: Path, measure: str = "final_val_accuracy") -> statistics.Comparison:
    runs = statistics.measures(aggregate.read([folder]))
    [comparison] = statistics.compare(runs, statistics.baselines(runs).items(), (measure,))
    return comparison


def test_pairs_of_unequal_numbers_of_epochs_are_left_out_and_counted(tmp_path: Path):
    for seed in range(6):
        lengths = (13, 18) if seed < 2 else (18, 18) if seed < 5 else (13, 13)
        for (activation, r), n in zip((("relu", 1.0), ("scaled", 2.0)), lengths, strict=True):
            level = 0.9 if seed < 2 and r > 1 else 0.1 * r + 0.01 * seed * r
            write_run(tmp_path / f"{activation}{seed}", activation, r, seed, val_accuracy=[0.0] * (n - 1) + [level],
                      train_loss=[1.0] * n, settings={"epochs": 18})  # fmt: skip
    comparison = _compared(tmp_path)
    assert (comparison.pairs, comparison.unpaired, comparison.unequal_epochs) == (4, 2, 2)
    assert comparison.difference == pytest.approx(np.mean([0.1 + 0.01 * seed for seed in (2, 3, 4, 5)]))
    assert comparison.p < 0.05


@pytest.mark.parametrize("outcome", LOST)
def test_survivors_are_not_tested_and_the_others_are_corrected_without_them(tmp_path: Path, outcome: str):
    """However far apart: half of the one side's runs were lost, and those that are left are no sample of it."""
    accuracy = [0.3 + 0.01 * seed**0.5 for seed in range(10)]
    better = [{"val_accuracy": [0.1, a + 0.3 + 0.01 * a]} for a in accuracy]
    write_sweep(tmp_path, {
        "relu": [{"val_accuracy": [0.1, a]} for a in accuracy],
        "scaled 2": better,
        "scaled 8": [run | ({"outcome": outcome} if seed % 2 else {}) for seed, run in enumerate(better)],
    })  # fmt: skip
    runs = statistics.measures(aggregate.read([tmp_path]))
    whole, half = statistics.compare(runs, statistics.baselines(runs).items(), ("final_val_accuracy",))
    assert whole.p == whole.p_uncorrected < 0.001
    assert half.pairs == 5 and half.difference > 0.3 and math.isnan(half.p) and math.isnan(half.low)
    assert half.note == "no test: 5 of 10 runs lost, 0 of 10 of the baseline"


def test_what_the_intervals_cover_is_what_differs_between_the_seeds(tmp_path: Path):
    for seed in range(3):
        write_run(tmp_path / "fixed" / str(seed), seed=seed)
        write_run(tmp_path / "drawn" / str(seed), seed=seed, settings={"data_seed": seed})
    fixed, drawn = (statistics.covers(aggregate.read([tmp_path / name]).runs) for name in ("fixed", "drawn"))
    assert "initial weights only" in fixed and "5 to 15 times too narrow" in fixed
    assert "order of the batches and choice of classes" in drawn and "only" not in drawn


def test_the_best_accuracy_decides_where_it_is_asked_for(tmp_path: Path):
    """By the last epoch the other is the better one."""
    curves = {"relu": ([0.1, 0.5, 0.1], [0.1, 0.51, 0.12]), "scaled 2": ([0.4, 0.3, 0.2], [0.42, 0.3, 0.21])}
    write_sweep(tmp_path, {name: [{"val_accuracy": c} for c in of_it] for name, of_it in curves.items()})
    assert _compared(tmp_path, "best_val_accuracy").difference == pytest.approx(-0.095)
    assert _compared(tmp_path).difference == pytest.approx(0.095)
    table = statistics.summary(aggregate.read([tmp_path])).set_index("configuration")
    assert table.best_val_accuracy.tolist() == pytest.approx([0.505, 0.41])
