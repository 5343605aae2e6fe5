"""A disk that fills while pictures are prepared, runs trained and recorded, or the report drawn; one read-only."""

import random
import re
import shutil
import subprocess
from pathlib import Path

from .trials import (
    SWEEP,
    Epochs,
    Outcome,
    clear,
    command,
    finished_epochs,
    reference,
    same,
    small_disk,
    succeeded,  # fmt: skip
)

PAGE = 4096  # of a tmpfs
PLENTY = "64m"


def run(count: int, seed: int, folder: Path) -> Outcome:
    undisturbed = reference(folder / "reference")
    phases = _sizes(folder / "reference")
    outcome = Outcome("disk full while preparing, training, checkpointing, reporting")
    for number in range(count):

        def attempt(draws: random.Random, number: int = number) -> Epochs:
            low, high = phases[number % len(phases)]
            with small_disk(folder / f"disk-{number}", draws.randrange(low, high) // PAGE * PAGE) as disk:
                done = command(disk, *SWEEP)
                assert done.returncode == 1, "there was room for it after all"
                said = clear(done)
                assert "No space left on device" in said or "MB are free" in said, said[-500:]
                assert not re.search("(mlp_sweep|failed|report): No space left", said), f"no path: {said[-500:]}"
                epochs = Epochs(disk)
                epochs.fault()
                subprocess.run(["mount", "-o", f"remount,size={PLENTY}", disk], check=True)
                by_path = (disk / "s" / "jobs.json").exists() and draws.random() < 0.5
                succeeded(command(disk, "s", module="mlp_sweep.resume") if by_path else command(disk, *SWEEP))
                same(disk, undisturbed)
                epochs.check()
                return epochs

        outcome.trial("disk", seed + number, attempt)
    return outcome


def read_only(count: int, seed: int, folder: Path) -> Outcome:
    """A command of each kind in a folder that may not be written to: by its mount, or by its permissions."""
    undisturbed = reference(folder / "reference")
    outcome = Outcome("read-only folder, no permission")
    for number in range(count):

        def attempt(draws: random.Random, number: int = number) -> Epochs:
            removed: set[str] = set()
            with small_disk(folder / f"read-only-{number}", 1 << 26) as disk:
                if draws.random() < 0.7:  # else in an empty folder
                    shutil.copytree(folder / "reference", disk, dirs_exist_ok=True)
                    for weights in list(disk.glob("s/*/weights.safetensors"))[: draws.randrange(5)]:
                        weights.unlink()
                        removed.add(weights.parent.name)
                before, epochs, prefix = finished_epochs(disk), Epochs(disk, without=removed), ()
                if number % 2:
                    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
                else:
                    subprocess.run(["chmod", "-R", "a-w", disk], check=True)
                    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner")
                there = bool(before)
                words = draws.choice(
                    [("mlp_sweep", *SWEEP), ("mlp_sweep.resume", "s"), ("mlp_sweep.report", "s")][: 1 + 2 * there]
                )
                done = command(disk, *words[1:], module=words[0], prefix=prefix)
                said = clear(done)
                assert done.returncode == 1 and ("Read-only file system" in said or "Permission denied" in said), said[
                    -500:
                ]
                assert finished_epochs(disk) == before
                epochs.fault()
                if number % 2:
                    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
                else:
                    subprocess.run(["chmod", "-R", "u+w", disk], check=True)
                succeeded(command(disk, *SWEEP))
                same(disk, undisturbed)
                epochs.check()
                return epochs

        outcome.trial("read-only", seed + number, attempt)
    return outcome


def _sizes(whole: Path) -> list[tuple[int, int]]:
    """Between how many bytes a disk is full in each phase: pictures, records, report."""

    def used(path: Path) -> int:
        return sum(-(-file.stat().st_size // PAGE) * PAGE for file in path.rglob("*") if file.is_file())

    pictures = used(whole / "data")
    records = pictures + used(whole / "s") - used(whole / "s" / "report")
    return [(PAGE, pictures), (pictures, (pictures + records) // 2), ((pictures + records) // 2, records),
            (records, records + used(whole / "s" / "report") // 2)]  # fmt: skip
