"""Chunks on their way to a device: what memory gives, whatever the sizes, also where it is broken off."""

import threading

import numpy as np
import pytest
import torch

from mlp_sweep.data import Batches, transfer
from mlp_sweep.data.batches import order
from mlp_sweep.data.transfer import Transfer

CPU = torch.device("cpu")
X_ND = torch.arange(150 * 12).remainder(251).to(torch.uint8).view(150, 12)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 150, 999])
@pytest.mark.parametrize("chunk", [1, 12 * 64, 12 * 100, 1 << 20])
def test_every_batch_is_that_of_the_order(batch_size: int, chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transfer, "CHUNK", chunk)
    bring = Transfer(batch_size, 12, CPU)
    for epoch in (1, 2):
        rows = order(0, epoch, 150).split(batch_size)
        seen = [raw_BD.clone() for raw_BD in bring(X_ND, rows)]
        assert [len(raw_BD) for raw_BD in seen] == [len(rows_B) for rows_B in rows]
        assert all(torch.equal(raw_BD, X_ND[rows_B]) for raw_BD, rows_B in zip(seen, rows, strict=True))


def test_it_can_be_broken_off_and_begun_anew(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transfer, "CHUNK", 24)
    bring, rows = Transfer(2, 12, CPU), order(0, 1, 150).split(2)
    before = threading.active_count()
    for taken in (0, 1, 3):
        epoch = bring(X_ND, rows)
        for _ in range(taken):
            next(epoch)
        epoch.close()
        assert threading.active_count() == before
    assert torch.equal(next(bring(X_ND, rows)), X_ND[rows[0]])


def test_what_goes_wrong_in_the_thread_is_raised_in_the_loop():
    with pytest.raises(IndexError):
        list(Transfer(2, 12, CPU)(X_ND, [torch.tensor([0, 150])]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_of_a_set_that_the_device_has_no_room_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(transfer, "CHUNK", 3 * 64 * 3072)
    x_NCHW = np.random.default_rng(0).integers(0, 256, (1000, 3, 32, 32), np.uint8)
    y_N, level_C = np.arange(1000), np.full(3, 100.0)
    there, brought = (
        Batches(x_NCHW, y_N, level_C, level_C, 64, torch.device("cuda"), in_memory=in_memory)
        for in_memory in (True, False)
    )
    for order_N in (None, order(0, 1, 1000), order(0, 2, 1000)):
        for (x_BD, y_B), (expected_BD, expected_B) in zip(brought(order_N), there(order_N), strict=True):
            assert torch.equal(x_BD, expected_BD) and torch.equal(y_B, expected_B)
