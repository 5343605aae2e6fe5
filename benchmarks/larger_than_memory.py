"""python -m benchmarks.larger_than_memory: random order over a cache four times the memory allowed.

Writes a file of 4 x --memory GB, puts itself under a memory limit (a control group, so Linux and root), and trains
the default MLP, alone and eight at once, on 64 x 64 pictures in random order, beside the rate with everything in
memory. The page cache counts towards the limit.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from mlp_sweep import cli, config, engines, machine
from mlp_sweep.data.batches import Batches, order
from mlp_sweep.data.writer import header

assert cli  # its import registers the schema with Hydra
SHAPE_CHW, CLASSES = (3, 64, 64), 72
SMALL = 20_000  # pictures in memory
SECONDS = 10.0  # of each measurement at most


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.larger_than_memory", description=__doc__)
    parser.add_argument("--memory", type=float, default=1.0, help="GB")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    arguments = parser.parse_args()
    limit = int(arguments.memory * 1e9)
    path = arguments.folder / "larger-than-memory.npy"
    count = 4 * limit // int(np.prod(SHAPE_CHW))
    try:
        write(path, count)
        x_NCHW = np.load(path, mmap_mode="c")
        rates("in memory", np.array(x_NCHW[:SMALL]), in_memory=True)
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
        limit_memory(limit)
        print(f"limit {machine.total_memory() / 1e9:.2f} GB, cache {x_NCHW.nbytes / 1e9:.2f} GB, {count:,} pictures")
        rates("read ahead", x_NCHW, in_memory=None)
        rates("in memory again", np.array(x_NCHW[:SMALL]), in_memory=True)
        status = Path("/proc/self/status").read_text().splitlines()
        print(*(" ".join(line.split()) for line in status if line.startswith(("RssAnon", "RssFile"))), sep=", ")
    finally:
        path.unlink(missing_ok=True)


def write(path: Path, count: int) -> None:
    some = np.random.RandomState(0).randint(0, 256, (1000, *SHAPE_CHW), dtype=np.uint8)
    with open(path, "wb") as file:
        file.write(header((count, *SHAPE_CHW)))
        for start in range(0, count, len(some)):
            file.write(some[: count - start].data)
        file.flush()
        os.fsync(file.fileno())


def limit_memory(limit: int) -> None:
    """Moves this process into a control group of its own, of version 1 or 2."""
    for root, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", root, "mlp_sweep_benchmark")
        if (group.parent / "cgroup.procs").is_file():
            group.mkdir(exist_ok=True)
            (group / name).write_text(str(limit))
            (group / "cgroup.procs").write_text(str(os.getpid()))
            return
    raise SystemExit("no control group to be made here")


def rates(name: str, x_NCHW: np.ndarray, in_memory: bool | None) -> None:
    """The beginning of an epoch of batches alone, and of one with the training step of one and of eight members."""
    with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
        run, _ = config.to_run(compose("config"))
    y_N = np.arange(len(x_NCHW)) % CLASSES
    level_C = np.full(3, 100.0)
    batches = Batches(x_NCHW, y_N, level_C, level_C, run.batch_size, torch.device("cpu"), in_memory=in_memory)
    for members in (0, 1, 8):
        engine = engines.build([run] * members, True, batches.features, CLASSES, batches.device) if members else None
        started, done = time.perf_counter(), 0
        for x_BD, y_B in batches(order(0, members, batches.count)):
            if engine:
                engine.step(x_BD, y_B)
            done += len(y_B)
            if time.perf_counter() - started > SECONDS:
                break
        rate = done / (time.perf_counter() - started)
        print(f"{name}, {f'{members} trained' if members else 'batches alone'}: {rate:,.0f} samples/s", flush=True)


if __name__ == "__main__":
    main()
