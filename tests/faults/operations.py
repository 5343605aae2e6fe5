"""kill -9 before each single file operation of a small sweep, one after the other: every moment between two of them."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from .trials import DATA, ROOT, Epochs, Outcome, after_extension, environment, reference, results, same

SWEEP = ("--multirun", *DATA, "epochs=2", "activation=relu,scaled", "activation.r=2,1e6", "hydra.sweep.dir=s")
NUMBERED = "hydra.sweep.subdir=${hydra.job.num}"  # a directory's default name has the number of epochs in it
MORE = "epochs=4"


def run(count: int | None, seed: int, folder: Path) -> Outcome:
    """At `count` operations; at every one where it is None."""
    undisturbed = reference(folder / "reference of operations", SWEEP)
    outcome = Outcome("kill -9 before a file operation")
    with _Dying() as one, _Dying() as other:
        operations = one.begin(folder / "whole")
        assert results(folder / "whole") == undisturbed

        def attempt(dying: _Dying, moment: int) -> Epochs:
            place = folder / f"operation-{moment}"
            dying.begin(place, moment=moment)
            epochs = Epochs(place)
            epochs.fault()
            dying.resume(place) if (place / "s" / "jobs.json").exists() else dying.begin(place)
            same(place, undisturbed)
            epochs.check()
            return epochs

        _put(outcome, attempt, [one, other], operations, count, seed)
    return outcome


def extended(count: int | None, seed: int, folder: Path) -> Outcome:
    """Likewise, of a finished sweep that is resumed for more epochs."""
    outcome = Outcome("kill -9 before a file operation of a finished sweep's extension")
    finished, longer, whole = (folder / f"{name} sweep" for name in ("finished", "longer", "extended"))
    with _Dying() as one, _Dying() as other:
        one.begin(finished, NUMBERED)
        one.begin(longer, NUMBERED, MORE)
        undisturbed = after_extension(results(finished), results(longer))
        shutil.copytree(finished, whole)
        operations = one.resume(whole, MORE)
        same(whole, undisturbed)

        def attempt(dying: _Dying, moment: int) -> Epochs:
            place = shutil.copytree(finished, folder / f"extension-{moment}")
            epochs = Epochs(place)
            dying.resume(place, MORE, moment=moment)
            epochs.fault()
            if moment % 2:  # trains what was begun to its new end, and leaves the rest finished
                dying.resume(place)
            dying.resume(place, MORE)
            same(place, undisturbed)
            epochs.check()
            return epochs

        _put(outcome, attempt, [one, other], operations, count, seed)
    return outcome


def _put(
    outcome: Outcome,
    attempt: Callable[["_Dying", int], Epochs],
    processes: list["_Dying"],
    operations: int,
    count: int | None,
    seed: int,
) -> None:
    """Tries the moments, each by one of the processes that is idle."""
    idle: SimpleQueue[_Dying] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def one(moment: int) -> None:
        dying = idle.get()
        outcome.trial(f"operation {moment} of {operations}", seed, lambda _: attempt(dying, moment))
        idle.put(dying)

    with ThreadPoolExecutor(len(processes)) as threads:
        list(threads.map(one, _drawn(operations, count, seed)))


def _drawn(operations: int, count: int | None, seed: int) -> Sequence[int]:
    """So many moments at equal distances from a drawn first one, for a stretch that loses epochs to be met by few."""
    step = operations / (count or operations)
    first = random.Random(seed).uniform(0, step) if count else 0
    return [1 + int(first + number * step) for number in range(count or operations)]


class _Dying:
    """A process with all imports done, that forks itself for each training: 3 s of imports a kill would be hours."""

    def __enter__(self) -> "_Dying":
        line = [sys.executable, str(ROOT / "tests" / "faults" / "dying.py")]
        here = environment() | {"OMP_NUM_THREADS": "1"}  # one process does it all: records are written by it anyway
        self.process = subprocess.Popen(line, env=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def begin(self, folder: Path, *words: str, moment: int = 0) -> int:
        """Trains the sweep in a folder, killed before that operation (0: never).

        Returns the number of operations, 0 where it was killed.
        """
        return self._train(folder, moment, "mlp_sweep", *SWEEP, *words)

    def resume(self, folder: Path, *words: str, moment: int = 0) -> int:
        """The same of the sweep that is there."""
        return self._train(folder, moment, "mlp_sweep.resume", "s", *words)

    def _train(self, folder: Path, moment: int, *command: str) -> int:
        folder.mkdir(exist_ok=True)
        assert self.process.stdin and self.process.stdout
        print(json.dumps([moment, str(folder), *command]), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())
