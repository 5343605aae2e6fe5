"""python -m benchmarks.side_by_side: what one sweep trains, and what each of two at once on the same cores does.

With the short spin of OpenMP's waiting threads that mlp_sweep asks for, and with OpenMP's own. Eight members at
batches of 64; member-samples per second, median and range of the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

MEMBERS, BATCH = 8, 64
SPINS = {"mlp_sweep's": "1000", "OpenMP's own": "300000"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement")
    parser.add_argument("--sweep", action="store_true", help="be one of the sweeps")
    args = parser.parse_args()
    if args.sweep:
        print(rate(args.seconds))
        return
    rates: dict[tuple[str, int], list[float]] = {(name, count): [] for name in SPINS for count in (1, 2)}
    for _ in range(args.rounds):
        for (name, count), values in rates.items():
            line = [sys.executable, "-m", "benchmarks.side_by_side", "--sweep", "--seconds", str(args.seconds)]
            environment = os.environ | {"GOMP_SPINCOUNT": SPINS[name]}
            sweeps = [subprocess.Popen(line, env=environment, stdout=subprocess.PIPE) for _ in range(count)]
            values += [float(sweep.communicate()[0]) for sweep in sweeps]
    table = Table("spin", "one sweep", "each of two at once")
    for name in SPINS:
        cells = (rates[name, count] for count in (1, 2))
        table.add_row(name, *(f"{statistics.median(c):,.0f} ({min(c):,.0f} to {max(c):,.0f})" for c in cells))
    Console(width=110).print(table)


def rate(seconds: float) -> float:
    from mlp_sweep.data.batches import Batches

    from .throughput import CPU, ours, pictures

    level_C = np.full(3, 100.0)
    step = ours(MEMBERS, BATCH, Batches(*pictures(), level_C, level_C, BATCH, CPU), "highest")
    for _ in range(5):
        step()
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        done += step()
    return done / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
