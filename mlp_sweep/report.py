"""python -m mlp_sweep.report PATH...: findings, charts and tables of any runs and sweeps, from their files alone."""

import argparse
import itertools
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pandas as pd

from . import aggregate, asked, charts, config, console, page, run_dir, sealed, slope_charts, statistics
from .findings import findings

QUIET = 30  # seconds without a running run or a change after which a watched sweep is taken to be over


def write(
    paths: list[Path],
    out: Path,
    baseline: str | None = None,
    refresh: int | None = None,
    read: aggregate.Sweep | None = None,
) -> Path:
    """Writes report.html, the charts (PNG, SVG) and the tables (CSV) into `out`, and returns it.

    ValueError: nothing to read, or no such baseline. `refresh`: seconds after which a browser loads the page again.
    `read`: what aggregate.read gave for the paths, where the caller has it.
    """
    sweep = read or aggregate.read(paths)
    summary = statistics.summary(sweep, baseline)
    runs = statistics.measures(sweep)
    comparisons = statistics.compare(runs, statistics.baselines(runs, baseline).items())
    if out.is_symlink():  # in a stranger's sweep it could lead anywhere
        raise ValueError(f"{out}: a link; remove it, or name another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "epochs": sweep.epochs.drop(columns="run"),
        "runs": runs.drop(columns=["run", "activation", "others"]),
        "summary": summary,
        "comparisons": pd.DataFrame(comparisons, columns=[field.name for field in fields(statistics.Comparison)]),
    }
    for name, table in tables.items():
        sealed.replace(out / f"{name}.csv", table.to_csv(index=False).encode(), sync=False, shared=True)
    drawn = []
    for chart in itertools.chain(charts.epoch_charts(sweep), slope_charts.slope_charts(sweep)):
        charts.save(chart.figure, out / chart.name)
        svg = page.inline_svg(out / f"{chart.name}.svg", chart.alt)
        drawn.append(page.Drawn(chart.name, chart.title, chart.alt, svg))
    for name in {*charts.NAMES, *slope_charts.names()} - {chart.name for chart in drawn}:
        for ending in ("png", "svg"):  # of a report that was made when there were other runs
            (out / f"{name}.{ending}").unlink(missing_ok=True)
    html = page.render(sweep, summary, comparisons, findings(sweep), drawn, refresh)
    sealed.replace(out / "report.html", html.encode(), sync=False, shared=True)
    return out


def watch(paths: list[Path], out: Path, every: float, baseline: str | None = None) -> None:
    """Rewrites the report while the runs at the paths change; ends when none has been running for a while, or Ctrl-C.

    The last page is written without a refresh, so that what stays asks no browser to load it again.
    """
    seen: object = None
    changed = time.monotonic()
    try:
        while True:
            state = _state(paths)
            if state != seen:
                seen, changed = state, time.monotonic()
                _say(paths, out, baseline, round(every) or 1)
            running = any(status in ("running", "waiting") for _, _, status in state)
            if not running and time.monotonic() - changed >= QUIET:
                break
            time.sleep(every)
    except KeyboardInterrupt:
        pass
    _say(paths, out, baseline, None)
    if console.received() not in (None, signal.SIGINT):  # Ctrl-C is how a watch ends
        console.stopped(None)


def _say(paths: list[Path], out: Path, baseline: str | None, refresh: int | None) -> None:
    stamp = time.strftime("%H:%M:%S")
    try:
        print(f"{stamp} report: {write(paths, out, baseline, refresh) / 'report.html'}", flush=True)
    except (ValueError, OSError) as error:  # of a disk that is full now there may be room at the next look
        print(f"{stamp} no report: {config.one_line(error)}", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m mlp_sweep.report",
        description="Findings, charts and tables of any runs and sweeps, from their files alone.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="run or sweep directories, in any mix")
    parser.add_argument("--out", type=Path, help="where to write (default: PATH/report, or outputs/reports/<time>)")
    parser.add_argument("--baseline", metavar="NAME",
                        help="activation ('scaled r=2') or configuration to compare with (default: relu)")  # fmt: skip
    parser.add_argument("--watch", action="store_true", help="rewrite the report while a sweep runs")
    parser.add_argument("--every", type=float, default=5, metavar="SECONDS", help="how often, with --watch (5)")
    console.outlive_streams()
    console.take_signals()
    args = parser.parse_args(argv)
    if not args.every > 0:
        parser.error(f"--every {args.every:g}: must be more than 0")
    alone = len(args.paths) == 1 and args.paths[0].is_dir()
    out = args.out or (
        args.paths[0] / "report" if alone else Path("outputs/reports") / time.strftime("%Y-%m-%d_%H-%M-%S")
    )
    try:
        if args.watch:
            watch(args.paths, out, args.every, args.baseline)
        else:
            print(f"report: {write(args.paths, out, args.baseline) / 'report.html'}")
        console.say_if_lost()
    except KeyboardInterrupt:
        console.stopped(None)
    except (ValueError, OSError, MemoryError, ImportError) as error:  # no room for a library is an ImportError
        sys.exit(f"mlp_sweep.report: {config.one_line(error)}")


def _state(paths: list[Path]) -> list[tuple[Path, int, str]]:
    """Every run with the time and state of its last record: equal while nothing has changed."""
    state: list[tuple[Path, int, str]] = []
    for place in itertools.chain(*map(aggregate.named, paths)):
        with suppress(ValueError):  # the report says it
            state += [(folder, 0, "waiting") for folder, alive in asked.unrecorded(place) if alive]
    for folder in aggregate.folders(paths)[0]:
        try:
            written = os.stat(folder / run_dir.STATUS).st_mtime_ns
            state.append((folder, written, str(run_dir.read_status(folder).get("state"))))
        except (ValueError, OSError):
            continue  # the report itself says why it cannot be read
    return state


if __name__ == "__main__":
    main()
