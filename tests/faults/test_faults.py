"""A handful of each fault; `make faults` puts many more."""

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from . import corruption, disks, fuzz, kills, operations
from .trials import Outcome, finished_epochs, may_mount, results

SEED = int(os.environ.get("FAULTS_SEED", 1))  # printed where a trial fails; when a kill comes differs all the same
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="kills, limits and mounts of Linux")]
mounting = pytest.mark.skipif(not may_mount(), reason="no right to mount a file system")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all kinds: the undisturbed sweep is made once."""
    return tmp_path_factory.mktemp("faults")


def survives(outcome: Outcome) -> None:
    assert outcome.failures == [] and outcome.survived == outcome.tried > 0


@pytest.mark.parametrize(("run", "count"), [(kills.run, 4), (operations.run, 5), (operations.extended, 3)])
def test_no_finished_epoch_is_lost(run: Callable[[int, int, Path], Outcome], count: int, folder: Path):
    outcome = run(count, SEED, folder)
    survives(outcome)
    assert outcome.lost == 0 < outcome.finished


@mounting
@pytest.mark.parametrize("run", [disks.run, disks.read_only])
def test_disks(run: Callable[[int, int, Path], Outcome], folder: Path):
    outcome = run(3, SEED, folder)
    survives(outcome)
    assert outcome.lost == 0


def test_changed_bytes_are_noticed_or_without_consequence(folder: Path):
    survives(corruption.run(3, SEED, folder))


def test_random_overrides_train_or_are_refused_in_a_line(folder: Path):
    survives(fuzz.run(12, SEED, folder))


PRODUCT = """
import json, os, sys, time
from pathlib import Path
how, stays = sys.argv[1], "stays" in sys.argv
run = Path("s/run")
run.mkdir(parents=True, exist_ok=True)
metrics, log = run / "metrics.csv", run / "mlp_sweep.log"
lines = metrics.read_text().splitlines() if metrics.exists() else ["epoch,loss,seconds"]
if how == "forgets":
    lines = lines[:1]
if how == "retrains" and len(lines) > 1:
    with log.open("a") as file:
        file.write("[now][INFO] epoch 1: again, in the same time\\n")
for epoch in range(len(lines), 11):
    lines.append(f"{epoch},0.5,{time.time()}")
    metrics.write_text("\\n".join([*lines, ""]))
    with log.open("a") as file:
        file.write(f"[now][INFO] epoch {epoch}: trained\\n")
    if epoch == 5 and stays:
        (run / "status.json").write_text(json.dumps({"pid": os.getpid(), "state": "running"}))
        time.sleep(60)
"""


@pytest.mark.parametrize(("how", "lost"), [("goes on", 0), ("forgets", 10), ("retrains", 2)])
def test_an_epoch_is_lost_by_the_product_and_never_by_the_harness(tmp_path: Path, how: str, lost: int):
    """A product of 10 epochs, killed after 5; then it ends before its kill, so that the harness begins it anew."""
    product = tmp_path / "product.py"
    product.write_text(PRODUCT)
    commands = iter(["stays", "ends", "stays"])
    start = tmp_path / "start"
    start.mkdir()
    kills._kill(start, (str(product), "goes on", "ends"), random.Random(SEED), [(kills._trains, 0.0)])
    assert [times for _, times in finished_epochs(start)["run"]] == [1] * 10
    victim = kills.Victim(
        begin=lambda place: place.mkdir(),
        words=lambda *_: (str(product), how, next(commands)),
        last=lambda *_: (str(product), how, "ends"),
        phases=[(kills._trains, 0.0)],
        undisturbed=results(start),
    )
    epochs = victim.survive(2, tmp_path / "place", random.Random(SEED))
    assert (epochs.finished, epochs.lost) == (10, lost)
