import math

import numpy as np
import pytest
import torch
from conftest import make_run

from mlp_sweep import console, engines
from mlp_sweep.data import Batches, load
from mlp_sweep.data.batches import order
from mlp_sweep.engines import StackedEngine
from mlp_sweep.events import Row
from mlp_sweep.train import fit

CPU = torch.device("cpu")


def splits(run):
    arrays = load(run.dataset, run.data_seed, run.data_dir, console.Progress())
    of_both = ((arrays.train_x, arrays.train_y, run.augment), (arrays.val_x, arrays.val_y, None))
    return [Batches(x, y, arrays.mean_C, arrays.std_C, run.batch_size, CPU, augment=a) for x, y, a in of_both]


@pytest.mark.parametrize("augment", [(), ("augment.flip=true", "augment.shift=2")])
def test_loss_and_accuracy_run_over_the_epoch(small_run, augment: tuple[str, ...]):
    """Each sample counts once, before its own update, moved as its epoch says; the last short batch by its length."""
    run = small_run("batch_size=50", *augment)
    train, val = splits(run)
    assert train.count % 50 != 0
    features = train.x_ND.shape[1]
    engine, twin = (StackedEngine([run], features, 12, CPU) for _ in range(2))
    for either in (engine, twin):
        either.weights(0)["layers.0.bias"][:32] = -1e3  # so that the hidden layers differ in dead units
    seen: list[int] = []
    rows = [rows[0] for rows in fit(engine, train, val, run.data_seed, range(1, 3), seen.append)]
    assert sum(seen) == 2 * train.count and max(seen) == 50
    for epoch, row in enumerate(rows, 1):
        loss = right = 0.0
        for x_BD, y_B in train(order(run.data_seed, epoch, train.count), (run.data_seed, epoch)):
            batch_loss, batch_right = twin.step(x_BD, y_B)
            loss += batch_loss.item() * len(y_B)
            right += batch_right.item()
        np.testing.assert_allclose(row.train_loss, loss / train.count, rtol=1e-12)
        assert row.train_accuracy == right / train.count
        evaluated = [twin.evaluate(x_BD, y_B) for x_BD, y_B in _evaluated(twin, val)]
        assert row.val_accuracy == sum(right.item() for _, right in evaluated) / val.count
        np.testing.assert_allclose(row.val_loss, sum(loss.item() for loss, _ in evaluated) / val.count, rtol=1e-12)
        assert row.dead == twin.dead()[:, 0].tolist() and row.dead[0] >= 0.5 > row.dead[1]
        assert row.epoch == epoch and row.seconds > 0


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


def test_members_keep_their_numbers_however_many_are_gone(small_run):
    runs = [small_run(), small_run("seed=1"), small_run("seed=2")]
    train, val = splits(runs[0])
    engine = StackedEngine(runs, train.features, 12, CPU)
    epochs = []
    for rows in fit(engine, train, val, 0, range(1, 5), lambda _: None):
        epochs.append([(row.member, row.slot, row.diverged_at) for row in rows])
        if len(epochs) < 3:  # the next one diverges at the next step
            engine.weights(len(epochs) - 1)["layers.0.bias"].fill_(math.nan)
    assert epochs == [
        [(0, 0, None), (1, 1, None), (2, 2, None)],
        [(0, 0, 1), (1, 1, None), (2, 2, None)],
        [(1, 0, 1), (2, 1, None)],
        [(2, 0, None)],
    ]


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


class TestDivergedAt:
    """The step, from 1, of the first loss that is not finite; one past the last step where validation's is."""

    def _engine(self, run, train) -> StackedEngine:
        return StackedEngine([run], train.features, 12, CPU)

    def _first(self, run) -> Row:
        train, val = splits(run)
        return next(fit(self._engine(run, train), train, val, 0, range(1, 3), lambda _: None, stay=True))[0]

    @pytest.mark.parametrize(("slope", "hidden"), [("1e5", "[64,128]"), ("1e10", "[64,128]"), ("1e18", "[9,9,9]")])
    def test_is_the_first_step_without_a_finite_loss(self, small_run, slope: str, hidden: str):
        run = small_run("activation=scaled", f"activation.r={slope}", f"model.hidden={hidden}", "batch_size=12")
        train, _ = splits(run)
        twin = self._engine(run, train)
        losses = [twin.step(x_BD, y_B)[0].item() for x_BD, y_B in train(order(0, 1, train.count))]
        first = [math.isfinite(loss) for loss in losses].index(False) + 1
        assert first == {"1e5": 3, "1e10": 2, "1e18": 1}[slope]
        assert self._first(run).diverged_at == first

    def test_is_the_last_step_where_only_the_last_loss_is_not_finite(self, small_run):
        """The same run as with an update too large for validation, one step later."""
        run = small_run("batch_size=66", "optimizer.lr=1e18")
        assert len(splits(run)[0]) == 2 and self._first(run).diverged_at == 2

    def test_is_one_past_the_last_where_validation_is_not_finite(self, small_run):
        run = small_run("batch_size=1000", "optimizer.lr=1e18")  # one step, whose update is too large
        row = self._first(run)
        assert row.diverged_at == 2
        assert all(math.isnan(figure) for figure in (row.train_loss, row.val_loss, row.grad_norm, *row.dead))

    def test_is_none_where_all_are_finite(self, small_run):
        row = self._first(small_run("batch_size=1000"))
        assert row.diverged_at is None and math.isfinite(row.train_loss + row.val_loss + row.grad_norm)

    @pytest.mark.parametrize(("bias", "diverged_at"), [(3e38, 1), (1e33, None)])
    def test_counts_an_infinite_loss(self, small_run, bias: float, diverged_at: int | None):
        """Weights may stay finite meanwhile."""
        run = small_run("optimizer.lr=1e-9")
        train, val = splits(run)
        engine = self._engine(run, train)
        biases_C = torch.tensor([bias, *[-bias] * 11])
        engine.load(0, engine.state(0) | {"layers.2.bias": biases_C})
        row = next(fit(engine, train, val, 0, range(1, 2), lambda _: None))[0]
        assert row.diverged_at == diverged_at and torch.equal(engine.weights(0)["layers.2.bias"], biases_C)


@pytest.mark.parametrize("stackable", [True, False])
def test_the_gradient_norm_is_that_of_the_last_step(small_run, stackable: bool):
    """Taken before validation, whose batches have the same size and the same buffers."""
    run = small_run("batch_size=12")
    train, val = splits(run)
    assert train.count % 12 == val.count % 12 == 0
    engine, twin = (engines.build([run], stackable, train.features, 12, CPU) for _ in range(2))
    row = next(fit(engine, train, val, 0, range(1, 2), lambda _: None))[0]
    x_BD = train.x_ND[:0]
    for x_BD, y_B in train(order(0, 1, train.count)):
        twin.step(x_BD, y_B)
    assert row.grad_norm == twin.grad_norm(x_BD).item() > 0
