"""What an activation, a slope, a learning rate or a seed does to the training of an image MLP."""

import os

__version__ = "0.1.0"

# Before torch is imported, or it is not heard: while they wait, OpenMP's threads spin, by default for some 15 ms. Two
# sweeps on the same cores may then train at a fortieth of one's rate; a short spin lets them share it, and costs none.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
