"""Arrays to normalised batches on the device, in an order that (data_seed, epoch) alone decides.

Shapes: N samples, B batch, C channels, D = C H W features.
"""

from collections.abc import Generator, Iterator

import numpy as np
import torch
from torch import Tensor

from .. import config
from .augment import Moves
from .draws import draws
from .read_ahead import ReadAhead, fits
from .transfer import Transfer


def order(data_seed: int, epoch: int, count: int) -> Tensor:
    """The permutation of an epoch, int64."""
    return torch.from_numpy(draws(data_seed, epoch).permutation(count))


class Batches:
    """One split as uint8, in memory or read ahead from disk; batches are gathered, made floats and normalised.

    The pictures handed out are in a buffer that the next batch overwrites. What is read ahead is, bit for bit,
    what memory would have given.
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
        augment: config.Augment | None = None,
        in_memory: bool | None = None,
    ) -> None:
        """in_memory, that of the device: None leaves it to whether the split fits."""
        self.count, self.batch_size, self.device = len(x_NCHW), batch_size, device
        channels, height, width = x_NCHW.shape[1:]
        self.features = channels * height * width
        self.x_ND = torch.from_numpy(x_NCHW).flatten(1)
        self._ahead = self._transfer = None
        there = fits(x_NCHW.nbytes, device) if in_memory is None else in_memory
        if there:
            self.x_ND = self.x_ND.to(device)
        else:
            self._ahead = ReadAhead(x_NCHW, batch_size) if isinstance(x_NCHW, np.memmap) else None
            self._transfer = Transfer(batch_size, self.features, device) if device.type != "cpu" else None
        self.y_N = torch.from_numpy(y_N).to(device)
        scale_C = torch.as_tensor(1 / std_C, dtype=dtype, device=device)
        offset_C = torch.as_tensor(-mean_C / std_C, dtype=dtype, device=device)
        self.scale_D = scale_C.repeat_interleave(height * width)
        self.offset_D = offset_C.repeat_interleave(height * width)
        rows = min(batch_size, self.count)
        self._raw_BD = torch.empty(rows, self.features, dtype=torch.uint8, device=self.x_ND.device)
        self._x_BD = torch.empty(rows, self.features, dtype=dtype, device=device)
        moving = augment is not None and (augment.flip or augment.shift > 0)
        self._moves = Moves(augment, (channels, height, width), device) if augment and moving else None

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __call__(
        self, order_N: Tensor | None = None, key: tuple[int, int] | None = None
    ) -> Generator[tuple[Tensor, Tensor], None, None]:
        """(x_BD, y_B) over the whole split in that order (as it lies where None), the last batch as long as it is.

        key: (data_seed, epoch), by which pictures are moved where the split is augmented.
        """
        y_N = self.y_N if order_N is None else self.y_N[order_N.to(self.device)]
        moves = None
        if self._moves:
            assert key is not None, "an augmented split is moved by (data_seed, epoch)"
            flip_N, shift_2N = self._moves.draw(*key, self.count)
            moves = zip(flip_N.split(self.batch_size), shift_2N.split(self.batch_size, 1), strict=True)
        for raw_BD, y_B in zip(self._raw(order_N), y_N.split(self.batch_size), strict=True):
            if self._moves and moves:
                raw_BD = self._moves.apply(raw_BD, *next(moves))
            x_BD = self._x_BD[: len(y_B)]
            x_BD.copy_(raw_BD)
            torch.addcmul(self.offset_D, x_BD, self.scale_D, out=x_BD)
            yield x_BD, y_B

    def _raw(self, order_N: Tensor | None) -> Iterator[Tensor]:
        """The bytes of each batch, on the device."""
        if not self._ahead:
            yield from self._gathered(order_N)
            return
        rows_N = np.arange(self.count) if order_N is None else order_N.cpu().numpy()
        with self._ahead(rows_N) as taken:
            for raw_BD in self._gathered(order_N):
                yield raw_BD
                taken()

    def _gathered(self, order_N: Tensor | None) -> Iterator[Tensor]:
        if self._transfer:
            rows_N = torch.arange(self.count) if order_N is None else order_N.cpu()
            yield from self._transfer(self.x_ND, rows_N.split(self.batch_size))
        elif order_N is None:
            yield from self.x_ND.split(self.batch_size)
        else:
            for rows_B in order_N.to(self.x_ND.device).split(self.batch_size):
                yield torch.index_select(self.x_ND, 0, rows_B, out=self._raw_BD[: len(rows_B)])
