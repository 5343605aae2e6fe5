"""Random draws that every NumPy version makes alike: RandomState's stream is frozen, Generator's is not (NEP 19)."""

import numpy as np


def draws(*key: int) -> np.random.RandomState:
    """A generator seeded by a key: (data_seed, what is drawn, ...).

    Keys of up to four numbers below 2^32 that differ only in zeros at the end, such as (3, 1) and (3, 1, 0), give the
    same one; a number of 2^32 or more counts as two.
    """
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(key)))
