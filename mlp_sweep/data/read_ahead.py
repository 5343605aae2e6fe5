"""For arrays too large for memory: a thread that tells the kernel which rows of the mapped file are needed next.

The kernel reads many rows at once and keeps what it has room for, the training finds them in the page cache, and no
byte takes another way than with everything in memory. Rows, and not shuffled blocks of them: the order of an epoch
stays that of the whole permutation, so a run's numbers do not depend on the memory of the machine.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Semaphore, Thread

import numpy as np
import torch

from .. import machine

AHEAD = 100 << 20  # bytes asked for before they are needed; with a quarter of it the training waits for the disk
SHARE = 0.5  # of the memory that is free: a larger split is read ahead


class ReadAhead:
    """Asks for the rows of a .npy file that np.load has mapped, in the order of an epoch."""

    def __init__(self, x_NCHW: np.memmap, batch_size: int) -> None:
        assert x_NCHW.filename is not None and x_NCHW.flags.c_contiguous and isinstance(x_NCHW.base, mmap.mmap)
        self.path, self.offset, self.row = x_NCHW.filename, x_NCHW.offset, x_NCHW[:1].nbytes
        self.batch_size = batch_size
        # The kernel's own reading ahead, for files read in order, would fetch megabytes for every row.
        x_NCHW.base.madvise(mmap.MADV_RANDOM)

    @contextmanager
    def __call__(self, rows_N: np.ndarray) -> Iterator[Callable[[], None]]:
        """Runs ahead of a loop over the batches of these rows, which calls what it is given after each batch."""
        wanted = Semaphore(max(2, AHEAD // (self.batch_size * self.row)))
        left = False

        def ask() -> None:
            file = os.open(self.path, os.O_RDONLY)
            for start in range(0, len(rows_N), self.batch_size):
                wanted.acquire()
                if left:
                    break
                self._ask(file, rows_N[start : start + self.batch_size])
            os.close(file)

        thread = Thread(target=ask, name="read ahead")
        thread.start()
        try:
            yield wanted.release
        finally:
            left = True
            wanted.release()
            thread.join()

    def _ask(self, file: int, rows_B: np.ndarray) -> None:
        if (np.diff(rows_B) == 1).all():  # the validation split, as it lies
            rows_B, length = rows_B[:1], len(rows_B) * self.row
        else:
            length = self.row
        for row in rows_B.tolist():
            os.posix_fadvise(file, self.offset + row * self.row, length, os.POSIX_FADV_WILLNEED)


def fits(nbytes: int, device: torch.device) -> bool:
    """Whether a split can lie in the device's memory and leave as much again for the rest."""
    if not hasattr(os, "posix_fadvise"):  # not Linux: nobody to ask for rows
        return True
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else machine.free_memory()
    return nbytes <= SHARE * free
