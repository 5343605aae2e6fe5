"""kill -9 at random moments of real commands, and again while they are taken up."""

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .trials import SWEEP, Outcome, command, finished_epochs, lost, process, reference, same, succeeded

IN_A_ROW = 5  # kills of one sweep, before it may end
JOBS = 4


def run(count: int, seed: int, folder: Path) -> Outcome:
    undisturbed = reference(folder / "reference")
    outcome = Outcome("kill -9 at a random moment")
    for number in range(0, count, IN_A_ROW):
        kills = min(IN_A_ROW, count - number)

        def attempt(draws: random.Random, number: int = number, kills: int = kills) -> int:
            place, gone = folder / f"kills-{number}", 0
            for _ in range(kills):
                before = finished_epochs(place)
                _kill(place, draws)
                gone += lost(before, place)
            before = finished_epochs(place)
            module, *words = _words(place, draws)
            succeeded(command(place, *words, module=module))
            same(place, undisturbed)
            return gone + lost(before, place)

        outcome.trial("kills", seed + number, attempt, kills)
    return outcome


def _words(place: Path, draws: random.Random) -> tuple[str, ...]:
    """Module and arguments that begin the sweep or go on with it, either way."""
    if (place / "s" / "jobs.json").exists() and draws.random() < 0.5:
        return "mlp_sweep.resume", "s"
    return "mlp_sweep", *SWEEP


def _kill(place: Path, draws: random.Random) -> None:
    """Kills a command in one of its phases; one that ended before is tried again in another."""
    while True:
        module, *words = _words(place, draws)
        started = process(place, *words, module=module)
        phase, longest = draws.choice(PHASES)
        while started.poll() is None and not phase(place):
            time.sleep(0.002)
        time.sleep(draws.uniform(0, longest))
        alive = started.poll() is None
        started.send_signal(signal.SIGKILL)
        started.communicate()
        if alive:
            return
        subprocess.run(["rm", "-rf", place / "s"], check=True)


def _has(pattern: str, least: int = 1) -> Callable[[Path], bool]:
    return lambda place: len(list(place.glob(pattern))) >= least


PHASES = [  # (what has to be there, seconds after it)
    (lambda place: True, 3.0),  # importing
    (_has("s/jobs.json"), 0.3),  # preparing
    (_has("s/*/metrics.csv"), 0.6),  # training
    (_has("s/*/metrics.csv", JOBS), 0.6),
    (_has("s/*/weights.safetensors", JOBS), 2.0),  # reporting
]
