"""Measurements; imports mlp_sweep first, which sets how OpenMP's threads wait before torch asks."""

import mlp_sweep  # noqa: F401
