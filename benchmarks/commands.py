"""python -m benchmarks.commands: the wall time of a whole sweep as a user types it, start to report.

Eight runs (four slopes, two seeds): fused against the reference engine through hydra/launcher=basic and joblib, and,
with --notebook, against a notebook's loop over the same pictures: one of its epochs is timed, without validation and
start-up, and multiplied. Our pictures are prepared beforehand.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .throughput import notebook

SLOPES, SEEDS = "1,1.5,2,3", "0,1"
RUNS = 8


def seconds(arguments: list[str], folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mlp_sweep", *arguments], check=True, capture_output=True, cwd=folder)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="of the runs: dataset=tiny_imagenet dataset.root=...")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--notebook", type=Path, metavar="FOLDER", help="the training pictures, a folder a class")
    args = parser.parse_args()
    data = Path(tempfile.mkdtemp())
    common = [*args.overrides, f"data_dir={data}", f"epochs={args.epochs}"]
    sweep = ["--multirun", "activation=scaled", f"activation.r={SLOPES}", f"seed={SEEDS}", *common]
    ways = {
        "fused (default)": sweep,
        "fused, in one process: hydra.launcher.workers=1": [*sweep, "hydra.launcher.workers=1"],
        "hydra/launcher=basic engine=reference": [*sweep, "hydra/launcher=basic", "engine=reference"],
    }
    if find_spec("hydra_plugins.hydra_joblib_launcher"):
        ways["hydra/launcher=joblib engine=reference"] = [*sweep, "hydra/launcher=joblib", "engine=reference"]
    times: dict[str, list[float]] = {way: [] for way in ways}
    try:
        seconds([*common, "epochs=0", f"hydra.run.dir={data}/warm"], data)
        for number in range(args.rounds):
            for place, (way, arguments) in enumerate(ways.items()):
                times[way].append(seconds([*arguments, f"hydra.sweep.dir={data}/{number}-{place}"], data))
    finally:
        shutil.rmtree(data)
    if args.notebook:
        epoch = notebook(64, args.notebook)
        started = time.perf_counter()
        epoch()
        times["a notebook's loop, extrapolated"] = [(time.perf_counter() - started) * args.epochs * RUNS]
    table = Table(f"{RUNS} runs of {args.epochs} epochs, whole command", "median s", "range s", "x fused")
    fused = statistics.median(times["fused (default)"])
    for way, values in times.items():
        median = statistics.median(values)
        table.add_row(way, f"{median:.1f}", f"{min(values):.1f} to {max(values):.1f}", f"{median / fused:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
