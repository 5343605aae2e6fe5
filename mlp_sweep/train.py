"""The one epoch loop; it knows neither how many members an engine trains nor how.

Shapes: M members, S steps of an epoch, L hidden layers.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from .data.batches import Batches, order
from .engines import Engine
from .events import Row


def fit(
    engine: Engine,
    train: Batches,
    val: Batches,
    data_seed: int,
    epochs: range,
    on_batch: Callable[[int], None],
    diverged_at: Sequence[int | None] = (),
    stay: bool = False,
) -> Iterator[list[Row]]:
    """Trains epoch by epoch (the first is 1); yields a row a member after each, calls on_batch with each batch's size.

    A member that diverges has its last row and leaves the engine, unless it is to stay: then it has rows without
    figures to the end. diverged_at: of members that diverged before.
    """
    diverged = dict(enumerate(diverged_at or [None] * engine.members))
    members = list(range(engine.members))
    for epoch in epochs:
        started = time.perf_counter()
        x_BD, losses, rights = train.x_ND[:0], [], []
        for x_BD, y_B in train(order(data_seed, epoch, train.count), (data_seed, epoch)):
            loss_M, right_M = engine.step(x_BD, y_B)
            losses.append(loss_M.clone())
            rights.append(right_M.clone())
            on_batch(len(y_B))
        grad_norm_M = engine.grad_norm(x_BD)
        engine.start_evaluation()
        evaluated = [engine.evaluate(x_BD, y_B) for x_BD, y_B in val()]

        loss_SM = torch.stack(losses).cpu().double()  # the epoch's one wait for the device
        val_loss_M = torch.stack([loss for loss, _ in evaluated]).cpu().double().sum(0) / val.count
        size_S1 = torch.full((len(train), 1), train.batch_size)
        size_S1[-1] = train.count - (len(train) - 1) * train.batch_size
        right_M = torch.stack(rights).cpu().sum(0).double() / train.count
        val_right_M = torch.stack([right for _, right in evaluated]).cpu().sum(0).double() / val.count
        figures_M4 = torch.stack([(loss_SM * size_S1).sum(0) / train.count, right_M, val_loss_M, val_right_M], 1)
        details_MK = torch.cat([grad_norm_M.cpu()[None], engine.dead().cpu()]).T
        finite_SM = torch.cat([loss_SM, val_loss_M[None]]).isfinite()
        seconds = time.perf_counter() - started
        rows = []
        for slot, member in enumerate(members):
            if diverged[member] is None and not finite_SM[:, slot].all():
                diverged[member] = int(finite_SM[:, slot].int().argmin()) + 1
            unknown = 1.0 if diverged[member] is None else math.nan
            loss, accuracy, val_loss, val_accuracy = (figures_M4[slot] * unknown).tolist()
            grad_norm, *dead = (details_MK[slot] * unknown).tolist()
            rows.append(
                Row(member, slot, epoch, loss, accuracy, val_loss, val_accuracy, grad_norm, dead, seconds,
                    diverged[member])
            )  # fmt: skip
        yield rows
        left = [row.slot for row in rows if stay or row.diverged_at is None]
        if not left:
            return
        if len(left) < len(members):
            members = [members[slot] for slot in left]
            engine.keep(left)
