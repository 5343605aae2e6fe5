"""Generated pictures: the same bytes on every machine, balanced, and drawn anew by data_seed."""

import numpy as np
import pytest
from small_sets import arrays, settings

FINGERPRINT = "240119e6489472919a6921b60416c4bbd47834c8a17d387a5a003dbe7081d3d9"


def test_the_bytes_are_pinned(tmp_path):
    assert arrays(settings("synthetic"), tmp_path).fingerprint == FINGERPRINT


def test_shapes_and_labels(tmp_path):
    made = arrays(settings("synthetic", num_classes=5, samples_per_class=7, val_per_class=3, image_size=9), tmp_path)
    assert made.train_x.shape == (35, 3, 9, 9) and made.val_x.shape == (15, 3, 9, 9)
    assert made.train_x.dtype == np.uint8
    assert np.bincount(made.train_y).tolist() == [7] * 5 and np.bincount(made.val_y).tolist() == [3] * 5
    assert len(made.classes) == len(made.names) == 5


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_smallest_pictures(tmp_path, size):
    made = arrays(settings("synthetic", num_classes=2, samples_per_class=1, val_per_class=1, image_size=size), tmp_path)
    assert made.train_x.shape == (2, 3, size, size)


def test_data_seed_draws_other_pictures(tmp_path):
    small = settings("synthetic", num_classes=2, samples_per_class=2, val_per_class=2)
    assert arrays(small, tmp_path, 0).fingerprint != arrays(small, tmp_path, 1).fingerprint


def test_pictures_of_a_class_are_alike_and_their_pixels_are_smooth(tmp_path):
    made = arrays(settings("synthetic", num_classes=10), tmp_path)
    x_NCHW = made.train_x.astype(np.float64)
    centres = np.stack([x_NCHW[made.train_y == c].mean(0).ravel() for c in range(10)])
    distance = ((made.val_x.reshape(len(made.val_y), 1, -1) - centres) ** 2).sum(2)
    right = (distance.argmin(1) == made.val_y).mean()
    assert 0.3 < right < 0.95  # far above chance (0.1), and no free lunch
    neighbours = np.corrcoef(x_NCHW[..., :-1].ravel(), x_NCHW[..., 1:].ravel())[0, 1]
    assert neighbours > 0.9
