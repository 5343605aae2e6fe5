"""A step of many members by one process per core, each with its own stack, as a sweep trains on the CPU."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import torch

from mlp_sweep import machine

STEPS = 16  # between two meetings, where a sweep meets at its end


@contextmanager
def dealt(build: Callable[[int, int], Callable[[], int]], members: int, batch: int) -> Iterator[Callable[[], int]]:
    """`build(members, batch)` is called in each process, for its share of the members, and its step there."""
    context = multiprocessing.get_context("forkserver")
    count = min(machine.cores(), members)
    pipes, started = [], []
    for part in range(count):
        pipe, theirs = context.Pipe()
        share = len(range(part, members, count))
        started.append(context.Process(target=_serve, args=(theirs, build, share, batch), daemon=True))
        started[-1].start()
        pipes.append(pipe)

    def step() -> int:
        for pipe in pipes:
            pipe.send(STEPS)
        return sum(pipe.recv() for pipe in pipes)

    try:
        yield step
    finally:
        for process in started:
            process.terminate()
            process.join()


def _serve(pipe: Connection, build: Callable[[int, int], Callable[[], int]], members: int, batch: int) -> None:
    torch.set_num_threads(1)
    step = build(members, batch)
    while True:
        pipe.send(sum(step() for _ in range(pipe.recv())))
