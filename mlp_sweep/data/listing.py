"""What a source hands to the cache: which pictures, of which class, in which split, and how to read one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Picture = tuple[str, int]  # name for `read`, class index


@dataclass
class Listing:
    """The pictures chosen; `read` gives a file's bytes, or HW or HWC pixels where the set comes as arrays."""

    classes: list[str]
    names: list[str]  # the classes in words, or their ids again
    train: list[Picture]
    val: list[Picture]
    read: Callable[[str], bytes | np.ndarray]


class Source(Protocol):
    """Cheap to make: the fingerprint says whether anything on disk changed, listing() does the work."""

    fingerprint: str

    def listing(self) -> Listing: ...
