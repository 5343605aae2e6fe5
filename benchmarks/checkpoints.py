"""What a checkpoint after every epoch costs: rounds of training with and without, in turn, in one process.

    python -m benchmarks.checkpoints --root tiny-imagenet-200.zip

The default MLP on 64 x 64 pictures, members of different slopes and rates; without --root, generated pictures.
A round is two epochs, one with checkpoints and one without; rows, status and logs are written in both.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from mlp_sweep import cli, config, machine, plan, record, workers
from mlp_sweep.events import Epoch, Event, Started
from mlp_sweep.run_dir import RunDir

assert cli  # its import registers the schema with Hydra


def runs(members: int, root: str | None, samples: int) -> Iterator[config.Run]:
    pictures = ["dataset=tiny_imagenet", f"dataset.root={root}"] if root else ["dataset.image_size=64"]
    pictures.append(f"dataset.samples_per_class={samples}")
    for seed in range(members):
        overrides = [*pictures, "activation=scaled", f"activation.r={1 + seed / 32}", f"seed={seed}"]
        with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
            yield config.to_run(compose("config", overrides))[0]


class Timed:
    """Epochs' wall times, training and records, and of it what the checkpoints took; every second epoch has none."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.checkpoints: list[float] = []
        self._inside = 0.0
        self._write = RunDir.checkpoint
        timed = self

        def checkpoint(self: RunDir, state: dict[str, Any], cells: dict[str, Any], diverged_at: int | None) -> None:
            if len(timed.epochs) % 2:
                started = time.perf_counter()
                timed._write(self, state, cells, diverged_at)
                timed._inside += time.perf_counter() - started

        RunDir.checkpoint = checkpoint

    def __call__(self, happenings: Generator[Event], members: int) -> Generator[Event]:
        started = time.perf_counter()
        for event in happenings:
            yield event  # and is gone on from when it has been recorded
            if isinstance(event, Started):
                started = time.perf_counter()
            if isinstance(event, Epoch) and event.row.slot == members - 1:
                self.epochs.append(time.perf_counter() - started)
                self.checkpoints.append(self._inside)
                self._inside, started = 0.0, time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--root", help="of Tiny ImageNet; generated pictures without it")
    parser.add_argument("--samples", type=int, default=500, help="training pictures of each class")
    parser.add_argument("--rounds", type=int, default=7, help="epochs with, and as many without")
    args = parser.parse_args()
    jobs = []
    with tempfile.TemporaryDirectory(dir=".") as folder:  # on the disk that runs are kept on
        for number, run in enumerate(runs(args.members, args.root, args.samples)):
            run.epochs = 2 * args.rounds + 2
            jobs.append(plan.job(run, Path(folder) / f"{number}"))
        [stack] = plan.stacks(jobs, None, machine.free_memory())
        timed = Timed()
        results = list(record.record(stack, timed(workers.events(stack), args.members)))
        size = stack.bytes / 1e6
    assert not any(result.error for result in results), results
    without, with_them = timed.epochs[2::2], timed.epochs[3::2]  # less a round to warm up
    inside = timed.checkpoints[3::2]
    shares = [100 * written / (whole - written) for written, whole in zip(inside, with_them, strict=True)]
    more = [100 * (b / a - 1) for a, b in zip(without, with_them, strict=True)]
    print(f"{args.members} members of {size:.1f} MB in all, {len(shares)} rounds, median (least to most)")
    for what, values, unit in (
        ("an epoch without", without, "s"),
        ("its checkpoints", inside, "s"),
        ("their share", shares, "%"),
        ("an epoch with, over one without", more, "%"),
    ):
        print(f"{what}: {statistics.median(values):.3f} {unit} ({min(values):.3f} to {max(values):.3f})")


if __name__ == "__main__":
    main()
