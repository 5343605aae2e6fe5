"""Random mirroring and shifting of training pictures, drawn anew each epoch by (data_seed, epoch) alone.

A batch is moved once, so every member of a stack sees the same pictures. Shapes: N samples of an epoch, B batch,
C channels, P = H W pixels.
"""

import numpy as np
import torch
from torch import Tensor

from .. import config
from .draws import draws


class Moves:
    """Where each sample's pixels come from; made for one split on one device."""

    def __init__(self, augment: config.Augment, shape_CHW: tuple[int, int, int], device: torch.device) -> None:
        self.augment, self.shape_CHW = augment, shape_CHW
        _, height, width = shape_CHW
        self.row_H = torch.arange(height, device=device)
        self.column_W = torch.arange(width, device=device)

    def draw(self, data_seed: int, epoch: int, count: int) -> tuple[Tensor, Tensor]:
        """(flip_N bool, shift_2N pixels down and right) of an epoch's samples in the order that they are taken."""
        rng = draws(data_seed, epoch, 0, 1)  # a stream of its own beside the order's
        flip_N = rng.randint(0, 2, count).astype(bool) & self.augment.flip
        most = self.augment.shift
        shift_2N = rng.randint(-most, most + 1, (2, count))
        device = self.row_H.device
        return torch.from_numpy(flip_N).to(device), torch.from_numpy(shift_2N.astype(np.int64)).to(device)

    def apply(self, raw_BD: Tensor, flip_B: Tensor, shift_2B: Tensor) -> Tensor:
        """The batch's bytes with every picture moved; what a shift uncovers repeats the edge."""
        channels, height, width = self.shape_CHW
        row_BH = (self.row_H - shift_2B[0, :, None]).clamp_(0, height - 1)
        column_BW = (self.column_W - shift_2B[1, :, None]).clamp_(0, width - 1)
        column_BW = torch.where(flip_B[:, None], width - 1 - column_BW, column_BW)
        from_BP = (row_BH[:, :, None] * width + column_BW[:, None, :]).flatten(1)
        from_BCP = from_BP[:, None].expand(-1, channels, -1)
        return raw_BD.view(-1, channels, height * width).gather(2, from_BCP).flatten(1)
