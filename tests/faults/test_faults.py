"""A handful of each fault; `make faults` puts many more."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from . import corruption, disks, fuzz, kills, operations
from .trials import Outcome, may_mount

SEED = int(os.environ.get("FAULTS_SEED", 1))  # printed where a trial fails; when a kill comes differs all the same
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="kills, limits and mounts of Linux")]
mounting = pytest.mark.skipif(not may_mount(), reason="no right to mount a file system")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all kinds: the undisturbed sweep is made once."""
    return tmp_path_factory.mktemp("faults")


def survives(outcome: Outcome) -> None:
    assert outcome.failures == [] and outcome.survived == outcome.tried > 0


@pytest.mark.parametrize("run", [kills.run, operations.run])
def test_no_finished_epoch_is_lost(run: Callable[[int, int, Path], Outcome], folder: Path):
    outcome = run(5, SEED, folder)
    survives(outcome)
    assert outcome.lost == 0


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
