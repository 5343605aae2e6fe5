"""Processes that want the same: a directory, the pictures, a run that another trains or reports."""

import random
import time
from pathlib import Path

from .trials import (
    DATA,
    SWEEP,
    Outcome,
    clear,
    command,
    ended,
    finished_epochs,
    process,
    reference,
    same,
    succeeded,  # fmt: skip
)


def run(count: int, seed: int, folder: Path) -> Outcome:
    undisturbed = reference(folder / "reference")
    outcome = Outcome("processes at once on one directory or one cache")
    for number in range(count):

        def attempt(draws: random.Random, number: int = number) -> None:
            RACES[number % len(RACES)](folder / f"race-{number}", draws, undisturbed)

        outcome.trial(RACES[number % len(RACES)].__name__.strip("_"), seed + number, attempt)
    return outcome


def _two_sweeps(place: Path, draws: random.Random, undisturbed: dict) -> None:
    """One trains; the other is told so, or finds all of it done."""
    first = process(place, *SWEEP)
    time.sleep(draws.uniform(0, 1))
    both = [ended(started) for started in (first, process(place, *SWEEP))]
    for done in both:
        said = clear(done)
        assert done.returncode == 0 or "in use" in said or "another process" in said, said[-500:]
    succeeded(command(place, *SWEEP))
    same(place, undisturbed)


def _two_settings(place: Path, draws: random.Random, _: dict) -> None:
    """Two different runs given one directory: what is in it is one of them, and whole."""
    words = [(*DATA, "hydra.run.dir=s/run", "epochs=30", f"seed={seed}") for seed in (0, 1)]
    first = process(place, *words[0])
    time.sleep(draws.uniform(0, 0.5))
    both = [ended(started) for started in (first, process(place, *words[1]))]
    assert sorted(done.returncode for done in both) == [0, 1], [done.stderr[-300:] for done in both]
    for done in both:
        clear(done)
    winner = [done.returncode for done in both].index(0)
    alone = place / "alone"
    succeeded(command(alone, *words[winner]))
    same(place, {"run": _only(alone)})


def _only(alone: Path):
    from .trials import results

    return results(alone)["run"]


def _two_preparations(place: Path, draws: random.Random, undisturbed: dict) -> None:
    """Two sweeps that need the same pictures: prepared once, and both train on them."""
    words = (*SWEEP[:-1], f"data_dir={place / 'data'}", SWEEP[-1])
    first = process(place / "a", *words)
    time.sleep(draws.uniform(0, 0.3))
    both = [ended(started) for started in (first, process(place / "b", *words))]
    for name, done in zip("ab", both, strict=True):
        succeeded(done)
        same(place / name, undisturbed)
    assert sum("generating pictures" in done.stderr for done in both) == 1


def _resumed_while_training(place: Path, draws: random.Random, undisturbed: dict) -> None:
    first = _training(place, draws)
    clear(command(place, "s", module="mlp_sweep.resume"))
    succeeded(ended(first))
    same(place, undisturbed)


def _reported_while_training(place: Path, draws: random.Random, undisturbed: dict) -> None:
    first = _training(place, draws)
    succeeded(command(place, "s", "--out", "elsewhere", module="mlp_sweep.report"))
    succeeded(ended(first))
    same(place, undisturbed)


def _training(place: Path, draws: random.Random):
    started = process(place, *SWEEP)
    while started.poll() is None and not any(finished_epochs(place).values()):
        time.sleep(0.005)
    time.sleep(draws.uniform(0, 0.3))
    return started


RACES = [_two_sweeps, _two_settings, _two_preparations, _resumed_while_training, _reported_while_training]
