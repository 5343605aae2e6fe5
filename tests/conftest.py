"""What the tests share: runs composed from conf/ as the command composes them."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, settings

from mlp_sweep import cli, config, console  # noqa: F401 (cli registers the schema)

# How busy the machine is decides no test: in a fresh clone the first text alone, its tables made, takes seconds.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

os.environ.pop("COLUMNS", None)  # a table is as wide as it says

# Ignored in what a shell runs in the background, and so in all that is begun here: Ctrl-C would be tried in vain.
signal.signal(signal.SIGINT, signal.default_int_handler)

ON_CPU = "device=cpu"  # whose bits tests compare, also where there is a GPU
_handlers: dict[int, Any] = {}


def pytest_runtest_setup() -> None:
    _handlers.update({number: signal.getsignal(number) for number in console.SIGNALS})


def pytest_runtest_teardown() -> None:
    """A command that a test ran in this process took its signals, and may have received one."""
    for number, handler in _handlers.items():
        signal.signal(number, handler)
    console._received = None


SMALL = ("roll=2", "dataset.image_size=8", "dataset.samples_per_class=11", "dataset.val_per_class=5", "epochs=3",
         ON_CPU)  # fmt: skip
ABSENT_DEVICE = "device=cuda" if sys.platform == "darwin" else "device=mps"  # which only training finds out


def make_run(*overrides: str, in_sweep: bool = True) -> config.Run:
    """The run that these overrides give to a job of a sweep, or alone."""
    with initialize_config_dir(str(config.CONF_DIR), version_base="1.3"):
        return config.to_run(compose("config", overrides=[ON_CPU, *overrides]), in_sweep)[0]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session: pictures are prepared once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def small_run(data_dir: Path):
    """A function that makes runs on a small generated data set of 12 classes."""
    return lambda *overrides: make_run(*SMALL, f"data_dir={data_dir}", *overrides)
