"""Arrays to normalised batches on the device, in an order that (data_seed, epoch) alone decides.

Shapes: N samples, B batch, C channels, D = C H W features.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .draws import draws


def order(data_seed: int, epoch: int, count: int) -> Tensor:
    """The permutation of an epoch, int64."""
    return torch.from_numpy(draws(data_seed, epoch).permutation(count))


class Batches:
    """One split, whole in memory as uint8; batches are gathered, made floats and normalised on the fly.

    The batch handed out is a buffer that the next one overwrites.
    """

    def __init__(
        self,
        x_NCHW: np.ndarray,
        y_N: np.ndarray,
        mean_C: np.ndarray,
        std_C: np.ndarray,
        batch_size: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.count, self.batch_size = len(x_NCHW), batch_size
        self.x_ND = torch.from_numpy(x_NCHW).flatten(1).to(device)
        self.y_N = torch.from_numpy(y_N).to(device)
        channels, height, width = x_NCHW.shape[1:]
        scale_C = torch.as_tensor(1 / std_C, dtype=dtype, device=device)
        offset_C = torch.as_tensor(-mean_C / std_C, dtype=dtype, device=device)
        self.scale_D = scale_C.repeat_interleave(height * width)
        self.offset_D = offset_C.repeat_interleave(height * width)
        features = channels * height * width
        rows = min(batch_size, self.count)
        self._raw_BD = torch.empty(rows, features, dtype=torch.uint8, device=device)
        self._x_BD = torch.empty(rows, features, dtype=dtype, device=device)
        self._y_B = torch.empty(rows, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __call__(self, order_N: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """(x_BD, y_B) over the whole split in that order (as it lies where None), the last batch as long as it is."""
        if order_N is not None:
            order_N = order_N.to(self.x_ND.device)
        for start in range(0, self.count, self.batch_size):
            stop = min(start + self.batch_size, self.count)
            x_BD, y_B = self._x_BD[: stop - start], self._y_B[: stop - start]
            if order_N is None:
                x_BD.copy_(self.x_ND[start:stop])
                y_B.copy_(self.y_N[start:stop])
            else:
                raw_BD, rows_B = self._raw_BD[: stop - start], order_N[start:stop]
                torch.index_select(self.x_ND, 0, rows_B, out=raw_BD)
                torch.index_select(self.y_N, 0, rows_B, out=y_B)
                x_BD.copy_(raw_BD)
            torch.addcmul(self.offset_D, x_BD, self.scale_D, out=x_BD)
            yield x_BD, y_B
