"""python -m mlp_sweep.report PATH...: the charts and tables of any runs and sweeps, from their files alone."""

import argparse
import sys
import time
from pathlib import Path

from . import aggregate, charts, statistics


def write(paths: list[Path], out: Path) -> Path:
    """Writes charts (PNG, SVG), epochs.csv and summary.csv into `out`, and returns it. ValueError: nothing to read."""
    sweep = aggregate.read(paths)
    out.mkdir(parents=True, exist_ok=True)
    sweep.epochs.drop(columns="run").to_csv(out / "epochs.csv", index=False)
    statistics.summary(sweep).to_csv(out / "summary.csv", index=False)
    for name, (column, title) in charts.CURVES.items():
        charts.save(charts.curves(sweep, column, title), out / name)
    return out


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mlp_sweep.report", description=__doc__.split(": ", 1)[1])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="run or sweep directories, in any mix")
    parser.add_argument("--out", type=Path, help="where to write (default: PATH/report, or outputs/reports/<time>)")
    args = parser.parse_args(argv)
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    out = args.out or (args.paths[0] / "report" if len(args.paths) == 1 else Path("outputs/reports") / stamp)
    try:
        print(f"report: {write(args.paths, out)}")
    except (ValueError, OSError) as error:
        sys.exit(f"mlp_sweep.report: {error}")


if __name__ == "__main__":
    main()
