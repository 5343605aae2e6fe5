"""kill -9 before each single file operation of a small sweep, one after the other: every moment between two of them."""

import random
import subprocess
import sys
from pathlib import Path

from .trials import DATA, ROOT, Outcome, environment, finished_epochs, lost, reference, results, same

SWEEP = ("--multirun", *DATA, "epochs=2", "activation=relu,scaled", "activation.r=2,1e6", "hydra.sweep.dir=s")


def run(count: int | None, seed: int, folder: Path) -> Outcome:
    """At `count` operations drawn by the seed; at every one where it is None."""
    undisturbed = reference(folder / "reference of operations", SWEEP)
    outcome = Outcome("kill -9 before a file operation")
    with _Dying() as dying:
        operations = dying.train(folder / "whole", 0)
        assert results(folder / "whole") == undisturbed
        moments = range(1, operations + 1)
        for moment in moments if count is None else sorted(random.Random(seed).sample(moments, count)):

            def attempt(_: random.Random, moment: int = moment) -> int:
                place = folder / f"operation-{moment}"
                dying.train(place, moment)
                before = finished_epochs(place)
                dying.train(place, 0, "resume" if (place / "s" / "jobs.json").exists() else "begin")
                same(place, undisturbed)
                return lost(before, place)

            outcome.trial(f"operation {moment} of {operations}", seed, attempt)
    return outcome


class _Dying:
    """A process with all imports done, that forks itself for each training: 3 s of imports a kill would be hours."""

    def __enter__(self) -> "_Dying":
        line = [sys.executable, str(ROOT / "tests" / "faults" / "dying.py"), *SWEEP]
        here = environment() | {"OMP_NUM_THREADS": "1"}  # one process does it all: records are written by it anyway
        self.process = subprocess.Popen(line, env=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def train(self, folder: Path, moment: int, how: str = "begin") -> int:
        """Trains in a folder, killed before that operation (0: never); the number of operations, 0 where killed."""
        folder.mkdir(exist_ok=True)
        assert self.process.stdin and self.process.stdout
        print(moment, how, folder, file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())
