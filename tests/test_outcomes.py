"""What became of a run: the rule on both sides of each of its thresholds, and where it is applied."""

import math
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from made_up import write_run

from mlp_sweep import aggregate, events, outcomes, plan, record, run_dir, statistics
from mlp_sweep.outcomes import judge
from mlp_sweep.weights import TrainedOn

NAN, INF = float("nan"), float("inf")
LN_10 = math.log(10)


def rows(*train_loss: float, dead: tuple[float, ...] = (0.0, 0.0), val_loss: float = 2.0) -> list[dict[str, float]]:
    shares = {f"dead_{i}": share for i, share in enumerate(dead, 1)}
    return [{"epoch": i, "train_loss": loss, "val_loss": val_loss, **shares} for i, loss in enumerate(train_loss, 1)]


@pytest.mark.parametrize("epochs, outcome", [
    (rows(2.0, 1.0), "ok"),
    (rows(2.0 * LN_10), "ok"),
    (rows(math.nextafter(2.0 * LN_10, INF)), "exploded"),
    (rows(2.0, 1e10, dead=(0.0, 0.9)), "exploded"),
    (rows(1e10, 1.5 * LN_10), "ok"),  # only the last epoch says whether it exploded
    (rows(0.951 * LN_10, dead=(0.0, 0.5)), "collapsed"),
    (rows(0.949 * LN_10, dead=(0.0, 0.5)), "ok"),
    (rows(1.049 * LN_10, dead=(0.5, 0.0)), "collapsed"),
    (rows(1.051 * LN_10, dead=(0.5, 0.0)), "ok"),
    (rows(LN_10, dead=(0.49, 0.49)), "ok"),  # has not learned, but half of no layer is dead
    (rows(LN_10, dead=()), "ok"),  # no hidden layer
    (rows(NAN), "diverged"),
    (rows(INF), "diverged"),
    (rows(2.0, val_loss=NAN), "diverged"),
    (rows(2.0, val_loss=INF), "diverged"),
    (rows(2.0, NAN, 2.0), "diverged"),  # one that went on
    ([], "ok"),
])  # fmt: skip
def test_the_rule(epochs: list[dict[str, float]], outcome: str):
    assert judge(epochs, None, 10)[0] == outcome


def test_every_outcome_but_ok_has_a_reason_with_its_figures():
    assert judge(rows(1.0), None, 10) == ("ok", None)
    assert judge(rows(2.0, NAN), 17, 10)[1] == "a loss became NaN or infinite at step 17 of epoch 2"
    assert judge(rows(NAN), None, 10)[1] == "a loss became NaN or infinite at epoch 1"
    _, exploded = judge(rows(2.0, 10503983296.0, dead=(0.6,)), None, 5)
    assert exploded == "training loss 1.1e+10 in the last epoch, more than 2 times that of guessing (ln C = 1.61)"
    _, collapsed = judge(rows(2.0, LN_10, dead=(0.6,)), None, 10)
    assert collapsed == "training loss 2.30 within 5% of guessing (ln C = 2.30), 60% of a hidden layer's units dead"


@pytest.mark.parametrize("on_the_way, mentioned", [(1.99 * LN_10, False), (2.01 * LN_10, True), (3e18, True)])
def test_a_collapse_mentions_the_explosion_on_the_way(on_the_way: float, mentioned: bool):
    outcome, reason = judge(rows(2.0, on_the_way, LN_10, dead=(0.6,)), None, 10)
    assert outcome == "collapsed" and reason is not None
    assert ("after an explosion" in reason and "in epoch 2" in reason) == mentioned


@pytest.mark.parametrize("classes", [2, 5, 72])
def test_the_chance_level_is_the_loss_of_equal_probabilities(classes: int):
    assert outcomes.chance_level(classes) == pytest.approx(-np.log(np.full(classes, 1 / classes)).mean())


def test_one_class_costs_nothing_and_is_neither_collapsed_nor_exploded():
    assert judge(rows(0.0, dead=(1.0,)), None, 1) == ("ok", None)


def test_lost_outcomes_are_outcomes_of_runs_that_ended():
    assert set(outcomes.LOST) < set(outcomes.ENDED) < set(outcomes.OUTCOMES) and "ok" not in outcomes.LOST


