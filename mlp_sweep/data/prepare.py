"""Listed pictures to uint8 chunks, decoded on all cores, with the sums that mean and deviation are made of."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from .. import config, machine
from .listing import Listing, Picture

STEP = 32  # pictures a thread takes at a time; the decoders let go of the interpreter's lock
AHEAD = 32  # such parts that wait to be written: 12.6 MB of 64 x 64


@dataclass
class Chunk:
    """Some pictures in order, less those that could not be decoded."""

    x_NCHW: np.ndarray
    y_N: np.ndarray
    sum_C: np.ndarray  # of the grey levels and of their squares: whole numbers, so exact
    squares_C: np.ndarray
    skipped: dict[str, str] = field(default_factory=dict)  # picture -> what is wrong with it

    @classmethod
    def of(cls, x_NCHW: np.ndarray, y_N: np.ndarray) -> "Chunk":
        wide_NCHW = x_NCHW.astype(np.uint16)  # 255 squared fits
        sum_C = x_NCHW.sum((0, 2, 3), dtype=np.uint64)
        return cls(x_NCHW, y_N, sum_C, np.square(wide_NCHW, out=wide_NCHW).sum((0, 2, 3), dtype=np.uint64))


def decoded(
    listing: Listing, split: Sequence[Picture], rules: config.Pictures, advance: Callable[[int], None]
) -> Iterator[Chunk]:
    """The split in chunks. ValueError names the first picture that cannot be decoded, unless they are skipped."""
    from .decode import decode

    channels = 1 if rules.color == "grey" else 3

    def part(pictures: Sequence[Picture]) -> Chunk:
        x_NCHW = np.empty((len(pictures), channels, rules.image_size, rules.image_size), np.uint8)
        labels, skipped = [], {}
        for name, label in pictures:
            try:
                x_NCHW[len(labels)] = decode(listing.read(name), rules)
            except (ValueError, OSError) as error:
                if rules.on_error == "raise":
                    raise ValueError(f"{name}: {error}; dataset.on_error=skip leaves such pictures out") from error
                skipped[name] = str(error)
            else:
                labels.append(label)
        advance(len(pictures))
        chunk = Chunk.of(x_NCHW[: len(labels)], np.array(labels, np.int64))
        chunk.skipped = skipped
        return chunk

    with ThreadPoolExecutor(machine.cores()) as pool:
        parts: deque[Future[Chunk]] = deque()
        for start in range(0, len(split), STEP):
            if len(parts) == AHEAD:
                yield parts.popleft().result()
            parts.append(pool.submit(part, split[start : start + STEP]))
        while parts:
            yield parts.popleft().result()
