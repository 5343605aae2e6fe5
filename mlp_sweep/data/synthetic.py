"""Generated pictures: C classes of smooth colour fields, seen with shift, contrast, clutter and noise.

The clutter is a field of the same kind as the classes, so it cannot be averaged away and no model reaches 100 %.
Only drawn integers and single float32 additions and multiplications are used, in a fixed order, so every
machine makes the same bytes.
"""

import numpy as np

from .. import config
from .draws import draws

GRID = 4  # corners a side of a smooth field
SHIFT = 4  # pixels, each way


def fields(rng: np.random.RandomState, count: int, size: int) -> np.ndarray:
    """count x 3 x size x size smooth random fields in [-1, 1]: bilinear between GRID x GRID random corners."""
    corners = (rng.randint(-128, 128, (count, 3, GRID, GRID)) / np.float32(128)).astype(np.float32)
    at = (np.arange(size, dtype=np.float32) * np.float32(GRID - 1)) / np.float32(max(1, size - 1))
    low = np.minimum(at.astype(np.int64), GRID - 2)
    part = at - low.astype(np.float32)
    rows = corners[:, :, low] * (1 - part)[:, None] + corners[:, :, low + 1] * part[:, None]
    return rows[..., low] * (1 - part) + rows[..., low + 1] * part


def pictures(dataset: config.Synthetic, data_seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(train_NCHW uint8, train_N labels, val_NCHW, val_N); the classes and the pictures are drawn by data_seed."""
    size, classes = dataset.image_size, dataset.num_classes
    assert classes is not None
    rng = draws(data_seed)
    templates = fields(rng, classes, size + 2 * SHIFT)
    splits = []
    for per_class in (dataset.samples_per_class, dataset.val_per_class):
        labels = np.repeat(np.arange(classes), per_class)
        dx, dy = rng.randint(0, 2 * SHIFT + 1, (2, len(labels)))
        contrast = rng.randint(24, 73, len(labels)).astype(np.float32)  # grey levels at a field's extremes
        light = rng.randint(96, 161, len(labels)).astype(np.float32)
        strength = rng.randint(0, 161, len(labels)).astype(np.float32)
        out = np.empty((len(labels), 3, size, size), np.uint8)
        clutter = fields(rng, len(labels), size)
        for i, label in enumerate(labels):
            seen = templates[label, :, dy[i] : dy[i] + size, dx[i] : dx[i] + size]
            picture = seen * contrast[i] + clutter[i] * strength[i] + light[i]
            noise = rng.randint(-10, 11, picture.shape, dtype=np.int8)
            out[i] = np.clip(picture + noise, 0, 255)
        splits += [out, labels]
    return tuple(splits)
