"""For pictures that a GPU has no room for: brought to it while it trains, in chunks of many batches.

A thread gathers a chunk's rows into pinned memory and has them copied on a stream of its own; meanwhile the
training reads the chunk before. The host never waits for the device, only that thread does.
Shapes: N samples, B batch, D bytes of a sample.
"""

from collections.abc import Generator, Sequence
from contextlib import nullcontext
from queue import SimpleQueue
from threading import Thread

import torch
from torch import Tensor

CHUNK = 32 << 20  # bytes: large enough for the full rate of the bus, small beside what a GPU has


class _Slot:
    """Room for a chunk on both sides, and when the device has it and is done with it."""

    def __init__(self, rows: int, features: int, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.host_ND = torch.empty(rows, features, dtype=torch.uint8, pin_memory=self.cuda)
        self.device_ND = torch.empty_like(self.host_ND, device=device)
        self.copied, self.used = (torch.cuda.Event(), torch.cuda.Event()) if self.cuda else (None, None)

    def fill(self, x_ND: Tensor, rows: Sequence[Tensor], stream: torch.cuda.Stream | None) -> None:
        if self.used:
            self.used.synchronize()
        rows_N = torch.cat(list(rows))
        host_ND = torch.index_select(x_ND, 0, rows_N, out=self.host_ND[: len(rows_N)])
        with torch.cuda.stream(stream) if stream else nullcontext():
            self.device_ND[: len(rows_N)].copy_(host_ND, non_blocking=self.cuda)
            if self.copied:
                self.copied.record()

    def batches(self, rows: Sequence[Tensor]) -> Generator[Tensor, None, None]:
        if self.copied:
            torch.cuda.current_stream().wait_event(self.copied)
        sizes = [len(rows_B) for rows_B in rows]
        try:
            yield from self.device_ND[: sum(sizes)].split(sizes)
        finally:
            if self.used:
                self.used.record()


class Transfer:
    """Two slots, filled and trained on in turn."""

    def __init__(self, batch_size: int, features: int, device: torch.device) -> None:
        self.batches = max(1, CHUNK // (batch_size * features))
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.slots = [_Slot(self.batches * batch_size, features, device) for _ in range(2)]

    def __call__(self, x_ND: Tensor, rows: Sequence[Tensor]) -> Generator[Tensor, None, None]:
        """raw_BD on the device for each batch of row numbers; the next chunk but one overwrites it."""
        chunks = [rows[start : start + self.batches] for start in range(0, len(rows), self.batches)]
        empty: SimpleQueue[_Slot | None] = SimpleQueue()
        full: SimpleQueue[_Slot | Exception] = SimpleQueue()
        for slot in self.slots:
            empty.put(slot)

        def fill() -> None:
            for chunk in chunks:
                slot = empty.get()
                if slot is None:
                    return
                try:
                    slot.fill(x_ND, chunk, self.stream)
                except Exception as error:
                    full.put(error)
                    return
                full.put(slot)

        thread = Thread(target=fill, name="transfer")
        thread.start()
        try:
            for chunk in chunks:
                slot = full.get()
                if isinstance(slot, Exception):
                    raise slot
                yield from slot.batches(chunk)
                empty.put(slot)
        finally:
            empty.put(None)
            thread.join()
