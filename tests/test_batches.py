"""Batches: every sample once, in an order of (data_seed, epoch), normalised per channel."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from small_sets import arrays, picture_tree, run_settings, settings

from mlp_sweep import config
from mlp_sweep.data import Batches
from mlp_sweep.data.batches import order
from mlp_sweep.data.read_ahead import fits

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


def augmented(split: Split, flip: bool, shift: int) -> Batches:
    x_NCHW, y_N, mean_C, std_C = split
    augment = config.Augment(flip=flip, shift=shift)
    return Batches(x_NCHW, y_N, mean_C, std_C, 64, torch.device("cpu"), torch.float64, augment=augment)


def moved(split: Split, flip: bool, shift: int, key: tuple[int, int]) -> np.ndarray:
    """An epoch's pictures in their own order, as grey levels again."""
    x_NCHW, _, mean_C, std_C = split
    x_ND = np.concatenate([x_BD.numpy().copy() for x_BD, _ in augmented(split, flip, shift)(None, key)])
    return x_ND.reshape(x_NCHW.shape) * std_C[:, None, None] + mean_C[:, None, None]


def test_augmentation_is_of_data_seed_and_epoch_alone(split):
    once = moved(split, True, 2, (3, 1))
    torch.manual_seed(9)
    np.testing.assert_array_equal(once, moved(split, True, 2, (3, 1)))
    assert (once != moved(split, True, 2, (3, 2))).any() and (once != moved(split, True, 2, (4, 1))).any()


def test_every_picture_is_moved_as_it_may_be(split):
    x_NCHW = split[0].astype(float)
    height, width = x_NCHW.shape[2:]
    padded = np.pad(x_NCHW, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    windows = [padded[:, :, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    allowed = np.stack(windows + [window[..., ::-1] for window in windows])
    seen = moved(split, True, 1, (0, 1))
    same = np.abs(allowed - seen).max((2, 3, 4)) < 1e-9
    assert same.any(0).all()
    assert (same.sum(1) > 0).all()  # each of the 18 ways occurs among 150 pictures


def test_flip_alone_mirrors_about_half(split):
    x_NCHW, seen = split[0].astype(float), moved(split, True, 0, (0, 1))
    kept = np.abs(seen - x_NCHW).max((1, 2, 3)) < 1e-9
    mirrored = np.abs(seen - x_NCHW[..., ::-1]).max((1, 2, 3)) < 1e-9
    assert (kept ^ mirrored).all() and 50 < mirrored.sum() < 100


def test_augmentation_is_off_by_default_and_keeps_labels_and_order(split):
    assert run_settings("synthetic").augment == config.Augment(flip=False, shift=0)
    _, plain, _ = collected(batches_of(split, 64, torch.float64))
    still = np.concatenate([x_BD.numpy().copy() for x_BD, _ in augmented(split, False, 0)()])
    np.testing.assert_array_equal(plain, still)
    labels = [y_B.numpy().copy() for _, y_B in augmented(split, True, 1)(order(0, 1, 150), (0, 1))]
    assert np.concatenate(labels).tolist() == order(0, 1, 150).tolist()


def read_ahead(split: Split, folder: Path, batch_size: int) -> Batches:
    """The split from a file, as if it did not fit in memory."""
    x_NCHW, y_N, mean_C, std_C = split
    np.save(folder / "x.npy", x_NCHW)
    mapped = np.load(folder / "x.npy", mmap_mode="c")
    return Batches(mapped, y_N, mean_C, std_C, batch_size, torch.device("cpu"), in_memory=False)


@pytest.mark.parametrize("batch_size", [1, 64, 150, 999])
def test_what_is_read_ahead_is_what_memory_gives(split, tmp_path, batch_size):
    batches, plain = read_ahead(split, tmp_path, batch_size), batches_of(split, batch_size)
    for order_N in (None, order(0, 1, 150), order(0, 2, 150)):
        for seen, expected in zip(collected(batches, order_N), collected(plain, order_N), strict=True):
            np.testing.assert_array_equal(seen, expected)


def test_reading_ahead_can_be_broken_off(split, tmp_path):
    batches = read_ahead(split, tmp_path, 2)
    before = threading.active_count()
    epoch = batches(order(0, 1, 150))
    next(epoch)
    epoch.close()
    assert threading.active_count() == before


def test_what_fits_in_memory():
    cpu = torch.device("cpu")
    assert fits(0, cpu) and not fits(1 << 60, cpu)


def own_memory() -> int:
    """Bytes of this process that no file stands behind: what the system cannot take back."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="not Linux")
@pytest.mark.parametrize("in_memory", [False, True])
def test_a_split_that_does_not_fit_takes_the_memory_of_a_batch(tmp_path, in_memory):
    """120 MB of pictures, in random order, of which less than a tenth may become the process's own."""
    shape = (10_000, 3, 64, 64)
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, shape).flush()  # holes: nothing is written
    x_NCHW = np.load(tmp_path / "x.npy", mmap_mode="c")
    x_NCHW = np.array(x_NCHW) if in_memory else x_NCHW  # as a control: the whole of it is seen
    x_NCHW[:1] = 0
    before = own_memory() - in_memory * x_NCHW.nbytes
    level_C, y_N = np.full(3, 100.0), np.zeros(len(x_NCHW), np.int64)
    batches = Batches(x_NCHW, y_N, level_C, level_C, 64, torch.device("cpu"), in_memory=in_memory)
    most = max(own_memory() for _ in batches(order(0, 1, len(x_NCHW))))
    assert (most - before > x_NCHW.nbytes // 2) == in_memory
    assert in_memory or most - before < x_NCHW.nbytes // 10


def test_a_cache_cut_short_is_never_mapped(tmp_path):
    """Reading past the end of a mapped file would kill the process (SIGBUS): NumPy and the cache look first."""
    dataset = settings("image_folder", root=str(picture_tree(tmp_path / "set", ["a", "b"], 40)), num_classes=2)
    made = arrays(dataset, tmp_path / "data")
    file, whole = made.folder / "train_x.npy", np.array(made.train_x)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError):
        np.load(file, mmap_mode="c")
    again = arrays(dataset, tmp_path / "data")
    batches = Batches(again.train_x, again.train_y, again.mean_C, again.std_C, 7, torch.device("cpu"), in_memory=False)
    seen = np.concatenate([raw_BD.numpy().copy() for raw_BD in batches._raw(None)])
    np.testing.assert_array_equal(seen.reshape(whole.shape), whole)
