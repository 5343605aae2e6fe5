"""The one epoch loop; it knows neither how many members an engine trains nor how.

Shapes: M members, S steps of an epoch, L hidden layers.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from .data.batches import Batches, order
from .engines import Engine


@dataclass
class Row:
    """One member's epoch. Figures of a member that left the finite numbers are NaN."""

    member: int  # as numbered when training began
    slot: int  # where it is in the engine now
    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    grad_norm: float  # of the epoch's last batch, before its update
    dead: list[float]  # by hidden layer, share of units that no validation sample activates
    seconds: float  # wall time of the whole stack's epoch, training and validation
    diverged_at: int | None  # the first step (from 1) whose loss was not finite; one past the last if validation's


def fit(
    engine: Engine, train: Batches, val: Batches, data_seed: int, epochs: range, on_batch: Callable[[int], None]
) -> Iterator[list[Row]]:
    """Trains epoch by epoch (the first is 1); yields a row a member after each, calls on_batch with each batch's size.

    A member that left the finite numbers has its last row, and is gone from the engine at the next epoch.
    """
    steps = len(train)
    members = list(range(engine.members))
    for epoch in epochs:
        started = time.perf_counter()
        loss_SM = torch.empty(steps, engine.members, dtype=torch.float64, device=train.x_ND.device)
        right_M = torch.zeros(engine.members, dtype=torch.int64, device=train.x_ND.device)
        x_BD = train.x_ND[:0]
        for step, (x_BD, y_B) in enumerate(train(order(data_seed, epoch, train.count))):
            loss_M, batch_right_M = engine.step(x_BD, y_B)
            loss_SM[step] = loss_M
            right_M += batch_right_M
            on_batch(len(y_B))
        grad_norm_M = engine.grad_norm(x_BD)
        engine.start_evaluation()
        val_loss_M = torch.zeros(engine.members, dtype=torch.float64, device=train.x_ND.device)
        val_right_M = torch.zeros_like(right_M)
        for x_BD, y_B in val():
            loss_M, batch_right_M = engine.evaluate(x_BD, y_B)
            val_loss_M += loss_M
            val_right_M += batch_right_M

        size_S1 = torch.full((steps, 1), train.batch_size, dtype=torch.float64)
        size_S1[-1] = train.count - (steps - 1) * train.batch_size
        loss_SM = loss_SM.cpu()  # the epoch's one wait for the device
        train_loss_M = (loss_SM * size_S1).sum(0) / train.count
        finite_SM = torch.cat([loss_SM, val_loss_M.cpu()[None]]).isfinite()
        dead_LM, grad_norm_M = engine.dead().cpu(), grad_norm_M.cpu()
        seconds = time.perf_counter() - started
        rows = []
        for m in range(engine.members):
            if finite_SM[:, m].all():
                rows.append(
                    Row(
                        members[m],
                        m,
                        epoch,
                        float(train_loss_M[m]),
                        int(right_M[m]) / train.count,
                        float(val_loss_M[m]) / val.count,
                        int(val_right_M[m]) / val.count,
                        float(grad_norm_M[m]),
                        dead_LM[:, m].tolist(),
                        seconds,
                        None,
                    )
                )
            else:
                first = int(finite_SM[:, m].int().argmin()) + 1
                nan = float("nan")
                rows.append(Row(members[m], m, epoch, nan, nan, nan, nan, nan, [nan] * len(dead_LM), seconds, first))
        yield rows
        finite = [row.slot for row in rows if row.diverged_at is None]
        if not finite:
            return
        if len(finite) < len(members):
            members = [members[slot] for slot in finite]
            engine.keep(finite)
