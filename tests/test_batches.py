"""Batches: every sample once, in an order of (data_seed, epoch), normalised per channel."""

import numpy as np
import pytest
import torch

from mlp_sweep.data import Batches
from mlp_sweep.data.batches import order

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_NCHW, y_N, mean_C, std_C


@pytest.fixture
def split() -> Split:
    rng = np.random.RandomState(0)
    x_NCHW = rng.randint(0, 256, (150, 3, 4, 5), dtype=np.uint8)
    y_N = np.arange(150)  # a label of its own, so that every sample can be told from the others
    x_ND = x_NCHW.reshape(150, 3, -1).astype(np.float64)
    return x_NCHW, y_N, x_ND.mean((0, 2)), x_ND.std((0, 2))


def batches_of(split: Split, batch_size: int, dtype: torch.dtype = torch.float32) -> Batches:
    x_NCHW, y_N, mean_C, std_C = split
    return Batches(x_NCHW, y_N, mean_C, std_C, batch_size, torch.device("cpu"), dtype)


def collected(batches: Batches, order_N=None) -> tuple[list[int], np.ndarray, np.ndarray]:
    sizes, xs, ys = [], [], []
    for x_BD, y_B in batches(order_N):
        sizes.append(len(y_B))
        xs.append(x_BD.numpy().copy())
        ys.append(y_B.numpy().copy())
    return sizes, np.concatenate(xs), np.concatenate(ys)


def test_an_epoch_covers_the_split_once_with_the_last_short_batch(split):
    batches = batches_of(split, 64)
    sizes, _, y_N = collected(batches, order(0, 1, 150))
    assert sizes == [64, 64, 22] and len(batches) == 3
    assert sorted(y_N) == list(range(150))
    assert list(y_N) == order(0, 1, 150).tolist()


def test_without_an_order_the_split_comes_as_it_lies(split):
    assert list(collected(batches_of(split, 64))[2]) == list(range(150))


def test_a_batch_larger_than_the_split_is_the_split(split):
    assert collected(batches_of(split, 1000))[0] == [150]


def test_the_order_is_of_data_seed_and_epoch_alone():
    orders = {(seed, epoch): tuple(order(seed, epoch, 99).tolist()) for seed in (0, 1) for epoch in (1, 2)}
    assert len(set(orders.values())) == 4
    np.random.seed(5)
    torch.manual_seed(5)
    assert orders == {key: tuple(order(*key, 99).tolist()) for key in reversed(orders)}


def test_the_order_is_the_same_on_every_machine():
    assert order(3, 7, 10).tolist() == [8, 3, 6, 2, 9, 5, 7, 1, 0, 4]


def test_samples_are_normalised_per_channel(split):
    x_NCHW, y_N, mean_C, std_C = split
    _, x_ND, y = collected(batches_of(split, 64, torch.float64), order(1, 1, 150))
    expected = (x_NCHW - mean_C[:, None, None]) / std_C[:, None, None]
    np.testing.assert_allclose(x_ND, expected.reshape(150, -1)[y], rtol=0, atol=1e-12)
    channels = x_ND.reshape(150, 3, -1)
    np.testing.assert_allclose(channels.mean((0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(channels.std((0, 2)), 1, atol=1e-12)


def test_float32_batches_are_the_float64_ones_rounded(split):
    _, single, _ = collected(batches_of(split, 64), order(1, 1, 150))
    _, double, _ = collected(batches_of(split, 64, torch.float64), order(1, 1, 150))
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-6)
