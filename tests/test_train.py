import math

import numpy as np
import torch
from conftest import make_run

from mlp_sweep import console
from mlp_sweep.data import Batches, load
from mlp_sweep.engines import StackedEngine
from mlp_sweep.train import fit

CPU = torch.device("cpu")


def splits(run):
    arrays = load(run.dataset, run.data_seed, run.data_dir, console.Progress())
    pairs = ((arrays.train_x, arrays.train_y), (arrays.val_x, arrays.val_y))
    return [Batches(x, y, arrays.mean_C, arrays.std_C, run.batch_size, CPU) for x, y in pairs]


def test_loss_and_accuracy_run_over_the_epoch(small_run):
    """Each sample counts once, before its own update; the last short batch by its length."""
    run = small_run("batch_size=50")
    train, val = splits(run)
    assert train.count % 50 != 0
    features = train.x_ND.shape[1]
    engine, twin = (StackedEngine([run], features, 12, CPU) for _ in range(2))
    rows = [rows[0] for rows in fit(engine, train, val, run.data_seed, range(1, 3), lambda _: None)]
    from mlp_sweep.data.batches import order

    for epoch, row in enumerate(rows, 1):
        loss = right = 0.0
        for x_BD, y_B in train(order(run.data_seed, epoch, train.count)):
            batch_loss, batch_right = twin.step(x_BD, y_B)
            loss += batch_loss.item() * len(y_B)
            right += batch_right.item()
        np.testing.assert_allclose(row.train_loss, loss / train.count, rtol=1e-12)
        assert row.train_accuracy == right / train.count
        val_right = sum(twin.evaluate(x_BD, y_B)[1].item() for x_BD, y_B in _evaluated(twin, val))
        assert row.val_accuracy == val_right / val.count


def _evaluated(engine, split):
    engine.start_evaluation()
    return split()


def test_a_diverged_member_has_its_step_and_is_gone_at_the_next_epoch(small_run):
    runs = [small_run(), small_run("activation=scaled", "activation.r=1e6"), small_run("seed=1")]
    train, val = splits(runs[0])
    engine = StackedEngine(runs, train.x_ND.shape[1], 12, CPU)
    epochs = []
    for rows in fit(engine, train, val, 0, range(1, 4), lambda _: None):
        epochs.append([(row.member, row.diverged_at) for row in rows])
        for row in rows:
            figures = [row.train_loss, row.train_accuracy, row.val_loss, row.val_accuracy, row.grad_norm, *row.dead]
            assert all(math.isnan(f) for f in figures) == (row.diverged_at is not None)
    assert [[m for m, _ in rows] for rows in epochs] == [[0, 1, 2], [0, 2], [0, 2]]
    assert 1 <= epochs[0][1][1] <= len(train)


def test_a_diverged_member_may_stay_and_touches_no_other(small_run):
    """It has rows without figures to the end and the step of its first divergence; the others have the same bits."""
    runs = [small_run(), small_run("activation=scaled", "activation.r=1e6"), small_run("seed=1")]
    train, val = splits(runs[0])
    stays, stops = (StackedEngine(runs, train.x_ND.shape[1], 12, CPU) for _ in range(2))
    with_it = list(fit(stays, train, val, 0, range(1, 4), lambda _: None, stay=True))
    without = list(fit(stops, train, val, 0, range(1, 4), lambda _: None))
    figures = [[(r.train_loss, r.val_loss, r.grad_norm, r.dead) for r in rows if r.member != 1] for rows in with_it]
    assert figures == [
        [(r.train_loss, r.val_loss, r.grad_norm, r.dead) for r in rows if r.member != 1] for rows in without
    ]
    first, *later = [rows[1] for rows in with_it]
    assert len(later) == 2 and all(math.isnan(row.val_loss) and row.diverged_at == first.diverged_at for row in later)
    for kept, whole in ((0, 0), (1, 2)):
        for name, weight in stops.weights(kept).items():
            assert torch.equal(weight, stays.weights(whole)[name])


def test_training_ends_when_no_member_is_left(small_run):
    run = small_run("activation=scaled", "activation.r=1e6")
    train, val = splits(run)
    engine = StackedEngine([run], train.x_ND.shape[1], 12, CPU)
    assert len(list(fit(engine, train, val, 0, range(1, 4), lambda _: None))) == 1


def test_no_epoch_is_no_row(small_run):
    run = small_run()
    train, val = splits(run)
    assert (
        list(fit(StackedEngine([run], train.x_ND.shape[1], 12, CPU), train, val, 0, range(1, 1), lambda _: None)) == []
    )


def test_default_data_show_the_experiment(data_dir):
    """On the generated pictures relu learns steadily, r = 2 starts faster and r = 62 diverges in the first epoch."""
    common = (f"data_dir={data_dir}", "activation=scaled")
    runs = [make_run(f"data_dir={data_dir}"), make_run(*common, "activation.r=2"), make_run(*common)]
    train, val = splits(runs[0])
    engine = StackedEngine(runs, train.x_ND.shape[1], 72, CPU)
    epochs = list(fit(engine, train, val, 0, range(1, 7), lambda _: None))
    relu = [rows[0].train_loss for rows in epochs]
    assert all(later < earlier for earlier, later in zip(relu, relu[1:], strict=False))
    assert all(rows[1].train_loss < rows[0].train_loss for rows in epochs)
    assert epochs[0][2].diverged_at and all(len(rows) == 2 for rows in epochs[1:])
    assert epochs[-1][0].val_accuracy > 5 / 72
