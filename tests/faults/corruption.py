"""Bytes changed at random places of what a stopped or finished sweep left: noticed by name, or without consequence."""

import random
import shutil
import signal
import time
from pathlib import Path

from .trials import SWEEP, Epochs, Outcome, clear, command, finished_epochs, process, reference, same, succeeded

RUN = ["metrics.csv", "status.json", "checkpoint.safetensors", "weights.safetensors", ".hydra/config.yaml"]
FILES = [*(f"s/*/{name}" for name in RUN), "s/jobs.json", "data/cache/*/*.npy", "data/cache/*/record.json",
         "data/cache/requests/*"]  # fmt: skip


def run(count: int, seed: int, folder: Path) -> Outcome:
    undisturbed = reference(folder / "reference")
    stopped = folder / "stopped"
    _stop_half_way(stopped)
    outcome = Outcome("bytes changed on disk")
    for number in range(count):

        def attempt(draws: random.Random, number: int = number) -> Epochs:
            place = folder / f"damaged-{number}"
            shutil.copytree(draws.choice([folder / "reference", stopped]), place)
            there = sorted(place.glob(FILES[number % len(FILES)])) or sorted(place.glob("s/*/metrics.csv"))
            victim = draws.choice(there)
            epochs = Epochs(place)
            epochs.fault()
            how = damage(victim, draws)
            done = command(place, "s", module="mlp_sweep.resume") if draws.random() < 0.5 else command(place, *SWEEP)
            said = clear(done)
            if done.returncode:  # then it has to be by name, and without that file it goes on
                named = victim.name if victim.parent.name != "requests" else "requests"
                assert named in said, f"{how} of {victim.name}: {said[-500:]}"
                victim.unlink()
                succeeded(command(place, *SWEEP))
            same(place, undisturbed)
            epochs.check()
            assert not epochs.lost or victim.name in said, f"{how} of {victim.name}: trained again without a word"
            return epochs

        outcome.trial("corruption", seed + number, attempt)
    return outcome


def damage(path: Path, draws: random.Random) -> str:
    """Truncates, flips a bit, empties, or overwrites a part; says which."""
    data = bytearray(path.read_bytes())
    how = draws.choice(["truncation", "bit", "bit", "emptying", "garbage"])
    at = draws.randrange(len(data))
    if how == "truncation":
        del data[at:]
    elif how == "bit":
        data[at] ^= 1 << draws.randrange(8)
    elif how == "emptying":
        data.clear()
    else:
        length = min(len(data) - at, draws.randrange(1, 64))
        data[at : at + length] = draws.randbytes(length)
    path.write_bytes(data)
    return how


def _stop_half_way(folder: Path) -> None:
    """A sweep killed while it trained."""
    if folder.exists():
        return
    started = process(folder, *SWEEP)
    while started.poll() is None and not any(len(lines) > 3 for lines in finished_epochs(folder).values()):
        time.sleep(0.002)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert not all((path.parent / "weights.safetensors").exists() for path in folder.glob("s/*/metrics.csv"))
