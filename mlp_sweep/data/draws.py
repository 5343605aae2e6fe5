"""Random draws that every NumPy version makes alike: RandomState's stream is frozen, Generator's is not (NEP 19)."""

import numpy as np


def draws(*key: int) -> np.random.RandomState:
    """A generator of its own for each key: (data_seed, what is drawn, ...)."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(key)))
