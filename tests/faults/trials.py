"""What the kinds of fault share: a small sweep, its undisturbed results, and the count of what was tried."""

import os
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DATA = ("roll=2", "dataset.image_size=8", "dataset.samples_per_class=11", "dataset.val_per_class=5")
# One run that diverges and stops, one that diverges and goes on; two stacks.
SWEEP = ("--multirun", *DATA, "epochs=40", "activation=relu,scaled", "activation.r=1e6",
         "on_divergence=stop,continue", "hydra.sweep.dir=s")  # fmt: skip
Lines = dict[str, list[tuple[str, int]]]
Results = dict[str, tuple[list[str], bytes]]
Done = subprocess.CompletedProcess[str]


class Epochs:
    """The finished epochs below a folder, watched from fault to fault."""

    def __init__(self, folder: Path, without: Collection[str] = ()) -> None:
        """without: runs whose weights the harness itself removed, so that the product has to train them again."""
        self.folder, self.without = folder, without
        self.there = self._look()
        self.finished = 0  # when a fault struck, summed over the faults
        self.lost = 0  # of those, gone or trained again

    def fault(self) -> None:
        """To be called after each fault, before anything is resumed."""
        self.check()
        self.finished += sum(map(len, self.there.values()))

    def check(self) -> None:
        """Counts what was there at the last look and is not now; to be called after the last command, too."""
        before, self.there = self.there, self._look()
        self.lost += sum(line not in self.there.get(name, []) for name, lines in before.items() for line in lines)

    def replaced(self) -> None:
        """The harness itself has removed the folder or put another in its place: nothing of that is lost."""
        self.there = self._look()

    def _look(self) -> Lines:
        return {name: lines for name, lines in finished_epochs(self.folder).items() if name not in self.without}


@dataclass
class Outcome:
    """What became of one kind of fault."""

    fault: str
    tried: int = 0
    survived: int = 0
    finished: int = 0  # epochs, when the faults struck
    lost: int = 0  # of these, gone or trained again
    failures: list[str] = field(default_factory=list)  # each with the seed that repeats it
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)  # some trials run two at a time

    def trial(self, name: str, seed: int, attempt: Callable[[random.Random], Epochs | None], faults: int = 1) -> None:
        """Counts an attempt of so many faults and the epochs that it watched; it fails by AssertionError."""
        epochs = failure = None
        try:
            epochs = attempt(random.Random(seed))
        except AssertionError as error:
            failure = f"{name}, --seed {seed}: {error}"
        with self._counting:
            self.tried += faults
            self.survived += 0 if failure else faults
            self.failures += [failure] if failure else []
            self.finished += epochs.finished if epochs else 0
            self.lost += epochs.lost if epochs else 0

    def row(self) -> str:
        lost = f"{self.lost:,} of {self.finished:,}" if self.finished else "-"
        return f"| {self.fault} | {self.tried} | {self.survived} | {lost} |"


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
def reference(folder: Path, sweep: tuple[str, ...] = SWEEP) -> Results:
    """The undisturbed sweep's results, made once; its folder is to be copied, not touched."""
    succeeded(command(folder, *sweep))
    assert {times for lines in finished_epochs(folder).values() for _, times in lines} == {1}
    return results(folder)


def results(folder: Path) -> Results:
    """By run what has to be equal: metrics.csv but for the seconds, and the weights."""
    found = {}
    for metrics in sorted(folder.glob("s/*/metrics.csv")):
        rows = [line.rsplit(",", 1)[0] for line in metrics.read_text().splitlines()]
        weights = metrics.with_name("weights.safetensors")
        found[metrics.parent.name] = rows, weights.read_bytes() if weights.exists() else b""
    return found


def after_extension(finished: Results, longer: Results) -> Results:
    """What the extension of a finished sweep leaves: the longer sweep's results, but of runs that diverged their own.

    These gain no epoch, and their weights name the settings that they were trained with.
    """
    return {name: (finished if finished[name][0] == rows else longer)[name] for name, (rows, _) in longer.items()}


def same(folder: Path, undisturbed: Results) -> None:
    there = results(folder)
    assert there.keys() == undisturbed.keys(), f"runs missing: {sorted(undisturbed.keys() - there.keys())}"
    for name, (rows, weights) in undisturbed.items():
        other = [(row, first) for row, first in zip(there[name][0], rows, strict=False) if row != first][:1]
        assert there[name][0] == rows, f"{name}: other figures {other or [len(there[name][0]), len(rows)]}"
        assert there[name][1] == weights, f"{name}: other weights"


def finished_epochs(folder: Path) -> Lines:
    """By run the whole lines of metrics.csv, each with how many times the log has its epoch.

    An epoch that was trained again has another line there, its seconds, or is in the log once more.
    """
    found = {}
    for path in folder.glob("s/*/metrics.csv"):
        lines = path.read_text().rpartition("\n")[0].splitlines()[1:]
        log = path.with_name("mlp_sweep.log")
        times = Counter(re.findall(r"\] epoch (\d+):", log.read_text() if log.exists() else ""))
        found[path.parent.name] = [(line, times[line.partition(",")[0]]) for line in lines]
    return found


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
