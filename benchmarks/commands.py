"""python -m benchmarks.commands: the wall time of a whole sweep as a user types it, start to report.

Eight runs (four slopes, two seeds): fused against the reference engine through hydra/launcher=basic and joblib.
The pictures are prepared beforehand.
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


def seconds(arguments: list[str], folder: Path) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mlp_sweep", *arguments], check=True, capture_output=True, cwd=folder)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="of the runs: dataset=tiny_imagenet dataset.root=... epochs=...")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    data = Path(tempfile.mkdtemp())
    common = [*args.overrides, f"data_dir={data}"]
    sweep = ["--multirun", "activation=scaled", "activation.r=1,1.5,2,3", "seed=0,1", *common]
    ways = {
        "fused (default)": sweep,
        "hydra/launcher=basic engine=reference": [*sweep, "hydra/launcher=basic", "engine=reference"],
    }
    if find_spec("hydra_plugins.hydra_joblib_launcher"):
        ways["hydra/launcher=joblib engine=reference"] = [*sweep, "hydra/launcher=joblib", "engine=reference"]
    times: dict[str, list[float]] = {way: [] for way in ways}
    try:
        seconds([*common, "epochs=0", f"hydra.run.dir={data}/warm"], data)
        for number in range(args.rounds):
            for way, arguments in ways.items():
                times[way].append(
                    seconds([*arguments, f"hydra.sweep.dir={data}/{number}-{len(arguments)}-{way[:20]}"], data)
                )
    finally:
        shutil.rmtree(data)
    table = Table("8 runs, whole command", "median s", "range s", "x fused")
    fused = statistics.median(times["fused (default)"])
    for way, values in times.items():
        median = statistics.median(values)
        table.add_row(way, f"{median:.1f}", f"{min(values):.1f} to {max(values):.1f}", f"{median / fused:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
