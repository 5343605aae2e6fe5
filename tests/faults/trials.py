"""What the kinds of fault share: a small sweep, its undisturbed results, and the count of what was tried."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DATA = ("roll=2", "dataset.image_size=8", "dataset.samples_per_class=11", "dataset.val_per_class=5")
# One run that diverges and stops, one that diverges and goes on; two stacks.
SWEEP = ("--multirun", *DATA, "epochs=40", "activation=relu,scaled", "activation.r=1e6",
         "on_divergence=stop,continue", "hydra.sweep.dir=s")  # fmt: skip
Lines = dict[str, list[str]]
Done = subprocess.CompletedProcess[str]


@dataclass
class Outcome:
    """What became of one kind of fault. `lost`: finished epochs that were trained again or are gone."""

    fault: str
    tried: int = 0
    survived: int = 0
    lost: int = 0
    failures: list[str] = field(default_factory=list)  # each with the seed that repeats it

    def trial(self, name: str, seed: int, attempt: Callable[[random.Random], int], faults: int = 1) -> None:
        """Counts an attempt of so many faults, which returns the epochs lost, or fails by AssertionError."""
        self.tried += faults
        try:
            self.lost += attempt(random.Random(seed))
            self.survived += faults
        except AssertionError as error:
            self.failures.append(f"{name}, --seed {seed}: {error}")

    def row(self) -> str:
        return f"| {self.fault} | {self.tried} | {self.survived} | {self.lost} |"


def environment() -> dict[str, str]:
    """This project is what is imported, wherever the command runs."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}


def process(
    folder: Path, *words: str, module: str = "mlp_sweep", prefix: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """A command as a user starts it, in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    line = [*prefix, sys.executable, *(["-m"] if module.startswith("mlp_sweep") else []), module, *words]
    return subprocess.Popen(
        line, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(started: subprocess.Popen[str]) -> Done:
    out, err = started.communicate(timeout=300)
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)


def command(folder: Path, *words: str, module: str = "mlp_sweep", prefix: tuple[str, ...] = ()) -> Done:
    return ended(process(folder, *words, module=module, prefix=prefix))


def clear(done: Done) -> str:
    """What a command said that could not do its work: status 1 and no traceback."""
    assert "Traceback" not in done.stderr, done.stderr[-1500:]
    assert done.returncode in (0, 1), f"status {done.returncode}: {done.stderr[-500:]}"
    assert done.returncode == 0 or done.stderr.strip(), "failed without a word"
    return done.stderr


def succeeded(done: Done) -> None:
    clear(done)
    assert done.returncode == 0, done.stderr[-800:]


@cache
def reference(folder: Path, sweep: tuple[str, ...] = SWEEP) -> dict[str, tuple[list[str], bytes]]:
    """The undisturbed sweep's results, made once; its folder is to be copied, not touched."""
    succeeded(command(folder, *sweep))
    return results(folder)


def results(folder: Path) -> dict[str, tuple[list[str], bytes]]:
    """By run what has to be equal: metrics.csv but for the seconds, and the weights."""
    found = {}
    for metrics in sorted(folder.glob("s/*/metrics.csv")):
        rows = [line.rsplit(",", 1)[0] for line in metrics.read_text().splitlines()]
        weights = metrics.with_name("weights.safetensors")
        found[metrics.parent.name] = rows, weights.read_bytes() if weights.exists() else b""
    return found


def same(folder: Path, undisturbed: dict[str, tuple[list[str], bytes]]) -> None:
    there = results(folder)
    assert there.keys() == undisturbed.keys(), f"runs missing: {sorted(undisturbed.keys() - there.keys())}"
    for name, (rows, weights) in undisturbed.items():
        other = [(row, first) for row, first in zip(there[name][0], rows, strict=False) if row != first][:1]
        assert there[name][0] == rows, f"{name}: other figures {other or [len(there[name][0]), len(rows)]}"
        assert there[name][1] == weights, f"{name}: other weights"


def finished_epochs(folder: Path) -> Lines:
    """The whole lines of every metrics.csv: an epoch trained again has other seconds."""
    return {
        path.parent.name: path.read_text().rpartition("\n")[0].splitlines()[1:]
        for path in folder.glob("s/*/metrics.csv")
    }


def lost(before: Lines, folder: Path) -> int:
    """How many finished epochs are there no more, or were trained again."""
    after = finished_epochs(folder)
    return sum(line not in after.get(name, []) for name, lines in before.items() for line in lines)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes; OSError where none may be mounted."""
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        raise OSError("no right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def may_mount() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and not subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode  # fmt: skip
