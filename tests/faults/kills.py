"""kill -9 at random moments of real commands, and again while they are resumed."""

import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .trials import (
    SWEEP,
    Epochs,
    Outcome,
    Results,
    after_extension,
    command,
    ended,
    process,
    reference,
    same,
    succeeded,
)

IN_A_ROW = 5  # kills of one sweep, before it may end
JOBS = 4
NUMBERED = (*SWEEP, "hydra.sweep.subdir=${hydra.job.num}")  # a directory's default name has the number of epochs in it
MORE = "epochs=80"  # than the 40 of SWEEP
Words = tuple[str, ...]  # a module and its arguments
Phase = tuple[Callable[[Path, int], bool], float]  # what has to be so of a folder and a process; seconds after it


@dataclass
class Victim:
    """A sweep whose commands are killed."""

    begin: Callable[[Path], object]  # makes the folder as it is before the first command
    words: Callable[[Path, random.Random], Words]  # a command to kill
    last: Callable[[Path, random.Random], Words]  # a command that trains it to its end
    phases: Sequence[Phase]
    undisturbed: Results

    def survive(self, kills: int, place: Path, draws: random.Random) -> Epochs:
        """Kills so many commands; where one ends before its kill, the sweep is checked and begun anew."""
        self.begin(place)
        epochs = Epochs(place)
        while True:
            while kills and _kill(place, self.words(place, draws), draws, self.phases):
                kills -= 1
                epochs.fault()
            module, *words = self.last(place, draws)
            succeeded(command(place, *words, module=module))
            same(place, self.undisturbed)
            epochs.check()
            if not kills:
                return epochs
            shutil.rmtree(place)
            self.begin(place)
            epochs.replaced()


def run(count: int, seed: int, folder: Path) -> Outcome:
    """A sweep from its very beginning."""
    undisturbed = reference(folder / "reference")
    victim = Victim(lambda place: place.mkdir(), _begin_or_resume, _begin_or_resume, PHASES, undisturbed)
    return _series(Outcome("kill -9 at a random moment"), victim, count, seed, folder / "kills")


def extended(count: int, seed: int, folder: Path) -> Outcome:
    """A finished sweep that is resumed for more epochs."""
    finished = folder / "reference to extend"
    longer = reference(folder / "reference of more epochs", (*NUMBERED, MORE))
    undisturbed = after_extension(reference(finished, NUMBERED), longer)
    victim = Victim(lambda place: shutil.copytree(finished, place), _extend_or_resume, _extend, LATER, undisturbed)
    outcome = Outcome("kill -9 at a random moment of a finished sweep's extension")
    return _series(outcome, victim, count, seed, folder / "extended")


def _series(outcome: Outcome, victim: Victim, count: int, seed: int, folder: Path) -> Outcome:
    for number in range(0, count, IN_A_ROW):
        kills = min(IN_A_ROW, count - number)

        def attempt(draws: random.Random, number: int = number, kills: int = kills) -> Epochs:
            return victim.survive(kills, folder.with_name(f"{folder.name}-{number}"), draws)

        outcome.trial(folder.name, seed + number, attempt, kills)
    return outcome


def _begin_or_resume(place: Path, draws: random.Random) -> Words:
    if (place / "s" / "jobs.json").exists() and draws.random() < 0.5:
        return "mlp_sweep.resume", "s"
    return "mlp_sweep", *SWEEP


def _extend(_place: Path, _draws: random.Random) -> Words:
    return "mlp_sweep.resume", "s", MORE


def _extend_or_resume(place: Path, draws: random.Random) -> Words:
    """Without the number of epochs, what is begun is trained to its new end, and the rest is left finished."""
    begun = any(MORE.replace("=", '": ') in path.read_text() for path in place.glob("s/*/status.json"))
    return ("mlp_sweep.resume", "s") if begun and draws.random() < 0.5 else _extend(place, draws)


def _kill(place: Path, words: Words, draws: random.Random, phases: Sequence[Phase]) -> bool:
    """Kills a command in one of its phases; False where it ended before, in good order."""
    module, *arguments = words
    started = process(place, *arguments, module=module)
    phase, longest = draws.choice(phases)
    while started.poll() is None and not phase(place, started.pid):
        time.sleep(0.002)
    time.sleep(draws.uniform(0, longest))
    started.send_signal(signal.SIGKILL)
    done = ended(started)
    if done.returncode == -signal.SIGKILL:
        return True
    succeeded(done)
    return False


def _always(_place: Path, _pid: int) -> bool:
    return True


def _has(pattern: str, least: int = 1) -> Callable[[Path, int], bool]:
    return lambda place, _: len(list(place.glob(pattern))) >= least


def _trains(place: Path, pid: int) -> bool:
    """Whether this process, and none before it, has begun a run's records."""
    return any(f'"pid": {pid},' in path.read_text() for path in place.glob("s/*/status.json"))


def _epochs(least: int, runs: int = 1) -> Callable[[Path, int], bool]:
    """Whether so many runs have so many epochs."""
    return lambda place, _: sum(
        len(path.read_text().splitlines()) > least for path in place.glob("s/*/metrics.csv")
    ) >= runs  # fmt: skip


PHASES: Sequence[Phase] = [
    (_always, 3.0),  # importing
    (_has("s/jobs.json"), 0.3),  # preparing
    (_has("s/*/metrics.csv"), 0.6),  # training
    (_has("s/*/metrics.csv", JOBS), 0.6),
    (_has("s/*/weights.safetensors", JOBS), 2.0),  # reporting
]
LATER: Sequence[Phase] = [
    (_always, 3.0),  # importing
    (_trains, 0.0),  # between the records' beginning and the first new epoch
    (_trains, 0.05),
    (_trains, 0.5),  # training
    (_epochs(41), 0.5),
    (_epochs(80, JOBS - 1), 2.0),  # the last diverges in its first epoch; reporting
]