def recorded(folder: Path, small_run, losses: list[float], accuracies: list[float], skip: int = 0) -> dict:
    """The status of a run of these epochs, recorded; the first `skip` were recorded by a process that was stopped."""
    run = small_run(f"epochs={len(losses)}")
    about = {"run_id": "made up", "settings": asdict(run), "engine": "none", "data": {"fingerprint": "made up"}}

    def happenings(first: int, last: int) -> Generator[events.Event]:
        columns = ["epoch", *run_dir.FIGURES, "grad_norm", "dead_1", "dead_2", "seconds"]
        yield events.Started(columns, [about], [])
        state = {"w": np.zeros(2, np.float32)}
        for epoch in range(first, last):
            loss, accuracy = losses[epoch], accuracies[epoch]
            row = events.Row(0, 0, epoch + 1, loss, accuracy, loss, accuracy, 1.0, [0.6, 0.0], 0.1, None)
            yield events.Epoch(row, state)
        if last < len(losses):
            raise KeyboardInterrupt
        yield events.Ended(0, state, False, TrainedOn([f"c{i}" for i in range(12)], ["?"] * 12, [0.0], [1.0]))

    for first, last in ((0, skip), (skip, len(losses))) if skip else ((0, len(losses)),):
        [stack] = plan.stacks([plan.job(run, folder)], None, 1 << 40)
        with suppress(KeyboardInterrupt):
            list(record.record(stack, happenings(first, last)))
    return run_dir.read_status(folder)


@pytest.mark.parametrize("losses, outcome", [
    ([2.0, 1.0, 0.5], "ok"), ([2.0, 1e10, 1e18], "exploded"), ([2.0, 1e10, math.log(12)], "collapsed"),
])  # fmt: skip
def test_a_run_is_judged_when_it_ends(tmp_path: Path, small_run, losses: list[float], outcome: str):
    status = recorded(tmp_path / "run", small_run, losses, [0.1] * 3)
    assert (status["state"], status["outcome"]) == ("finished", outcome)
    assert ("explosion" in (status["reason"] or "")) == (outcome == "collapsed")


@pytest.mark.parametrize("accuracies, skip", [
    ([0.1, 0.5, 0.3], 0), ([0.1, 0.5, 0.3], 2), ([0.5, 0.1, 0.3], 1), ([0.5, 0.1, 0.1], 2), ([0.1, 0.3, 0.5], 2),
])  # fmt: skip
def test_the_best_accuracy_is_that_of_any_epoch_also_after_going_on(
    tmp_path: Path, small_run, accuracies: list[float], skip: int
):
    status = recorded(tmp_path / "run", small_run, [2.0, 1.0, 0.5], accuracies, skip)
    assert status["best_val_accuracy"] == 0.5 and status["final"]["val_accuracy"] == accuracies[-1]


def test_the_best_accuracy_stands_when_a_run_is_taken_up_again(tmp_path: Path, small_run):
    """Before its first new epoch has ended, too."""
    recorded(tmp_path / "run", small_run, [2.0, 1.0, 0.5], [0.1, 0.5, 0.3])
    standing = run_dir.standing(tmp_path / "run")
    directory = run_dir.RunDir(tmp_path / "run")
    directory.start(["epoch", *run_dir.FIGURES, "grad_norm", "dead_1", "dead_2", "seconds"], standing)
    assert run_dir.read_status(tmp_path / "run")["best_val_accuracy"] == 0.5


def test_what_was_recorded_and_what_is_read_are_judged_alike(tmp_path: Path):
    """An older version called this run collapsed."""
    write_run(tmp_path / "a", outcome="exploded", status={"outcome": "collapsed", "reason": "near ln C"})
    write_run(tmp_path / "b", seed=1, outcome="ok", val_accuracy=[0.1, 0.5, 0.3])
    sweep = aggregate.read([tmp_path])
    assert sweep.runs.outcome.tolist() == ["exploded", "ok"]
    assert sweep.runs.reason[0].startswith("training loss 1e+06 in the last epoch")
    assert statistics.measures(sweep).best_val_accuracy.tolist()[1] == 0.5
