"""Pictures to arrays: sources say which pictures, the cache keeps them as uint8, batches feed the engines."""

from .batches import Batches
from .cache import Arrays, load

__all__ = ["Arrays", "Batches", "load"]
