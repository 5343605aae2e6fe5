"""Memory that runs out while pictures are prepared, runs trained, checkpoints written or the report drawn."""

import random
from pathlib import Path

from .trials import DATA, ROOT, Epochs, Outcome, clear, command, reference, same, succeeded

LARGE = ("--multirun", *DATA, "epochs=3", "model.hidden=[2000,1000]", "activation=relu,scaled", "hydra.sweep.dir=s")
LEAST, MOST = 96 << 20, 400 << 20  # bytes: with less not even the settings are read, by the most all of it goes well


def run(count: int, seed: int, folder: Path) -> Outcome:
    undisturbed = reference(folder / "reference of memory", LARGE)
    outcome = Outcome("out of memory")
    for number in range(count):

        def attempt(draws: random.Random, number: int = number) -> Epochs:
            place = folder / f"memory-{number}"
            room = LEAST + int((MOST - LEAST) * draws.random() ** 2)
            done = command(place, str(room), "mlp_sweep", *LARGE, module=str(ROOT / "tests" / "faults" / "limited.py"))
            said = clear(done)
            assert done.returncode == 0 or "out of memory" in said, said[-500:]
            epochs = Epochs(place)
            epochs.fault()
            succeeded(command(place, *LARGE))
            same(place, undisturbed)
            epochs.check()
            return epochs

        outcome.trial("memory", seed + number, attempt)
    return outcome
